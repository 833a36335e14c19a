"""Two processes write the files, and count the hits, of one."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def by_processes(shop, features, trained, recommender, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return what one process left, and what two processes left."""
    folders = []
    for devices in (1, 2):
        folder = tmp_path_factory.mktemp("processes")
        script = Path(__file__).with_name("predict_in_processes.py")
        arguments = [shop, features, trained.checkpoint, recommender, devices, folder]
        done = subprocess.run(
            [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        folders.append(folder)
    return folders[0], folders[1]


def test_they_write_the_same_files(by_processes) -> None:
    one, two = by_processes
    files = sorted(path.relative_to(one) for path in one.rglob("*.*") if path.suffix != ".json" and path.is_file())
    assert {"features.safetensors", "predictions.csv", "recommendations.csv"} <= {path.name for path in files}
    for path in files:
        assert (one / path).read_bytes() == (two / path).read_bytes(), path


def test_they_count_the_same_hits(by_processes) -> None:
    one, two = (json.loads((folder / "figures.json").read_text()) for folder in by_processes)
    counted = [name for name in one if "chr@" in name]
    assert len(counted) == 2 * 6
    assert {name: one[name] for name in counted} == {name: two[name] for name in counted}


def test_the_features_are_those_of_the_network(by_processes, trained, features) -> None:
    assert (by_processes[0] / "features" / "predictions.csv").read_bytes() == (
        features / "predictions.csv"
    ).read_bytes()
    assert (by_processes[0] / "features" / "features.safetensors").read_bytes() == (
        features / "features.safetensors"
    ).read_bytes()


def test_the_lists_are_those_of_the_model(by_processes, recommender, model, triplets, make_trainer, shop) -> None:
    make_trainer().test(model, triplets, ckpt_path=str(recommender), verbose=False)
    import torch

    expected, _ = model.recommend(torch.arange(triplets.num_users), 3)
    users, items = triplets.split.user_ids, triplets.catalogue.item_ids
    rows = [[users[u], str(r + 1), items[i]] for u, row in enumerate(expected.tolist()) for r, i in enumerate(row)]
    with (by_processes[0] / "recommendations.csv").open() as file:
        assert list(csv.reader(file)) == [["user_id", "rank", "item_id"], *rows]
