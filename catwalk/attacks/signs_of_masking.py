"""Signs that attacks have not found what there is to find: the network hides its gradient, or is not what it seems.

The signs are those of Carlini et al., "On Evaluating Adversarial Robustness", arXiv 1902.06705, 2019, and
of the flags that AutoAttack raises.
"""

import torch
from torch import Tensor, nn

from catwalk.attacks.apgd import evaluate
from catwalk.networks.frozen import eval_mode

_PASSES = 5
"""How often a network is asked the same to see whether it draws random numbers."""

_ROUNDING = 1e-4
"""Share of the largest logit by which those of two passes may differ without being random."""

SUSPICIOUS_SHARE = 0.002
"""Share of the images that an attack without gradients may win alone; AutoAttack's flag has the same."""


def has_no_gradient(network: nn.Module, images: Tensor, categories: Tensor) -> Tensor:
    """Return which images have a gradient of exactly 0, so that attacks by gradients are blind, bool ``(N,)``.

    The gradient is that of by how much the image's category leads the others. That of the cross-entropy is 0, too,
    where a network is very sure; the difference of logits ratio sees through this.

    Args:
        network: Takes images, returns logits ``(N, C)``; asked in eval mode.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        categories: int64 ``(N,)``.
    """

    def lead(logits: Tensor) -> Tensor:
        others = logits.scatter(1, index, -torch.inf).amax(dim=1)
        return logits.gather(1, index)[:, 0] - others

    with torch.inference_mode(False), torch.enable_grad(), eval_mode(network):
        index = categories.clone()[:, None]  # an inference tensor could take no part in a gradient
        _, _, gradient = evaluate(network, images.clone(), lead)
    return (gradient == 0).flatten(1).all(dim=1)


@torch.no_grad()
def is_random(network: nn.Module, images: Tensor) -> bool:
    """Return whether a network answers differently when it is asked the same again.

    Args:
        network: Takes images, returns logits ``(N, C)``; asked in eval mode.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
    """
    with eval_mode(network):
        first, *others = (network(images).float() for _ in range(_PASSES))
    return any(float((logits - first).abs().max()) > _ROUNDING * float(first.abs().max()) for logits in others)


@torch.no_grad()
def gives_probabilities(network: nn.Module, images: Tensor) -> bool:
    """Return whether what a network gives are probabilities instead of logits, whose gradients vanish.

    Args:
        network: Takes images, returns ``(N, C)``; asked in eval mode.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
    """
    with eval_mode(network):
        outputs = network(images).float()
    return bool((outputs >= 0).all()) and bool(((outputs.sum(dim=1) - 1).abs() < _ROUNDING).all())
