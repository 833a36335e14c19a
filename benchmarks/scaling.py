"""How time and memory grow with a shop: 1, 4, 16 and 64 times the size of Amazon Men, and a million users and items.

    python benchmarks/scaling.py                                              # growth, each stage in its own process
    python benchmarks/scaling.py --parts large                                # a million: up to 20 GiB, many minutes
    python benchmarks/scaling.py --scales 1 4 --stages evaluation

The contract and the results are in ``benchmarks/README.md``; ``docs/scaling.md`` says what they mean.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from record import Record, add_record_argument
from timing import Clock, describe_run

from callbacks import CategoryHitRatio
from catwalk.attacks import PGD
from catwalk.cli.main import main as catwalk
from catwalk.importers.synthetic import CATEGORIES, synthetic
from catwalk.metrics.category_hit_ratio import category_hits
from catwalk.networks.building import build_network
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images
from catwalk.shop.splits import read_split
from catwalk.shop.triplets import TripletSampler
from catwalk.shop.user_items import SeenItems
from datamodules import InteractionTriplets
from lightning_modules import VBPR

USERS, ITEMS, PURCHASES = 24_379, 7_371, 3.65
"""Users and items of Amazon Men in the paper, and a user's purchases on average."""

LARGE_USERS, LARGE_ITEMS, LARGE_PURCHASES, LARGE_TESTED = 1_000_000, 1_000_000, 10.0, (10_000, 100_000)

PHOTOGRAPHS, FEATURES, TESTED, CRAFTED, SEEDS, TOP_K = 600, 64, 24_379, 64, 1, 20
"""Photographs that the items share, features of an item, users that are tested, images that are attacked at 1×, seeds
of the study that is planned at 1×, and the length of lists."""

NOISE = 64
"""MiB that come and go with the allocator: where a stage adds no more, its memory is not said to grow."""

STUDY = Path(__file__).parents[1] / "configs" / "study" / "synthetic.yaml"


@dataclass(frozen=True)
class Cost:
    """What a stage cost.

    Attributes:
        processor: Seconds of processor time of all threads.
        wall: Seconds that passed.
        before: MiB of memory that the process had when the stage began.
        peak: MiB that it had at its largest.
        count: What it worked through.
    """

    processor: float
    wall: float
    before: float
    peak: float
    count: int


def resident(entry: str = "VmRSS") -> float:
    """Return this process's memory in MiB: now, or ``VmHWM`` at its largest. Linux alone tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 2**10


class Meter:
    """Measures what is done in its block; the memory of mapped files that are in use counts as the process's."""

    def __enter__(self) -> "Meter":
        # A peak of before, such as that of making what is measured, is forgotten.
        Path("/proc/self/clear_refs").write_text("5")
        self.before, self._wall, self._processor = resident(), time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._processor, self._wall = time.process_time() - self._processor, time.perf_counter() - self._wall
        self._peak = resident("VmHWM")

    def cost(self, count: int) -> Cost:
        """Return what was measured, of a number of things."""
        return Cost(self._processor, self._wall, self.before, self._peak, count)


class EpochMeter(Callback):
    """Measures the one epoch of a fit, without what comes before and after it."""

    def __init__(self) -> None:
        self.meter = Meter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.meter.__enter__()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.meter.__exit__()


class TestMeter(EpochMeter):
    """Measures a test, without what comes before and after it."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.meter.__enter__()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.meter.__exit__()


def write_features(folder: Path, features: int) -> Path:
    """Write features for a shop, noise that is the same for items with the same photograph; return their folder."""
    catalogue = Catalogue.read(folder)
    names = sorted(set(catalogue.images))
    number = {name: place for place, name in enumerate(names)}
    shown = torch.tensor([number[image] for image in catalogue.images])
    values = torch.rand(len(names), features, generator=torch.Generator().manual_seed(0))[shown]
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(len(catalogue)))
    table = FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "noise")
    table.write(folder / "features", catalogue)
    return folder / "features"


def make_trainer(*callbacks: Callback) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, callbacks=list(callbacks), **quiet)


def import_(shop: Path, scale: int) -> Cost:
    """``catwalk data synthetic`` with photographs that items share."""
    with tempfile.TemporaryDirectory(dir=shop.parent) as folder, Meter() as meter:
        write_shop(Path(folder, "shop"), scale)
    return meter.cost(scale * USERS)


def write_shop(folder: Path, scale: int) -> None:
    synthetic(folder, scale * ITEMS, scale * USERS, photographs=PHOTOGRAPHS, mean_purchases=PURCHASES)


def reading(shop: Path, scale: int) -> Cost:
    """Tables, checks, split and features."""
    data = InteractionTriplets(shop, shop / "features")
    with Meter() as meter:
        data.setup("fit")
    return meter.cost(len(data.split.users))


def decoding(shop: Path, scale: int) -> Cost:
    """Every item's photograph, decoded for itself, into a cache on the disk."""
    catalogue = Catalogue.read(shop)
    with tempfile.TemporaryDirectory(dir=shop.parent) as cache, Meter() as meter:
        load_images(shop, catalogue.images, None, cache=Path(cache))
    return meter.cost(len(catalogue))


def sampling(shop: Path, scale: int) -> Cost:
    """An epoch's triplets."""
    split = read_split(Catalogue.read(shop))
    users, items = torch.from_numpy(split.users), torch.from_numpy(split.items)
    seen = SeenItems.from_pairs(users, items, split.num_users, split.test.num_items)
    with Meter() as meter:
        TripletSampler(split, seen).sample_epoch(0, 0)
    return meter.cost(len(users))


def epoch(shop: Path, scale: int) -> Cost:
    """One epoch of VBPR under Lightning, with the sampling of its triplets and the optimizer's new moments."""
    data, meter = InteractionTriplets(shop, shop / "features"), EpochMeter()
    make_trainer(meter).fit(VBPR(), data)
    return meter.meter.cost(len(data.split.users))


def evaluation(shop: Path, scale: int) -> Cost:
    """The test of a fixed number of users on the whole catalogue: top 20, CHR, HR, nDCG, AUC."""
    data, meter = InteractionTriplets(shop, shop / "features", test_users=TESTED), TestMeter()
    make_trainer(meter, CategoryHitRatio([TOP_K])).test(VBPR(), data, verbose=False)
    return meter.meter.cost(len(data.catalogue))


def chr_(shop: Path, scale: int) -> Cost:
    """CHR@20 of all categories from everybody's lists."""
    generator = torch.Generator().manual_seed(0)
    lists = torch.randint(scale * ITEMS, (scale * USERS, TOP_K), generator=generator)
    categories = torch.arange(scale * ITEMS) % len(CATEGORIES)
    with Meter() as meter:
        category_hits(lists, categories, len(CATEGORIES), TOP_K)
    return meter.cost(len(lists))


def crafting(shop: Path, scale: int) -> Cost:
    """PGD with ten steps on a small CNN."""
    catalogue = Catalogue.read(shop)
    levels = torch.from_numpy(np.array(load_images(shop, catalogue.images[:PHOTOGRAPHS], None)))
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 8}, len(CATEGORIES)).eval()
    count = scale * CRAFTED
    images = levels[torch.arange(count) % len(levels)].float() / 255
    with Meter() as meter:
        PGD(epsilon=8)(network, images, torch.zeros(count, dtype=torch.int64), keys=torch.arange(count))
    return meter.cost(count)


def study(shop: Path, scale: int) -> Cost:
    """What a study adds of itself before anything is run: reading, planning and hashing, by the number of its seeds."""
    settings = yaml.safe_load(STUDY.read_text("utf-8"))
    with tempfile.TemporaryDirectory(dir=shop.parent) as folder:
        small = Path(folder, "shop")
        synthetic(small)
        settings |= {"dataset": str(small), "output": folder, "dry_run": True}
        for number in (1, scale * SEEDS):  # the first time with imports, which are not counted
            path = Path(folder, "study.yaml")
            settings["seeds"] = list(range(number))
            path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
            sys.argv = ["catwalk", "study", "--config", str(path)]
            with Meter() as meter:
                catwalk()
    return meter.cost(scale * SEEDS)


STAGES: dict[str, tuple[str, Callable[[Path, int], Cost]]] = {
    "import": ("users and purchases written", import_),
    "reading": ("purchases read", reading),
    "decoding": ("images", decoding),
    "sampling": ("triplets", sampling),
    "epoch": ("triplets", epoch),
    "evaluation": ("items, for 24,379 users", evaluation),
    "chr": ("lists", chr_),
    "crafting": ("images", crafting),
    "study": ("seeds", study),
}
"""Stages by name, with what they work through."""


def large(shop: Path) -> dict[str, Cost]:
    """Read a shop of a million, train VBPR for an epoch and test samples of its users, in this process alone."""
    data, costs = InteractionTriplets(shop, shop / "features", feature_storage="disk"), {}
    model, epochs = VBPR(), EpochMeter()

    def note(name: str, cost: Cost) -> None:
        costs[name] = cost
        print(f"{name}: {cost}", file=sys.stderr, flush=True)

    with Meter() as meter:
        data.setup("fit")
    note("reading", meter.cost(len(data.split.users)))
    make_trainer(epochs).fit(model, data)
    note("an epoch of VBPR", epochs.meter.cost(len(data.split.users)))
    for count in LARGE_TESTED:
        data.test_users, tests = count, TestMeter()
        make_trainer(tests, CategoryHitRatio([TOP_K])).test(model, data, verbose=False)
        note(f"the test of {count:,} users", tests.meter.cost(count))
    return costs


def in_process(*arguments: str) -> dict[str, Cost]:
    """Run this script with arguments in a process of its own; return what it says that things cost."""
    output = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return {name: Cost(**cost) for name, cost in json.loads(output.stdout.splitlines()[-1]).items()}


def exponent(sizes: list[int], values: list[float]) -> str:
    """Return the exponent of growth: the slope of a line through logarithms, by least squares; – for fewer than two."""
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True) if value > 0]
    if len(points) < 2:
        return "–"
    return f"{round(float(np.polyfit(*np.array(points).T, deg=1)[0]), 2) + 0.0:.2f}"


def growth_table(stages: list[str], scales: list[int], folder: Path, record: Record) -> str:
    """Return the table of growth; every cell is of a process of its own, which did not make the shop.

    What there is of it is written after every size, for the largest may be too large for the machine or its user.
    """
    costs: dict[str, dict[int, Cost]] = {stage: {} for stage in stages}
    table = ""
    for scale in scales:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            shop = Path(place, "shop")
            in_process("--made", str(scale), "--shop", str(shop))
            for stage in stages:
                found = in_process("--measured", stage, "--scale", str(scale), "--shop", str(shop))
                costs[stage][scale] = found[stage]
                print(f"{stage}, {scale}×: {found[stage]}", file=sys.stderr, flush=True)
        table = record.table("growth", *growth(costs))
    return table


def growth(costs: dict[str, dict[int, Cost]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of what each stage costs at each size, with the exponents."""
    rows, scales = [], list(next(iter(costs.values())))
    for stage, by_scale in costs.items():
        counts = [cost.count for cost in by_scale.values()]
        grown = [cost.peak - cost.before for cost in by_scale.values()]
        rows.append(
            [
                stage,
                STAGES[stage][0],
                *(f"{cost.processor:.2f}" for cost in by_scale.values()),
                exponent(counts, [cost.processor for cost in by_scale.values()]),
                *(f"{cost.peak:,.0f}" for cost in by_scale.values()),
                exponent(counts, grown) if max(grown) > NOISE else "–",
            ]
        )
    header = ["", "grows with", *(f"{scale}×, s" for scale in scales), "exponent"]
    return [*header, *(f"{scale}×, MiB" for scale in scales), "of what is added"], rows


def large_table(folder: Path, record: Record) -> str:
    """Return the table of the large shop."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        shop = Path(place, "shop")
        costs = in_process("--made", "0", "--shop", str(shop))
        print(costs, file=sys.stderr, flush=True)
        costs |= in_process("--measured", "large", "--shop", str(shop))
    rows = [
        [name, f"{cost.count:,}", f"{cost.processor:.0f}", f"{cost.wall:.0f}", f"{cost.peak / 2**10:.1f}"]
        for name, cost in costs.items()
    ]
    return record.table("large", ["", "number", "processor time, s", "wall clock, s", "peak memory, GiB"], rows)


def made(shop: Path, scale: int) -> dict[str, Cost]:
    """Write a shop with its features: the large one where the scale is 0."""
    users = scale * USERS or LARGE_USERS
    with Meter() as meter:
        if scale:
            write_shop(shop, scale)
        else:
            synthetic(shop, LARGE_ITEMS, users, photographs=PHOTOGRAPHS, mean_purchases=LARGE_PURCHASES)
    with Meter() as features:
        write_features(shop, FEATURES)
    return {
        "`catwalk data synthetic`": meter.cost(users),
        "writing features": features.cost(scale * ITEMS or LARGE_ITEMS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["growth", "large"], default=["growth"])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--folder", type=Path, help="where to write, with some GB of room; by default a temporary one")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own choice")
    parser.add_argument("--made", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measured", help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--shop", type=Path, help=argparse.SUPPRESS)
    add_record_argument(parser)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # of the processes that measure, too
        torch.set_num_threads(arguments.threads)
    if arguments.made is not None:
        costs = made(arguments.shop, arguments.made)
    elif arguments.measured == "large":
        costs = large(arguments.shop)
    elif arguments.measured is not None:
        costs = {arguments.measured: STAGES[arguments.measured][1](arguments.shop, arguments.scale)}
    else:
        clock, packages = Clock(torch.device("cpu"), processor_time=True), ["numpy", "torch", "pytorch-lightning"]
        print(describe_run(clock, packages), flush=True)
        record = Record(arguments.json, clock, packages)
        if "growth" in arguments.parts:
            print(f"\n{growth_table(arguments.stages, arguments.scales, arguments.folder, record)}", flush=True)
        if "large" in arguments.parts:
            print(f"\n{large_table(arguments.folder, record)}")
        return
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


if __name__ == "__main__":
    main()
