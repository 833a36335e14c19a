"""The files of a study, their numbers recomputed from cells.csv and from the files of the stages."""

import csv
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import seed_everything

from callbacks import InjectPoisonedImages
from catwalk.attacks import FGSM, PGD
from catwalk.keyed_random import content_keys
from catwalk.networks.classifier import load_classifier
from catwalk.perceptual import load_lpips
from catwalk.poisoning.poison import Poisoning
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.shop.labelled_images import LabelledImages
from catwalk.study.cells import COLUMNS, column_name
from catwalk.study.metrics import OF_EVERYBODY
from catwalk.study.results import TEXTS
from datamodules import InteractionTriplets
from lightning_modules import VBPR

ATTACKS = ["No attack", "FGSM (ε = 32)", "PGD (ε = 32)"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cells(finished) -> list[dict[str, str]]:
    return read(finished.folder / "cells.csv")


def test_all_files_are_there(finished) -> None:
    tables = {f"{stem}.{kind}" for stem in ("table1", "table2", "networks") for kind in ("csv", "md", "tex")}
    others = {"cells.csv", "effects.csv", "findings.json", "manifest.json", "study.yaml", "users", "plots", "report"}
    assert {path.name for path in finished.folder.iterdir()} == others | tables


def test_cells_are_the_whole_grid(cells) -> None:
    of_everybody = [f"{name}@20" for name in OF_EVERYBODY]
    assert list(cells[0]) == [*(column_name(column, 20) for column in COLUMNS), *of_everybody]
    grid = {(recommender, attack, seed) for recommender in ("VBPR", "BPR-MF") for attack in ATTACKS for seed in "01"}
    assert {(cell["recommender"], cell["attack"], cell["seed"]) for cell in cells} == grid
    assert len(cells) == len(grid) == 12
    for cell in cells:
        assert (cell["dataset"], cell["protocol"], cell["extractor"]) == ("Synthetic", "corrected", "T")
        assert (cell["differences"], cell["control"]) == ("", "")
        assert cell["scenario"] == ("" if cell["attack"] == "No attack" else "poisoning")
        assert 0 <= float(cell["chr@20"]) <= 20
        assert 0 <= float(cell["ndcg@20"]) <= float(cell["hr@20"]) <= 1
        of_the_attack = [cell[name] for name in ("epsilon", "n_attacked", "sr", "feature_loss", "lpips", "linf_levels")]
        assert (of_the_attack == [""] * 6) == (cell["attack"] == "No attack")


def test_table_2_has_the_lpips_of_the_files_times_100(finished, cells, shop: Path) -> None:
    """Measured again on the files, all at once."""
    measure = load_lpips("alex")[0]
    catalogue = Catalogue.read(shop)
    with (finished.folder / "table2.csv").open() as file:
        by_attack = {row["attack"]: float(row["T LPIPS"]) for row in csv.DictReader(file)}
    for attack in ATTACKS[1:]:
        folder = stage(finished, f"{attack}, Sandal")
        with (folder / "attacked_items.csv").open() as file:
            pairs = [
                [decode(catalogue.folder / row["image"]), decode(folder / row["image"])] for row in csv.DictReader(file)
            ]
        then, now = (torch.from_numpy(np.stack(images)) / 255 for images in zip(*pairs, strict=True))
        expected = float(measure(then, now).double().mean())
        assert by_attack[attack] == pytest.approx(expected, rel=1e-5)
        assert {float(cell["lpips"]) for cell in cells if cell["attack"] == attack} == {by_attack[attack]}
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["lpips"]["net"] == "alex"
    assert manifest["lpips"]["trunk_sha256"] == measure.trunk_sha256


def test_without_weights_lpips_is_empty_and_the_cause_is_said(finished, run_study, tmp_path: Path, capfd) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    absent = {"trunk": str(tmp_path / "absent.pth")}
    with pytest.raises(SystemExit):
        run_study(finished.settings | {"lpips": absent, "name": "refused"}, output)
    assert "absent.pth" in capfd.readouterr().err
    assert not (output / "refused").exists()
    study = run_study(finished.settings | {"lpips": absent | {"on_missing": "skip"}, "name": "skipped"}, output)
    assert set(study.made) == {"perceptual"}
    rows = [cell for cell in read(study.folder / "cells.csv") if cell["attack"] != "No attack"]
    assert {cell["lpips"] for cell in rows} == {""}
    assert all(0 < float(cell["ssim"]) < 1 for cell in rows)
    assert "absent.pth" in json.loads((study.folder / "manifest.json").read_text())["lpips"]["missing"]


def test_a_recommender_without_images_has_the_same_figures_under_every_attack(cells) -> None:
    for seed in "01":
        values = [
            (cell["chr@20"], cell["hr@20"], cell["auc"])
            for cell in cells
            if cell["recommender"] == "BPR-MF" and cell["seed"] == seed
        ]
        assert len(values) == 3
        assert len(set(values)) == 1


def test_an_attack_changes_what_a_visual_recommender_recommends(cells) -> None:
    values = {cell["chr@20"] for cell in cells if cell["recommender"] == "VBPR" and cell["seed"] == "0"}
    assert len(values) > 1


def test_table_1_is_the_mean_of_the_cells_and_its_change_from_no_attack(finished, cells) -> None:
    rows = read(finished.folder / "table1.csv")
    assert [(row["model"], row["attack"]) for row in rows] == [(m, a) for m in ("VBPR", "BPR-MF") for a in ATTACKS]
    texts = {kind: (finished.folder / f"table1.{kind}").read_text() for kind in ("md", "tex")}
    clean = math.nan
    for row in rows:
        chosen = [cell for cell in cells if (cell["recommender"], cell["attack"]) == (row["model"], row["attack"])]
        values = [float(cell["chr@20"]) for cell in chosen]
        mean = sum(values) / 2
        assert float(row["T CHR@20"]) == pytest.approx(mean, rel=1e-12)
        assert float(row["T CHR@20 sd"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, rel=1e-9)
        if row["attack"] == "No attack":
            clean = mean
            assert row["T CHR@20 change"] == row["T CHR@20 verdict"] == ""
            assert f"{mean:.4f} ± {statistics.stdev(values):.4f}" in texts["md"]
            assert rf"{mean:.4f} $\pm$ {statistics.stdev(values):.4f}" in texts["tex"]
        else:
            assert float(row["T CHR@20 change"]) == pytest.approx(mean - clean, abs=1e-6)
            assert float(row["T CHR@20 change low"]) <= mean - clean <= float(row["T CHR@20 change high"])
            # As a share of no attack, with the bounds of the interval behind it.
            share = re.escape(f"{mean:.4f} {100 * (mean / clean - 1):+.1f}%")
            assert re.search(share + r" \[[+-][\d.]+, [+-][\d.]+\]", texts["md"]), texts["md"]


def test_table_2_is_what_the_attacks_did(finished, cells) -> None:
    rows = read(finished.folder / "table2.csv")
    assert [row["attack"] for row in rows] == ATTACKS[1:]
    for row in rows:
        cell = next(cell for cell in cells if cell["attack"] == row["attack"])
        assert float(row["T SR"]) == float(cell["sr"])
        assert float(row["T FL"]) == float(cell["feature_loss"])
        assert f"{100 * float(cell['sr']):.2f}%" in (finished.folder / "table2.md").read_text()
        assert rf"{100 * float(cell['sr']):.2f}\%" in (finished.folder / "table2.tex").read_text()


def test_the_networks_table_is_their_accuracy_clean_and_under_attack(finished, shop, make_trainer) -> None:
    checkpoint = next((finished.output / "cache" / "classifier").glob("*/classifier.ckpt"))
    classifier = load_classifier(checkpoint)
    labelled = LabelledImages.read(Catalogue.read(shop))
    rows = labelled.rows("test")
    images = torch.stack([torch.from_numpy(decode(shop / labelled.images[row])) for row in rows]) / 255
    categories = torch.from_numpy(labelled.categories[rows])
    attack = PGD(epsilon=8.0, targeted=False)
    adversarial = attack(classifier.network, images, categories, keys=content_keys(images)).images
    with torch.no_grad():
        accuracies = [
            float((classifier.network(x).argmax(1) == categories).double().mean()) for x in (images, adversarial)
        ]
    (row,) = read(finished.folder / "networks.csv")
    assert row["cnn"] == "T"
    assert [float(row["clean"]), float(row["under PGD (ε = 8)"])] == pytest.approx(accuracies, abs=1e-6)
    assert f"{100 * accuracies[1]:.2f}%" in (finished.folder / "networks.md").read_text()
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["classifiers"]["T"]["accuracy under attack"] == pytest.approx(accuracies[1], abs=1e-6)


def test_the_manifest_says_what_was_run_and_where_it_is(finished, shop) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["dataset"]["catalogue"] == Catalogue.read(shop).fingerprint
    assert manifest["seeds"] == [0, 1]
    assert manifest["packages"]["torch"] == torch.__version__
    assert [protocol["name"] for protocol in manifest["protocols"]] == ["corrected"]
    assert manifest["controls"] == {"noise": [], "other_seeds": False, "evasion": False, "sham": False}
    assert manifest["statistics"] == {"smallest_effect": 0.05, "confidence": 0.95}
    assert (finished.folder / manifest["store"]).resolve() == (finished.output / "cache").resolve()
    folders = {f"{path.parent.parent.name}/{path.parent.name}" for path in finished.output.rglob("stage.json")}
    assert set(manifest["stages"].values()) == folders
    assert len(manifest["stages"]) == len(folders) == 15 + 8


def test_a_stage_that_cells_share_is_made_once(finished) -> None:
    made = {kind: finished.made.count(kind) for kind in finished.made}
    # VBPR: clean and two attacks, two seeds each; BPR-MF never looks at an image.
    of_images = {"classifier": 1, "accuracy": 1, "features": 1, "attack": 2, "perceptual": 2}
    assert made == of_images | {"recommender": 6 + 2, "recommendations": 6 + 2}


def stage(finished, description: str) -> Path:
    """Return the folder of a stage."""
    stages = json.loads((finished.folder / "manifest.json").read_text())["stages"]
    (found,) = [place for text, place in stages.items() if text.startswith(description)]
    return finished.output / "cache" / found


def test_fit_takes_what_a_study_made_and_a_study_what_fit_made(
    finished, run_study, shop, make_trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted: list[str] = []
    craft = Poisoning.craft

    def noted(self, *arguments, **settings):
        crafted.append(self.attack.name)
        return craft(self, *arguments, **settings)

    monkeypatch.setattr(Poisoning, "craft", noted)
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    shutil.rmtree(output / "cache" / "attack")
    classifier = next((output / "cache" / "classifier").glob("*/classifier.ckpt"))
    features = output / "cache" / stage(finished, "Features of").relative_to(finished.output / "cache")

    def fit(attack, **settings) -> VBPR:
        callback = InjectPoisonedImages(
            classifier, attack, source="Sandal", target="Sneaker", results=output / "cache", **settings
        )
        seed_everything(1, verbose=False)
        model = VBPR(factors=4, visual_factors=4, top_k=[20])
        data = InteractionTriplets(shop, features, seed=1)
        make_trainer(max_epochs=3, deterministic=True, callbacks=[callback]).fit(model, data)
        return model

    model = fit(PGD(epsilon=32.0), output=tmp_path / "attack")
    by_stage = stage(finished, "PGD (ε = 32), Sandal")
    for path in (path for path in sorted(by_stage.rglob("*")) if path.is_file() and path.name != "stage.json"):
        assert (tmp_path / "attack" / path.relative_to(by_stage)).read_bytes() == path.read_bytes(), path
    checkpoint = stage(finished, "VBPR on T, PGD (ε = 32), seed 1") / "recommender.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in weights.items())

    assert run_study(finished.settings, output).made == ("attack",)
    assert crafted == ["PGD (ε = 32)", "FGSM (ε = 32)"]
    fit(FGSM(epsilon=32))
    assert crafted == ["PGD (ε = 32)", "FGSM (ε = 32)"]


def test_what_is_text_in_a_cell_is_read_as_text() -> None:
    assert set(TEXTS) == {column.name for column in COLUMNS if "str" in str(column.type)}
