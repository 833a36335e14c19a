"""The report of a study: one page that explains itself, without a network, and its plots as files."""

from pathlib import Path

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_bytes, write_text
from catwalk.plots.style import drawn
from catwalk.study.plots import StudyPlot, draw_plots
from catwalk.study.report.content import content
from catwalk.study.report.page import render
from catwalk.study.results import PLOTS_FOLDER, REPORT_FILE, StudyResults
from catwalk.study.stored import StoredResults

__all__ = ["report", "write_report"]

KINDS = ("svg", "png")
"""Kinds of files of which every plot is one."""


def report(study: Path, store: Path | None = None, dataset: Path | None = None) -> None:
    """Make the plots and the report of a finished study again, from its folder and the store of results.

    Args:
        study: The study's folder, such as runs/demo.
        store: The store of results, where it is not where the study left it; images and ranks come from there.
        dataset: The dataset's folder, likewise; the clean images come from there.

    Raises:
        CatwalkError: If it is not the folder of a finished study, or a folder that is named is not there.
    """
    for name, folder in (("store", store), ("dataset", dataset)):
        if folder is not None and not folder.is_dir():
            raise CatwalkError(f"{name}: {folder} is not a folder; leave it out to look where the study had it")
    print(f"The report is {write_report(study, store, dataset)}")


def write_report(folder: Path, store: Path | None = None, dataset: Path | None = None) -> Path:
    """Write ``plots/*.svg``, ``plots/*.png`` and ``report/index.html`` into the folder of a finished study.

    What they show comes from the folder alone, but for images, ranks and lists by category: these are left out where
    the store or the dataset is gone.

    Args:
        folder: The study's folder.
        store: The store of results, where it is not where the study left it.
        dataset: The dataset's folder, likewise.

    Returns:
        The report.

    Raises:
        CatwalkError: If it is not the folder of a finished study.
    """
    stored = StoredResults.of(StudyResults.read(folder), store, dataset)
    plots: list[tuple[StudyPlot, bytes]] = []
    files: dict[str, bytes] = {}
    for plot in draw_plots(stored):
        svg = drawn(plot.figure, "svg")
        plot.figure.set_layout_engine("none")  # it is laid out by now
        plots.append((plot, svg))
        files |= {f"{plot.key}.svg": svg, f"{plot.key}.png": drawn(plot.figure, "png")}
    (folder / PLOTS_FOLDER).mkdir(exist_ok=True)
    for path in (folder / PLOTS_FOLDER).iterdir():  # of an earlier study of this name
        if path.suffix.removeprefix(".") in KINDS and path.name not in files:
            path.unlink()
    for name, picture in files.items():
        write_bytes(folder / PLOTS_FOLDER / name, picture)
    path = folder / REPORT_FILE
    path.parent.mkdir(exist_ok=True)
    write_text(path, render(content(stored, plots)))
    return path
