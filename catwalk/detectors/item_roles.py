"""Which clean items a detector is fitted to, calibrated on, and judged by: none of them twice."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform
from catwalk.limits import check_seed

Role = Literal["fit", "calibrate", "judge"]


@dataclass(frozen=True)
class ItemRoles:
    """A random split of a shop's items by their ids, the same in whatever catalogue, order or process.

    Attributes:
        fit: Share of the items that detectors are fitted to or trained on, in (0, 1).
        calibrate: Share by which thresholds are set, in (0, 1); the rest is what detectors are judged by.
        seed: Of the split.

    Raises:
        CatwalkError: If a share is out of its range, or nothing is left to judge.

    Example:
        >>> import torch
        >>> from catwalk.detectors import ItemRoles
        >>> keys = torch.arange(1000)
        >>> tuple(int(ItemRoles().has(role, keys).sum()) for role in ("fit", "calibrate", "judge"))
        (312, 280, 408)
    """

    fit: float = 0.3
    calibrate: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for argument, share in (("fit", self.fit), ("calibrate", self.calibrate)):
            if not 0 < share < 1:
                raise CatwalkError(f"roles.{argument}: must be a share of the items in (0, 1), got {share!r}")
        if self.fit + self.calibrate >= 1:
            raise CatwalkError(
                f"roles: fit and calibrate must leave items to judge, got {self.fit!r} and {self.calibrate!r}: their "
                "sum must be below 1"
            )

    def has(self, role: Role, keys: Tensor) -> Tensor:
        """Return which items have a role, bool ``(N,)``.

        Args:
            role: The role.
            keys: The items' keys, int64 ``(N,)`` (``Catalogue.keys``).
        """
        draws = uniform(self.seed, keys, (1,))[:, 0].double()
        places = (draws >= self.fit).long() + (draws >= self.fit + self.calibrate).long()
        return places == torch.tensor(get_args(Role).index(role), device=keys.device)
