"""Lines in a log of what takes long, where there is no terminal."""

import ast
import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from catwalk.terminal import progress
from catwalk.terminal.progress import Progress


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.005)
    monkeypatch.setattr(progress, "SOONEST", 0.02)
    monkeypatch.setattr(progress, "LATEST", 0.1)


def log() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=40), file


def wait_for(file: io.StringIO, text: str) -> None:
    end = time.monotonic() + 10
    while text not in file.getvalue():
        assert time.monotonic() < end, f"{text!r} is not in {file.getvalue()!r}"
        time.sleep(0.005)


def test_a_log_hears_of_work_that_reports_nothing() -> None:
    console, file = log()
    with Progress(console=console, transient=True) as bar:
        bar.add_task(r"C&W on \[images]", total=None)
        wait_for(file, "C&W on [images] · 0 s\n")
    assert "\r" not in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_a_line_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console, file = log()
    monkeypatch.setattr(progress, "LATEST", 1000)
    with Progress(console=console, disable=True) as bar:
        task = bar.add_task("a title that is longer than the 40 columns", total=2000, info="")
        bar.update(task, completed=199)
        time.sleep(0.1)
        assert file.getvalue() == ""  # less than a tenth
        bar.update(task, completed=1500, info="epoch 3/4")
        wait_for(file, "a title that is longer than the 40 columns · 1,500/2,000 (75%) · epoch 3/4 · 0 s\n")
        time.sleep(0.1)
    assert len(file.getvalue().splitlines()) == 1


def test_the_innermost_of_several_writes() -> None:
    console, file = log()
    with Progress(console=console, disable=True) as outer:
        outer.add_task("outer", total=None)
        with Progress(console=console, disable=True) as inner:
            inner.add_task("inner", total=None)
            wait_for(file, "inner")
        assert "outer" not in file.getvalue()
        wait_for(file, "outer")


def test_nothing_is_left_running() -> None:
    console, file = log()

    def interrupted() -> None:
        with Progress(console=console) as bar:
            bar.add_task("work", total=None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [thread for thread in threading.enumerate() if thread.name == "catwalk progress"]
    shown = file.getvalue()
    time.sleep(0.2)
    assert file.getvalue() == shown


def test_a_closed_log_disturbs_nobody() -> None:
    console, file = log()
    with Progress(console=console, disable=True) as bar:
        bar.add_task("work", total=None)
        wait_for(file, "work")
        file.close()
        time.sleep(0.2)


def test_a_terminal_has_its_bar_alone() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with Progress(console=console) as bar:
        bar.add_task("work", total=None)
        assert not [thread for thread in threading.enumerate() if thread.name == "catwalk progress"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (1620, "27 min 0 s"), (7261, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def takes_a_bar(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "rich.progress" and any(alias.name in ("Progress", "track") for alias in node.names)
    return isinstance(node, ast.Import) and any(alias.name == "rich.progress" for alias in node.names)


def test_no_module_but_ours_takes_the_bar_of_rich() -> None:
    root = Path(progress.__file__).parents[2]
    packages = ("callbacks", "catwalk", "datamodules", "lightning_modules")
    modules = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in modules}
    assert len(trees) > 100
    users = [name for name, tree in trees.items() if any(map(takes_a_bar, ast.walk(tree)))]
    assert users == ["catwalk/terminal/progress.py"]
