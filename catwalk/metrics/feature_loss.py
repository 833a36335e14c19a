"""FL: how far an attack moves the features of the attacked images."""

from torch import Tensor

from catwalk.metrics.mean import Float64Mean


def feature_loss(before: Tensor, after: Tensor) -> Tensor:
    """Return the mean squared error between an item's features before and after the attack.

    Args:
        before: Float ``(B, D)``, the raw features (not rescaled) of the clean images.
        after: Float ``(B, D)``, those of the same images after the attack.

    Returns:
        float64 ``(B,)``, 0 or more.

    Raises:
        ValueError: If the two are not matrices of one and the same shape.

    Example:
        >>> import torch
        >>> from catwalk.metrics.feature_loss import feature_loss
        >>> feature_loss(torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]]))
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"before and after must be (B, D) each, got {tuple(before.shape)} and {tuple(after.shape)}")
    return (after.double() - before.double()).square().mean(dim=1)


class FeatureLoss(Float64Mean):
    """Mean squared error of the raw features before and after an attack, over all attacked items; 0 or more.

    Reference: Anelli et al., *Assessing perceptual and recommendation mutation of adversarially-poisoned visual
    recommenders*, AIxIA 2020 Discussion Papers Workshop, section 3.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from catwalk.metrics import FeatureLoss
        >>> features = torch.rand(100, 64, generator=torch.Generator().manual_seed(0))
        >>> metric = FeatureLoss()
        >>> metric.update(features, features + 0.5)
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def update(self, before: Tensor, after: Tensor) -> None:
        """Add a batch of items; see :func:`feature_loss` for what is expected of the arguments."""
        self.add(feature_loss(before, after))
