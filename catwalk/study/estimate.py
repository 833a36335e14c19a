"""What a study will take, before it runs: by earlier results where there are some, else by a measured batch."""

import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.show_batches import ShowBatches
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import Network
from catwalk.perceptual.distances import image_distances
from catwalk.shop.decoding import decode_item
from catwalk.shop.labelled_images import LabelledImages
from catwalk.study.durations import Cost, Durations, work_of
from catwalk.study.progress import StudyProgress
from catwalk.study.stage_worker import Computing
from catwalk.study.stages.accuracy import AccuracyStage
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.defended_classifier import DefendedClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.perceptual import PerceptualStage
from catwalk.study.stages.recommendations import RecommendationsStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer, quiet_lightning
from catwalk.study.workers import Backend
from catwalk.terminal.progress import duration
from datamodules.batches import Batches

SECONDS = 1.0
"""How long batches are measured, after the first one."""

BATCH = 16
"""Images of a measured batch of an attack, and of what measures images."""

FEWER = {"searches": 1, "iterations": 5, "queries": 520}
"""Arguments of attacks whose time grows in proportion to them, and what they are while a batch is measured."""


@dataclass(frozen=True)
class Estimate:
    """What is known of a stage that is left to do.

    Attributes:
        stage: The stage.
        cost: What it will take; None where nobody knows.
        by: How that is known.
    """

    stage: Stage
    cost: Cost | None
    by: str


def estimates_of(stages: Sequence[Stage], durations: Durations) -> list[Estimate]:
    """Return what each of the stages will take; nothing is written but to a temporary folder.

    Stages of which an earlier result tells are not measured, and of those that do the same work one is.
    """
    measured: dict[Any, Cost | None] = {}
    attacked = _Attacked()
    found = []
    for stage in stages:
        cost, by = durations.of_same_work(stage), "earlier results"
        if cost is None:
            network = _network_of(stage)
            does = stage.recommender.settings if isinstance(stage, RecommendationsStage) else stage.settings
            work = work_of(stage.kind, does), None if network is None else network.training.name
            if work not in measured:
                measured[work] = _measure(stage, attacked)
            cost, by = measured[work], "a measured batch"
        found.append(Estimate(stage, cost, by if cost is not None else ""))
    return found


def show_estimates(
    stages: Sequence[Stage], waiting: Sequence[Stage], cache: Any, backend: Backend, console: Console
) -> None:
    """Print the stages of a study by kind: how many are there, and what the others will take.

    Args:
        stages: All stages.
        waiting: Those left to do.
        cache: Where results live, and would go.
        backend: Where they would run, and how many side by side.
        console: Where to print.
    """
    workers = backend.at_once(waiting)
    estimates = estimates_of(waiting, Durations(cache, waiting))
    table = Table(title="What the study would do", title_justify="left", box=None, pad_edge=False)
    table.add_column("Stages", overflow="fold")
    for title in ("All", "Done", "To do", "Time", "Disk"):
        table.add_column(title, justify="right")
    table.add_column("Estimated by", overflow="fold")
    for kind in dict.fromkeys(stage.kind for stage in stages):
        of_kind = [stage for stage in stages if stage.kind == kind]
        to_do = [estimate for estimate in estimates if estimate.stage.kind == kind]
        by = ", ".join(dict.fromkeys(estimate.by for estimate in to_do if estimate.by))
        counts = (len(of_kind), len(of_kind) - len(to_do), len(to_do))
        table.add_row(kind, *map(str, counts), *_sums(to_do), by)
    console.print(table)
    known = [estimate for estimate in estimates if estimate.cost is not None]
    unknown = [estimate for estimate in estimates if estimate.cost is None]
    seconds = sum(estimate.cost.seconds for estimate in known if estimate.cost is not None)
    longest = _longest_chain({id(estimate.stage): estimate for estimate in known}, waiting)
    at_once = "one stage after the other" if workers == 1 else f"up to {workers} stages side by side"
    about = "more than" if unknown else "about"
    took = duration(max(seconds / workers, longest))
    line = f"{about} {took}, {at_once} {backend.words}; nothing was run or written"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if unknown:
        kinds = ", ".join(dict.fromkeys(estimate.stage.kind for estimate in unknown))
        console.print(f"Not known: {kinds}; nothing of that kind has been run on this dataset", highlight=False)


def _sums(estimates: list[Estimate]) -> tuple[str, str]:
    """Return time and disk of some stages, for the table."""
    costs = [estimate.cost for estimate in estimates if estimate.cost is not None]
    sizes = [cost.size for cost in costs if cost.size is not None]
    more = "> " if len(costs) < len(estimates) else ""
    seconds = duration(sum(cost.seconds for cost in costs)) if costs else "?" if estimates else ""
    mib = f"{sum(sizes) / 2**20:,.1f} MiB" if sizes else "?" if estimates else ""
    return (f"{more}{seconds}" if costs else seconds), mib


def _longest_chain(estimates: dict[int, Estimate], waiting: Sequence[Stage]) -> float:
    """Return the seconds of the longest chain of stages that need each other."""
    ends: dict[tuple[str, str], float] = {}
    for stage in waiting:  # inputs first
        before = max((ends.get((needed.kind, needed.key), 0.0) for needed in stage.inputs), default=0.0)
        estimate = estimates.get(id(stage))
        own = 0.0 if estimate is None or estimate.cost is None else estimate.cost.seconds
        ends[stage.kind, stage.key] = before + own
    return max(ends.values(), default=0.0)


class _EnoughError(Exception):
    """A batch has been measured."""


class _Stopwatch(StudyProgress):
    """Measures how fast a bar moves, and ends what moves it after a second.

    Attributes:
        seconds: What the whole would take, by the batches after the first one.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self.seconds: float | None = None

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Do nothing."""
        yield

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Do nothing."""

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Take the time; raise :class:`_EnoughError` when it is known."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now, done
            return
        began, before = self._first
        if done > before and total:
            self.seconds = (now - began) / (done - before) * total
            if now - began >= SECONDS:
                raise _EnoughError


class _RandomImages(LightningDataModule):
    """As many batches of random images as there are of labelled ones."""

    def __init__(
        self, image_size: tuple[int, int] | None, names: Sequence[str], size: Sequence[int], count: int
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.category_names = names
        self._size, self._count = size, count

    def train_dataloader(self) -> DataLoader:
        """Return the batches."""
        batch = torch.rand(self._size[0], 3, *self._size[1:]), torch.arange(self._size[0]) % len(self.category_names)
        return Batches(lambda: repeat(batch, self._count), self._count).loader()


class _Network:
    """A network of a study as it is before any training, and random images of the size of the shop's.

    Args:
        stage: The stage that would train it.
    """

    def __init__(self, stage: ClassifierStage) -> None:
        training, shop = stage.training, stage.shop
        self.training = training
        arguments = training.data.settings["init_args"]
        self.batch_size: int = arguments["batch_size"]
        own = arguments["image_size"]
        self.image_size = None if own is None else (int(own[0]), int(own[1]))
        shares = {name: arguments[name] for name in ("validation_share", "test_share") if name in arguments}
        labelled = LabelledImages.read(shop.catalogue, **shares, seed=arguments.get("seed") or 0)
        self.num_train, self.num_test = len(labelled.rows("train")), len(labelled.rows("test"))
        self.size = decode_item(shop.catalogue, 0, self.image_size).shape[1:]
        self.module = training.model.instantiate()
        count = -(-self.num_train // self.batch_size)
        size = (min(self.batch_size, self.num_train), *self.size)
        self.data = _RandomImages(self.image_size, shop.catalogue.category_names, size, count)
        self.module.build_for(self.data)

    def images(self, count: int) -> Tensor:
        """Return random images on the device where the network is trained."""
        return torch.rand(count, 3, *self.size, device=self.training.device)

    @property
    def network(self) -> Network:
        """The network, to be asked."""
        network: Network = self.module.network.eval().to(self.training.device)
        return network

    @cached_property
    def num_features(self) -> int:
        """What it says of an image."""
        with torch.inference_mode():
            return self.network.features(self.images(1)).shape[1]


def _network_of(stage: Stage) -> ClassifierStage | None:
    """Return the stage that trains the network by which a stage sees images."""
    if isinstance(stage, ClassifierStage):
        return stage
    return next((found for needed in stage.inputs if (found := _network_of(needed)) is not None), None)


def _measure(stage: Stage, attacked: "_Attacked") -> Cost | None:
    """Return what a stage would take, by a batch; None where there is no batch to measure."""
    classifier = _network_of(stage)
    if classifier is None:
        return None
    quiet, computing = warnings.catch_warnings(), Computing.of_this_process().applied()
    with quiet, quiet_lightning(), computing, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        network = _Network(classifier)
        catalogue = classifier.shop.catalogue
        of_features = 4.0 * len(catalogue) * network.num_features
        if isinstance(stage, ClassifierStage):
            size = sum(float(weight.nbytes) for weight in network.module.state_dict().values())
            is_fitted = stage.training.is_trained_here and not isinstance(stage, DefendedClassifierStage)
            return Cost(_fit(stage, network, Path(folder)) if is_fitted else 1.0, size)
        if isinstance(stage, FeaturesStage):
            return Cost(_features(network) * len(catalogue), of_features)
        if isinstance(stage, AccuracyStage):
            return Cost(attacked.seconds(network, stage.attack) * network.num_test, 0.0)
        if isinstance(stage, AttackStage):
            if stage.must_know_recommender or stage.named_attack.example.knowledge != "network":
                return None
            count = _num_attacked(stage)
            attack = stage.named_attack.transfer_of or stage.named_attack
            crafted_on = network if stage.crafted_on is None else _Network(stage.crafted_on)
            try:
                seconds = attacked.seconds(crafted_on, attack.specification) + _features(network)
            except CatwalkError:  # random images are not what it takes, such as ones with a plain background
                return None
            return Cost(seconds * count, of_features + 3.0 * count * network.size[0] * network.size[1])
        if isinstance(stage, PerceptualStage):
            levels = torch.randint(256, (BATCH, 3, *network.size), dtype=torch.uint8, device=network.training.device)
            one = _timed(lambda: image_distances(levels, levels.flip(0), stage.lpips))
            return Cost(one / BATCH * _num_attacked(stage.attack), 0.0)
        if isinstance(stage, RecommenderStage | RecommendationsStage):
            _write_features(network, classifier, Path(folder))
            if isinstance(stage, RecommenderStage):
                seconds_or_none = _recommender(stage, Path(folder))
            else:
                seconds_or_none = _lists(stage, Path(folder))
            return None if seconds_or_none is None else Cost(seconds_or_none)
    return None


def _fit(stage: ClassifierStage, network: _Network, folder: Path) -> float:
    """Return the seconds of a training."""
    training, watch = stage.training, _Stopwatch()
    settings = {**(training.trainer or {}), "limit_val_batches": 0}
    trainer = make_trainer(settings, training.trainer_argument, folder, None, ShowBatches(watch, every=1))
    network.module.train()
    with suppress(_EnoughError):
        trainer.fit(network.module, network.data)
    return watch.seconds or 0.0


def _features(network: _Network) -> float:
    """Return the seconds that the features of an image take."""
    images = network.images(BATCH)
    with torch.inference_mode():
        return _timed(lambda: network.network.features(images)) / BATCH


class _Attacked:
    """Measures attacks, each once on a network."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}

    def seconds(self, network: _Network, specification: Specification) -> float:
        """Return the seconds that an attack takes per image, if it does not stop before its last step.

        Raises:
            CatwalkError: If it does not take random images.
        """
        which = network.training.name, json.dumps(specification.settings, sort_keys=True, default=str)
        if which not in self._seconds:
            self._seconds[which] = self._measured(network, specification)
        return self._seconds[which]

    @staticmethod
    def _measured(network: _Network, specification: Specification) -> float:
        arguments, factor = specification.settings["init_args"], 1.0
        fewer = {}
        for name, few in FEWER.items():
            if isinstance(arguments.get(name), int) and arguments[name] > few:
                fewer[name] = few
                factor *= arguments[name] / few
        try:
            attack = specification.with_arguments(**fewer).instantiate()
        except CatwalkError:  # fewer queries than a step takes
            attack, factor = specification.instantiate(), 1.0
        images, categories = network.images(BATCH), torch.arange(BATCH, device=network.training.device)
        categories %= len(network.data.category_names)
        keys = torch.arange(BATCH, device=network.training.device)
        frozen = network.network
        return _timed(lambda: attack(frozen, images, categories, keys=keys)) / BATCH * factor


def _num_attacked(stage: AttackStage) -> int:
    """Return how many items would be attacked, by their labels; where nothing is labelled so, a category's share."""
    catalogue, source = stage.features.shop.catalogue, stage.grid.source
    if source not in catalogue.category_names:
        return max(1, len(catalogue) // catalogue.num_categories)
    return int((catalogue.categories == catalogue.category(source, "source")).sum())


def _write_features(network: _Network, classifier: ClassifierStage, folder: Path) -> None:
    """Write random features of the whole catalogue."""
    shop = classifier.shop
    count = len(shop.catalogue)
    FeatureTable(
        features=torch.rand(count, network.num_features),
        categories=np.zeros(count, dtype=np.int64),
        probabilities=np.ones(count, dtype=np.float32),
        category_names=tuple(classifier.training.category_names),
        scale=1.0,
        catalogue=shop.items.fingerprint,
        network="none",
    ).write(folder, shop.catalogue)


def _recommender(stage: RecommenderStage, folder: Path) -> float | None:
    """Return the seconds of a training on the features in a folder; None where it cannot be had."""
    if not stage.training.learns:
        return 0.0
    copied, watch, began = copy.copy(stage), _Stopwatch(), time.perf_counter()
    copied.source, copied.start = SimpleNamespace(folder=folder), None  # type: ignore[assignment]
    try:
        copied.make(folder, watch)
    except _EnoughError:
        return watch.seconds
    except CatwalkError:  # as of a model that begins with another's parameters alone
        return None
    return time.perf_counter() - began


def _lists(stage: RecommendationsStage, folder: Path) -> float | None:
    """Return the seconds in which a recommender ranks the features in a folder for all users, before any training."""
    training, watch, began = stage.recommender.training, _Stopwatch(), time.perf_counter()
    model = training.model.instantiate()
    data = training.data_on(folder, stage.recommender.seed).instantiate()
    trainer = make_trainer(training.trainer, training.trainer_argument, folder, watch)
    try:
        trainer.test(model, data, verbose=False)
    except _EnoughError:
        return watch.seconds
    except CatwalkError:
        return None
    return time.perf_counter() - began


def _timed(work: Callable[[], Any]) -> float:
    """Return the seconds of the quickest of two runs; of one that takes long, the first has to do."""
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
        if best > SECONDS:
            break
    return best
