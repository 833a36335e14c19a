"""Runs the stages of a study that are left to do, in the order of what they need, several side by side."""

import heapq
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, Literal

from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.limits import check_count
from catwalk.results.store import StageCache, Tell
from catwalk.study.durations import Cost, Durations
from catwalk.study.progress import StudyDisplay
from catwalk.study.ray_cluster import RayCluster
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.stage import Stage
from catwalk.study.workers import Backend, Executor, ThisMachine
from catwalk.terminal.progress import duration

PAUSE = 0.1
"""Seconds between two looks at what the workers report."""

Place = tuple[str, str]
"""Kind and key of a stage."""

ExecutorName = Literal["local", "ray"]
"""Where stages run: in processes of this machine, or on a Ray cluster."""


@dataclass
class Schedule:
    """Which stages wait, and which of them may begin.

    A stage may begin when all that it is made of is there. Of those that may, the first is the one on which the longest
    chain of others depends, by the seconds that they are expected to take.

    Attributes:
        stages: Those left to do, each once, inputs first.
        durations: How long they take.
        workers: How many run at a time.
    """

    stages: Sequence[Stage]
    durations: Durations
    workers: int
    began: dict[Place, float] = field(default_factory=dict)
    ended: set[Place] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_place = {place_of(stage): stage for stage in self.stages}
        self._needs = {place: set(self._waited_for(stage)) for place, stage in self._by_place.items()}
        self._sorter = TopologicalSorter(self._needs)
        self._sorter.prepare()
        self._rank = {place: number for number, place in enumerate(self._by_place)}
        self._ready: list[tuple[float, int, Place]] = []

    def _waited_for(self, stage: Stage) -> Iterator[Place]:
        """Yield the stages that must end first, those behind a result that is there already included."""
        for needed in stage.inputs:
            place = place_of(needed)
            if place in self._by_place:
                yield place
            else:
                yield from self._waited_for(needed)

    def chains(self) -> dict[Place, float]:
        """Return by stage the seconds of the longest chain that begins with it."""
        longest_after = dict.fromkeys(self._by_place, 0.0)
        chains: dict[Place, float] = {}
        for place in reversed(list(TopologicalSorter(self._needs).static_order())):
            chains[place] = self.left_of(place) + longest_after[place]
            for needed in self._needs[place]:
                longest_after[needed] = max(longest_after[needed], chains[place])
        return chains

    def left_of(self, place: Place) -> float:
        """Return the seconds that a stage still takes, as far as anybody knows."""
        if place in self.ended:
            return 0.0
        expected = self.durations.expected(self._by_place[place])
        began = self.began.get(place)
        return expected if began is None else max(0.0, expected - (time.monotonic() - began))

    def next(self) -> Stage | None:
        """Return the stage that should begin now; None where none may."""
        new = self._sorter.get_ready()
        if new:
            chains = self.chains()
            for place in new:
                heapq.heappush(self._ready, (-chains[place], self._rank[place], place))
        if not self._ready:
            return None
        place = heapq.heappop(self._ready)[-1]
        self.began[place] = time.monotonic()
        return self._by_place[place]

    def beside(self, stage: Stage, most: int) -> list[RecommenderStage]:
        """Return further recommenders that should begin now, to be trained together with one that begins.

        Args:
            stage: The one that begins.
            most: How many are trained together at most; fewer where other workers would be left without any.
        """
        if not isinstance(stage, RecommenderStage) or stage.together_with is None:
            return []
        alike: list[RecommenderStage] = []
        for _, _, place in sorted(self._ready):
            other = self._by_place[place]
            if isinstance(other, RecommenderStage) and other.together_with == stage.together_with:
                alike.append(other)
        share = -(-(len(alike) + 1) // self.workers)
        found = alike[: min(most, share) - 1]
        places = {place_of(other) for other in found}
        self._ready = [entry for entry in self._ready if entry[-1] not in places]
        heapq.heapify(self._ready)
        self.began |= dict.fromkeys(places, time.monotonic())
        return found

    def end(self, stage: Stage, seconds: float) -> None:
        """Note that a stage has ended."""
        self.durations.learn(stage, Cost(seconds))
        self.ended.add(place_of(stage))
        self._sorter.done(place_of(stage))

    def left(self) -> str:
        """Return the time that remains, in words; nothing while nothing has been measured."""
        waiting = [stage for place, stage in self._by_place.items() if place not in self.ended]
        is_measured = [self.durations.measured(stage) is not None for stage in waiting]
        if not any(is_measured):
            return ""
        known = [place_of(stage) for stage, measured in zip(waiting, is_measured, strict=True) if measured]
        seconds = sum(map(self.left_of, known)) / self.workers
        if all(is_measured):
            return f"about {duration(max(seconds, *self.chains().values()))} left"
        return f"more than {duration(seconds)} left"


def place_of(stage: Stage) -> Place:
    """Return what tells a stage from the others of a plan."""
    return stage.kind, stage.key


def run_stages(schedule: Schedule, executor: Executor, together: int = 1) -> None:
    """Run all stages of a schedule.

    Args:
        schedule: The stages.
        executor: Runs them.
        together: How many recommenders are trained together at most.

    Raises:
        CatwalkError: That of the first stage that fails; those under way are stopped then.
    """
    under_way: dict[Future[Any], list[Stage]] = {}
    while True:
        while len(under_way) < schedule.workers and (stage := schedule.next()) is not None:
            others = schedule.beside(stage, together) if executor.trains_together and together > 1 else []
            if isinstance(stage, RecommenderStage) and others:
                under_way[executor.submit_together([stage, *others])] = [stage, *others]
            else:
                under_way[executor.submit(stage)] = [stage]
        if not under_way:
            return
        ended, _ = wait(under_way, PAUSE, FIRST_COMPLETED)
        executor.show()
        for future in ended:
            stages, taken = under_way.pop(future), future.result()
            for stage, seconds in zip(stages, taken if isinstance(taken, list) else [taken], strict=True):
                schedule.end(stage, seconds)


def backend_of(
    executor: ExecutorName, address: str | None, workers: int | None, tell: Tell, together: int = 1
) -> Backend:
    """Return where the stages of a study run.

    Args:
        executor: What the user says.
        address: Of the Ray cluster; see :class:`~catwalk.study.ray_cluster.RayCluster`.
        workers: How many stages run side by side, where the user says it.
        tell: Called with a line about what a cluster waits for, or runs again.
        together: How many recommenders are trained together at most.

    Raises:
        CatwalkError: If Ray is not installed, an address is given without it or recommenders are to be trained together
            with it, or there can be no such number of workers or recommenders.
    """
    check_count(together, "together")
    if executor == "ray":
        if together > 1:
            raise CatwalkError(
                f"together: on a Ray cluster every recommender is trained alone, got {together}; leave it out, or the "
                "executor"
            )
        return RayCluster(address, workers, tell)
    if address is not None:
        raise CatwalkError(
            f"address: {address} is that of a Ray cluster, and the stages run on this machine; give --executor ray as "
            "well, or leave the address out"
        )
    return ThisMachine(workers)


def run_waiting(
    stages: Sequence[Stage], cache: StageCache, console: Console, backend: Backend, together: int = 1
) -> None:
    """Run the stages of a study that are left to do, and show how far they are.

    Args:
        stages: The stages, inputs first.
        cache: Where their results go.
        console: Where to show it.
        backend: Where they run, and how many side by side.
        together: How many recommenders are trained together at most.

    Raises:
        CatwalkError: That of the first stage that fails, or of machines that cannot be had.
    """
    if not stages:
        return
    at_once = backend.at_once(stages)
    schedule = Schedule(stages, Durations(cache, stages), at_once)
    with (
        StudyDisplay(console, len(stages), left=schedule.left) as display,
        backend.executor(stages, at_once, display) as executor,
    ):
        run_stages(schedule, executor, together)
        backend.collect(stages)
