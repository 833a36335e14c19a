"""An overview in pictures: PNG files."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_bytes
from catwalk.overview.facts import TOP, CategoryFacts, Overview, PurchaseFacts
from catwalk.overview.time_facts import TimeFacts
from catwalk.plots.style import (
    BELOW,
    BLUE,
    DIM,
    DPI,
    GREY,
    ORANGE,
    PURPLE,
    SIZE,
    count_axes,
    house_style,
    new_figure,
    save,
    shortened,
)
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import UInt8Array, decode_item
from catwalk.shop.interactions import Interactions

DRAWN_CATEGORIES = 30
"""Categories in the plot, and on a sheet of samples."""

SAMPLES = 8
"""Sample images of a category."""

TILE, GAP, LABEL = 96, 6, 26
"""Side of a sample, space between samples, and height of the label above them, in pixels."""

MAX_POINTS = 2000
"""Ranks at which the curve of the long tail is drawn; more cannot be told apart."""


def draw_overview(
    overview: Overview, catalogue: Catalogue, interactions: Interactions | None, output: Path
) -> list[Path]:
    """Draw the plots of an overview.

    Args:
        overview: The facts.
        catalogue: The catalogue.
        interactions: The purchases; None for a folder of images alone, of which only the categories are drawn.
        output: An existing folder.

    Returns:
        The files: ``categories.png``, where there are purchases ``long_tail.png`` and ``purchases_per_user.png``, and
        where these have times ``purchases_over_time.png``.

    Raises:
        OSError: If a file cannot be written.
    """
    kind = "simulated purchases" if overview.simulated else "purchases"
    figures: dict[str, Callable[[], Figure]] = {"categories": partial(_categories, overview, kind)}
    if interactions is not None and overview.purchases is not None:
        per_item = np.bincount(interactions.items, minlength=len(catalogue))
        per_user = np.bincount(interactions.users, minlength=interactions.num_users)
        figures |= {
            "long_tail": partial(_long_tail, per_item, overview.purchases, kind),
            "purchases_per_user": partial(_purchases_per_user, per_user, kind),
        }
    if overview.time is not None:
        figures["purchases_over_time"] = partial(_over_time, overview.time, kind)
    written = []
    with house_style():
        for stem, draw in figures.items():
            path = output / f"{stem}.png"
            save(draw(), path)
            written.append(path)
    return written


def draw_samples(overview: Overview, catalogue: Catalogue, output: Path) -> list[Path]:
    """Draw sheets of sample images, the most popular categories first.

    Which images of a category are drawn depends on the ids of its items alone. An image that cannot be decoded is a
    crossed tile.

    Args:
        overview: The facts.
        catalogue: The catalogue.
        output: An existing folder.

    Returns:
        The files: ``samples.png``, and ``samples-02.png`` and so on where there are more than
        :data:`DRAWN_CATEGORIES` categories.

    Raises:
        OSError: If a file cannot be written.
    """
    order = np.lexsort((catalogue.keys, catalogue.categories))
    starts = np.searchsorted(catalogue.categories[order], np.arange(catalogue.num_categories + 1))
    filled = [category for category in overview.categories if category.items]
    written = []
    for earlier in output.glob("samples*.png"):
        earlier.unlink()
    with house_style(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for sheet, first in enumerate(range(0, len(filled), DRAWN_CATEGORIES)):
            shown = filled[first : first + DRAWN_CATEGORIES]
            numbers = [catalogue.category_names.index(category.name) for category in shown]
            chosen = [order[starts[number] : starts[number + 1]][:SAMPLES] for number in numbers]
            tiles = [list(pool.map(partial(_tile, catalogue), items)) for items in chosen]
            path = output / ("samples.png" if sheet == 0 else f"samples-{sheet + 1:02d}.png")
            sheet_file = io.BytesIO()
            _sheet(shown, tiles).save(sheet_file, format="PNG")
            write_bytes(path, sheet_file)
            written.append(path)
    return written


def _long_tail(per_item: NDArray[np.int64], facts: PurchaseFacts, kind: str) -> Figure:
    """Draw the purchases of every item, the most bought first."""
    figure = new_figure()
    axes = figure.add_subplot()
    falling = np.sort(per_item)[::-1]
    places = [space(1, len(falling), MAX_POINTS).astype(np.int64) for space in (np.geomspace, np.linspace)]
    ranks = np.unique(np.concatenate([*places, [min(facts.top_items + 1, len(falling))]]))
    heights, edges = falling[ranks - 1], np.append(ranks, len(falling) + 1) - 0.5
    top = int((ranks <= facts.top_items).sum())
    axes.stairs(heights[:top], edges[: top + 1], fill=True, color=BLUE)
    if top < len(ranks):
        axes.stairs(heights[top:], edges[top:], fill=True, color=GREY)
    handles = [
        Patch(color=BLUE, label=f"the {facts.top_items:,} items bought most"),
        Patch(color=GREY, label=f"the others, {facts.never_bought:,} of them never bought"),
    ]
    figure.legend(handles=handles, loc=BELOW, ncols=2)
    axes.set(xlim=(0.5, len(falling) + 0.5), ylim=(0, None), xlabel="items, the most bought first", ylabel=kind)
    axes.set_title(f"Long tail: the top {TOP:.0%} of the items have {facts.top_share:.1%} of the {kind}")
    count_axes(axes)
    return figure


def _purchases_per_user(per_user: NDArray[np.int64], kind: str) -> Figure:
    """Draw how many users have 1, 2, 3 … purchases; the last bar holds all beyond the 99th percentile."""
    figure = new_figure()
    axes = figure.add_subplot()
    last = min(int(np.quantile(per_user, 0.99, method="higher")) + 1, int(per_user.max()))
    counts = np.bincount(np.minimum(per_user, last), minlength=last + 1)[1:]
    colours = [ORANGE] + [BLUE] * (last - 1)
    axes.bar(np.arange(1, last + 1), counts, width=0.9 if last < 60 else 1.0, color=colours)
    handles = [
        Patch(color=ORANGE, label=f"one ({counts[0]:,} users): not tested in leave-one-out"),
        Patch(color=BLUE, label=f"two or more ({counts[1:].sum():,} users)"),
    ]
    figure.legend(handles=handles if counts[0] else handles[1:], loc=BELOW, ncols=2)
    axes.set(xlim=(0.3, last + 0.7), xlabel=f"{kind} of a user", ylabel="users")
    if last < per_user.max():
        axes.set_xlabel(f"{kind} of a user (the last bar: {last} or more, up to {per_user.max():,})")
    axes.set_title(f"{kind.capitalize()} per user: {per_user.mean():.2f} on average")
    count_axes(axes)
    return figure


def _categories(overview: Overview, kind: str) -> Figure:
    """Draw items, purchases and purchases per item of the most popular categories, side by side."""
    shown, rest = list(overview.categories[:DRAWN_CATEGORIES]), overview.categories[DRAWN_CATEGORIES:]
    columns: dict[str, list[float]] = {"items": [category.items for category in shown]}
    roles = {(True, False): ORANGE, (False, True): BLUE, (True, True): PURPLE, (False, False): GREY}
    colours = [roles[category.is_source, category.is_target] for category in shown]
    if overview.purchases is not None:
        columns[kind] = [category.purchases or 0 for category in shown]
        columns[f"{kind} per item"] = [category.per_item or 0 for category in shown]
    figure = new_figure(SIZE[0] if len(columns) == 1 else 10.0, 1.5 + 0.24 * max(len(shown), 4))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    places = np.arange(len(shown))
    for axes, (title, values) in zip(panels, columns.items(), strict=True):
        bars = axes.barh(places, values, height=0.72, color=colours)
        texts = [f"{value:.1f}" if "per item" in title else f"{value:,}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
        axes.set_title(title, fontsize=10, pad=6)
        axes.set_xlim(0, 1.22 * max(*values, 1e-9))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [shortened(category.name) for category in shown], parse_math=False)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    order = "most items" if overview.purchases is None else f"most {kind}"
    whole = f"The {len(shown)} of {len(overview.categories):,} categories" if rest else "The categories"
    figure.suptitle(f"{whole} with {order}" if rest else f"{whole}, {order} first", x=0.012, ha="left", fontsize=12)
    labels = ("may be a source", "may be a target", "may be either", "neither")
    handles = [
        Patch(color=colour, label=label)
        for colour, label in zip(roles.values(), labels, strict=True)
        if overview.purchases is not None and colour in colours
    ]
    if handles:
        figure.legend(handles=handles, loc=BELOW, ncols=4)
    return figure


def _over_time(facts: TimeFacts, kind: str) -> Figure:
    """Draw the purchases in every period."""
    figure = new_figure()
    axes = figure.add_subplot()
    if facts.read_as == "numbers":
        edges = np.array(facts.edges, dtype=np.float64)
        axes.set(xlabel="timestamp, as in the table", ylabel=f"{kind} in a bar of width {facts.period}")
        axes.set_title(f"{kind.capitalize()} over time, whose unit is not known")
    else:
        edges = date2num(np.array(facts.edges, dtype="datetime64[s]"))
        axes.set(ylabel=f"{kind} per {facts.period}")
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        read = "" if facts.read_as == "dates" else f" (timestamps read as {facts.read_as})"
        axes.set_title(f"{kind.capitalize()} per {facts.period}{read}")
    axes.stairs(facts.counts, edges, fill=True, color=BLUE)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.05 * max(facts.counts))
    count_axes(axes, x=False)
    return figure


def _tile(catalogue: Catalogue, item: int) -> UInt8Array:
    """Return an item's whole image on a white square, uint8 ``(TILE, TILE, 3)``, or a cross for one that is damaged."""
    try:
        image = Image.fromarray(decode_item(catalogue, item).transpose(1, 2, 0))
    except CatwalkError:
        return _crossed_tile()
    scale = TILE / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    # Small images show their pixels, as the network sees them.
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return np.asarray(tile)


def _crossed_tile() -> UInt8Array:
    places = np.arange(TILE)
    off_diagonal = np.minimum(np.abs(places[:, None] - places), np.abs(places[:, None] + places - TILE + 1))
    grey = np.where(off_diagonal <= 1, 0x9A, 0xE4).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _sheet(categories: Sequence[CategoryFacts], tiles: Sequence[Sequence[UInt8Array]]) -> Image.Image:
    """Return a sheet with a label and a row of samples per category, in two columns where there are many."""
    columns = 1 if len(categories) <= 8 else 2
    rows = -(-len(categories) // columns)
    margin = 4 * GAP
    row_width, row_height = SAMPLES * (TILE + GAP) + margin, LABEL + TILE + GAP
    height, width = rows * row_height + margin, columns * row_width + margin - GAP
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI)  # of which whole pixels are drawn
    canvas = FigureCanvasAgg(figure)
    corners = []
    for number, category in enumerate(categories):
        left = margin + number // rows * row_width
        top = GAP + number % rows * row_height + LABEL
        right = left + SAMPLES * (TILE + GAP) - GAP
        base = 1 - (top - GAP) / height
        figure.text(left / width, base, shortened(category.name), parse_math=False)
        figure.text(right / width, base, _described(category), ha="right", fontsize=8, color=DIM)
        corners.append((top, left))
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[:, :, :3]
    for (top, left), samples in zip(corners, tiles, strict=True):
        for place, tile in enumerate(samples):
            across = left + place * (TILE + GAP)
            pixels[top : top + TILE, across : across + TILE] = tile
    return Image.fromarray(np.ascontiguousarray(pixels))


def _described(category: CategoryFacts) -> str:
    items = f"{category.items:,} item{'' if category.items == 1 else 's'}"
    return items if category.per_item is None else f"{items}, {category.per_item:.1f} purchases per item"
