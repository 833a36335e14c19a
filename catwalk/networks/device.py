"""The device on which a command runs."""

from pathlib import Path

import torch

from catwalk.errors import CatwalkError


def device_of(name: str | None) -> torch.device:
    """Return a device by name; without one a GPU where there is one.

    Args:
        name: Such as cpu or cuda:1.

    Raises:
        CatwalkError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1).to(name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that is not there
        reason = str(error).splitlines()[0]
        raise CatwalkError(f"device: {name!r} cannot be used, give cpu or a GPU such as cuda:0: {reason}") from error


CPUINFO = Path("/proc/cpuinfo")
"""Where Linux says what processors can do."""

BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16", "sve_bf16"}
"""Names, on x86 and ARM, of instructions that multiply numbers in bfloat16."""


def slow_in_bfloat16(device: torch.device) -> str | None:
    """Return a notice that a device is slower in bfloat16 than in float32; None where it is not, or nobody says so.

    Args:
        device: Where the network computes. GPUs that PyTorch supports are faster.
    """
    if device.type != "cpu" or not CPUINFO.is_file():
        return None
    names = ("flags", "features")  # of x86 and of ARM
    lines = (line.partition(":") for line in CPUINFO.read_text(errors="replace").lower().splitlines())
    flags = next((set(value.split()) for name, _, value in lines if name.strip() in names), None)
    if flags is None or flags & BFLOAT16:
        return None
    return (
        "this processor has no instructions for bfloat16 (AMX, AVX512-BF16) and is slower in it than in float32, 1.45 "
        "times with ResNet-18"
    )
