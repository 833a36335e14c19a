"""The processes of a run: what all have collected, and their common end."""

import contextlib
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from catwalk.errors import CatwalkError
from catwalk.terminal.peers import OtherProcessError, PeerFailed, Peers
from catwalk.terminal.stopping import GRACE, Stopped, end_processes, stopped_by

T = TypeVar("T")


def gather(own: list[T], world_size: int) -> list[T]:
    """Return what all processes have collected, those of process 0 first; in every process.

    Args:
        own: What this process has collected, tensors on the CPU.
        world_size: Number of processes.
    """
    if world_size == 1:
        return own
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, own)
    return [part for share in everyone for part in share]


def end_together(trainer: Trainer) -> "RunProcesses":
    """Let all processes of a Trainer's run end within seconds once one of them has failed or was killed.

    What waits for others in a collective would wait for its timeout otherwise, half an hour by default. Call it before
    the Trainer runs, in every process; ``catwalk fit`` and its kin do. A run in one process stays as it is.

    Args:
        trainer: The Trainer, which has not run yet.

    Returns:
        The processes. In one that has not failed itself, what the Trainer was doing raises
        :class:`~catwalk.terminal.peers.PeerFailed`, or what the collective raises whose other end is gone.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from callbacks.processes import end_together
        >>> trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
        >>> processes = end_together(trainer)
    """
    return RunProcesses(trainer)


class RunProcesses:
    """The processes of a Trainer's run; see :func:`end_together`.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy: Any = trainer.strategy
        self._peers: Peers | None = None
        self._is_open = False
        self._children: list[Any] = []
        if isinstance(trainer.strategy, ParallelStrategy):
            # Methods of this one, which can be pickled for processes that are spawned.
            methods = {"setup_environment": self._begin, "on_exception": self._fail, "teardown": self._end}
            vars(self._strategy).update(methods)

    def _begin(self) -> None:
        """Connect the processes as soon as they can speak with each other."""
        strategy = self._strategy
        type(strategy).setup_environment(strategy)
        if not self._is_open and strategy.world_size > 1:
            self._connect()

    def _connect(self) -> None:
        strategy, place = self._strategy, None
        rank, address = strategy.global_rank, strategy.cluster_environment.main_address
        peers = Peers(rank, strategy.world_size, strategy.local_rank == 0, self._take_children)
        trouble: OSError | None = None
        if rank == 0:
            try:
                place = peers.open(address)
            except OSError as error:
                trouble = error
        place = strategy.broadcast(place)
        if place is None:
            trouble = trouble or OSError("process 0 cannot listen")
        elif rank != 0:
            try:
                peers.join(address, *place)
            except OSError as error:
                trouble = error
        if trouble is None:
            self._peers, self._is_open = peers, True
        else:
            warnings.warn(
                f"process {rank} cannot connect with process 0 at {address}: {trouble}. If another process fails, this "
                "one will notice when what it waits for has timed out; let the machines reach each other's ports",
                stacklevel=2,
            )

    def _take_children(self, failure: object) -> None:
        """Take the processes that Lightning has started out of its hands: it would kill this one, too."""
        launcher = self._strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            self._children += launcher.procs
            launcher.procs.clear()

    def _fail(self, exception: BaseException) -> None:
        """Tell the others that this process fails, unless it fails because another one has."""
        type(self._strategy).on_exception(self._strategy, exception)
        peers = self._peers
        if peers is None or isinstance(exception, PeerFailed):
            return
        if _is_of_a_collective(exception) and (failure := peers.wait_for_news()) is not None:
            if hasattr(exception, "add_note"):
                exception.add_note(failure.sentence(peers.world_size))
            return
        number = stopped_by(exception)
        if number is not None:
            peers.announce("stopped", f"stopped by {signal.Signals(number).name}", 128 + number)
        elif isinstance(exception, CatwalkError):
            peers.announce("error", str(exception), 2)
        else:
            peers.announce("error", f"{type(exception).__name__}: {exception} (its traceback is in its output)", 1)

    def _end(self) -> None:
        """Take leave of the others."""
        if self._peers is not None and self._is_open:
            self._peers.close()
            self._is_open = False
        type(self._strategy).teardown(self._strategy)

    @contextlib.contextmanager
    def named(self, advice: Callable[[], str]) -> Iterator[None]:
        """Let what ends a run say which process has failed, once on each machine.

        Args:
            advice: Returns what to do now, where a process was lost; empty where nothing is known.

        Raises:
            OtherProcessError: If another process has failed.
            Stopped: If another process was stopped by a signal.
            SystemExit: If this one has failed, or another, and another process says so.
        """
        try:
            yield
            return
        except BaseException as error:
            self._end_children()
            instead = self._instead_of(error, advice)
            if instead is None:
                raise
        # Outside of the block above: an error is looked at with all that it was raised over.
        raise instead

    def _instead_of(self, error: BaseException, advice: Callable[[], str]) -> BaseException | None:
        """Return what to raise in the place of what has ended the run; None for the same."""
        peers = self._peers
        if peers is None:
            return None
        failure = peers.failure
        if isinstance(error, CatwalkError):  # all may have failed alike, and one tells
            return SystemExit(2) if peers.was_heard and not peers.is_spokesman else None
        if failure is None:
            return None
        if failure.why == "stopped":
            return None if stopped_by(error) is not None else Stopped(failure.code - 128, advice())
        if not peers.is_spokesman:
            return SystemExit(failure.code)
        text = failure.sentence(peers.world_size)
        if failure.why == "lost" and (what_to_do := advice()):
            text += f"; {what_to_do}"
        return OtherProcessError(text, failure.code)

    def _end_children(self) -> None:
        """End the processes that Lightning has started, for this one ends before its time."""
        if self._is_open and self._peers is not None:
            self._peers.close()
            self._is_open = False
        self._take_children(None)
        # They know, and have something to say themselves.
        end_processes(self._children, 0.0 if self._peers is None else GRACE)


def _is_of_a_collective(error: BaseException | None) -> bool:
    """Return whether an error is that of a collective whose other end is gone, or was raised over one."""
    kinds = (torch.distributed.DistError, torch.distributed.DistBackendError)
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, kinds) or (
            isinstance(error, RuntimeError)
            and any(word in str(error) for word in ("gloo", "NCCL", "Connection closed"))
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
