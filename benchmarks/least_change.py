"""How small the changes are that DDN, FMN and C&W find, and what they cost, beside adversarial-library's DDN and FMN.

    python benchmarks/least_change.py --classifier T=runs/t/classifier.ckpt AT=runs/at/classifier.ckpt

All have the same networks, images and targets, and are judged by their images rounded to 8 bits. The contract is in
``benchmarks/README.md``; adversarial-library (``pip install adv-lib``) is left out where it is not installed.
"""

import argparse
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from carlini_wagner import Task, make_task, reached
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, take_turns
from torch import Tensor, nn

from catwalk.attacks import DDN, FMN, CarliniWagner
from catwalk.attacks.least_change import LeastChange

PEER = "adv_lib"
REFERENCE = "adversarial-library DDN"

HEADER = (
    "network",
    "norm",
    "attack",
    "seconds",
    "gradients per image",
    "8-bit: success",
    "of C&W's successes",
    "8-bit: mean distance",
    "distance / {reference}",
)


class CountsGradients(nn.Module):
    """A network that counts the images whose gradient was asked for."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        logits = self.network(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.images += len(gradient)


@dataclass(frozen=True)
class Contestant:
    """An attack.

    Attributes:
        name: What it is called in the table.
        norm: What it makes small, ``L2`` or ``L∞``.
        steps: Its number of gradients; None where its images end at their own.
        craft: Returns adversarial images, and how many gradients an image cost where it counts them itself.
    """

    name: str
    norm: str
    steps: int | None
    craft: Callable[[Task], tuple[Tensor, float | None]]


def ours(attack: LeastChange, task: Task) -> tuple[Tensor, float | None]:
    attack.batch_size = task.batch_size
    result = attack(task.network, task.images, task.targets)
    # What pads a batch to a multiple of 16 is no image's cost, but takes its time.
    return result.images, float(attack.passes(result.iterations)[1].double().mean())


def theirs(attack: str, task: Task, **arguments: object) -> tuple[Tensor, float | None]:
    attacks = importlib.import_module(f"{PEER}.attacks")
    craft = partial(getattr(attacks, attack), task.network, targeted=True, **arguments)
    return task.in_batches(lambda images, targets: craft(images, targets).detach()), None


def contestants(steps: list[int]) -> list[Contestant]:
    """Return C&W with the demo's settings, and the others with each number of steps."""
    carlini_wagner = CarliniWagner(searches=5, iterations=300, learning_rate=0.01)
    found = [Contestant("C&W (5 × 300)", "L2", None, partial(ours, carlini_wagner))]
    has_peer = importlib.util.find_spec(PEER) is not None
    if has_peer:
        importlib.import_module(f"{PEER}.attacks")  # which takes a second, and is no attack's
    for count in steps:
        found.append(Contestant("DDN", "L2", count, partial(ours, DDN(iterations=count))))
        found.append(Contestant("FMN", "L2", count, partial(ours, FMN("l2", iterations=count))))
        found.append(Contestant("FMN", "L∞", count, partial(ours, FMN("linf", iterations=count))))
        if has_peer:
            found.append(Contestant(REFERENCE, "L2", count, partial(theirs, "ddn", steps=count)))
            name = "adversarial-library FMN"
            found.append(Contestant(name, "L2", count, partial(theirs, "fmn", norm=2.0, steps=count)))
            found.append(Contestant(name, "L∞", count, partial(theirs, "fmn", norm=math.inf, steps=count)))
    return found


def measure(network: str, task: Task, steps: list[int], rounds: int, clock: Clock) -> list[list[str]]:
    """Return a row of the table for each attack on a network."""
    counting = CountsGradients(task.network.network).eval()
    task = Task(counting, task.images, task.targets, task.batch_size)  # type: ignore[arg-type]
    results: dict[Contestant, Tensor] = {}
    costs: dict[Contestant, float] = {}

    def timed(contestant: Contestant) -> float:
        counting.images = 0
        start = clock.now()
        images, gradients = contestant.craft(task)
        seconds = clock.now() - start
        results[contestant] = (images * 255).round() / 255
        costs[contestant] = counting.images / len(task.images) if gradients is None else gradients
        name = f"{contestant.name} {contestant.norm} {contestant.steps}"
        print(f"{network}, {name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        return seconds

    everyone = contestants(steps)
    turns = {f"{number}": partial(timed, contestant) for number, contestant in enumerate(everyone)}
    seconds = take_turns(turns, rounds, network)
    successes = {contestant: reached(task, images) for contestant, images in results.items()}
    of_first = successes[everyone[0]]
    rows = []
    for number, contestant in enumerate(everyone):
        success = successes[contestant]
        distances = length(results[contestant] - task.images, contestant.norm)
        ratio = ""
        for other in everyone:
            is_reference = other.name == REFERENCE and (other.norm, other.steps) == (contestant.norm, contestant.steps)
            both = success & successes[other]
            if is_reference and bool(both.any()):
                those = length(results[other] - task.images, other.norm)
                ratio = f"{float(distances[both].mean() / those[both].mean()):.3f}"
        rows.append(
            [
                network,
                contestant.norm,
                contestant.name,
                f"{min(seconds[f'{number}']):.1f}",
                f"{costs[contestant]:.0f}",
                f"{float(success.double().mean()):.1%}",
                f"{float(success[of_first].double().mean()):.1%}",
                f"{float(distances[success].mean()):.4f}" if bool(success.any()) else "",
                ratio,
            ]
        )
    return rows


def length(perturbations: Tensor, norm: str) -> Tensor:
    """Return Euclidean lengths of images in [0, 1], or largest changes in grey levels."""
    if norm == "L2":
        return torch.linalg.vector_norm(perturbations.flatten(1), dim=1)
    return perturbations.flatten(1).abs().amax(dim=1) * 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--classifier", nargs="+", required=True, metavar="NAME=CHECKPOINT", help="networks, of `catwalk fit`"
    )
    parser.add_argument("--dataset", type=Path, default=Path("data/demo"), help="dataset folder; default: data/demo")
    parser.add_argument("--source", default="Sandal", help="category whose images are attacked; default: Sandal")
    parser.add_argument("--target", default="Sneaker", help="category to reach; default: Sneaker")
    parser.add_argument("--images", type=int, default=100, help="default: 100")
    parser.add_argument("--batch-size", type=int, default=32, help="images attacked at once, by all; default: 32")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300], help="gradients; default: 100 300")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, of which the best counts")
    add_clock_arguments(parser)
    add_record_argument(parser)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, arguments.device)
    packages = ["torch", *(["adv-lib"] if importlib.util.find_spec(PEER) else [])]
    print(describe_run(clock, packages), flush=True)
    record = Record(arguments.json, clock, packages)
    header = [column.format(reference=REFERENCE) for column in HEADER]
    rows: list[list[str]] = []
    table = ""
    for named in arguments.classifier:
        network, _, path = named.partition("=")
        task = make_task(argparse.Namespace(**{**vars(arguments), "classifier": Path(path)}))
        print(f"{network}: {len(task.images)} images in batches of {task.batch_size}", file=sys.stderr, flush=True)
        rows += measure(network, task, arguments.steps, arguments.rounds, clock)
        table = record.table("attacks", header, rows)
    print(table)


if __name__ == "__main__":
    main()
