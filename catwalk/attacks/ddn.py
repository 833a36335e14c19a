"""The decoupled direction and norm attack."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.least_change import per_image
from catwalk.attacks.radius_search import RadiusSearch, Rows
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError

Loss = Literal["margin", "ce"]


class DDN(RadiusSearch):
    """Looks for the image nearest to the clean one, in L2, at the price of one gradient a step and no search for c.

    A step moves the perturbation by α along the gradient divided by its length, and then gives it the length ε, which
    is a share γ less than before where the image succeeds, and γ more where it does not: ``δ ← δ + α·g/‖g‖₂``,
    ``ε ← (1 ∓ γ)·ε``, ``x̃ ← clip(x + ε·δ/‖δ‖₂)``, with α falling from 1 to 0.01 along half a cosine (Rony et al.,
    "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses", CVPR 2019,
    algorithm 1).

    Three things differ from the paper, each of which makes the changes smaller. γ falls, as in FMN, from where an image
    has both succeeded and failed on; theirs stays, and at 5% the length found is known no better than that. The
    gradient is that of the difference between the wanted logit and the largest other, which says where the border is;
    the cross-entropy, ``loss: ce``, also pulls at the other categories. And δ is not rounded itself, but the image that
    the network is shown: rounding takes short steps away. ``DDN(loss="ce", final_gamma=0.05, rounded=False)`` is the
    attack of the paper but for that rounding.

    An image without gradient stays where it is, where theirs takes a random step.

    Args:
        iterations: Number of steps, at least 1.
        gamma: Share γ by which ε changes at first, between 0 and 1.
        final_gamma: γ towards the end, at least 0 and at most ``gamma``.
        initial_norm: ε before the first step in grey levels, above 0: a Euclidean length over all values of an image,
            where 255 is a distance of 1 between images in [0, 1].
        step: α of the first step in grey levels, above 0.
        final_step: α towards the end, above 0 and at most ``step``.
        loss: Whose gradient is followed, ``"margin"`` or ``"ce"``.
        check_every: In the second half of the steps an image ends where its least distance has not fallen by a
            thousandth within so many steps, at least 1; None means a tenth of ``iterations``, and from ``iterations``
            on every step is taken.
        rounded: Whether the network is shown images rounded to 8 bits, so that what succeeds is what will be saved.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`; ``precision`` must stay 32.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import DDN
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6).eval()
        >>> images, targets = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
        >>> result = DDN(iterations=40)(network, images, targets)
        >>> bool((network(result.images).argmax(1)[result.success] == 0).all())
        True
    """

    def __init__(
        self,
        iterations: int = 100,
        gamma: float = 0.05,
        final_gamma: float = 0.001,
        initial_norm: GreyLevels = 255.0,
        step: GreyLevels = 255.0,
        final_step: GreyLevels = 2.55,
        loss: Loss = "margin",
        check_every: int | None = None,
        rounded: bool = True,
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        schedule = iterations, step, final_step, gamma, final_gamma, check_every
        super().__init__("l2", *schedule, rounded=rounded, targeted=targeted, **settings)
        initial_norm = grey_levels(initial_norm, "initial_norm")
        if not 0 < initial_norm < math.inf:
            raise CatwalkError(f"initial_norm: must be a number of grey levels above 0, got {initial_norm!r}")
        if loss not in get_args(Loss):
            raise CatwalkError(f"loss: must be one of {', '.join(get_args(Loss))}, got {loss!r}")
        self.initial_norm = initial_norm
        self.loss = loss

    @property
    def title(self) -> str:
        """The name with what is spent on each image: ``"DDN (100)"``."""
        return f"DDN ({self.iterations})"

    def first_radius(self, longest: Tensor) -> Tensor:
        """Return ``initial_norm``; see :meth:`RadiusSearch.first_radius`."""
        return torch.full_like(longest, self.initial_norm / 255)

    def next_radius(self, rows: Rows, lag: Tensor, gradient: Tensor, gamma: float) -> Tensor:
        """Return a share less or more than before; see :meth:`RadiusSearch.next_radius`."""
        is_between = rows.has_failed & (rows.distance < math.inf)
        shares = torch.where(is_between, gamma, self.gamma).to(rows.radius)
        return rows.radius * torch.where(rows.is_success, 1 - shares, 1 + shares)

    def onto_ball(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Return perturbations of the length of the radius; one of length 0 stays."""
        lengths = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3))
        return perturbation * per_image(radius / lengths.clamp(min=torch.finfo(lengths.dtype).tiny))

    def ascent(self, logits: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the gradient of what is to rise; see :meth:`RadiusSearch.ascent`."""
        if self.loss == "margin":
            return super().ascent(logits, targets, direction)
        residual = torch.zeros_like(logits).scatter(1, targets[:, None], 1.0) - logits.softmax(dim=1)
        return residual if self.targeted else -residual
