"""The options ``poison`` of ``catwalk fit`` and its siblings, and the callback that they come to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.write_features import CLASSIFIER_FILE
from catwalk.attacks import Attack
from catwalk.errors import CatwalkError
from catwalk.networks.defended import DRAWS
from catwalk.poisoning.protocol import AttackProtocol
from lightning_modules.cnn import ProductClassifier


@dataclass(frozen=True)
class Poison:
    """Poisoned images in the place of clean ones: a recommender is trained on them, or, trained already, meets them.

    Attributes:
        attack: How the images are changed, such as PGD; without it none are, whatever the other options say. For what
            it takes: --poison.attack.help PGD.
        source: Category whose images are attacked. The configurations in configs/data state one for their shop.
        target: Category that the network shall see in them; attacks that lead away from the source, or that know the
            recommender, take no notice of it.
        classifier: Checkpoint of the network under attack, the one that made data.features; by default classifier.ckpt
            in that folder or beside it.
        backbone: Import path of that network's backbone, where it is your own: a checkpoint alone decides about none
            but those of Catwalk, torchvision and timm.
        backbone_args: The arguments that your own backbone was trained with, if there were any.
        protocol: Which items are attacked, and how the budget is meant.
        from_epoch: Epoch of fit, counted from 0, at whose beginning the poisoned images come. The epochs before it are
            on the clean ones.
        output: Folder for a copy of the images, attacked_items.csv, attack.json and the poisoned features, which are
            kept in the store of results in any case.
        results: The store of results; runs/cache by default, where studies that write to runs have theirs.
        verify: Compare the hashes of all files taken from the store, not only of those that may have changed.
        undefended: Folder of the clean features by the undefended network, which `catwalk predict` wrote; needed where
            protocol.source_items is undefended.
        adaptive: Whether the attacker knows the input operations of the classifier's checkpoint and attacks through
            them; otherwise the images are crafted on the bare network. They are judged through the operations anyway.
        draws: Over how many draws of random operations an adaptive attacker averages the gradient.
    """

    attack: Attack | None = None
    source: str | None = None
    target: str | None = None
    classifier: Path | None = None
    backbone: str | None = None
    backbone_args: dict[str, Any] | None = None
    protocol: AttackProtocol = AttackProtocol()  # noqa: RUF009 - frozen
    from_epoch: int = 0
    output: Path | None = None
    results: Path | None = None
    verify: bool = False
    undefended: Path | None = None
    adaptive: bool = True
    draws: int = DRAWS

    def callback(
        self,
        model: LightningModule,
        data: LightningDataModule,
        others: Sequence[Callback],
    ) -> InjectPoisonedImages | None:
        """Return what poisons the run.

        Args:
            model: What is trained or measured.
            data: Its data, not set up yet.
            others: The callbacks that the run has besides.

        Returns:
            The callback; None without an attack.

        Raises:
            CatwalkError: If the run cannot be poisoned, or an option that it takes is missing or not allowed.
        """
        if self.attack is None:
            return None
        if any(isinstance(other, InjectPoisonedImages) for other in others):
            raise CatwalkError(
                "poison.attack: InjectPoisonedImages is among trainer.callbacks, too, and there can be one attack in a "
                "run: give one of the two"
            )
        if isinstance(model, ProductClassifier):
            raise CatwalkError(
                f"poison.attack: what is poisoned is the catalogue of a recommender, and {type(model).__name__} is a "
                "CNN: leave the attack out; `catwalk attack` attacks images without a recommender"
            )
        features = getattr(data, "features", None)
        if features is None:
            raise CatwalkError(
                "poison.attack: the features of poisoned images take the place of others, and data.features is not "
                "given: give the folder that `catwalk predict` wrote"
            )
        if self.source is None:
            raise CatwalkError(
                "poison.source is missing: give the category whose images are attacked, or a --config that states it "
                "for its shop, such as configs/data/demo.yaml"
            )
        return InjectPoisonedImages(
            classifier=_classifier_of(Path(features)) if self.classifier is None else self.classifier,
            attack=self.attack,
            source=self.source,
            target=self.target if self.attack.targeted else None,
            output=self.output,
            results=self.results,
            verify=self.verify,
            undefended=self.undefended,
            adaptive=self.adaptive,
            draws=self.draws,
            protocol=self.protocol,
            from_epoch=self.from_epoch,
            backbone=self.backbone,
            backbone_args=self.backbone_args,
        )


def _classifier_of(features: Path) -> Path:
    """Return the checkpoint of the network that made features: `predict` leaves it there, `fit` beside them."""
    places = [features / CLASSIFIER_FILE, features.parent / CLASSIFIER_FILE]
    for place in places:
        if place.is_file():
            return place
    if not features.is_dir():
        return places[1]  # the data tell that there are no features, which come first
    raise CatwalkError(
        f"poison.classifier is missing: neither {places[0]} nor {places[1]} exists; give the checkpoint of the network "
        f"that made the features in {features}"
    )


def as_poison_options(message: str) -> str:
    """Return a message in which the callback's arguments are called what the options are.

    >>> as_poison_options("source: no item is in category 'Bag': choose another, or protocol.source_items: dataset")
    "poison.source: no item is in category 'Bag': choose another, or poison.protocol.source_items: dataset"
    """
    message = message.replace(f"{InjectPoisonedImages.__name__}.", "poison.")
    message = re.sub(r"^(source|target): ", r"poison.\1: ", message)
    return re.sub(r"(?<![\w.])(?=protocol\.\w)", "poison.", message)
