"""Judging detectors from the command line: a table on the screen, as CSV, and the ROC curves."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from catwalk.detection.clean_items import CleanItems
from catwalk.detection.judging import Detection, Judged, judge
from catwalk.detectors import DeclaredCategory, Detector, FeatureSqueezing, ItemRoles, NeighbourDistance
from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_text
from catwalk.files.csv_text import to_cell
from catwalk.networks.classifier import load_classifier
from catwalk.networks.device import device_of
from catwalk.plots.roc import RocCurve, draw_roc
from catwalk.plots.style import save
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import ReportProgress
from catwalk.terminal.progress import Progress

DETECTIONS_FILE, ROC_FILE = "detections.csv", "roc.svg"


def untrained_detectors() -> list[Detector]:
    """Return the detectors that need no training."""
    return [
        FeatureSqueezing(),
        DeclaredCategory(),
        NeighbourDistance("knn", "declared"),
        NeighbourDistance("knn", "predicted"),
        NeighbourDistance("mahalanobis", "declared"),
        NeighbourDistance("mahalanobis", "predicted"),
    ]


def detect(
    dataset: Path,
    classifier: Path,
    attacked: list[Path],
    detectors: list[Detector] = [],  # noqa: B006 - a default that is shown in the help and never changed
    output: Path | None = None,
    false_positives: float = 0.01,
    confidence: float = 0.95,
    roles: ItemRoles = ItemRoles(),  # noqa: B008 - frozen
    device: str | None = None,
    backbone: str | None = None,
    backbone_args: dict[str, Any] | None = None,
) -> list[Detection]:
    """Judge detectors of poisoned uploads by attacks on a shop's images, and print how many they find.

    A detector is fitted to some clean items, its threshold is set on others, and it is judged by the rest, clean and
    attacked; which is which depends on the items' ids alone.

    Args:
        dataset: The dataset folder.
        classifier: Checkpoint of the network that the detectors protect, which ``catwalk fit`` wrote.
        attacked: Folders with attacked images, which ``catwalk attack`` or ``catwalk fit`` wrote.
        detectors: The detectors; without any, all that need no training.
        output: Folder for ``detections.csv`` and ``roc.svg``; nothing is written without.
        false_positives: Share of clean images that may be flagged, in (0, 1).
        confidence: Of all intervals, in (0, 1).
        roles: Which items are for what.
        device: Where it runs, such as cpu or cuda:1; a GPU where there is one by default.
        backbone: Import path of the classifier's backbone, where it is your own: a checkpoint alone decides about none
            but those of Catwalk, torchvision and timm.
        backbone_args: The arguments that your own backbone was trained with, if there were any.

    Returns:
        A row for each detector and folder.

    Raises:
        CatwalkError: If an argument does not fit the dataset or the network, or a folder is no attack on the dataset.
    """
    if not attacked:
        raise CatwalkError("attacked: give the folder of one attack at least, which `catwalk attack` wrote")
    catalogue = Catalogue.read(dataset)
    network = load_classifier(classifier, backbone, backbone_args)
    network.network.to(device_of(device))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def report(title: str) -> ReportProgress:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        clean = CleanItems.see(network, catalogue, roles, report("Decoding images"))
        judged = judge(
            detectors or untrained_detectors(),
            clean,
            [Path(folder) for folder in attacked],
            false_positives=false_positives,
            confidence=confidence,
            progress=report("Judging detectors"),
        )
    rows = [each.detection for each in judged]
    _print(rows, false_positives)
    if output is not None:
        write_detections(rows, Path(output) / DETECTIONS_FILE)
        _draw(judged, false_positives, Path(output) / ROC_FILE)
        line = f"• {DETECTIONS_FILE} and {ROC_FILE} are in {output}"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return rows


def write_detections(rows: Sequence[Detection], path: Path) -> None:
    """Write rows as CSV with a header."""
    with open_text(path) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Detection)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: to_cell(value) for name, value in asdict(row).items()} for row in rows)


def _print(rows: Sequence[Detection], false_positives: float) -> None:
    """Print a line for each row, on lines as long as it takes."""
    table = Table(box=None, pad_edge=False)
    for name in ("Detector", "Attack"):
        table.add_column(name, no_wrap=True)
    for name in ("AUROC", f"TPR at {false_positives:.3g} FPR", "FPR", "SR", "SR unflagged"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row.detector),
            escape(row.attack) + ("" if row.held_out else " (trained on it)"),
            f"{row.auroc:.3f} ({row.auroc_low:.3f} to {row.auroc_high:.3f})",
            f"{row.tpr:.1%} ({row.tpr_low:.1%} to {row.tpr_high:.1%})",
            f"{row.fpr:.1%}",
            f"{row.sr:.1%}",
            f"{row.sr_unflagged:.1%}",
        )
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=1000)).maximum)
    console.print(table, highlight=False)


def _draw(judged: Sequence[Judged], false_positives: float, path: Path) -> None:
    curves = [RocCurve(each.detection.detector, each.detection.attack, each.clean, each.attacked) for each in judged]
    n_clean = judged[0].detection.n_clean
    title = f"Attacked images that detectors flag, against {n_clean:,} clean ones"
    save(draw_roc(curves, false_positives=false_positives, title=title), path)
