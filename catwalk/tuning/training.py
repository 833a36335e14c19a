"""Trainings of a search: a recommender and its data, some of whose arguments are drawn from ranges."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.memory import is_oom_error

from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError, DivergedError, TooLargeError
from catwalk.files.hashes import file_hash
from catwalk.files.watched import WatchedFiles, watch
from catwalk.networks.features import FEATURES_FILE, FeatureTable
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import read_split
from catwalk.study.grid import Settings
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import TRIPLETS, data_of, split_of
from catwalk.study.trainer import make_trainer, quiet_lightning
from lightning_modules.recommender import Recommender

OWN_DATA = {
    "dataset": "it is an argument of the search",
    "features": "it is an argument of the search",
    "seed": "it is the search's",
    "split": "it is an argument of the search",
    "validation": "a search always holds out the validation items",
}
"""Arguments of ``InteractionTriplets`` that a search gives by itself, and why."""

FAILURE = "failure"
"""Attribute of a trial that has failed: why, in a line."""


@dataclass(frozen=True)
class SearchedTraining:
    """How a recommender is trained, but for the arguments that a search draws.

    Attributes:
        model: ``class_path`` and ``init_args``.
        data: Arguments of ``InteractionTriplets``, without those of :data:`OWN_DATA`.
        trainer: Arguments of Lightning's Trainer.
        dataset: The dataset folder.
        features: Folder with the features.
        seed: Seed of weights and batches.
        split: ``class_path`` and ``init_args`` of the rule by which purchases are divided, if any.
    """

    model: Settings
    data: Settings
    trainer: Settings
    dataset: Path
    features: Path | None
    seed: int
    split: Settings | None = None
    _watched: list[WatchedFiles] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name in self.data:
            if name in OWN_DATA:
                raise CatwalkError(f"data.{name}: leave it out, {OWN_DATA[name]}")

    def configuration(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``model`` and ``data`` for ``catwalk fit``, with parameters by their paths.

        Raises:
            CatwalkError: If a path leads through what has no arguments.
        """
        features = {} if self.features is None else {"features": str(self.features)}
        split = {} if self.split is None else {"split": self.split}
        data = {"dataset": str(self.dataset), **features, "seed": self.seed, **split, **self.data}
        configuration = copy.deepcopy({"model": dict(self.model), "data": {"class_path": TRIPLETS, "init_args": data}})
        for path, value in parameters.items():
            *outer, last = path.split(".")
            place: Any = configuration
            for name in outer:
                arguments = _arguments(place)
                place = arguments[name] = {} if arguments.get(name) is None else arguments[name]
                if not isinstance(place, dict):
                    raise CatwalkError(f"search.{path}: {name} is {place!r}, which has no arguments")
            _arguments(place)[last] = value
        return configuration

    def specifications(self, parameters: Mapping[str, Any]) -> dict[str, Specification]:
        """Return the checked ``model`` and ``data``, which holds out the validation items."""
        configuration = self.configuration(parameters)
        model = Specification.of(configuration["model"], Recommender, "model")
        data = data_of(configuration["data"]["init_args"], TRIPLETS, "data", validation=True)
        return {"model": model, "data": data}

    def distributions(self, search: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Return what each argument is drawn from, after everything has been made at the ends of every range.

        Raises:
            CatwalkError: If a range is none, there is no such argument, it does not take the values, or the dataset has
                nothing to validate on.
        """
        if not search:
            raise CatwalkError("search: name at least one argument, such as model.regularization, and its range")
        ends = {path: _ends(path, limits) for path, limits in search.items()}
        first = {path: values[0] for path, values in ends.items()}
        last = {path: values[-1] for path, values in ends.items()}
        others = [{**first, path: value} for path, values in ends.items() for value in values[1:]]
        for parameters in (first, last, *others):
            self._try(parameters)
        if make_trainer(self.trainer, "trainer").world_size > 1:
            raise CatwalkError("trainer: a search trains in one process, on one device")
        rule = None if self.split is None else split_of(self.split).instantiate()
        if not len(read_split(Catalogue.read(self.dataset), validation=True, rule=rule).validation):
            raise CatwalkError(
                f"dataset: {self.dataset} has no validation items: neither users with three purchases nor "
                "splits/validation.csv"
            )
        low, high = self.specifications(first), self.specifications(last)
        return {path: _distribution(path, search[path], _value(low, path), _value(high, path)) for path in search}

    def _try(self, parameters: Mapping[str, Any]) -> None:
        """Make the recommender, its optimizer and its data module."""
        made = {name: specification.instantiate() for name, specification in self.specifications(parameters).items()}
        model = made["model"]
        if not model.learns:
            raise CatwalkError(f"model: {type(model).__name__} has nothing to train")
        if model.uses_features and self.features is None:
            raise CatwalkError(f"features: {type(model).__name__} needs the folder that `catwalk predict` wrote")
        model.build(num_users=1, num_items=1, num_features=1)
        try:
            model.configure_optimizers()
        except CatwalkError as error:
            raise CatwalkError(f"model.{error}") from error

    def split_facts(self) -> str:
        """Return what there is to tell of how the purchases are divided, as a line."""
        catalogue, rule = Catalogue.read(self.dataset), None if self.split is None else split_of(self.split)
        split = read_split(catalogue, validation=True, rule=None if rule is None else rule.instantiate())
        return f"{catalogue.name}: {'; '.join(split.facts())}"

    def identity(self, search: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that the trials of a search depend on, files by their contents, and watch these from now on."""
        split = None if self.split is None else split_of(self.split)
        shop = Shop.read(self.dataset, split)
        first = {path: _ends(path, limits)[0] for path, limits in search.items()}
        model = self.specifications(first)["model"].settings  # with the defaults of today
        start = model["init_args"].get("warm_start")
        named = [self.features / FEATURES_FILE] if self.features is not None else []
        self._watched[:] = [
            watch(*named, *([Path(start)] if start else [])),
            *shop.items.files,
            *shop.interactions.files,
        ]
        prints: dict[str, str | None] = {
            "catalogue": shop.items.fingerprint,
            "interactions": shop.interactions.fingerprint,
        }
        if self.features is not None:
            FeatureTable.read(self.features, shop.catalogue)
            prints["features"] = file_hash(self.features / FEATURES_FILE)
        prints["warm start"] = file_hash(start)
        stated = {"search": search, "model": model, "data": self.data, "trainer": self.trainer, "seed": self.seed}
        if split is not None:
            stated["split"] = split.settings
        return {**stated, **{name: value and value[:12] for name, value in prints.items()}}

    def require_unchanged(self, what: str) -> None:
        """Raise a CatwalkError if something that the trials depend on was written since :meth:`identity`.

        Args:
            what: What is being made, for the message.
        """
        for files in self._watched:
            files.require_unchanged(what)

    def run(
        self,
        trial: optuna.Trial,
        folder: Path,
        progress: StudyProgress,
        logger: WandbLogger | None,
        *callbacks: pl.Callback,
    ) -> None:
        """Train with the parameters of a trial, and note the seconds and, where the trial has failed, why.

        A trial fails where its settings do: a class refuses them, the training diverges, or the memory does not
        suffice. Its metrics before that count.

        Raises:
            CatwalkError: If no trial could be trained as the search is stated.
        """
        start = time.perf_counter()
        settings = {"num_sanity_val_steps": 1, **self.trainer, **({"logger": logger} if logger is not None else {})}
        try:
            with quiet_lightning():
                pl.seed_everything(self.seed, verbose=False)
                trainer = make_trainer(settings, "trainer", folder, progress, *callbacks)
                if logger is not None:
                    logger.log_hyperparams(trial.params)
                try:
                    made = {name: its.instantiate() for name, its in self.specifications(trial.params).items()}
                except CatwalkError as error:
                    _note_failure(trial, error)
                else:
                    _fit(trainer, made["model"], made["data"], trial)
        except MisconfigurationException as error:
            raise CatwalkError(f"trainer: {error}") from error
        finally:
            if logger is not None:
                logger.experiment.finish()
            trial.set_user_attr("seconds", round(time.perf_counter() - start, 3))


class FollowTrial(pl.Callback):
    """Reports the metric of every validation to a trial, and ends the training where the trial is pruned.

    Args:
        trial: The trial.
        monitor: Name of the metric.

    Attributes:
        state: How the trial ends: completed or pruned, or failed where every metric was NaN or infinite.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial = trial
        self.monitor = monitor
        self.state = TrialState.FAIL

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for the metric before anything is trained."""
        self._metric(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report."""
        if trainer.sanity_checking or not math.isfinite(value := self._metric(trainer)):
            return
        self.state = TrialState.COMPLETE
        self.trial.report(value, trainer.current_epoch + 1)
        if self.trial.should_prune():
            self.state = TrialState.PRUNED
            trainer.should_stop = True

    def _metric(self, trainer: pl.Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise CatwalkError(f"monitor: there is no metric {self.monitor!r}; there are {', '.join(known)}")
        return float(trainer.callback_metrics[self.monitor])


def _fit(trainer: pl.Trainer, model: Recommender, data: pl.LightningDataModule, trial: optuna.Trial) -> None:
    """Train, and note why where the trial's settings do not let it."""
    try:
        trainer.fit(model, data)
    except (DivergedError, TooLargeError, MemoryError) as error:
        _note_failure(trial, error)
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        _note_failure(trial, error)


def _note_failure(trial: optuna.Trial, error: Exception) -> None:
    trial.set_user_attr(FAILURE, " ".join((str(error) or type(error).__name__).split()))


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class, or the settings themselves where they are none of a class."""
    if "class_path" not in settings:
        return settings
    if settings.get("init_args") is None:
        settings["init_args"] = {}
    return settings["init_args"]


def _value(specifications: Mapping[str, Specification], path: str) -> Any:
    """Return what became of an argument: 1 is 1.0 where the argument is a float."""
    section, *names = path.split(".")
    value: Any = specifications[section].settings
    for name in names:
        value = _arguments(value)[name]
    return value


def _ends(path: str, limits: Any) -> list[Any]:
    """Return the choices, or low and high, of an argument.

    Raises:
        CatwalkError: If it is no path of an argument, or no range.
    """
    argument, (section, *names) = f"search.{path}", path.split(".")
    if section not in ("model", "data") or not names or not all(names):
        raise CatwalkError(f"{argument}: is no path of an argument, such as model.factors or data.batch_size")
    if section == "data" and names[0] in OWN_DATA:
        raise CatwalkError(f"{argument}: cannot be searched, {OWN_DATA[names[0]]}")
    keys = set(limits) if isinstance(limits, dict) else set()
    if keys == {"choices"}:
        choices = limits["choices"]
        if not (isinstance(choices, list) and choices) or any(isinstance(choice, dict | list) for choice in choices):
            raise CatwalkError(f"{argument}: choices must be a list of plain values, at least one, got {choices}")
        return choices
    if not {"low", "high"} <= keys <= {"low", "high", "log"}:
        raise CatwalkError(f"{argument}: must be choices, or low and high and, by option, log, got {limits}")
    low, high, log = limits["low"], limits["high"], limits.get("log", False)
    if not (_is_number(low) and _is_number(high) and low < high):
        raise CatwalkError(f"{argument}: low must be a number less than high, got low {low} and high {high}")
    if not isinstance(log, bool):
        raise CatwalkError(f"{argument}: log must be true or false, got {log}")
    if log and low <= 0:
        raise CatwalkError(f"{argument}: low must be above 0 with log, got {low}")
    return [low, high]


def _distribution(path: str, limits: Mapping[str, Any], low: Any, high: Any) -> BaseDistribution:
    """Return what to draw an argument from, given its range and what it makes of the ends."""
    if "choices" in limits:
        return CategoricalDistribution(limits["choices"])
    if not (_is_number(low) and _is_number(high)):
        raise CatwalkError(f"search.{path}: takes no numbers; give choices")
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=limits.get("log", False))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
