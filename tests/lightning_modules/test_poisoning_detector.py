"""Training of a detector: what it learns from, what it minimises, and what its checkpoint is good for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catwalk.attacks import FGSM, PGD
from catwalk.cli.main import main
from catwalk.detection.clean_items import CleanItems
from catwalk.detection.judging import judge
from catwalk.detectors import ItemRoles, Reference, TrainedDetector
from catwalk.detectors.detector import scores_of
from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import poison
from catwalk.poisoning.records import read_attacked_items
from catwalk.shop.decoding import decode
from datamodules import PoisonedImages
from lightning_modules import PoisoningDetector

ROLES = ItemRoles(0.35, 0.3)


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    for name, attack in (("fgsm", FGSM(epsilon=48)), ("pgd", PGD(epsilon=48, iterations=5))):
        goal = {"source": "Sandal", "target": "Sneaker"}
        poison(trained.classifier, attack, trained.catalogue, trained.table, folder / name, **goal)
    return {name: folder / name for name in ("fgsm", "pgd")}


@pytest.fixture
def data(shop, trained, attacked):
    return PoisonedImages(shop, trained.checkpoint, [attacked["fgsm"]], batch_size=16, roles=ROLES)


def test_it_learns_from_the_items_of_its_role_alone(data, trained, attacked) -> None:
    data.setup("fit")
    rows = list(data.train_dataloader())
    found = torch.cat([batch["levels"] for batch in rows]).numpy()
    labels = torch.cat([batch["is_poisoned"] for batch in rows]).numpy()
    fit = ROLES.has("fit", torch.from_numpy(trained.catalogue.keys)).numpy()
    catalogue = trained.catalogue
    clean = {decode(catalogue.folder / catalogue.images[item]).tobytes() for item in np.flatnonzero(fit)}
    items, records = read_attacked_items(attacked["fgsm"], catalogue)
    poisoned = [decode(attacked["fgsm"] / r.image).tobytes() for i, r in zip(items, records, strict=True) if fit[i]]
    assert {image.tobytes() for image in found[~labels]} == clean
    assert sorted(image.tobytes() for image in found[labels]) == sorted(poisoned)
    assert len(found) == fit.sum() + len(poisoned)
    assert data.clean_per_poisoned == pytest.approx(fit.sum() / len(poisoned))
    again = torch.cat([batch["features"] for batch in data.train_dataloader()])
    assert torch.equal(again, torch.cat([batch["features"] for batch in rows]))
    held_out = torch.cat([batch["levels"] for batch in data.val_dataloader()]).numpy()
    assert not {image.tobytes() for image in held_out} & {image.tobytes() for image in found}


def test_clean_and_attacked_weigh_the_same() -> None:
    model = PoisoningDetector()
    model.clean_per_poisoned = 3.0
    logits, labels = torch.tensor([0.5, -1.0, 2.0, 0.3]), torch.tensor([True, False, False, False])
    losses = -F.logsigmoid(torch.where(labels, logits, -logits))
    expected = (3 * losses[0] + losses[1:].sum()) / 4
    assert float(model._loss(logits, labels)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("sees", "epochs"), [("features", 60), ("images", 20)])
def test_what_is_trained_is_what_detects(data, trained, attacked, make_trainer, tmp_path, sees, epochs) -> None:
    torch.manual_seed(0)
    model = PoisoningDetector(sees, width=8)
    trainer = make_trainer(max_epochs=epochs, accelerator="cpu")
    trainer.fit(model, data)
    assert float(trainer.callback_metrics["val/auroc"]) > 0.75  # an untrained one is near 0.5
    path = tmp_path / "detector.ckpt"
    trainer.save_checkpoint(path)
    detector = TrainedDetector(path)
    assert (detector.title, detector.trained_on) == (f"Trained on {sees}", ("FGSM (ε = 48)",))
    clean = CleanItems.see(trained.classifier, trained.catalogue, ROLES)
    levels = clean.levels(np.arange(20))
    scores = scores_of(detector.fitted(clean.reference), clean.network, levels, clean.declared[:20])
    batch = {"features": clean.features[:20], "images": torch.from_numpy(np.stack(levels)).float() / 255}
    with torch.no_grad():
        assert torch.allclose(scores, model.eval()(batch), atol=1e-4)
        loaded = PoisoningDetector.load_from_checkpoint(path)
        assert torch.equal(loaded.eval()(batch), model(batch))
    rows = [each.detection for each in judge([detector], clean, list(attacked.values()), false_positives=0.1)]
    assert [row.held_out for row in rows] == [False, True]
    if sees == "features":
        with pytest.raises(CatwalkError, match="features of another network"):
            detector.fitted(Reference(clean.features, clean.declared, "another"))
    with pytest.raises(CatwalkError, match="was trained with"):
        detector.fitted(CleanItems.see(trained.classifier, trained.catalogue, ItemRoles()).reference)


def test_images_of_many_sizes_are_seen_by_their_features_alone(
    shop_of_many_sizes, trained, make_trainer, tmp_path
) -> None:
    from catwalk.poisoning.attack_images import attack_images

    goal = {"source": "Sandal", "target": "Sneaker", "output": tmp_path / "o", "results": tmp_path / "store"}
    attack_images(shop_of_many_sizes, trained.checkpoint, FGSM(epsilon=48), **goal)
    data = PoisonedImages(shop_of_many_sizes, trained.checkpoint, [tmp_path / "o"], roles=ROLES)
    make_trainer(max_epochs=1, accelerator="cpu").fit(PoisoningDetector(width=4), data)
    with pytest.raises(CatwalkError, match=r"model.sees: images must all be of one size"):
        make_trainer(max_epochs=1, accelerator="cpu").fit(PoisoningDetector("images", width=4), data)


def test_what_makes_no_sense(shop, trained, attacked, tmp_path, data, make_trainer) -> None:
    with pytest.raises(CatwalkError, match="sees: must be one of features, images"):
        PoisoningDetector("labels")
    with pytest.raises(CatwalkError, match="width: must be at least 1"):
        PoisoningDetector(width=0)
    with pytest.raises(CatwalkError, match=r"data.attacked: give the folder of one attack"):
        PoisonedImages(shop, trained.checkpoint, [])
    few = PoisonedImages(shop, trained.checkpoint, [attacked["pgd"]], roles=ItemRoles(0.001, 0.3))
    with pytest.raises(CatwalkError, match="of the items to fit to 0 are there clean"):
        few.setup("fit")
    with pytest.raises(CatwalkError, match="`catwalk detect` judges a detector"):
        data.test_dataloader()
    with pytest.raises(CatwalkError, match="is not a checkpoint of a detector"):
        TrainedDetector(trained.checkpoint).fitted(Reference(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)))


def test_the_shipped_configurations_train_and_judge(shop, trained, attacked, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--data.dataset", str(shop), "--data.classifier", str(trained.checkpoint)]
    given += ["--data.attacked", f"[{attacked['fgsm']}]", "--trainer.max_epochs=1", "--trainer.logger=false"]
    main(["fit", "--config", "configs/detector/trained.yaml", *given, "--trainer.accelerator=cpu"])
    capfd.readouterr()
    given = ["--dataset", str(shop), "--classifier", str(trained.checkpoint), "--false_positives=0.1", "--device=cpu"]
    given += ["--attacked", f"[{attacked['fgsm']}, {attacked['pgd']}]"]
    main(["detect", "--config", "configs/detect/demo.yaml", "--config", "configs/detect/trained.yaml", *given])
    shown = capfd.readouterr().out
    assert "FGSM (ε = 48) (trained on it)" in shown
    assert "PGD (ε = 48) (trained on it)" not in shown
    assert (tmp_path / "runs" / "detect" / "detections.csv").is_file()
