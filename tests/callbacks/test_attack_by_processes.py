"""Processes share an attack: the files and metrics of one, each its part of the work, and none waits for the dead."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from catwalk.results.record import RECORD_FILE

SCRIPT = Path(__file__).with_name("attack_in_processes.py")


@pytest.fixture
def attack(forked, shop, features, trained, recommender, tmp_path: Path):
    """Return a function that attacks in some processes; it returns their exit codes and the folder of their reports."""

    def run(name: str, processes: int, output: Path, command: str = "test") -> tuple[list[int | None], Path]:
        said = tmp_path / f"{name} by {processes} to {output.name}"
        said.mkdir()
        arguments = [shop, features, trained.checkpoint, recommender, output, name, command, said]
        return forked.run(SCRIPT, said, *arguments, processes=processes).codes, said

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reports(said: Path, processes: int) -> list[dict]:
    return [json.loads((said / f"report{rank}.json").read_text()) for rank in range(processes)]


def errors(said: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(said.glob("output*")))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("pgd", 2), ("pgd", 4), ("cw", 2), ("matching", 2), ("rank", 2)])
def test_the_files_and_figures_of_several_are_those_of_one(attack, tmp_path, name, processes):
    codes, said = attack(name, 1, tmp_path / "one")
    assert codes == [0], errors(said)
    (alone,) = reports(said, 1)
    codes, said = attack(name, processes, tmp_path / "two")
    assert codes == [0] * processes, errors(said)
    shared = reports(said, processes)
    files = [contents(tmp_path / name) for name in ("one", "two")]
    records = [json.loads(content.pop(RECORD_FILE)) for content in files]  # which say how long it took
    assert files[0] == files[1]
    assert records[0]["key"] == records[1]["key"]
    count = len(alone["shares"][0])
    shares = [[list(range(rank, count, processes))] for rank in range(processes)]
    assert [report["shares"] for report in shared] == shares
    for report in shared:
        counted = [value for value in alone["metrics"] if "chr@" in value or "attacked/" in value]
        assert len(counted) > 12
        assert {value: report["metrics"][value] for value in counted} == {
            value: alone["metrics"][value] for value in counted
        }
    assert shared[0]["lines"] == [line.replace(str(tmp_path / "one"), str(tmp_path / "two")) for line in alone["lines"]]


@pytest.mark.slow
def test_any_number_takes_what_another_has_left(attack, tmp_path):
    output = tmp_path / "out"
    codes, said = attack("pgd", 3, output)
    assert codes == [0, 0, 0], errors(said)
    before = contents(output)
    for processes in (1, 2):
        codes, said = attack("pgd", processes, output, "fit")
        assert codes == [0] * processes, errors(said)
        total = load_file(output / "features.safetensors")["features"].double().sum().item()
        for report in reports(said, processes):
            assert report["shares"] == []
            assert report["features"] == total
        assert reports(said, processes)[0]["lines"][0].endswith("as an earlier run left them")
    assert contents(output) == before


def test_what_one_cannot_do_ends_all(attack, tmp_path):
    codes, said = attack("fails", 2, tmp_path / "out")
    assert codes == [1, 1], errors(said)
    for rank in range(2):
        assert (said / f"error{rank}.txt").read_text() == "CatwalkError: what process 1 has to say"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out store").exists()


@pytest.mark.slow
def test_a_bug_in_one_ends_all(attack, tmp_path):
    codes, said = attack("raises", 2, tmp_path / "out")
    assert codes == [1, 1], errors(said)
    assert (said / "error0.txt").read_text() == "CannotBeSent: 1 and 2"
    assert (said / "error1.txt").read_text() == "RuntimeError: CannotBeSent: 1 and 2"


@pytest.mark.slow
def test_one_that_is_killed_leaves_nothing_that_looks_finished(attack, tmp_path):
    codes, said = attack("dies", 2, tmp_path / "out")
    assert codes[1] == -signal.SIGKILL, errors(said)
    assert codes[0] != 0
    assert not (tmp_path / "out" / RECORD_FILE).exists()
    codes, said = attack("pgd", 2, tmp_path / "out")
    assert codes == [0, 0], errors(said)
    assert all(report["shares"] for report in reports(said, 2))
