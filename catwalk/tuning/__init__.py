"""Hyper-parameter search: a recommender is trained many times, and its validation items say which settings are best."""

import time
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from rich.markup import escape

from catwalk.errors import CatwalkError
from catwalk.limits import check_seed
from catwalk.study.grid import Settings
from catwalk.study.progress import StudyDisplay
from catwalk.tuning.journal import open_journal
from catwalk.tuning.results import Results
from catwalk.tuning.training import FollowTrial, SearchedTraining

__all__ = ["run_search"]


def run_search(
    name: str,
    dataset: Path,
    model: Settings,
    search: Settings,
    features: Path | None = None,
    data: Settings | None = None,
    trainer: Settings | None = None,
    monitor: str = "val/ndcg@20",
    mode: Literal["max", "min"] = "max",
    trials: int = 50,
    timeout: float | None = None,
    patience: int = 5,
    pruning: bool = True,
    seed: int = 0,
    wandb: str | bool = False,
    split: Settings | None = None,
    output: Path = Path("runs/tune"),
) -> Path:
    """Search for a recommender's best hyper-parameters on the validation items; nothing looks at the test items.

    A trial is written down as a whole when it ends, and what it tries is drawn from ``seed``, its number and the trials
    before it alone: a search that was stopped goes on with the trial that it was at, and ends with the trials that it
    would have had.

    Args:
        name: Name of the search; its results go to ``output/name``.
        dataset: The dataset folder.
        model: ``class_path`` and ``init_args`` of the recommender; what is searched may be left out.
        search: The range of each argument that is searched, by the argument's path, such as ``model.factors``,
            ``model.optimizer.lr`` or ``data.batch_size``: ``{low: 1.0e-4, high: 1.0, log: true}``, whole numbers where
            the argument is one, or ``{choices: [32, 64]}``.
        features: Folder with the features that ``catwalk predict`` wrote; needed by visual recommenders.
        data: More arguments of ``InteractionTriplets``.
        trainer: Arguments of Lightning's Trainer, such as ``max_epochs``, the most epochs of a trial.
        monitor: Metric of the validation items by which trials are compared; a trial counts with its best epoch.
        mode: Whether the highest metric is best (``max``) or the lowest (``min``).
        trials: Number of trials, those of earlier runs of the same search included.
        timeout: Seconds after which no new trial begins.
        patience: A trial ends when its metric has not become better for so many validations.
        pruning: End a trial whose best metric is worse than the median of the completed ones at the same epoch; not
            before ``patience`` epochs, and not before five trials have been completed.
        seed: Seed of the search, and of the weights and batches of every trial.
        wandb: ``offline`` or ``online`` for a W&B run of each trial, in the group ``name``; ``off`` by default.
        split: ``class_path`` and ``init_args`` of the rule by which purchases are divided, one of
            ``catwalk.shop.splits``; by default the publisher's split, or else every user's last purchase is the test.
        output: Folder for searches.

    Returns:
        The search's folder, with ``journal.log`` (Optuna's), ``trials.csv`` and ``best.yaml``, a configuration for
        ``catwalk fit`` that trains on all but the test items for as many epochs as were best.

    Raises:
        CatwalkError: If the arguments do not fit each other or the dataset, if the folder holds another search, or if
            no trial could be completed.
    """
    for argument, value in (("trials", trials), ("patience", patience)):
        if value < 1:
            raise CatwalkError(f"{argument}: must be at least 1, got {value}")
    check_seed(seed)
    if timeout is not None and not timeout > 0:
        raise CatwalkError(f"timeout: must be more than 0 seconds, got {timeout}")
    if wandb not in (False, "off", "offline", "online"):
        raise CatwalkError(f"wandb: must be off, offline or online, got {wandb}")
    folder = output / name
    if folder.resolve() == output.resolve():
        raise CatwalkError(f"name: {name!r} is not a name for a search's folder")
    training = SearchedTraining(model, data or {}, trainer or {}, dataset, features, seed, split)
    distributions = training.distributions(search)
    choice = {"monitor": monitor, "mode": mode, "patience": patience, "pruning": pruning}
    identity = {**training.identity(search), **choice}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console, start = Console(), time.monotonic()
    direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
    with open_journal(folder, name, direction, identity) as journal:
        # Trials run in memory: the journal gets them when they are whole.
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=patience) if pruning else optuna.pruners.NopPruner()
        study = optuna.create_study(direction=direction, pruner=pruner)
        study.add_trials(journal.get_trials())
        done = len(study.get_trials())
        results = Results(study, training, list(distributions), monitor, name, folder)
        console.print(
            f"[bold]Search {escape(name)}[/]: {trials} trials by {escape(monitor)}, {done} of them done before",
            highlight=False,
        )
        console.print(training.split_facts(), markup=False, highlight=False)
        with StudyDisplay(console, max(0, trials - done), "search") as progress:
            for number in range(done, trials):
                if timeout is not None and time.monotonic() - start >= timeout:
                    break
                sampler_seed = np.random.SeedSequence([seed, number]).generate_state(1)[0]
                study.sampler = optuna.samplers.TPESampler(seed=int(sampler_seed))
                trial = study.ask(distributions)
                logger = None if wandb in (False, "off") else _wandb_run(f"{name} {number}", name, folder, wandb)
                follower = FollowTrial(trial, monitor)
                stopper = EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)
                try:
                    with progress.stage(f"trial {number}"):
                        training.run(trial, folder, progress, logger, follower, stopper)
                except (CatwalkError, OSError):  # the search's, or the machine's, and no trial's
                    raise
                except Exception:  # of which the same trial would die again, and no other would get its turn
                    journal.add_trial(study.tell(trial, state=TrialState.FAIL))
                    results.write()
                    raise
                training.require_unchanged(f"trial {number}")
                _, best = results.best_epoch(study.get_trials()[number])
                completed = follower.state == TrialState.COMPLETE
                journal.add_trial(study.tell(trial, best if completed else None, follower.state))
                results.write()
                progress.done(*results.news(number))
    results.write()
    results.show(console)
    return folder


def _wandb_run(name: str, group: str, folder: Path, wandb: str | bool) -> WandbLogger:
    """Begin the W&B run of a trial, which writes below the search's folder and nothing on the screen.

    Raises:
        CatwalkError: If W&B refuses, for want of a login for example.
    """
    import wandb as library

    quiet = library.Settings(silent=True, console="off")
    offline = wandb == "offline"
    logger = WandbLogger(name, folder, project="catwalk", group=group, offline=offline, settings=quiet)
    try:
        logger.experiment  # noqa: B018 - begins the run
    except library.Error as error:
        raise CatwalkError(f"wandb: {error}") from error
    return logger
