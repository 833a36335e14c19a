"""How much memory a piece of work takes at its peak, on the machine and on the GPU."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 2**20

OF_PROCESS = Path("/proc/self")
"""Where Linux tells of this process."""

RESET_PEAK = "5"
"""What to write into ``clear_refs``, so that Linux counts the peak anew."""


@dataclass
class PeakMemory:
    """The most that was taken at once.

    Attributes:
        memory_mib: Resident memory of this process in MiB, what it held before included; None where the system does not
            count it anew.
        gpu_memory_mib: What PyTorch had allocated on the current GPU, in MiB; None without a GPU.
    """

    memory_mib: float | None = None
    gpu_memory_mib: float | None = None


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the peak of memory while the context lasts; of this process, not of those that it starts.

    Yields:
        What is filled in at the end.
    """
    peak = PeakMemory()
    is_counted = False
    with suppress(OSError):
        (OF_PROCESS / "clear_refs").write_text(RESET_PEAK)
        is_counted = True
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield peak
    finally:
        if is_counted:
            peak.memory_mib = _resident_peak()
        if has_gpu:
            peak.gpu_memory_mib = round(torch.cuda.max_memory_allocated() / MIB, 1)


def _resident_peak() -> float | None:
    """Return the most memory that was resident, in MiB, since the count began."""
    try:
        status = (OF_PROCESS / "status").read_text(encoding="utf-8", errors="replace")  # a name may be cut anywhere
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return None if found is None else round(int(found[1]) / 1024, 1)
