"""What training and evaluating a recommender cost, beside bare loops, Cornac, and the way of the paper's code.

    python benchmarks/recommenders.py

The contract and the results are in ``benchmarks/README.md``; Cornac and pandas come with ``make bench-install``.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, take_turns
from torch import Tensor, nn

from callbacks import CategoryHitRatio
from catwalk.metrics.category_hit_ratio import category_hits
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.captured_step import CapturedStep
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.ranking import score_users, top_k, user_blocks
from catwalk.recommenders.stacked_step import StackedStep
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.triplets import TripletSampler
from datamodules import InteractionTriplets
from lightning_modules import AMR, APR, BPRMF, VBPR, PairwiseRecommender

USERS, ITEMS, PAIRS, FEATURES, FACTORS, BATCH = 24_379, 7_371, 64_641, 2_048, 64, 512
"""Amazon Men of the paper, less a test purchase of each user, with ResNet-50's features and the paper's K and batch."""

CATEGORIES, TOP_K = 100, 20

TRAINING_PURCHASES = {"Amazon Men": 89_020 - 24_379, "Amazon Women": 54_473 - 16_668}
"""Training purchases of the paper's datasets: a test purchase of every user is no triplet."""

NETWORKS, ATTACKS, EPOCHS, SEEDS = 3, 6, 4_000, 3
"""Columns and rows of Table 1, for each dataset and recommender; epochs of a training; seeds of a study."""

HAS_CORNAC = importlib.util.find_spec("cornac") is not None

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def grid_triplets() -> int:
    """Return the triplets of all trainings of a recommender in Table 1, for one seed."""
    return NETWORKS * ATTACKS * EPOCHS * sum(TRAINING_PURCHASES.values())


@dataclass(frozen=True)
class Shop:
    """A dataset folder with noise for features; its figures mean nothing, its sizes do."""

    folder: Path
    features: Path

    def data(self) -> InteractionTriplets:
        """Return the data module as a user makes it."""
        return InteractionTriplets(self.folder, self.features, BATCH)


def make_shop(folder: Path) -> Shop:
    """Write a shop of the size of Amazon Men."""
    users, items, pairs = USERS, ITEMS, PAIRS
    random = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir(parents=True)
    for item in range(items):
        image = folder / f"image{item // 50_000}.png"  # file systems bound the number of links
        if not image.exists():
            Image.new("RGB", (8, 8)).save(image)
        os.link(image, images / f"{item}.png")
    rows = (f"i{item},images/{item}.png,c{item % CATEGORIES}\n" for item in range(items))
    (folder / "items.csv").write_text("item_id,image,category\n" + "".join(rows))
    # Everybody has a first purchase and one for the test; popularity falls off as a power of the rank.
    weights = 1 / np.arange(1, items + 1) ** 0.7
    bought_by = np.concatenate([np.repeat(np.arange(users), 2), random.integers(users, size=pairs - users)])
    bought = random.choice(items, size=len(bought_by), p=weights / weights.sum())
    rows = (f"u{user},i{item},{time}\n" for time, (user, item) in enumerate(zip(bought_by, bought, strict=True)))
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    catalogue = Catalogue.read(folder)
    values = torch.rand(items, FEATURES, generator=torch.Generator().manual_seed(0))
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(items))
    table = FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "noise")
    table.write(folder / "features", catalogue)
    return Shop(folder, folder / "features")


class BareLoop:
    """The recommenders' training steps by hand, with ready-made triplets: PyTorch's own SparseAdam, and Adam for E.

    It computes what ours computes, in the same way: the features of a batch lie in memory that is used again. A loop
    that allocates them anew, as one writes it without measuring, is slower.
    """

    def __init__(self, name: str, data: InteractionTriplets, device: torch.device) -> None:
        torch.manual_seed(0)
        self.name = name
        self.device = device
        self.users, self.items = (self._embedding(count) for count in (data.num_users, data.num_items))
        factors: list[Tensor] = [self.users.weight, self.items.weight]
        self.optimizers: list[torch.optim.Optimizer] = []
        self.is_visual = name in ("VBPR", "AMR")
        if self.is_visual:
            assert data.feature_table is not None
            self.visual_users = self._embedding(data.num_users)
            self.projection = nn.Parameter(0.01 * torch.randn(FEATURES, FACTORS, device=device))
            factors.append(self.visual_users.weight)
            self.optimizers.append(torch.optim.Adam([self.projection], lr=0.01))
            self.features, self.scale = data.feature_table.features.to(device), data.feature_table.scale
            self.left, self.right = torch.empty(2, BATCH, FEATURES, device=device)
        self.optimizers.append(torch.optim.SparseAdam(factors, lr=0.01))

    def _embedding(self, count: int) -> nn.Embedding:
        table = nn.Embedding(count, FACTORS, sparse=True, device=self.device)
        nn.init.normal_(table.weight, std=0.01)
        return table

    def step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> None:
        """Take a step."""
        count = len(users)
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        differences = (p * (q_i - q_j)).sum(1)
        penalty = 0.02 * (p.square().sum() + q_i.square().sum() + q_j.square().sum())
        if self.is_visual:
            left, right = self.left[:count], self.right[:count]
            torch.index_select(self.features, 0, positives, out=left)
            torch.index_select(self.features, 0, negatives, out=right)
            rho = self.visual_users(users)
            differences = differences + (rho * (left.sub_(right) @ self.projection / self.scale)).sum(1)
            penalty = penalty + 0.02 * rho.square().sum()
        loss = F.softplus(-differences).mean() + penalty / count
        if self.is_visual:
            loss = loss + 0.01 * self.projection.square().sum()
        if self.name == "AMR":
            gram = self.projection.T @ self.projection
            drop = 2 * ((rho @ gram) * rho).sum(1).clamp(min=1e-24).sqrt()
            loss = loss + 0.1 * F.softplus(-(differences - drop)).mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()


def bare_seconds(name: str, data: InteractionTriplets, triplets: list[tuple[Tensor, ...]], clock: Clock) -> float:
    """Return the seconds per triplet of a pass over batches, after a warm-up of ten."""
    loop = BareLoop(name, data, clock.device)
    for batch in triplets[:10]:
        loop.step(*batch)
    start = clock.now()
    for batch in triplets:
        loop.step(*batch)
    return (clock.now() - start) / sum(len(batch[0]) for batch in triplets)


class EpochClock(Callback):
    """Notes when epochs end, so that the second one is measured with its sampling and all that Lightning does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self.ends.append(self.clock.now())


def make_trainer(clock: Clock, *callbacks: Callback, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="gpu" if clock.device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def our_seconds(make: Callable[[], PairwiseRecommender], data: InteractionTriplets, clock: Clock) -> float:
    """Return the seconds per triplet of ``Trainer.fit``: of the second epoch."""
    epochs = EpochClock(clock)
    make_trainer(clock, epochs, epochs=2).fit(make(), data)
    return (epochs.ends[1] - epochs.ends[0]) / len(data.split.users)


def stacked_seconds(make: type, models: int, data: InteractionTriplets, steps: int, clock: Clock) -> float:
    """Return the seconds per triplet of steps of several models at once, each on its own triplets.

    Args:
        make: The class of the models' LightningModule.
        models: Number of models.
        data: The data module.
        steps: Number of steps that are timed.
        clock: The clock.
    """
    assert data.feature_table is not None
    features = FeatureRows(data.feature_table.features).to(clock.device)
    sampler = TripletSampler(data.split, data.seen_items("val")).to(clock.device)
    sizes = (data.num_users, data.num_items, FEATURES)
    epochs = [sampler.sample_epoch(seed, 0) for seed in range(models)]
    batches = [torch.stack(columns).split(BATCH, dim=1)[: PAIRS // BATCH] for columns in zip(*epochs, strict=True)]
    members, optimizers = [], []
    for seed in range(models):
        torch.manual_seed(seed)
        module = make()
        module.build(*sizes)
        module.look_at(features, data.feature_table.scale)
        members.append(module.model.to(clock.device))
        optimizers.append(module.configure_optimizers())
        for table in members[-1].modules():
            if isinstance(table, nn.Embedding):
                table.sparse = True
        members[-1].loss(*(column[seed] for column in next(zip(*batches, strict=True)))).backward()
        optimizers[-1].step()
    plain = StackedStep(members, optimizers)
    step = CapturedStep(plain) if clock.device.type == "cuda" else plain
    every = list(zip(*batches, strict=True))
    for number in range(10):
        step.take(*every[number % len(every)])
    start = clock.now()
    for number in range(steps):
        step.take(*every[number % len(every)])
    return (clock.now() - start) / (steps * models * BATCH)


def stacked_table(shop: Shop, rounds: int, stacks: list[int], clock: Clock, record: Record) -> str:
    """Return the table of steps without a Trainer, of one model and of several at once."""
    data = shop.data()
    data.setup("fit")
    steps = 400 if clock.device.type == "cuda" else 40
    contestants: dict[str, Callable[[], float]] = {
        f"{name}, {models} at once": partial(stacked_seconds, make, models, data, -(-steps // models), clock)
        for name, make in (("VBPR", VBPR), ("AMR", AMR))
        for models in stacks
    }
    best = {name: min(times) for name, times in take_turns(contestants, rounds, "Stacked").items()}
    rows = []
    for name, seconds in best.items():
        alone = best[f"{name.partition(',')[0]}, {stacks[0]} at once"]
        hours = seconds * 2 * grid_triplets() * SEEDS / 3600  # of two recommenders
        rows.append([name, f"{1 / seconds:,.0f}", f"{alone / seconds:.2f}", f"{hours:,.2f}"])
    return record.table("stacked", ["", "triplets/s", "times one at a time", "hours of the paper's grid"], rows)


def cornac_data(data: InteractionTriplets) -> Any:
    """Return the training purchases and the features as Cornac takes them."""
    import cornac

    assert data.feature_table is not None
    users, items = data.split.users.tolist(), data.split.items.tolist()
    train = cornac.data.Dataset.from_uir(list(zip(users, items, np.ones(len(users)), strict=True)), seed=0)
    features = (data.feature_table.features / data.feature_table.scale).numpy()
    images = cornac.data.ImageModality(features=features, ids=list(range(data.num_items)), normalized=False)
    images.build(id_map=train.iid_map)
    train.add_modalities(item_image=images)
    return train


def cornac_trained(name: str, data: InteractionTriplets, batches: int, times: list[float], clock: Clock) -> Any:
    """Return a recommender of Cornac's after a number of batches; ``times`` gets when each was asked for."""
    import cornac

    train = cornac_data(data)
    whole = train.uij_iter

    def some(*arguments: Any, **settings: Any) -> Iterator:
        for batch in islice(whole(*arguments, **settings), batches):
            times.append(clock.now())
            yield batch

    train.uij_iter = some
    settings = {"k": FACTORS, "n_epochs": 1, "batch_size": BATCH, "learning_rate": 0.005, "seed": 0, "verbose": False}
    model = getattr(cornac.models, name)(k2=FACTORS, **settings)
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit(train)
    return model


def cornac_seconds(name: str, data: InteractionTriplets, batches: int, clock: Clock) -> float:
    """Return the seconds per triplet of Cornac's own ``fit``, over a number of its batches, after two others."""
    times: list[float] = []
    cornac_trained(name, data, batches + 3, times, clock)
    return (times[-1] - times[2]) / (batches * BATCH)


def training_table(shop: Shop, rounds: int, clock: Clock, record: Record) -> str:
    """Return the table of training."""
    data = shop.data()
    data.setup("fit")
    triplets = [tuple(column.to(clock.device) for column in batch) for batch in data.train_dataloader()]
    captured = {"VBPR, captured": partial(VBPR, captured=True), "AMR, captured": partial(AMR, captured=True)}
    ours: dict[str, Callable[[], PairwiseRecommender]] = {
        "BPR-MF": BPRMF,
        "APR": APR,
        "VBPR": VBPR,
        "AMR": AMR,
        "AMR, per item": partial(AMR, perturbation="per_item"),
        "VBPR, Adagrad": partial(VBPR, optimizer=partial(torch.optim.Adagrad, lr=0.05)),
        "VBPR, dense Adam": partial(VBPR, optimizer=partial(torch.optim.Adam, lr=0.005, fused=True)),
        **(captured if clock.device.type == "cuda" else {}),
    }
    contestants: dict[str, Callable[[], float]] = {}
    for name, make in ours.items():
        if name in ("BPR-MF", "VBPR", "AMR"):
            contestants[f"floor {name}"] = partial(bare_seconds, name, data, triplets, clock)
        contestants[f"ours {name}"] = partial(our_seconds, make, data, clock)
    if HAS_CORNAC:
        contestants["Cornac VBPR"] = partial(cornac_seconds, "VBPR", data, 20, clock)
        contestants["Cornac AMR"] = partial(cornac_seconds, "AMR", data, 6, clock)
    best = {name: min(times) for name, times in take_turns(contestants, rounds, "Training").items()}
    rows = []
    for name in ours:
        kind = name.partition(",")[0]
        mine = best[f"ours {name}"]
        floor, cornac = best.get(f"floor {kind}"), best.get(f"Cornac {kind}")
        rows.append(
            [
                name,
                f"{1 / mine:,.0f}",
                f"{1 / floor:,.0f}" if floor else "–",
                f"{floor / mine:.2f}" if floor else "–",
                f"{1 / cornac:,.0f}" if cornac else "–",
                f"{cornac / mine:.1f}" if cornac else "–",
                f"{mine / best['ours VBPR']:.2f}",
            ]
        )
    header = ["", "triplets/s", "bare loop's", "of the bare loop", "Cornac's", "times Cornac's", "epoch / VBPR's"]
    return record.table("training", header, rows)


def evaluation_table(shop: Shop, rounds: int, clock: Clock, record: Record) -> str:
    """Return the table of the evaluation."""
    data = shop.data()
    data.setup("test")
    model, tested = VBPR(), VBPR()
    for each in (model, tested):
        make_trainer(clock, CategoryHitRatio([TOP_K])).test(each, data, verbose=False)
    assert data.feature_table is not None
    categories = torch.from_numpy(data.feature_table.categories).to(clock.device)
    model.to(clock.device).prepare_scores(data)  # a Trainer leaves it on the CPU
    everybody = torch.arange(data.num_users, device=clock.device)
    seen = data.seen_items("test").to(clock.device)
    with torch.inference_mode():
        left, right = model.model.user_vectors(everybody), model.model.item_vectors()

    def plain() -> None:
        _ = left @ right.T

    def in_blocks(rows: int) -> None:
        out = torch.empty(rows, len(right), device=clock.device)
        for block in left.split(rows):
            torch.mm(block, right.T, out=out[: len(block)])

    def lists_and_categories() -> None:
        for users in user_blocks(everybody, data.num_items):
            recommended, _ = top_k(score_users(model.scores, users, seen), TOP_K)
            category_hits(recommended, categories, CATEGORIES, TOP_K)

    def whole_test() -> None:
        make_trainer(clock, CategoryHitRatio([TOP_K])).test(tested, data, verbose=False)

    sample = everybody[:40]
    lists, classes = published_tables(data, categories.cpu())

    def published() -> None:
        published_way(lists, classes, sample)

    cornac_model = cornac_trained("VBPR", data, 1, [], clock) if HAS_CORNAC else None
    ranked_by_cornac = everybody[:500]

    def by_cornac() -> None:
        for user in ranked_by_cornac.tolist():
            cornac_model.rank(user, k=TOP_K)

    def timed(call: Callable[[], None]) -> Callable[[], float]:
        def seconds() -> float:
            start = clock.now()
            with torch.inference_mode():
                call()
            return clock.now() - start

        return seconds

    share, cornac_share = data.num_users / len(sample), data.num_users / len(ranked_by_cornac)
    contestants = {
        "the score product alone, `P @ Q.T`": timed(plain),
        "the same in blocks into one buffer": timed(partial(in_blocks, 512)),
        "top 20 of all users, CHR@20 of all categories": timed(lists_and_categories),
        "`Trainer.test`: these, HR, nDCG, AUC, nCDCG": timed(whole_test),
        "CHR alone the paper's code's way, lists given": lambda: share * timed(published)(),
    }
    if HAS_CORNAC:
        contestants["Cornac's `rank` of its VBPR, top 20, nothing masked"] = lambda: cornac_share * timed(by_cornac)()
    best = {name: min(times) for name, times in take_turns(contestants, rounds, "Evaluation").items()}
    first, second, *_ = best.values()
    rows = [[name, f"{value:,.2f}", f"{value / first:.2f}", f"{value / second:.2f}"] for name, value in best.items()]
    return record.table("evaluation", ["", "seconds", "/ product", "/ product in blocks"], rows)


def published_tables(data: InteractionTriplets, categories: Tensor) -> tuple[Any, Any]:
    """Return a table of everybody's lists and one of the items' categories, as the paper's code reads them."""
    import pandas

    items = np.random.default_rng(0).integers(data.num_items, size=data.num_users * TOP_K)
    lists = pandas.DataFrame({"user": np.repeat(np.arange(data.num_users), TOP_K), "item": items})
    return lists, pandas.DataFrame({"item": np.arange(data.num_items), "category": categories.numpy()})


def published_way(lists: Any, classes: Any, users: Tensor) -> list[int]:
    """Count the categories in the users' lists by filtering a table for every user, and one for every item."""
    hits = [0] * CATEGORIES
    for user in users.tolist():
        for item in lists[lists["user"] == user]["item"].to_list():
            hits[classes[classes["item"] == item]["category"].to_numpy()[0]] += 1
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["training", "evaluation"])
    parser.add_argument("--stacks", type=int, nargs="+", default=[1, 8, 32], help="models at once in the part stacked")
    add_clock_arguments(parser)
    add_record_argument(parser)
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cpu"),
        help="default: cpu",
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    clock = make_clock(parser, arguments, arguments.device)
    packages = ["torch", "pytorch-lightning", *(["cornac"] if HAS_CORNAC else [])]
    print(describe_run(clock, packages), flush=True)
    record = Record(arguments.json, clock, packages)
    with tempfile.TemporaryDirectory() as folder:
        shop = make_shop(Path(folder, "shop"))
        if "training" in arguments.parts:
            print(f"\n{training_table(shop, arguments.rounds, clock, record)}", flush=True)
        if "stacked" in arguments.parts:
            print(f"\n{stacked_table(shop, arguments.rounds, arguments.stacks, clock, record)}", flush=True)
        if "evaluation" in arguments.parts:
            print(f"\n{evaluation_table(shop, arguments.rounds, clock, record)}", flush=True)


if __name__ == "__main__":
    main()
