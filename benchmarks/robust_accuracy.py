"""The accuracy that is left of trained CNNs under AutoAttack: ours, torchattacks' and, for comparison, PGD-10's.

Contract: on every network AutoAttack leaves at most what PGD-10 leaves, and what torchattacks' AutoAttack leaves within
half a point.

    python benchmarks/robust_accuracy.py --dataset data/demo --classifiers T.ckpt AT.ckpt FAT.ckpt --done done.jsonl

attacks the first test images of the dataset, away from their labels, ε = 8 grey levels in L-infinity, 64 images at a
time: first the first 64 by every attack on every network, then the next. What is done is appended to the file
``--done``, so that a run that was stopped goes on, and the table counts the images that everyone has attacked. Seconds
are processor time of one thread. torchattacks is left out where it is not installed; within its AutoAttack APGD,
APGD-T and FAB take 10 steps, where ours and the original take 100, so that it is quicker and may leave more.
"""

import argparse
import importlib.util
import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from record import Record, add_record_argument
from torch import Tensor, nn

from catwalk.attacks import PGD, AutoAttack
from catwalk.attacks.auto_attack import ROBUST
from catwalk.files.append_only import append_lines, read_lines
from catwalk.keyed_random import content_keys
from catwalk.networks.classifier import load_classifier
from catwalk.networks.network import network_fingerprint
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images, to_float
from catwalk.shop.labelled_images import LabelledImages

EPSILON, CHUNK = 8, 64
BASELINE, THEIRS, OURS = "PGD-10", "torchattacks' AutoAttack", "AutoAttack"
COMPONENTS = [component.title for component in AutoAttack().components]
HEADER = ["network, attack", "images", "clean", "robust", *(f"by {title}" for title in COMPONENTS), "s an image"]


class Task(NamedTuple):
    """An attack on some images, by a network.

    Attributes:
        start: Place of the first of them among the test images.
        classifier: Checkpoint.
        attack: One of :data:`BASELINE`, :data:`THEIRS` and :data:`OURS`.
    """

    start: int
    classifier: str
    attack: str


def run(task: Task, dataset: Path) -> dict[str, Any]:
    """Attack, and return what came of it as plain values."""
    torch.set_num_threads(1)
    classifier = load_classifier(task.classifier)
    network = classifier.network.requires_grad_(False)
    catalogue = Catalogue.read(dataset)
    labelled = LabelledImages.read(catalogue)
    rows = labelled.rows("test")[task.start : task.start + CHUNK]
    levels = load_images(catalogue.folder, labelled.images, classifier.image_size)[rows]
    images, categories = to_float(torch.tensor(levels)), torch.tensor(labelled.categories[rows])
    with torch.no_grad():
        clean = network(images).argmax(dim=1) == categories
    start = time.process_time()
    misled_by = attack(task.attack, network, images, categories).tolist()
    seconds = time.process_time() - start
    return {
        **task._asdict(),
        "network": network_fingerprint(network),
        "clean": clean.tolist(),
        "misled_by": misled_by,
        "seconds": seconds,
    }


def attack(name: str, network: nn.Module, images: Tensor, categories: Tensor) -> Tensor:
    """Return by which component the network was misled, as in EnsembleResult; 1 where there are none."""
    if name == THEIRS:
        from torchattacks import AutoAttack as Theirs

        adversarial = Theirs(network, eps=EPSILON / 255, n_classes=network(images[:1]).shape[1], seed=0)(
            images, categories
        )
        if float((adversarial.detach() - images).abs().max()) * 255 > EPSILON + 1e-3:
            raise RuntimeError("torchattacks has left the ball")
        with torch.no_grad():
            return torch.where(network(adversarial).argmax(dim=1) == categories, ROBUST, 1)
    keys = content_keys(images)
    if name == OURS:
        return AutoAttack(EPSILON)(network, images, categories, keys=keys).misled_by
    success = PGD(EPSILON, iterations=10, targeted=False)(network, images, categories, keys=keys).success
    return torch.where(success, 1, ROBUST)


def table_row(classifier: str, name: str, parts: list[Mapping[str, Any]]) -> list[str]:
    """Return a row of the table, of what was found of the same images as in the other rows."""
    clean = [image for part in parts for image in part["clean"]]
    misled_by = [image for part in parts for image in part["misled_by"]]
    counts = [str(misled_by.count(place)) if name == OURS else "" for place in range(1, len(COMPONENTS) + 1)]
    return [
        f"{Path(classifier).stem}, {name}",
        str(len(clean)),
        f"{sum(clean) / len(clean):.4f}",
        f"{misled_by.count(ROBUST) / len(clean):.4f}",
        *counts,
        f"{sum(part['seconds'] for part in parts) / len(clean):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifiers", nargs="+", required=True, help="checkpoints of `catwalk fit`")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder")
    parser.add_argument("--images", type=int, default=512, help=f"test images, a multiple of {CHUNK}; default: 512")
    parser.add_argument("--processes", type=int, default=1, help="default: 1")
    parser.add_argument("--done", type=Path, required=True, help="file to which what is done is appended")
    add_record_argument(parser)
    arguments = parser.parse_args()
    installed = importlib.util.find_spec("torchattacks") is not None
    record = Record(arguments.json, None, ["torch", *(["torchattacks"] if installed else [])])
    attacks = [BASELINE, *([THEIRS] if installed else []), OURS]
    tasks = [
        Task(start, path, name)
        for start in range(0, arguments.images, CHUNK)
        for path in arguments.classifiers
        for name in attacks
    ]
    found: dict[tuple[int, str, str], Mapping[str, Any]]
    found = {Task(row["start"], row["classifier"], row["attack"]): row for row in read_lines(arguments.done)}

    def table() -> str:
        rows = []
        for path in arguments.classifiers:
            starts = [
                start
                for start in range(0, arguments.images, CHUNK)
                if all(Task(start, path, name) in found for name in attacks)
            ]
            if starts:
                rows += [
                    table_row(path, name, [found[Task(start, path, name)] for start in starts]) for name in attacks
                ]
        return record.table("accuracy", HEADER, rows)

    table()
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run, task, arguments.dataset) for task in tasks if task not in found]
        for future in as_completed(futures):
            row = future.result()
            append_lines(arguments.done, [row])
            found[Task(row["start"], row["classifier"], row["attack"])] = row
            table()
    print(table())


if __name__ == "__main__":
    main()
