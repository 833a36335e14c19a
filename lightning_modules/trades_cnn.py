"""TRADES: training of the CNN that trades accuracy on clean images for steadiness around them."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.attacks.attack import check_steps
from catwalk.attacks.pgd import steepest
from catwalk.attacks.threat_model import GreyLevels, ThreatModel, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.frozen import eval_mode
from lightning_modules.adversarial_cnn import DefendedClassifier

START = 1e-3
"""Standard deviation of the normal noise from which perturbations start, where 1 is the range of a pixel."""


class TradesClassifier(DefendedClassifier):
    """A CNN trained to tell clean images, and to give the images around them the same probabilities (TRADES).

    Every step minimises ``CE(f(x), y) + β · mean KL(p(x) ‖ p(x'))``, with p the probabilities of the network f. The
    perturbed image x' maximises the divergence over the ε-ball: from ``x + 0.001·N(0, 1)``, steps along the sign of its
    gradient are each projected onto the ball and clipped to [0, 1] (Zhang et al., "Theoretically Principled Trade-off
    between Robustness and Accuracy", ICML 2019, Eq. 5 and algorithm 1; β is their 1/λ). The larger β, the steadier the
    network and the lower its accuracy on clean images.

    As in the authors' code the network is in eval mode while x' is looked for, and p(x) is held fixed there; both
    gradients of the divergence flow in the step itself, for which clean and perturbed images are two passes in train
    mode. ``label_smoothing`` is of the cross-entropy alone.

    With F the cost of a forward pass, a step costs F and 2F per iteration for x', and 6F for the training: 27F with ten
    iterations, 9 traditional steps.

    Args:
        epsilon: Radius ε of the perturbations in grey levels, above 0 and at most 255; ``"8/255"`` are 8.
        beta: Weight β of the divergence, at least 0; 6 in the paper's networks on CIFAR10.
        step: Length of a step in grey levels, above 0; None means ``epsilon / 4``, the authors' 2 (0.007) for an ε of
            8.
        iterations: Number of steps, at least 1.
        **settings: As in :class:`ProductClassifier`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        beta: float = 6.0,
        step: GreyLevels | None = None,
        iterations: int = 10,
        **settings: Any,
    ) -> None:
        epsilon, step = grey_levels(epsilon), None if step is None else grey_levels(step, "step")
        super().__init__(epsilon, **settings)
        if not 0 <= beta < math.inf:
            raise CatwalkError(f"beta: must be a number of 0 or above, got {beta!r}")
        check_steps(iterations, step, "epsilon / 4")
        self.ball = ThreatModel("linf", epsilon)
        self.step = epsilon / 4 if step is None else step

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of clean images and β times their divergence from perturbed ones."""
        images, categories = batch
        perturbed = self.perturb(images)
        logits = self(images)
        natural = F.cross_entropy(logits, categories, label_smoothing=self.hparams["label_smoothing"])
        divergence = divergences(logits, self(perturbed)).mean()
        loss = natural + self.hparams["beta"] * divergence
        self.watch_loss(loss)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/divergence", divergence)
        return loss

    def perturb(self, images: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` in the ε-ball whose probabilities differ from those of the clean ones."""
        with eval_mode(self.network):
            # Not under no_grad: autocast would keep its copies of the weights for the step, and they without gradient.
            clean = self.network(images).detach()
            points = images + START * torch.randn_like(images)
            for _ in range(self.hparams["iterations"]):
                points = points.detach().requires_grad_()
                # Summed, and of the images alone: nothing reaches the parameters' gradients.
                divergence = divergences(clean, self.network(points)).sum()
                (gradient,) = torch.autograd.grad(divergence, points)
                moved = points.detach() + self.step / 255 * steepest(gradient, "linf")
                points = self.ball.project(moved, images)
        return points.detach()


def divergences(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence ``KL(p ‖ q)`` of each row, ``(N,)``, in nats.

    Args:
        logits: Those of p, ``(N, C)``.
        others: Those of q, ``(N, C)``.
    """
    log_p, log_q = (values.float().log_softmax(dim=1) for values in (logits, others))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
