"""Processes of one run: all learn within a moment that one of them has failed, or was killed.

Whoever waits for another process in a collective waits as long as its timeout, half an hour or a day. So each process
also holds a connection to the first one, on which nothing is said until one fails; of a process that was killed the
system closes it.
"""

import contextlib
import ctypes
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from catwalk.errors import CatwalkError

GRACE = 10.0
"""Seconds that a process has to end by itself once one of the run's has failed."""

ANSWER = 3.0
"""Seconds to wait for news of another process: whether it has heard, or why it is gone."""

PAUSE = 1.0
"""Seconds until what a process does is interrupted: where all know what has failed, they are about to raise it."""

CONNECT = 30.0
"""Seconds within which a process must reach the first one."""

LIMIT = 1 << 16
"""Bytes that a message may have."""


class Failure(NamedTuple):
    """What ended a process.

    Attributes:
        rank: Number of the process.
        why: ``error``, ``stopped`` by a signal, or ``lost``: killed, crashed or cut off, without a word.
        line: What it said last; empty for one that was lost.
        code: Exit code with which the others are to end.
    """

    rank: int
    why: Literal["error", "stopped", "lost"]
    line: str
    code: int

    def sentence(self, world_size: int) -> str:
        """Return the failure as a line of a message."""
        process = f"process {self.rank} of 0..{world_size - 1}"
        if self.why == "lost":
            return (
                f"{process} was killed or has crashed, and all end with it; where the system was short of memory its "
                "log says so"
            )
        return f"{process}: {self.line}"


class PeerFailed(BaseException):
    """Another process of the run has failed; raised where this one runs, wherever that is."""

    def __init__(self, text: str = "another process of the run has failed") -> None:
        super().__init__(text)


class OtherProcessError(CatwalkError):
    """Another process of the run has failed.

    Args:
        message: Which, and why.
        code: Exit code with which this process is to end.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Peers:
    """This process's connection to the others.

    A thread of its own listens. When another process has failed it raises :class:`PeerFailed` in the thread
    that made this, and ends the process where that does not come out of what it is in within :data:`GRACE` seconds.

    Args:
        rank: Number of this process.
        world_size: How many there are.
        speaks: Whether this process tells the user, as one on each machine does.
        on_failure: Called by the thread with the failure of another process, before anything else.
    """

    def __init__(
        self, rank: int, world_size: int, speaks: bool, on_failure: Callable[[Failure], None] = lambda failure: None
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.failure: Failure | None = None
        self._speaks = speaks
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._known, self._heard = threading.Event(), threading.Event()
        self._is_ending = self._is_leaving = self._is_closed = False
        self._interruption: float | None = None
        self._deadline: float | None = None
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        self._listener: socket.socket | None = None
        self._token = ""
        self._waker, self._wakes = socket.socketpair()
        self._selector.register(self._wakes, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._listen, name="peers", daemon=True)
        self._worker = threading.get_ident()

    def open(self, address: str) -> tuple[int, str]:
        """In process 0: begin to listen for the others, and return the port and the word by which they are known."""
        is_local = address in ("127.0.0.1", "localhost", "::1")
        host, family = (address if is_local else ""), socket.AF_INET
        dual = not is_local and socket.has_dualstack_ipv6()
        if dual or address == "::1":
            family = socket.AF_INET6
        self._listener = socket.create_server((host, 0), family=family, backlog=self.world_size, dualstack_ipv6=dual)
        self._token = secrets.token_hex(16)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return int(self._listener.getsockname()[1]), self._token

    def join(self, address: str, port: int, token: str) -> None:
        """In another process: connect with process 0.

        Raises:
            OSError: If it cannot be reached.
        """
        connection = _Connection(socket.create_connection((address, port), timeout=CONNECT), rank=0)
        connection.send({"token": token, "rank": self.rank})
        self._add(connection)
        self._thread.start()

    def announce(self, why: Literal["error", "stopped"], line: str, code: int) -> None:
        """Tell the others that this process fails, and wait until they have been told, unless it is they who failed."""
        with self._lock:
            self._is_ending = True
            if self.failure is not None:
                return
            self._deadline = time.monotonic() + GRACE
        self._tell_all({"failed": [self.rank, why, line[: LIMIT // 8], code]})
        if self.rank != 0:
            self._heard.wait(ANSWER)

    @property
    def was_heard(self) -> bool:
        """Whether process 0 knows of this process's failure, or this one of another's, which is told."""
        return self._heard.is_set() or self.failure is not None

    def wait_for_news(self) -> Failure | None:
        """Return the failure of another process, which may be about to be known."""
        with self._lock:
            self._is_ending = True  # from here on there is nothing to interrupt
        self._known.wait(ANSWER)
        return self.failure

    def close(self) -> None:
        """Take leave: the end of this process is no failure any more."""
        with self._lock:
            if self._is_leaving:
                return
            self._is_ending = self._is_leaving = True
        self._tell_all({"done": self.rank})
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._waker.send(b".")
        if self._thread.is_alive():
            self._thread.join(ANSWER)

    def _tell_all(self, message: Mapping[str, Any], besides: int | None = None) -> None:
        for connection in list(self._connections.values()):
            if connection.rank != besides:
                with contextlib.suppress(OSError):
                    connection.send(message)

    def _add(self, connection: "_Connection") -> None:
        self._connections[connection.rank] = connection
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _drop(self, connection: "_Connection") -> None:
        if connection.is_known:
            self._connections.pop(connection.rank, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _listen(self) -> None:
        """Hear what the others say, until this process takes leave."""
        while not self._is_closed:
            for key, _ in self._selector.select(0.25):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data is not None:
                    self._hear(key.data)
            if self._interruption is not None and time.monotonic() > self._interruption:
                self._interrupt()
            if self._deadline is not None and time.monotonic() > self._deadline and not self._is_closed:
                self._end_now()
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        for each in (self._listener, self._waker, self._wakes):
            if each is not None:
                each.close()

    def _accept(self) -> None:
        """Let somebody in, who is to say the word first."""
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection = _Connection(self._listener.accept()[0])
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _welcome(self, connection: "_Connection", hello: Mapping[str, Any]) -> None:
        """Take somebody for one of the processes, or raise a ValueError."""
        if not secrets.compare_digest(str(hello.get("token")).encode(), self._token.encode()):
            raise ValueError("a stranger")
        connection.rank = int(hello["rank"])
        self._connections[connection.rank] = connection
        if self.failure is not None:
            with contextlib.suppress(OSError):
                connection.send({"failed": list(self.failure)})

    def _hear(self, connection: "_Connection") -> None:
        try:
            messages, is_open = connection.receive()
            if not connection.is_known and messages:
                self._welcome(connection, messages.pop(0))
        except (OSError, ValueError):
            messages, is_open = [], False
        for message in messages:
            if "failed" in message:
                rank, why, line, code = message["failed"]
                with contextlib.suppress(OSError):
                    connection.send({"heard": rank})
                self._learn(Failure(int(rank), why, str(line), int(code)))
            elif "heard" in message:
                self._heard.set()
            elif "done" in message:
                connection.is_done = True
        if not is_open:
            self._drop(connection)
            if connection.is_known and not connection.is_done:
                self._learn(Failure(connection.rank, "lost", "", 2))

    def _learn(self, failure: Failure) -> None:
        """Take note of the first failure of another process."""
        with self._lock:
            if self.failure is not None or self._is_leaving or failure.rank == self.rank:
                return
            self.failure = failure
            self._interruption = time.monotonic() + PAUSE
            self._deadline = self._interruption + GRACE
        self._tell_all({"failed": list(failure)}, besides=failure.rank)
        self._on_failure(failure)
        self._known.set()

    def _interrupt(self) -> None:
        """Interrupt what the process does, unless it is about to end by itself."""
        self._interruption = None
        with self._lock:
            if not self._is_ending and self.failure is not None:
                _raise_in(self._worker, self.failure.sentence(self.world_size))

    @property
    def is_spokesman(self) -> bool:
        """Whether this process tells the user: one on each machine, or the next one where process 0 is lost."""
        is_orphan = self.failure is not None and self.failure[:2] == (0, "lost")
        return self._speaks or (is_orphan and self.rank == 1)

    def _end_now(self) -> None:
        """End the process, which waits for those that are gone."""
        if self.is_spokesman and self.failure is not None:
            print(f"catwalk: error: {self.failure.sentence(self.world_size)}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(1 if self.failure is None else self.failure.code)


class _Connection:
    """Messages over a socket, a line of JSON each."""

    def __init__(self, connected: socket.socket, rank: int = -1) -> None:
        self.socket = connected
        self.rank = rank
        self.is_done = False
        self._rest = b""
        connected.settimeout(ANSWER)
        # A machine that is cut off closes nothing: the system asks it after ten seconds, three times.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    @property
    def is_known(self) -> bool:
        """Whether it is known who is at the other end."""
        return self.rank >= 0

    def send(self, message: Mapping[str, Any]) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the messages that have come, and whether more may come."""
        received = self.socket.recv(LIMIT)
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LIMIT:
            raise ValueError("a message without an end")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("something else than messages")
        return messages, bool(received)


def _raise_in(thread: int, text: str) -> None:
    """Raise :class:`PeerFailed` in a thread, when it next runs Python."""
    kind = type("PeerFailed", (PeerFailed,), {"__init__": lambda self: PeerFailed.__init__(self, text)})
    kind.__module__ = PeerFailed.__module__
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))
