"""An overview on the screen."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catwalk.overview.facts import MIN_ITEMS, TOP, CategoryFacts, ImageFacts, Overview, PurchaseFacts, UserGroup

SHOWN_CATEGORIES = 40
"""Categories that are printed; all are in overview.json."""

SHOWN_SIZES = 5
"""Image sizes that are printed."""

Cells = Sequence[str]


def print_overview(overview: Overview, dataset: Path, console: Console) -> None:
    """Print an overview.

    Args:
        overview: What to print.
        dataset: The dataset folder, for the line that begins a study.
        console: Where to print.
    """
    console.print(f"{escape(overview.name)} in {escape(str(dataset))}", style="bold", highlight=False, soft_wrap=True)
    headings, row = ["Items", "Categories"], [f"{overview.items:,}", f"{len(overview.categories):,}"]
    purchases = overview.purchases
    if purchases is not None:
        headings += ["Users", _kind(overview), "Repeats left out", "Density"]
        row += [f"{count:,}" for count in (purchases.users, purchases.purchases, purchases.repeats)]
        row.append(f"{purchases.density:.3%}")
    console.print(_table(headings, [row], labels=0))
    if purchases is not None:
        _print_users_and_items(purchases, overview.items, console)
    _print_categories(overview, console)
    _print_splits(overview, console)
    _print_images(overview, console)
    if purchases is not None:
        _print_pairs(overview, dataset, console)
    _title("What makes a study weak", console)
    for sentence in overview.weaknesses or ["nothing that was looked for"]:
        _line(sentence, console)
    if overview.simulated:
        _line("the purchases are SIMULATED: nobody bought these articles", console)


def _print_users_and_items(purchases: PurchaseFacts, items: int, console: Console) -> None:
    _title("Users by number of purchases", console)
    headings = ["Purchases", *map(_range, purchases.user_groups)]
    users = ["Users", *(f"{group.users:,}" for group in purchases.user_groups)]
    shares = ["Share", *(f"{group.share:.1%}" for group in purchases.user_groups)]
    console.print(_table(headings, [users, shares]))
    _line(
        f"a user has {purchases.per_user_mean:.2f} purchases on average, {purchases.per_user_median:g} in the median, "
        f"{purchases.per_user_most:,} at most",
        console,
    )
    _line(
        f"an item has {purchases.per_item_mean:.2f} purchases on average, {purchases.per_item_median:g} in the median, "
        f"{purchases.per_item_most:,} at most; {purchases.never_bought:,} of {items:,} items were never bought",
        console,
    )
    _line(
        f"long tail: the {TOP:.0%} of the items that are bought most ({purchases.top_items:,}) have "
        f"{purchases.top_share:.1%} of the purchases; {purchases.half_items:,} items have half of them",
        console,
    )


def _print_categories(overview: Overview, console: Console) -> None:
    _title("Categories, the most popular first" if overview.purchases else "Categories, the largest first", console)
    shown, rest = overview.categories[:SHOWN_CATEGORIES], overview.categories[SHOWN_CATEGORIES:]
    if overview.purchases is None:
        rows = [[category.name, f"{category.items:,}"] for category in shown]
        if rest:
            rows.append([f"{len(rest):,} others", f"{sum(category.items for category in rest):,}"])
        console.print(_table(["Category", "Items"], rows))
        return
    rows = [[category.name, *_numbers(category), f"{category.share:.1%}", _role(category)] for category in shown]
    if rest:
        items = sum(category.items for category in rest)
        bought = sum(category.purchases or 0 for category in rest)
        per_item = f"{bought / items:.1f}" if items else "–"
        share = f"{bought / overview.purchases.purchases:.1%}"
        rows.append([f"{len(rest):,} others", f"{items:,}", f"{bought:,}", per_item, share, ""])
    console.print(_table(["Category", "Items", _kind(overview), "Per item", "Share", "May be"], rows))


def _print_splits(overview: Overview, console: Console) -> None:
    _title("Splits and time", console)
    split, time = overview.split, overview.time
    if split is not None:
        kind = "leave-one-out by time" if split.kind == "leave-one-out" else "the published split"
        validation = f", {split.validation:,} to validate" if split.validation else ""
        _line(
            f"recommenders, {kind}: {split.train:,} purchases to train on{validation}, {split.test:,} to test, of "
            f"{split.tested_users:,} users",
            console,
        )
    parts = ", ".join(f"{count:,} {split}" for split, count in overview.labels.by_split.items())
    whose = "labelled_images" if overview.labels.own_file else "the items' own images"
    _line(f"images for the CNN, {whose}: {parts}", console)
    if time is not None:
        _line(
            f"bought from {time.first} to {time.last} (timestamps are {time.read_as}), {time.different:,} different "
            "timestamps",
            console,
        )
        share = f" ({time.tied_users / time.several_users:.1%})" if time.several_users else ""
        _line(
            f"ties: of {time.several_users:,} users with two purchases or more, {time.tied_users:,}{share} have "
            "another purchase at the time of their last",
            console,
        )


def _print_images(overview: Overview, console: Console) -> None:
    _title("Images", console)
    rows = _image_rows("Items", overview.images)
    if overview.labels.files is not None:
        rows += _image_rows("Labelled", overview.labels.files)
    console.print(_table(["Images", "Size or mode", "Files", "Share"], rows, labels=2))
    for whose, images in (("item", overview.images), ("labelled", overview.labels.files)):
        if images is None or images.smallest is None or images.largest is None:
            continue
        if images.different_sizes > 1:
            (small, *its_size), (large, *large_size) = images.smallest, images.largest
            _line(
                f"{whose} images: {images.different_sizes:,} sizes, from {_size(*its_size)} ({small}) to "
                f"{_size(*large_size)} ({large})",
                console,
            )


def _image_rows(whose: str, images: ImageFacts) -> list[list[str]]:
    others = images.images - images.unreadable - sum(count for *_, count in images.sizes[:SHOWN_SIZES])
    counts = {_size(width, height): count for width, height, count in images.sizes[:SHOWN_SIZES]}
    counts |= {"other sizes": others, **images.modes, "unreadable": images.unreadable}
    rows = [[what, f"{count:,}", f"{count / images.images:.1%}"] for what, count in counts.items() if count]
    return [[whose if number == 0 else "", *row] for number, row in enumerate(rows)]


def _print_pairs(overview: Overview, dataset: Path, console: Console) -> None:
    _title("Promising pairs: images of an unpopular source, led to a popular target", console)
    if not overview.pairs:
        _line(f"none among the categories with at least {MIN_ITEMS} items", console)
        return
    values = ["Items", "Bought", "Per\nitem"]
    headings = ["Source", *values, "Target", *values, "Ratio"]
    rows = [
        [pair.source.name, *_numbers(pair.source), pair.target.name, *_numbers(pair.target), f"{pair.ratio:.2f}"]
        for pair in overview.pairs
    ]
    console.print(_table(headings, rows, left=("Source", "Target")))
    console.print(
        f"Source: at least {MIN_ITEMS} items, bought less per item than the median category of that size. Target: as "
        "many items, among the categories that together have half of the purchases. Ratio: purchases per item, source "
        "by target.",
        style="dim",
        highlight=False,
    )
    best = overview.pairs[0]
    options = ["--dataset", str(dataset), "--source", best.source.name, "--target", best.target.name]
    console.print(
        f"The first of them in a study: catwalk study --config FILE {shlex.join(options)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _table(headings: Cells, rows: Sequence[Cells], labels: int = 1, left: Cells = ()) -> Table:
    """Return a table whose first ``labels`` columns, and those headed by ``left``, begin at the left."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for number, heading in enumerate(headings):
        is_left = number < labels or heading in left
        table.add_column(escape(heading), justify="left" if is_left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _title(text: str, console: Console) -> None:
    console.print(f"\n{text}", style="bold", highlight=False)


def _line(text: str, console: Console) -> None:
    console.print(f"• {text}", highlight=False, markup=False)


def _kind(overview: Overview) -> str:
    return "Simulated purchases" if overview.simulated else "Purchases"


def _numbers(category: CategoryFacts) -> list[str]:
    """Return items, purchases and purchases per item."""
    per_item = "–" if category.per_item is None else f"{category.per_item:.1f}"
    return [f"{category.items:,}", f"{category.purchases or 0:,}", per_item]


def _role(category: CategoryFacts) -> str:
    return ", ".join(["source"] * category.is_source + ["target"] * category.is_target)


def _range(group: UserGroup) -> str:
    if group.last is None:
        return f"{group.first} or more"
    return str(group.first) if group.first == group.last else f"{group.first}–{group.last}"


def _size(width: int, height: int) -> str:
    return f"{width}×{height}"
