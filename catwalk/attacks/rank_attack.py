"""The rank attack: with the recommender known, raise an item's scores themselves."""

import copy
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings, check_numbers
from catwalk.attacks.descent import DescentAttack, features_of
from catwalk.attacks.threat_model import GreyLevels, Norm
from catwalk.errors import CatwalkError
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.recommenders.vbpr import VBPRModel

Objective = Literal["exponential", "mean"]


class RankAttack(DescentAttack):
    """Moves an item's image to where a recommender scores the item highest, over all users.

    The attacker knows the network and the recommender's parameters: the insider attack (INSA) of Liu and Larson,
    "Adversarial Item Promotion: Vulnerabilities at the Core of Top-N Recommenders that Use Images to Address Cold
    Start" (WWW 2021). With ``s_ui(x) = p_u · q_i + ρ_u · E φ(x)`` (Eq. 2 of the reproduced paper) it maximises, over
    all users u,

    - ``exponential``: ``Σ_u exp(s_ui(x))``, as they do, which favours users who like the item already. Maximised as its
      logarithm, which has the same steps and cannot overflow;
    - ``mean``: ``Σ_u s_ui(x)``, which is linear in the features.

    Their attack takes steps of Adam over batches of users. Here every step sees all users, for the score is linear in
    the features: once these are projected to the K dimensions of ρ, all users cost one small product. From the clean
    image ``x = x₀``, or a random point of the ball, it repeats ``x ← P(x + α·d(∇))``, with P and d as in
    :class:`~catwalk.attacks.FeatureMatching`, and keeps the best point on the way.

    ``targets`` are the numbers of the items whose images are attacked, int64 ``(N,)``. It has no target category, and
    succeeds where the objective is higher than for the clean image.

    Costs a forward and a backward pass per step and one forward pass more.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        objective: What is maximised.
        recommender: Checkpoint of the recommender that is known, one that looks at images, trained on the features of
            the network under attack. A study gives its own.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        random_start: Whether to start from a uniformly random point of the ball.
        seed: Seed of the random starts.
        **settings: As in :class:`Attack`.

    Attributes:
        scorer: The recommender's model; None until it is read from ``recommender``. May be set instead of it.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if there is no recommender, or it does not fit
            the network or the items.
    """

    knowledge = "network and recommender"

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 100,
        objective: Objective = "exponential",
        recommender: Path | None = None,
        norm: Norm = "linf",
        random_start: bool = False,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, step, iterations, norm, random_start, seed, targeted=False, **settings)
        if objective not in get_args(Objective):
            raise CatwalkError(f"objective: must be one of {', '.join(get_args(Objective))}, got {objective!r}")
        self.objective = objective
        self.recommender = recommender
        self.scorer: VBPRModel | None = None

    @property
    def title(self) -> str:
        """``"Rank attack"``."""
        return "Rank attack"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence."""
        return f"raise the scores of {source}"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the numbers of the items.

        Raises:
            CatwalkError: If there is no recommender, or it was trained on another catalogue.
        """
        known = self._known(scene.items.device).items.num_embeddings
        if known != len(scene.item_ids):
            raise CatwalkError(
                f"recommender: was trained on another catalogue, of {known} items; this one has {len(scene.item_ids)}"
            )
        return scene.items

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Return the objective with the sign reversed; see :meth:`DescentAttack.loss`."""
        return -self._objective(network, images, targets)

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the objective has risen."""
        return self._objective(network, images, targets) > self._objective(network, clean, targets)

    def _objective(self, network: nn.Module, images: Tensor, items: Tensor) -> Tensor:
        """Return what is maximised, ``(N,)``."""
        scores = self._known(images.device).scores_of_images(network.features(images), items)  # type: ignore[operator]
        return scores.logsumexp(dim=1) if self.objective == "exponential" else scores.mean(dim=1)

    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check that network, recommender and items fit; see :meth:`Attack.check_targets`."""
        scorer, size = self._known(image.device), features_of(network, image).shape[1]
        if len(scorer.projection) != size:
            raise CatwalkError(
                f"recommender: was trained on features of {len(scorer.projection)} values, and the network gives {size}"
            )
        check_numbers("targets", targets, scorer.items.num_embeddings, "for the recommender has {} items")
        with torch.no_grad():
            is_finite = bool(self._objective(network, image, targets[:1]).isfinite())
        if not is_finite:
            raise CatwalkError(
                "recommender: its scores overflow on the first image; train it again with a lower learning rate or "
                "more regularization"
            )

    def _known(self, device: torch.device) -> VBPRModel:
        """Return the model on a device, with parameters that gradients can flow by."""
        if self.scorer is None:
            if self.recommender is None:
                raise CatwalkError(
                    "recommender: RankAttack needs the checkpoint of the recommender that the attacker knows"
                )
            self.scorer = read_visual_model(self.recommender)
        if self.scorer.projection.device != device or self.scorer.projection.is_inference():
            with torch.inference_mode(False):  # a copy, for the model may be somebody else's
                self.scorer = copy.deepcopy(self.scorer).to(device)
        return self.scorer
