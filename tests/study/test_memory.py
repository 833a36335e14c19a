"""The peak of memory, against an area of known size."""

import subprocess
import sys

import pytest

from catwalk.study import memory
from catwalk.study.memory import OF_PROCESS, peak_memory

# A process of its own: what else runs in this one, and what its allocator keeps, do not count.
THREE_PEAKS = """
import mmap
from catwalk.study.memory import peak_memory

size = 200 * 2**20
with peak_memory() as before:
    pass
with peak_memory() as during:
    with mmap.mmap(-1, size) as area:
        area.write(bytes([1]) * size)
with peak_memory() as after:
    pass
print(before.memory_mib, during.memory_mib, after.memory_mib)
"""


@pytest.mark.skipif(not (OF_PROCESS / "clear_refs").exists(), reason="the system does not count it anew")
def test_the_peak_is_that_of_the_work_alone() -> None:
    told = subprocess.run([sys.executable, "-c", THREE_PEAKS], capture_output=True, text=True, check=True).stdout
    before, during, after = map(float, told.split())
    assert during > before + 150
    assert after < during - 150


def test_a_system_that_does_not_count_anew_has_no_peak(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path / "absent")
    with peak_memory() as peak:
        pass
    assert peak.memory_mib is None


def test_a_name_of_the_process_may_be_cut_within_a_character(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_bytes("Name:\tray::PGD (ε".encode()[:-1] + b"\nVmHWM:\t    2048 kB\n")
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path)
    with peak_memory() as peak:
        pass
    assert peak.memory_mib == 2.0
