"""The plan of a study: which stages every cell is made of, before anything runs."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from catwalk.attacks.rank_attack import Surrogate
from catwalk.errors import CatwalkError
from catwalk.perceptual import LPIPS
from catwalk.poisoning.protocol import Protocol
from catwalk.recommenders.reachable_shifts import ShiftSettings
from catwalk.results.store import StageCache
from catwalk.shop.catalogue import number_of
from catwalk.study.controls import OTHER_SEEDS, SHAM, Control, Scenario
from catwalk.study.derived import PLAIN, Derived
from catwalk.study.detectors import StudyDetectors
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.metrics import Metrics
from catwalk.study.shop import Shop
from catwalk.study.specifications import NamedAttack, is_noise
from catwalk.study.stages.accuracy import AccuracyStage
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.defended_classifier import DefendedClassifierStage
from catwalk.study.stages.detection import DetectionStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.stages.mixed_features import MixedFeaturesStage
from catwalk.study.stages.perceptual import PerceptualStage
from catwalk.study.stages.recommendations import RecommendationsStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.shifts import ShiftsStage
from catwalk.study.stages.source_items import SourceItems
from catwalk.study.stages.stage import Stage
from catwalk.study.trainings import ClassifierTraining, RecommenderTraining


@dataclass(frozen=True)
class Run:
    """A cell that is to come: the stages that it is made of, and what tells it from others.

    Attributes:
        protocol: What is attacked and counted.
        classifier: The network.
        accuracy: Its accuracy under attack, where it was trained here.
        features: What it sees in the clean catalogue.
        attack: The attack; None for the cells without.
        perceptual: What its images look like.
        recommendations: The recommender and what it shows; None in a study without recommenders.
        row: What tables call the attack, or what stands in its place.
        scenario: Whether the recommender was trained on the attacked images; None where nothing is attacked.
        control: What the cell is if it is no attack's.
        derived: Which network with what in front the network is; None for one of the study's own.
    """

    protocol: Protocol
    classifier: ClassifierStage
    accuracy: AccuracyStage | None
    features: FeaturesStage
    attack: AttackStage | None = None
    perceptual: PerceptualStage | None = None
    recommendations: RecommendationsStage | None = None
    row: str = NO_ATTACK
    scenario: Scenario | None = None
    control: Control | None = None
    derived: Derived | None = None

    @property
    def crafted_on(self) -> str | None:
        """The network on which the attack was crafted, where it is not the one under attack."""
        return None if self.attack is None or self.attack.crafted_on is None else self.attack.crafted_on.name

    @property
    def recommender(self) -> RecommenderStage | None:
        """The recommender."""
        return self.recommendations.recommender if self.recommendations is not None else None

    @property
    def pair(self) -> tuple[str, str, str | None, int | None]:
        """What the cell has in common with the one without attack to which it is compared."""
        recommender = self.recommender
        which = (None, None) if recommender is None else (recommender.name, recommender.seed)
        return self.protocol.name, self.classifier.name, *which

    @property
    def is_compared(self) -> bool:
        """Whether it is compared with one of the same seed: with other seeds there is none."""
        return self.recommender is not None and self.row not in (NO_ATTACK, OTHER_SEEDS)

    @property
    def stages(self) -> list[Stage | None]:
        """The stages in the order in which they are to run."""
        images = [self.accuracy, self.features, self.attack, self.perceptual]
        return [self.classifier, *images, self.recommender, self.recommendations]

    @property
    def labels(self) -> dict[str, Any]:
        """What tells the cell from others of its grid."""
        return {
            "protocol": self.protocol.name,
            "extractor": self.classifier.name,
            "attack": self.row,
            "scenario": self.scenario,
            "control": self.control,
            "recommender": self.recommender.name if self.recommender is not None else None,
            "seed": self.recommender.seed if self.recommender is not None else None,
        }


@dataclass(frozen=True)
class Plan:
    """The cells of a study in the order of the tables; cells share the stages that they have in common.

    Attributes:
        runs: The cells.
        detections: What judges detectors by the attacks of all networks and protocols; no part of any cell.
    """

    runs: list[Run]
    detections: list[DetectionStage] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        grid: Grid,
        shop: Shop,
        cache: StageCache,
        accuracy_attack: NamedAttack,
        lpips: LPIPS | None,
        metrics: Metrics,
        detectors: StudyDetectors | None = None,
    ) -> "Plan":
        """Check all settings, each once, and plan the stages; nothing runs.

        Args:
            grid: The study's.
            shop: The dataset.
            cache: Where results live.
            accuracy_attack: Under which the networks' accuracy is measured.
            lpips: Measures LPIPS; None leaves it out.
            metrics: What else to measure of the recommenders.
            detectors: What is judged by the attacks.

        Raises:
            CatwalkError: If a class refuses its arguments, or the grid does not fit the dataset.
        """
        networks: dict[str, _Network] = {}
        for name, training in grid.extractors.items():
            checked = ClassifierTraining.of(shop, name, training)
            _check_categories(grid, shop, checked, metrics)
            classifier = ClassifierStage(cache, shop, checked)
            accuracy = None
            if checked.is_trained_here:
                accuracy = AccuracyStage(cache, shop, accuracy_attack, classifier)
            networks[name] = _Network(classifier, accuracy, FeaturesStage(cache, shop, classifier))
        for derived in grid.derived:
            base = networks[derived.network]
            defended = DefendedClassifierStage(cache, shop, base.classifier, derived)
            accuracy = base.accuracy and AccuracyStage(cache, shop, accuracy_attack, defended)
            networks[derived.name] = _Network(
                defended, accuracy, FeaturesStage(cache, shop, defended), {PLAIN: base}, base.first or base, derived
            )
        for name, surrogates in grid.transfers.items():
            networks[name].transfers.update({f"from {each}": networks[each] for each in surrogates})
        assert grid.undefended is not None
        undefended = networks[grid.undefended].features
        recommenders = _recommenders(cache, shop, grid, metrics)
        runs: list[Run] = []
        detections: dict[str, DetectionStage] = {}
        for protocol, of_one in zip(grid.protocols, recommenders, strict=True):
            for network in networks.values():
                images = _Images(cache, grid, protocol, network, undefended, lpips)
                runs += of_one.runs(images) if grid.recommenders else images.runs()
                # By attacks on networks of the study's own, crafted on them.
                judged_by = [attack for attack in images.attacks if attack.crafted_on is None]
                judges = detectors if network.derived is None else None
                for stage in judges.stages(cache, judged_by) if judges is not None else ():
                    detections.setdefault(stage.key, stage)
        return cls(runs, list(detections.values()))

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
        for detection in self.detections:
            add(detection)
        return list(ordered.values())

    @property
    def places(self) -> dict[str, str]:
        """Where in the cache the result of each stage is, by description."""
        return {name: stage.place for name, stage in self._named.items()}

    @property
    def keys(self) -> dict[str, str]:
        """What each stage depends on, by description, as far as it is known before anything runs."""
        return {name: stage.key for name, stage in self._named.items()}

    @property
    def _named(self) -> dict[str, Stage]:
        """The stages by description; of those that protocols alone tell apart, all but the first with a number."""
        named: dict[str, Stage] = {}
        for stage in self.stages:
            names = itertools.chain([stage.description], (f"{stage.description} ({n})" for n in itertools.count(2)))
            named[next(name for name in names if name not in named)] = stage
        return named

    @property
    def networks(self) -> list[Run]:
        """The first cell of each network."""
        return list({run.classifier.name: run for run in reversed(self.runs)}.values())[::-1]


@dataclass(frozen=True)
class _Network:
    """A network with its first stages.

    Attributes:
        classifier: The network.
        accuracy: Its accuracy under attack, where it was trained here.
        features: What it sees in the clean catalogue.
        transfers: Those on which attacks on it are crafted as well, by what their rows say of it.
        first: The one of the study's own that it is made of, by which its items are chosen; None for such a one.
        derived: Which other one with what in front it is; None for one of the study's own.
    """

    classifier: ClassifierStage
    accuracy: AccuracyStage | None
    features: FeaturesStage
    transfers: "dict[str, _Network]" = field(default_factory=dict)
    first: "_Network | None" = None
    derived: Derived | None = None


class _Images:
    """What one network sees under one protocol: clean, attacked, and mixed where the protocol asks for it.

    Args:
        cache: Where results live.
        grid: The study's.
        protocol: The protocol.
        network: The network.
        undefended: Clean features by the undefended network.
        lpips: Measures LPIPS; None leaves it out.
    """

    def __init__(
        self,
        cache: StageCache,
        grid: Grid,
        protocol: Protocol,
        network: _Network,
        undefended: FeaturesStage,
        lpips: LPIPS | None,
    ) -> None:
        self.protocol = protocol
        self.network = network
        self.clean = network.features
        # Nothing is done a second time for a protocol that asks the undefended network about itself.
        protocol = protocol.of_undefended if self.clean is undefended else protocol
        chosen_by = undefended
        if network.first is not None and protocol.source_items == "network":
            # So that the same items are attacked with and without what stands in front, and can be compared.
            protocol, chosen_by = replace(protocol, source_items="undefended"), network.first.features
        self.items = SourceItems(protocol, grid.source, self.clean, chosen_by)
        self.attacks = []
        for attack in grid.named_attacks:
            known = attack.under(protocol)
            self.attacks.append(AttackStage(cache, grid, known, self.clean, protocol, chosen_by))
            for what, other in network.transfers.items() if known.is_transferable else ():
                moved = known.transferred(f"{attack.name}, {what}")
                craft = other.classifier
                self.attacks.append(AttackStage(cache, grid, moved, self.clean, protocol, chosen_by, crafted_on=craft))
        self._cache = cache
        self.undefended = undefended
        self._lpips = lpips
        self._looks: dict[str, PerceptualStage] = {}
        self._mixed: dict[tuple[str, str], CatalogueFeatures] = {}

    def looks(self, attack: AttackStage) -> PerceptualStage:
        """Return how the images of an attack look."""
        return self._looks.setdefault(attack.key, PerceptualStage(self._cache, attack, self._lpips))

    def run(self, attack: AttackStage | None = None, **values: Any) -> Run:
        """Return a cell with an attack or without."""
        control: Control | None = None
        looks, row = None, NO_ATTACK
        if attack is not None:
            looks, row = self.looks(attack), attack.name
            control = "noise" if is_noise(attack.named_attack) else None
            values = {"scenario": "poisoning", **values}
        known = {"attack": attack, "perceptual": looks, "row": row, "control": control, **values}
        known["derived"] = self.network.derived
        return Run(self.protocol, self.network.classifier, self.network.accuracy, self.clean, **known)

    def runs(self) -> list[Run]:
        """Return the cells of a study without recommenders."""
        return [self.run(), *(self.run(attack, scenario=None) for attack in self.attacks)]

    def to_train_on(self, rows: AttackStage | FeaturesStage, row: str) -> CatalogueFeatures:
        """Return the features of a catalogue in which the attacked items' are of an attack, or a sham's."""
        is_mixed = self.items.protocol.background_features == "undefended"
        return self._among(self.undefended if is_mixed else self.clean, rows, row)

    def to_evade_with(self, attack: AttackStage) -> CatalogueFeatures:
        """Return the features of a catalogue in which the attacked items' are an attack's, all by one network."""
        return self._among(self.clean, attack, attack.name)

    def _among(self, background: FeaturesStage, rows: AttackStage | FeaturesStage, row: str) -> CatalogueFeatures:
        own_scale = self.items.protocol.feature_scale == "own_matrix" and rows is not self.clean
        if background is self.clean and not own_scale:
            return rows
        return self._mix(background, rows, self.clean, row)

    def to_test_on(self, trained_on: CatalogueFeatures) -> CatalogueFeatures:
        """Return the same features with the categories by whom the protocol asks."""
        if self.items.protocol.chr_categories != "undefended":
            return trained_on
        if isinstance(trained_on, MixedFeaturesStage):
            return self._mix(trained_on.background, trained_on.rows, self.undefended, trained_on.attack_name)
        assert isinstance(trained_on, AttackStage | FeaturesStage)
        return self._mix(self.clean, trained_on, self.undefended, trained_on.attack_name)

    def _mix(
        self, background: FeaturesStage, rows: AttackStage | FeaturesStage, categories: FeaturesStage, row: str | None
    ) -> CatalogueFeatures:
        mixed = MixedFeaturesStage(
            self._cache, self.items, background, rows, categories, seen_by=self.clean.classifier.name, attack_name=row
        )
        return self._mixed.setdefault((mixed.key, str(row)), mixed)


class _Recommenders:
    """The recommenders of a study, each trained once on whatever images, and tested once on each.

    Args:
        cache: Where results live.
        shop: The dataset.
        grid: The study's.
        trainings: How each is trained, by name, in the study's order.
        metrics: What else to measure of them.
        variant: What tells their trainings from those of the same names under another protocol; nothing where there
            are no others.
    """

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        grid: Grid,
        trainings: dict[str, RecommenderTraining],
        metrics: Metrics,
        variant: str = "",
    ) -> None:
        self._cache = cache
        self._shop = shop
        self._grid = grid
        self._trainings = trainings
        self._metrics = metrics
        self._variant = variant
        self._trained: dict[tuple[str, int, str], RecommenderStage] = {}
        self._tested: dict[tuple[str, str], RecommendationsStage] = {}
        self._found_shifts: dict[str, ShiftsStage] = {}

    def trained(
        self, training: RecommenderTraining, seed: int, images: CatalogueFeatures, of: _Images
    ) -> RecommenderStage:
        """Return the training of a recommender, and before it that of the one with which it begins."""
        if not training.looks_at_images:  # neither attacks nor networks make a difference to it
            images = of.undefended
        which = (training.name, seed, images.key)
        if which not in self._trained:
            start = None if training.start is None else self.trained(training.start, seed, images, of)
            shifts = None if training.shifts is None else self._shifts(training.shifts, images, of.clean)
            stage = RecommenderStage(self._cache, self._shop, training, seed, images, start, self._variant, shifts)
            self._trained[which] = stage
        return self._trained[which]

    def _shifts(self, settings: ShiftSettings, images: CatalogueFeatures, clean: FeaturesStage) -> ShiftsStage:
        """Return the stage that finds the shifts of the images by which a recommender is trained."""
        if isinstance(images, MixedFeaturesStage):
            raise CatwalkError(
                "protocol: ImageRobustVBPR is trained on the features of one network as they are, not mixed or divided "
                "anew: let background_features be network and feature_scale clean, or leave it out"
            )
        assert isinstance(images, AttackStage | FeaturesStage)
        stage = ShiftsStage(self._cache, settings, clean)
        if isinstance(images, AttackStage):
            stage = ShiftsStage(self._cache, settings, clean, images, stage)
        return self._found_shifts.setdefault(stage.key, stage)

    def _tested_on(self, of: _Images, recommender: RecommenderStage, images: CatalogueFeatures) -> RecommendationsStage:
        if not recommender.training.looks_at_images:
            images = of.clean
        stage = RecommendationsStage(
            self._cache, self._grid, recommender, of.to_test_on(images), of.items, self._metrics
        )
        return self._tested.setdefault((stage.key, stage.description), stage)

    def runs(self, of: _Images) -> Iterator[Run]:
        """Yield the cells of one network under one protocol: of each recommender those without attack first."""
        controls = self._grid.controls
        for training in self._trainings.values():

            def cells(
                attack: AttackStage | None,
                images: CatalogueFeatures,
                seeds: list[int],
                training: RecommenderTraining = training,
                **values: Any,
            ) -> Iterator[Run]:
                for seed in seeds:
                    stage = self.trained(training, seed, images, of)
                    yield of.run(attack, recommendations=self._tested_on(of, stage, images), **values)

            yield from cells(None, of.clean, self._grid.seeds)
            if controls.other_seeds and training.learns:
                yield from cells(None, of.clean, self._grid.other_seeds, row=OTHER_SEEDS, control="other seeds")
            if controls.sham and training.looks_at_images:
                sham = of.to_train_on(of.clean, SHAM)
                yield from cells(None, sham, self._grid.seeds, row=SHAM, control="sham")
            for attack in of.attacks:
                if attack.must_know_recommender:
                    if training.looks_at_images:  # else it has no features that an image could change
                        for seed in self._grid.seeds:
                            aimed = attack.knowing(*self._known(attack, training, seed, of))
                            yield from cells(aimed, of.to_train_on(aimed, aimed.name), [seed])
                            if controls.evasion:
                                yield self._evaded(of, training, seed, aimed)
                    continue
                yield from cells(attack, of.to_train_on(attack, attack.name), self._grid.seeds)
                if controls.evasion and training.looks_at_images:
                    for seed in self._grid.seeds:
                        yield self._evaded(of, training, seed, attack)

    def _known(
        self, attack: AttackStage, training: RecommenderTraining, seed: int, of: _Images
    ) -> list[RecommenderStage]:
        """Return the recommenders that an attacker knows: the one under attack, or surrogates in its place."""
        known = attack.surrogates or [Surrogate(training.name, seed)]
        for each in known:
            other = self._trainings[each.name]
            if not (other.looks_at_images and other.learns):
                raise CatwalkError(
                    f"attacks: {attack.name}: surrogates must look at images and be trained, which {each.name} does not"
                )
        return [
            self.trained(self._trainings[each.name], seed if each.seed is None else each.seed, of.clean, of)
            for each in known
        ]

    def _evaded(self, of: _Images, training: RecommenderTraining, seed: int, attack: AttackStage) -> Run:
        """Return a cell whose recommender was trained on clean images and is shown attacked ones by its network."""
        stage = self.trained(training, seed, of.clean, of)
        shown = self._tested_on(of, stage, of.to_evade_with(attack))
        return of.run(attack, recommendations=shown, scenario="evasion")


def _recommenders(cache: StageCache, shop: Shop, grid: Grid, metrics: Metrics) -> list[_Recommenders]:
    """Return the recommenders under each protocol: the same ones under all that train them alike."""
    by_protocol: list[dict[str, RecommenderTraining]] = []
    for protocol in grid.protocols:
        trainings: dict[str, RecommenderTraining] = {}
        for name in grid.recommenders:
            trainings[name] = RecommenderTraining.of(grid, shop, name, trainings, protocol)
        by_protocol.append(trainings)
    settings = [repr([training.settings for training in trainings.values()]) for trainings in by_protocol]
    has_variants = len(set(settings)) > 1
    found: dict[str, _Recommenders] = {}
    for protocol, trainings, their_settings in zip(grid.protocols, by_protocol, settings, strict=True):
        variant = f", {protocol.name}" if has_variants else ""
        found.setdefault(their_settings, _Recommenders(cache, shop, grid, trainings, metrics, variant))
    return [found[their_settings] for their_settings in settings]


def _check_categories(grid: Grid, shop: Shop, training: ClassifierTraining, metrics: Metrics) -> None:
    """Raise a CatwalkError unless source, target and those of metrics are categories of whoever names them."""
    whose = "" if training.is_trained_here else f" (of ImageNet, which extractor {training.name} sees)"
    for argument, name in (("source", grid.source), ("target", grid.target)):
        number_of(name, training.category_names, f"{argument}{whose}")
    for protocol in grid.protocols:
        if "dataset" in (protocol.source_items, protocol.chr_categories):
            shop.catalogue.category(grid.source, "source (of the dataset, which the protocol asks)")
        by_dataset = protocol.chr_categories == "dataset"
        metrics.check_categories(shop.catalogue.category_names if by_dataset else training.category_names)
