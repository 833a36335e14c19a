"""How long the paper's Table 1 takes to train at its own settings: 72 trainings of 4,000 epochs, with three seeds.

    python benchmarks/paper_grid.py                  # --device cuda, --rounds, --threads
    python benchmarks/paper_grid.py --contestants "ours, defaults" --json FILE

Nothing is trained to its end: rates are measured over an epoch at the size of Amazon Men, and the hours follow from the
number of triplets. The contract and the results are in ``benchmarks/README.md``; Cornac comes with ``make
bench-install``.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from recommenders import (
    ATTACKS,
    FACTORS,
    HAS_CORNAC,
    NETWORKS,
    SEEDS,
    Shop,
    cornac_seconds,
    grid_triplets,
    make_shop,
    our_seconds,
)
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, take_turns
from torch import Tensor, nn

from datamodules import InteractionTriplets
from lightning_modules import AMR, VBPR

AS_PUBLISHED: dict[str, Any] = {
    "factors": FACTORS,
    "shared_user_factors": True,
    "reduction": "sum",
    "regularizer": "linear",
    "regularization": 0.1,
    "item_regularization": 0.001,
    "projection_regularization": 0.0,
    "optimizer": partial(torch.optim.Adagrad, lr=0.01, initial_accumulator_value=0.1, eps=0.0),
    "learning_rates": {"P": 0.01, "Q": 0.0001, "E": 0.001},
}
"""The settings of ``configs/recommender/vbpr_as_published.yaml``."""

ADVERSARY: dict[str, Any] = {"epsilon": 1.0, "adversarial_weight": 0.1, "perturbation": "per_item"}


class PublishedStep:
    """The step of the paper's code, computed anew in PyTorch: what it computes, not how fast its TensorFlow did.

    Embeddings and projection have dense gradients and dense steps of Adagrad, features are gathered for either item
    of a triplet and projected, and AMR takes the gradient of the batch's loss with regard to the features of *all*
    items in a first pass, brings each row to length ε, and computes the loss again with what it gives.
    """

    def __init__(self, is_adversarial: bool, data: InteractionTriplets, device: torch.device) -> None:
        assert data.feature_table is not None
        torch.manual_seed(0)
        self.is_adversarial = is_adversarial
        self.features = data.feature_table.features.to(device) / data.feature_table.scale
        sizes = (data.num_users, data.num_items, self.features.shape[1])
        self.p, self.q, self.e = (nn.Parameter(0.01 * torch.randn(size, FACTORS, device=device)) for size in sizes)
        groups = [{"params": [part], "lr": rate} for part, rate in ((self.p, 0.01), (self.q, 1e-4), (self.e, 1e-3))]
        self.optimizer = torch.optim.Adagrad(groups, initial_accumulator_value=0.1, eps=0.0)

    def loss(self, features: Tensor, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch of triplets, with the linear regulariser."""
        p = self.p[users]
        left, right = (self.q[items] + features[items] @ self.e for items in (positives, negatives))
        losses = F.softplus(-((p * left).sum(1) - (p * right).sum(1))).sum()
        return losses + 0.1 * p.sum() + 0.001 * (left.sum() + right.sum())

    def step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> None:
        """Take a step."""
        batch = users, positives, negatives
        features, further = self.features, 0.0
        if self.is_adversarial:
            leaf = features.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(leaf, *batch), leaf)
            moved = features + F.normalize(gradient, dim=1)
            further = 0.1 * self.loss(moved, *batch)
        self.optimizer.zero_grad()
        (self.loss(features, *batch) + further).backward()
        self.optimizer.step()


def published_seconds(
    is_adversarial: bool, data: InteractionTriplets, batches: list[tuple[Tensor, ...]], clock: Clock
) -> float:
    """Return the seconds per triplet of ready-made batches, after two others."""
    loop = PublishedStep(is_adversarial, data, clock.device)
    for batch in batches[:2]:
        loop.step(*batch)
    start = clock.now()
    for batch in batches[2:]:
        loop.step(*batch)
    return (clock.now() - start) / sum(len(batch[0]) for batch in batches[2:])


def contestants_of(shop: Shop, clock: Clock) -> dict[str, dict[str, Callable[[], float]]]:
    """Return what measures the seconds per triplet of VBPR and AMR, by contestant."""
    data = shop.data()
    data.setup("fit")
    batches = [tuple(part.to(clock.device) for part in batch) for batch in islice(data.train_dataloader(), 22)]
    published = {"VBPR": partial(VBPR, **AS_PUBLISHED), "AMR": partial(AMR, **AS_PUBLISHED, **ADVERSARY)}
    found: dict[str, dict[str, Callable[[], float]]] = {
        "ours, the paper's settings": {
            name: partial(our_seconds, make, data, clock) for name, make in published.items()
        },
        "ours, defaults": {
            "VBPR": partial(our_seconds, VBPR, data, clock),
            "AMR": partial(our_seconds, AMR, data, clock),
        },
        "the published step, computed anew": {
            "VBPR": partial(published_seconds, False, data, batches, clock),
            "AMR": partial(published_seconds, True, data, batches[:8], clock),
        },
    }
    if HAS_CORNAC:
        found["Cornac"] = {
            "VBPR": partial(cornac_seconds, "VBPR", data, 20, clock),
            "AMR": partial(cornac_seconds, "AMR", data, 6, clock),
        }
    return found


def grid_table(chosen: dict[str, dict[str, Callable[[], float]]], rounds: int, record: Record) -> str:
    """Return the table of rates and hours."""
    flat = {f"{name}: {model}": call for name, calls in chosen.items() for model, call in calls.items()}
    best = {name: min(times) for name, times in take_turns(flat, rounds, "Training").items()}
    rows, triplets = [], grid_triplets()
    for name in chosen:
        vbpr, amr = (best[f"{name}: {model}"] for model in ("VBPR", "AMR"))
        # AMR begins with a VBPR that was trained for half of the epochs.
        hours = triplets * (vbpr + (vbpr + amr) / 2) / 3600
        rows.append([name, f"{1 / vbpr:,.0f}", f"{1 / amr:,.0f}", f"{hours:,.1f}", f"{SEEDS * hours:,.1f}"])
    return record.table(
        "grid", ["", "VBPR, triplets/s", "AMR, triplets/s", "hours a seed", f"hours for {SEEDS} seeds"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", nargs="+", help="those to measure; all by default")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    add_clock_arguments(parser)
    add_record_argument(parser)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    clock = make_clock(parser, arguments, arguments.device)
    packages = ["torch", "pytorch-lightning", *(["cornac"] if HAS_CORNAC else [])]
    print(describe_run(clock, packages), flush=True)
    print(f"{2 * grid_triplets():,} triplets a seed, in {4 * NETWORKS * ATTACKS} trainings\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = contestants_of(make_shop(Path(folder, "shop")), clock)
        wanted = arguments.contestants or list(found)
        if not set(wanted) <= set(found):
            parser.error(f"--contestants: there are {', '.join(found)}")
        chosen = {name: found[name] for name in wanted}
        print(grid_table(chosen, arguments.rounds, Record(arguments.json, clock, packages)))


if __name__ == "__main__":
    main()
