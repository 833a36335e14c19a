"""What a terminal would obey never reaches it, whatever prints it."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from catwalk.cli import main as cli
from catwalk.errors import CatwalkError
from catwalk.terminal.screen_text import SOURCES, UNSAFE, _show_warning, printable, protect

UNSAFE_TEXTS = {
    "colour": ("\x1b[31mred", r"\x1b[31mred"),
    "title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "C1": ("\x9b2J", r"\x9b2J"),
    "carriage return": ("all fine\rbad", r"all fine\rbad"),
    "backspace": ("a\x08b", r"a\x08b"),
    "override": ("a\u202egnp.exe", r"a\u202egnp.exe"),
    "isolate": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "surrogate": ("a\udcffb", r"a\udcffb"),
    "delete": ("a\x7fb", r"a\x7fb"),
    "line separator": ("a\u2028b", r"a\u2028b"),
}


@pytest.fixture(autouse=True)
def protected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Protect the process, for one test."""
    monkeypatch.setattr(Console, "render", Console.render)
    monkeypatch.setattr(Console, "render_str", Console.render_str)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    factory = logging.getLogRecordFactory()
    protect()
    protect()  # once is enough, and twice does no harm
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize("text", ["plain", "Ä 鞋 👩‍👩‍👧 ✓", "two\nlines\tand a tab", "עברית", "a\\b"])
def test_other_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("name", UNSAFE_TEXTS)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_rich(name: str, is_terminal: bool) -> None:
    text, shown = UNSAFE_TEXTS[name]
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, color_system=None, width=120)
    console.print(escape(text))
    console.print(text, markup=False)
    console.print(Text(f"as a Text {text}"))
    table = Table(text, title=escape(text))
    table.add_row(escape(text))
    console.print(table)
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        progress.add_task(escape(text))
    printed = file.getvalue()
    assert printed.count(shown) >= 5
    lines = [line for line in printed.splitlines() if shown in line]
    assert not any(UNSAFE.search(line.removeprefix("\x1b[?25l")) for line in lines), printed
    (row,) = [line for line in printed.splitlines() if line.startswith("│")]
    (edge,) = [line for line in printed.splitlines() if line.startswith("└")]
    assert len(row) == len(edge)  # the table is straight


def test_colours_of_ours_stay() -> None:
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard").print("[red]colour[/]")
    assert file.getvalue() == "\x1b[31mcolour\x1b[0m\n"


@pytest.mark.parametrize("name", UNSAFE_TEXTS)
def test_error_lines_warnings_and_log_lines(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, shown = UNSAFE_TEXTS[name]

    def refused(_: object) -> None:
        raise CatwalkError(f"cannot read {text}")

    monkeypatch.setattr(cli, "_dispatch", refused)
    with pytest.raises(SystemExit):
        cli.main(["data"])
    logger, handler = logging.getLogger("catwalk.test"), logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logger, "handlers", [handler])
    logger.error("of %s", text)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning  # pytest has its own
        warnings.warn(f"about {text}", stacklevel=1)
        rank_zero_warn(f"from Lightning about {text}")
    err = capsys.readouterr().err
    assert f"catwalk: error: cannot read {shown}" in err
    assert f"of {shown}" in err
    assert f"about {shown}" in err
    assert f"from Lightning about {shown}" in err
    assert not UNSAFE.search(err), err


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("callbacks/attack_gallery.py", "warning: two lines\n"),
        ("catwalk/shop/images.py", "warning: two lines\n"),
        ("benchmarks/timing.py", "{place}:7: UserWarning: two\nlines\n"),
        ("elsewhere/catwalk/shop/images.py", "{place}:7: UserWarning: two\nlines\n"),
    ],
)
def test_a_warning_of_ours_is_a_line(place: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{SOURCES}/{place}"
    _show_warning(UserWarning("two\nlines"), UserWarning, path, 7, line="")
    assert capsys.readouterr().err == shown.format(place=path)


def test_lightning_says_where_a_warning_of_ours_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("rank_zero_warn('about images')", str(SOURCES / "catwalk" / "shop" / "images.py"), "exec")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning
        exec(code, {"rank_zero_warn": rank_zero_warn})
    assert capsys.readouterr().err == "warning: about images\n"
