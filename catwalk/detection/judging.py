"""Judging detectors: scores of clean and of attacked images that nothing was fitted to, and what they come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.detection.clean_items import CleanItems
from catwalk.detectors import Detector, Score, TrainedDetector
from catwalk.detectors.detector import scores_of
from catwalk.errors import CatwalkError
from catwalk.metrics import DetectionAUROC, DetectionRate
from catwalk.metrics.detection import calibrated_threshold
from catwalk.poisoning.uploads import AttackedUploads
from catwalk.shop.decoding import UInt8Array


@dataclass(frozen=True)
class Detection:
    """How well a detector tells the images of one attack; one row of ``detections.csv``.

    Attributes:
        detector: Name of the detector.
        attack: Name of the attack.
        held_out: Whether the detector was not trained on an attack of this name; true of those that are not trained.
        n_clean: Clean images that it was judged by.
        n_attacked: Attacked images.
        auroc: Area under the ROC curve, over these images.
        auroc_low: Lower end of its interval.
        auroc_high: Upper end.
        threshold: Score above which an image is flagged, set on other clean images.
        tpr: Share of the attacked images that are flagged.
        tpr_low: Lower end of its interval.
        tpr_high: Upper end.
        fpr: Share of the clean images that are flagged; near the rate that the threshold was set for.
        fpr_low: Lower end of its interval.
        fpr_high: Upper end.
        sr: Share of the attacked images that are where the attack wants them.
        sr_unflagged: Share that are there and not flagged: what is left of the attack.
    """

    detector: str
    attack: str
    held_out: bool
    n_clean: int
    n_attacked: int
    auroc: float
    auroc_low: float
    auroc_high: float
    threshold: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    fpr_low: float
    fpr_high: float
    sr: float
    sr_unflagged: float


@dataclass(frozen=True, eq=False)
class Judged:
    """A row with the scores that it is made of.

    Attributes:
        detection: The row.
        clean: Scores of the clean images, float32 ``(n,)``.
        attacked: Scores of the attacked images, float32 ``(m,)``.
    """

    detection: Detection
    clean: Tensor
    attacked: Tensor


def judge(
    detectors: Sequence[Detector],
    clean: CleanItems,
    attacked: Sequence[Path],
    *,
    false_positives: float = 0.01,
    confidence: float = 0.95,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Judged]:
    """Fit, calibrate and judge detectors, each by other items.

    Attacked images of items that are not to judge by are left aside.

    Args:
        detectors: The detectors.
        clean: The clean items, with their roles.
        attacked: Folders with attacked images of this catalogue.
        false_positives: Share of clean images that may be flagged, in (0, 1).
        confidence: Of all intervals, in (0, 1).
        batch_size: Images per forward pass; changes speed and memory, never the result.
        progress: Called after each detector and attack with the number done and the number of all.

    Returns:
        A row for each detector and folder, detectors first.

    Raises:
        CatwalkError: If a folder is no attack on this catalogue, an attack has no image to judge by, there are too few
            items to calibrate on, or a detector does not fit the network.
    """
    if not 0 < confidence < 1:
        raise CatwalkError(f"confidence: must be in (0, 1), got {confidence!r}")
    by = clean.with_role("judge")
    uploads = [AttackedUploads.read(Path(folder), clean.catalogue, by) for folder in attacked]
    for upload in uploads:
        if not len(upload.items):
            raise CatwalkError(
                f"attacked: none of the attacked items in {upload.folder} is one to judge by: attack more items, or "
                "give smaller roles.fit and roles.calibrate"
            )
    judged: list[Judged] = []
    for detector in detectors:
        scores = partial(_scores, detector.fitted(clean.reference), clean, batch_size)
        calibration, judging = np.flatnonzero(clean.with_role("calibrate")), np.flatnonzero(by)
        threshold = calibrated_threshold(scores(clean.levels(calibration), calibration), false_positives)
        of_clean = scores(clean.levels(judging), judging)
        for upload in uploads:
            of_attacked = scores(upload.levels, upload.items)
            row = _detection(detector, upload, of_clean, of_attacked, threshold, confidence)
            judged.append(Judged(row, of_clean, of_attacked))
            if progress is not None:
                progress(len(judged), len(detectors) * len(uploads))
    return judged


def _scores(
    score: Score, clean: CleanItems, batch_size: int, levels: Sequence[UInt8Array], items: NDArray[np.int64]
) -> Tensor:
    """Return the scores of images that are uploaded for items."""
    return scores_of(score, clean.network, levels, clean.declared[torch.from_numpy(items)], batch_size)


def _detection(
    detector: Detector, upload: AttackedUploads, clean: Tensor, attacked: Tensor, threshold: float, confidence: float
) -> Detection:
    area, positives, negatives = DetectionAUROC(confidence), *(DetectionRate(threshold, confidence) for _ in range(2))
    area.update(clean, torch.zeros(len(clean), dtype=torch.bool))
    area.update(attacked, torch.ones(len(attacked), dtype=torch.bool))
    positives.update(attacked)
    negatives.update(clean)
    rates = {"tpr": positives.compute(), "fpr": negatives.compute()}
    success = torch.from_numpy(upload.success)
    return Detection(
        detector=detector.title,
        attack=upload.attack,
        held_out=not isinstance(detector, TrainedDetector) or upload.attack not in detector.trained_on,
        n_clean=len(clean),
        n_attacked=len(attacked),
        threshold=threshold,
        **{name: float(value) for name, value in area.compute().items()},
        **{f"{name}{end}": float(rates[name][key]) for name in rates for end, key in _ENDS},
        sr=float(success.double().mean()),
        sr_unflagged=float((success & (attacked <= threshold)).double().mean()),
    )


_ENDS = (("", "rate"), ("_low", "low"), ("_high", "high"))
