"""LightningCLI as Catwalk sets it up: any of our modules by class path, and a configuration that always counts."""

import contextlib
import inspect
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers
from jsonargparse import lazy_instance
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

# Imported so that their classes can be named without a path.
import callbacks  # noqa: F401
import catwalk.attacks
import catwalk.recommenders.lazy_adam  # noqa: F401
import datamodules  # noqa: F401
import lightning_modules
from callbacks.processes import RunProcesses, end_together
from callbacks.resumable_checkpoint import ResumableCheckpoint
from callbacks.run_labels import call_run, run_labels
from callbacks.show_batches import LogBatches
from callbacks.trainer_callbacks import callbacks_of
from callbacks.wandb_axes import WandbAxes
from catwalk.cli.parser import HELP, LightningParser
from catwalk.cli.poison import Poison, as_poison_options
from catwalk.cli.run_checks import (
    NOTHING_HELD_OUT,
    RequireMonitored,
    check_pair,
    counts,
    is_refusal,
    require_weights,
    unknown_metric,
    writes_predictions,
)
from catwalk.cli.saved_configuration import SaveConfiguration
from catwalk.configuration import notices as known_notices
from catwalk.configuration.messages import imported, one_line
from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.limits import check_seed
from catwalk.terminal.peers import OtherProcessError
from catwalk.terminal.stopping import advising, keep_sigterm
from lightning_modules.checkpoints import check_class, write_whole_checkpoints

DISTRIBUTED = (".metadata", "meta.pt", "checkpoint")
"""Of these at least one is in a folder that is a checkpoint of FSDP or DeepSpeed."""


class CatwalkCLI(LightningCLI):
    """``catwalk fit|validate|test|predict``."""

    def __init__(self) -> None:
        self._checkpoint: tuple[str, dict[str, Any]] | None = None
        self._is_poisoned = False
        self._processes: RunProcesses
        known_notices.hide()
        settings = {
            name: {
                "exit_on_error": False,
                "usage": f"catwalk {name} [--config FILE ...] [OPTION ...]",
                "description": (
                    f"{what} Every option can stand in a YAML file; several --config stack, and what comes later "
                    f"wins: `catwalk {name} {example}`. For help on a class: `catwalk {name} --model.help VBPR`, "
                    "--data.help InteractionTriplets, --poison.attack.help PGD, --trainer.callbacks.help "
                    "CategoryHitRatio."
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
        check_pair(self.model, self.datamodule)
        if isinstance(self.model, lightning_modules.ProductClassifier) and self._checkpoint is not None:
            self.model.initial_weights.expect_checkpoint()
        if self._checkpoint is not None:
            path, content = self._checkpoint
            self._checkpoint = path, {}  # it is read again when it is loaded
            try:
                check_class(self.model, content)
            except CatwalkError as error:
                raise CatwalkError(f"ckpt_path: {path}: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, and say in one line what it refuses."""
        stated = _listed(self._get(self.config_init, "trainer.callbacks"))  # before the Trainer adds its own
        poison = self._get(self.config_init, "poison").callback(self.model, self.datamodule, stated)
        self._is_poisoned = poison is not None
        try:
            # What poisons comes first, so that those who measure find it done.
            trainer = super().instantiate_trainer(callbacks=[*([poison] if poison else []), *stated], **kwargs)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise CatwalkError(f"trainer: {error}") from error
        except KeyError as error:
            if not str(error.args[0]).startswith("SLURM_"):
                raise
            raise CatwalkError(
                f"trainer: configs/trainer/slurm.yaml is for tasks that srun starts, and {error.args[0]} is not set: "
                "start the command with srun in a job, or take configs/trainer/ddp.yaml"
            ) from error
        except RuntimeError as error:
            twice = re.match(r"Found more than one stateful callback of type `(\w+)`", str(error))
            if twice is None:
                raise
            raise CatwalkError(
                f"trainer.callbacks: there are two of {twice[1]}; two configurations of a model, as of a CNN and of a "
                "recommender, do not stack: give one of them"
            ) from error
        keep_sigterm(trainer)
        self._processes = end_together(trainer)
        write_whole_checkpoints(trainer)
        if os.environ.get("WANDB_MODE") == "disabled":  # which Lightning does not look at
            trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, WandbLogger)]
        seed = self._get(self.config_init, "seed_everything")
        labels = run_labels(self.model, self.datamodule, callbacks_of(trainer), seed, str(self.subcommand))
        for callback in callbacks_of(trainer):
            if isinstance(callback, SaveConfiguration):
                callback.labels = labels
        of_wandb = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        for logger in of_wandb:
            if logger._wandb_init.get("anonymous", ...) is None:
                del logger._wandb_init["anonymous"]  # W&B warns of this setting, even where Lightning leaves it unset
            call_run(logger, str(self.subcommand), labels)
        given: list[Callback] = callbacks_of(trainer)
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
            self.model.initial_weights.require(self.model.hparams)

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
        if not any(writes_predictions(callback) for callback in callbacks_of(self.trainer)):
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
        if not self._has_measured(self.trainer.num_val_batches):
            raise CatwalkError(f"validate: {NOTHING_HELD_OUT}")

    def after_test(self) -> None:
        """Say so where there was nothing to measure on."""
        if not self._has_measured(self.trainer.num_test_batches):
            raise CatwalkError("test: nothing is held out for the test; the dataset has no test items or test images")

    def _has_measured(self, batches: Any) -> bool:
        """Return whether there were batches; of those of spawned processes nothing but the metrics comes back."""
        return any(counts(batches)) or bool(self.trainer.callback_metrics)

    def _require_weights(self) -> None:
        """Raise a CatwalkError where the weights would be random."""
        if self._get(self.config_init, "ckpt_path") is None:
            require_weights(str(self.subcommand), self.model)

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
            with advising(self._how_to_go_on), self._processes.named(self._how_to_go_on):
                super()._run_subcommand(subcommand)
        except OtherProcessError:
            raise
        except CatwalkError as error:
            if self._is_poisoned:  # by a callback that its user has not named
                named = as_poison_options(str(error))
                if named != str(error):
                    raise CatwalkError(named) from error
            if self._checkpoint is None or not str(error).startswith("the checkpoint "):
                raise
            raise CatwalkError(f"ckpt_path: {self._checkpoint[0]}: {error}") from error
        except MisconfigurationException as error:
            raise CatwalkError(unknown_metric(str(error)) or f"{subcommand}: {error}") from error
        except Exception as error:
            if (unknown := unknown_metric(str(error))) is not None:
                raise CatwalkError(unknown) from error
            if is_refusal(error):
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


def _from_here(path: str) -> Path | str:
    """Return a path relative to the current folder, where it lies below it."""
    here = Path.cwd().resolve()
    return Path(path).relative_to(here) if Path(path).is_relative_to(here) else path
