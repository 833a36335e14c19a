"""Studies: a grid of networks × attacks × recommenders × seeds, run to tables."""

import json
import platform
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from catwalk import __version__
from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_text
from catwalk.perceptual import LPIPS, load_lpips
from catwalk.poisoning.protocol import Protocol
from catwalk.results.store import StageCache
from catwalk.shop.catalogue import number_of
from catwalk.study.grid import NO_ATTACK, Grid, Settings, Training
from catwalk.study.progress import StudyProgress
from catwalk.study.remarks import remarks_on_networks, what_is_replaced
from catwalk.study.shop import Shop
from catwalk.study.specifications import split_of
from catwalk.study.stages.accuracy import AccuracyStage
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.perceptual import PerceptualSettings, PerceptualStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.stage import Stage
from catwalk.study.tables import Cell, Table, networks_table, table_1, table_2, write_cells
from catwalk.study.wandb import CellRun, WandbMode, require_login, write_runs

__all__ = ["Grid", "Settings", "Training", "run_study"]

ACCURACY_ATTACK: Settings = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 8.0, "targeted": False}}


def run_study(
    name: str,
    dataset: Path,
    source: str,
    target: str,
    extractors: dict[str, Training],
    attacks: list[Settings],
    recommenders: dict[str, Training] | None = None,
    seeds: list[int] = [0],  # noqa: B006 - a default that is shown in the help and never changed
    top_k: int = 20,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    accuracy_attack: Settings | None = None,
    lpips: PerceptualSettings = PerceptualSettings(),  # noqa: B008 - frozen
    split: Settings | None = None,
    wandb: WandbMode | None = None,
    wandb_artifacts: bool = False,
    verify: bool = False,
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
        recommenders: Recommenders by name, in the same form; ``data`` are arguments of ``InteractionTriplets``. Without
            any, the study measures networks and attacks alone, and the dataset needs no purchases.
        seeds: Every recommender is trained once with each of them.
        top_k: K of all figures.
        protocol: What is attacked and counted.
        accuracy_attack: ``class_path`` and ``init_args`` of the untargeted attack under which the networks' accuracy on
            the test images is measured; by default PGD with ε = 8 grey levels, ten steps of ε/6 and a random start.
        lpips: How LPIPS of the adversarial images is measured.
        split: ``class_path`` and ``init_args`` of the rule by which purchases are divided, one of
            ``catwalk.shop.splits``; by default the publisher's split, or else every user's last purchase is the test.
        wandb: ``offline`` writes a W&B run for each cell, and one with the tables, to ``output/wandb``; ``online``
            sends them to your account as well. Neither by default.
        wandb_artifacts: Whether those runs bring the study's files, its classifiers and their features along.
        verify: Whether to compare the hashes of all files that are taken from the cache. Otherwise a file is not read
            again whose hash was compared before, and whose size and times are still those.
        output: Folder for the study and the cache.

    Returns:
        The study's folder, with ``cells.csv``, ``table1.*`` (of recommenders), ``table2.*``, ``networks.*`` and
        ``manifest.json``.

    Raises:
        CatwalkError: If the grid does not fit the dataset, or LPIPS or W&B's account cannot be had; nothing has been
            written then.
    """
    console = Console()
    tell = partial(console.print, markup=False, highlight=False, style="yellow")
    cache = StageCache(output / "cache", tell, verify)
    folder = output / name
    if folder.resolve() in (output.resolve(), cache.folder.resolve()):
        raise CatwalkError(f"name: {name!r} is not a name for a study's folder")
    grid = Grid(dataset, source, target, extractors, attacks, recommenders or {}, seeds, top_k, protocol)
    shop = Shop.read(dataset, None if split is None else split_of(split))
    if grid.recommenders and not 1 <= top_k <= len(shop.catalogue):
        raise CatwalkError(f"top_k: must lie in 1..{len(shop.catalogue)}, the size of the catalogue, got {top_k}")
    measure, why_not = load_lpips(lpips.net, lpips.trunk, lpips.on_missing) if attacks else (None, None)
    runs = _plan(grid, shop, cache, accuracy_attack or ACCURACY_ATTACK, measure)
    if wandb == "online":
        require_login()
    cache.remove_leftovers()
    stages = _in_order(runs)
    waiting = [stage for stage in stages if not stage.is_done]
    console.print(
        f"[bold]Study {escape(name)}[/]: {len(runs)} cells, {len(stages)} stages, "
        f"{len(stages) - len(waiting)} of them done before",
        highlight=False,
    )
    if grid.recommenders:
        console.print(f"{shop.catalogue.name}: {'; '.join(shop.split_facts)}", markup=False, highlight=False)
    replaced = what_is_replaced(folder, [run.labels for run in runs], _keys(runs), source)
    if replaced is not None:
        console.print(replaced, markup=False, highlight=False, style="yellow", soft_wrap=True)
    if why_not is not None:
        console.print(f"LPIPS is left out: {why_not}", markup=False, highlight=False, style="yellow")
    with StudyProgress(console, len(waiting)) as progress:
        for stage in waiting:
            stage.run(progress)
    cells = [_cell(shop, grid, run) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(cells, top_k, folder / "cells.csv")
    purposes, remarks = _purposes(runs), remarks_on_networks(shop, grid, _networks_of(runs))
    tables = {
        **({"table1": table_1(cells, top_k, purposes, remarks)} if grid.recommenders else {}),
        "table2": table_2(cells, purposes, lpips.net, remarks),
        "networks": _networks(shop, runs, remarks),
    }
    if not grid.recommenders:
        for path in folder.glob("table1.*"):  # of an earlier study of this name
            path.unlink()
    for stem, table in tables.items():
        table.write(folder / stem)
        console.print()
        table.show(console)
    _write_manifest(folder / "manifest.json", shop, grid, runs, measure, why_not)
    if wandb is not None:
        rows = [CellRun(name, cell, list(filter(None, run.stages))) for run, cell in zip(runs, cells, strict=True)]
        console.print()
        write_runs(rows, folder, [*tables, "cells"], wandb, wandb_artifacts, console)
    console.print(f"\nTables and cells are in {folder}", highlight=False)
    return folder


@dataclass(frozen=True)
class Run:
    """The stages of a cell."""

    classifier: ClassifierStage
    accuracy: AccuracyStage | None
    features: FeaturesStage
    attack: AttackStage | None
    perceptual: PerceptualStage | None
    recommender: RecommenderStage | None

    @property
    def stages(self) -> list[Stage | None]:
        """The stages in the order in which they are to run."""
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def labels(self) -> Cell:
        """What tells the cell from others of its grid."""
        return {
            "extractor": self.classifier.name,
            "attack": self.attack.name if self.attack is not None else NO_ATTACK,
            "recommender": self.recommender.name if self.recommender is not None else None,
            "seed": self.recommender.seed if self.recommender is not None else None,
        }


def _plan(grid: Grid, shop: Shop, cache: StageCache, accuracy_attack: Settings, lpips: LPIPS | None) -> list[Run]:
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
        if not grid.recommenders:
            _check_knowledge(attacks)
            runs.append(Run(classifier, accuracy, features, None, None, None))
            for attack in attacks:
                looks = PerceptualStage(cache, attack, lpips)
                runs.append(Run(classifier, accuracy, features, attack, looks, None))
        for recommender in grid.recommenders:
            trained = partial(RecommenderStage, cache, shop, recommender, grid)
            clean = {seed: trained(seed, features, None) for seed in grid.seeds}
            network = classifier, accuracy, features
            runs += [Run(*network, None, None, clean[seed]) for seed in grid.seeds]
            for attack in attacks:
                if attack.must_know_recommender and not clean[grid.seeds[0]].looks_at_images:
                    continue  # it has no features that an image could change
                for seed in grid.seeds:
                    aimed = attack.knowing(clean[seed]) if attack.must_know_recommender else attack
                    looks = PerceptualStage(cache, aimed, lpips)
                    runs.append(Run(*network, aimed, looks, trained(seed, features, aimed)))
    return runs


def _check_knowledge(attacks: list[AttackStage]) -> None:
    """Raise a CatwalkError if an attack must know a recommender, in a study that has none."""
    for attack in attacks:
        if attack.must_know_recommender:
            raise CatwalkError(
                f"attacks: {attack.name} must know a recommender, and the study has none: give it recommenders, or "
                "leave the attack out"
            )


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

    for column in zip(*(run.stages for run in runs), strict=True):
        for stage in column:
            if stage is not None:
                add(stage)
    return list(ordered.values())


def _keys(runs: list[Run]) -> dict[str, str]:
    """Return what each stage depends on, by description, as the plan has it."""
    return {stage.description: stage.key for stage in _in_order(runs)}


def _places(runs: list[Run]) -> dict[str, str]:
    """Return where in the cache the result of each stage is, by description."""
    return {stage.description: stage.place for stage in _in_order(runs)}


def _networks_of(runs: list[Run]) -> list[tuple[ClassifierStage, FeaturesStage]]:
    """Return each network once, with its features."""
    return list({run.classifier.name: (run.classifier, run.features) for run in runs}.values())


def _purposes(runs: list[Run]) -> str:
    """Return what the attacks of a study are for, as a sentence."""
    attacks = [run.attack for run in runs if run.attack is not None]
    purposes = [attack.attack.purpose(attack.grid.source, attack.target) for attack in attacks]
    return f"Attacks {', or '.join(dict.fromkeys(purposes))}." if purposes else "Nothing was attacked."


def _cell(shop: Shop, grid: Grid, run: Run) -> Cell:
    """Return a row of ``cells.csv``."""
    attack, looks = run.attack, run.perceptual
    summary = attack.summary if attack is not None else None
    k, record = grid.top_k, run.recommender.record if run.recommender is not None else None
    return {
        "dataset": shop.catalogue.name,
        "protocol": grid.protocol.name,
        **run.labels,
        "epsilon": summary.epsilon if summary else None,
        "source": grid.source,
        "target": summary.target if summary else grid.target,
        "n_attacked": summary.n_attacked if summary else None,
        f"chr@{k}": record["chr"][grid.source] if record else None,
        f"ncdcg@{k}": record["ncdcg"][grid.source] if record else None,
        f"hr@{k}": record["hr"] if record else None,
        f"ndcg@{k}": record["ndcg"] if record else None,
        "auc": record["auc"] if record else None,
        "sr_float": summary.sr_float if summary else None,
        "sr": summary.sr if summary else None,
        "sr_clean": summary.sr_clean if summary else None,
        "sr_net": summary.sr_net if summary else None,
        "feature_loss": summary.feature_loss if summary else None,
        **{name: looks.figure(name) if looks else None for name in ("lpips", "ssim", "psnr")},
        "linf_levels": summary.linf_levels if summary else None,
        "l2_levels": summary.l2_levels if summary else None,
        "seconds": record["seconds"] if record else None,
    }


def _networks(shop: Shop, runs: list[Run], remarks: str) -> Table:
    """Return the accuracy of every network, clean and under attack."""
    stages = {run.classifier.name: (run.classifier, run.accuracy) for run in runs}.values()
    under = next((f"under {accuracy.attack_name}" for _, accuracy in stages if accuracy is not None), None)
    accuracies = {
        classifier.name: [classifier.record["accuracy"]] + [accuracy and accuracy.record["accuracy"]] * bool(under)
        for classifier, accuracy in stages
    }
    return networks_table(shop.catalogue.name, ["clean", *([under] if under else [])], accuracies, remarks)


def _write_manifest(
    path: Path, shop: Shop, grid: Grid, runs: list[Run], lpips: LPIPS | None, why_no_lpips: str | None
) -> None:
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
            "catalogue": shop.items.fingerprint,
            "labelled images": shop.labelled_images.fingerprint,
            "interactions": shop.interactions.fingerprint if grid.recommenders else None,
            "split": None if shop.split is None else shop.split.settings,
        },
        "protocol": vars(grid.protocol),
        "seeds": grid.seeds,
        "stages": _places(runs),
        "keys": _keys(runs),
        "classifiers": {
            run.classifier.name: {
                "accuracy": run.classifier.record["accuracy"],
                "accuracy under attack": run.accuracy.record["accuracy"] if run.accuracy is not None else None,
            }
            for run in runs
        },
        "lpips": {"missing": why_no_lpips}
        if lpips is None
        else {"net": lpips.net, "trunk_sha256": lpips.trunk_sha256, "trunk": lpips.trunk_origin},
    }
    write_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
