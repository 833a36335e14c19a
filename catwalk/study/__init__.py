"""Studies: a grid of networks × attacks × recommenders × seeds, run to tables."""

import json
import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from catwalk import __version__
from catwalk.catalogue import Catalogue, number_of
from catwalk.errors import CatwalkError
from catwalk.protocol import Protocol
from catwalk.study.cache import StageCache
from catwalk.study.grid import NO_ATTACK, Grid, Settings, Training
from catwalk.study.progress import StudyProgress
from catwalk.study.stages import (
    AccuracyStage,
    AttackStage,
    ClassifierStage,
    FeaturesStage,
    RecommenderStage,
    Shop,
    Stage,
)
from catwalk.study.tables import Cell, Table, networks_table, table_1, table_2, write_cells

__all__ = ["Grid", "Settings", "Training", "run_study"]

ACCURACY_ATTACK: Settings = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 8.0, "targeted": False}}


def run_study(
    name: str,
    dataset: Path,
    source: str,
    target: str,
    extractors: dict[str, Training],
    attacks: list[Settings],
    recommenders: dict[str, Training],
    seeds: list[int] = [0],  # noqa: B006 - a default that is shown in the help and never changed
    top_k: int = 20,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    accuracy_attack: Settings | None = None,
    output: Path = Path("runs"),
) -> Path:
    """Run a study and print its tables.

    Every stage's result is kept under ``output/cache`` and taken from there when nothing that it depends on has
    changed, so that a study which was stopped goes on where it was.

    Args:
        name: Name of the study; its tables go to ``output/name``.
        dataset: The dataset folder.
        source: Category whose images are attacked.
        target: Category that the network shall see in them.
        extractors: Networks by name: ``model`` (``class_path``, ``init_args``), ``data`` (arguments of
            ``ProductImages``), ``trainer`` (arguments of Lightning's Trainer) and ``seed``.
        attacks: ``class_path`` and ``init_args`` of each attack; the study adds "no attack" to them.
        recommenders: Recommenders by name, in the same form; ``data`` are arguments of ``InteractionTriplets``.
        seeds: Every recommender is trained once with each of them.
        top_k: K of all figures.
        protocol: What is attacked and counted.
        accuracy_attack: ``class_path`` and ``init_args`` of the untargeted attack under which the networks' accuracy on
            the test images is measured; by default PGD with ε = 8 grey levels, ten steps of ε/6 and a random start.
        output: Folder for the study and the cache.

    Returns:
        The study's folder, with ``cells.csv``, ``table1.*``, ``table2.*``, ``networks.*`` and ``manifest.json``.

    Raises:
        CatwalkError: If the grid does not fit the dataset; nothing has been written then.
    """
    cache = StageCache(output / "cache")
    folder = output / name
    if folder.resolve() in (output.resolve(), cache.folder.resolve()):
        raise CatwalkError(f"name: {name!r} is not a name for a study's folder")
    grid = Grid(dataset, source, target, extractors, attacks, recommenders, seeds, top_k, protocol)
    shop = Shop(Catalogue.read(dataset))
    if not 1 <= top_k <= len(shop.catalogue):
        raise CatwalkError(f"top_k: must lie in 1..{len(shop.catalogue)}, the size of the catalogue, got {top_k}")
    runs = _plan(grid, shop, cache, accuracy_attack or ACCURACY_ATTACK)
    cache.remove_leftovers()
    stages = _in_order(runs)
    waiting = [stage for stage in stages if not stage.is_done]
    console = Console()
    console.print(
        f"[bold]Study {escape(name)}[/]: {len(runs)} cells, {len(stages)} stages, "
        f"{len(stages) - len(waiting)} of them done before",
        highlight=False,
    )
    with StudyProgress(console, len(waiting)) as progress:
        for stage in waiting:
            stage.run(progress)
    cells = [_cell(shop, grid, *run) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(cells, top_k, folder / "cells.csv")
    purposes = _purposes(runs)
    tables = {
        "table1": table_1(cells, top_k, purposes),
        "table2": table_2(cells, purposes),
        "networks": _networks(shop, runs),
    }
    for stem, table in tables.items():
        table.write(folder / stem)
        console.print()
        table.show(console)
    _write_manifest(folder / "manifest.json", shop, grid, runs)
    console.print(f"\nTables and cells are in {folder}", highlight=False)
    return folder


Run = tuple[ClassifierStage, AccuracyStage | None, FeaturesStage, AttackStage | None, RecommenderStage]
"""The stages of a cell."""


def _plan(grid: Grid, shop: Shop, cache: StageCache, accuracy_attack: Settings) -> list[Run]:
    """Return the cells in the order of the tables; cells share the stages that they have in common."""
    runs: list[Run] = []
    for extractor, training in grid.extractors.items():
        classifier = ClassifierStage(cache, shop, extractor, training)
        _check_categories(grid, shop, classifier)
        accuracy = None
        if classifier.is_trained_here:
            accuracy = AccuracyStage(cache, shop, accuracy_attack, classifier)
        features = FeaturesStage(cache, shop, classifier)
        attacks = [
            AttackStage(cache, grid, *attack, features) for attack in zip(grid.attack_names, grid.attacks, strict=True)
        ]
        for recommender in grid.recommenders:
            trained = partial(RecommenderStage, cache, shop, recommender, grid)
            clean = {seed: trained(seed, features, None) for seed in grid.seeds}
            runs += [(classifier, accuracy, features, None, clean[seed]) for seed in grid.seeds]
            for attack in attacks:
                if attack.must_know_recommender and not clean[grid.seeds[0]].looks_at_images:
                    continue  # it has no features that an image could change
                for seed in grid.seeds:
                    aimed = attack.knowing(clean[seed]) if attack.must_know_recommender else attack
                    runs.append((classifier, accuracy, features, aimed, trained(seed, features, aimed)))
    return runs


def _check_categories(grid: Grid, shop: Shop, classifier: ClassifierStage) -> None:
    """Raise a CatwalkError unless source and target are categories of whoever names them."""
    whose = "" if classifier.is_trained_here else f" (of ImageNet, which extractor {classifier.name} sees)"
    for argument, name in (("source", grid.source), ("target", grid.target)):
        number_of(name, classifier.category_names, f"{argument}{whose}")
    if "dataset" in (grid.protocol.source_items, grid.protocol.chr_categories):
        shop.catalogue.category(grid.source, "source (of the dataset, which the protocol asks)")


def _in_order(runs: list[Run]) -> list[Stage]:
    """Return each stage once, those of all networks before attacks, attacks before recommenders, and inputs first."""
    ordered: dict[tuple[str, str], Stage] = {}

    def add(stage: Stage) -> None:
        for needed in stage.inputs:
            add(needed)
        ordered.setdefault((stage.kind, stage.key), stage)

    for column in zip(*runs, strict=True):
        for stage in column:
            if stage is not None:
                add(stage)
    return list(ordered.values())


def _purposes(runs: list[Run]) -> str:
    """Return what the attacks of a study are for, as a sentence."""
    purposes = [
        attack.attack.purpose(attack.grid.source, attack.target) for *_, attack, _ in runs if attack is not None
    ]
    return f"Attacks {', or '.join(dict.fromkeys(purposes))}." if purposes else "Nothing was attacked."


def _cell(
    shop: Shop,
    grid: Grid,
    classifier: ClassifierStage,
    accuracy: AccuracyStage | None,
    features: FeaturesStage,
    attack: AttackStage | None,
    stage: RecommenderStage,
) -> Cell:
    """Return a row of ``cells.csv``."""
    summary = attack.summary if attack is not None else None
    k, record = grid.top_k, stage.record
    return {
        "dataset": shop.catalogue.name,
        "protocol": grid.protocol.name,
        "extractor": classifier.name,
        "attack": attack.name if attack is not None else NO_ATTACK,
        "epsilon": summary.epsilon if summary else None,
        "recommender": stage.name,
        "seed": stage.seed,
        "source": grid.source,
        "target": summary.target if summary else grid.target,
        "n_attacked": summary.n_attacked if summary else None,
        f"chr@{k}": record["chr"][grid.source],
        f"ncdcg@{k}": record["ncdcg"][grid.source],
        f"hr@{k}": record["hr"],
        f"ndcg@{k}": record["ndcg"],
        "auc": record["auc"],
        "sr_float": summary.sr_float if summary else None,
        "sr": summary.sr if summary else None,
        "sr_clean": summary.sr_clean if summary else None,
        "sr_net": summary.sr_net if summary else None,
        "feature_loss": summary.feature_loss if summary else None,
        "linf_levels": summary.linf_levels if summary else None,
        "l2_levels": summary.l2_levels if summary else None,
        "seconds": record["seconds"],
    }


def _networks(shop: Shop, runs: list[Run]) -> Table:
    """Return the accuracy of every network, clean and under attack."""
    stages = {run[0].name: run[:2] for run in runs}.values()
    under = next((f"under {accuracy.attack_name}" for _, accuracy in stages if accuracy is not None), None)
    accuracies = {
        classifier.name: [classifier.record["accuracy"]] + [accuracy and accuracy.record["accuracy"]] * bool(under)
        for classifier, accuracy in stages
    }
    return networks_table(shop.catalogue.name, ["clean", *([under] if under else [])], accuracies)


def _write_manifest(path: Path, shop: Shop, grid: Grid, runs: list[Run]) -> None:
    """Write what is needed to repeat the study, and where its results are in the cache."""
    manifest = {
        "catwalk": __version__,
        "python": platform.python_version(),
        "packages": {
            "torch": torch.__version__,  # with the build, such as +cpu
            **{name: version(name) for name in ("torchvision", "pytorch-lightning", "numpy", "pillow")},
        },
        "hardware": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "dataset": {
            "name": shop.catalogue.name,
            "catalogue": shop.catalogue.fingerprint,
            "labelled images": shop.labelled_images,
            "interactions": shop.interactions,
        },
        "protocol": vars(grid.protocol),
        "seeds": grid.seeds,
        "stages": {stage.description: f"{stage.kind}/{stage.key}" for stage in _in_order(runs)},
        "classifiers": {
            classifier.name: {
                "accuracy": classifier.record["accuracy"],
                "accuracy under attack": accuracy.record["accuracy"] if accuracy is not None else None,
            }
            for classifier, accuracy, *_ in runs
        },
    }
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
