"""AdversarialAccuracy: what it logs is what attacking the images one by one finds."""

import re

import pytest
import torch
from pytorch_lightning import seed_everything

from callbacks import AdversarialAccuracy
from catwalk.attacks import FGSM, PGD, RankAttack
from catwalk.errors import CatwalkError
from catwalk.keyed_random import content_keys
from datamodules import ProductImages
from lightning_modules import ProductClassifier


@pytest.fixture
def model() -> ProductClassifier:
    return ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})


def images_of(shop, split):
    data = ProductImages(shop)
    data.setup("test")
    return data.on_after_batch_transfer(data._labelled(data.labelled.rows(split)), 0)


def accuracy_one_by_one(network, images, categories, attack):
    hits = 0
    for image, category, key in zip(images.split(1), categories.split(1), content_keys(images).split(1), strict=True):
        adversarial = attack(network, image, category, keys=key).images
        with torch.no_grad():
            hits += int(network(adversarial).argmax() == category)
    return hits / len(images)


@pytest.mark.parametrize("batch_size", [7, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("attack", [PGD(epsilon=8, iterations=10, targeted=False), FGSM(epsilon=2, targeted=False)])
def test_the_test_attacks_every_image(shop, trained, make_trainer, model, batch_size, attack):
    trainer = make_trainer(callbacks=[AdversarialAccuracy(attack, max_validation_images=3)])
    (values,) = trainer.test(
        model,
        ProductImages(shop, batch_size=batch_size),
        ckpt_path=trained.checkpoint,
        weights_only=True,
        verbose=False,
    )
    images, categories = images_of(shop, "test")
    expected = accuracy_one_by_one(trained.classifier.network, images, categories, attack)
    assert values[f"test/{type(attack).__name__.lower()}_accuracy"] == pytest.approx(expected, abs=1e-7)
    assert 0 < expected < values["test/accuracy"]


def test_by_default_it_is_pgd_with_ten_steps_and_eight_levels():
    attack = AdversarialAccuracy().attack
    assert (type(attack), attack.threat_model.epsilon, attack.iterations, attack.random_start) == (PGD, 8, 10, True)


@pytest.mark.parametrize(("most", "count"), [(None, 36), (20, 20), (1000, 36)])
def test_the_validation_attacks_the_first_images(shop, trained, make_trainer, model, most, count):
    callback = AdversarialAccuracy(max_validation_images=most)
    trainer = make_trainer(callbacks=[callback])
    (values,) = trainer.validate(
        model, ProductImages(shop, batch_size=8), ckpt_path=trained.checkpoint, weights_only=True, verbose=False
    )
    images, categories = (tensor[:count] for tensor in images_of(shop, "validation"))
    assert len(images) == count
    expected = accuracy_one_by_one(trained.classifier.network, images, categories, callback.attack)
    assert values["val/pgd_accuracy"] == pytest.approx(expected, abs=1e-7)


def test_it_changes_nothing_of_the_training(shop, make_trainer):
    def train(*callbacks):
        seed_everything(0, verbose=False)
        model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
        trainer = make_trainer(max_epochs=2, callbacks=list(callbacks))
        trainer.fit(model, ProductImages(shop, batch_size=32))
        return model.state_dict(), trainer.callback_metrics

    (with_it, values), (without, _) = train(AdversarialAccuracy()), train()
    assert "val/pgd_accuracy" in values
    assert all(torch.equal(value, without[name]) for name, value in with_it.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": PGD()}, "AdversarialAccuracy.attack: must lead away from an image's category, which PGD (ε = 8)"),
        ({"attack": RankAttack()}, "must lead away from an image's category, which Rank attack (ε = 8) does not"),
        ({"max_validation_images": 0}, "must be at least 1, or null for all, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(CatwalkError, match=re.escape(message)):
        AdversarialAccuracy(**settings)


def test_two_need_two_names(shop, trained, make_trainer, model):
    weak = PGD(epsilon=1.0, targeted=False)

    def validate(*callbacks):
        trainer = make_trainer(callbacks=list(callbacks))
        data = ProductImages(shop, batch_size=8)
        return trainer.validate(model, data, ckpt_path=trained.checkpoint, weights_only=True, verbose=False)[0]

    with pytest.raises(CatwalkError, match="two AdversarialAccuracy would both log val/pgd_accuracy: give one of them"):
        validate(AdversarialAccuracy(), AdversarialAccuracy(weak))
    both = validate(AdversarialAccuracy(), AdversarialAccuracy(weak, name="weak_pgd"))
    assert both["val/weak_pgd_accuracy"] == validate(AdversarialAccuracy(weak))["val/pgd_accuracy"]
    assert both["val/pgd_accuracy"] == validate(AdversarialAccuracy())["val/pgd_accuracy"]


def test_it_is_not_for_recommenders(recommender, triplets, make_trainer):
    from lightning_modules import VBPR

    trainer = make_trainer(callbacks=[AdversarialAccuracy()])
    with pytest.raises(CatwalkError, match="measures product classifiers, not a VBPR"):
        trainer.test(VBPR(factors=4, visual_factors=4), triplets, ckpt_path=recommender, weights_only=True)
