"""The journal of a search: damage is noticed, set aside, and the search goes on with what is before it."""

import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection

from catwalk.errors import CatwalkError
from catwalk.tuning.journal import HASHES_FILE, JOURNAL_FILE, open_journal

IDENTITY = {"model": "x", "seed": 0}


def numbers(folder: Path, *values: float) -> list[float]:
    """Open the journal, add trials with these values, and return those of all trials."""
    with open_journal(folder, "name", StudyDirection.MAXIMIZE, IDENTITY) as study:
        for value in values:
            distributions = {"model.rate": FloatDistribution(0, 1)}
            study.add_trial(
                optuna.trial.create_trial(params={"model.rate": 0.5}, distributions=distributions, value=value)
            )
        return [trial.value for trial in study.get_trials()]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    assert numbers(tmp_path, 0.125, 0.25) == [0.125, 0.25]
    assert numbers(tmp_path, 0.375) == [0.125, 0.25, 0.375]
    return tmp_path / JOURNAL_FILE


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


DAMAGES = {
    "an edited metric": lambda path: edit(path, b"0.25", b"0.98"),
    "zeros": lambda path: edit(path, b":0.25", bytes(5)),
    "a line cut in its middle": lambda path: edit(path, b":0.25", b":0.25\n"),
    "a line that is none": lambda path: path.write_bytes(
        b"".join([*path.read_bytes().splitlines(keepends=True)[:-2], b"5\n"])
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told_and_set_aside(journal: Path, damage) -> None:
    damage(journal)
    damaged = journal.read_bytes()
    with pytest.warns(UserWarning, match=r"journal\.log was changed in line \d+ .* aside as journal\.log\.damaged-1"):
        assert numbers(journal.parent) == [0.125]
    assert journal.with_name("journal.log.damaged-1").read_bytes() == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(journal.parent, 0.5) == [0.125, 0.5]
        assert numbers(journal.parent) == [0.125, 0.5]


def test_lines_that_are_gone_are_noticed(journal: Path) -> None:
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.warns(UserWarning, match=r"was changed in line \d+"):
        assert numbers(journal.parent) == [0.125, 0.25]


def test_what_was_written_before_there_were_hashes_counts(journal: Path) -> None:
    journal.with_name(HASHES_FILE).unlink()
    assert numbers(journal.parent) == [0.125, 0.25, 0.375]
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 99}\n')
    with pytest.raises(CatwalkError, match=r"journal\.log is no journal of a search: .*; give another name, or remove"):
        numbers(journal.parent)
