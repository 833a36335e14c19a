"""How well VBPR and BPR-MF recommend, beside Cornac's VBPR, all tuned with the same number of trials.

    python benchmarks/recommender_quality.py DATASET FEATURES --trials 30

The contract and the results are in ``benchmarks/README.md``; Cornac comes with ``make bench-install``.
"""

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState
from pytorch_lightning import Trainer, seed_everything
from record import Record, add_record_argument
from torch import Tensor

from catwalk.errors import CatwalkError, DivergedError
from catwalk.metrics.auc import auc
from catwalk.metrics.hit_rate import hit_rate
from catwalk.metrics.normalized_dcg import normalized_dcg
from catwalk.recommenders.ranking import score_users, top_k, user_blocks
from catwalk.shop.splits import LeaveRandomOut
from datamodules import InteractionTriplets
from lightning_modules import BPRMF, VBPR, Popularity, Random, Recommender

FACTORS = 64
"""Length of the users' and items' factors, and of the visual ones."""

CORNAC_BATCH = 512
"""Batch size for which our penalties are turned into Cornac's."""

TOP_K = 20
RARE = 10
"""An item with fewer training purchases is a rare one."""

FIGURES = ("HR@20", "nDCG@20", "AUC", "HR@20, rare", "AUC, rare")
TUNED_FOR = "nDCG@20"

Settings = dict[str, Any]
Scores = Callable[[Tensor], Tensor]
"""Takes user numbers ``(B,)``, returns the scores of all items, float32 ``(B, N)``."""


@dataclass(frozen=True)
class Shop:
    """What all contestants are given.

    Attributes:
        dataset: A dataset folder.
        features: Folder with the features of its items.
        batch_size: Triplets per batch.
        max_epochs: The most epochs that a contestant may train.
        start_from_defaults: Whether every search begins with the library's own settings.
        split_seed: Seed of the order into which every user's purchases are brought before the last ones are held out;
            None for the order in time.
    """

    dataset: Path
    features: Path
    batch_size: int
    max_epochs: int
    split_seed: int | None
    start_from_defaults: bool

    def data(self, validation: bool, seed: int) -> InteractionTriplets:
        """Return the purchases to train on, without or with those that are held out for validation."""
        split = None if self.split_seed is None else LeaveRandomOut(self.split_seed)
        data = InteractionTriplets(self.dataset, self.features, self.batch_size, validation, seed, split=split)
        data.setup("fit")
        return data


@dataclass(frozen=True)
class Contestant:
    """A recommender and what of it is tuned.

    Attributes:
        suggest: Draws settings; takes the trial and the largest number of epochs.
        train: Trains with these settings; takes the purchases and a seed as well.
        defaults: The library's own settings, with which it is trained as well.
        first_trial: The same as parameters of the search, which can begin with them.
    """

    suggest: Callable[[optuna.Trial, int], Settings]
    train: Callable[[Settings, InteractionTriplets, int], Scores]
    defaults: Settings
    first_trial: Settings


def suggest_common(trial: optuna.Trial, max_epochs: int) -> Settings:
    """Draw what everybody has: from the tenth of what is usual up to ten times as much, and more for penalties."""
    return {
        "epochs": trial.suggest_int("epochs", 5, max_epochs),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "regularization": trial.suggest_float("regularization", 1e-6, 1.0, log=True),
    }


def suggest_bpr_mf(trial: optuna.Trial, max_epochs: int) -> Settings:
    return suggest_common(trial, max_epochs) | {
        "item_bias": trial.suggest_categorical("item_bias", [False, True]),
    }


def suggest_vbpr(trial: optuna.Trial, max_epochs: int) -> Settings:
    return suggest_bpr_mf(trial, max_epochs) | {
        "projection_regularization": trial.suggest_float("projection_regularization", 1e-6, 1.0, log=True),
    }


def train_ours(recommender: type[BPRMF], settings: Settings, data: InteractionTriplets, seed: int) -> Scores:
    """Train one of our recommenders, as a user does."""
    arguments = dict(settings)
    epochs, learning_rate = arguments.pop("epochs"), arguments.pop("learning_rate")
    seed_everything(seed, verbose=False)
    module = recommender(**arguments, factors=FACTORS, optimizer=partial(torch.optim.Adam, lr=learning_rate))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    module.prepare_scores(data)
    return module.scores


def suggest_cornac(trial: optuna.Trial, max_epochs: int) -> Settings:
    # Cornac adds the loss up over B × B pairs and takes half of the squares: what stands for our λ on the rows is 2B
    # times as large there, and on the projection 2B². It always has item biases.
    common = suggest_common(trial, max_epochs)
    size = CORNAC_BATCH
    return {
        "n_epochs": common["epochs"],
        "learning_rate": common["learning_rate"],
        "lambda_w": 2 * size * common["regularization"],
        "lambda_b": 2 * size * trial.suggest_float("bias_regularization", 1e-6, 1.0, log=True),
        "lambda_e": 2 * size**2 * trial.suggest_float("projection_regularization", 1e-6, 1.0, log=True),
        "scaled": trial.suggest_categorical("scaled", [False, True]),
    }


def train_cornac(settings: Settings, data: InteractionTriplets, seed: int) -> Scores:
    """Train Cornac's VBPR on the same pairs and features, with the same numbers for users and items."""
    import cornac

    arguments = dict(settings)
    assert data.feature_table is not None
    features = data.feature_table.features
    if arguments.pop("scaled"):
        features = features / data.feature_table.scale
    users, items = data.split.users, data.split.items
    pairs = cornac.data.Dataset(
        num_users=data.num_users,
        num_items=data.num_items,
        uid_map={number: number for number in range(data.num_users)},
        iid_map={number: number for number in range(data.num_items)},
        uir_tuple=(users, items, np.ones(len(users))),
        seed=seed,
    )
    pairs.add_modalities(item_image=cornac.data.ImageModality(features=features.numpy()))
    model = cornac.models.VBPR(**arguments, k=FACTORS, k2=FACTORS, batch_size=data.batch_size, verbose=False, seed=seed)
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit(pairs)
    gamma, theta, items_of_gamma, items_of_theta, biases = (
        torch.from_numpy(values)
        for values in (
            model.gamma_user,
            model.theta_user,
            model.gamma_item,
            model.theta_item,
            model.beta_item + model.visual_bias,
        )
    )
    return lambda users: gamma[users] @ items_of_gamma.T + theta[users] @ items_of_theta.T + biases


OUR_DEFAULTS = {"epochs": 50, "learning_rate": 0.01}

OUR_FIRST_TRIAL = OUR_DEFAULTS | {"item_bias": False, "regularization": 0.02}

CONTESTANTS = {
    "VBPR": Contestant(
        suggest_vbpr, partial(train_ours, VBPR), OUR_DEFAULTS, OUR_FIRST_TRIAL | {"projection_regularization": 0.01}
    ),
    "BPR-MF": Contestant(suggest_bpr_mf, partial(train_ours, BPRMF), OUR_DEFAULTS, OUR_FIRST_TRIAL),
    "Cornac's VBPR": Contestant(
        suggest_cornac,
        train_cornac,
        {
            "n_epochs": 50,
            "learning_rate": 0.005,
            "lambda_w": 0.01,
            "lambda_b": 0.01,
            "lambda_e": 0.0,
            "scaled": False,
        },
        {
            "epochs": 50,
            "learning_rate": 0.005,
            "regularization": 0.01 / (2 * CORNAC_BATCH),
            "bias_regularization": 0.01 / (2 * CORNAC_BATCH),
            "projection_regularization": 1e-6,  # 0 by default, which a logarithmic range does not have
            "scaled": False,
        },
    ),
}


def floor(recommender: Recommender, data: InteractionTriplets) -> Scores:
    """Return the scores of a recommender that has nothing to learn."""
    recommender.build(data.num_users, data.num_items, num_features=0)
    recommender.prepare_scores(data)
    return recommender.scores


@torch.no_grad()
def evaluate(scores: Scores, data: InteractionTriplets, stage: str) -> dict[str, list[float]]:
    """Rank the whole catalogue, but for what a user has bought, and look for the held-out items.

    Args:
        scores: What ranks.
        data: What it was trained on.
        stage: ``val`` or ``test``, the held-out items.

    Returns:
        The :data:`FIGURES` of every user who has a held-out item; of rare ones, of those with such an item.
    """
    held_out, seen = data.held_out_items(stage), data.seen_items(stage)
    targets = held_out.padded(torch.arange(data.num_users))[:, 0]  # one per user at most
    asked = torch.nonzero(targets >= 0).squeeze(1)
    purchases = torch.bincount(torch.from_numpy(data.split.items), minlength=data.num_items)
    columns: list[tuple[Tensor, ...]] = []
    for users in user_blocks(asked, data.num_items):
        block = score_users(scores, users, seen)
        recommended, wanted = top_k(block, TOP_K)[0], targets[users]
        columns.append(
            (hit_rate(recommended, wanted, TOP_K), normalized_dcg(recommended, wanted, TOP_K), auc(block, wanted))
        )
    hits, gains, areas = (torch.cat(column) for column in zip(*columns, strict=True))
    is_rare = purchases[targets[asked]] < RARE
    values = (hits, gains, areas, hits[is_rare], areas[is_rare])
    return {figure: column.tolist() for figure, column in zip(FIGURES, values, strict=True)}


def means(figures: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean over users of every figure."""
    return {figure: mean(values) for figure, values in figures.items()}


def tune(name: str, shop: Shop, trials: int, record: Path | None) -> optuna.Study:
    """Look for the settings of a contestant with the highest :data:`TUNED_FOR` on the validation items."""
    contestant, data = CONTESTANTS[name], shop.data(validation=True, seed=0)
    storage = None
    if record is not None:
        record.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(record / "trials.journal"))
        storage = JournalStorage(backend)
    study = optuna.create_study(
        study_name=f"{name} on {data.catalogue.name}", storage=storage, direction="maximize", load_if_exists=True
    )
    done = study.get_trials(states=[TrialState.COMPLETE])
    if shop.start_from_defaults and not study.trials:
        study.enqueue_trial(contestant.first_trial)
    study.sampler = optuna.samplers.TPESampler(seed=len(done))

    def objective(trial: optuna.Trial) -> float:
        settings = contestant.suggest(trial, shop.max_epochs)
        try:
            figures = means(evaluate(contestant.train(settings, data, 0), data, "val"))
        except DivergedError as error:
            print(f"{name}: trial {trial.number} failed: {error}", file=sys.stderr)
            return 0.0
        trial.set_user_attr("settings", settings)
        for figure, value in figures.items():
            trial.set_user_attr(figure, value)
        print(f"{name}: trial {trial.number}, {figures}, {settings}", file=sys.stderr, flush=True)
        return figures[TUNED_FOR]

    study.optimize(objective, n_trials=max(trials - len(done), 0))
    return study


def final_runs(
    name: str, shop: Shop, study: optuna.Study, title: str, settings: Settings, seeds: int
) -> list[dict[str, list[float]]]:
    """Train with given settings on all but the test items, and return the figures of all users on these, by seed."""
    runs = []
    for seed in range(seeds):
        key = f"test figures, {title}, seed {seed}"
        if key not in study.user_attrs:
            data = shop.data(validation=False, seed=seed)
            scores = CONTESTANTS[name].train(settings, data, seed)
            study.set_user_attr(key, evaluate(scores, data, "test"))
        runs.append(study.user_attrs[key])
    return runs


def table_row(name: str, runs: list[dict[str, list[float]]]) -> list[str]:
    """Return mean ± standard deviation over the runs of every figure."""
    cells = []
    for figure in FIGURES:
        values = [mean(run[figure]) for run in runs]
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.4f}{spread}")
    return [name, *cells]


def paired_row(name: str, other: str, runs: dict[str, list[dict[str, list[float]]]]) -> list[str]:
    """Return by how much the first is above the second: mean over users and seeds, and its 95% interval.

    Every user's figures are averaged over the seeds; the differences between the two recommenders are drawn again, with
    replacement, 10,000 times over users (percentile bootstrap).
    """
    random, cells = np.random.default_rng(0), []
    for figure in FIGURES:
        one, two = (np.mean([run[figure] for run in runs[who]], axis=0) for who in (name, other))
        differences = one - two
        resampled = [random.choice(differences, len(differences)).mean() for _ in range(10_000)]
        low, high = np.quantile(resampled, [0.025, 0.975])
        cells.append(f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]")
    return [f"{name} − {other}", *cells]


def main() -> None:
    """Tune all contestants, train each with its best settings and several seeds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a dataset folder")
    parser.add_argument("features", type=Path, help="folder with the features of its items")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--trials", type=int, default=30, help="trials of every contestant")
    parser.add_argument("--max-epochs", type=int, default=50, help="the most epochs that a trial may choose")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3, help="final runs of every contestant")
    parser.add_argument(
        "--split-seed", type=int, help="hold out purchases at random by this seed, not every user's last ones"
    )
    parser.add_argument(
        "--start-from-defaults", action="store_true", help="let every search begin with the library's own settings"
    )
    parser.add_argument("--record", type=Path, help="folder where trials are kept, so that a killed run goes on")
    add_record_argument(parser)
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")
    shop = Shop(
        arguments.dataset,
        arguments.features,
        arguments.batch_size,
        arguments.max_epochs,
        arguments.split_seed,
        arguments.start_from_defaults,
    )
    try:
        whole = shop.data(validation=False, seed=0)
        rows = [
            table_row(
                "Random", [evaluate(floor(Random(seed), whole), whole, "test") for seed in range(arguments.seeds)]
            ),
            table_row("Popularity", [evaluate(floor(Popularity(), whole), whole, "test")]),
        ]
        chosen, tuned = [], {}
        for name in arguments.contestants:
            study = tune(name, shop, arguments.trials, arguments.record)
            best = study.best_trial.user_attrs["settings"]
            for title, settings in (("defaults", CONTESTANTS[name].defaults), ("tuned", best)):
                runs = final_runs(name, shop, study, title, settings, arguments.seeds)
                rows.append(table_row(f"{name}, {title}", runs))
            tuned[name] = runs
            chosen.append(f"{name}: {study.best_value:.4f} with {best}")
    except CatwalkError as error:
        parser.error(str(error))
    targets = whole.split.test.items
    purchases = torch.bincount(torch.from_numpy(whole.split.items), minlength=whole.num_items)
    rare = int((purchases[targets] < RARE).sum())
    packages = ("torch", "pytorch-lightning", "cornac")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    record = Record(arguments.json, None, packages)
    print(
        f"{whole.catalogue.name}: {len(targets)} users are tested, {rare} of them with a rare item; "
        f"{arguments.trials} trials of at most {arguments.max_epochs} epochs; K {FACTORS}, batch "
        f"{arguments.batch_size}; mean ± standard deviation over {arguments.seeds} seeds; {versions}"
    )
    print(f"\n{record.table('quality', ('recommender', *FIGURES), rows)}\n\n{TUNED_FOR} on the validation items:")
    print("\n".join(chosen))
    first, *others = tuned
    paired = [paired_row(first, other, tuned) for other in others]
    print(f"\nTuned, differences over users [95%]:\n\n{record.table('differences', ('difference', *FIGURES), paired)}")


if __name__ == "__main__":
    main()
