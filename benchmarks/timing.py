"""What the benchmarks have in common: rounds that take turns, the machine they ran on, and tables."""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track


@dataclass(frozen=True)
class Clock:
    """Tells the seconds at which everything that was asked of a device is done.

    Attributes:
        device: Where the work is done.
        processor_time: Count the time that this process's threads have spent on the processor, instead of the time
            that passed. With one thread it is what would pass on a machine that nobody shares.
    """

    device: torch.device
    processor_time: bool = False

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary start."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.processor_time else time.perf_counter()


def seconds_per_call(call: Callable[[], object], calls: int, warm_up: int, clock: Clock) -> float:
    """Return the mean seconds of a block of calls, after others that are not measured."""
    for _ in range(warm_up):
        call()
    start = clock.now()
    for _ in range(calls):
        call()
    return (clock.now() - start) / calls


def add_clock_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`make_clock` reads."""
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own choice")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="measure the processor's time instead of the time that passed, for a CPU that others use too; needs "
        "--threads 1",
    )


def make_clock(parser: argparse.ArgumentParser, arguments: argparse.Namespace, device: torch.device) -> Clock:
    """Set the number of threads and return the clock that the options ask for."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    # Threads that wait for one another spin, which counts as work, and a GPU's work does not count.
    if arguments.processor_time and (arguments.threads != 1 or device.type != "cpu"):
        parser.error("--processor-time: needs --threads 1 and the CPU")
    return Clock(device, arguments.processor_time)


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int, title: str) -> dict[str, list[float]]:
    """Let every contestant measure itself once per round, in the order given.

    Whatever slows the machine down for a while then slows down all of them, and the best of the rounds is what each can
    do when nothing does.

    Args:
        contestants: By name, what runs one measurement and returns its seconds.
        rounds: How many rounds, at least 1.
        title: What the progress bar, on stderr, is called.

    Returns:
        The seconds of each contestant, one per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    turns = [name for _ in range(rounds) for name in contestants]
    for name in track(turns, title, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        gc.collect()
        seconds[name].append(contestants[name]())
    return seconds


def describe_run(clock: Clock, packages: Iterable[str]) -> str:
    """Return one line on the machine, the threads, the clock and the versions in use."""
    parts = [torch.cuda.get_device_name(clock.device)] if clock.device.type == "cuda" else []
    parts += [f"{processor()}, {os.cpu_count()} cores", f"threads: {torch.get_num_threads()}"]
    parts += ["processor time" if clock.processor_time else "wall-clock time"]
    parts += [f"Python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
    return "; ".join(parts)


def processor() -> str:
    """Return the processor's name, and its family and model where Linux tells them: the name alone may say little."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    facts: dict[str, str] = {}
    for name, _, value in pairs:
        facts.setdefault(name.strip(), value.strip())
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
