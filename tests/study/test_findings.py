"""What a study tells again without computing it, and when it does not."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from catwalk.study.findings import FINDINGS_FILE, Findings


@pytest.fixture
def again(finished, settings, run_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that runs a study again from the cache, its report included, and returns what it tells."""
    shutil.copytree(finished.output, tmp_path / "runs")

    def run() -> str:
        capsys.readouterr()
        assert run_study(settings, tmp_path / "runs", report=True).made == ()
        told = capsys.readouterr().out
        return told[told.index("\nTable 1") :]

    return run


class WrittenAgain(Exception):
    """What a study raises that begins to write."""


def refuse(*_: object, **__: object) -> None:
    raise WrittenAgain


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_has_not_changed_is_told_again_and_not_written(
    again, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = tmp_path / "runs" / "tiny", again()  # in another folder than before, and so written anew
    written, findings = contents(folder), folder / FINDINGS_FILE
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr("catwalk.study.write_results", refuse)
        patch.setattr("catwalk.study.report.write_report", refuse)
        assert again() == told
        (folder / "notes.txt").write_text("mine")  # nothing that a study writes
        assert again() == told
        (folder / "notes.txt").unlink()
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
        plain = json.loads(findings.read_text())["findings"]
        assert json.loads(json.dumps(Findings.of_json(plain).as_json())) == plain

        def requires_writing(change: Callable[[], object], undo: Callable[[], object]) -> None:
            change()
            with pytest.raises(WrittenAgain):
                again()
            undo()

        for name in (
            "cells.csv",
            "table2.tex",
            "plots/effects-poisoning.png",
            next(n for n in written if "users/" in n),
        ):
            path = folder / name
            requires_writing(path.unlink, lambda path=path, name=name: path.write_bytes(written[name]))
        table = folder / "table1.csv"
        edited = table.read_bytes().replace(b"0", b"1", 1)
        requires_writing(lambda: table.write_bytes(edited), lambda: table.write_bytes(written["table1.csv"]))
        lie = findings.read_text().replace("FGSM", "PGD", 1)
        requires_writing(lambda: findings.write_text(lie), lambda: findings.write_bytes(written[FINDINGS_FILE]))
        requires_writing(lambda: settings.update(confidence=0.9), lambda: settings.pop("confidence"))
        requires_writing(
            lambda: patch.setattr("catwalk.study.findings.version", lambda _: "another"),
            lambda: patch.setattr("catwalk.study.findings.version", version),
        )
        assert again() == told
    table.write_bytes(edited)
    (folder / "plots" / "effects-poisoning.png").unlink()
    (folder / "report" / "index.html").write_text("gone")
    assert again() == told
    assert contents(folder) == written
