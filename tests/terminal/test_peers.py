"""The connection by which processes learn of each other's end; test_end_together.py has whole runs."""

import socket
import time

import pytest

from catwalk.terminal import peers as module
from catwalk.terminal.peers import PeerFailed, Peers


@pytest.fixture
def first(monkeypatch):
    """Return process 0, which listens."""
    monkeypatch.setattr(module, "PAUSE", 0.05)
    monkeypatch.setattr(Peers, "_end_now", lambda self: None)
    first = Peers(0, 3, speaks=True)
    first.place = first.open("127.0.0.1")
    yield first
    first.close()


@pytest.fixture
def join(first):
    """Return a function that connects another process."""
    joined = []

    def join(rank):
        joined.append(Peers(rank, 3, speaks=False))
        joined[-1].join("127.0.0.1", *first.place)
        wait_until(lambda: rank in first._connections)
        return joined[-1]

    yield join
    for each in joined:
        each.close()


def wait_until(condition):
    latest = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.005)


def test_who_takes_leave_is_not_missed(first, join):
    for each in (join(1), join(2)):
        each.close()
    wait_until(lambda: not first._connections)
    assert first.failure is None


def test_strangers_change_nothing(first, join):
    for words in (b"", b"hello\n", b'{"token": "a", "rank": 1}\n', b'{"rank": 1}\n', b"[1]\n"):
        with socket.create_connection(("127.0.0.1", first.place[0])) as stranger:
            stranger.sendall(words)
    other = join(2)
    assert first.failure is None
    assert other.failure is None


def test_one_that_is_gone_ends_the_others(first, join):
    gone, other = join(1), join(2)
    for each in (gone, other):  # here all are one process, and one of them is to be interrupted
        each._is_ending = True
    with pytest.raises(PeerFailed, match=r"process 1 of 0\.\.2 was killed"):  # noqa: PT012 - whenever it comes
        gone._connections[0].socket.shutdown(socket.SHUT_RDWR)
        while True:
            time.sleep(0.005)
    wait_until(lambda: other.failure is not None)
    assert first.failure == other.failure == (1, "lost", "", 2)


def test_what_one_says_is_known_to_all(first, join):
    failing, other = join(1), join(2)
    for each in (first, other):
        each._is_ending = True  # nothing is to be interrupted
    failing.announce("error", "the disk is full", 2)
    assert failing.was_heard
    wait_until(lambda: other.failure is not None)
    assert first.failure == other.failure == (1, "error", "the disk is full", 2)
    assert failing.failure is None
