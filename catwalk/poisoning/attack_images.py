"""Attacking the images of a dataset folder, with purchases or without: no recommender is needed."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from catwalk.attacks import Attack
from catwalk.errors import CatwalkError
from catwalk.files.watched import watch, watch_folder, watch_named
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.networks.defended import DRAWS, defended
from catwalk.networks.device import device_of
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE, FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning.attack_files import AttackSummary, read_summary
from catwalk.poisoning.attack_inputs import attack_inputs, files_of
from catwalk.poisoning.finished_attack import (
    ATTACK,
    aside,
    check_folder,
    copy_attack,
    is_finished,
    is_taken,
    origin_of,
    put_in_place,
)
from catwalk.poisoning.poison import poison
from catwalk.poisoning.protocol import NO_UNDEFENDED, AttackProtocol
from catwalk.processing.operation import Operation
from catwalk.results.store import STORE, StageCache
from catwalk.shop.catalogue import Catalogue, item_names
from catwalk.shop.images import ReportProgress, store_images
from catwalk.shop.splits import read_split
from catwalk.terminal.progress import Progress

CLEAN = "clean"
"""Folder, in the attack's own, of what the network sees in the images before."""


def attack_images(
    dataset: Path,
    classifier: Path,
    attack: Attack,
    source: str,
    output: Path,
    target: str | None = None,
    protocol: AttackProtocol = AttackProtocol(),  # noqa: B008 - frozen
    device: str | None = None,
    backbone: str | None = None,
    backbone_args: dict[str, Any] | None = None,
    results: Path | None = None,
    verify: bool = False,
    undefended: Path | None = None,
    operations: list[Operation] | None = None,
    adaptive: bool = True,
    draws: int = DRAWS,
) -> AttackSummary:
    """Attack the images of a category and print how many of them the network takes for another.

    The images are attacked as :class:`callbacks.InjectPoisonedImages` attacks them, saved as 8-bit PNG files and judged
    by what is read back. The folder ``output`` receives them, ``attacked_items.csv``, ``attack.json``, the features of
    the catalogue with these images, and in ``clean`` those of the catalogue as it was, with what the network sees in
    it. An attack that was run before, by this command, ``catwalk fit`` or a study, is taken from the store of results.

    Args:
        dataset: The dataset folder; it may have no purchases.
        classifier: Checkpoint of the network under attack, which ``catwalk fit`` wrote.
        attack: The attack.
        source: Category whose images are attacked.
        output: Folder for the adversarial images and what was measured of them.
        target: Category that the network shall see in them; none for an untargeted attack.
        protocol: Who says which items are of the source category, and how the attack's budget is meant.
        device: Where it runs, such as cpu or cuda:1; a GPU where there is one by default.
        backbone: Import path of the classifier's backbone, where it is your own: a checkpoint alone decides about none
            but those of Catwalk, torchvision and timm.
        backbone_args: The arguments that your own backbone was trained with, if there were any.
        results: The store of results; ``runs/cache`` by default, where studies that write to ``runs`` have theirs.
        verify: Whether to compare the hashes of all files that are taken from the store. Otherwise a file is not read
            again whose hash was compared before, and whose size and times are still those.
        undefended: Folder of the dataset's clean features by the undefended network, which `catwalk predict` or
            `catwalk attack` (its folder clean) wrote; needed where protocol.source_items is undefended.
        operations: What the shop does to every uploaded image, attacked or not, before anything sees it, such as
            catwalk.processing.JPEG; the files in output are what is uploaded.
        adaptive: Whether the attacker knows these operations and the network's own, and attacks through them; otherwise
            the images are crafted on the bare network. They are judged through the operations in either case.
        draws: Over how many draws of random operations an adaptive attacker averages the gradient.

    Returns:
        What the attack did.

    Raises:
        CatwalkError: If an argument does not fit the dataset or the network, the undefended network is to choose the
            items and its features are not named, the attack must know purchases and there are none, the folder holds
            what is no attack's, or a file that the attack is made of was written meanwhile.
    """
    by_undefended = Path(undefended) if protocol.source_items == "undefended" and undefended is not None else None
    if protocol.source_items == "undefended" and by_undefended is None:
        raise CatwalkError(NO_UNDEFENDED)
    lists = watch_folder(Path(dataset), "items.*", "dataset.json", "interactions.*", "splits/*")
    judges = [] if by_undefended is None else [by_undefended / name for name in (FEATURES_FILE, PREDICTIONS_FILE)]
    named = watch(Path(classifier), *judges, *files_of(attack))
    catalogue = Catalogue.read(dataset)
    images = watch_named(catalogue.folder, catalogue.images)
    check_folder(output, catalogue, "output")
    purchases = _purchases(attack, catalogue, protocol)
    judge = None if by_undefended is None else FeatureTable.read(by_undefended, catalogue)
    place = device_of(device)
    network = defended(load_classifier(classifier, backbone, backbone_args), operations or [])
    network.network.to(place)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    store = StageCache(STORE if results is None else Path(results), tell, verify)
    with Progress(*columns, console=console, transient=True) as bar, aside(output) as work:

        def report(title: str) -> ReportProgress:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        clean = _clean_features(network, catalogue, report("Decoding images"))
        clean.write(work, catalogue)
        goal: dict[str, Any] = {"source": source, "target": target, "protocol": protocol, "purchases": purchases}
        knowledge: dict[str, Any] = {"adaptive": adaptive, "draws": draws}
        inputs = attack_inputs(
            classifier,
            attack,
            catalogue,
            work,
            **goal,
            backbone=backbone,
            backbone_args=backbone_args,
            undefended=by_undefended,
            operations=operations or [],
            **knowledge,
        )

        def make(folder: Path) -> dict[str, Any]:
            start = time.perf_counter()
            progress = report(f"{attack.name} on images of {source}")
            poison(network, attack, catalogue, clean, folder, **goal, **knowledge, undefended=judge, progress=progress)
            for files in (lists, images, named):
                files.require_unchanged(attack.name)
            return {"seconds": round(time.perf_counter() - start, 3)}

        if inputs is None:
            is_done = False
            with aside(output) as folder:
                make(folder)
                put_in_place(folder, output, None)
        else:
            description = f"{attack.name} on {source}"
            origin = origin_of(inputs, f"{catalogue.name}: {description}, {classifier}", output)
            is_done = is_taken(output, inputs, description, tell)
            if not is_done:
                is_done = not store.write(ATTACK, inputs.key, make, description, origin)
            if not is_finished(output, inputs.key):
                copy_attack(store.path(ATTACK, inputs.key), output, inputs.key)
        clean.write(output / CLEAN, catalogue)
    summary = read_summary(output)
    _print(summary, catalogue, clean, output, is_done)
    return summary


def _purchases(attack: Attack, catalogue: Catalogue, protocol: AttackProtocol) -> NDArray[np.int64] | None:
    """Return how often each item was bought, where it must be known."""
    if not protocol.must_know_purchases(attack):
        return None
    try:
        return np.bincount(read_split(catalogue).items, minlength=len(catalogue))
    except CatwalkError as error:
        if attack.knowledge != "network and purchases":
            raise CatwalkError(
                f"protocol.source_popularity: is {protocol.source_popularity}, so the purchases of {catalogue.folder} "
                f"must be known, and {error}; or let it be all"
            ) from error
        raise CatwalkError(
            f"attack: {type(attack).__name__} must know the purchases of {catalogue.folder}, and {error}; the other "
            "attacks on a network need none"
        ) from error


def _clean_features(classifier: Classifier, catalogue: Catalogue, progress: ReportProgress) -> FeatureTable:
    """Run the network over the catalogue."""
    stored = store_images(
        catalogue.folder, catalogue.images, classifier.image_size, names=item_names(catalogue), progress=progress
    )
    return FeatureTable.from_predictions(
        predict(classifier.network, [stored[row] for row in range(len(stored))]),
        classifier.category_names,
        catalogue=catalogue.fingerprint,
        network=network_fingerprint(classifier.network),
    )


def _print(summary: AttackSummary, catalogue: Catalogue, clean: FeatureTable, output: Path, is_done: bool) -> None:
    """Print what the attack did, and on how many of the category's images."""
    goal = f"seen as {summary.target}" if summary.target is not None else f"no longer seen as {summary.source}"
    lines = [
        f"{summary.attack} on {summary.n_attacked:,} images of {summary.source}: {summary.sr:.1%} {goal}, "
        f"{summary.sr_clean:.1%} before; changed by up to {summary.linf_levels} grey levels",
        f"images, attacked_items.csv and attack.json are in {output}{', as an earlier run left them' * is_done}",
    ]
    if summary.sr_bare is not None:
        lines.insert(1, f"the network without its input operations: {summary.sr_bare:.1%} of the same files {goal}")
    if summary.source in catalogue.category_names and summary.source in clean.category_names:
        labelled = catalogue.categories == catalogue.category_names.index(summary.source)
        seen = clean.categories == clean.category_names.index(summary.source)
        lines.insert(
            1,
            f"before the attack the network saw {summary.source} in {seen.sum():,} images, {(seen & labelled).sum():,} "
            f"of them among the {labelled.sum():,} that the dataset labels so",
        )
    for line in lines:
        Console().print(f"• {line}", highlight=False, markup=False, soft_wrap=True)
