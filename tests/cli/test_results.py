"""``catwalk results``: a store with results of one study, of another one, and of nobody."""

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catwalk.cli.main import main
from catwalk.results.keys import Inputs
from catwalk.results.record import Origin
from catwalk.results.store import StageCache

USED = {"classifier/aa": "one", "features/bb": "one, two", "attack/cc": "two"}
UNUSED = ("attack/dd", "features/ee")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    store = StageCache(folder / "cache")

    def make(place: Path) -> dict[str, int]:
        (place / "images").mkdir()
        (place / "images" / "1.png").write_bytes(bytes(range(256)) * 40)
        return {"metric": 1}

    for number, place in enumerate((*USED, *UNUSED)):
        origin = Origin(f"Shop: result {number}", Inputs({}, {}, "2"))
        store.write(*place.split("/"), make, None, origin)
        assert store.has(*place.split("/"))  # which notes that it was verified
    for study in ("one", "two"):
        (folder / study).mkdir()
        stages = {place: place for place, users in USED.items() if study in users.split(", ")}
        (folder / study / "manifest.json").write_text(json.dumps({"stages": stages}))
    return folder


@pytest.fixture
def results(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the command, with what it printed and its exit code."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(command: str, *options: str) -> tuple[list[str], str, int]:
        code = 0
        try:
            main(["results", command, "--folder", str(runs), *options])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return [" ".join(re.sub("[│┃]", " ", line).split()) for line in out.splitlines()], err, code

    return run


def entries(runs: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (runs / "cache").glob("[!.]*/*")}


def test_show_lists_what_is_there_and_who_uses_it(runs, results) -> None:
    lines, err, code = results("show")
    assert (err, code) == ("", 0)
    for number, place in enumerate((*USED, *UNUSED)):
        (line,) = [line for line in lines if f"Shop: result {number}" in line]
        folder = runs / "cache" / place
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert line.startswith(f"{place.split('/')[0]} Shop: result {number} {size / 1000:.1f} kB 20")
        assert re.fullmatch(r".* 20\d\d-\d\d-\d\d \d\d:\d\d" + f" {USED.get(place, '')}".rstrip(), line)
    assert lines[-1].startswith("5 results, ")


def test_verify_finds_what_was_verified_before_and_damaged_since(runs, results) -> None:
    lines, err, code = results("verify")
    assert (lines, err, code) == ([f"5 results in {runs / 'cache'} are as they were written"], "", 0)
    image = runs / "cache" / "attack" / "dd" / "images" / "1.png"
    content = bytearray(image.read_bytes())
    content[5000:5016] = bytes(16)
    image.write_bytes(content)
    (runs / "cache" / "features" / "bb" / "stage.json").unlink()
    before = entries(runs)
    lines, err, code = results("verify")
    assert lines == [
        "attack/dd: images/1.png was changed after it was written",
        "features/bb: stage.json is missing or damaged",
    ]
    assert code == 2
    assert err.startswith(f"catwalk: error: 2 of 5 results in {runs / 'cache'} are damaged: ")
    assert entries(runs) == before


def test_clean_removes_what_no_study_uses(runs, results) -> None:
    os.truncate(runs / "cache" / "features" / "ee" / "images" / "1.png", 7)
    assert StageCache(runs / "cache").take("features", "ee") is None  # and sets it aside
    before = entries(runs)
    unused = {"attack/dd", "damaged/features-ee-1"}
    lines, err, code = results("clean", "--dry-run")
    assert (err, code) == ("", 0)
    assert {line.split(" · ")[0] for line in lines[:-1]} == {f"would be removed: {place}" for place in unused}
    assert entries(runs) == before
    lines, err, code = results("clean")
    assert {line.split(" · ")[0] for line in lines[:-1]} == {f"removed: {place}" for place in unused}
    assert "attack/dd · Shop: result 3 · 1" in " ".join(lines)
    assert lines[-1].startswith("2 results, ")
    assert entries(runs) == USED.keys()
    assert not (runs / "cache" / ".verified" / "attack-dd.json").exists()
    assert results("verify")[2] == 0
    assert results("clean")[0] == ["0 results, 0 bytes, removed"]


def test_nothing_is_removed_while_a_run_makes_a_result(runs, results) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def make(folder: Path) -> dict[str, int]:
        has_begun.set()
        may_end.wait(60)
        return {}

    with ThreadPoolExecutor() as pool:
        made = pool.submit(StageCache(runs / "cache").write, "recommender", "ff", make)
        assert has_begun.wait(60)
        _, err, code = results("clean")
        may_end.set()
        assert made.result() is True
    assert code == 2
    assert f"process {os.getpid()} is making recommender/ff, and its study says only at its end what it uses" in err
    assert entries(runs) == {*USED, *UNUSED, "recommender/ff"}


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": 3}', "\x00"])
def test_a_damaged_manifest_protects_everything(runs, results, text: str) -> None:
    (runs / "two" / "manifest.json").write_text(text)
    _, err, code = results("clean")
    assert code == 2
    assert err.startswith(f"catwalk: error: {runs / 'two' / 'manifest.json'} is damaged, so that nobody can say which")
    assert len(err.splitlines()) == 1
    assert entries(runs) == {*USED, *UNUSED}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--folder", "nowhere"], "folder: there are no results in nowhere/cache; give the folder to which"),
        (["shwo"], ""),
        (["clean", "--dry-rnu"], ""),
        ([], "command is missing; it is one of show, verify, clean"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["results", *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"catwalk: error: {message}")
