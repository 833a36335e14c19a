"""Fetching images from the web: many at a time, again after failures, and never twice."""

import email.utils
import hashlib
import ipaddress
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from urllib.parse import urljoin, urlsplit

import urllib3
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError, NewConnectionError, TimeoutError

from catwalk import __version__
from catwalk.errors import CatwalkError
from catwalk.shop.decoding import decode
from catwalk.terminal.progress import Progress

THREADS = 8
"""Images that are fetched at a time."""

ATTEMPTS = 5
"""Number of times that an image is asked for, where asking again may help."""

FIRST_WAIT = 1.0
"""Seconds before the second attempt; every later wait is twice as long."""

LONGEST_WAIT = 120.0
"""Seconds that a server can make us wait, however many it asks for."""

TIMEOUT = 20.0
"""Seconds in which a connection must be there, and the next bytes."""

LONGEST_ANSWER = 120.0
"""Seconds in which an image must be there whole."""

LARGEST_FILE = 20_000_000
"""Bytes above which a file is refused."""

MOST_REDIRECTS = 5
"""Redirections that are followed for one image."""

GIVE_UP = 40
"""Failures in a row after which the rest is not asked for: the network is away, or the server has had enough."""

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
"""The formats that are taken, by Pillow's names, and the endings of their files."""

GONE = ".gone"
"""Ending of the empty file that remembers an image that is no longer there."""

TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
"""Beginning of the content type of an image, where the server states one."""

WITH_IPV4 = [ipaddress.ip_network(network) for network in ("64:ff9b::/96", "::/96")]
"""IPv6 networks whose addresses end in one of IPv4, to which they may be translated."""


@dataclass(frozen=True)
class Fetched:
    """What became of addresses.

    Attributes:
        files: The files of those that could be fetched, by address.
        gone: Those whose image is no longer there.
        failed: Why the others could not be fetched, by address.
    """

    files: dict[str, Path]
    gone: frozenset[str]
    failed: dict[str, str]


class _AttemptError(Exception):
    """An attempt failed: why, and the seconds after which to try again, or None where that is useless."""

    def __init__(self, cause: str, wait: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.wait = wait


class _GoneError(Exception):
    """The server says that the image is no longer there."""


class _StoppedError(Exception):
    """Somebody else has stopped the whole."""


def fetch_images(urls: Iterable[str], folder: Path, requests_per_second: float) -> Fetched:
    """Fetch images into a folder, with a progress bar on standard error.

    A file is there whole, decodes, and is named by its address, or is not there at all; what the folder has already is
    not asked for. Only http and https are spoken, and only with public addresses: those of images come from files, and
    must not reach into the network at home. Proxies and passwords of the environment are not used.

    Args:
        urls: The addresses; one that occurs several times is fetched once.
        folder: Where the files go, and stay; it is made if it does not exist.
        requests_per_second: At most so many requests a second are sent by all threads together, those after failures
            and redirections included.

    Raises:
        CatwalkError: If so many images fail in a row that the rest would as well, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.stem: path for path in folder.iterdir() if path.suffix in (GONE, *EXTENSIONS.values())}
    wanted = list(dict.fromkeys(urls))
    missing = [url for url in wanted if file_stem(url) not in there]
    failed: dict[str, str] = {}
    fetcher = _Fetcher(folder, requests_per_second)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task("Fetching images", total=len(wanted), completed=len(wanted) - len(missing))
        in_a_row = 0
        try:
            for url, (path, cause) in zip(missing, pool.map(fetcher.fetch, missing), strict=True):
                bar.advance(task)
                if path is None:
                    failed[url] = cause
                else:
                    there[path.stem] = path
                in_a_row = in_a_row + 1 if path is None else 0
                if in_a_row == GIVE_UP:
                    raise CatwalkError(
                        f"{GIVE_UP} images in a row could not be fetched, the last one, {url}, because: {cause}; "
                        f"what was fetched stays in {folder}, and the same command goes on from there"
                    )
        except BaseException:
            fetcher.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    found = {url: there[file_stem(url)] for url in wanted if url not in failed}
    gone = frozenset(url for url, path in found.items() if path.suffix == GONE)
    return Fetched({url: path for url, path in found.items() if url not in gone}, gone, failed)


def file_stem(url: str) -> str:
    """Return the name, without its ending, of the file that an address is fetched into."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inside = parsed.ipv4_mapped or parsed.sixtofour
        if inside is None and any(parsed in network for network in WITH_IPV4):
            inside = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        parsed = parsed if inside is None else inside
    return parsed.is_global and not parsed.is_multicast


class _Fetcher:
    """Fetches one image at a time, in any number of threads.

    Attributes:
        stopped: Set to make all threads end soon.
    """

    def __init__(self, folder: Path, requests_per_second: float) -> None:
        self.stopped = threading.Event()
        self._folder = folder
        self._gap = 1 / requests_per_second
        self._turns = threading.Lock()
        self._next_turn = 0.0
        headers = {"User-Agent": f"catwalk/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
        self._pool = urllib3.PoolManager(maxsize=THREADS, headers=headers)
        self._pool.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}

    def fetch(self, url: str) -> tuple[Path | None, str]:
        """Return the file of an address, perhaps the empty one that says that it is gone; or None, and why."""
        cause = "stopped"
        for attempt in range(ATTEMPTS):
            try:
                return self._land(url, self._get(url)), ""
            except _GoneError:
                return self._mark_gone(url), ""
            except _StoppedError:
                return None, cause
            except _AttemptError as error:
                cause = error.cause
                if error.wait is None or attempt + 1 == ATTEMPTS:
                    return None, cause
                self._sleep(min(max(error.wait, FIRST_WAIT * 2**attempt), LONGEST_WAIT))
        return None, cause

    def _sleep(self, seconds: float) -> None:
        self.stopped.wait(seconds)

    def _take_turn(self) -> None:
        """Wait until another request may be sent."""
        with self._turns:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._gap
        self._sleep(turn - now)
        if self.stopped.is_set():
            raise _StoppedError

    def _get(self, url: str) -> bytes:
        """Return the body that an address leads to."""
        for _ in range(MOST_REDIRECTS + 1):
            try:
                parts = urlsplit(url)
                is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
            except ValueError:
                is_web = False
            if not is_web:
                raise _AttemptError("no web address (http or https)")
            self._take_turn()
            try:
                response = self._pool.request(
                    "GET",
                    url,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=TIMEOUT,
                )
                try:
                    target = response.get_redirect_location()
                    if not target:
                        return self._body(response)
                    url = urljoin(url, target)
                finally:
                    response.close()
            except (LocationValueError, ValueError) as error:
                raise _AttemptError("no web address (http or https)") from error
            except HTTPError as error:
                raise _AttemptError(_name_trouble(error), 0) from error
        raise _AttemptError(f"redirected more than {MOST_REDIRECTS} times")

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        _check_status(response.status, response.headers.get("Retry-After", ""))
        kind = response.headers.get("Content-Type", TYPES[0]).lower()
        if not kind.startswith(TYPES):
            raise _AttemptError(f"no image but {kind.partition(';')[0]}")
        latest = time.monotonic() + LONGEST_ANSWER
        body = bytearray()
        while chunk := response.read1(1 << 16, decode_content=False):
            body += chunk
            if len(body) > LARGEST_FILE:
                raise _AttemptError(f"larger than {LARGEST_FILE:,} bytes")
            if time.monotonic() > latest:
                raise _AttemptError(f"not there within {LONGEST_ANSWER:g} s", 0)
            if self.stopped.is_set():
                raise _StoppedError
        return bytes(body)

    def _land(self, url: str, body: bytes) -> Path:
        """Put an image where it belongs, once it is known to be one."""
        stem = file_stem(url)
        partial_file = self._folder / f"{stem}.{os.getpid()}.part"
        try:
            with partial_file.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            path = self._folder / f"{stem}{EXTENSIONS[_format_of(partial_file)]}"
            partial_file.replace(path)
        finally:
            partial_file.unlink(missing_ok=True)
        return path

    def _mark_gone(self, url: str) -> Path:
        path = self._folder / f"{file_stem(url)}{GONE}"
        path.touch()
        return path


def _format_of(path: Path) -> str:
    """Return the format of an image that decodes; a single pixel stands for an image that is gone."""
    try:
        with Image.open(path, formats=list(EXTENSIONS)) as image:
            name, size = str(image.format), image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _AttemptError("no image that can be decoded") from error
    if size == (1, 1):
        raise _GoneError
    try:
        decode(path)
    except CatwalkError as error:
        raise _AttemptError("no image that can be decoded", 0) from error  # perhaps cut short
    return name


def _check_status(status: int, retry_after: str) -> None:
    if status in (404, 410):
        raise _GoneError
    if status in (408, 425, 429) or status >= 500:
        raise _AttemptError(f"status {status}", _seconds(retry_after))
    if status != 200:
        raise _AttemptError(f"status {status}")


def _seconds(retry_after: str) -> float:
    """Return for how long a server asks to be left alone: it gives seconds or a date, or nothing."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _name_trouble(error: HTTPError) -> str:
    if isinstance(error, NameResolutionError):
        return "host unknown"
    if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
        return f"no answer within {TIMEOUT:g} s"
    return "connection refused, cut or not trusted"


def _checked(peer: socket) -> socket:
    if not is_public(peer.getpeername()[0]):
        peer.close()
        raise _AttemptError("a private address")
    return peer


class _PublicHTTPConnection(HTTPConnection):
    """A connection that nothing is sent over unless it leads to a public address."""

    def _new_conn(self) -> socket:
        return _checked(super()._new_conn())


class _PublicHTTPSConnection(HTTPSConnection):
    """The same for https, before a word of TLS."""

    def _new_conn(self) -> socket:
        return _checked(super()._new_conn())


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection
