"""What poisons, measures and writes while a Trainer runs on a GPU, beside the same on the CPU."""

import csv

import numpy as np
import pytest
import torch
import torchvision
from pytorch_lightning import Callback, seed_everything
from safetensors.torch import load_file

from callbacks import (
    AttackedItems,
    AttackGallery,
    CategoryBars,
    CategoryHitRatio,
    InjectPoisonedImages,
    PerceptualDistance,
    RankingMetrics,
    WriteAttackedItems,
    WriteFeatures,
    WriteRecommendations,
    WriteUserMetrics,
)
from catwalk.attacks import PGD
from catwalk.shop.decoding import decode
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, ProductClassifier

pytestmark = pytest.mark.filterwarnings("ignore:images whose shorter side")


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "squeeze.pth"
    torch.manual_seed(5)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path


def all_callbacks(trained, trunk, folder, **settings):
    attack = folder / "attack"
    return [
        CategoryHitRatio([5]),
        RankingMetrics([5]),
        AttackedItems(attack, [5], mean_rank=True),
        CategoryBars(attack, 5),
        AttackGallery(attack, 4),
        PerceptualDistance(attack, "squeeze", trunk),
        WriteUserMetrics(folder / "users.csv", [5], source="Sandal", target="Sneaker", attack=attack),
        WriteAttackedItems(folder / "items.csv", attack, [5]),
        InjectPoisonedImages(trained.checkpoint, PGD(epsilon=16.0), "Sandal", attack, "Sneaker", **settings),
    ]


def model_of():
    return VBPR(factors=4, visual_factors=4, top_k=[5])


def data_of(shop, features, **settings):
    return InteractionTriplets(shop, features, **{"batch_size": 64} | settings)


class FeaturesOfEpochs(Callback):
    """Keeps the features by which each epoch is trained."""

    def __init__(self):
        self.used = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.used.append(pl_module.model.features.features.cpu().clone())


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_evasion_beside_the_cpu(
    precision, trained, trunk, shop, features, recommender, make_trainer, gpu_trainer, tmp_path, record_property
):
    found = {}
    for name, make_one in (("cpu", make_trainer), ("gpu", gpu_trainer)):
        folder = tmp_path / name
        trainer = make_one(callbacks=all_callbacks(trained, trunk, folder), precision=precision, deterministic=True)
        (values,) = trainer.test(
            model_of(), data_of(shop, features), ckpt_path=recommender, weights_only=True, verbose=False
        )
        found[name] = values
        for file in ("category_bars.png", "confusion.png", "gallery.png", "perceptual_distances.csv"):
            assert (folder / "attack" / file).stat().st_size > 0
        assert len(rows_of(folder / "users.csv")) == 200
    assert found["gpu"].keys() == found["cpu"].keys()
    assert {"test/attacked/mean_rank", "test/chr@5/Sandal", "test/ncdcg@5/Sandal"} <= found["gpu"].keys()
    differences = {name: abs(found["gpu"][name] - value) for name, value in found["cpu"].items() if value == value}
    record_property("largest differences", sorted(differences.items(), key=lambda pair: -pair[1])[:3])
    tolerance = {"test/attacked/mean_rank": 0.5}
    for name, difference in differences.items():
        assert difference <= tolerance.get(name, 0.05), name
    columns = ("lpips", "ssim", "psnr")
    one, other = (
        np.array(
            [
                [float(row[column]) for column in columns]
                for row in rows_of(tmp_path / name / "attack" / "perceptual_distances.csv")
            ]
        )
        for name in ("gpu", "cpu")
    )
    assert np.abs(one / other - 1).mean() < 0.02


@pytest.mark.parametrize("storage", ["device", "host"])
def test_poisoning_from_an_epoch_on(storage, trained, trunk, shop, features, gpu_trainer, tmp_path):
    seed_everything(0, verbose=False)
    model, data = model_of(), data_of(shop, features, validation=True, feature_storage=storage)
    epochs = FeaturesOfEpochs()
    observers = [epochs, *all_callbacks(trained, trunk, tmp_path, from_epoch=2)]
    trainer = gpu_trainer(max_epochs=3, callbacks=observers, deterministic=True)
    trainer.fit(model, data)
    used = epochs.used
    clean, poisoned = (
        load_file(folder / "features.safetensors")["features"] for folder in (features, tmp_path / "attack")
    )
    assert not torch.equal(clean, poisoned)
    assert [torch.equal(seen, clean) for seen in used] == [True, True, False]
    assert torch.equal(used[2], poisoned)
    assert {"val/attacked/mean_rank", "val/chr@5/Sandal", "val/auc"} <= trainer.callback_metrics.keys()
    assert all(torch.isfinite(value) for name, value in trainer.callback_metrics.items() if "attacked" in name)


def test_features_are_those_of_the_cpu(trained, shop, features, gpu_trainer, tmp_path, record_property):
    model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
    model.initial_weights.expect_checkpoint()
    trainer = gpu_trainer(callbacks=[WriteFeatures(tmp_path)])
    trainer.predict(
        model,
        ProductImages(shop, batch_size=32),
        return_predictions=False,
        ckpt_path=trained.checkpoint,
        weights_only=True,
    )
    found, expected = (load_file(folder / "features.safetensors")["features"] for folder in (tmp_path, features))
    difference = float((found - expected).abs().max() / expected.abs().max())
    record_property("largest difference of a feature, as a share of the largest", difference)
    assert difference < 1e-5
    categories = [[row["category"] for row in rows_of(folder / "predictions.csv")] for folder in (tmp_path, features)]
    assert categories[0] == categories[1]


def test_recommendations_are_those_of_the_cpu(shop, features, recommender, make_trainer, gpu_trainer, tmp_path):
    lists = []
    for name, make_one in (("cpu", make_trainer), ("gpu", gpu_trainer)):
        path = tmp_path / f"{name}.csv"
        trainer = make_one(callbacks=[WriteRecommendations(path)])
        trainer.predict(
            model_of(), data_of(shop, features), return_predictions=False, ckpt_path=recommender, weights_only=True
        )
        lists.append([tuple(row.values()) for row in rows_of(path)])
    assert len(lists[1]) == len(lists[0]) == 200 * 5
    # Two scores may be next to each other, and rounded otherwise.
    assert np.mean([one == other for one, other in zip(*lists, strict=True)]) > 0.99


def test_adversarial_images_are_inside_the_ball(trained, trunk, shop, features, gpu_trainer, recommender, tmp_path):
    trainer = gpu_trainer(callbacks=all_callbacks(trained, trunk, tmp_path))
    trainer.test(model_of(), data_of(shop, features), ckpt_path=recommender, weights_only=True, verbose=False)
    rows = rows_of(tmp_path / "attack" / "attacked_items.csv")
    changes = [
        np.abs(decode(tmp_path / "attack" / row["image"]).astype(int) - decode(shop / row["image"]).astype(int)).max()
        for row in rows
    ]
    assert 0 < max(changes) <= 16
