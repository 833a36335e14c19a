"""The table of what detectors find."""

from collections.abc import Sequence
from typing import Any

from catwalk.study.stages.detection import DetectionStage
from catwalk.study.table import Row, Table, Value


def detectors_table(stages: Sequence[DetectionStage], with_protocol: bool) -> Table:
    """Return what detectors find, a row for each network, detector and attack.

    Args:
        stages: All done.
        with_protocol: Whether to tell protocols apart.
    """
    rows: list[Row] = []
    for stage in stages:
        found = stage.detection
        labels = [
            stage.features.classifier.name,
            found.detector,
            found.attack + ("" if found.held_out else " (trained)"),
        ]
        of_protocol = [stage.attack.protocol.name] if with_protocol else []
        percent: dict[str, Any] = {"digits": 1, "factor": 100, "unit": "%"}
        values = (
            Value((found.auroc,), 3, interval=(found.auroc_low, found.auroc_high)),
            Value((found.tpr,), interval=(found.tpr_low, found.tpr_high), **percent),
            Value((found.fpr,), interval=(found.fpr_low, found.fpr_high), **percent),
            Value((found.sr,), **percent),
            Value((found.sr_unflagged,), **percent),
            Value((found.n_attacked,), 0),
            Value((found.n_clean,), 0),
        )
        rows.append(((*of_protocol, *labels), values))
    rate = f"{stages[0].judging.false_positives:.3g}"
    headings = ("AUROC", "TPR", "FPR", "SR", "SR unflagged", "Attacked", "Clean")
    trained = any(not stage.detection.held_out for stage in stages)
    return Table(
        name="Detectors",
        title=f"attacked images that detectors flag, at a threshold for {rate} false positives",
        notes=(
            "Of items that no detector was fitted to, trained or calibrated on. SR unflagged: images that succeed and "
            "pass." + (" (trained): the detector was trained on this attack." if trained else "")
        ),
        row_headings=(*(["Protocol"] if with_protocol else []), "CNN", "Detector", "Attack"),
        groups=("",) * len(headings),
        headings=headings,
        rows=tuple(rows),
        best=frozenset(),
    )
