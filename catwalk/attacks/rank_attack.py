"""The rank attack: with recommenders known, raise or lower an item's scores themselves."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings
from catwalk.attacks.descent import DescentAttack, features_of
from catwalk.attacks.intent import Intent, check_intent
from catwalk.attacks.known_recommender import check_catalogue, check_features, check_items
from catwalk.attacks.threat_model import GreyLevels, Norm
from catwalk.errors import CatwalkError
from catwalk.limits import check_seed
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.recommenders.sensitivity import visual_sensitivity
from catwalk.recommenders.vbpr import VBPRModel

Objective = Literal["exponential", "mean"]


class RankAttack(DescentAttack):
    """Moves an item's image to where recommenders score the item highest, or lowest, over all users.

    The attacker knows the network and a recommender's parameters: the insider attack (INSA) of Liu and Larson,
    "Adversarial Item Promotion: Vulnerabilities at the Core of Top-N Recommenders that Use Images to Address Cold
    Start" (WWW 2021). With ``s_ui(x) = p_u · q_i + ρ_u · E φ(x)`` (Eq. 2 of the reproduced paper) it maximises, over
    all users u,

    - ``exponential``: ``Σ_u exp(s_ui(x))``, as they do, which favours users who like the item already. Maximised as its
      logarithm, which has the same steps and cannot overflow;
    - ``mean``: ``Σ_u s_ui(x)``, which is linear in the features.

    With the intent ``nuke`` it minimises the same. Their attack takes steps of Adam over batches of users. Here every
    step sees all users, for the score is linear in the features: once these are projected to the K dimensions of ρ, all
    users cost one small product. From the clean image ``x = x₀``, or a random point of the ball, it repeats
    ``x ← P(x + α·d(∇))``, with P and d as in :class:`~catwalk.attacks.FeatureMatching`, and keeps the best point on the
    way.

    Several recommenders are an ensemble, by which images transfer to one that the attacker does not know: what is
    maximised is the mean of their objectives, each divided by its recommender's
    :func:`~catwalk.recommenders.sensitivity.visual_sensitivity`, so that none counts for more because its scores are
    larger (as attacks on ensembles of networks average losses; Liu, Chen, Liu and Song, "Delving into Transferable
    Adversarial Examples and Black-box Attacks", ICLR 2017). Of one recommender nothing is divided.

    ``targets`` are the numbers of the items whose images are attacked, int64 ``(N,)``. It has no target category, and
    succeeds where the objective has moved from that of the clean image to where the attacker wants it.

    Costs a forward and a backward pass per step and one forward pass more, whatever the number of recommenders.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        objective: What is maximised, or minimised.
        recommender: Checkpoint of the recommender that is known, or of several: of such as look at images, trained on
            the features of the network under attack. A study gives its own.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        random_start: Whether to start from a uniformly random point of the ball.
        seed: Seed of the random starts.
        intent: ``push`` raises the scores, ``nuke`` lowers them.
        surrogates: In a study, the recommenders that are known in the place of the one under attack: names of the
            study's, each with a seed of its own (``"VBPR@7"``) or with that of the recommender under attack
            (``"VBPR"``). Empty means that the recommender under attack is known itself.
        **settings: As in :class:`Attack`.

    Attributes:
        scorers: The recommenders' models; empty until they are read from ``recommender``. May be set instead of it.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if there is no recommender, or one does not fit
            the network or the items.
    """

    knowledge = "network and recommender"

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 100,
        objective: Objective = "exponential",
        recommender: list[Path] | Path | None = None,
        norm: Norm = "linf",
        random_start: bool = False,
        seed: int = 0,
        intent: Intent = "push",
        surrogates: Sequence[str] = (),
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, step, iterations, norm, random_start, seed, targeted=False, **settings)
        if objective not in get_args(Objective):
            raise CatwalkError(f"objective: must be one of {', '.join(get_args(Objective))}, got {objective!r}")
        check_intent(intent)
        if isinstance(recommender, list) and not recommender:
            raise CatwalkError("recommender: must name at least one checkpoint, got an empty list")
        if surrogates and recommender is not None:
            raise CatwalkError(
                "surrogates: are recommenders of a study, and recommender names checkpoints: give one of the two"
            )
        self.surrogates = [Surrogate.of(text) for text in surrogates]
        if len(set(self.surrogates)) < len(self.surrogates):
            raise CatwalkError(f"surrogates: each may occur once, got {', '.join(surrogates)}")
        self.objective = objective
        self.recommender = recommender
        self.intent: Intent = intent
        self.scorers: list[VBPRModel] = []

    @property
    def title(self) -> str:
        """``"Rank attack"``, or what it is called where it lowers scores."""
        return "Rank attack" if self.intent == "push" else "Nuking rank attack"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence."""
        return f"{'raise' if self.intent == 'push' else 'lower'} the scores of {source}"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the numbers of the items.

        Raises:
            CatwalkError: If there is no recommender, or one was trained on another catalogue.
        """
        for scorer in self._known(scene.items.device):
            check_catalogue(scorer, scene)
        return scene.items

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Return the objective, with the sign reversed where it is to rise; see :meth:`DescentAttack.loss`."""
        objective = self._objective(network, images, targets)
        return -objective if self.intent == "push" else objective

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the objective has moved to where the attacker wants it."""
        return self.loss(network, images, targets) < self.loss(network, clean, targets)

    def _objective(self, network: nn.Module, images: Tensor, items: Tensor) -> Tensor:
        """Return what is maximised or minimised, ``(N,)``."""
        features, scorers = network.features(images), self._known(images.device)  # type: ignore[operator]
        if len(scorers) == 1:
            return self._of_one(scorers[0], features, items)
        parts = [self._of_one(scorer, features, items) / visual_sensitivity(scorer) for scorer in scorers]
        return torch.stack(parts).mean(dim=0)

    def _of_one(self, scorer: VBPRModel, features: Tensor, items: Tensor) -> Tensor:
        """Return the objective by one recommender, ``(N,)``."""
        scores = scorer.scores_of_images(features, items)
        return scores.logsumexp(dim=1) if self.objective == "exponential" else scores.mean(dim=1)

    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check that network, recommenders and items fit; see :meth:`Attack.check_targets`."""
        scorers, size = self._known(image.device), features_of(network, image).shape[1]
        for scorer in scorers:
            check_features(scorer, size)
            check_items(scorer, targets)
            if len(scorers) > 1 and not float(visual_sensitivity(scorer)) > 0:
                raise CatwalkError(
                    "recommender: one of several has no score that depends on images, for its projection or its users' "
                    "visual factors are 0; leave it out, or train it longer"
                )
        with torch.no_grad():
            is_finite = bool(self._objective(network, image, targets[:1]).isfinite())
        if not is_finite:
            raise CatwalkError(
                "recommender: its scores overflow on the first image; train it again with a lower learning rate or "
                "more regularization"
            )

    def _known(self, device: torch.device) -> list[VBPRModel]:
        """Return the models on a device, with parameters that gradients can flow by."""
        if not self.scorers:
            if self.recommender is None:
                raise CatwalkError(
                    "surrogates: name recommenders of a study; give their checkpoints as recommender outside of one"
                    if self.surrogates
                    else "recommender: RankAttack needs the checkpoint of the recommender that the attacker knows"
                )
            paths = self.recommender if isinstance(self.recommender, list) else [self.recommender]
            self.scorers = [read_visual_model(path) for path in paths]
        if any(scorer.projection.device != device or scorer.projection.is_inference() for scorer in self.scorers):
            with torch.inference_mode(False):  # copies, for the models may be somebody else's
                self.scorers = [copy.deepcopy(scorer).to(device) for scorer in self.scorers]
        return self.scorers


@dataclass(frozen=True)
class Surrogate:
    """A recommender of a study that an attacker knows.

    Attributes:
        name: What the study calls it.
        seed: Its seed; None for that of the recommender under attack.
    """

    name: str
    seed: int | None

    @classmethod
    def of(cls, text: str) -> "Surrogate":
        """Return the one of a text such as ``"VBPR"`` or ``"VBPR@7"``.

        Raises:
            CatwalkError: If there is no name, or what follows the last ``@`` is no seed.
        """
        name, at, seed = text.rpartition("@")
        if not at:
            name, seed = text, ""
        if not name or (at and not (seed.isascii() and seed.isdigit())):
            raise CatwalkError(f"surrogates: each must be a name, or a name with a seed such as VBPR@7, got {text!r}")
        if seed:
            check_seed(int(seed), "surrogates: the seed of each")
        return cls(name, int(seed) if seed else None)
