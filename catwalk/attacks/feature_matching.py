"""Feature matching: make an item look, to the network, like a certain other item."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings
from catwalk.attacks.descent import DescentAttack, features_of
from catwalk.attacks.intent import Intent, check_intent
from catwalk.attacks.threat_model import GreyLevels, Norm
from catwalk.errors import CatwalkError


class FeatureMatching(DescentAttack):
    """Moves the features of images to given ones, those of one item that is to be imitated.

    From the clean image ``x = x₀``, or a random point of the ball, it repeats
    ``x ← P(x - α·d(∇‖φ(x) - f‖²))``, with φ the network's features, f those to reach, P the projection onto the ball
    and then to [0, 1], and d the sign (``"linf"``) or the division by the Euclidean length (``"l2"``). Of all points on
    the way the one with the nearest features is kept. A recommender that reads these features then sees the imitated
    item in the image, whatever category the network would name: the expert attack (EXPA) of Liu and Larson,
    "Adversarial Item Promotion: Vulnerabilities at the Core of Top-N Recommenders that Use Images to Address Cold
    Start" (WWW 2021), which imitates a popular item. The attacker knows the network and what sells, not the
    recommender.

    In a catalogue all attacked items imitate the same one: the item with the given id, or, of those in which the
    network sees the target category, the one that was bought most often in the training data (of equal ones the
    first). With the intent ``nuke`` it is the one that was bought least, which lowers items that sell: their images
    become those of what nobody wants. To lead away from the item's own features would not do: a distance says nothing
    of whether users like what lies in that direction. Called with tensors it takes the features to reach as
    ``targets``, float32 ``(N, D)``, a row for each image. It succeeds where the network sees in the image the category
    that it sees in those features.

    Costs a forward and a backward pass per step and one forward pass more.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        item: Id of the item to imitate, which is not one of those attacked; None for the most popular of the target
            category.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        random_start: Whether to start from a uniformly random point of the ball.
        seed: Seed of the random starts.
        intent: ``push`` imitates what sells best, ``nuke`` what sells least; without effect where ``item`` is given.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if the network gives no features or has no
            ``head``.
    """

    knowledge = "network and purchases"

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 100,
        item: str | None = None,
        norm: Norm = "linf",
        random_start: bool = False,
        seed: int = 0,
        intent: Intent = "push",
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, step, iterations, norm, random_start, seed, targeted=True, **settings)
        check_intent(intent)
        self.item = item
        self.intent: Intent = intent

    @property
    def title(self) -> str:
        """``"Feature matching"``, or what it is called where it lowers items."""
        return "Feature matching" if self.intent == "push" else "Nuking feature matching"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence."""
        popular = "most" if self.intent == "push" else "least"
        return (
            f"give {source} the features of {f'item {self.item}' if self.item else f'the {popular} popular {target}'}"
        )

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the features of the item to imitate, ``(n, D)``.

        Raises:
            CatwalkError: If there is no such item.
        """
        return scene.features[self.imitated(scene)].expand(len(scene.items), -1).clone()

    def imitated(self, scene: AttackContext) -> int:
        """Return the number of the item to imitate.

        Raises:
            CatwalkError: If the item is unknown or is attacked itself, nothing else is of the target category, or it is
                not known what was bought.
        """
        if self.item is not None:
            if self.item not in scene.item_ids:
                raise CatwalkError(f"item: {self.item!r} is no item of the catalogue")
            number = list(scene.item_ids).index(self.item)
            if bool((scene.items == number).any()):
                raise CatwalkError(f"item: {self.item!r} is attacked itself; give one of another category")
            return number
        if scene.purchases is None:
            raise CatwalkError("item: it is not known what was bought most often; give the id of the item to imitate")
        candidates = scene.categories == scene.category
        candidates[scene.items] = False
        if not bool(candidates.any()):
            raise CatwalkError(
                f"target: the network sees {scene.category_names[scene.category]!r} in no item that could be imitated; "
                "give the id of one (item) or another target"
            )
        if self.intent == "nuke":
            return int(scene.purchases.masked_fill(~candidates, torch.iinfo(torch.int64).max).argmin())
        return int(scene.purchases.masked_fill(~candidates, -1).argmax())

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Return the squared distances from the features to reach; see :meth:`DescentAttack.loss`."""
        return (network.features(images) - targets).square().sum(dim=1)  # type: ignore[operator]

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the network sees the same category in each image as in its target."""
        return network(images).argmax(dim=1) == network.head(targets).argmax(dim=1)  # type: ignore[operator]

    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check the features to reach; see :meth:`Attack.check_targets`."""
        size = features_of(network, image).shape[1]
        if not callable(getattr(network, "head", None)):
            raise CatwalkError("network: must have a head, which makes logits of features, as Network has")
        if targets.shape[1] != size:
            raise CatwalkError(
                f"targets: must be features of {size} values each, as the network's are; got {targets.shape[1]}"
            )
        offenders = (~targets.isfinite()).any(dim=1).nonzero()
        if len(offenders):
            raise CatwalkError(f"targets: must be finite, and those of image {int(offenders[0])} are not")

    def _check_layout_of_targets(self, images: Tensor, targets: Tensor) -> None:
        if targets.dtype != torch.float32 or targets.ndim != 2 or len(targets) != len(images):
            raise ValueError(
                f"targets: must be float32 features of shape ({len(images)}, D), one row per image, "
                f"got {targets.dtype} of shape {tuple(targets.shape)}"
            )
