"""What Lightning and our modules add to a training step of T, AT, Fast AT and Free AT, beyond a bare PyTorch loop.

    python benchmarks/adversarial_training.py

Each LightningModule is trained by ``Trainer.fit``, and beside it the same algorithm in a loop written by hand, on the
same network, batches, optimizer and schedule. The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from record import Record, add_record_argument
from timing import (
    Clock,
    add_clock_arguments,
    describe_run,
    make_clock,
    seconds_per_call,
    take_turns,
)
from torch import Tensor

from catwalk.networks.building import build_network
from lightning_modules import (
    AdversarialClassifier,
    FastAdversarialClassifier,
    FreeAdversarialClassifier,
    ProductClassifier,
)

EPSILON = 8 / 255
ITERATIONS = 7
REPLAYS = 4
CATEGORIES = 10
SEED = 0
TARGET = 1.10

Batch = tuple[Tensor, Tensor]
"""float32 images ``(N, 3, H, W)`` in [0, 1] and int64 categories ``(N,)``."""


@dataclass(frozen=True)
class Setting:
    """A network with its batches, and how much of it to measure.

    Attributes:
        backbone: Import path of what builds it.
        backbone_args: Its keyword arguments.
        image_size: Height and width of the images.
        batch_size: Images per batch.
        steps: Steps of a measured block.
        rounds: Blocks per contestant.
        warm_up: Steps before each block; Free AT takes at least one batch's replays.
        clock: Measures, and says where everything is.
        dtype: float32, or bfloat16 for mixed precision.
    """

    backbone: str
    backbone_args: dict[str, Any]
    image_size: int
    batch_size: int
    steps: int
    rounds: int
    warm_up: int
    clock: Clock
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.clock.device

    def batches(self, count: int) -> list[Batch]:
        """Return batches of noise on the device, laid out as the data module's; the same ones every time."""
        random = torch.Generator().manual_seed(SEED)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        different = [
            (
                torch.rand(shape, generator=random).to(self.device),
                torch.randint(CATEGORIES, shape[:1], generator=random).to(self.device),
            )
            for _ in range(4)
        ]
        return list(islice(cycle(different), count))


SETTINGS: dict[str, Callable[..., Setting]] = {
    "compact_cnn": partial(
        Setting, "catwalk.networks.compact_cnn", {"width": 16}, 28, 128, steps=4, rounds=10, warm_up=2
    ),
    "resnet18": partial(Setting, "torchvision.models.resnet18", {}, 64, 32, steps=2, rounds=5, warm_up=1),
}


class BareLoop:
    """What the hand-written steps work on: a network, its optimizer and its schedule."""

    def __init__(self, setting: Setting, steps: int, random_start: bool) -> None:
        torch.manual_seed(SEED)
        with setting.device:  # where Lightning draws the weights, too
            self.network = build_network(setting.backbone, setting.backbone_args, CATEGORIES).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=0.1, total_steps=steps, div_factor=10, cycle_momentum=False
        )
        self.random_start = random_start
        self.perturbation: Tensor | None = None
        self._setting = setting

    def autocast(self) -> AbstractContextManager:
        """Return mixed precision, or nothing."""
        setting = self._setting
        return torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.dtype == torch.bfloat16)


BareStep = Callable[[BareLoop, Tensor, Tensor], None]


def traditional_step(loop: BareLoop, images: Tensor, categories: Tensor) -> None:
    """Take one step of traditional training."""
    with loop.autocast():
        loss = F.cross_entropy(loop.network(images), categories)
    loop.optimizer.zero_grad()
    loss.backward()
    loop.optimizer.step()
    loop.schedule.step()


def adversarial_step(
    loop: BareLoop, images: Tensor, categories: Tensor, step: float = EPSILON / 4, iterations: int = ITERATIONS
) -> None:
    """Take one step of PGD adversarial training; with a single long iteration it is fast adversarial training."""
    adversarial = images
    if loop.random_start:
        adversarial = torch.rand_like(images).mul_(2).sub_(1).mul_(EPSILON).add_(images).clamp_(0, 1)
    with loop.autocast():
        loop.network.eval()
        for _ in range(iterations):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(loop.network(adversarial), categories, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = gradient.sign_().mul_(step).add_(adversarial.detach())
            adversarial = moved.sub_(images).clamp_(-EPSILON, EPSILON).add_(images).clamp_(0, 1)
        loop.network.train()
        loss = F.cross_entropy(loop.network(adversarial), categories)
    loop.optimizer.zero_grad()
    loss.backward()
    loop.optimizer.step()
    loop.schedule.step()


def free_steps(loop: BareLoop, images: Tensor, categories: Tensor) -> None:
    """Take the steps of free adversarial training on one batch, one for each replay."""
    if loop.perturbation is None:
        loop.perturbation = torch.zeros_like(images)
    perturbation = loop.perturbation
    for _ in range(REPLAYS):
        perturbed = (images + perturbation).clamp_(0, 1).requires_grad_()
        with loop.autocast():
            loss = F.cross_entropy(loop.network(perturbed), categories)
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()
        loop.schedule.step()
        assert perturbed.grad is not None
        perturbation.add_(perturbed.grad.sign_(), alpha=EPSILON).clamp_(-EPSILON, EPSILON)


@dataclass(frozen=True)
class Training:
    """One kind of training, in both forms.

    Attributes:
        name: For the table.
        module: Makes the LightningModule.
        bare: What the bare loop does with a batch.
        passes: Cost of a step in forward passes.
        replays: Steps per batch.
    """

    name: str
    module: Callable[..., ProductClassifier]
    bare: BareStep
    passes: int
    replays: int = 1


TRAINING = (
    Training("T", ProductClassifier, traditional_step, passes=3),
    Training(
        f"AT (k = {ITERATIONS})",
        partial(AdversarialClassifier, epsilon=255 * EPSILON, iterations=ITERATIONS),
        adversarial_step,
        passes=2 * ITERATIONS + 3,
    ),
    # Without its guard, which a block of a few steps would show not at all or far too large: it has a row of its own.
    Training(
        "Fast AT",
        partial(FastAdversarialClassifier, epsilon=255 * EPSILON, check_every_n_steps=0),
        partial(adversarial_step, step=1.25 * EPSILON, iterations=1),
        passes=5,
    ),
    Training(
        f"Free AT (m = {REPLAYS}), a replay",
        partial(FreeAdversarialClassifier, epsilon=255 * EPSILON, replays=REPLAYS),
        free_steps,
        passes=3,
        replays=REPLAYS,
    ),
)
FAST = TRAINING[2]
GUARD_EVERY = 200
"""Steps from one check of Fast AT's guard to the next, as the product has it."""


class BatchesInMemory(LightningDataModule):
    """Hands the Trainer batches that are there already, as the bare loop takes them, without a ``DataLoader``."""

    image_size = None
    category_names = tuple(f"category {number}" for number in range(CATEGORIES))

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self._batches = batches

    def train_dataloader(self) -> "BatchesInMemory":
        """Return the batches. Not the list: Lightning takes lists for collections of loaders."""
        return self

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class BlockTimer(Callback):
    """Takes the time from the end of the last batch of the warm-up to the end of the last batch."""

    def __init__(self, warm_up: int, batches: int, clock: Clock) -> None:
        self.start = self.end = 0.0
        self._warm_up, self._batches, self._clock = warm_up, batches, clock

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock."""
        if batch_idx == self._warm_up - 1:
            self.start = self._clock.now()
        elif batch_idx == self._batches - 1:
            self.end = self._clock.now()


def fit(setting: Setting, model: ProductClassifier, batches: list[Batch], *callbacks: Callback) -> None:
    """Train for one epoch, with a Trainer that writes and shows nothing."""
    torch.manual_seed(SEED)
    trainer = Trainer(
        accelerator="gpu" if setting.device.type == "cuda" else "cpu",
        devices=[setting.device.index or 0] if setting.device.type == "cuda" else 1,
        precision="bf16-mixed" if setting.dtype == torch.bfloat16 else "32-true",
        max_epochs=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=BatchesInMemory(batches))


def make_module(setting: Setting, training: Training, **settings: Any) -> ProductClassifier:
    """Return a kind of training's LightningModule; whatever is not given is the product's default."""
    return training.module(backbone=setting.backbone, backbone_args=setting.backbone_args, **settings)


def block_of(setting: Setting, training: Training) -> tuple[int, int]:
    """Return how many batches come before the measured ones, and how many are measured."""
    return -(-setting.warm_up // training.replays), -(-setting.steps // training.replays)


def bare_seconds(setting: Setting, training: Training) -> float:
    """Return the seconds of a step of the bare loop."""
    warm_up, measured = block_of(setting, training)
    loop = BareLoop(setting, (warm_up + measured) * training.replays, random_start=True)
    batches = iter(setting.batches(warm_up + measured))
    return (
        seconds_per_call(lambda: training.bare(loop, *next(batches)), measured, warm_up, setting.clock)
        / training.replays
    )


def lightning_seconds(setting: Setting, training: Training, **settings: Any) -> float:
    """Return the seconds of a step of the LightningModule under the Trainer."""
    warm_up, measured = block_of(setting, training)
    timer = BlockTimer(warm_up, warm_up + measured, setting.clock)
    fit(setting, make_module(setting, training, **settings), setting.batches(warm_up + measured), timer)
    return (timer.end - timer.start) / (measured * training.replays)


def largest_difference(setting: Setting, training: Training) -> float:
    """Return by how much any parameter or statistic differs after two batches of both, without random starts."""
    batches = setting.batches(2)
    loop = BareLoop(setting, len(batches) * training.replays, random_start=False)
    initial = {name: value.clone() for name, value in loop.network.state_dict().items()}
    for batch in batches:
        training.bare(loop, *batch)
    model = make_module(setting, training)
    if isinstance(model, AdversarialClassifier | FastAdversarialClassifier):
        model.attack.random_start = False
    fit(setting, model, batches)
    bare, lightning = loop.network.state_dict(), model.network.state_dict()
    if all(torch.equal(bare[name], initial[name]) for name in bare):
        raise RuntimeError(f"{training.name}: the bare loop has changed nothing, so there is nothing to compare")
    # A Trainer leaves its model on the CPU.
    return max(float((bare[name].double().cpu() - lightning[name].double().cpu()).abs().max()) for name in bare)


def measure(name: str, setting: Setting) -> tuple[list[list[str]], list[str]]:
    """Measure one network.

    Returns:
        The rows of the table, and remarks on them.
    """
    contestants: dict[str, Callable[[], float]] = {}
    for training in TRAINING:
        contestants[f"{training.name} bare"] = partial(bare_seconds, setting, training)
        contestants[f"{training.name} lightning"] = partial(lightning_seconds, setting, training)
    check_at = setting.warm_up + setting.steps  # one check, in the last step of the block
    contestants["guarded"] = partial(lightning_seconds, setting, FAST, check_every_n_steps=check_at)
    seconds = take_turns(contestants, setting.rounds, name)

    best = {contestant: min(values) for contestant, values in seconds.items()}
    check = max(best["guarded"] - best[f"{FAST.name} lightning"], 0) * setting.steps
    floor_of_t, ours_of_t = best[f"{TRAINING[0].name} bare"], best[f"{TRAINING[0].name} lightning"]

    def row(title: str, floor: float, ours: float, passes: Fraction) -> list[str]:
        return [
            f"{name}, {title}",
            f"{1000 * floor:.1f}",
            f"{1000 * ours:.1f}",
            f"{ours / floor:.3f}",
            f"{floor / floor_of_t:.2f}",
            f"{ours / floor_of_t:.2f}",
            f"{float(passes / 3):.2f}",
            # An epoch of T has as many steps as one of AT and Fast AT, and Free AT takes as many replays for it.
            f"{ours / ours_of_t:.2f}",
        ]

    rows: list[list[str]] = []
    for training in TRAINING:
        floor, ours = best[f"{training.name} bare"], best[f"{training.name} lightning"]
        rows.append(row(training.name, floor, ours, Fraction(training.passes)))
        if training is FAST:
            passes = training.passes + Fraction(2 * 10 + 1, GUARD_EVERY)
            rows.append(row(f"{training.name} with its guard", floor, ours + check / GUARD_EVERY, passes))
    spread = max(sorted(values)[len(values) // 2] / min(values) for values in seconds.values())
    remarks = [
        f"{name}: {setting.image_size} px, batch {setting.batch_size}, best of {setting.rounds} blocks of "
        f"{setting.steps} steps; the median block took up to {spread:.2f} times the best"
    ]
    return rows, remarks


HEADER = (
    "network, training",
    "floor, ms a step",
    "Lightning, ms a step",
    "Lightning / floor",
    "floor / T's floor",
    "Lightning / T's floor",
    "in forward passes",
    "epoch / T's epoch",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=[*SETTINGS, "all"], default="all", help="default: all")
    parser.add_argument("--steps", type=int, help="steps of a measured block; by default 4 and 2")
    parser.add_argument("--rounds", type=int, help="blocks per contestant, of which the best counts; default: 10 and 5")
    add_clock_arguments(parser)
    add_record_argument(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: float32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    parser.add_argument("--check", action="store_true", help="only compare what the two forms compute")
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, arguments.device)
    for logger in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    given = {name: getattr(arguments, name) for name in ("steps", "rounds") if getattr(arguments, name) is not None}
    settings = {
        name: make(clock=clock, dtype=getattr(torch, arguments.dtype), **given)
        for name, make in SETTINGS.items()
        if arguments.network in (name, "all")
    }
    packages = ("torch", "torchvision", "pytorch-lightning")
    print(f"{describe_run(clock, packages)}; {arguments.dtype}\n")
    print("Largest difference between the two forms after two batches, without random starts:", flush=True)
    for name, setting in settings.items():
        for training in TRAINING:
            print(f"- {name}, {training.name}: {largest_difference(setting, training):.3g}", flush=True)
    if arguments.check:
        return
    rows: list[list[str]] = []
    remarks: list[str] = []
    for name, setting in settings.items():
        more_rows, more_remarks = measure(name, setting)
        rows += more_rows
        remarks += more_remarks
    print(f"\n{Record(arguments.json, clock, packages).table('training', HEADER, rows)}\n")
    print("\n".join(f"- {remark}" for remark in remarks))
    missed = [row[0] for row in rows if float(row[3]) > TARGET]
    print(f"\nAbove the target of {TARGET:.2f}: {'; '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
