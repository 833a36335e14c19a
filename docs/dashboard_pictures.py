"""Draws the pictures of docs/dashboard.md from what runs have left behind.

CHR@K by epoch comes from runs with `--config configs/logger/csv.yaml` and `--data.validation=true`, the other two from
a study. For example, after `make demo` and three runs of VBPR as docs/dashboard.md has them:

    .venv/bin/python docs/dashboard_pictures.py runs/demo docs \
        "no attack=runs/csv/version_0" "rank attack (ε = 8)=runs/csv/version_1" "PGD (ε = 8)=runs/csv/version_2"
"""

import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from PIL import Image

from catwalk.plots.style import BELOW, BLUE, DIM, GREY, ORANGE, PURPLE, SIZE, house_style, new_figure, save
from catwalk.study.grid import NO_ATTACK

COLOURS = (GREY, "#56b4e9", BLUE, "#e69f00", ORANGE, PURPLE, "#009e73", "#f0e442")
"""Of the palette of Okabe and Ito (2008)."""

MARKERS = "osD^vP"

Rows = list[dict[str, str]]


def main(study: Path, output: Path, runs: Sequence[str]) -> None:
    cells = read(study / "cells.csv")
    histories = {label: Path(folder) for label, _, folder in (run.rpartition("=") for run in runs)}
    pictures = {
        "epochs": draw_epochs(histories, cells[0]["source"]),
        "table1": draw_table_1(cells),
        "looks": draw_looks(cells),
    }
    for name, figure in pictures.items():
        path = output / f"dashboard_{name}.png"
        save(figure, path)
        with Image.open(path) as image:
            image.convert("RGB").quantize(128).save(path, optimize=True)  # a third of the bytes


def draw_epochs(runs: dict[str, Path], source: str) -> Figure:
    """Draw CHR@K of the attacked category in the validation of every epoch."""
    with house_style():
        figure = new_figure()
        axes = figure.add_subplot()
        starts = set()
        for (label, folder), colour in zip(runs.items(), (GREY, BLUE, ORANGE, PURPLE), strict=False):
            rows = read(folder / "metrics.csv")
            name = next(name for name in rows[0] if name.startswith("val/chr@") and name.endswith(f"/{source}"))
            measured = [row for row in rows if row[name]]
            values = [float(row[name]) for row in measured]
            axes.plot([int(row["epoch"]) for row in measured], values, color=colour, linewidth=1.8, label=label)
            starts |= first_poisoned_epochs(folder)
        for start in starts:
            axes.axvline(start - 0.5, color=DIM, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "images injected",
                (start - 0.5, 1),
                (-6, -4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=9,
                color=DIM,
            )
        axes.set(xlabel="epoch", ylabel=name, ylim=(0, None))
        axes.set_title(f"Places of {source} in a user's list, after every epoch")
        axes.yaxis.grid(True)
        figure.legend(loc=BELOW, ncols=4)
    return figure


def first_poisoned_epochs(run: Path) -> set[int]:
    """Return the epochs at whose beginning a run injects images; 0 is no jump."""
    settings = yaml.safe_load((run / "configuration.yaml").read_text(encoding="utf-8"))
    arguments = (callback.get("init_args") or {} for callback in settings["trainer"]["callbacks"])
    return {its["from_epoch"] for its in arguments if its.get("from_epoch")}


def draw_table_1(cells: Rows) -> Figure:
    """Draw CHR@K by recommender, network and attack: the mean over the seeds, and their standard deviation."""
    recommenders, extractors, attacks = (distinct(cells, name) for name in ("recommender", "extractor", "attack"))
    chr_at_k = next(name for name in cells[0] if name.startswith("chr@"))
    with house_style():
        figure = new_figure(SIZE[0], 1.0 + 2.8 * len(recommenders))
        panels = figure.subplots(len(recommenders), 1, squeeze=False, sharex=True)[:, 0]
        width = 0.8 / len(attacks)
        for axes, recommender in zip(panels, recommenders, strict=True):
            for number, (attack, colour) in enumerate(zip(attacks, COLOURS, strict=False)):
                values = [
                    numbers(cells, chr_at_k, recommender=recommender, extractor=extractor, attack=attack)
                    for extractor in extractors
                ]
                axes.bar(
                    [place + (number - (len(attacks) - 1) / 2) * width for place in range(len(extractors))],
                    [statistics.fmean(its) for its in values],
                    width * 0.92,
                    yerr=[statistics.stdev(its) if len(its) > 1 else 0 for its in values],
                    error_kw={"ecolor": DIM, "elinewidth": 1},
                    color=colour,
                    label=attack if recommender == recommenders[0] else None,
                )
            axes.set_xticks(range(len(extractors)), extractors)
            axes.set_ylabel(chr_at_k)
            axes.set_title(f"{recommender}: places of {cells[0]['source']} in a user's list", fontsize=11)
            axes.tick_params(length=0)
            axes.yaxis.grid(True)
        figure.legend(loc=BELOW, ncols=min(len(attacks), 6), columnspacing=1.2, handlelength=1.2)
    return figure


def draw_looks(cells: Rows) -> Figure:
    """Draw what an attack achieves against how much one sees of it: success rate by LPIPS."""
    attacked = [cell for cell in cells if cell["attack"] != NO_ATTACK and cell["lpips"]]
    extractors, attacks = (distinct(attacked, name) for name in ("extractor", "attack"))
    with house_style():
        figure = new_figure()
        axes = figure.add_subplot()
        for extractor, marker in zip(extractors, MARKERS, strict=False):
            for attack, colour in zip(attacks, COLOURS[1:], strict=False):
                looks, rate = (
                    100 * statistics.fmean(numbers(attacked, name, extractor=extractor, attack=attack))
                    for name in ("lpips", "sr")
                )
                axes.scatter(looks, rate, s=70, marker=marker, color=colour, linewidth=0)
        shown = [(name, marker, GREY) for name, marker in zip(extractors, MARKERS, strict=False)]
        shown += [(name, "o", colour) for name, colour in zip(attacks, COLOURS[1:], strict=False)]
        handles = [axes.scatter([], [], s=60, marker=mark, color=ink, label=name) for name, mark, ink in shown]
        axes.set(xlabel="LPIPS × 100: how different the images look", ylabel="success rate in %", ylim=(0, 105))
        axes.set_xlim(left=0)
        axes.set_title(f"{cells[0]['source']} images that the CNN takes for {cells[0]['target']}")
        axes.yaxis.grid(True)
        figure.legend(handles=handles, loc=BELOW, ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure


def read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def distinct(cells: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(cell[column] for cell in cells))


def numbers(cells: Rows, column: str, **values: str) -> list[float]:
    """Return the figures of the cells with these values."""
    chosen = (cell for cell in cells if all(cell[name] == value for name, value in values.items()))
    return [float(cell[column]) for cell in chosen]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
