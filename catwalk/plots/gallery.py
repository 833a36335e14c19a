"""The gallery: images before and after an attack, and what was done to them, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from catwalk.plots.style import BLUE, DIM, DPI, INK, ORANGE, house_style, shortened
from catwalk.shop.decoding import UInt8Array

FACTOR = 16
"""Factor by which differences are drawn larger than they are."""

SIDE = 1.35
"""Width of an image in inches; its height is in proportion, up to :data:`TALLEST` times as much."""

TALLEST = 1.6
GAP, CAPTION, HEAD, MARGIN, BETWEEN = 0.08, 0.42, 0.62, 0.18, 0.4
"""Space between images, below them, above all, around all, and between the two halves of a wide gallery, in inches."""

ROWS_OF_ONE = 4
"""Items up to which each has a row of its own; more stand two in a row."""


@dataclass(frozen=True)
class GalleryItem:
    """An attacked item.

    Attributes:
        item_id: The shop's id.
        before: The clean image, uint8 ``(3, H, W)``.
        after: The adversarial image, uint8 ``(3, H, W)``.
        category_before: What the network sees in the clean image.
        probability_before: The probability of that, in [0, 1].
        category_after: What it sees in the adversarial image.
        probability_after: The probability of that.
        success: Whether the attack has what it wanted.
        ssim: Structural similarity of the two; None where it was not measured.
        lpips: LPIPS between them; None where it was not measured.
        rank_before: Mean rank of the item over users, with the clean image; None where it is not known.
        rank_after: The same with the adversarial image.
    """

    item_id: str
    before: UInt8Array
    after: UInt8Array
    category_before: str
    probability_before: float
    category_after: str
    probability_after: float
    success: bool
    ssim: float | None
    lpips: float | None
    rank_before: float | None
    rank_after: float | None


def difference(before: UInt8Array, after: UInt8Array) -> UInt8Array:
    """Return what changed, :data:`FACTOR` times as large, around middle grey.

    Args:
        before: uint8 ``(3, H, W)``.
        after: uint8 ``(3, H, W)``.

    Returns:
        uint8 ``(3, H, W)``: 128 where nothing changed; changes of 8 grey levels and more are black or white.
    """
    change = after.astype(np.int64) - before
    return np.clip(128 + FACTOR * change, 0, 255).astype(np.uint8)


def draw_gallery(items: Sequence[GalleryItem], title: str) -> Figure:
    """Draw a row of pictures for every item: before, after, and the difference (the paper's Figure 1).

    Below them is what the network saw before and sees now (orange where the attack has what it wanted), how far the
    image is from its original, and where the item ranks.

    Args:
        items: At least one.
        title: Stands above all.
    """
    halves = 1 if len(items) <= ROWS_OF_ONE else 2
    rows = -(-len(items) // halves)
    tall = SIDE * min(max(item.before.shape[1] / item.before.shape[2] for item in items), TALLEST)
    half = 3 * SIDE + 2 * GAP
    width = 2 * MARGIN + halves * half + (halves - 1) * BETWEEN
    height = 2 * MARGIN + HEAD + rows * (tall + CAPTION)
    with house_style():
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        figure.text(MARGIN / width, 1 - MARGIN / height, shortened(title, 66 * halves), va="top", fontsize=11)
        for number, item in enumerate(items):
            left = MARGIN + number // rows * (half + BETWEEN)
            top = MARGIN + HEAD + number % rows * (tall + CAPTION)
            pictures = (item.before, item.after, difference(item.before, item.after))
            for column, (picture, caption) in enumerate(zip(pictures, _captions(item), strict=True)):
                x = left + column * (SIDE + GAP)
                axes = figure.add_axes((x / width, 1 - (top + tall) / height, SIDE / width, tall / height))
                _show(axes, picture)
                for line, (text, colour) in enumerate(caption):
                    y = 1 - (top + tall + 0.06 + 0.14 * line) / height
                    figure.text(x / width, y, text, va="top", fontsize=7.5, color=colour)
                if number % rows == 0:
                    head = ("before", "after", f"difference × {FACTOR}")[column]
                    figure.text(x / width, 1 - (top - 0.08) / height, head, fontsize=9, color=DIM)
    return figure


def _show(axes: Axes, picture: UInt8Array) -> None:
    """Show an image whole, in the middle of its place; small ones show their pixels, as the network sees them."""
    axes.imshow(picture.transpose(1, 2, 0), interpolation="nearest" if picture.shape[2] < SIDE * DPI else "antialiased")
    axes.set_anchor("S")
    axes.set_axis_off()


def _captions(item: GalleryItem) -> list[list[tuple[str, str]]]:
    """Return the lines of text below the three pictures, with their colours."""
    before = f"{shortened(item.category_before, 17)} {item.probability_before:.0%}"
    after = f"{shortened(item.category_after, 17)} {item.probability_after:.0%}"
    rank = ""
    if item.rank_before is not None and item.rank_after is not None:
        rank = f"rank {item.rank_before:,.0f} → {item.rank_after:,.0f}"
    measured = [("LPIPS", item.lpips), ("SSIM", item.ssim)]
    distances = [(f"{name} {value:.4f}", DIM) for name, value in measured if value is not None]
    return [
        [(before, INK), (shortened(item.item_id, 22), DIM)],
        [(after, ORANGE if item.success else BLUE), (rank, DIM)],
        distances,
    ]
