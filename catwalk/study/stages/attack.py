"""The stage that attacks the images of a category."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catwalk.attacks.attack import Attack
from catwalk.attacks.rank_attack import Surrogate
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_files import AttackedItem, AttackSummary, read_summary
from catwalk.poisoning.attack_inputs import attack_inputs
from catwalk.poisoning.poison import NothingToAttackError, poison
from catwalk.poisoning.protocol import Protocol
from catwalk.poisoning.records import read_attacked_items
from catwalk.results.keys import Inputs
from catwalk.results.store import StageCache
from catwalk.study.grid import Grid
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import NamedAttack, modules_of
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.stages.stage import Stage

RECOMMENDER_FILE = "recommender.ckpt"


class KnownRecommender(Stage):
    """A recommender that an attacker may know.

    Attributes:
        name: What the study calls it.
        seed: Of its weights and batches.
    """

    name: str
    seed: int

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint."""
        return self.folder / RECOMMENDER_FILE


class AttackStage(CatalogueFeatures):
    """Adversarial images of the source category, as files, and the features of the poisoned catalogue."""

    kind = "attack"

    def __init__(
        self,
        cache: StageCache,
        grid: Grid,
        attack: NamedAttack,
        features: FeaturesStage,
        protocol: Protocol,
        undefended: FeaturesStage,
        known: Sequence[KnownRecommender] = (),
        crafted_on: ClassifierStage | None = None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            grid: The study's.
            attack: The attack.
            features: Those of the network under attack.
            protocol: What is attacked, and what its budget means.
            undefended: Features of the undefended network, by which a protocol may choose what is attacked.
            known: The recommenders that the attacker knows, trained on the clean catalogue, where it must know any.
            crafted_on: The network on which the attack, a transfer, is crafted; None where it is the one under attack.
        """
        super().__init__(cache)
        self.name = attack.name
        self.grid = grid
        self.features = features
        self.protocol = protocol
        self.known = tuple(known)
        self._undefended = undefended
        self.chosen_by = undefended if protocol.source_items == "undefended" else None
        self.crafted_on = crafted_on
        inputs = (features, self.chosen_by, *self.known, crafted_on)
        self.inputs = tuple(stage for stage in inputs if stage is not None)
        self.named_attack = attack
        self._stored: Inputs | None = None
        self.target = grid.target if attack.example.targeted else None
        if self.known:
            goal = f"{grid.source} in {self.known_recommender}"
        else:
            goal = f"{grid.source} → {grid.target}" if attack.example.targeted else f"away from {grid.source}"
        self.description = f"{self.name}, {goal}, CNN {features.classifier.name}{self._chosen_by}"
        used: list[Any] = [poison, attack.specification]
        self.settings = {
            "attack": attack.specification.settings,
            "features": features.key,
            "source": grid.source,
            "target": self.target,
            "protocol": protocol.of_attack,
        }
        if self.chosen_by is not None:
            self.settings["source items by"] = self.chosen_by.key
        if len(self.known) == 1:
            self.settings["known recommender"] = self.known[0].key
        elif self.known:
            self.settings["known recommenders"] = [stage.key for stage in self.known]
        if crafted_on is not None:
            self.settings["crafted on"] = crafted_on.key
        self.files = features.files
        self._must_know_purchases = protocol.must_know_purchases(attack.example)
        if self._must_know_purchases:
            self.settings["interactions"] = features.shop.interactions.fingerprint
            self.files += features.shop.interactions.files
            if features.shop.split is not None:
                self.settings["split"] = features.shop.split.settings
                used.append(features.shop.split)
        self.modules = modules_of(*used)

    @property
    def must_know_recommender(self) -> bool:
        """Whether there is one such attack for each recommender and seed."""
        return self.named_attack.example.knowledge == "network and recommender"

    def knowing(self, *recommenders: KnownRecommender) -> "AttackStage":
        """Return the attack by somebody who knows recommenders that were trained on the clean catalogue."""
        return AttackStage(
            self.cache, self.grid, self.named_attack, self.features, self.protocol, self._undefended, recommenders
        )

    @property
    def surrogates(self) -> Sequence[Surrogate]:
        """The recommenders that are known in the place of the one under attack; empty if that one is."""
        return getattr(self.named_attack.example, "surrogates", ())

    @property
    def known_recommender(self) -> str | None:
        """The recommenders that the attacker knows, in words; None where it need not know any."""
        return " + ".join(f"{stage.name}, seed {stage.seed}" for stage in self.known) or None

    @property
    def _chosen_by(self) -> str:
        """Who chose the attacked items, where it was not the network under attack, and of what popularity they are."""
        by = self.protocol.source_items if self.chosen_by is None else self.chosen_by.classifier.name
        popularity = self.protocol.source_popularity
        which = "" if popularity == "all" else f", {popularity} items"
        return which if by == "network" else f"{which}, items by {by}"

    @property
    def seen_by(self) -> str:
        """The network under attack."""
        return f"{self.features.seen_by}{self._chosen_by}"

    @property
    def attack_name(self) -> str:
        """The attack."""
        return self.name

    @property
    def stored(self) -> Inputs:
        """The network and its features by what they hold, as ``catwalk fit`` knows an attack."""
        if self._stored is None:
            shop, network = self.features.shop, self.features.classifier
            inputs = attack_inputs(
                network.folder / CLASSIFIER_FILE,
                self._complete_attack(),
                shop.catalogue,
                self.features.folder,
                source=self.grid.source,
                target=self.target,
                protocol=self.protocol,
                purchases=self._purchases(),
                undefended=None if self.chosen_by is None else self.chosen_by.folder,
                backbone=network.backbone,
                backbone_args=network.backbone_args,
                fingerprint=shop.items.fingerprint,
            )
            self._stored = self.planned if inputs is None else inputs
        return self._stored

    @property
    def is_done(self) -> bool:
        """Whether the result is there; before its inputs are, nobody can say which it is."""
        return all(stage.is_done for stage in self.inputs) and super().is_done

    def _complete_attack(self) -> Attack:
        """Return the attack with what it must know."""
        attack: Attack = self.named_attack.specification.instantiate()
        if self.known:
            paths = [stage.checkpoint for stage in self.known]
            attack.recommender = paths[0] if len(paths) == 1 else paths  # type: ignore[attr-defined]
            attack.surrogates = []  # type: ignore[attr-defined]  # the same attack as by these checkpoints
        if self.crafted_on is not None:
            attack.surrogates = [self.crafted_on.folder / CLASSIFIER_FILE]  # type: ignore[attr-defined]
        return attack

    def _purchases(self) -> NDArray[np.int64] | None:
        """Return how often each item was bought, for an attack that must know it."""
        if not self._must_know_purchases:
            return None
        shop = self.features.shop
        return np.bincount(shop.read_split().items, minlength=len(shop.catalogue))

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Attack, write, read back and measure."""
        classifier = self.features.classifier.load()
        classifier.network.to(self.features.classifier.training.device)
        try:
            poison(
                classifier,
                self._complete_attack(),
                self.features.shop.catalogue,
                self.features.table,
                folder,
                source=self.grid.source,
                target=self.target,
                protocol=self.protocol,
                purchases=self._purchases(),
                undefended=None if self.chosen_by is None else self.chosen_by.table,
                progress=progress.callback,
            )
        except NothingToAttackError as error:
            raise CatwalkError(
                f"CNN {self.features.classifier.name}, {self.features.classifier.outcome}: {error}"
            ) from error
        return {}

    @property
    def table(self) -> FeatureTable:
        """The features of the poisoned catalogue."""
        return FeatureTable.read(self.folder, self.features.shop.catalogue)

    @property
    def summary(self) -> AttackSummary:
        """What the attack did to the images."""
        return read_summary(self.folder)

    @cached_property
    def items(self) -> list[AttackedItem]:
        """What the attack did to each of the items."""
        return read_attacked_items(self.folder, self.features.shop.catalogue)[1]

    @property
    def outcome(self) -> str:
        """Success rate."""
        return f"success rate {self.summary.sr:.1%} of {self.summary.n_attacked}"
