"""Masks: the region of an image in which alone an attack may change anything."""

import abc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.limits import check_choice, check_count, check_number
from catwalk.shop.decoding import decode
from catwalk.shop.ids import item_keys

Fallback = Literal["refuse", "nothing", "everything"]
"""What becomes of an image whose background is not plain."""

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right", "centre"]


class MaskError(CatwalkError):
    """An image of which a mask cannot say where it may change.

    Args:
        row: Which of the images.
        problem: What is wrong with it, and what to do.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"mask: image {row}: {problem}")
        self.problem = problem


class Mask(abc.ABC):
    """Says of each image where an attack may change it.

    Any attack takes one, as ``mask``. The network is shown the clean image outside of the region at every step, so that
    gradients are those of the region and queries are answered for what will be handed out; and the threat model checks
    images before and after they are saved.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What names and records call it, such as ``"background"``."""

    @abc.abstractmethod
    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return where the images may change.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1], the clean images.
            keys: int64 ``(N,)``, each item's key (:func:`catwalk.shop.ids.item_keys`); None where there are none.

        Returns:
            bool ``(N, 1, H, W)``. Each row depends on its own image and key alone.

        Raises:
            CatwalkError: If that cannot be said of an image.
        """


@dataclass(frozen=True)
class Background(Mask):
    """The plain background of a product photograph: what its border is connected to by pixels of the border's colour.

    The background's colour is the median of the outermost pixels, channel by channel. A pixel has it if none of its
    channels is further than ``tolerance`` from it, and belongs to the background if a path of such neighbours (above,
    below, left, right) leads from it to the border. What has the colour within the garment does not belong to it.

    Args:
        tolerance: Grey levels, at least 0.
        plain: Share of the outermost pixels that must have the background's colour, above 0 and at most 1. Of an image
            of which fewer have it nobody can say what the background is.
        otherwise: What becomes of such an image: ``"refuse"`` stops with an error that names it, ``"nothing"`` leaves
            it unchanged, ``"everything"`` lets it change everywhere.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    tolerance: float = 12.0
    plain: float = 0.5
    otherwise: Fallback = "refuse"

    def __post_init__(self) -> None:
        check_number(self.tolerance, "mask.tolerance", least=0)
        if not 0 < self.plain <= 1:
            raise CatwalkError(
                f"mask.plain: must be a share above 0 and at most 1 of the border's pixels, got {self.plain!r}"
            )
        check_choice(self.otherwise, "mask.otherwise", Fallback)

    @property
    def name(self) -> str:
        """``"background"``."""
        return "background"

    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return the background; see :meth:`Mask.region`."""
        background, shares = self._found(images)
        return self._with_fallback(background, shares)

    def _found(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the background, bool ``(N, 1, H, W)``, and the share of border pixels that have its colour."""
        levels = (images.detach() * 255).round()
        is_border = torch.zeros_like(levels[0, 0], dtype=torch.bool)
        is_border[[0, -1]] = is_border[:, [0, -1]] = True
        border = levels[:, :, is_border]
        colours = border.sort(dim=2).values[:, :, (border.shape[2] - 1) // 2]
        alike = ((levels - colours[:, :, None, None]).abs() <= self.tolerance).all(dim=1)
        shares = alike[:, is_border].double().mean(dim=1)
        return _flooded(alike & is_border, alike)[:, None], shares

    def _with_fallback(self, region: Tensor, shares: Tensor) -> Tensor:
        is_plain = shares >= self.plain
        if self.otherwise == "refuse" and not bool(is_plain.all()):
            row = int((~is_plain).nonzero()[0])
            raise MaskError(
                row,
                f"its background is not plain: {float(shares[row]):.0%} of its outermost pixels are within "
                f"{self.tolerance:g} grey levels of their median colour, and mask.plain asks for {self.plain:.0%}; set "
                "mask.otherwise to nothing or everything, raise mask.tolerance, or give masks of your own "
                "(MaskFiles)",
            )
        return torch.where(is_plain[:, None, None, None], region, self.otherwise == "everything")


@dataclass(frozen=True)
class Garment(Background):
    """What is not the plain background of a product photograph, see :class:`Background`.

    Args:
        tolerance: As of :class:`Background`.
        plain: See there.
        otherwise: See there.
    """

    @property
    def name(self) -> str:
        """``"garment"``."""
        return "garment"

    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return all but the background; see :meth:`Mask.region`."""
        background, shares = self._found(images)
        return self._with_fallback(~background, shares)


@dataclass(frozen=True)
class Patch(Mask):
    """A rectangle. With ``epsilon: 255`` in L∞ the attack may print anything in it: an adversarial patch.

    Args:
        height: Share of the image's height, above 0 and at most 1; at least a pixel.
        width: Share of its width; None means as ``height``.
        corner: Where it lies.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    height: float = 0.25
    width: float | None = None
    corner: Corner = "bottom_right"

    def __post_init__(self) -> None:
        for argument in ("height", "width"):
            value = getattr(self, argument)
            if value is not None and not 0 < value <= 1:
                raise CatwalkError(
                    f"mask.{argument}: must be a share above 0 and at most 1 of the image's {argument}, got {value!r}"
                )
        check_choice(self.corner, "mask.corner", Corner)

    @property
    def name(self) -> str:
        """``"patch 0.25 × 0.25 bottom right"``."""
        width = self.height if self.width is None else self.width
        return f"patch {self.height:.3g} × {width:.3g} {self.corner.replace('_', ' ')}"

    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return the rectangle in each image; see :meth:`Mask.region`."""
        width = self.height if self.width is None else self.width
        places = []
        for share, size, first in (
            (self.height, images.shape[2], self.corner.startswith("top")),
            (width, images.shape[3], self.corner.endswith("left")),
        ):
            length = max(1, round(share * size))
            start = (size - length) // 2 if self.corner == "centre" else 0 if first else size - length
            places.append(slice(start, start + length))
        region = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool, device=images.device)
        region[:, :, places[0], places[1]] = True
        return region


@dataclass(frozen=True)
class Border(Mask):
    """The outermost pixels of an image.

    Args:
        width: Their width in pixels, at least 1.

    Raises:
        CatwalkError: If it is out of its range.
    """

    width: int = 2

    def __post_init__(self) -> None:
        check_count(self.width, "mask.width")

    @property
    def name(self) -> str:
        """``"border 2"``."""
        return f"border {self.width}"

    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return the border of each image; see :meth:`Mask.region`."""
        region = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool, device=images.device)
        region[:, :, self.width : -self.width, self.width : -self.width] = False
        return region


@dataclass(frozen=True)
class MaskFiles(Mask):
    """Regions from files: ``<item id>.png`` in a folder, white where the item's image may change and black elsewhere.

    A value of 128 or above in any channel counts as white. A file of another size than the attacked image is brought to
    it (nearest neighbour), as the image itself was brought to the network's.

    Args:
        folder: The folder.

    Raises:
        CatwalkError: If there is no such folder; when called, if an item has no file or it cannot be read.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not Path(self.folder).is_dir():
            raise CatwalkError(f"mask.folder: {self.folder} is no folder; give one with a PNG file for each item")

    @property
    def name(self) -> str:
        """``"masks of"`` and the folder's name."""
        return f"masks of {Path(self.folder).resolve().name}"

    def region(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Return what the files say of the images' items; see :meth:`Mask.region`.

        Raises:
            ValueError: If there are no keys.
        """
        if keys is None:
            raise ValueError("keys: masks from files belong to items; give each image's item key")
        with os.scandir(self.folder) as entries:
            ids = sorted(entry.name.removesuffix(".png") for entry in entries if entry.name.endswith(".png"))
        files = dict(zip(item_keys(ids).tolist(), ids, strict=True))
        region = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool, device=images.device)
        for row, key in enumerate(keys.tolist()):
            if key not in files:
                raise MaskError(row, f"there is no mask of its item in {self.folder}, where <item id>.png must be")
            levels = decode(Path(self.folder) / f"{files[key]}.png")
            white = torch.from_numpy(np.ascontiguousarray((levels >= 128).any(axis=0)))[None, None]
            sized = F.interpolate(white.float(), size=images.shape[2:], mode="nearest-exact")
            region[row] = sized[0].bool().to(region.device)
        return region


def _flooded(seeds: Tensor, passable: Tensor) -> Tensor:
    """Return which passable places are connected to seeds through passable neighbours, bool ``(N, H, W)``.

    By turns, whole runs of passable places in a row, or in a column, are reached where one of them is.

    Args:
        seeds: bool ``(N, H, W)``, passable places.
        passable: bool ``(N, H, W)``.
    """
    across, down = _runs(passable), _runs(passable.mT)
    reached = seeds
    while True:
        further = _spread(reached, across) & passable
        further = _spread(further.mT, down).mT & passable
        if torch.equal(further, reached):
            return reached
        reached = further


def _runs(passable: Tensor) -> Tensor:
    """Return for each place of a row the number of its run: places that are not passable divide runs."""
    return (~passable).cumsum(dim=2)


def _spread(reached: Tensor, runs: Tensor) -> Tensor:
    """Return which places are of a run with a place that is reached; a divider counts to the run after it."""
    counts = torch.zeros(*runs.shape[:2], runs.shape[2] + 1, dtype=torch.int64, device=runs.device)
    counts.scatter_add_(2, runs, reached.long())
    return counts.gather(2, runs) > 0
