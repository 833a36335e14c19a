"""``catwalk attack curve``: the smallest ε that succeeds on each item, as a table and a plot."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from catwalk.errors import CatwalkError
from catwalk.plots.style import save
from catwalk.plots.success_curves import NORMS, draw_success_curves
from catwalk.poisoning.success_curve import read_success_curve

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the items of which the ε is printed."""

KINDS = (".svg", ".png", ".pdf")
"""What a plot can be written as."""


def curve(folder: Path, beside: list[Path] = [], output: Path | None = None) -> None:  # noqa: B006 - only read
    """Print which ε suffices for which share of the items, of an attack that looks for the least change.

    Args:
        folder: The folder that `catwalk attack` wrote with DDN, FMN or CarliniWagner.
        beside: Folders of other such attacks in the same norm, to compare with.
        output: File for a plot of the share against ε, an .svg, .png or .pdf.
    """
    if output is not None and output.suffix not in KINDS:
        raise CatwalkError(f"output: must end in {', '.join(KINDS)}, got {str(output)!r}")
    curves = {str(place): read_success_curve(place) for place in (folder, *beside)}
    norm = curves[str(folder)].norm
    for place, other in curves.items():
        if other.norm != norm:
            raise CatwalkError(
                f"beside: {place} is measured in {NORMS[other.norm]}, and {folder} in {NORMS[norm]}: ε of two norms do "
                "not compare; give folders of one norm"
            )
    table = Table(
        "attack",
        "folder",
        *(Column(f"{share:.0%}", justify="right") for share in SHARES),
        title=f"Smallest ε in grey levels, {NORMS[norm]}, that succeeds on so many of the items",
        title_justify="left",
    )
    for place, found in curves.items():
        values = [found.epsilon_for(share) for share in SHARES]
        cells = ["none" if value == math.inf else f"{value:.4g}" for value in values]
        table.add_row(found.attack, place, *cells)
    Console().print(table, markup=False)
    if output is not None:
        labels = {f"{found.attack}, {Path(place).name}": found for place, found in curves.items()}
        if len(labels) < len(curves):
            labels = {f"{found.attack}, {place}": found for place, found in curves.items()}
        save(draw_success_curves(labels, title="Success by the size of the change"), output)
        Console().print(f"the plot is in {output}", highlight=False, markup=False, soft_wrap=True)
