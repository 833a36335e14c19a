"""The plan of a study: which stages every cell is made of, before anything runs."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from catwalk.perceptual import LPIPS
from catwalk.results.store import StageCache
from catwalk.shop.catalogue import number_of
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.metrics import Metrics
from catwalk.study.shop import Shop
from catwalk.study.specifications import NamedAttack
from catwalk.study.stages.accuracy import AccuracyStage
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.metrics import MetricsStage
from catwalk.study.stages.perceptual import PerceptualStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainings import ClassifierTraining, RecommenderTraining


@dataclass(frozen=True)
class Run:
    """The stages of a cell."""

    classifier: ClassifierStage
    accuracy: AccuracyStage | None
    features: FeaturesStage
    attack: AttackStage | None
    perceptual: PerceptualStage | None
    recommender: RecommenderStage | None
    metrics: MetricsStage | None

    @property
    def stages(self) -> list[Stage | None]:
        """The stages in the order in which they are to run."""
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def labels(self) -> dict[str, Any]:
        """What tells the cell from others of its grid."""
        return {
            "extractor": self.classifier.name,
            "attack": self.attack.name if self.attack is not None else NO_ATTACK,
            "recommender": self.recommender.name if self.recommender is not None else None,
            "seed": self.recommender.seed if self.recommender is not None else None,
        }


@dataclass(frozen=True)
class Plan:
    """The cells of a study in the order of the tables; cells share the stages that they have in common.

    Attributes:
        runs: The cells.
    """

    runs: list[Run]

    @classmethod
    def of(
        cls,
        grid: Grid,
        shop: Shop,
        cache: StageCache,
        accuracy_attack: NamedAttack,
        lpips: LPIPS | None,
        metrics: Metrics,
    ) -> "Plan":
        """Check all settings, each once, and plan the stages; nothing runs.

        Args:
            grid: The study's.
            shop: The dataset.
            cache: Where results live.
            accuracy_attack: Under which the networks' accuracy is measured.
            lpips: Measures LPIPS; None leaves it out.
            metrics: What else to measure of the recommenders.

        Raises:
            CatwalkError: If a class refuses its arguments, or the grid does not fit the dataset.
        """
        classifiers = [ClassifierTraining.of(shop, name, training) for name, training in grid.extractors.items()]
        recommenders: dict[str, RecommenderTraining] = {}
        for name in grid.recommenders:
            recommenders[name] = RecommenderTraining.of(grid, shop, name, recommenders)
        runs: list[Run] = []
        for training in classifiers:
            _check_categories(grid, shop, training, metrics)
            classifier = ClassifierStage(cache, shop, training)
            accuracy = None
            if training.is_trained_here:
                accuracy = AccuracyStage(cache, shop, accuracy_attack, classifier)
            features = FeaturesStage(cache, shop, classifier)
            attacks = [AttackStage(cache, grid, attack, features) for attack in grid.named_attacks]
            if not recommenders:
                runs.append(Run(classifier, accuracy, features, None, None, None, None))
                for attack in attacks:
                    looks = PerceptualStage(cache, attack, lpips)
                    runs.append(Run(classifier, accuracy, features, attack, looks, None, None))
                continue
            trained = _Trained(cache, shop, grid, recommenders, features, metrics)
            runs += trained.runs(classifier, accuracy, attacks, lpips)
        return cls(runs)

    @cached_property
    def stages(self) -> list[Stage]:
        """Each stage once, those of all networks before attacks, attacks before recommenders, and inputs first."""
        ordered: dict[tuple[str, str], Stage] = {}

        def add(stage: Stage) -> None:
            place = (stage.kind, stage.key)
            if place not in ordered:
                for needed in stage.inputs:
                    add(needed)
                ordered[place] = stage

        for column in zip(*(run.stages for run in self.runs), strict=True):
            for stage in column:
                if stage is not None:
                    add(stage)
        return list(ordered.values())

    @property
    def places(self) -> dict[str, str]:
        """Where in the cache the result of each stage is, by description."""
        return {stage.description: stage.place for stage in self.stages}

    @property
    def keys(self) -> dict[str, str]:
        """What each stage depends on, by description, as far as it is known before anything runs."""
        return {stage.description: stage.key for stage in self.stages}

    @property
    def networks(self) -> list[Run]:
        """The first cell of each network."""
        return list({run.classifier.name: run for run in reversed(self.runs)}.values())[::-1]


class _Trained:
    """The recommenders that are trained on what one network sees, each once.

    Args:
        cache: Where results live.
        shop: The dataset.
        grid: The study's.
        trainings: How each is trained, by name, in the study's order.
        features: The network's features of the clean catalogue.
        metrics: What else to measure of them.
    """

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        grid: Grid,
        trainings: dict[str, RecommenderTraining],
        features: FeaturesStage,
        metrics: Metrics,
    ) -> None:
        self._cache = cache
        self._shop = shop
        self._grid = grid
        self._trainings = trainings
        self._features = features
        self._metrics = metrics
        self._measured: dict[RecommenderStage, MetricsStage] = {}
        self._stages: dict[tuple[str, int, AttackStage | None], RecommenderStage] = {}

    def stage(self, name: str, seed: int, attack: AttackStage | None) -> RecommenderStage:
        """Return the training of a recommender, and before it that of the one with which it begins."""
        training = self._trainings[name]
        if not training.looks_at_images:  # the attacks make no difference to it
            attack = None
        which = (name, seed, attack)
        if which not in self._stages:
            start = None if training.warm_start is None else self.stage(training.warm_start, seed, attack)
            images = self._features if attack is None else attack
            self._stages[which] = RecommenderStage(self._cache, self._shop, self._grid, training, seed, images, start)
        return self._stages[which]

    def _last(self, name: str, seed: int, attack: AttackStage | None) -> tuple[RecommenderStage, MetricsStage | None]:
        """Return the last stages of a cell."""
        stage = self.stage(name, seed, attack)
        if not self._metrics.chosen:
            return stage, None
        if stage not in self._measured:
            self._measured[stage] = MetricsStage(self._cache, stage, self._features, self._metrics)
        return stage, self._measured[stage]

    def runs(
        self,
        classifier: ClassifierStage,
        accuracy: AccuracyStage | None,
        attacks: list[AttackStage],
        lpips: LPIPS | None,
    ) -> Iterator[Run]:
        """Yield the cells of the network: of each recommender those without attack first, and then by attack."""
        network = classifier, accuracy, self._features
        looks = {attack: PerceptualStage(self._cache, attack, lpips) for attack in attacks}
        for name, training in self._trainings.items():
            for seed in self._grid.seeds:
                yield Run(*network, None, None, *self._last(name, seed, None))
            for attack in attacks:
                if not attack.must_know_recommender:
                    for seed in self._grid.seeds:
                        yield Run(*network, attack, looks[attack], *self._last(name, seed, attack))
                elif training.looks_at_images:  # else it has no features that an image could change
                    for seed in self._grid.seeds:
                        aimed = attack.knowing(self.stage(name, seed, None))
                        its_looks = PerceptualStage(self._cache, aimed, lpips)
                        yield Run(*network, aimed, its_looks, *self._last(name, seed, aimed))


def _check_categories(grid: Grid, shop: Shop, training: ClassifierTraining, metrics: Metrics) -> None:
    """Raise a CatwalkError unless source, target and those of metrics are categories of whoever names them."""
    whose = "" if training.is_trained_here else f" (of ImageNet, which extractor {training.name} sees)"
    for argument, name in (("source", grid.source), ("target", grid.target)):
        number_of(name, training.category_names, f"{argument}{whose}")
    if "dataset" in (grid.protocol.source_items, grid.protocol.chr_categories):
        shop.catalogue.category(grid.source, "source (of the dataset, which the protocol asks)")
    by_network = grid.protocol.chr_categories == "network"
    metrics.check_categories(training.category_names if by_network else shop.catalogue.category_names)
