"""``catwalk study compare``: two studies side by side, made by hand, and one that has run."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from catwalk.cli.main import main
from catwalk.study.compare import compare
from catwalk.study.effects import LABELS, Effect, write_effects
from catwalk.study.grid import NO_ATTACK
from catwalk.study.results import StudyResults
from catwalk.study.statistics import paired_effect, verdict

Outcome = SimpleNamespace

COLUMNS = ("dataset", *LABELS, "seed", "users")


def places(more: float, users: int, seeds: int, number: int) -> np.ndarray:
    """Return places in the top 20 ``(S, U)``."""
    generator = np.random.default_rng(number)
    return np.minimum(generator.poisson(2.0, (seeds, users)) + generator.poisson(more, (seeds, users)), 20)


def write_study(
    folder: Path,
    more: dict[str, float],
    *,
    users: str = "u",
    seeds: tuple[int, ...] = (0, 1, 2),
    number: int = 0,
    **manifest: object,
) -> Path:
    """Write a study of 300 users whose attacks give so many places more, and return its folder."""
    (folder / "users").mkdir(parents=True)
    protocol = str(manifest.pop("protocol", "corrected"))
    cells, effects, matrices = [], [], {}
    for place, (attack, gain) in enumerate({NO_ATTACK: 0.0, **more}.items()):
        matrices[attack] = places(gain, 300, len(seeds), 100 * number + place)
        labels = dict(zip(LABELS, (protocol, "T", "VBPR", attack, "poisoning", ""), strict=True))
        labels |= {"scenario": ""} if attack == NO_ATTACK else {}
        for row, seed in enumerate(seeds):
            name = f"users/{len(cells):04}.parquet"
            ids = [f"{users}{user}" for user in range(300)]
            pq.write_table(
                pa.table({"user_id": ids, "chr@20/Bag": pa.array(matrices[attack][row], pa.int16())}), folder / name
            )
            cells.append({"dataset": "Shop", **labels, "seed": seed, "users": name})
        if attack != NO_ATTACK:
            size = paired_effect(matrices[NO_ATTACK], matrices[attack], resamples=1000)
            found = verdict(size, size.p_value, 0.05)
            texts = {name: text or None for name, text in labels.items()}
            effects.append(
                Effect(
                    **texts,
                    epsilon=8.0,
                    size=size,
                    p_adjusted=size.p_value,
                    verdict=found,
                    seeds_needed=None,
                    sentence="A sentence.",
                )
            )
    write_effects(effects, folder / "effects.csv")
    with (folder / "cells.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(cells)
    entries = {
        "study": folder.name,
        "catwalk": "0.2.0",
        "packages": {"torch": "2.6"},
        "source": "Bag",
        "target": "Coat",
        "top_k": 20,
        "seeds": list(seeds),
        "protocols": [{"name": protocol, "clip": True}],
        "statistics": {"smallest_effect": 0.05, "confidence": 0.95},
        "stages": {"x": folder.name},
        **manifest,
    }
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs the command, with what it printed and its exit code."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        code = 0
        try:
            main(["study", "compare", *map(str, arguments)])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return Outcome(code=code, out=out, err=err, lines=[" ".join(line.split()) for line in out.splitlines()])

    return run


def test_two_studies_that_agree(tmp_path: Path, command) -> None:
    first = write_study(tmp_path / "a", {"PGD": 2.0, "FGSM": 0.0})
    second = write_study(tmp_path / "b", {"PGD": 3.0, "CW": 1.0}, number=1, catwalk="0.3.0", packages={"torch": "2.7"})
    outcome = command(first, second, "--csv", tmp_path / "compared.csv")
    assert (outcome.code, outcome.err) == (0, "")
    assert "catwalk 0.2.0 0.3.0" in outcome.lines
    assert "packages.torch 2.6 2.7" in outcome.lines
    assert not any(line.startswith(("study", "stages", "seeds", "protocol")) for line in outcome.lines)
    (line,) = [line for line in outcome.lines if line.startswith("PGD")]
    assert line.count("pushed") == 2
    assert "In the first alone: corrected, T, VBPR, FGSM, poisoning." in outcome.lines
    assert "In the second alone: corrected, T, VBPR, CW, poisoning." in outcome.lines
    assert outcome.lines[-1] == "All verdicts are the same."
    with (tmp_path / "compared.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    # of the same users and seeds: the paired difference of both studies' differences
    one, two = (
        places(gain, 300, 3, number) - places(0, 300, 3, clean)
        for gain, number, clean in ((2.0, 1, 0), (3.0, 101, 100))
    )
    expected = paired_effect(one, two).difference
    assert float(row["change"]) == pytest.approx((two - one).mean()) == pytest.approx(expected.mean)
    assert float(row["change_low"]) == pytest.approx(expected.low, abs=0.02)
    assert float(row["change_high"]) == pytest.approx(expected.high, abs=0.02)
    assert float(row["first"]) == pytest.approx(one.mean())
    assert float(row["second"]) == pytest.approx(two.mean())
    assert (row["attack"], row["paired"], row["verdicts_agree"]) == ("PGD", "users and seeds", "True")


def test_verdicts_that_differ_are_code_3(tmp_path: Path, command) -> None:
    first = write_study(tmp_path / "a", {"PGD": 2.0})
    second = write_study(tmp_path / "b", {"PGD": 0.0}, protocol="as_published")
    outcome = command(first, second)
    assert (outcome.code, outcome.err) == (3, "")
    assert "protocol.name corrected as_published" in outcome.lines
    assert outcome.lines[-1] == "1 of 1 verdicts differ."
    assert command(first, first).code == 0
    assert "Both were run in the same way." in command(first, first).lines
    keys = {"VBPR on T": "a", "PGD, CNN T": "b"}
    third = write_study(tmp_path / "c", {"PGD": 2.0}, keys=keys)
    fourth = write_study(tmp_path / "d", {"PGD": 2.0}, keys=keys | {"VBPR on T": "c", "CW, CNN T": "d"})
    told = command(third, fourth).out
    assert "1 of the 2 stages that both have were made with other settings, data or code" in told
    assert "Both were run in the same way." not in told


def test_other_users_are_independent(tmp_path: Path, command) -> None:
    first = write_study(tmp_path / "a", {"PGD": 1.0}, seeds=(0,))
    second = write_study(tmp_path / "b", {"PGD": 2.0}, seeds=(0,), users="v", number=1)
    (found,) = compare(StudyResults.read(first), StudyResults.read(second)).effects
    assert (found.change.same_users, found.change.same_seeds) == (False, False)
    one, two = (
        places(gain, 300, 1, number)[0] - places(0, 300, 1, clean)[0]
        for gain, number, clean in ((1.0, 1, 0), (2.0, 101, 100))
    )
    expected = scipy.stats.ttest_ind(two, one, equal_var=False).confidence_interval()
    assert (found.change.difference.low, found.change.difference.high) == pytest.approx(expected, abs=0.05)
    assert "1 of 1 differences are of other users, taken as independent." in command(first, second).lines


def test_several_protocols_are_compared_by_name(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", {"PGD": 1.0})
    results = StudyResults.read(first)
    several = {**results.manifest, "protocols": [{"name": "corrected"}, {"name": "as_written", "clip": False}]}
    both = replace(results, manifest=several)
    assert len(compare(both, both).effects) == 1
    renamed = replace(both, effects=[replace(effect, protocol="as_written") for effect in both.effects])
    with pytest.raises(Exception, match="have no effect in common"):
        compare(both, renamed)
    assert compare(results, both).settings["protocol.as_written.clip"] == (None, False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"top_k": 10}, "a has top_k 20 and {b} 10; compare studies with the same"),
        ({"source": "Shoe"}, "a has source Bag and {b} Shoe; compare studies with the same"),
        ({"more": {"CW": 1.0}}, "have no effect in common, by extractor, recommender and attack"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, command, changed: dict, message: str) -> None:
    first = write_study(tmp_path / "a", {"PGD": 1.0})
    more = changed.pop("more", {"PGD": 1.0})
    second = write_study(tmp_path / "b", more, **changed)
    outcome = command(first, second)
    assert (outcome.code, outcome.out) == (2, "")
    assert message.format(b=second) in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_is_no_finished_study(tmp_path: Path, command) -> None:
    first = write_study(tmp_path / "a", {"PGD": 1.0})
    (tmp_path / "b").mkdir()
    for arguments, message in (
        ((first, tmp_path / "b"), "b is not the folder of a finished study"),
        ((first, tmp_path / "none"), "none is not the folder of a finished study"),
        ((), "first is missing: catwalk study compare FIRST SECOND"),
        ((first,), "second"),
    ):
        outcome = command(*arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
    old = write_study(tmp_path / "old", {"PGD": 1.0})
    entries = json.loads((old / "manifest.json").read_text())
    del entries["protocols"]
    (old / "manifest.json").write_text(json.dumps(entries))
    assert "old has no protocols in its manifest; run the study again" in command(first, old).err
    users = next((first / "users").iterdir())
    users.unlink()
    outcome = command(first, write_study(tmp_path / "c", {"PGD": 1.0}))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{users} cannot be read" in outcome.err


def test_a_study_that_has_run_agrees_with_itself(finished, command) -> None:
    outcome = command(finished.folder, finished.folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines[-1] == "All verdicts are the same."
    changes = [line.rpartition(" ")[2] for line in outcome.lines if "FGSM" in line or "PGD" in line]
    assert changes
    assert set(changes) == {"+0.000"}


def test_the_command_explains_itself(command) -> None:
    outcome = command("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: catwalk study compare FIRST SECOND [--csv FILE]\n")
    assert "--csv" in outcome.out
