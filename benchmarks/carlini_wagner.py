"""What the attack of Carlini and Wagner in L2 costs and reaches, beside those of other libraries on the same task.

    python benchmarks/carlini_wagner.py --classifier runs/traditional/classifier.ckpt --dataset data/demo

All have the same network, images and targets. The contract is in ``benchmarks/README.md``; the other libraries come
with ``make bench-install``, and those that are not installed are left out.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, take_turns
from torch import Tensor, nn

from catwalk.attacks import CarliniWagner
from catwalk.attacks.attack import cross_entropy_gradient
from catwalk.networks.classifier import load_classifier
from catwalk.networks.prediction import predict
from catwalk.shop.catalogue import Catalogue, number_of
from catwalk.shop.images import load_images, to_float

HEADER = (
    "attack",
    "seconds",
    "gradients per image",
    "success",
    "mean L2",
    "L2 / ours",
    "8-bit: success",
    "8-bit: mean L2",
)


class CountsImages(nn.Module):
    """A network that counts the images that went through it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        self.images += len(images)
        return self.network(images)


@dataclass(frozen=True)
class Task:
    """What every library is given.

    Attributes:
        network: The network under attack, in eval mode.
        images: float32 ``(N, 3, H, W)`` in [0, 1], on the network's device.
        targets: int64 ``(N,)``, the categories to reach.
        batch_size: Images that are attacked at once, by every library.
    """

    network: CountsImages
    images: Tensor
    targets: Tensor
    batch_size: int

    def in_batches(self, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return what a function of images and targets gives for one batch after the other."""
        batches = zip(self.images.split(self.batch_size), self.targets.split(self.batch_size), strict=True)
        return torch.cat([attack(images, targets) for images, targets in batches])


@dataclass(frozen=True)
class Search:
    """The settings of the attack of Carlini and Wagner.

    Attributes:
        searches: Values of c for each image.
        iterations: Gradient steps for each.
        learning_rate: Adam's.
        initial_c: The first c.
    """

    searches: int
    iterations: int
    learning_rate: float
    initial_c: float


def ours(task: Task, search: Search, rounded: bool = False) -> Tensor:
    attack = CarliniWagner(
        rounded=rounded,
        initial_c=search.initial_c,
        searches=search.searches,
        iterations=search.iterations,
        learning_rate=search.learning_rate,
        batch_size=task.batch_size,
    )
    return attack(task.network, task.images, task.targets).images


def foolbox(task: Task, search: Search) -> Tensor:
    import foolbox as fb

    attack = fb.attacks.L2CarliniWagnerAttack(
        binary_search_steps=search.searches,
        steps=search.iterations,
        stepsize=search.learning_rate,
        initial_const=search.initial_c,
    )
    model = fb.PyTorchModel(task.network, bounds=(0, 1), device=task.images.device)

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        _, adversarial, _ = attack(model, images, fb.criteria.TargetedMisclassification(targets), epsilons=None)
        # What foolbox returns for a failure is black, which some networks take for the target.
        is_failure = (adversarial == 0).flatten(1).all(dim=1)
        return torch.where(is_failure[:, None, None, None], images, adversarial).detach()

    return task.in_batches(craft)


def torchattacks(task: Task, search: Search, c: float) -> Tensor:
    import torchattacks as ta

    attack = ta.CW(task.network, c=c, steps=search.iterations, lr=search.learning_rate)
    attack.set_mode_targeted_by_label(quiet=True)
    return task.in_batches(lambda images, targets: attack(images, targets).detach())


def bare_seconds(task: Task, clock: Clock, batches: int = 10) -> float:
    """Return the seconds that one image's gradient costs in a batch, by the bare network."""
    images, targets = (tensor[: task.batch_size] for tensor in (task.images, task.targets))
    cross_entropy_gradient(task.network.network, images, targets)
    start = clock.now()
    for _ in range(batches):
        cross_entropy_gradient(task.network.network, images, targets)
    return (clock.now() - start) / batches / len(images)


def measure(task: Task, search: Search, rounds: int, constants: list[float], clock: Clock) -> list[list[str]]:
    """Return one row of the table for each library."""
    crafts: dict[str, Callable[[], Tensor]] = {
        "ours": partial(ours, task, search),
        "ours, rounded in the search": partial(ours, task, search, rounded=True),
    }
    if importlib.util.find_spec("foolbox"):
        crafts["foolbox L2CarliniWagnerAttack"] = partial(foolbox, task, search)
    if importlib.util.find_spec("torchattacks"):
        crafts |= {f"torchattacks CW, c = {c:g}": partial(torchattacks, task, search, c) for c in constants}
    results: dict[str, Tensor] = {}
    passes: dict[str, int] = {}

    def timed(name: str) -> float:
        task.network.images = 0
        start = clock.now()
        results[name] = crafts[name]()
        seconds = clock.now() - start
        passes[name] = task.network.images
        # A run takes minutes: what is done is said at once.
        print(f"{name}: {seconds:.1f} s, {passes[name]} images through the network", file=sys.stderr, flush=True)
        return seconds

    contestants: dict[str, Callable[[], float]] = {name: partial(timed, name) for name in crafts}
    seconds = take_turns(contestants | {"bare": partial(bare_seconds, task, clock)}, rounds, "attacks")
    bare = min(seconds.pop("bare"))
    successes = {name: reached(task, images) for name, images in results.items()}
    own = distance(results["ours"], task.images)
    rows = []
    for name, images in results.items():
        distances = distance(images, task.images)
        rounded = (images * 255).round() / 255
        rounded_success, count = reached(task, rounded), len(task.images)
        rows.append(
            [
                name,
                f"{min(seconds[name]):.1f}",
                f"{passes[name] / count:.0f}",
                f"{float(successes[name].float().mean()):.1%}",
                mean(distances, successes[name]),
                ratio(distances, own, successes[name] & successes["ours"]),
                f"{float(rounded_success.float().mean()):.1%}",
                mean(distance(rounded, task.images), rounded_success),
            ]
        )
    floor = bare * passes["ours"]
    rows.insert(1, ["the gradients of ours, by the bare network", f"{floor:.1f}", rows[0][2], *[""] * 5])
    return rows


@torch.no_grad()
def reached(task: Task, images: Tensor) -> Tensor:
    """Return whether the network takes each image for its target."""
    return task.network(images).argmax(dim=1) == task.targets


def distance(images: Tensor, clean: Tensor) -> Tensor:
    """Return the Euclidean distances of images in [0, 1]."""
    return torch.linalg.vector_norm((images - clean).flatten(1), dim=1)


def mean(values: Tensor, chosen: Tensor) -> str:
    """Return the mean of the chosen values as text."""
    return f"{float(values[chosen].mean()):.4f}" if bool(chosen.any()) else ""


def ratio(values: Tensor, others: Tensor, chosen: Tensor) -> str:
    """Return the ratio of the means of the chosen values as text."""
    return f"{float(values[chosen].mean() / others[chosen].mean()):.3f}" if bool(chosen.any()) else ""


def make_task(arguments: argparse.Namespace) -> Task:
    """Load the network and take the first images in which it sees the source category."""
    classifier = load_classifier(arguments.classifier)
    catalogue = Catalogue.read(arguments.dataset)
    levels = torch.tensor(load_images(catalogue.folder, catalogue.images, classifier.image_size))
    network = classifier.network.eval().to(arguments.device)
    source, target = (
        number_of(getattr(arguments, name), classifier.category_names, name) for name in ("source", "target")
    )
    levels = levels[predict(network, levels).categories == source][: arguments.images]
    images = to_float(levels.to(arguments.device))
    targets = torch.full((len(images),), target, device=arguments.device)
    return Task(CountsImages(network).eval(), images, targets, arguments.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", type=Path, required=True, help="checkpoint of `catwalk fit`")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder")
    parser.add_argument("--source", default="Sandal", help="category whose images are attacked; default: Sandal")
    parser.add_argument("--target", default="Sneaker", help="category to reach; default: Sneaker")
    parser.add_argument("--images", type=int, default=100, help="default: 100")
    parser.add_argument("--batch-size", type=int, default=32, help="images attacked at once, by all; default: 32")
    parser.add_argument("--searches", type=int, default=5, help="values of c for each image; default: 5")
    parser.add_argument("--iterations", type=int, default=1000, help="gradient steps for each c; default: 1000")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="default: 5e-3")
    parser.add_argument("--initial-c", type=float, default=1e-2, help="the first c; default: 1e-2")
    parser.add_argument(
        "--constants", type=float, nargs="*", default=[1.0, 100.0], help="c of torchattacks, which has no search for it"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each library, of which the best counts")
    add_clock_arguments(parser)
    add_record_argument(parser)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, arguments.device)
    task = make_task(arguments)
    search = Search(arguments.searches, arguments.iterations, arguments.learning_rate, arguments.initial_c)
    packages = [name for name in ("torch", "foolbox", "torchattacks") if importlib.util.find_spec(name)]
    print(f"{describe_run(clock, packages)}")
    print(
        f"{len(task.images)} images of {task.images.shape[-1]} px in batches of {task.batch_size}, {search}\n",
        flush=True,
    )
    rows = measure(task, search, arguments.rounds, arguments.constants, clock)
    print(Record(arguments.json, clock, packages).table("attacks", HEADER, rows))


if __name__ == "__main__":
    main()
