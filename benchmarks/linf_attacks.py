"""What PGD, FGSM and MI-FGSM cost and reach, beside those of other libraries and a loop written by hand.

    python benchmarks/linf_attacks.py
    python benchmarks/linf_attacks.py --classifier runs/traditional/classifier.ckpt --dataset data/demo
    python benchmarks/linf_attacks.py --device cuda --variants --image-size 224 --images 256 --batch-size 64 --rounds 2

All have the same network, images, targets and budget. Untrained networks are attacked on noise: they tell what an
attack costs, and a checkpoint what it reaches as well. The contract is in ``benchmarks/README.md``; the other libraries
come with ``make bench-install``, and those that are not installed are left out.
"""

import argparse
import contextlib
import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, take_turns
from torch import Tensor, nn

from catwalk.attacks import FGSM, MIFGSM, PGD, Attack
from catwalk.attacks.attack import cross_entropy_gradient
from catwalk.networks import frozen as frozen_networks
from catwalk.networks.batching import ROW_MULTIPLE
from catwalk.networks.building import build_network
from catwalk.networks.classifier import load_classifier
from catwalk.networks.network import Network
from catwalk.networks.prediction import predict
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images, to_float

EPSILON = 8
"""The budget in grey levels, and :data:`RADIUS` in images in [0, 1]."""
RADIUS = EPSILON / 255
ROUNDING = 0.01
"""Grey levels by which ours may seem to leave the budget: float32 misplaces an image by a thousandth of that."""
ITERATIONS = 10
CATEGORIES = 10
SEED = 0

HEADER = (
    "attack",
    "seconds",
    "seconds / bare loop",
    "seconds / ours",
    "success",
    "largest change, grey levels",
    "mean L2",
)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
FACTORS = (1, 2, 4)
"""How many times as large batches the variants have."""
OURS, BARE = "ours", "bare loop, channels_last"

Craft = Callable[[Tensor, Tensor], Tensor]
"""Makes adversarial images of any number of clean images and the categories to reach."""


@dataclass(frozen=True)
class Method:
    """An attack in L-infinity, as every library is to run it.

    Attributes:
        ours: Makes our attack; takes ``batch_size`` and ``precision``.
        step: Length of a step along a sign, in images in [0, 1].
        iterations: Number of steps.
        random_start: Whether it starts from a random point of the ball.
        momentum: Decay of the gradients' sum; 0 means that there is no such sum.
    """

    ours: Callable[..., Attack]
    step: float
    iterations: int = ITERATIONS
    random_start: bool = False
    momentum: float = 0.0


METHODS = {
    "PGD": Method(partial(PGD, epsilon=EPSILON, iterations=ITERATIONS), RADIUS / 6, random_start=True),
    "FGSM": Method(partial(FGSM, epsilon=EPSILON), RADIUS, iterations=1),
    "MI-FGSM": Method(partial(MIFGSM, epsilon=EPSILON, iterations=ITERATIONS), RADIUS / ITERATIONS, momentum=1.0),
}


class Untrained(NamedTuple):
    """A network whose weights are random.

    Attributes:
        backbone: Import path of what builds it.
        image_size: Height and width of the images.
        batch_size: Images that are attacked at once, unless another number is given.
    """

    backbone: str
    image_size: int
    batch_size: int


NETWORKS = {
    "resnet18": Untrained("torchvision.models.resnet18", 64, 32),
    "resnet50": Untrained("torchvision.models.resnet50", 160, 8),
}


@dataclass(frozen=True)
class Task:
    """What every contestant is given.

    Attributes:
        name: Of the network.
        network: The network under attack, in eval mode.
        images: float32 ``(N, 3, H, W)``, 8-bit levels divided by 255, on the network's device.
        targets: int64 ``(N,)``, random categories other than those that the network sees.
        batch_size: Images that are attacked at once.
    """

    name: str
    network: Network
    images: Tensor
    targets: Tensor
    batch_size: int

    def in_batches(self, craft: Craft) -> Craft:
        """Return what calls a function with one batch after the other."""

        def craft_all(images: Tensor, targets: Tensor) -> Tensor:
            batches = zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True)
            return torch.cat([craft(*batch) for batch in batches])

        return craft_all


def ours(method: Method, task: Task, **arguments: Any) -> Craft:
    attack = method.ours(batch_size=task.batch_size, **arguments)

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        return attack(task.network, images, targets, keys=torch.arange(len(images), device=images.device)).images

    return craft


@contextlib.contextmanager
def on_gpu(layout: torch.memory_format, is_searched: bool) -> Iterator[None]:
    """Lay out our exact float32 on GPUs in some way, and let cuDNN try out its kernels or guess the quickest."""
    layouts, before = frozen_networks.GPU_LAYOUTS, frozen_networks.GPU_LAYOUTS["32"]
    layouts["32"] = layout
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=is_searched, allow_tf32=torch.backends.cudnn.allow_tf32
        ):
            yield
    finally:
        layouts["32"] = before


def variants(method: Method, task: Task) -> dict[str, Craft]:
    """Return exact forms of ours that may cost less on a GPU: layouts, kernels, larger batches, captured gradients."""
    crafts: dict[str, Craft] = {}
    for layout, memory_format in LAYOUTS.items():
        for is_searched in (False, True):
            form = partial(on_gpu, memory_format, is_searched)
            name = f"{OURS}, {layout}{', kernels tried out' if is_searched else ''}"
            for factor in FACTORS:
                larger = replace(task, batch_size=factor * task.batch_size)
                if factor == 1 or larger.batch_size <= len(task.images):
                    several = "" if factor == 1 else f", batches of {larger.batch_size}"
                    crafts[name + several] = within(form, ours(method, larger))
            crafts[f"{name}, captured"] = within(form, captured(method, task))
    return crafts


def within(form: Callable[[], contextlib.AbstractContextManager[None]], craft: Craft) -> Craft:
    def craft_within(images: Tensor, targets: Tensor) -> Tensor:
        with form():
            return craft(images, targets)

    return craft_within


def captured(method: Method, task: Task) -> Craft:
    """Return the bare loop on the network in our quickest form, its gradient captured as one CUDA graph.

    To capture it is part of what is measured, as it would be of an attack.
    """

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        with frozen_networks.frozen(task.network, images) as network:
            still, aims = images[: task.batch_size].clone(), targets[: task.batch_size].clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # so that kernels are chosen and memory is there
                for _ in range(2):
                    cross_entropy_gradient(network, still, aims)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                gradient = cross_entropy_gradient(network, still, aims)

            def replayed(points: Tensor, goals: Tensor) -> Tensor:
                if len(points) != len(still):
                    return cross_entropy_gradient(network, points, goals)
                still.copy_(points)
                aims.copy_(goals)
                graph.replay()
                return gradient.clone()

            return task.in_batches(loop(method, replayed))(images, targets)

    return craft


def bare_loop(method: Method, task: Task, network: nn.Module) -> Craft:
    def gradient_of(points: Tensor, targets: Tensor) -> Tensor:
        points = points.detach().requires_grad_()
        loss = F.cross_entropy(network(points), targets, reduction="sum")
        return torch.autograd.grad(loss, points)[0]

    return task.in_batches(loop(method, gradient_of))


def loop(method: Method, gradient_of: Callable[[Tensor, Tensor], Tensor]) -> Craft:
    def craft(images: Tensor, targets: Tensor) -> Tensor:
        adversarial, accumulated = images, torch.zeros_like(images)
        if method.random_start:
            adversarial = (images + torch.empty_like(images).uniform_(-RADIUS, RADIUS)).clamp(0, 1)
        for _ in range(method.iterations):
            gradient = gradient_of(adversarial, targets)
            if method.momentum:
                gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
                gradient = accumulated = method.momentum * accumulated + gradient
            change = adversarial - method.step * gradient.sign() - images
            adversarial = (images + change.clamp(-RADIUS, RADIUS)).clamp(0, 1)
        return adversarial

    return craft


def torchattacks(method: Method, task: Task, network: nn.Module) -> Craft:
    import torchattacks as ta

    if method.momentum:
        attack = ta.MIFGSM(network, RADIUS, method.step, method.iterations, method.momentum)
    elif method.iterations == 1:
        attack = ta.FGSM(network, RADIUS)
    else:
        attack = ta.PGD(network, RADIUS, method.step, method.iterations, method.random_start)
    attack.set_mode_targeted_by_label(quiet=True)
    return task.in_batches(attack)


def foolbox(method: Method, task: Task, network: nn.Module) -> Craft | None:
    if method.momentum:  # its MI-FGSM sums the gradients' signs, which is another attack
        return None
    import foolbox as fb

    attack = fb.attacks.LinfPGD(abs_stepsize=method.step, steps=method.iterations, random_start=method.random_start)
    model = fb.PyTorchModel(network, bounds=(0, 1), device=task.images.device)

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        _, adversarial, _ = attack(model, images, fb.criteria.TargetedMisclassification(targets), epsilons=RADIUS)
        return adversarial.detach()

    return task.in_batches(craft)


def art(method: Method, task: Task, network: nn.Module) -> Craft:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        input_shape=tuple(task.images.shape[1:]),
        nb_classes=task.network.head.out_features,
        clip_values=(0, 1),
        device_type="gpu" if task.images.is_cuda else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        eps=RADIUS,
        eps_step=method.step,
        decay=method.momentum or None,
        max_iter=method.iterations,
        targeted=True,
        num_random_init=int(method.random_start),
        batch_size=task.batch_size,
        verbose=False,
    )

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        adversarial = attack.generate(images.cpu().numpy(), targets.cpu().numpy())
        return torch.from_numpy(adversarial).to(images.device)

    return craft


def cleverhans(method: Method, task: Task, network: nn.Module) -> Craft | None:
    if method.momentum:  # which it has for TensorFlow alone
        return None
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    def craft(images: Tensor, targets: Tensor) -> Tensor:
        return projected_gradient_descent(
            network,
            images,
            eps=RADIUS,
            eps_iter=method.step,
            nb_iter=method.iterations,
            norm=np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=targets,
            targeted=True,
            rand_init=method.random_start,
            sanity_checks=False,  # they give tensors to NumPy, which on a GPU fails
        ).detach()

    return task.in_batches(craft)


class Rival(NamedTuple):
    """Another library.

    Attributes:
        package: Its name where it is installed from.
        module: Its name where it is imported from.
        make: Returns its form of a method, on a network in some layout; None where it has none.
    """

    package: str
    module: str
    make: Callable[[Method, Task, nn.Module], Craft | None]


RIVALS = {
    "torchattacks": Rival("torchattacks", "torchattacks", torchattacks),
    "foolbox": Rival("foolbox", "foolbox", foolbox),
    "ART": Rival("adversarial-robustness-toolbox", "art", art),
    "cleverhans": Rival("cleverhans", "cleverhans", cleverhans),
}


def installed_rivals() -> dict[str, Rival]:
    """Return the libraries that can be imported here."""
    return {name: rival for name, rival in RIVALS.items() if importlib.util.find_spec(rival.module)}


def contestants(method: Method, task: Task, bf16: bool, compiled: bool, varied: bool) -> dict[str, Craft]:
    """Return everyone who can run a method, by name; all but ours once for each memory layout of the network."""
    forms: dict[str, dict[str, Any]] = {OURS: {}}
    if task.images.device.type == "cuda":
        forms[f"{OURS}, tf32"] = {"precision": "tf32"}  # as the others have it
    if bf16:
        forms[f"{OURS}, bf16"] = {"precision": "bf16"}
    if compiled:
        forms |= {f"{name}, compiled": {**settings, "compiled": True} for name, settings in forms.items()}
    crafts = {name: ours(method, task, **settings) for name, settings in forms.items()}
    if varied:
        crafts |= variants(method, task)
    networks = {name: copy.deepcopy(task.network).to(memory_format=layout) for name, layout in LAYOUTS.items()}
    makers = {"bare loop": bare_loop} | {name: rival.make for name, rival in installed_rivals().items()}
    for name, make in makers.items():
        for layout, network in networks.items():
            craft = make(method, task, network)
            if craft is not None:
                crafts[f"{name}, {layout}"] = craft
    return crafts


def measure(
    name: str, task: Task, rounds: int, bf16: bool, compiled: bool, varied: bool, clock: Clock
) -> tuple[list[list[str]], str]:
    """Let everyone attack a task.

    Returns:
        The rows of the table, and a remark on them.

    Raises:
        RuntimeError: If ours exceeds its budget.
    """
    crafts = contestants(METHODS[name], task, bf16, compiled, varied)
    results: dict[str, Tensor] = {}

    def timed(contestant: str) -> float:
        if contestant not in results:  # warm up
            crafts[contestant](task.images[: task.batch_size], task.targets[: task.batch_size])
        seed_random_starts()
        start = clock.now()
        results[contestant] = crafts[contestant](task.images, task.targets)
        seconds = clock.now() - start
        # A run takes minutes: what is done is said at once.
        print(f"{task.name}, {name}, {contestant}: {seconds:.2f} s", file=sys.stderr, flush=True)
        return seconds

    seconds = take_turns({contestant: partial(timed, contestant) for contestant in crafts}, rounds, task.name)
    best = {contestant: min(values) for contestant, values in seconds.items()}
    rows = []
    for contestant, images in results.items():
        largest = float((images - task.images).abs().max()) * 255
        if contestant.startswith(OURS) and not largest <= EPSILON + ROUNDING:
            raise RuntimeError(f"{name} of {contestant} changes a value by {largest:.6g} grey levels, not {EPSILON}")
        rows.append(
            [
                f"{task.name}, {name}, {contestant}",
                f"{best[contestant]:.3f}",
                f"{best[contestant] / best[BARE]:.3f}",
                f"{best[contestant] / best[OURS]:.3f}",
                f"{success(task, images):.1%}",
                f"{largest:.3f}",
                f"{mean_distance(images, task.images):.4f}",
            ]
        )
    return rows, remark(f"{task.name}, {name}", task, seconds)


def seed_random_starts() -> None:
    """Seed the generators from which everyone but us draws."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 (ART's)


def remark(name: str, task: Task, seconds: Mapping[str, list[float]]) -> str:
    """Return what there was to attack, and how disturbed the machine was."""
    spread = max(sorted(values)[len(values) // 2] / min(values) for values in seconds.values())
    padded = -(-task.batch_size // ROW_MULTIPLE) * ROW_MULTIPLE
    return (
        f"{name}: {len(task.images)} images of {task.images.shape[-1]} px in batches of {task.batch_size}"
        f"{f', which ours rounds up to {padded}' if padded != task.batch_size else ''}; best of "
        f"{len(seconds[OURS])} rounds, of which the median took up to {spread:.2f} times the best"
    )


@torch.no_grad()
def success(task: Task, images: Tensor) -> float:
    """Return the share of the images that the network, computing in exact float32, takes for their targets."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = torch.cat([task.network(batch) for batch in images.split(task.batch_size)])
    return float((logits.argmax(dim=1) == task.targets).float().mean())


def mean_distance(images: Tensor, clean: Tensor) -> float:
    """Return the mean Euclidean distance of images in [0, 1]."""
    return float(torch.linalg.vector_norm((images - clean).flatten(1), dim=1).mean())


def make_task(name: str, network: Network, levels: Tensor, arguments: argparse.Namespace, batch_size: int) -> Task:
    """Draw a target for every image, other than the category that the network sees.

    Args:
        name: Of the network.
        network: In eval mode.
        levels: uint8 ``(N, 3, H, W)``.
        arguments: The command's options.
        batch_size: Images that are attacked at once, unless the options say another.
    """
    network = network.to(arguments.device).requires_grad_(arguments.weight_gradients)
    num_categories = network.head.out_features
    shifts = torch.randint(1, num_categories, (len(levels),), generator=torch.Generator().manual_seed(SEED))
    targets = (predict(network, levels).categories + shifts) % num_categories
    images = to_float(levels.to(arguments.device))
    return Task(name, network, images, targets.to(arguments.device), arguments.batch_size or batch_size)


def untrained_task(name: str, arguments: argparse.Namespace) -> Task:
    """Build a network whose BatchNorm has seen a few batches, and images of noise."""
    untrained = NETWORKS[name]
    torch.manual_seed(SEED)
    network = build_network(untrained.backbone, {}, CATEGORIES)
    size = arguments.image_size or untrained.image_size
    shape = (arguments.images, 3, size, size)
    levels = (torch.rand(shape) * 255).round().to(torch.uint8)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(untrained.batch_size, *shape[1:]))
    return make_task(name, network.eval(), levels, arguments, untrained.batch_size)


def trained_task(arguments: argparse.Namespace) -> Task:
    """Load a network and the first images of a dataset."""
    classifier = load_classifier(arguments.classifier)
    catalogue = Catalogue.read(arguments.dataset)
    levels = load_images(catalogue.folder, catalogue.images, classifier.image_size)[: arguments.images]
    return make_task("trained", classifier.network, torch.tensor(levels), arguments, batch_size=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=[*NETWORKS, "all"], default="all", help="untrained network; default: all")
    parser.add_argument("--classifier", type=Path, help="checkpoint of `catwalk fit`, instead of untrained networks")
    parser.add_argument("--dataset", type=Path, help="dataset folder, for --classifier")
    parser.add_argument("--attacks", nargs="+", choices=list(METHODS), default=["PGD"], help="default: PGD")
    parser.add_argument("--images", type=int, default=32, help="default: 32")
    parser.add_argument(
        "--batch-size", type=int, help="images attacked at once, by all; default: 32, and 8 for resnet50"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the best counts; default: 3")
    parser.add_argument("--image-size", type=int, help="height and width of noise; default: 64, and 160 for resnet50")
    parser.add_argument("--compiled", action="store_true", help="add ours with the network compiled")
    parser.add_argument(
        "--variants", action="store_true", help="add exact forms of ours that may cost less; needs --device cuda"
    )
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="leave out ours in bfloat16")
    parser.add_argument(
        "--weight-gradients",
        action="store_true",
        help="let the weights require gradients, as they do after training: foolbox, ART and cleverhans then compute "
        "them as well",
    )
    add_clock_arguments(parser)
    add_record_argument(parser)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    arguments = parser.parse_args()
    if (arguments.classifier is None) != (arguments.dataset is None):
        parser.error("--classifier and --dataset: give both or neither")
    if arguments.variants and arguments.device.type != "cuda":
        parser.error("--variants: needs --device cuda")
    clock = make_clock(parser, arguments, arguments.device)
    packages = ["torch", "torchvision", *(rival.package for rival in installed_rivals().values())]
    precision = f"; TF32 in convolutions: {torch.backends.cudnn.allow_tf32}" if arguments.device.type == "cuda" else ""
    print(f"{describe_run(clock, packages)}{precision}\n", flush=True)
    tasks = [partial(untrained_task, name, arguments) for name in NETWORKS if arguments.network in (name, "all")]
    rows: list[list[str]] = []
    remarks: list[str] = []
    for make in [partial(trained_task, arguments)] if arguments.classifier else tasks:
        task = make()
        forms = arguments.bf16, arguments.compiled, arguments.variants
        for name in arguments.attacks:
            more_rows, more_remarks = measure(name, task, arguments.rounds, *forms, clock)
            rows += more_rows
            remarks.append(more_remarks)
    print(f"{Record(arguments.json, clock, packages).table('attacks', HEADER, rows)}\n")
    print("\n".join(f"- {remark}" for remark in remarks))


if __name__ == "__main__":
    main()
