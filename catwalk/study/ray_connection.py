"""The connection to a Ray cluster, or to one that begins on this machine."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from catwalk.errors import CatwalkError

LOCAL = "local"
"""The address of a Ray that begins on this machine and ends with the study."""

ANSWER = 10.0
"""Seconds within which whoever listens at an address must take a connection."""


def load_ray() -> Any:
    """Return the package Ray.

    Raises:
        CatwalkError: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise CatwalkError(
            "executor: ray needs the package Ray, which is not installed; run `pip install 'catwalk[cluster]'`"
        ) from error
    return ray


@contextlib.contextmanager
def connected(address: str, processors: int | None) -> Iterator[None]:
    """Be connected to a cluster; one that whoever called us has joined is taken as it is, and stays."""
    ray = load_ray()
    if ray.is_initialized():  # by whoever called us, whose cluster it is
        yield
        return
    _require_listener(address)
    handler, is_main = signal.getsignal(signal.SIGTERM), threading.current_thread() is threading.main_thread()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody who was not asked for
        options |= {"num_cpus": processors, "include_dashboard": False}
    try:
        ray.init(address, **options)
    except Exception as error:  # Ray has many kinds for it
        ray.shutdown()  # of what has begun by then
        cause = " ".join(str(error).split()) or type(error).__name__
        raise CatwalkError(
            f"address: cannot join the Ray cluster at {address}: {cause}; start one by `ray start --head`, give the "
            "address that it prints, or ray://HOST:10001 from a machine that is not part of it"
        ) from error
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
    try:
        with _quiet(ray):
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray from printing news of lost processes, of which the study tells in a line; it has no switch for them."""
    module = ray._private.worker
    printing = getattr(module, "print_to_stdstream", None)
    module.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        module.print_to_stdstream = printing


def _require_listener(address: str) -> None:
    """Raise a CatwalkError unless somebody listens at an address; Ray itself would ask again for minutes."""
    if address in (LOCAL, "auto"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"gcs://{address}")
        host, port = parts.hostname, parts.port or (10001 if parts.scheme == "ray" else None)
    except ValueError:
        host = port = None
    if not host or port is None:
        raise CatwalkError(f"address: must be local, auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, port), ANSWER).close()
    except OSError as error:
        raise CatwalkError(
            f"address: no Ray cluster answers at {address}: {error.strerror or error}; start one by `ray start "
            "--head`, or give the address that it prints"
        ) from error
