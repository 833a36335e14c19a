"""What a study shows while it runs and when it is done."""

import re
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from catwalk.study.progress import StudyDisplay


@pytest.fixture
def one_cell(settings):
    """Return the settings of a study with one attack and one recommender."""
    del settings["recommenders"]["BPR-MF"]
    del settings["attacks"][0]
    settings["seeds"] = [0]
    del settings["lpips"]  # AlexNet's gives a note on images as small as these
    return settings


@pytest.mark.parametrize("columns", [80, 100])
def test_it_fits_into_a_terminal_and_is_not_cluttered(
    one_cell, run_study, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does outside of tests
        run_study(one_cell, tmp_path / "runs")
    assert [str(warning.message) for warning in shown] == []
    captured = capfd.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert max(map(len, lines)) <= columns
    done = [line for line in lines if line.startswith("✓")]
    assert len(done) == 5 + 2 + 2
    assert all(re.search(r" · \d+\.\d s$", line) for line in done)
    for title in ("Table 1: CHR@20 of Sandal", "Table 2: what", "Networks: accuracy on"):
        assert any(line.startswith(title) for line in lines)
    assert not [line for line in lines if re.search(r"\[/?[a-z]", line)]  # no markup left over
    told = " ".join(captured.out.split())
    assert told.count("purchases to train on") == told.count("so that recommenders are trained on the future") == 1


def test_every_stage_moves_the_bar_to_its_end(
    one_cell, run_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    begin, update = StudyDisplay.stage, StudyDisplay.update

    def begin_and_tell(self: StudyDisplay, description: str):
        seen[description] = []
        return begin(self, description)

    def update_and_tell(self: StudyDisplay, done: int, total: int, info: str = "") -> None:
        list(seen.values())[-1].append((done, total))
        update(self, done, total, info)

    monkeypatch.setattr(StudyDisplay, "stage", begin_and_tell)
    monkeypatch.setattr(StudyDisplay, "update", update_and_tell)
    run_study(one_cell, tmp_path / "runs")
    assert len(seen) == 5 + 2 + 2
    for description, steps in seen.items():
        assert steps, description
        assert steps[-1][0] == steps[-1][1] > 0, description
        assert all(0 <= done <= total for done, total in steps), description


def test_names_with_brackets_are_shown_as_they_are() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = StudyDisplay(console, 1)
    progress.done("CNN [bold]T[/bold]", "accuracy [1]", 2.0)
    assert "CNN [bold]T[/bold] · accuracy [1] · 2.0 s" in console.export_text()
