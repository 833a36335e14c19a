"""``catwalk study compare``: two finished studies side by side, effect by effect, with intervals of the differences."""

import csv as csv_module
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_text
from catwalk.files.csv_text import to_cell
from catwalk.study.effects import LABELS, Effect
from catwalk.study.grid import NO_ATTACK
from catwalk.study.results import StudyResults
from catwalk.study.statistics import EffectDifference, Interval, difference_of_effects

Label = tuple[str | None, ...]
"""What tells an effect from the others of its study: the values of :data:`catwalk.study.effects.LABELS`."""

Row = dict[str, Any]

SETTINGS = (
    *("catwalk", "python", "packages", "hardware", "dataset", "target", "seeds", "undefended", "controls"),
    "statistics",
)
"""Entries of a manifest that say how a study was run, beside its protocols."""


@dataclass(frozen=True)
class ComparedEffect:
    """An effect that two studies have measured.

    Attributes:
        first: As the first has.
        second: As the second has.
        change: By how much the second's is larger, in places of a list.
    """

    first: Effect
    second: Effect
    change: EffectDifference

    @property
    def agrees(self) -> bool:
        """Whether both studies have the same verdict."""
        return self.first.verdict == self.second.verdict

    @property
    def row(self) -> Row:
        """The values by column of the CSV file."""
        row: Row = {name: getattr(self.second, name) for name in LABELS}
        row["protocol"] = self.first.protocol
        row["second_protocol"] = self.second.protocol
        for name, effect in (("first", self.first), ("second", self.second)):
            row |= _bounds(name, effect.size.difference)
            row |= {f"{name}_p_adjusted": effect.p_adjusted, f"{name}_verdict": effect.verdict}
        row |= _bounds("change", self.change.difference)
        paired = "users and seeds" if self.change.same_seeds else "users" if self.change.same_users else "neither"
        return row | {"change_p_value": self.change.p_value, "paired": paired, "verdicts_agree": self.agrees}


@dataclass(frozen=True)
class Comparison:
    """Two studies side by side.

    Attributes:
        names: What they are called.
        settings: In what they differ: versions, data, protocols, seeds and the like, by name.
        remade: How many of the stages that both have were made in another way, by their keys, and how many there are.
        effects: What both have measured.
        alone: The effects that only one of them has, for each of them.
        top_k: K of both.
        source: The category whose images both attack.
        confidence: Of the intervals of the differences.
    """

    names: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    remade: tuple[int, int]
    effects: list[ComparedEffect]
    alone: tuple[list[Effect], list[Effect]]
    top_k: int
    source: str
    confidence: float

    @property
    def agrees(self) -> bool:
        """Whether all verdicts are the same."""
        return all(effect.agrees for effect in self.effects)

    def write(self, path: Path) -> None:
        """Write a row for each effect that both have."""
        rows = [effect.row for effect in self.effects]
        with open_text(path) as file:
            writer = csv_module.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({name: "" if value is None else to_cell(value) for name, value in row.items()})

    def show(self, console: Console) -> None:
        """Print what differs, and the effects."""
        self._show_settings(console)
        title = f"Places of {self.source} in {self.top_k}: what attacks changed, and by how much more in the second"
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
        shown = [
            name
            for name in ("protocol", "extractor", "recommender")
            if len({getattr(each.first, name) for each in self.effects}) > 1
        ]
        for name in (*shown, "attack"):
            table.add_column(name, overflow="fold")
        for name in ("first", "second", f"difference [{100 * self.confidence:g}%]"):
            table.add_column(name, justify="right", no_wrap=True)
        for each in self.effects:
            sizes = [_interval(effect.size.difference, effect.verdict) for effect in (each.first, each.second)]
            change = _interval(each.change.difference)
            lies_apart = each.change.difference.low > 0 or each.change.difference.high < 0
            evasion = " (evasion)" if each.first.scenario == "evasion" else ""
            table.add_row(
                *(escape(getattr(each.first, name)) for name in shown),
                escape(each.first.attack + evasion),
                *(size if each.agrees else f"[bold]{size}[/]" for size in sizes),
                f"[bold]{change}[/]" if lies_apart else change,
            )
        console.print(table)
        for line in self._remarks():
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show_settings(self, console: Console) -> None:
        title = escape(f"First: {self.names[0]}. Second: {self.names[1]}")
        remade, stages = self.remade
        if self.settings:
            table = Table("setting", "first", "second", title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for name, values in self.settings.items():
                table.add_row(escape(name), *(escape("–" if value is None else str(value)) for value in values))
            console.print(table)
        else:
            console.print(title, highlight=False)
        if remade:
            console.print(
                f"{remade} of the {stages} stages that both have were made with other settings, data or code: compare "
                "study.yaml of both.",
                highlight=False,
                soft_wrap=True,
            )
        elif not self.settings:
            console.print("Both were run in the same way.", highlight=False)

    def _remarks(self) -> Iterator[str]:
        yield (
            "In bold: effects whose verdicts differ, and differences whose interval of "
            f"{100 * self.confidence:g}% leaves out 0 (each for itself, not adjusted for their number)."
        )
        independent = sum(not each.change.same_users for each in self.effects)
        if independent:
            yield f"{independent} of {len(self.effects)} differences are of other users, taken as independent."
        for which, effects in zip(("first", "second"), self.alone, strict=True):
            if effects:
                names = dict.fromkeys(_label_text(effect) for effect in effects)
                yield f"In the {which} alone: {'; '.join(names)}."
        differ = sum(not effect.agrees for effect in self.effects)
        yield f"{differ} of {len(self.effects)} verdicts differ." if differ else "All verdicts are the same."


def compare_studies(first: Path, second: Path, csv: Path | None = None) -> bool:
    """Show two finished studies side by side, effect by effect, with the interval of each difference.

    Args:
        first: Folder of a study.
        second: Folder of another one, with the same source category and K.
        csv: File to write the effects to as well, a row each.

    Returns:
        Whether all verdicts are the same.

    Raises:
        CatwalkError: If a folder holds no finished study, or the two measure other things.
    """
    found = compare(StudyResults.read(first), StudyResults.read(second))
    if csv is not None:
        found.write(csv)
    found.show(Console())
    return found.agrees


def compare(first: StudyResults, second: StudyResults) -> Comparison:
    """Return two studies side by side.

    Protocols are compared by their names; where each study has but one, these two are compared whatever their names.
    Intervals have the confidence of the first study.

    Raises:
        CatwalkError: If the studies have another source category or K, or no effect in common.
    """
    source = _same("source", first, second)
    top_k = int(_same("top_k", first, second))
    by_label = [_by_label(study, _one_protocol(first, second)) for study in (first, second)]
    shared = [label for label in by_label[0] if label in by_label[1]]
    if not shared:
        raise CatwalkError(
            f"{first.folder} and {second.folder} have no effect in common, by extractor, recommender and attack; "
            "compare studies that share some"
        )
    confidence = float(_entry(first, "statistics")["confidence"])
    places = [_Places(study, top_k, source) for study in (first, second)]
    effects = []
    for label in shared:
        pair = by_label[0][label], by_label[1][label]
        matrices = [reader.changes(effect) for reader, effect in zip(places, pair, strict=True)]
        change = difference_of_effects(
            *(each.places for each in matrices),
            users=(matrices[0].users, matrices[1].users),
            seeds=(matrices[0].seeds, matrices[1].seeds),
            confidence=confidence,
        )
        effects.append(ComparedEffect(*pair, change))
    alone = [[effect for label, effect in own.items() if label not in shared] for own in by_label]
    settings = _differing(_settings(first.manifest), _settings(second.manifest))
    names = str(first.folder), str(second.folder)
    remade = _remade(first.manifest.get("keys", {}), second.manifest.get("keys", {}))
    return Comparison(names, settings, remade, effects, (alone[0], alone[1]), top_k, source, confidence)


@dataclass(frozen=True)
class _Changes:
    """Attacked minus clean ``(S, U)``, with the ids of the users and the seeds."""

    places: np.ndarray
    users: Sequence[str]
    seeds: Sequence[int]


class _Places:
    """Reads the places of the source category from the users' rows of a study, every file once."""

    def __init__(self, study: StudyResults, top_k: int, source: str) -> None:
        self._study, self._column = study, f"chr@{top_k}/{source}"
        self._places: dict[str, np.ndarray] = {}
        self._users: pa.ChunkedArray | None = None

    def changes(self, effect: Effect) -> _Changes:
        """Return what an effect consists of, a row for each seed."""
        attacked, clean = (
            self._cells(effect.protocol, effect.extractor, effect.recommender, *rest)
            for rest in ((effect.attack, effect.scenario, effect.control), (NO_ATTACK, None, None))
        )
        if len(attacked) != len(clean) or not clean:
            raise CatwalkError(
                f"{self._study.folder}: {_label_text(effect)} has {len(attacked)} cells, and {len(clean)} without "
                "attack; run the study again"
            )
        matrices = [np.stack([self._of(cell) for cell in cells]) for cells in (attacked, clean)]
        assert self._users is not None
        return _Changes(matrices[0] - matrices[1], self._users.to_pylist(), [int(cell["seed"]) for cell in attacked])

    def _cells(self, *label: str | None) -> list[Row]:
        names = ("protocol", "extractor", "recommender", "attack", "scenario", "control")
        cells = [cell for cell in self._study.cells if tuple(cell[name] for name in names) == label]
        return sorted(cells, key=lambda cell: cell["seed"])

    def _of(self, cell: Row) -> np.ndarray:
        name = str(cell["users"])
        if name not in self._places:
            table = self._study.users(cell)
            if self._users is None:
                self._users = table.column("user_id")
            elif not self._users.equals(table.column("user_id")):
                raise CatwalkError(f"{self._study.folder / name} has other users than the others; run the study again")
            self._places[name] = table.column(self._column).to_numpy().astype(np.float64)
        return self._places[name]


def _by_label(study: StudyResults, one_protocol: bool) -> dict[Label, Effect]:
    names = [name for name in LABELS if not (one_protocol and name == "protocol")]
    return {tuple(getattr(effect, name) for name in names): effect for effect in study.effects}


def _one_protocol(*studies: StudyResults) -> bool:
    return all(len(_entry(study, "protocols")) == 1 for study in studies)


def _entry(study: StudyResults, name: str) -> Any:
    """Return an entry of a study's manifest.

    Raises:
        CatwalkError: If there is none.
    """
    if name not in study.manifest:
        raise CatwalkError(f"{study.folder} has no {name} in its manifest; run the study again")
    return study.manifest[name]


def _same(name: str, first: StudyResults, second: StudyResults) -> Any:
    """Return an entry of both manifests.

    Raises:
        CatwalkError: If they differ, or one has none.
    """
    values = _entry(first, name), _entry(second, name)
    if values[0] != values[1]:
        raise CatwalkError(
            f"{first.folder} has {name} {values[0]} and {second.folder} {values[1]}; compare studies with the same"
        )
    return values[0]


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of how a study was run, by the path of each entry."""
    protocols = manifest["protocols"]
    named = (
        {"protocol": protocols[0]} if len(protocols) == 1 else {"protocol": {each["name"]: each for each in protocols}}
    )
    kept = {name: manifest.get(name) for name in SETTINGS}
    return dict(_flat({**kept, **named}))


def _flat(entries: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*first, *second))
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _remade(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[int, int]:
    """Return how many stages of one description have other keys, and how many there are."""
    both = [name for name in first if name in second]
    return sum(first[name] != second[name] for name in both), len(both)


def _bounds(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _interval(interval: Interval, verdict: str = "") -> str:
    """Return an interval on two lines, behind the mean what was said of it."""
    return escape(f"{interval.mean:+.3f} {verdict}".rstrip() + f"\n[{interval.low:+.3f}, {interval.high:+.3f}]")


def _label_text(effect: Effect) -> str:
    parts = (effect.protocol, effect.extractor, effect.recommender, effect.attack, effect.scenario)
    return ", ".join(part for part in parts if part)
