"""Reads what W&B has written of a run: a log of records, in the blocks of LevelDB's, parsed by W&B's own classes."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

BLOCK, HEADER = 32768, 7
WHOLE, LAST = 1, 4
END = b"end"


@dataclass
class OfflineRun:
    """A run as its file tells it."""

    folder: Path
    about: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[ArtifactRecord] = field(default_factory=list)

    def table(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "files" / self.summary[name]["path"]).read_text())


def read_run(folder: Path) -> OfflineRun:
    """Return a run when W&B's service has written it to its end, a moment after it has ended."""
    for _ in range(1200):
        (path,) = folder.glob("run-*.wandb")
        found = list(records(path.read_bytes()))
        if found and found[-1].HasField("exit"):
            return run_of(folder, found)
        time.sleep(0.1)
    raise AssertionError(f"{folder} was not finished in 120 s")


def read_runs(output: Path) -> list[OfflineRun]:
    return [read_run(folder) for folder in sorted(output.glob("wandb/offline-run-*"))]


def records(content: bytes) -> Iterator[Record]:
    """Yield the records that are there to their end."""
    assert content[:4] in (b":W&B", b"")
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += HEADER + length
        parts += content[place - length : place]
        if kind in (WHOLE, LAST) and place <= len(content):
            yield Record.FromString(parts)
            parts = b""


def run_of(folder: Path, found: list[Record]) -> OfflineRun:
    run = OfflineRun(folder)
    for record in found:
        match record.WhichOneof("record_type"):
            case "run":
                run.about = record.run
                update(run.config, record.run.config.update)
            case "config":
                update(run.config, record.config.update)
            case "summary":
                update(run.summary, record.summary.update)
            case "history":
                run.history.append({})
                update(run.history[-1], record.history.item)
            case "metric" if record.metric.name:
                run.axes[record.metric.name] = record.metric.step_metric
            case "artifact":
                run.artifacts.append(record.artifact)
    return run


def update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = values
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)


@contextmanager
def proxy() -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """Give environment variables by which programs send all requests here, and a list of those, whole at the end."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while (request := hear(server)) != END:
                asked.append(request)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        yield {**dict.fromkeys(names, address), "NO_PROXY": "", "no_proxy": ""}, asked
        with socket.create_connection(server.getsockname()) as last:  # after all that came before
            last.sendall(END)
            thread.join(timeout=30)


def hear(server: socket.socket) -> bytes:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(5)
        return connection.recv(100)
