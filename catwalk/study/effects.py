"""The effect of every attack and control on its category's places, paired with no attack: intervals and verdicts."""

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_text
from catwalk.files.csv_text import from_cell, to_cell
from catwalk.study.cells import Cell
from catwalk.study.confidence import MeanSquares
from catwalk.study.grid import NO_ATTACK
from catwalk.study.statistics import (
    MOST_CONFIDENT,
    EffectSize,
    Interval,
    Verdict,
    holm,
    paired_effect,
    seeds_needed,
    verdict,
    verdict_sentence,
)

ReadUsers = Callable[[Cell], pa.Table]
"""Reads the table of a cell's users, a row each, sorted alike in all cells."""

FAMILY = ("protocol", "extractor", "recommender", "scenario")
"""What a column of attacks has in common, whose p-values are adjusted together."""

SQUARES = ("seeds", "users", "rest")
"""Mean squares of an effect, from which follows how wide its interval would be with other seeds."""

LABELS = ("protocol", "extractor", "recommender", "attack", "scenario", "control")
"""What tells an effect from others of a study."""


@dataclass(frozen=True)
class Statistics:
    """How effects are judged.

    Attributes:
        smallest_effect: Smallest effect of interest, as a share of the metric without attack.
        confidence: Rate at which intervals are to hold the true effect.

    Raises:
        CatwalkError: If one is out of its range.
    """

    smallest_effect: float = 0.05
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.smallest_effect <= 1:
            raise CatwalkError(
                "smallest_effect: must lie between 0 and 1, a share of CHR without attack: 0.05 is 5%; got "
                f"{self.smallest_effect}"
            )
        if not 0 < self.confidence <= MOST_CONFIDENT:
            raise CatwalkError(
                f"confidence: must lie between 0 and {MOST_CONFIDENT}, for which users are resampled often enough; got "
                f"{self.confidence}"
            )


@dataclass(frozen=True)
class Effect:
    """What an attack or a control did to the places of the source category, beside no attack with the same seeds.

    Attributes:
        protocol: Name of the protocol.
        extractor: Name of the network.
        recommender: Name of the recommender.
        attack: Name of the attack or of the control.
        scenario: ``poisoning`` or ``evasion``; None where nothing is attacked.
        control: ``noise``, ``sham`` or ``other seeds``; None for an attack.
        epsilon: Budget in grey levels; None where there is none.
        size: The difference in places of a list, with its interval.
        p_adjusted: Holm's, over the attacks of a column; a control's own is not adjusted.
        verdict: What the interval says.
        seeds_needed: With how many seeds there would be a verdict, where this one is ``cannot tell``; None otherwise,
            and where no number of seeds would do.
        sentence: The verdict in words.
    """

    protocol: str
    extractor: str
    recommender: str
    attack: str
    scenario: str | None
    control: str | None
    epsilon: float | None
    size: EffectSize
    p_adjusted: float
    verdict: Verdict
    seeds_needed: int | None
    sentence: str

    @property
    def is_headline(self) -> bool:
        """Whether it is an attack's on a recommender that was trained on its images: what a study is asked for."""
        return self.control is None and self.scenario == "poisoning"

    @property
    def row(self) -> dict[str, Any]:
        """The values by column of ``effects.csv``; None where there is none."""
        values = {name: getattr(self, name) for name in (*LABELS, "epsilon")}
        for each in fields(EffectSize):
            value = getattr(self.size, each.name)
            if isinstance(value, MeanSquares):
                values |= {f"mean_square_of_{name}": getattr(value, name) for name in SQUARES}
            elif isinstance(value, Interval):
                values |= {each.name: value.mean, f"{each.name}_low": value.low, f"{each.name}_high": value.high}
            elif each.name == "relative":
                values |= dict.fromkeys((each.name, f"{each.name}_low", f"{each.name}_high"))
            else:
                values[each.name] = value
        others = ("p_adjusted", "verdict", "seeds_needed", "sentence")
        return values | {name: getattr(self, name) for name in others}

    @property
    def cells(self) -> dict[str, Any]:
        """The row as it is written; what the effect does not have is empty."""
        return {name: "" if value is None else to_cell(value) for name, value in self.row.items()}

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> "Effect":
        """Return the effect of a row of ``effects.csv``.

        Raises:
            KeyError: If a column is missing.
            ValueError: If a value is no number that must be one.
        """
        size: dict[str, Any] = {}
        for each in fields(EffectSize):
            if each.name in ("difference", "relative"):
                bounds = [_number(row[name]) for name in (each.name, f"{each.name}_low", f"{each.name}_high")]
                size[each.name] = None if None in bounds else Interval(*bounds)  # type: ignore[arg-type]
            elif each.name != "squares":
                number = _number(row[each.name])
                size[each.name] = int(number) if each.name in ("seeds", "users") and number is not None else number
        squares = {name: float(row[f"mean_square_of_{name}"]) for name in SQUARES}
        size["squares"] = MeanSquares(**squares, num_seeds=size["seeds"], num_users=size["users"])
        texts = {name: from_cell(row[name]) or None for name in LABELS}
        needed = _number(row["seeds_needed"])
        return cls(
            **texts,  # type: ignore[arg-type]
            epsilon=_number(row["epsilon"]),
            size=EffectSize(**size),
            p_adjusted=float(row["p_adjusted"]),
            verdict=row["verdict"],  # type: ignore[arg-type]
            seeds_needed=None if needed is None else int(needed),
            sentence=from_cell(row["sentence"]),
        )


def _number(text: str) -> float | None:
    return float(text) if text else None


def effects_of(cells: Sequence[Cell], users: ReadUsers, top_k: int, statistics: Statistics) -> list[Effect]:
    """Return the effects of all attacks and controls of a study, in the order of its cells.

    A cell without attack and one with it are compared user by user where the seed is the same. For other seeds without
    attack, each is compared with the study's own seed beside which it stands.

    Args:
        cells: All cells.
        users: Reads a cell's users.
        top_k: K of the study.
        statistics: How effects are judged.

    Raises:
        CatwalkError: If a cell's users are not those of the others.
    """
    smallest_effect, confidence = statistics.smallest_effect, statistics.confidence
    found: list[Effect] = []
    with_lists = [cell for cell in cells if cell.recommender is not None]
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in with_lists:
        groups.setdefault(tuple(getattr(cell, name) for name in LABELS), []).append(cell)
    clean = {key[:3]: places_of(group, users, top_k) for key, group in groups.items() if key[3] == NO_ATTACK}
    pending: list[tuple[Cell, EffectSize]] = []
    for key, group in groups.items():
        if key[3] != NO_ATTACK:
            before = clean[key[:3]]
            size = paired_effect(before, places_of(group, users, top_k, before.shape[1]), confidence=confidence)
            pending.append((group[0], size))
    in_family = lambda entry: tuple(getattr(entry[0], name) for name in FAMILY)  # noqa: E731
    adjusted: dict[int, float] = {}
    order = sorted(range(len(pending)), key=lambda place: tuple(map(str, in_family(pending[place]))))
    for _, places in itertools.groupby(order, key=lambda place: in_family(pending[place])):
        attacks = [place for place in places if pending[place][0].control is None]
        corrected = holm([pending[place][1].p_value for place in attacks])
        adjusted |= dict(zip(attacks, map(float, corrected), strict=True))
    for place, (cell, size) in enumerate(pending):
        p_adjusted = adjusted.get(place, size.p_value)
        decision = verdict(size, p_adjusted, smallest_effect, confidence)
        needed = None
        if decision == "cannot tell":
            needed = seeds_needed(size, smallest_effect, confidence, p_adjusted=p_adjusted)
        sentence = verdict_sentence(
            decision,
            size,
            attack=cell.attack if cell.scenario != "evasion" else f"{cell.attack} (evasion)",
            extractor=cell.extractor,
            recommender=str(cell.recommender),
            category=cell.source,
            top_k=top_k,
            smallest_effect=smallest_effect,
            confidence=confidence,
            needed=needed,
        )
        if len({each.protocol for each in cells}) > 1:
            sentence = f"{cell.protocol}: {sentence}"
        labels = {name: getattr(cell, name) for name in (*LABELS, "epsilon")}
        found.append(
            Effect(
                **labels,
                size=size,
                p_adjusted=p_adjusted,
                verdict=decision,
                seeds_needed=needed,
                sentence=sentence,
            )
        )
    return found


def places_of(cells: Sequence[Cell], users: ReadUsers, top_k: int, expected: int | None = None) -> NDArray[np.float64]:
    """Return how many places the source category takes in every user's list, ``(S, U)``, a row for each seed."""
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.seed or 0):
        rows.append(users(cell).column(f"chr@{top_k}/{cell.source}").to_numpy().astype(np.float64))
    if len({len(row) for row in rows} | ({expected} if expected is not None else set())) > 1:
        raise CatwalkError("the cells of the study have different users; run the same command again")
    return np.stack(rows)


def write_effects(effects: Iterable[Effect], path: Path) -> None:
    """Write a row for each effect; what an effect does not have is empty."""
    rows = [effect.cells for effect in effects]
    with open_text(path) as file:
        if not rows:
            return
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_effects(path: Path) -> list[Effect]:
    """Read ``effects.csv``.

    Raises:
        CatwalkError: If it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Effect.of_row(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise CatwalkError(f"{path} cannot be read: {error}; run the study again") from error
