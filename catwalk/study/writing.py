"""What a study writes when its stages are done: cells, users, effects, tables, manifest, report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catwalk.files.atomic import write_text
from catwalk.study.cells import Cell, write_cells, write_users
from catwalk.study.controls import OTHER_SEEDS
from catwalk.study.detectors_table import detectors_table
from catwalk.study.effects import Effect, Statistics, effects_of, write_effects
from catwalk.study.findings import Findings
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.mixing import compare_with_shams, conclusion, mixing_table
from catwalk.study.plan import Plan, Run
from catwalk.study.remarks import on_core, on_protocol, remarks_on_networks
from catwalk.study.results import CELLS_FILE, EFFECTS_FILE, MANIFEST_FILE, TABLES
from catwalk.study.shop import Shop
from catwalk.study.stages.recommendations import USERS_FILE
from catwalk.study.table import Table
from catwalk.study.tables import PaperTables, defences_table, networks_table, table_1, table_2

USERS_AT_ONCE = 256
"""Cells whose users are kept in memory at a time."""


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    Attributes:
        cells: Its cells, in the order of the plan.
        effects: What attacks and controls did to the places of the source category.
        tables: Its tables by name.
        says: What its shams say, in words; nothing where there are none.
    """

    cells: list[Cell]
    effects: list[Effect]
    tables: dict[str, Table]
    says: str

    @property
    def findings(self) -> Findings:
        """What of it is told."""
        lines = [each.sentence for each in self.effects if each.is_headline]
        return Findings(self.tables, [*lines, *filter(None, [self.says])])


def write_results(
    folder: Path,
    shop: Shop,
    grid: Grid,
    plan: Plan,
    statistics: Statistics,
    *,
    manifest: Mapping[str, Any],
    lpips_net: str,
    paper: PaperTables | None,
) -> Outcome:
    """Write a study's folder, but for plots and report, which are made of it.

    Args:
        folder: The folder; what an earlier study of this name left in it goes.
        shop: The dataset.
        grid: The study's.
        plan: Its stages, all of them done.
        statistics: How effects are judged.
        manifest: How it was run.
        lpips_net: The network under LPIPS.
        paper: The paper's own values, which stand beside the study's.
    """
    runs, top_k = plan.runs, grid.top_k
    clean = {run.pair: run.recommendations for run in runs if run.row == NO_ATTACK}
    cells = [
        Cell.of(shop, grid, run, statistics.confidence, clean[run.pair] if run.is_compared else None) for run in runs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    stages = {cell.users: run.recommendations for cell, run in zip(cells, runs, strict=True)}
    write_users(folder, {name: stage.folder / USERS_FILE for name, stage in stages.items() if name and stage})

    @lru_cache(maxsize=USERS_AT_ONCE)
    def read(name: str) -> pa.Table:
        return pq.read_table(folder / name)

    def users(cell: Cell) -> pa.Table:
        assert cell.users is not None
        return read(cell.users)

    effects = effects_of(cells, users, top_k, statistics)
    shams = compare_with_shams(cells, effects, users, top_k, statistics, grid.undefended)
    write_cells(cells, top_k, folder / CELLS_FILE)
    write_effects(effects, folder / EFFECTS_FILE)
    remarks = remarks_on_networks(shop, grid, [(run.classifier, run.features) for run in plan.networks])
    of_protocols = [sentence for each in grid.protocols for sentence in on_protocol(each, len(grid.protocols) > 1)]
    of_protocols += on_core(shop, grid.protocols) if grid.recommenders else []
    notes = [_purposes(runs), *of_protocols, remarks]
    of_attacks = [_purposes([run for run in runs if run.attack is not None]), *of_protocols, remarks]
    tables: dict[str, Table] = {}
    if grid.recommenders:
        tables["table1"] = table_1(cells, effects, top_k, notes, paper=paper)
        if any(cell.scenario == "evasion" for cell in cells):
            tables["evasion"] = table_1(cells, effects, top_k, of_attacks, "evasion")
    if shams:
        tables["shams"] = mixing_table(shams, grid.source, top_k, [*of_protocols, remarks])
    tables["table2"] = table_2(cells, lpips_net, of_attacks, paper)
    if grid.derived:
        tables["defences"] = defences_table(cells, effects, top_k, of_attacks)
    tables["networks"] = _networks(shop, plan, " ".join(filter(None, [*of_protocols, remarks])))
    if plan.detections:
        tables["detectors"] = detectors_table(plan.detections, len(grid.protocols) > 1)
    for stem in TABLES:
        for path in folder.glob(f"{stem}.*") if stem not in tables else ():  # of an earlier study of this name
            path.unlink()
    for stem, table in tables.items():
        table.write(folder / stem)
    beside_shams = [conclusion(shams), *(each.sentence for each in shams)] if shams else []
    told = {**manifest, "shams": beside_shams, "notes": [note for note in notes if note]}
    write_text(folder / MANIFEST_FILE, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return Outcome(cells, effects, tables, conclusion(shams))


def _purposes(runs: Sequence[Run]) -> str:
    """Return what the attacks of a study are for, and what stands beside them, as sentences."""
    attacks = [run.attack for run in runs if run.attack is not None and run.control is None]
    purposes = [attack.named_attack.example.purpose(attack.grid.source, attack.target) for attack in attacks]
    sentences = [f"Attacks {', or '.join(dict.fromkeys(purposes))}." if purposes else "Nothing was attacked."]
    controls = {run.control for run in runs}
    if "noise" in controls:
        sentences.append("Noise: random noise of the same ε on the same images.")
    if "other seeds" in controls:
        sentences.append(f"{OTHER_SEEDS}: by how much retraining alone moves the metric.")
    if "sham" in controls:
        sentences.append("Sham: clean features of the network under attack in the attacked rows, with no attack.")
    return " ".join(sentences)


def _networks(shop: Shop, plan: Plan, remarks: str) -> Table:
    """Return the accuracy of every network, clean and under attack."""
    stages = [(run.classifier, run.accuracy) for run in plan.networks]
    under = next((f"under {accuracy.attack_name}" for _, accuracy in stages if accuracy is not None), None)
    accuracies = {
        classifier.name: [classifier.record["accuracy"]] + [accuracy and accuracy.record["accuracy"]] * bool(under)
        for classifier, accuracy in stages
    }
    return networks_table(shop.catalogue.name, ["clean", *([under] if under else [])], accuracies, remarks)
