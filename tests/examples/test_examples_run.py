"""Every example from end to end, by the commands of its README."""

import csv
import json
import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml
from examples_folder import EXAMPLES

from catwalk.cli.main import main
from catwalk.shop.catalogue import Catalogue

SMALL = ["--items=60", "--users=80", "--image_size=16", "--train_images=20", "--test_images=5"]


def commands() -> list[list[str]]:
    """Return the commands of the README without ``catwalk``, with the values of its variables, in order."""
    found, variables = [], {}
    for block in re.findall(r"```\n(.*?)```", (EXAMPLES / "README.md").read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.fullmatch(r'(\w+)="?([^"]*)"?', line):
                variables[match[1]] = match[2]
            elif line.startswith("catwalk "):
                for name, value in variables.items():
                    line = line.replace(f"${name}", value)
                found.append(shlex.split(line)[1:])
    return found


def make_database(shop: Path, path: Path) -> None:
    """Write what a dataset folder holds as the database of a shop, beside its images."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE products (id, photo, category, title)")
        database.execute("CREATE TABLE orders (customer, product, day)")
        with open(shop / "items.csv") as file:
            rows = [(row["item_id"], f"{shop}/{row['image']}", row["category"], "") for row in csv.DictReader(file)]
        database.executemany("INSERT INTO products VALUES (?, ?, ?, ?)", rows)
        with open(shop / "interactions.csv") as file:
            bought = [(row["user_id"], row["item_id"], int(row["timestamp"])) for row in csv.DictReader(file)]
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", bought)
    database.close()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the examples, which is the current folder."""
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("data", "runs", "__pycache__"))
    monkeypatch.chdir(folder)
    return folder


def test_the_readme_names_every_example() -> None:
    told = (EXAMPLES / "README.md").read_text("utf-8")
    ran = {argument for command in commands() for argument in command}
    modules = {path.stem for path in EXAMPLES.glob("*.py")}
    assert len(modules) == 7
    for name in modules:
        assert f"[`{name}.py`]({name}.py)" in told
        assert f"{name}.yaml" in ran
        assert name in (EXAMPLES / f"{name}.yaml").read_text("utf-8")
    assert {Path(argument).stem for argument in ran if argument.endswith(".yaml")} == {*modules, "study", "features"}


@pytest.mark.slow
def test_every_command_runs(work: Path) -> None:
    for command in commands():
        if command[0] == "study":
            continue
        if command[:2] == ["data", "synthetic"]:
            command += SMALL
        elif command[0] == "fit":
            command += ["--trainer.max_epochs=1", "--data.batch_size=32", "--trainer.logger=false"]
        elif command[0] == "attack":
            command += ["--protocol.source_items=dataset"]  # the network has hardly learnt anything
        elif command[:2] == ["data", "sqlite_shop.sqlite_shop"]:
            make_database(Path("data/synthetic"), Path("shop.sqlite"))
        main(command)
    attack = json.loads(Path("runs/images/uniform_noise/attack.json").read_text())
    assert attack["linf_levels"] <= 8
    assert attack["n_attacked"] == 10
    assert torch.load("runs/noise_training/classifier.ckpt", weights_only=True)["class"] == "NoiseClassifier"
    assert Catalogue.read("data/sqlite_shop").item_ids == Catalogue.read("data/synthetic").item_ids


@pytest.mark.slow
def test_the_study_runs_and_knows_the_code_of_its_classes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "synthetic", "data/synthetic", *SMALL])
    settings = yaml.safe_load(Path("study.yaml").read_text())
    for extractor in settings["extractors"].values():
        extractor["trainer"]["max_epochs"] = 2
    settings["protocol"] = {"source_items": "dataset"}
    settings["controls"] = {"noise": [], "other_seeds": False, "evasion": False}
    Path("study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    main(["study", "--config", "study.yaml", "--workers", "1"])
    with open("runs/examples/cells.csv") as file:
        cells = list(csv.DictReader(file))
    assert [(cell["extractor"], cell["attack"]) for cell in cells] == [
        (extractor, attack)
        for extractor in ("T", "Noise")
        for attack in ("No attack", "UniformNoise (ε = 8)", "PGD (ε = 8)")
    ]
    capsys.readouterr()
    main(["study", "--config", "study.yaml", "--workers", "1"])
    assert re.search(r"(\d+) stages, \1 of them done before", capsys.readouterr().out)
