"""How well VBPR and BPR-MF recommend, beside Cornac's VBPR, all tuned with the same number of trials.

    python benchmarks/recommender_quality.py DATASET FEATURES --trials 30

The contract and the results are in ``benchmarks/README.md``; Cornac comes with ``pip install -e .[bench]``.
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
from optuna.trial import FrozenTrial, TrialState
from pytorch_lightning import Trainer, seed_everything
from timing import markdown_table
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.metrics.auc import auc
from catwalk.metrics.hit_rate import hit_rate
from catwalk.metrics.normalized_dcg import normalized_dcg
from catwalk.ranking import score_users, top_k, user_blocks
from datamodules import InteractionTriplets
from lightning_modules import BPRMF, VBPR, Popularity, Random, Recommender

FACTORS = 64
"""Length of the users' and items' factors, and of the visual ones."""

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
    """

    dataset: Path
    features: Path
    batch_size: int
    max_epochs: int

    def data(self, validation: bool, seed: int) -> InteractionTriplets:
        """Return the purchases to train on, without or with those that are held out for validation."""
        data = InteractionTriplets(self.dataset, self.features, self.batch_size, validation, seed)
        data.setup("fit")
        return data


@dataclass(frozen=True)
class Contestant:
    """A recommender and what of it is tuned.

    Attributes:
        suggest: Draws settings; takes the trial and the largest number of epochs.
        train: Trains with these settings; takes the purchases and a seed as well.
        first_trial: The settings that are tried first: Cornac's defaults, and about ours, but with dense Adam, by which
            both sides learn here.
    """

    suggest: Callable[[optuna.Trial, int], Settings]
    train: Callable[[Settings, InteractionTriplets, int], Scores]
    first_trial: Settings


def suggest_bpr_mf(trial: optuna.Trial, max_epochs: int) -> Settings:
    return {
        "epochs": trial.suggest_int("epochs", 10, max_epochs),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
        "item_bias": trial.suggest_categorical("item_bias", [False, True]),
        "regularization": trial.suggest_float("regularization", 1e-5, 1e-1, log=True),
    }


def suggest_vbpr(trial: optuna.Trial, max_epochs: int) -> Settings:
    return suggest_bpr_mf(trial, max_epochs) | {
        "projection_regularization": trial.suggest_float("projection_regularization", 1e-6, 1e-1, log=True),
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
    # times as large there, and on the projection 2B². These are the ranges above, for B = 512.
    return {
        "n_epochs": trial.suggest_int("n_epochs", 10, max_epochs),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
        "lambda_w": trial.suggest_float("lambda_w", 1e-2, 1e2, log=True),
        "lambda_b": trial.suggest_float("lambda_b", 1e-2, 1e2, log=True),
        "lambda_e": trial.suggest_float("lambda_e", 1e-1, 5e4, log=True),
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


CONTESTANTS = {
    "VBPR": Contestant(
        suggest_vbpr,
        partial(train_ours, VBPR),
        {
            "epochs": 50,
            "learning_rate": 0.005,
            "item_bias": False,
            "regularization": 0.015,
            "projection_regularization": 0.005,
        },
    ),
    "BPR-MF": Contestant(
        suggest_bpr_mf,
        partial(train_ours, BPRMF),
        {"epochs": 50, "learning_rate": 0.005, "item_bias": False, "regularization": 0.015},
    ),
    "Cornac's VBPR": Contestant(
        suggest_cornac,
        train_cornac,
        {
            "n_epochs": 50,
            "learning_rate": 0.005,
            "lambda_w": 0.01,
            "lambda_b": 0.01,
            "lambda_e": 0.1,  # 0 by default
            "scaled": True,
        },
    ),
}


def floor(recommender: Recommender, data: InteractionTriplets) -> Scores:
    """Return the scores of a recommender that has nothing to learn."""
    recommender.build(data.num_users, data.num_items, num_features=0)
    recommender.prepare_scores(data)
    return recommender.scores


@torch.no_grad()
def evaluate(scores: Scores, data: InteractionTriplets, stage: str) -> dict[str, float]:
    """Rank the whole catalogue, but for what a user has bought, and look for the held-out items.

    Args:
        scores: What ranks.
        data: What it was trained on.
        stage: ``val`` or ``test``, the held-out items.

    Returns:
        The :data:`FIGURES`.
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
    values = (hits.mean(), gains.mean(), areas.nanmean(), hits[is_rare].mean(), areas[is_rare].nanmean())
    return dict(zip(FIGURES, map(float, values), strict=True))


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
    study.sampler = optuna.samplers.TPESampler(seed=len(done))
    if not done:
        study.enqueue_trial(contestant.first_trial)

    def objective(trial: optuna.Trial) -> float:
        settings = contestant.suggest(trial, shop.max_epochs)
        try:
            figures = evaluate(contestant.train(settings, data, 0), data, "val")
        except ValueError as error:  # a score that is NaN: training has diverged
            print(f"{name}: trial {trial.number} failed: {error}", file=sys.stderr)
            return 0.0
        trial.set_user_attr("settings", settings)
        for figure, value in figures.items():
            trial.set_user_attr(figure, value)
        print(f"{name}: trial {trial.number}, {figures}, {settings}", file=sys.stderr, flush=True)
        return figures[TUNED_FOR]

    study.optimize(objective, n_trials=max(trials - len(done), 0))
    return study


def final_runs(name: str, shop: Shop, study: optuna.Study, trial: FrozenTrial, seeds: int) -> list[dict[str, float]]:
    """Train with a trial's settings on all but the test items, and return the figures on these, by seed."""
    runs = []
    for seed in range(seeds):
        key = f"test figures with trial {trial.number} and seed {seed}"
        if key not in study.user_attrs:
            data = shop.data(validation=False, seed=seed)
            scores = CONTESTANTS[name].train(trial.user_attrs["settings"], data, seed)
            study.set_user_attr(key, evaluate(scores, data, "test"))
        runs.append(study.user_attrs[key])
    return runs


def table_row(name: str, runs: list[dict[str, float]]) -> list[str]:
    """Return mean ± standard deviation over the runs of every figure."""
    cells = []
    for figure in FIGURES:
        values = [run[figure] for run in runs]
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.4f}{spread}")
    return [name, *cells]


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
    parser.add_argument("--record", type=Path, help="folder where trials are kept, so that a killed run goes on")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")
    shop = Shop(arguments.dataset, arguments.features, arguments.batch_size, arguments.max_epochs)
    try:
        whole = shop.data(validation=False, seed=0)
        rows = [
            table_row(
                "Random", [evaluate(floor(Random(seed), whole), whole, "test") for seed in range(arguments.seeds)]
            ),
            table_row("Popularity", [evaluate(floor(Popularity(), whole), whole, "test")]),
        ]
        chosen = []
        for name in arguments.contestants:
            study = tune(name, shop, arguments.trials, arguments.record)
            first = study.get_trials(states=[TrialState.COMPLETE])[0]
            for title, trial in (("first trial", first), ("tuned", study.best_trial)):
                rows.append(table_row(f"{name}, {title}", final_runs(name, shop, study, trial, arguments.seeds)))
                chosen.append(f"{name}, {title}: {trial.value:.4f} with {trial.user_attrs['settings']}")
    except CatwalkError as error:
        parser.error(str(error))
    targets = whole.split.test.items
    purchases = torch.bincount(torch.from_numpy(whole.split.items), minlength=whole.num_items)
    rare = int((purchases[targets] < RARE).sum())
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "pytorch-lightning", "cornac"))
    print(
        f"{whole.catalogue.name}: {len(targets)} users are tested, {rare} of them with a rare item; "
        f"{arguments.trials} trials of at most {arguments.max_epochs} epochs; K {FACTORS}, batch "
        f"{arguments.batch_size}; mean ± standard deviation over {arguments.seeds} seeds; {versions}"
    )
    print(f"\n{markdown_table(('recommender', *FIGURES), rows)}\n\n{TUNED_FOR} on the validation items:")
    print("\n".join(chosen))


if __name__ == "__main__":
    main()
