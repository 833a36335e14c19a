"""Trainings side by side, each with a Trainer of its own, that take their steps at once."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.captured_step import CapturedStep, make_step
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.stacked_step import StackedStep

Result = TypeVar("Result")

MAY_DIFFER = ("regularization", "item_regularization", "projection_regularization", "epsilon", "adversarial_weight")
"""Settings in which the models of a stack may differ."""


class GivenUp(BaseException):
    """What ends the other trainings when the process is asked to end."""


@dataclass(frozen=True)
class _Step:
    """A step that a training waits for: its model and optimizer, and the columns ``(1, B)`` of its batch."""

    model: BPRMFModel
    optimizer: LazyAdam
    columns: tuple[Tensor, Tensor, Tensor]

    @property
    def kind(self) -> tuple[object, ...]:
        """What steps that are taken at once have in common."""
        settings: Any = self.model.settings
        stated = [getattr(settings, each.name) for each in fields(settings) if each.name not in MAY_DIFFER]
        groups = [(group["lr"], *group["betas"], group["eps"]) for group in self.optimizer.param_groups]
        sizes = [parameter.shape for parameter in self.model.parameters()]
        number = self.optimizer.state[self.model.users.weight]["step"]
        return (type(self.model), *stated, *groups, *sizes, number, self.columns[0].shape, self.columns[0].device)


class Partner:
    """One of the trainings of a :class:`Lockstep`.

    Attributes:
        waits_for: The step that it waits for.
        seconds: How long it has run, with its share of the steps that were taken for several.
    """

    def __init__(self) -> None:
        self.waits_for: _Step | None = None
        self.seconds = 0.0
        self._loss: Tensor
        self._may_run, self._has_paused = threading.Semaphore(0), threading.Semaphore(0)
        self._resumed = 0.0
        self._is_given_up = False

    def take(self, step: _Step) -> Tensor:
        """Wait until a step has been taken, and return its loss, ``(1,)``; asked by the training."""
        self.waits_for = step
        self.pause()
        self.wait()
        return self._loss

    def wait(self) -> None:
        """Wait until the training may run; in its own thread.

        Raises:
            GivenUp: If it shall not.
        """
        self._may_run.acquire()
        if self._is_given_up:
            raise GivenUp

    def pause(self) -> None:
        """Let the others run; in the training's own thread."""
        self._has_paused.release()

    def run(self) -> None:
        """Let the training run until it waits for a step, or ends."""
        self._resumed = time.perf_counter()
        self._may_run.release()
        self._has_paused.acquire()
        self.seconds = self.now()
        self._resumed = 0.0

    def go_on(self, loss: Tensor, seconds: float) -> None:
        """Take note of the step that it waits for."""
        self._loss, self.waits_for = loss, None
        self.seconds += seconds

    def give_up(self) -> None:
        """Let the training end where it next waits."""
        self._is_given_up = True
        self._may_run.release()

    def now(self) -> float:
        """Return how long the training has run by now, in seconds."""
        return self.seconds + (time.perf_counter() - self._resumed if self._resumed else 0.0)


class PartnersStep:
    """Takes the steps of one training together with those of its partners; as :class:`StackedStep` for the training.

    Args:
        partner: The training.
        model: Its model.
        optimizer: Its optimizer.
    """

    is_bound = True

    def __init__(self, partner: Partner, model: BPRMFModel, optimizer: LazyAdam) -> None:
        self._partner, self._model, self._optimizer = partner, model, optimizer

    def suits(self, batch: int) -> bool:
        """See :class:`StackedStep`."""
        return StackedStep.has_bits_of_autograd(self._model, batch)

    def take(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Take a step when all partners take one."""
        return self._partner.take(_Step(self._model, self._optimizer, (users, positives, negatives)))


class Lockstep:
    """Runs trainings each in a thread of its own, one of them at a time, and takes their steps in closed form at once.

    A training runs until it asks for such a step; when all ask, it is taken for all as by :class:`StackedStep`, and
    each gets what it would get alone. Who asks for nothing, or for a step of another kind, goes on by itself.

    Args:
        trainings: Called with a partner, which a :class:`lightning_modules.PairwiseRecommender` takes its steps with.
    """

    def __init__(self, trainings: Sequence[Callable[[Partner], Result]]) -> None:
        self._trainings = list(trainings)
        self._steps: dict[tuple[int, ...], StackedStep | CapturedStep] = {}

    def run(self) -> list[Any]:
        """Run all, and return what they return.

        Raises:
            Exception: The first one that a training has raised, when the others have ended.
        """
        partners = [Partner() for _ in self._trainings]
        results: list[Any] = [None] * len(partners)
        errors: dict[int, BaseException] = {}
        under_way = dict(enumerate(partners))

        def train(number: int) -> None:
            try:
                partners[number].wait()
                results[number] = self._trainings[number](partners[number])
            except BaseException as error:
                errors[number] = error
            finally:
                under_way.pop(number)
                partners[number].pause()

        threads = [threading.Thread(target=train, args=(number,), daemon=True) for number in under_way]
        for thread in threads:
            thread.start()
        try:
            while under_way:
                for partner in list(under_way.values()):
                    partner.run()
                self._take([partner for partner in under_way.values() if partner.waits_for is not None])
        finally:
            for partner in list(under_way.values()):
                partner.give_up()
            for thread in threads:
                thread.join()
        for number in sorted(errors):
            raise errors[number]
        return results

    def _take(self, partners: list[Partner]) -> None:
        """Take the steps that trainings wait for, those of a kind at once."""
        kinds: dict[object, list[Partner]] = {}
        for partner in partners:
            assert partner.waits_for is not None
            kinds.setdefault(partner.waits_for.kind, []).append(partner)
        for together in kinds.values():
            start = time.perf_counter()
            steps = [partner.waits_for for partner in together if partner.waits_for is not None]
            who = tuple(map(id, together))
            if who not in self._steps or not self._steps[who].is_bound:
                self._steps = {other: step for other, step in self._steps.items() if not set(other) & set(who)}
                self._steps[who] = make_step([step.model for step in steps], [step.optimizer for step in steps])
            columns = [torch.cat(column) for column in zip(*(step.columns for step in steps), strict=True)]
            losses = self._steps[who].take(*columns)
            seconds = (time.perf_counter() - start) / len(together)
            for partner, loss in zip(together, losses.split(1), strict=True):
                partner.go_on(loss, seconds)
