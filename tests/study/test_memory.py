"""The peak of memory, against an array of known size."""

import numpy as np
import pytest

from catwalk.study import memory
from catwalk.study.memory import OF_PROCESS, peak_memory

MIB = 2**20


@pytest.mark.skipif(not (OF_PROCESS / "clear_refs").exists(), reason="the system does not count it anew")
def test_the_peak_is_that_of_the_work_alone() -> None:
    with peak_memory() as before:
        pass
    with peak_memory() as during:
        np.ones(200 * MIB, np.uint8)
    with peak_memory() as after:
        pass
    assert before.memory_mib is not None
    assert during.memory_mib is not None
    assert after.memory_mib is not None
    assert during.memory_mib > before.memory_mib + 150
    assert after.memory_mib < during.memory_mib - 150


def test_a_system_that_does_not_count_anew_has_no_peak(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path / "absent")
    with peak_memory() as peak:
        pass
    assert peak.memory_mib is None
