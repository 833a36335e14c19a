"""How long the stages of a study take, and how much disk: measured by earlier results and by those of this run."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from catwalk.results.store import StageCache
from catwalk.study.stages.stage import Stage

GUESSES = {"classifier": 60.0, "accuracy": 20.0, "attack": 20.0}
"""Seconds by kind where nothing of it has been measured; they decide which stage begins first, and nothing else."""

GUESS = 5.0
"""Seconds of the other kinds."""

WORK = ("model", "trainer", "attack")
"""Settings by which two stages of a kind do the same work, whatever it is done on."""

Work = tuple[str, str]


class Cost(NamedTuple):
    """What a stage takes.

    Attributes:
        seconds: Time.
        size: Bytes of its files; None where they are not known.
    """

    seconds: float
    size: float | None = None


class Durations:
    """Costs by stage, from what was measured: of the same stage before, of the same work, or of its kind.

    Args:
        cache: Where earlier results live.
        stages: Those whose costs will be asked for.
    """

    def __init__(self, cache: StageCache, stages: Iterable[Stage]) -> None:
        self._by_title: dict[tuple[str, str], Cost] = {}
        self._by_work: dict[Work, list[Cost]] = {}
        self._by_kind: dict[str, list[Cost]] = {}
        stages = list(stages)
        datasets = tuple({f"{stage.dataset}: " for stage in stages})
        for kind in dict.fromkeys(stage.kind for stage in stages):
            for entry in sorted(cache.entries(kind), key=lambda entry: entry.written):
                record = entry.record
                title, seconds = str(record.get("title", "")), record.get("seconds")
                if title.startswith(datasets) and isinstance(seconds, int | float):
                    cost = Cost(seconds, sum(file["bytes"] for file in record["files"].values()))
                    self._by_title[kind, title] = cost
                    self._note(work_of(kind, record.get("settings") or {}), cost)

    def _note(self, work: Work, cost: Cost) -> None:
        self._by_work.setdefault(work, []).append(cost)
        self._by_kind.setdefault(work[0], []).append(cost)

    def learn(self, stage: Stage, cost: Cost) -> None:
        """Take what a stage has taken."""
        self._by_title[stage.kind, stage.title_in_store] = cost
        self._note(work_of(stage.kind, stage.settings), cost)

    def of_same_work(self, stage: Stage) -> Cost | None:
        """Return what a stage will take by what it took before, or others that do the same; None where none did."""
        cost = self._by_title.get((stage.kind, stage.title_in_store))
        return cost or _mean(self._by_work.get(work_of(stage.kind, stage.settings)))

    def measured(self, stage: Stage) -> float | None:
        """Return the seconds that a stage will take, by what was measured; None where nothing of its kind was."""
        cost = self.of_same_work(stage) or _mean(self._by_kind.get(stage.kind))
        return None if cost is None else cost.seconds

    def expected(self, stage: Stage) -> float:
        """Return the same, or a guess."""
        seconds = self.measured(stage)
        return GUESSES.get(stage.kind, GUESS) if seconds is None else seconds


def work_of(kind: str, settings: Mapping[str, Any]) -> Work:
    """Return what a stage does, whatever it is done on."""
    stated = {name: settings[name] for name in WORK if isinstance(settings.get(name), Mapping)}
    return kind, json.dumps(stated, sort_keys=True, default=str)


def _mean(costs: list[Cost] | None) -> Cost | None:
    if not costs:
        return None
    sizes = [cost.size for cost in costs if cost.size is not None]
    return Cost(sum(cost.seconds for cost in costs) / len(costs), sum(sizes) / len(sizes) if sizes else None)
