"""How long the stages of a study take: measured by earlier results and by those of this run."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from catwalk.results.store import StageCache
from catwalk.study.stages.stage import Stage

GUESSES = {"classifier": 60.0, "accuracy": 20.0, "attack": 20.0}
"""Seconds by kind where nothing of it has been measured; they decide which stage begins first, and nothing else."""

GUESS = 5.0
"""Seconds of the other kinds."""

WORK = ("model", "trainer", "attack")
"""Settings by which two stages of a kind do the same work, whatever it is done on."""

Work = tuple[str, str]


class Durations:
    """Seconds by stage, from what was measured: of the same stage before, of the same work, or of its kind.

    Args:
        cache: Where earlier results live.
        stages: Those whose durations will be asked for.
    """

    def __init__(self, cache: StageCache, stages: Iterable[Stage]) -> None:
        self._by_title: dict[tuple[str, str], float] = {}
        self._by_work: dict[Work, list[float]] = {}
        self._by_kind: dict[str, list[float]] = {}
        stages = list(stages)
        datasets = tuple({f"{stage.dataset}: " for stage in stages})
        for kind in dict.fromkeys(stage.kind for stage in stages):
            for entry in sorted(cache.entries(kind), key=lambda entry: entry.written):
                record = entry.record
                title, seconds = str(record.get("title", "")), record.get("seconds")
                if title.startswith(datasets) and isinstance(seconds, int | float):
                    self._by_title[kind, title] = seconds
                    self._note(kind, record.get("settings") or {}, seconds)

    def _note(self, kind: str, settings: Mapping[str, Any], seconds: float) -> None:
        self._by_work.setdefault(work_of(kind, settings), []).append(seconds)
        self._by_kind.setdefault(kind, []).append(seconds)

    def learn(self, stage: Stage, seconds: float) -> None:
        """Take what a stage has taken."""
        self._by_title[stage.kind, stage.title_in_store] = seconds
        self._note(stage.kind, stage.settings, seconds)

    def measured(self, stage: Stage) -> float | None:
        """Return how long a stage will take, by what was measured; None where nothing of its kind was."""
        seconds = self._by_title.get((stage.kind, stage.title_in_store))
        if seconds is not None:
            return seconds
        same = self._by_work.get(work_of(stage.kind, stage.settings)) or self._by_kind.get(stage.kind)
        return sum(same) / len(same) if same else None

    def expected(self, stage: Stage) -> float:
        """Return the same, or a guess."""
        seconds = self.measured(stage)
        return GUESSES.get(stage.kind, GUESS) if seconds is None else seconds


def work_of(kind: str, settings: Mapping[str, Any]) -> Work:
    """Return what a stage does, whatever it is done on."""
    stated = {name: settings[name] for name in WORK if isinstance(settings.get(name), Mapping)}
    return kind, json.dumps(stated, sort_keys=True, default=str)
