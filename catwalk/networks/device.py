"""The device on which a command runs."""

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
