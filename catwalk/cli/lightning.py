"""LightningCLI as Catwalk sets it up: any of our modules by class path, and a configuration that always counts."""

import contextlib
import dataclasses
import inspect
import os
import re
import shlex
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytorch_lightning.loggers
import yaml
from jsonargparse import lazy_instance
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

# Imported so that their classes can be named without a path.
import callbacks  # noqa: F401
import catwalk.attacks
import catwalk.recommenders.lazy_adam
import datamodules
import lightning_modules
from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.resumable_checkpoint import ResumableCheckpoint
from callbacks.run_labels import call_run, run_labels
from callbacks.show_batches import LogBatches, ShowBatches
from callbacks.wandb_axes import WandbAxes
from catwalk import __version__
from catwalk.attacks import Attack
from catwalk.cli.poison import Poison
from catwalk.configuration import notices as known_notices
from catwalk.configuration.messages import imported, one_line, options_of
from catwalk.configuration.names import did_you_mean
from catwalk.configuration.parsers import KEEP_NONE, ReadableHelp
from catwalk.errors import CatwalkError
from catwalk.files.atomic import written_aside
from catwalk.files.checkpoints import read_checkpoint
from catwalk.files.hashes import file_hash
from catwalk.limits import check_seed
from catwalk.shop.catalogue import fingerprint_files
from catwalk.terminal.stopping import Stopped, advising, end_processes, keep_sigterm
from datamodules import InteractionTriplets, ProductImages
from lightning_modules.checkpoints import check_class, write_whole_checkpoints

HELP = {
    "fit": (
        "Train a CNN on product images, or a recommender on purchases.",
        "--config configs/recommender/vbpr.yaml --config configs/data/synthetic.yaml",
    ),
    "validate": (
        "Measure a trained CNN or recommender on what was held out for validation.",
        "--config configs/cnn/traditional.yaml --config configs/data/synthetic.yaml --ckpt_path CHECKPOINT",
    ),
    "test": (
        "Measure a trained CNN or recommender on what was held out for the test.",
        "--config configs/recommender/vbpr.yaml --config configs/data/synthetic.yaml --ckpt_path CHECKPOINT",
    ),
    "predict": (
        "Write the features of every item (with a CNN), or the recommendations of every user (with a recommender).",
        "--config configs/cnn/traditional.yaml --config configs/data/synthetic.yaml --config configs/cnn/features.yaml",
    ),
}
"""What each command does, and an example."""


class LightningParser(ReadableHelp, LightningArgumentParser):
    """The parser of ``catwalk fit``, ``validate``, ``test`` and ``predict``."""


def known_options() -> list[str]:
    """Return the names of the options of ``fit`` and its siblings, those of all our classes among them."""
    classes: list[tuple[str, type]] = [("trainer", Trainer)]
    classes += [("model", getattr(lightning_modules, name)) for name in lightning_modules.__all__]
    classes += [("data", getattr(datamodules, name)) for name in datamodules.__all__]
    kinds = [getattr(catwalk.attacks, name) for name in catwalk.attacks.__all__]
    classes += [("poison", Poison), *(("poison.attack", kind) for kind in kinds if issubclass(kind, Attack))]
    options = [option for section, kind in classes for option in options_of(kind, section)]
    others = [
        "config",
        "model",
        "data",
        "trainer",
        "poison",
        "ckpt_path",
        "seed_everything",
        "print_config",
        "checkpoint_dir",
    ]
    return list(dict.fromkeys([*others, *options]))


class SaveConfiguration(SaveConfigCallback):
    """Writes the full configuration into the run's own folder, and logs it as the run's hyper-parameters.

    With it go ``provenance``, what the figures depend on and the configuration does not say, and what the run is in few
    words, under the names that a study's cells have (:func:`~callbacks.run_labels.run_labels`).
    """

    labels: Mapping[str, Any] = MappingProxyType({})
    """What the run is."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``configuration.yaml``; without a logger there is no run folder and nothing to write."""
        for logger in trainer.loggers[:1]:
            folder = run_folder(logger)
            if folder is not None:
                with written_aside(folder / "configuration.yaml") as path:
                    self.parser.save(self.config, path, overwrite=True, multifile=False, **KEEP_NONE)
        if trainer.loggers:
            configuration = yaml.safe_load(self.parser.dump(self.config, **KEEP_NONE))
            known = {**configuration, **self.labels, "provenance": provenance(trainer, configuration.get("ckpt_path"))}
            for logger in trainer.loggers:
                logger.log_hyperparams(known)


def provenance(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Return Catwalk's version and the fingerprints of what a run reads, as plain values.

    Args:
        trainer: The Trainer, whose data module has been set up.
        checkpoint: The checkpoint that the run begins with.

    Returns:
        ``catwalk``; where there are any: ``dataset`` (name), ``lists`` (SHA-256 of the dataset's lists of items and of
        labelled images), ``purchases`` (of those that are trained on, as checkpoints have it), ``catalogue`` (with
        every byte of its images) and ``network`` (fingerprints that the features are stamped with), ``checkpoint`` and
        ``classifier`` (SHA-256 of the files), and the ``protocol`` of the attack in the run.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    known: dict[str, Any] = {"catwalk": __version__}
    if isinstance(data, InteractionTriplets | ProductImages):
        folder = data.catalogue.folder
        lists = [name for name in ("dataset.json", "items.csv", "labelled_images.csv") if (folder / name).is_file()]
        known |= {"dataset": data.catalogue.name, "lists": fingerprint_files(folder, lists)}
    if isinstance(data, InteractionTriplets):
        known["purchases"] = data.split.trained_on
        if data.feature_table is not None:
            known |= {"catalogue": data.feature_table.catalogue, "network": data.feature_table.network}
    if checkpoint is not None and Path(checkpoint).is_file():
        known["checkpoint"] = file_hash(Path(checkpoint))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, InjectPoisonedImages):
            known["classifier"] = file_hash(callback.classifier)
            known["protocol"] = dataclasses.asdict(callback.protocol)
    return known


def run_folder(logger: Logger) -> Path | None:
    """Return the folder of a logger's run, where Lightning also puts its checkpoints by default."""
    if isinstance(logger, WandbLogger):
        # Its `save_dir` is shared by all runs, and its id is known only after the run has begun.
        return Path(logger.save_dir or ".", str(logger.name), str(logger.experiment.id))
    return Path(logger.log_dir) if logger.log_dir else None


NOTHING_HELD_OUT = (
    "nothing is held out for validation; set data.validation to true for a recommender, data.validation_share above 0 "
    "for a CNN, or give the dataset folder a validation split"
)


DISTRIBUTED = (".metadata", "meta.pt", "checkpoint")
"""Of these at least one is in a folder that is a checkpoint of FSDP or DeepSpeed."""


class RequireMonitored(Callback):
    """Refuses to train where another callback waits for a figure of a validation that never comes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the callbacks monitor."""
        if any(_counts(trainer.num_val_batches)):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor.startswith("val/"):
                name = type(callback).__name__
                raise CatwalkError(f"trainer.callbacks: {name}.monitor is {monitor}, and {NOTHING_HELD_OUT}")


class CatwalkCLI(LightningCLI):
    """``catwalk fit|validate|test|predict``."""

    def __init__(self) -> None:
        self._checkpoint: tuple[str, dict[str, Any]] | None = None
        self._is_poisoned = False
        known_notices.hide()
        settings = {
            name: {
                "exit_on_error": False,
                "usage": f"catwalk {name} [--config FILE ...] [OPTION ...]",
                "description": (
                    f"{what} Every option can stand in a YAML file; several --config stack, and what comes later "
                    f"wins: `catwalk {name} {example}`. For help on a class: `catwalk {name} --model.help VBPR`, "
                    "--data.help InteractionTriplets, --trainer.callbacks.help CategoryHitRatio."
                ),
            }
            for name, (what, example) in HELP.items()
        }
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfiguration,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=LightningParser,
            trainer_defaults={
                # Offline: nothing leaves the machine unless the user asks for it.
                "logger": lazy_instance(
                    pytorch_lightning.loggers.WandbLogger, project="catwalk", save_dir="runs", offline=True
                ),
            },
            parser_kwargs={"exit_on_error": False, **settings},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is no setting of the Trainer, the model or the data."""
        parser.add_argument(
            "--checkpoint_dir",
            type=str | None,
            default=None,
            help="Folder for the checkpoints of `fit`; it takes the place of dirpath in all callbacks that write some.",
        )
        parser.add_class_arguments(Poison, "poison")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands with those arguments of the Trainer's methods that are no options."""
        commands = LightningCLI.subcommands()
        # What is predicted is written by callbacks; collecting it as well would only take memory.
        return {**commands, "predict": {*commands["predict"], "return_predictions"}}

    def _set_seed(self) -> None:
        """Seed the run; PyTorch Lightning's own complaint about a seed would be no message for a user.

        Raises:
            CatwalkError: If the seed is not in 0..2^32 - 1.
        """
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None:
            check_seed(seed, "seed_everything")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it was given.

        Lightning would let a checkpoint's hyper-parameters silently win over files and flags, and even over the
        class. The modules themselves check that a checkpoint fits (``on_load_checkpoint``) and say what differs.
        """

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything long begins, and send checkpoints where they are wanted."""
        self._check_trainer()
        self._share_seed()
        self._set_checkpoint_dir()
        path = self._get(self.config, "ckpt_path")
        if path is not None and (path not in ("last", "hpc") or self.subcommand != "fit") and "://" not in str(path):
            if not path:
                raise CatwalkError("ckpt_path: the name of a checkpoint is missing")
            if Path(path).is_dir():
                if any(Path(path, name).exists() for name in DISTRIBUTED):
                    return
                raise CatwalkError(f"ckpt_path: {path} is a folder: give a checkpoint in it, a file such as last.ckpt")
            self._checkpoint = str(path), read_checkpoint(path)
            settings = getattr(self._get(self.config, "model"), "init_args", None) or {}
            if settings.get("weights") is not None and not Path(settings["weights"]).is_file():
                settings["weights"] = None  # what the network began with, and is not needed any more

    def _share_seed(self) -> None:
        """Let the data have the run's seed, unless they were given one: as with a study's, runs differ in all of it."""
        settings = getattr(self._get(self.config, "data"), "init_args", None) or {}
        seed = self._get(self.config, "seed_everything")
        if "seed" in settings and settings["seed"] is None and seed is not False:
            settings["seed"] = seed

    def _check_trainer(self) -> None:
        """Refuse what the Trainer does not check."""
        if self._get(self.config, "trainer") is None:
            raise CatwalkError("trainer: expected options of the Trainer, got nothing; leave it out, or give it some")
        for name in ("check_val_every_n_epoch", "accumulate_grad_batches"):
            value = self._get(self.config, f"trainer.{name}")
            if value is not None and value < 1:
                raise CatwalkError(f"trainer.{name}: must be at least 1, got {value}")

    def _set_checkpoint_dir(self) -> None:
        """Let all callbacks that write checkpoints write them into ``checkpoint_dir``, where it is given."""
        folder = self._get(self.config, "checkpoint_dir")
        writers = [
            callback
            for callback in _listed(self._get(self.config, "trainer.callbacks"))
            if inspect.isclass(kind := imported(callback["class_path"])) and issubclass(kind, ModelCheckpoint)
        ]
        for callback in writers:
            if folder is not None:
                callback["init_args.dirpath"] = folder
            option = "trainer.callbacks.dirpath" if folder is None else "checkpoint_dir"
            dirpath = callback.get("init_args.dirpath")
            if dirpath is not None and (not dirpath or Path(dirpath).is_file()):
                raise CatwalkError(f"{option}: expected a folder, got {dirpath or 'nothing'}, which is none")
        if folder is not None and not writers:
            raise CatwalkError(
                "checkpoint_dir: no callback of the configuration writes checkpoints; add callbacks.ResumableCheckpoint"
            )

    def instantiate_classes(self) -> None:
        """Make the objects, and say in one line what they refuse."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if not str(error).startswith("Does not validate against any of the Union subtypes"):
                raise
            # jsonargparse wraps whatever a class raises when it is made.
            raise CatwalkError(one_line(str(error))) from error
        self._check_pair()
        if isinstance(self.model, lightning_modules.ProductClassifier):
            self.model.awaits_checkpoint = self._checkpoint is not None
        if self._checkpoint is not None:
            path, content = self._checkpoint
            self._checkpoint = path, {}  # it is read again when it is loaded
            try:
                check_class(self.model, content)
            except CatwalkError as error:
                raise CatwalkError(f"ckpt_path: {path}: {error}") from error

    def _check_pair(self) -> None:
        """Refuse a recommender without purchases, and a CNN without images to learn from."""
        model, data = self.model, self.datamodule
        if isinstance(model, lightning_modules.Recommender) and isinstance(data, ProductImages):
            wanted = "datamodules.InteractionTriplets: a recommender learns from purchases"
        elif isinstance(model, lightning_modules.ProductClassifier) and isinstance(data, InteractionTriplets):
            wanted = "datamodules.ProductImages: a CNN learns from images"
        else:
            return
        raise CatwalkError(f"data: {type(model).__name__} does not work with {type(data).__name__}; give {wanted}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, and say in one line what it refuses."""
        stated = _listed(self._get(self.config_init, "trainer.callbacks"))  # before the Trainer adds its own
        poison = self._get(self.config_init, "poison").callback(
            self.model, self.datamodule, stated, self._get(self.config, "poison").as_dict()
        )
        self._is_poisoned = poison is not None
        try:
            # What poisons comes first, so that those who measure find it done.
            trainer = super().instantiate_trainer(callbacks=[*([poison] if poison else []), *stated], **kwargs)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise CatwalkError(f"trainer: {error}") from error
        except RuntimeError as error:
            twice = re.match(r"Found more than one stateful callback of type `(\w+)`", str(error))
            if twice is None:
                raise
            raise CatwalkError(
                f"trainer.callbacks: there are two of {twice[1]}; two configurations of a model, as of a CNN and of a "
                "recommender, do not stack: give one of them"
            ) from error
        keep_sigterm(trainer)
        write_whole_checkpoints(trainer)
        if os.environ.get("WANDB_MODE") == "disabled":  # which Lightning does not look at
            trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, WandbLogger)]
        seed = self._get(self.config_init, "seed_everything")
        labels = run_labels(self.model, self.datamodule, trainer.callbacks, seed)  # type: ignore[attr-defined]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfiguration):
                callback.labels = labels
        of_wandb = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        for logger in of_wandb:
            if logger._wandb_init.get("anonymous", ...) is None:
                del logger._wandb_init["anonymous"]  # W&B warns of this setting, even where Lightning leaves it unset
            call_run(logger, str(self.subcommand), labels)
        given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        bar = trainer.progress_bar_callback
        if bar is not None and bar not in stated and not Console().is_terminal:
            given[given.index(bar)] = LogBatches(str(self.subcommand))  # Lightning's would be silent in a log, or soup
        if of_wandb and not any(isinstance(callback, WandbAxes) for callback in given):
            given.append(WandbAxes())
        given.append(RequireMonitored())
        return trainer

    def before_fit(self) -> None:
        """Refuse what cannot be learnt, before images are decoded."""
        self._check_command()
        if isinstance(self.model, lightning_modules.Recommender) and not self.model.learns:
            raise CatwalkError(
                f"fit: {type(self.model).__name__} has nothing to learn; `catwalk test` and `catwalk predict` take it "
                "as it is, without a ckpt_path"
            )
        if isinstance(self.model, lightning_modules.ProductClassifier) and not self._get(self.config_init, "ckpt_path"):
            self.model.require_initial_weights()

    def before_validate(self) -> None:
        """Refuse to measure a network that nobody has trained."""
        self._check_command()
        self._require_weights()

    def before_test(self) -> None:
        """Refuse to measure a network that nobody has trained."""
        self._check_command()
        self._require_weights()

    def before_predict(self) -> None:
        """Refuse to predict with a network that nobody has trained, or to write nothing."""
        self._require_weights()
        if not any(_writes_predictions(callback) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise CatwalkError(
                "predict: nothing would be written; add --config configs/cnn/features.yaml for the features of a CNN, "
                "or --config configs/recommender/recommendations.yaml for the lists of a recommender"
            )

    def after_fit(self) -> None:
        """Say where the checkpoints are."""
        written: dict[str, str] = {}
        for callback in self.trainer.checkpoint_callbacks:
            path = getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", "")
            if path:
                monitor = getattr(callback, "monitor", None)
                written.setdefault(path, "" if monitor is None else f" of the best epoch by {monitor}")
        for path, what in written.items():
            rank_zero_info(f"The checkpoint{what} is {_from_here(path)}")
        if not written:
            rank_zero_info("No checkpoint was written")

    def after_validate(self) -> None:
        """Say so where there was nothing to measure on."""
        if not any(_counts(self.trainer.num_val_batches)):
            raise CatwalkError(f"validate: {NOTHING_HELD_OUT}")

    def after_test(self) -> None:
        """Say so where there was nothing to measure on."""
        if not any(_counts(self.trainer.num_test_batches)):
            raise CatwalkError("test: nothing is held out for the test; the dataset has no test items or test images")

    def _require_weights(self) -> None:
        """Raise a CatwalkError where the weights would be random."""
        if self._get(self.config_init, "ckpt_path") is not None:
            return
        if isinstance(self.model, lightning_modules.Recommender) and not self.model.learns:
            return
        is_classifier = isinstance(self.model, lightning_modules.ProductClassifier)
        if not (is_classifier and self.model.has_initial_weights):
            others = ", or, for a network that others trained, model.weights" if is_classifier else ""
            raise CatwalkError(
                f"{self.subcommand}: ckpt_path is missing, and without it the weights would be random; "
                f"give the checkpoint that `catwalk fit` wrote{others}"
            )

    def _check_command(self) -> None:
        """Raise a CatwalkError if the command makes no sense with the classifier's categories."""
        if isinstance(self.model, lightning_modules.ProductClassifier):
            self.model.check_command(str(self.subcommand))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Return the arguments of the Trainer's method."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "predict":
            arguments["return_predictions"] = False
        if arguments.get("weights_only") is None:
            arguments["weights_only"] = True  # what we write is tensors and plain values; code is refused
        return arguments

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command, and end the processes that it has started and W&B's run with it."""
        try:
            with advising(self._how_to_go_on):
                super()._run_subcommand(subcommand)
        except CatwalkError as error:
            if self._is_poisoned and f"{InjectPoisonedImages.__name__}." in str(error):  # which its user has not named
                named = str(error).replace(f"{InjectPoisonedImages.__name__}.", "poison.")
                raise CatwalkError(named) from error
            if self._checkpoint is None or not str(error).startswith("the checkpoint "):
                raise
            raise CatwalkError(f"ckpt_path: {self._checkpoint[0]}: {error}") from error
        except Stopped:
            # Lightning's launcher, which has started them, would wait for them.
            end_processes(getattr(self.trainer.strategy.launcher, "procs", []))
            raise
        except MisconfigurationException as error:
            raise CatwalkError(_unknown_figure(str(error)) or f"{subcommand}: {error}") from error
        except Exception as error:
            if (unknown := _unknown_figure(str(error))) is not None:
                raise CatwalkError(unknown) from error
            if _is_refusal(error):
                raise CatwalkError(f"{subcommand}: {error}") from error
            wandb = sys.modules.get("wandb")
            if wandb is None or not isinstance(error, wandb.Error):
                raise
            raise CatwalkError(f"W&B: {error} (--config configs/logger/wandb_offline.yaml needs no account)") from error
        finally:
            wandb = sys.modules.get("wandb")
            if wandb is not None and wandb.run is not None:
                wandb.finish()

    def _how_to_go_on(self) -> str:
        """Return what to do after this run was stopped; nothing where no more is known than what the command is."""
        if self.subcommand != "fit":
            return ""
        for callback in self.trainer.checkpoint_callbacks:
            saved = callback.latest if isinstance(callback, ResumableCheckpoint) else _saved_by(callback)
            if saved:
                with contextlib.suppress(ValueError):
                    saved = str(Path(saved).relative_to(Path.cwd()))
                return f"the same command goes on from its latest checkpoint with --ckpt_path {shlex.quote(saved)}"
        return ""


def _listed(value: Any) -> list[Any]:
    """Return the callbacks that a Trainer is given: none, one, or a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _saved_by(callback: Callback) -> str:
    """Return the latest checkpoint of Lightning's own callback from which a training can go on."""
    if not isinstance(callback, ModelCheckpoint) or callback.save_weights_only:
        return ""
    return callback.last_model_path or callback.best_model_path


def _is_refusal(error: Exception) -> bool:
    """Return whether an error is one by which Lightning, an optimizer or a remote file system refuse a setting.

    They raise it themselves; one that is raised below them, or by our code, is a bug.
    """
    if not isinstance(error, ValueError | RuntimeError | ImportError):
        return False
    place = traceback.extract_tb(error.__traceback__)[-1].filename.replace(os.sep, "/")
    return any(f"/{folder}/" in place for folder in ("pytorch_lightning", "lightning_fabric", "torch/optim", "fsspec"))


def _unknown_figure(message: str) -> str | None:
    """Explain how Lightning says that a callback monitors what there is not; None for any other message."""
    match = re.match(r"(Early) stopping conditioned on metric `(.+?)`.*following: (.+)", message) or re.match(
        r"`?(ModelCheckpoint)\(monitor='(.+?)'\)`? could not find the monitored key.*?: \[(.+?)\]", message
    )
    if match is None:
        return None
    names = re.findall(r"[`'](.+?)[`']", match[3])
    callback = "EarlyStopping" if match[1] == "Early" else "ModelCheckpoint"
    return f"trainer.callbacks: {callback}.monitor: there is no figure {match[2]}{did_you_mean(match[2], names)}"


def _from_here(path: str) -> Path | str:
    """Return a path relative to the current folder, where it lies below it."""
    here = Path.cwd().resolve()
    return Path(path).relative_to(here) if Path(path).is_relative_to(here) else path


def _writes_predictions(callback: Callback) -> bool:
    """Return whether a callback may write predictions: a writer, or one that looks at them and is not Lightning's."""
    if isinstance(callback, BasePredictionWriter):
        return True
    if isinstance(callback, ShowBatches):
        return False
    hooks = ("on_predict_batch_end", "on_predict_epoch_end", "on_predict_end")
    looks = any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)
    return looks and not type(callback).__module__.startswith("pytorch_lightning.")


def _counts(num_batches: Any) -> list[float]:
    """Return the numbers of batches of all loaders."""
    return list(num_batches) if isinstance(num_batches, list | tuple) else [num_batches]
