"""How well scores tell poisoned images from clean ones: AUROC, and rates at a threshold that clean images set."""

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from catwalk.errors import CatwalkError
from catwalk.metrics.share_interval import share_interval


def auroc(clean: Tensor, poisoned: Tensor) -> float:
    """Return the area under the ROC curve: the share of pairs in which the poisoned image has the higher score.

    Equal scores count one half (Hanley and McNeil, Radiology 143, 1982: the statistic of Mann and Whitney).

    Args:
        clean: Scores of clean images, ``(n,)``.
        poisoned: Scores of poisoned images, ``(m,)``.

    Returns:
        In [0, 1]; NaN where one of them has none.

    Example:
        >>> import torch
        >>> from catwalk.metrics.detection import auroc
        >>> auroc(torch.tensor([0.1, 0.4]), torch.tensor([0.4, 0.9]))
        0.875
    """
    if not len(clean) or not len(poisoned):
        return math.nan
    ordered = clean.contiguous().sort().values
    below = torch.searchsorted(ordered, poisoned.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, poisoned.contiguous(), right=True)
    return int((below + up_to).sum()) / (2 * len(clean) * len(poisoned))


def auroc_interval(area: float, num_clean: int, num_poisoned: int, confidence: float) -> tuple[float, float]:
    """Return an interval of an area under the ROC curve, over the images.

    The areas whose distance from the one measured is at most z of their own standard errors by Hanley and McNeil
    (Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", Statistics in
    Medicine 25, 2006, part 2, method 5). Unlike that of DeLong it has a width where all pairs are in order.

    Args:
        area: Measured, in [0, 1].
        num_clean: n, at least 1.
        num_poisoned: m, at least 1.
        confidence: In (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    pairs, others = num_clean * num_poisoned, (num_clean + num_poisoned) / 2 - 1

    def is_within(true: float) -> bool:
        shape = 1 + others * (1 - true) / (2 - true) + others * true / (1 + true)
        return abs(area - true) <= z * math.sqrt(true * (1 - true) * shape / pairs)

    ends = []
    for outside in (0.0, 1.0):
        inside = area
        for _ in range(60):
            middle = (outside + inside) / 2
            outside, inside = (outside, middle) if is_within(middle) else (middle, inside)
        ends.append(inside)
    return ends[0], ends[1]


def calibrated_threshold(clean: Tensor, false_positives: float) -> float:
    """Return the score above which an image is flagged, so that few clean ones are.

    The ⌈(n + 1)(1 - α)⌉-th smallest of n scores: a clean image that was not among them exceeds it with probability α at
    most (split conformal prediction; Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005).

    Args:
        clean: Scores of clean images that nothing was fitted to, ``(n,)``.
        false_positives: α, the share of clean images that may be flagged, in (0, 1).

    Raises:
        CatwalkError: If the share is out of its range, or there are too few clean images for it.
    """
    if not 0 < false_positives < 1:
        raise CatwalkError(f"false_positives: must be a share of the clean images in (0, 1), got {false_positives!r}")
    # Rounded, for 1 - 0.99 is a bit above 0.01.
    place = math.ceil(round((len(clean) + 1) * (1 - false_positives), 9))
    if place > len(clean):
        least = math.ceil(round(1 / false_positives, 9)) - 1
        raise CatwalkError(
            f"false_positives: a rate of {false_positives:g} needs {least} clean items to calibrate on at least, and "
            f"there are {len(clean)}: allow more false positives, or a larger roles.calibrate"
        )
    return float(clean.sort().values[place - 1])


class DetectionAUROC(Metric):
    """Area under the ROC curve of a detector's scores, with its interval.

    Args:
        confidence: Of the interval, in (0, 1).
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    clean: list[Tensor]
    poisoned: list[Tensor]

    def __init__(self, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confidence = confidence
        self.add_state("clean", [], dist_reduce_fx="cat")
        self.add_state("poisoned", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_poisoned: Tensor) -> None:
        """Add scores ``(N,)`` of images, of which some are poisoned, bool ``(N,)``."""
        self.clean.append(scores[~is_poisoned].detach().float())
        self.poisoned.append(scores[is_poisoned].detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Return ``auroc``, ``auroc_low`` and ``auroc_high``, float64 scalars; NaN without clean or poisoned images."""
        clean, poisoned = _joined(self.clean), _joined(self.poisoned)
        area = auroc(clean, poisoned)
        ends = (math.nan, math.nan)
        if not math.isnan(area):
            ends = auroc_interval(area, len(clean), len(poisoned), self.confidence)
        values = zip(("auroc", "auroc_low", "auroc_high"), (area, *ends), strict=True)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values}


class DetectionRate(Metric):
    """Share of images that a detector flags, with Wilson's interval: true positives of poisoned ones, false of clean.

    Args:
        threshold: Score above which an image is flagged.
        confidence: Of the interval, in (0, 1).
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor

    def __init__(self, threshold: float, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.confidence = confidence
        self.add_state("counts", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor) -> None:
        """Add scores ``(N,)``."""
        flagged = (scores > self.threshold).sum()
        self.counts = self.counts + torch.stack([flagged, torch.full_like(flagged, len(scores))])

    def compute(self) -> dict[str, Tensor]:
        """Return ``rate``, ``low`` and ``high``, float64 scalars; NaN without images."""
        flagged, images = self.counts.tolist()
        values = (math.nan, math.nan, math.nan)
        if images:
            values = (flagged / images, *share_interval(flagged, images, self.confidence))
        names = ("rate", "low", "high")
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(names, values, strict=True)}


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """Return scores as one tensor, also where there are none."""
    return dim_zero_cat(parts) if len(parts) else torch.zeros(0)
