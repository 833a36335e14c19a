"""Summary of an import, printed when it is done."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catwalk.importers.dataset_writer import DatasetWriter

SHOWN = 20
"""Categories with a row of their own in the summary."""


def print_summary(writer: DatasetWriter, console: Console) -> None:
    """Print what a finished dataset folder holds.

    Args:
        writer: The writer, after its block.
        console: Where to print.
    """
    info = writer.info
    counts = info["counts"]
    users, items, purchases = counts.get("users", 0), counts["items"], counts.get("interactions", 0)
    simulated = info["simulated_purchases"] is not None
    kind = "Simulated purchases" if simulated else "Purchases"
    table = Table(title=f"{escape(info['name'])} in {escape(str(writer.dest))}", title_justify="left")
    table.add_column("Category")
    for heading in ("Items", kind, "Share", "Per item"):
        table.add_column(heading, justify="right")
    per_category = counts["per_category"]

    def add_row(name: str, number: int, bought: int) -> None:
        share, ratio = _quotient(bought, purchases, ".1%"), _quotient(bought, number, ".1f")
        table.add_row(escape(name), f"{number:,}", f"{bought:,}", share, ratio)

    names = sorted(per_category, key=lambda name: (-per_category[name]["interactions"], -per_category[name]["items"]))
    for name in names[:SHOWN]:
        add_row(name, per_category[name]["items"], per_category[name]["interactions"])
    if names[SHOWN:]:
        rest = [per_category[name] for name in names[SHOWN:]]
        totals = (sum(numbers[what] for numbers in rest) for what in ("items", "interactions"))
        add_row(f"… {len(rest):,} more categories", *totals)
    table.add_section()
    add_row("All", items, purchases)
    console.print(table)
    lines = ["no purchases: the folder serves CNNs and attacks on their images (catwalk attack), and no recommender"]
    if purchases:
        lines = [f"{users:,} users with {_quotient(purchases, users, '.2f')} {kind.lower()} each on average"]
    labelled = counts.get("labelled_images")
    if labelled:
        parts = ", ".join(f"{count:,} {split}" for split, count in labelled.items())
        lines.append(f"labelled images for the CNN: {parts}")
    left_out = [f"{count:,} {cause}" for cause, count in info["left_out"].items() if count]
    lines.append(f"left out: {'; '.join(left_out) or 'nothing'}")
    if "repaired" in info:
        lines.append(f"repaired: {'; '.join(_counted(count, what) for what, count in info['repaired'].items())}")
    lines += [f"doubtful: {remark}" for remark in info.get("remarks", ())]
    if simulated:
        lines.append(
            "the purchases are SIMULATED, by the choice model that dataset.json records: nobody bought these articles"
        )
    for line in lines:
        console.print(f"• {line}", highlight=False, markup=False)


ONE = {
    "names of categories": "name of a category",
    "names of image files": "name of an image file",
    "ids of items in their table": "id of an item in its table",
    "ids of items": "id of an item",
    "ids of users": "id of a user",
    "times of reviews that are": "time of a review that is",
    "times in": "time in",
}
"""Singular forms of the counts of repairs; the longer beginnings go first."""


def _counted(count: int, what: str) -> str:
    plural = next((start for start in ONE if what.startswith(start)), "") if count == 1 else ""
    return f"{count:,} {ONE.get(plural, '')}{what.removeprefix(plural)}"


def _quotient(count: int, whole: int, form: str) -> str:
    return format(count / whole, form) if whole else "–"
