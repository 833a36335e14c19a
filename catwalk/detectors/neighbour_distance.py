"""How far an image's features are from those of clean items of its category."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from catwalk.detectors.detector import Detector, Reference, Score, check_declared, features_of
from catwalk.errors import CatwalkError

Measure = Literal["knn", "mahalanobis"]
Whose = Literal["declared", "predicted"]


@dataclass(frozen=True)
class NeighbourDistance(Detector):
    """Distance of an image's features from those of clean items of a category.

    ``knn`` is the mean Euclidean distance from the k nearest of them (cf. Papernot and McDaniel, "Deep k-Nearest
    Neighbors", arXiv:1803.04765, who count neighbours of other labels, and Sun et al., "Out-of-Distribution Detection
    with Deep Nearest Neighbors", ICML 2022, who take the k-th). ``mahalanobis`` is the squared distance
    ``(f - μ_c)ᵀ Σ⁻¹ (f - μ_c)`` from their mean, where Σ is what all categories share: the covariance around their
    means (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
    NeurIPS 2018, equation 2, of the last layer alone and without their noise on the input). A category without clean
    items is compared with those of all categories.

    Attributes:
        measure: ``knn`` or ``mahalanobis``.
        category: Whose items: those of the category that the image is uploaded under (``declared``), from which a
            targeted attack moves away, or of that in which the network sees it (``predicted``), where an attack may
            not quite arrive.
        neighbours: k, at least 1; as many as there are where a category has fewer. For ``knn`` alone.
        shrinkage: Share in [0, 1] of Σ that is replaced by the same variance in all directions, above 0 where there
            are fewer items than features. For ``mahalanobis`` alone.

    Raises:
        CatwalkError: If an attribute is out of its range.
    """

    measure: Measure = "knn"
    category: Whose = "declared"
    neighbours: int = 5
    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        for argument, allowed, value in (
            ("measure", get_args(Measure), self.measure),
            ("category", get_args(Whose), self.category),
        ):
            if value not in allowed:
                raise CatwalkError(f"{argument}: must be one of {', '.join(allowed)}, got {value!r}")
        if self.neighbours < 1:
            raise CatwalkError(f"neighbours: must be at least 1, got {self.neighbours!r}")
        if not 0 <= self.shrinkage <= 1:
            raise CatwalkError(f"shrinkage: must be a share in [0, 1], got {self.shrinkage!r}")

    @property
    def title(self) -> str:
        """Such as ``"kNN (declared)"``."""
        return f"{'kNN' if self.measure == 'knn' else 'Mahalanobis'} ({self.category})"

    @property
    def passes(self) -> int:
        """One, for the features."""
        return 1

    @torch.inference_mode(False)
    @torch.no_grad()
    def fitted(self, reference: Reference) -> Score:
        """Return the score.

        Raises:
            CatwalkError: If there are no clean items, or their covariance cannot be inverted.
        """
        known = reference.declared >= 0
        features, categories = reference.features[known].float(), reference.declared[known]
        if not len(features):
            raise CatwalkError(
                "detector: NeighbourDistance needs clean items of the network's categories to compare with, and there "
                "are none: take a network that was trained on the shop's categories"
            )
        if self.measure == "knn":
            return _Nearest(self.category, features, categories, self.neighbours)
        return _Mahalanobis(self.category, *gaussians(features, categories, self.shrinkage))


@dataclass(frozen=True, eq=False)
class _Nearest:
    """The mean distance from the nearest items of a category: ``features`` ``(M, D)``, ``categories`` ``(M,)``."""

    whose: Whose
    features: Tensor
    categories: Tensor
    neighbours: int

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        wanted = _wanted(self.whose, logits, declared)
        features = features_of(network, images, self.features.shape[1])
        references = self.features.to(features.device)
        others = self.categories.to(wanted.device) != wanted[:, None]
        others &= ~others.all(dim=1, keepdim=True)  # a category without items stands for all
        distances = torch.cdist(features, references, compute_mode="donot_use_mm_for_euclid_dist")
        k = min(self.neighbours, len(references))
        nearest = distances.masked_fill(others, torch.inf).topk(k, dim=1, largest=False).values
        found = nearest.isfinite()
        return torch.where(found, nearest, 0.0).sum(dim=1) / found.sum(dim=1)


@dataclass(frozen=True, eq=False)
class _Mahalanobis:
    """The squared distance from the mean of a category, of ``means`` ``(C + 1, D)``, after ``whitening`` ``(D, D)``."""

    whose: Whose
    means: Tensor
    has_items: Tensor
    whitening: Tensor

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        wanted = _wanted(self.whose, logits, declared)
        features = features_of(network, images, len(self.whitening))
        last = len(self.means) - 1
        is_known = self.has_items.to(wanted.device)[wanted.clamp(max=last)] & (wanted < last)
        means = self.means.to(features.device)[torch.where(is_known, wanted, last)]
        return ((features - means) @ self.whitening.to(features.device)).square().sum(dim=1)


def gaussians(features: Tensor, categories: Tensor, shrinkage: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means of categories, and what whitens the covariance around them.

    Args:
        features: float32 ``(M, D)``.
        categories: int64 ``(M,)`` in ``0..C-1``.
        shrinkage: As :class:`NeighbourDistance` has it.

    Returns:
        ``(means, has_items, whitening)``: float32 ``(C + 1, D)``, of which the last is that of all items, bool
        ``(C + 1,)``, and float32 ``(D, D)`` W with ``W Wᵀ = Σ⁻¹``.

    Raises:
        CatwalkError: If the covariance cannot be inverted.
    """
    values = features.double()
    count = int(categories.max()) + 1
    members = torch.nn.functional.one_hot(categories, count).double()
    numbers = members.sum(dim=0)
    means = (members.T @ values) / numbers.clamp(min=1)[:, None]
    residuals = values - means[categories]
    covariance = residuals.T @ residuals / len(values)
    size = len(covariance)
    even = covariance.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=values.device)
    covariance = (1 - shrinkage) * covariance + shrinkage * even
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) or float(factor.diagonal().min()) < 1e-9 * float(factor.diagonal().max()):
        raise CatwalkError(
            f"detector: the covariance of {len(values)} clean items' {size} features cannot be inverted: give "
            f"NeighbourDistance a larger shrinkage than {shrinkage:g}, or more items to fit to"
        )
    identity = torch.eye(size, dtype=torch.float64, device=values.device)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
    all_means = torch.cat([means, values.mean(dim=0, keepdim=True)])
    has_items = torch.cat([numbers > 0, torch.ones(1, dtype=torch.bool, device=values.device)])
    return all_means.float(), has_items, whitening.contiguous().float()


def _wanted(whose: Whose, logits: Tensor, declared: Tensor) -> Tensor:
    """Return the category whose items each image is compared with, int64 ``(N,)``."""
    if whose == "predicted":
        return logits.argmax(dim=1)
    check_declared(declared)
    return declared
