"""Metrics that a study measures because it was asked to, with what it has trained before."""

import csv
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from catwalk.metrics.exposure import Exposure
from catwalk.metrics.item_reach import ItemReach
from catwalk.shop.user_items import SeenItems
from catwalk.study.metrics import MEAN_RANK, Metric, Metrics

ASKED = ["mrr@20", "hr@7", "auc", "precision@20", "attacked/exposure@20", "chr@20/Sandal", "chr@20/Bag", MEAN_RANK]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_further_metrics_train_nothing_again_and_are_those_of_the_users(
    finished, settings, run_study, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    study = run_study(settings | {"metrics": ASKED}, output)
    assert study.made == ("recommendations",) * 8
    assert study.tables == finished.tables
    rows, before = read(study.folder / "cells.csv"), read(finished.folder / "cells.csv")
    own = list(before[0])
    assert list(rows[0]) == own + [name for name in ASKED if name != "auc"]
    costs = {name for name in own if name.endswith(("seconds", "_mib"))}
    # The lists are looked at again, and what that costs differs.
    assert [{name: row[name] for name in own if name not in costs | {"users"}} for row in rows] == [
        {name: row[name] for name in own if name not in costs | {"users"}} for row in before
    ]
    for row in rows:
        users = pq.read_table(study.folder / row["users"]).to_pydict()
        ranks = [rank for rank in users["rank"] if rank is not None]
        expected = {
            "mrr@20": sum(1 / rank for rank in ranks if rank) / len(ranks),
            "hr@7": sum(0 < rank <= 7 for rank in ranks) / len(ranks),
            "precision@20": float(row["hr@20"]) / 20,  # of users with one held-out item each
            "attacked/exposure@20": float(row["chr@20"]),  # the attacked items are those of the category
            "chr@20/Sandal": float(row["chr@20"]),
        }
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-6)
        assert 0 <= float(row["chr@20/Bag"]) + float(row["chr@20"]) <= 20
        assert 1 <= float(row[MEAN_RANK]) <= 90
    # Another order of the same is the same.
    assert run_study(settings | {"metrics": ASKED[::-1]}, output).made == ()


def test_names_are_those_that_the_metrics_give() -> None:
    seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([1]), 1, 3)
    lists = torch.tensor([[0, 2]])
    for metric in (Exposure(2, seen), ItemReach(2, torch.tensor([0]), 3)):
        metric.update(lists)
        assert tuple(metric.compute()) == metric.names


def test_a_name_says_kind_length_and_category() -> None:
    assert Metric.of("chr@10/A/B@2") == Metric("chr@10/A/B@2", "chr", 10, "A/B@2")
    assert Metric.of("attacked/users_reached@5") == Metric(
        "attacked/users_reached@5", "attacked/users_reached", 5, None
    )
    values = Metrics.of(["chr@10", "gini@3"], [], 20, "Bag").values({"test/chr@10/Bag": 2, "test/gini@3": float("nan")})
    assert values == {"chr@10": 2, "gini@3": None}
