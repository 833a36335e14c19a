"""What attacks without gradients reach on a trained network, and for how many queries, beside PGD and other libraries.

    python benchmarks/black_box.py --classifier runs/traditional/classifier.ckpt --dataset data/demo \
        --source Sandal --target Sneaker

All have the same network and images: the first ones of the source category in which the network sees it. Attacks with
a budget have ε = 8 grey levels. An image that succeeds stops asking, so that one run tells the success for any smaller
number of queries as well; what looks for the nearest image is run once for each number. The contract is in
``benchmarks/README.md``; the other libraries come with ``make bench-install``, and those that are not installed are
left out.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock
from torch import Tensor, nn

from catwalk.attacks import (
    NES,
    PGD,
    SPSA,
    ZOO,
    Attack,
    HopSkipJump,
    ListRankAttack,
    RandomNoise,
    RankAttack,
    ShownLists,
    Square,
)
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from catwalk.networks.prediction import predict
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.shop.catalogue import Catalogue, number_of
from catwalk.shop.images import load_images, to_float

EPSILON = 8
STEPS = (100, 300, 1000, 2500, 5000)
"""Numbers of queries for which the success is told, those up to the largest that is asked for."""

STARTS = 16
"""Images of the target, as many as an attack in a catalogue has."""

HEADER = ("attack", "goal", "sees", "seconds", "median queries of a success", "success, 8-bit", "mean L2")
CURVE = ("attack", "goal", "queries", "success", "mean L2")
LISTS = ("attack", "queries", "items that rose", "lists an item is in, mean", "lists an item is in, median")
TOP_K = 20


@dataclass(frozen=True)
class Task:
    """What every attack is given.

    Attributes:
        network: The network under attack, in eval mode.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        categories: The categories to reach, or to leave.
        targeted: Which of the two.
        queries: Largest number of queries for each image.
        starts: Images of the target, from which an attack by decisions starts.
    """

    network: nn.Module
    images: Tensor
    categories: Tensor
    targeted: bool
    queries: int
    starts: Sequence[Tensor]

    @property
    def goal(self) -> str:
        """What the table calls it."""
        return "to the target" if self.targeted else "away from the source"

    @torch.no_grad()
    def succeed(self, images: Tensor) -> Tensor:
        """Return of which images, float32 ``(N, 3, H, W)``, what is saved in 8 bits succeeds, bool ``(N,)``."""
        on_file = (images * 255).round() / 255
        hits = torch.cat([self.network(batch).argmax(1) for batch in on_file.split(64)]) == self.categories
        return hits if self.targeted else ~hits


def ours(task: Task) -> dict[str, Callable[[int], Attack]]:
    """Return our attacks by name; each is made for a number of queries."""
    targeted = task.targeted

    def hop_skip_jump(queries: int) -> Attack:
        attack = HopSkipJump(queries=queries, targeted=targeted)
        attack.starts = task.starts if task.targeted else ()
        return attack

    return {
        "PGD-10": lambda queries: PGD(EPSILON, targeted=targeted),
        "Square": lambda queries: Square(EPSILON, queries=queries, targeted=targeted),
        "NES": lambda queries: NES(EPSILON, queries=queries, targeted=targeted),
        "SPSA": lambda queries: SPSA(EPSILON, queries=queries, targeted=targeted),
        "HopSkipJump": hop_skip_jump,
        "ZOO": lambda queries: ZOO(queries, targeted=targeted),
    }


def lengths(task: Task, images: Tensor, success: Tensor) -> str:
    """Return the mean Euclidean distance of the successes from the clean images."""
    found = (images - task.images).flatten(1).norm(dim=1)[success]
    return f"{float(found.mean()):.4f}" if len(found) else "–"


def measure(name: str, make: Callable[[int], Attack], task: Task, clock: Clock) -> tuple[list[str], list[list[str]]]:
    """Run one of our attacks.

    Returns:
        Its row, and its rows of the curve.
    """
    attack = make(task.queries)
    keys = torch.arange(len(task.images))
    start = clock.now()
    result = attack(task.network, task.images, task.categories, keys=keys)
    seconds = clock.now() - start
    success, asked = task.succeed(result.images), result.iterations
    found = asked[success].double()
    median = f"{float(found.median()):.0f}" if len(found) and attack.access != "gradients" else "–"
    row = [
        name,
        task.goal,
        attack.access,
        f"{seconds:.1f}",
        median,
        f"{float(success.float().mean()):.1%}",
        lengths(task, result.images, success),
    ]
    curve = []
    for queries in (step for step in STEPS if step <= task.queries and attack.access != "gradients"):
        images, reached = result.images, success & (asked <= queries)
        if attack.threat_model.epsilon is None and queries < task.queries:
            try:
                images = make(queries)(task.network, task.images, task.categories, keys=keys).images
            except CatwalkError:  # not even one step
                continue
            reached = task.succeed(images)
        curve.append(
            [name, task.goal, f"{queries}", f"{float(reached.float().mean()):.1%}", lengths(task, images, reached)]
        )
    return row, curve


def peers(task: Task) -> dict[str, Callable[[], Tensor]]:
    """Return what other libraries have of it, by name."""
    found: dict[str, Callable[[], Tensor]] = {}
    if importlib.util.find_spec("torchattacks"):

        def torchattacks_square() -> Tensor:
            import torchattacks as ta

            attack = ta.Square(task.network, eps=EPSILON / 255, n_queries=task.queries, p_init=0.8, seed=0)
            if task.targeted:
                attack.set_mode_targeted_by_label(quiet=True)
            return attack(task.images, task.categories)

        found["torchattacks Square"] = torchattacks_square
    if importlib.util.find_spec("foolbox") and not task.targeted:

        def foolbox_hop_skip_jump() -> Tensor:
            import foolbox as fb

            attack = fb.attacks.HopSkipJumpAttack(steps=steps_for(task.queries))
            model = fb.PyTorchModel(task.network, bounds=(0, 1), device=task.images.device)
            _, images, _ = attack(model, task.images, task.categories, epsilons=None)
            return images

        found["foolbox HopSkipJump"] = foolbox_hop_skip_jump
    return found


def lists(
    network: nn.Module, images: Tensor, items: Tensor, features: Tensor, recommender: Path, most: int
) -> list[list[str]]:
    """Return rows on what the attacks on lists reach, beside noise and the attack that knows the recommender.

    Args:
        network: The network whose features the recommender takes.
        images: float32 ``(N, 3, H, W)``, the images of the attacked items.
        items: int64 ``(N,)``, their numbers.
        features: float32, of the whole catalogue.
        recommender: Checkpoint of the recommender.
        most: Largest number of queries for each image.
    """
    model = read_visual_model(recommender)
    shown = ShownLists.of(model, features, TOP_K)
    rank_attack = RankAttack(EPSILON)
    rank_attack.scorer = model

    def of_lists(queries: int) -> Attack:
        attack = ListRankAttack(EPSILON, queries=queries, top_k=TOP_K)
        attack.shown = shown
        return attack

    @torch.no_grad()
    def places(found: Tensor) -> Tensor:
        on_file = (found * 255).round() / 255
        return shown.places(torch.cat([network.features(batch) for batch in on_file.split(64)]), items)  # type: ignore

    def gain(found: Tensor) -> Tensor:
        return torch.where(found < TOP_K, 1 / (found.double() + 2).log2(), 0.0).sum(dim=1)

    clean = places(images)
    attacks: dict[str, Attack] = {"Noise": RandomNoise(EPSILON)}
    attacks |= {f"List rank attack, {queries}": of_lists(queries) for queries in STEPS if queries <= most}
    attacks["Rank attack"] = rank_attack
    in_lists = (clean < TOP_K).sum(dim=1).double()
    rows = [["No attack", "–", "–", f"{float(in_lists.mean()):.1f}", f"{float(in_lists.median()):.0f}"]]
    for name, attack in attacks.items():
        targets = torch.zeros_like(items) if isinstance(attack, RandomNoise) else items
        found = places(attack(network, images, targets, keys=torch.arange(len(items))).images)
        in_lists, rose = (found < TOP_K).sum(dim=1).double(), (gain(found) > gain(clean)).double().mean()
        queries = f"{attack.queries}" if isinstance(attack, ListRankAttack) else "–"
        rows.append(
            [
                *(name.partition(",")[0], queries, f"{float(rose):.1%}"),
                *(f"{float(in_lists.mean()):.1f}", f"{float(in_lists.median()):.0f}"),
            ]
        )
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return rows


def steps_for(queries: int) -> int:
    """Return how many steps of HopSkipJump spend about so many queries, of 100·√t and about 30 each."""
    steps, spent = 0, 50.0
    while spent < queries:
        steps += 1
        spent += 100 * steps**0.5 + 30
    return max(steps, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", type=Path, required=True, help="checkpoint of `catwalk fit`")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder")
    parser.add_argument("--source", required=True, help="category whose images are attacked")
    parser.add_argument("--target", required=True, help="category that the network shall see in them")
    parser.add_argument("--recommender", type=Path, help="checkpoint of VBPR on the network's features, for its lists")
    parser.add_argument("--attacks", nargs="+", help="some of ours; default: all")
    parser.add_argument("--goals", nargs="*", choices=["targeted", "untargeted"], default=["targeted", "untargeted"])
    parser.add_argument("--images", type=int, default=100, help="default: 100")
    parser.add_argument("--queries", type=int, default=5000, help="largest number for each image; default: 5000")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave out other libraries")
    add_clock_arguments(parser)
    add_record_argument(parser)
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, torch.device("cpu"))
    packages = ["torch", *(name for name in ("torchattacks", "foolbox") if importlib.util.find_spec(name))]
    print(f"{describe_run(clock, packages)}\n", flush=True)
    record = Record(arguments.json, clock, packages)
    classifier = load_classifier(arguments.classifier)
    catalogue = Catalogue.read(arguments.dataset)
    source, target = (
        number_of(name, classifier.category_names, option)
        for name, option in ((arguments.source, "source"), (arguments.target, "target"))
    )

    def images_of(name: str, number: int) -> Tensor:
        """Return the first images of a category in which the network sees it."""
        own = [row for row, one in enumerate(catalogue.categories) if catalogue.category_names[one] == name]
        paths = [catalogue.images[row] for row in own[: 2 * number]]
        levels = torch.tensor(load_images(catalogue.folder, paths, classifier.image_size))
        seen = predict(classifier.network, levels).categories
        return to_float(levels[seen == classifier.category_names.index(name)][:number])

    images, starts = images_of(arguments.source, arguments.images), list(images_of(arguments.target, STARTS))
    network = classifier.network.requires_grad_(False)
    if arguments.recommender is not None:
        levels = torch.tensor(load_images(catalogue.folder, catalogue.images, classifier.image_size))
        seen = predict(network, levels)
        items = (seen.categories == source).nonzero()[: arguments.images, 0]
        found = lists(network, to_float(levels[items]), items, seen.features, arguments.recommender, arguments.queries)
        print(record.table("lists", LISTS, found), "\n", flush=True)
    rows: list[Sequence[str]] = []
    curves: list[Sequence[str]] = []
    for goal in arguments.goals:
        targeted = goal == "targeted"
        categories = torch.full((len(images),), target if targeted else source)
        task = Task(network, images, categories, targeted, arguments.queries, starts)
        for name, make in ours(task).items():
            if arguments.attacks and name not in arguments.attacks:
                continue
            row, curve = measure(name, make, task, clock)
            rows.append(row)
            curves += curve
            print(*row, sep=" | ", file=sys.stderr, flush=True)  # a run takes minutes
            record.table("attacks", HEADER, rows)
            record.table("curve", CURVE, curves)
        for name, craft in peers(task).items() if arguments.peers else ():
            torch.manual_seed(0)
            start = clock.now()
            crafted = craft().detach()
            seconds, success = clock.now() - start, task.succeed(crafted)
            rows.append(
                [
                    *(name, task.goal, "–", f"{seconds:.1f}", "–", f"{float(success.float().mean()):.1%}"),
                    lengths(task, crafted, success),
                ]
            )
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(f"{len(images)} images, at most {arguments.queries} queries each\n")
    if rows:
        print(record.table("attacks", HEADER, rows), "\n")
        print(record.table("curve", CURVE, curves))


if __name__ == "__main__":
    main()
