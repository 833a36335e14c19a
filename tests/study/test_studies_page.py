"""docs/studies.md, against what a study takes and writes."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from catwalk.study import Training, run_study
from catwalk.study.cells import COLUMNS
from catwalk.study.metrics import AT_K, MEAN_RANK, Metric

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
KEYS = list(inspect.signature(run_study).parameters)
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def rows(heading: str) -> list[str]:
    """Return the first cells of the table below a heading."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)


def test_every_key_is_explained() -> None:
    assert sorted(rows("## Every key")) == sorted(f"`{key}`" for key in KEYS)
    assert rows("### Networks and recommenders") == [f"`{each.name}`" for each in fields(Training)]


def test_every_column_is_explained_as_in_the_code() -> None:
    names = [(each.metadata.get("name") or each.name).format(k="K") for each in COLUMNS]
    assert rows("## cells.csv") == [f"`{name}`" for name in names]
    for name, column in zip(names, COLUMNS, strict=True):
        assert f"| `{name}` | {column.metadata['meaning']} |\n" in PAGE


def test_every_metric_is_named() -> None:
    named = re.findall(r"`([^`]*)`", " ".join(rows("## Further metrics")))
    assert {name.removesuffix("@K") for name in named if not name.endswith("/CATEGORY")} == {*AT_K, MEAN_RANK}


@pytest.mark.parametrize("example", EXAMPLES, ids=[next(iter(example)) for example in EXAMPLES])
def test_examples_have_keys_of_a_study(example: dict) -> None:
    assert set(example) <= set(KEYS)
    for name in example.get("metrics", []):
        assert Metric.of(name).name == name
