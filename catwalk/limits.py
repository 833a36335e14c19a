"""Limits of seeds and sizes: as far as the libraries take them, and the machine's memory goes."""

import math
import os
import re
from pathlib import Path
from typing import Any, get_args

from catwalk.errors import CatwalkError, TooLargeError

LARGEST_SEED = 2**32 - 1
"""NumPy's and Lightning's own bound. A seed beyond 64 bits would be the same as a smaller one elsewhere."""

SMALL = 2**28
"""Bytes that are not asked for: any machine has them."""

LARGEST_COUNT = 2**63 - 1
"""Largest count that fits in the integers of tensors."""


def check_seed(seed: int, argument: str = "seed") -> None:
    """Raise a :class:`CatwalkError` unless a seed is one that all random generators take.

    Args:
        seed: The seed, 0 to :data:`LARGEST_SEED`.
        argument: What the user calls it.
    """
    _check_whole(seed, argument)
    if seed < 0:
        raise CatwalkError(f"{argument} must be at least 0, got {seed}")
    if seed > LARGEST_SEED:
        raise CatwalkError(f"{argument} must be at most {LARGEST_SEED} (2^32 - 1), got {seed}")


def check_count(value: int, argument: str, least: int = 1) -> None:
    """Raise a :class:`CatwalkError` unless a number of things is at least ``least`` and fits in 64 bits."""
    _check_whole(value, argument)
    if value < least:
        raise CatwalkError(f"{argument} must be at least {least}, got {value}")
    if value > LARGEST_COUNT:
        raise CatwalkError(f"{argument} must be at most {LARGEST_COUNT}, got {value}")


def check_number(value: float, argument: str, least: float) -> None:
    """Raise a :class:`CatwalkError` unless a number is finite and at least ``least``."""
    if not value >= least:  # NaN is not
        raise CatwalkError(f"{argument} must be at least {least}, got {value}")
    if value == math.inf:
        raise CatwalkError(f"{argument} must be a finite number, got {value}")


def check_choice(value: object, argument: str, choices: Any) -> None:
    """Raise a :class:`CatwalkError` unless a value is one of those of a ``Literal``.

    Args:
        value: The value.
        argument: What the user calls it.
        choices: The ``Literal``.
    """
    if value not in get_args(choices):
        raise CatwalkError(f"{argument} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_memory(num_bytes: int, what: str, remedy: str) -> None:
    """Raise a :class:`TooLargeError` if something takes more memory than the machine has left.

    Args:
        num_bytes: What it takes at least.
        what: Its name with the arguments that decide its size, for the message.
        remedy: What to do about it.
    """
    if num_bytes < SMALL:
        return
    left = free_memory()
    if num_bytes > left:
        raise TooLargeError(
            f"{what} would take {num_bytes / 2**30:.4g} GiB, and this machine has {left / 2**30:.4g} GiB of memory "
            f"left: {remedy}"
        )


def free_memory() -> int:
    """Return in bytes what a process can have of the machine's memory; all of it where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return 1024 * (int(found["MemAvailable"]) + int(found["SwapFree"]))


def _check_whole(value: int, argument: str) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):  # NumPy's integers have it
        raise CatwalkError(f"{argument} must be a whole number, got {value!r}")
