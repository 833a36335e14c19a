"""Processes for tests that train or measure in several, forked from one that has imported everything.

To import PyTorch and Lightning takes seconds, and all tests of a session pay for it once. Run by :class:`Forked`, which
asks for one job after another: a script whose ``main`` is called in every process, told by environment variables which
one it is, as launchers tell Lightning.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple


def number() -> int:
    """Return the number of processes of the job."""
    return int(os.environ.get("PROCESSES", 1))  # Lightning removes its own variable after the first run


def settings() -> dict[str, Any]:
    """Return the arguments of a Trainer that runs in the processes of the job, on the CPU, and is quiet."""
    return {
        "accelerator": "cpu",
        "devices": number(),
        "strategy": "ddp" if number() > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def rank() -> int:
    """Return the number of this process."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


class Finished(NamedTuple):
    """What became of a job.

    Attributes:
        codes: Exit code of each process, negative the signal that killed it; None of one that had to be killed for it
            did not end.
        outputs: What each wrote on stdout and stderr.
    """

    codes: list[int | None]
    outputs: list[str]


class Forked:
    """Starts the process from which others are forked, when it is first needed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, script: Path, folder: Path, *arguments: object, processes: int = 2, timeout: float = 240, **names: str
    ) -> Finished:
        """Call a script's ``main`` with text arguments in some processes, and wait for them.

        Args:
            script: A module with a function ``main``.
            folder: Where what the processes write on the screen goes.
            arguments: Handed to it as text.
            processes: How many; a single one is told nothing.
            timeout: Seconds after which those that have not ended are killed.
            names: Environment variables.
        """
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        outputs = [str(folder / f"output{rank}.txt") for rank in range(processes)]
        job = {"script": str(script), "arguments": [*map(str, arguments)], "outputs": outputs, "environment": names}
        print(json.dumps({**job, "timeout": timeout}), file=self._server.stdin, flush=True)
        codes = json.loads(self._server.stdout.readline())
        return Finished(codes, [Path(path).read_text(errors="replace") for path in outputs])

    def check(self, *arguments: Any, **settings: Any) -> None:
        """Run a job of which every process must end well."""
        codes, outputs = self.run(*arguments, **settings)
        assert set(codes) == {0}, "\n".join(output[-3000:] for output in outputs)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()  # which has nothing to tidy up
            self._server.wait()


def _serve() -> None:
    packages = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    sys.path += packages
    import lpips  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch
    import wandb  # noqa: F401

    import catwalk.cli.lightning  # noqa: F401

    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=replies, flush=True)


def _run(job: dict[str, Any]) -> list[int | None]:
    outputs = job["outputs"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for place, output in enumerate(outputs):
        environment = {**job["environment"], "PROCESSES": str(len(outputs))}
        if len(outputs) > 1:
            environment |= {
                "LOCAL_RANK": str(place),
                "NODE_RANK": "0",
                "WORLD_SIZE": str(len(outputs)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            if sys.platform == "linux":
                environment["GLOO_SOCKET_IFNAME"] = "lo"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os._exit(_call(Path(job["script"]), job["arguments"], environment, output, place))
        children.append(child)
    return _wait(children, time.monotonic() + job["timeout"])


def _wait(children: list[int], latest: float) -> list[int | None]:
    codes: dict[int, int | None] = {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    codes[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > latest:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[child] = None
        time.sleep(0.01)
    return [codes[child] for child in children]


def _call(script: Path, arguments: list[str], environment: dict[str, str], output: str, rank: int) -> int:
    """Call the script in the process that has been forked, and return its exit code."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(environment)
    rank_zero_only.rank = rank
    sys.argv = ["catwalk"]
    sys.path[:0] = [str(script.parent), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    code = 0
    try:
        importlib.import_module(script.stem).main(*arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for each in (sys.stdout, sys.stderr):
        each.flush()
    return code


if __name__ == "__main__":
    _serve()
