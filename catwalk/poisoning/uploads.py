"""The images of an attack, read back as what a shop is sent: pixels and the items that they are for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.records import read_attacked_items
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import UInt8Array, decode


@dataclass(frozen=True, eq=False)
class AttackedUploads:
    """Attacked images.

    Attributes:
        folder: Where an attack has written them.
        attack: Name of the attack.
        items: The items that they are for, int64 ``(n,)``.
        levels: uint8 ``(3, H, W)`` each.
        success: Whether each is where the attack wants it, bool ``(n,)``.
    """

    folder: Path
    attack: str
    items: NDArray[np.int64]
    levels: list[UInt8Array]
    success: NDArray[np.bool_]

    @classmethod
    def read(cls, folder: Path, catalogue: Catalogue, among: NDArray[np.bool_] | None = None) -> "AttackedUploads":
        """Read the images of a folder that an attack wrote.

        Args:
            folder: The folder.
            catalogue: The catalogue that was attacked.
            among: Of which items to read them, bool ``(N,)``; all by default.

        Raises:
            CatwalkError: If the folder is no whole attack on this catalogue.
        """
        if not Path(folder).is_dir():
            raise CatwalkError(f"attacked: {folder} is no folder: give those that `catwalk attack` wrote")
        items, rows = read_attacked_items(folder, catalogue)
        places = [place for place, item in enumerate(items) if among is None or among[item]]
        return cls(
            folder=folder,
            attack=read_summary(folder).attack,
            items=items[places],
            levels=[decode(folder / rows[place].image) for place in places],
            success=np.array([rows[place].success for place in places], dtype=np.bool_),
        )
