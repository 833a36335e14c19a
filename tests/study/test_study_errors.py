"""A study that cannot run says why in one line, before anything is written."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from catwalk.cli.main import main


def put(settings: dict, place: str, value: object) -> None:
    """Set ``settings["a"]["b"]`` for the place ``a.b``; a number is a place in a list."""
    *outer, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in outer:
        settings = settings[part]
    settings[last] = value


FGSM = "catwalk.attacks.FGSM"
CASES = {
    "unknown key": ({"bogus": 1}, ["bogus"]),
    "unknown key of a training": ({"extractors.T.bogus": 1}, ["extractors", "bogus", "model, data, trainer, seed"]),
    "missing model": ({"extractors.T": {}}, ["extractors", "model"]),
    "unknown attack": ({"attacks.0.class_path": "catwalk.attacks.FSGM"}, ["attacks", "FSGM", "FGSM, FMN"]),
    "attack without a class": (
        {"attacks.0": {"init_args": {"epsilon": 8}}},
        ["attacks: expected a class, such as catwalk.attacks."],
    ),
    "attack by its name alone": ({"attacks.0": FGSM}, ["attacks", FGSM]),
    "attack with an unknown option": ({"attacks.0.init_args": {"epsilom": 8}}, ["attacks", "epsilom", "epsilon"]),
    "negative epsilon": ({"attacks.0.init_args.epsilon": -8}, ["attacks", "epsilon", "-8"]),
    "epsilon that is no number": (
        {"attacks.0.init_args.epsilon": "big"},
        ["attacks: epsilon: must be a number of grey levels", "8/255", "'big'"],
    ),
    "attack twice": (
        {"attacks.0": {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 32}}},
        ["PGD (ε = 32) occurs twice"],
    ),
    "unknown source": ({"source": "Sandals"}, ["source", "'Sandals'", "Bag, Dress, Sandal"]),
    "unknown target": ({"target": "Sneakers"}, ["target", "'Sneakers'", "Bag, Dress, Sandal"]),
    "source equal to target": ({"target": "Sandal"}, ["source and target", "'Sandal'"]),
    "smallest effect in percent": ({"smallest_effect": 5}, ["smallest_effect", "between 0 and 1", "0.05 is 5%", "5"]),
    "several processes": (
        {"extractors.T.trainer.strategy": "ddp_spawn"},
        ["extractors.T.trainer", "one process on one device", "'ddp_spawn'", "--workers"],
    ),
    "transfer from nobody": ({"transfers": {"T": ["X"]}}, ["transfers", "'X' is none of the networks, T"]),
    "transfer from itself": ({"transfers": {"T": ["T"]}}, ["transfers.T", "a list of other networks"]),
    "defence of nobody": (
        {"defences": {"J": {"network": "X", "input": [{"class_path": "catwalk.processing.JPEG"}]}}},
        ["defences.J.network: must be one of the extractors, T", "'X'"],
    ),
    "defence by nothing": ({"defences": {"J": {"network": "T", "input": []}}}, ["defences.J.input", "at least one"]),
    "defence with the name of a network": (
        {"defences": {"T": {"network": "T", "input": [{"class_path": "catwalk.processing.JPEG"}]}}},
        ["defences.T: an extractor has the same name"],
    ),
    "operation that there is not": (
        {"pipelines": {"J": {"operations": [{"class_path": "catwalk.processing.JPG"}]}}},
        ["pipelines.J.operations", "JPG"],
    ),
    "operation out of its range": (
        {"pipelines": {"J": {"operations": [{"class_path": "catwalk.processing.JPEG", "init_args": {"quality": 0}}]}}},
        ["pipelines.J.operations", "quality"],
    ),
    "pipeline of nobody": (
        {"pipelines": {"J": {"operations": [{"class_path": "catwalk.processing.JPEG"}], "networks": ["X"]}}},
        ["pipelines.J.networks: each must be an extractor or a defence, T", "'X'"],
    ),
    "no seeds": ({"seeds": []}, ["seeds"]),
    "seed twice": ({"seeds": [0, 0]}, ["seeds", "[0, 0]"]),
    "seed that is no number": ({"seeds": ["x"]}, ["seeds", "x"]),
    "blank name": ({"recommenders": {" ": {}}}, ["recommenders"]),
    "no networks": ({"extractors": {}}, ["extractors"]),
    "attack that knows a recommender, without any": (
        {"recommenders": {}, "attacks.0": {"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 8}}},
        ["attacks", "ε = 8", "the study has none"],
    ),
    "negative seed": ({"seeds": [0, -1]}, ["seeds: each must be at least 0, got -1"]),
    "seed beyond what generators take": (
        {"seeds": [0, 2**32]},
        ["seeds: each must be at most 4294967295", "4294967296"],
    ),
    "negative seed of a network": ({"extractors.T.seed": -1}, ["extractors.T.seed must be at least 0, got -1"]),
    "seed of a network beyond 64 bits": (
        {"extractors.T.seed": 2**64},
        ["extractors.T.seed must be at most 4294967295"],
    ),
    "seeds that leave none for the noise floor": (
        {"seeds": [2**32 - 1], "controls": {"other_seeds": True}},
        ["seeds", "at most 4294967294", "other_seeds"],
    ),
    "confidence beyond what resamples tell": ({"confidence": 0.999}, ["confidence", "0.995", "0.999"]),
    "lists of absurd length": (
        {"recommenders.VBPR.model.init_args.top_k": [20, 10**9]},
        ["recommenders.VBPR.model", "top_k 1000000000 would take"],
    ),
    "missing dataset": ({"dataset": "nowhere"}, ["nowhere", "catwalk data --help"]),
    "top_k larger than the catalogue": ({"top_k": 91}, ["top_k", "90", "91"]),
    "top_k of none": ({"top_k": 0}, ["top_k", "got 0"]),
    "top_k that the model does not list": (
        {"recommenders.VBPR.model.init_args.top_k": [10]},
        ["recommenders.VBPR.model.top_k", "20", "[10]"],
    ),
    "recommender that is none": (
        {"recommenders.VBPR.model": {"class_path": "lightning_modules.ProductClassifier"}},
        ["recommenders.VBPR.model", "Recommender"],
    ),
    "network that is none": (
        {"extractors.T.model": {"class_path": "lightning_modules.VBPR"}},
        ["extractors.T.model", "ProductClassifier"],
    ),
    "unknown option of a model": (
        {"recommenders.VBPR.model.init_args.bogus": 1},
        ["recommenders.VBPR.model", "bogus", "visual_factors"],
    ),
    "unknown backbone": (
        {"extractors.T.model.init_args.backbone": "nowhere.net"},
        ["extractors.T.model.backbone", "nowhere.net"],
    ),
    "unknown option of the data": ({"extractors.T.data.bogus": 1}, ["extractors.T.data", "bogus", "batch_size"]),
    "value of the data out of range": (
        {"recommenders.VBPR.data": {"batch_size": 0}},
        ["recommenders.VBPR.data", "batch_size"],
    ),
    "unknown option of the trainer": ({"extractors.T.trainer.bogus": 1}, ["extractors.T.trainer", "bogus"]),
    "value that the trainer refuses": (
        {"recommenders.VBPR.trainer.accelerator": "abacus"},
        ["recommenders.VBPR.trainer", "abacus"],
    ),
    "unknown protocol": ({"protocol": {"source_items": "me"}}, ["source_items", "network, undefended, dataset"]),
    "targeted accuracy attack": (
        {"accuracy_attack": {"class_path": "catwalk.attacks.PGD"}},
        ["accuracy_attack", "targeted: false"],
    ),
    "unknown accuracy attack": ({"accuracy_attack": {"class_path": "catwalk.attacks.None"}}, ["accuracy_attack"]),
    "unknown metric": ({"metrics": ["item_coverage@10"]}, ["metrics", "did you mean coverage@10?"]),
    "metric without a length": ({"metrics": ["mrr"]}, ["metrics", "mrr@20", "'mrr'"]),
    "metric of no length": ({"metrics": ["mrr@0"]}, ["metrics", "mrr@20", "'mrr@0'"]),
    "metric of lists beyond the catalogue": ({"metrics": ["mrr@91"]}, ["metrics: mrr@91", "1..90"]),
    "metric of an unknown category": ({"metrics": ["chr@5/Hat"]}, ["metrics: chr@5/Hat", "'Hat'", "Sandal"]),
    "metric that has no categories": ({"metrics": ["hr@5/Bag"]}, ["metrics: hr", "write hr@5"]),
    "metrics of no recommenders": (
        {"metrics": ["mrr@5"], "recommenders": {}},
        ["metrics", "the study has none"],
    ),
    "name that is the cache's": ({"name": "cache"}, ["name", "'cache'"]),
}


def fails(settings: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a study that must fail, and return its line."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as info:
        main(["study", "--config", str(path), "--output", str(tmp_path / "runs"), "--workers", "1"])
    error = capfd.readouterr().err
    assert info.value.code == 2
    assert re.fullmatch(r"catwalk: error: [^\n]{10,600}\n", error), error
    assert not (tmp_path / "runs").exists()
    return error


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_before_anything_is_written(settings, tmp_path: Path, capfd, name: str) -> None:
    changes, words = CASES[name]
    for place, value in changes.items():
        put(settings, place, value)
    error = fails(settings, tmp_path, capfd)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("interactions.csv", "item-03", "item-99", ["interactions.csv", "'item-99'"]),
        ("labelled_images.csv", "Bag", "Hat", ["labelled_images.csv", "'Hat'"]),
        ("items.csv", "items/03.png", "items/99.png", ["items/99.png", "'item-03'"]),
    ],
)
def test_a_shop_that_is_not_sound(settings, shop, tmp_path, capfd, file, old, new, words) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    path = folder / file
    path.write_text(path.read_text().replace(old, new, 1))
    error = fails(settings | {"dataset": str(folder)}, tmp_path, capfd)
    for word in words:
        assert word in error


def test_an_image_that_cannot_be_read(settings, shop, tmp_path, capfd) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns(".cache"))
    image = next((folder / "images" / "train").glob("*.png"))
    image.write_bytes(b"no picture")
    assert image.name in fails(settings | {"dataset": str(folder)}, tmp_path, capfd)


def test_the_models_own_list_lengths_may_go_beyond_the_studys(settings, tmp_path, run_study) -> None:
    settings["recommenders"]["VBPR"]["model"]["init_args"]["top_k"] = [10, 20]
    settings |= {"attacks": [], "seeds": [0]}
    del settings["recommenders"]["BPR-MF"]
    study = run_study(settings, tmp_path / "runs")
    assert len((study.folder / "cells.csv").read_text().splitlines()) == 2
