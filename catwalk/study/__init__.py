"""Studies: a grid of networks × attacks × recommenders × seeds, run to tables."""

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from catwalk.errors import CatwalkError
from catwalk.perceptual import load_lpips
from catwalk.poisoning.protocol import Protocol
from catwalk.results.remote import RemoteStore
from catwalk.results.store import StageCache
from catwalk.study.cells import COLUMNS, column_name
from catwalk.study.configuration import CONFIGURATION_FILE, write_configuration
from catwalk.study.controls import Controls
from catwalk.study.derived import Defence, Pipeline
from catwalk.study.detectors import StudyDetectors
from catwalk.study.effects import Statistics
from catwalk.study.estimate import show_estimates
from catwalk.study.executor import ExecutorName, backend_of, run_waiting
from catwalk.study.findings import FindingsFile
from catwalk.study.grid import Grid, Settings, Training
from catwalk.study.manifest import manifest_of
from catwalk.study.metrics import OF_EVERYBODY, Metrics
from catwalk.study.paper import Paper, PaperDataset
from catwalk.study.plan import Plan
from catwalk.study.remarks import what_is_replaced
from catwalk.study.results import REPORT_FILE
from catwalk.study.shop import Shop
from catwalk.study.specifications import accuracy_attack_of, split_of
from catwalk.study.stages.detection import DetectionSettings
from catwalk.study.stages.perceptual import PerceptualSettings
from catwalk.study.variants import varied
from catwalk.study.wandb import CellRun, WandbMode, require_login, write_runs
from catwalk.study.writing import write_results

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
    metrics: list[str] = [],  # noqa: B006
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    vary: Settings = {},  # noqa: B006
    undefended: str | None = None,
    controls: Controls = Controls(),  # noqa: B008 - frozen
    defences: dict[str, Defence] = {},  # noqa: B006
    pipelines: dict[str, Pipeline] = {},  # noqa: B006
    transfers: dict[str, list[str]] = {},  # noqa: B006
    smallest_effect: float = 0.05,
    confidence: float = 0.95,
    accuracy_attack: Settings | None = None,
    detectors: dict[str, Training] | None = None,
    detection: DetectionSettings = DetectionSettings(),  # noqa: B008 - frozen
    lpips: PerceptualSettings = PerceptualSettings(),  # noqa: B008 - frozen
    split: Settings | None = None,
    wandb: WandbMode | None = None,
    wandb_artifacts: bool = False,
    output: Path = Path("runs"),
    store: str | None = None,
    verify: bool = False,
    workers: int | None = None,
    executor: ExecutorName = "local",
    address: str | None = None,
    together: int = 1,
    dry_run: bool = False,
    paper: PaperDataset | None = None,
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
        top_k: K of all columns.
        metrics: What else to measure of the recommenders, such as ``mrr@20``, ``coverage@10``, ``chr@20/Bag`` or
            ``attacked/mean_rank``: whatever ``catwalk test`` can log. Each is a column of ``cells.csv``. Nothing is
            trained again for it.
        protocol: What is attacked and counted.
        vary: Fields of the protocol with the values that each is to have: the study runs under every combination.
        undefended: The extractor that a protocol calls undefended; the first by default.
        controls: What stands beside the attacks: noise of the same budget, other seeds, evasion, shams.
        defences: Input defences by name: ``network``, the extractor that one defends, and ``input``, the operations in
            front of it. Each is a network of its own in every table. Attacks on it know them; rows that end in
            ``plain`` are crafted on the network without them.
        pipelines: The shop's own processing of uploaded images by name: ``operations``, and ``networks``, the
            extractors and defences behind it, all extractors by default. Rows as of defences.
        transfers: By network, a list of others of the study on which attacks on it are crafted as well, as an attacker
            does who has not the network itself.
        smallest_effect: Smallest effect of interest, as a share of CHR without attack: what lies within ± this is told
            as no effect.
        confidence: Share of all studies in which an interval is to hold the true effect, in (0, 0.995].
        accuracy_attack: ``class_path`` and ``init_args`` of the untargeted attack under which the networks' accuracy on
            the test images is measured; by default PGD with ε = 8 grey levels, ten steps of ε/6 and a random start.
        detectors: Detectors of poisoned uploads by name, judged by every attack: ``model`` is one of
            ``catwalk.detectors``, or ``lightning_modules.PoisoningDetector`` with ``data.attacked``, the names of the
            attacks that it is trained on.
        detection: How they are judged.
        lpips: How LPIPS of the adversarial images is measured.
        split: ``class_path`` and ``init_args`` of the rule by which purchases are divided, one of
            ``catwalk.shop.splits``; by default the publisher's split, or else every user's last purchase is the test.
        wandb: ``offline`` writes a W&B run for each cell, and one with the tables, to ``output/wandb``; ``online``
            sends them to your account as well. Neither by default.
        wandb_artifacts: Whether those runs bring the study's files, its classifiers and their features along.
        output: Folder for the study and the cache.
        store: URL of fsspec, such as ``s3://bucket/folder``, where all results are kept, for machines that share no
            folder: the cache is then a mirror of what this machine needs.
        verify: Whether to compare the hashes of all files that are taken from the cache. Otherwise a file is not read
            again whose hash was compared before, and whose size and times are still those.
        workers: How many stages run side by side, each on one thread; the results are the same for every number. By
            default one for each core as far as memory allows, and one alone where a GPU is used; on a Ray cluster one
            for each of its processors.
        executor: Where they run: ``local`` in processes of this machine, ``ray`` on a Ray cluster, which needs
            ``pip install 'catwalk[cluster]'``.
        address: Of the Ray cluster: ``auto`` for the one that this machine is part of, ``HOST:PORT`` likewise,
            ``ray://HOST:10001`` for one that it is not part of, ``local`` for one that begins here and ends with the
            study. By default what ``RAY_ADDRESS`` says, or else ``local``.
        together: How many recommenders that differ in seed, images or λ take their training steps as one at most. Each
            has the bytes that it has alone, which is what 1, the default, trains.
        dry_run: Whether to print only which stages there are, which of them are done, and what the others will take in
            time and on the disk; nothing is run or written, but that results of the ``store`` are brought here.
        paper: Dataset of the paper, ``amazon_men`` or ``amazon_women``, whose own values are to stand in the tables
            beside the study's.

    Returns:
        The study's folder, with ``cells.csv``, ``table1.*`` (of recommenders), ``table2.*``, ``networks.*``,
        ``detectors.*``, ``plots/``, ``report/index.html``, ``study.yaml`` and ``manifest.json``.

    Raises:
        CatwalkError: If the grid does not fit the dataset, or LPIPS, W&B's account, Ray or the store cannot be had;
            nothing has been written then.
    """
    arguments = dict(locals())
    console = Console()
    tell = partial(console.print, markup=False, highlight=False, style="yellow")
    remote = None if store is None else RemoteStore(store)
    cache = StageCache(output / "cache", tell, verify, read_only=dry_run and remote is None, remote=remote)
    backend = backend_of(executor, address, workers, tell, together)
    folder = output / name
    if folder.resolve() in (output.resolve(), cache.folder.resolve()):
        raise CatwalkError(f"name: {name!r} is not a name for a study's folder")
    statistics = Statistics(smallest_effect, confidence)
    grid = Grid(
        *(dataset, source, target, extractors, attacks, recommenders or {}, seeds, top_k),
        protocols=varied(protocol, vary),
        controls=controls,
        undefended=undefended,
        defences=defences,
        pipelines=pipelines,
        transfers=transfers,
    )
    under = accuracy_attack_of(accuracy_attack or ACCURACY_ATTACK)
    shop = Shop.read(dataset, None if split is None else split_of(split)).under(grid.protocols)
    if grid.recommenders and not 1 <= top_k <= len(shop.catalogue):
        raise CatwalkError(f"top_k: must lie in 1..{len(shop.catalogue)}, the size of the catalogue, got {top_k}")
    measure, why_not = load_lpips(lpips.net, lpips.trunk, lpips.on_missing) if attacks else (None, None)
    columns = [column_name(column, top_k) for column in COLUMNS]
    if metrics and not grid.recommenders:
        raise CatwalkError(
            "metrics: are of recommenders, and the study has none: give it recommenders, or leave them out"
        )
    of_everybody = [f"{name}@{top_k}" for name in OF_EVERYBODY] if grid.recommenders else []
    further = Metrics.of([*of_everybody, *metrics], columns, len(shop.catalogue), source)
    judged = StudyDetectors.of(detectors or {}, grid, detection, confidence)
    plan = Plan.of(grid, shop, cache, under, measure, further, judged)
    if wandb == "online":
        require_login()
    if not dry_run:
        cache.remove_leftovers()
    runs, stages = plan.runs, plan.stages
    waiting = [stage for stage in stages if not stage.is_done]
    console.print(
        f"[bold]Study {escape(name)}[/]: {len(runs)} cells, {len(stages)} stages, "
        f"{len(stages) - len(waiting)} of them done before",
        highlight=False,
    )
    if grid.recommenders:
        console.print(f"{shop.catalogue.name}: {'; '.join(shop.split_facts)}", markup=False, highlight=False)
    replaced = what_is_replaced(folder, [run.labels for run in runs], plan.keys, source)
    if replaced is not None:
        console.print(replaced, markup=False, highlight=False, style="yellow", soft_wrap=True)
    if why_not is not None:
        console.print(f"LPIPS is left out: {why_not}", markup=False, highlight=False, style="yellow")
    if dry_run:
        with backend:
            show_estimates(stages, waiting, cache, backend, console)
        return folder
    if remote is not None:
        for stage in set(stages) - set(waiting):  # done before there was another store
            cache.share(stage.kind, stage.stored.key)
    with backend:
        run_waiting(waiting, cache, console, backend, together)
    manifest = manifest_of(folder, shop, grid, plan, statistics, measure, why_not)
    file = FindingsFile(folder, arguments, shop, plan, manifest)
    # W&B is given what the files do not have, such as which stages a cell is of.
    findings = file.read() if wandb is None else None
    if findings is not None:
        findings.show(console)
    else:
        from catwalk.study.report import write_report  # its imports would slow down the help

        outcome = write_results(
            *(folder, shop, grid, plan, statistics),
            manifest=manifest,
            lpips_net=lpips.net,
            paper=None if paper is None else Paper(paper, top_k),
        )
        outcome.findings.show(console)
        write_configuration(folder / CONFIGURATION_FILE, arguments)
        write_report(folder)
        file.write(outcome.findings)
        if wandb is not None:
            rows = [
                CellRun(name, cell, top_k, list(filter(None, run.stages)), len(grid.protocols) > 1)
                for run, cell in zip(runs, outcome.cells, strict=True)
            ]
            console.print()
            write_runs(rows, folder, [*outcome.tables, "cells"], wandb, wandb_artifacts, console)
    console.print(f"\nTables and cells are in {folder}", highlight=False)
    console.print(f"The report is {folder / REPORT_FILE}", highlight=False)
    return folder
