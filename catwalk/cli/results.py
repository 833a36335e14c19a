"""``catwalk results``: what the store of results holds, whether it is sound, and removing what no study uses."""

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from catwalk.errors import CatwalkError
from catwalk.results.overview import Stored, damaged_results, remove_unused, stored_results

RUNS = Path("runs")


def show(folder: Path = RUNS) -> None:
    """List the results that studies, fit and attack have left: kind, what, size, date, and the studies that use it.

    Args:
        folder: The folder to which studies write; their results are in `cache` in it.

    Raises:
        CatwalkError: If there are none, or the manifest of a study is damaged.
    """
    results = stored_results(folder)
    table = Table("kind", Column("result", overflow="fold"), Column("size", justify="right"), "written", "studies")
    for result in results:
        table.add_row(result.kind, _what(result), size_text(result.bytes), _date(result), ", ".join(result.studies))
    console = Console()
    console.print(table, markup=False)
    total = size_text(sum(result.bytes for result in results))
    console.print(f"{len(results)} results, {total}, in {folder / 'cache'}", highlight=False, markup=False)


def verify(folder: Path = RUNS) -> None:
    """Compare the SHA-256 of every file of every result with that of its record.

    Args:
        folder: The folder to which studies write; their results are in `cache` in it.

    Raises:
        CatwalkError: If a result is damaged, or there are none.
    """
    console = Console()
    number, damaged = 0, []
    for result, damage in damaged_results(folder):
        number += 1
        if damage is not None:
            damaged.append(result.place)
            console.print(f"{result.place}: {damage}", highlight=False, markup=False, soft_wrap=True)
    if damaged:
        raise CatwalkError(
            f"{len(damaged)} of {number} results in {folder / 'cache'} are damaged: whatever needs one sets it aside "
            "and makes it again"
        )
    console.print(f"{number} results in {folder / 'cache'} are as they were written", highlight=False, markup=False)


def clean(folder: Path = RUNS, dry_run: bool = False) -> None:
    """Remove the results that no study of the folder uses, and what was set aside as damaged.

    What `catwalk fit` and `catwalk attack` have left is removed as well, unless a study uses it; copies that were put
    elsewhere stay.

    Args:
        folder: The folder to which studies write; their results are in `cache` in it.
        dry_run: Whether to say only what would be removed.

    Raises:
        CatwalkError: If there are none, the manifest of a study is damaged, or a run is making a result.
    """
    console = Console()
    removed = remove_unused(folder, dry_run)
    verb = "would be removed" if dry_run else "removed"
    for result in removed:
        line = f"{verb}: {result.place} · {_what(result)} · {size_text(result.bytes)} · {_date(result)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    total = size_text(sum(result.bytes for result in removed))
    console.print(f"{len(removed)} results, {total}, {verb}", highlight=False, markup=False)


def size_text(size: int) -> str:
    """Return a number of bytes for people, such as ``1.2 MB``."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def _what(result: Stored) -> str:
    return result.title or result.key


def _date(result: Stored) -> str:
    return datetime.fromtimestamp(result.written).strftime("%Y-%m-%d %H:%M")
