"""The classifier of product images, through a Trainer on the tiny shop."""

import re

import numpy as np
import pytest
import torch
from pytorch_lightning import seed_everything

from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import CATEGORIES
from catwalk.networks.classifier import load_classifier
from catwalk.shop.decoding import decode
from catwalk.shop.labelled_images import LabelledImages
from datamodules import ProductImages
from lightning_modules import ProductClassifier


def make_model(**settings):
    return ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}, **settings)


def make_data(shop, **settings):
    return ProductImages(shop, **{"batch_size": 32, "shift": 1} | settings)


def fit(shop, make_trainer, seed=0, epochs=1, data=None, **settings):
    seed_everything(seed, verbose=False)
    model, trainer = make_model(**settings), make_trainer(max_epochs=epochs)
    trainer.fit(model, data or make_data(shop))
    return model, trainer


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_the_categories_and_its_figures_are_right(shop, make_trainer):
    data = make_data(shop)
    model, trainer = fit(shop, make_trainer, epochs=10, data=data)
    (values,) = trainer.test(model, data, verbose=False)
    assert values["test/accuracy"] > 0.8

    rows = data.labelled.rows("test")
    images = np.stack([decode(shop / data.labelled.images[row]) for row in rows]).astype(np.float64) / 255
    with torch.no_grad():
        logits = model.double().eval()(torch.from_numpy(images)).numpy()
    categories = data.labelled.categories[rows]
    assert values["test/accuracy"] == pytest.approx((logits.argmax(axis=1) == categories).mean(), abs=1e-6)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(rows)), categories]
    assert values["test/loss"] == pytest.approx(losses.mean(), rel=1e-4)


def test_validation_measures_the_images_held_out(shop, make_trainer):
    data = make_data(shop, validation_share=0.25, seed=4)
    model, trainer = fit(shop, make_trainer, data=data)
    (values,) = trainer.validate(model, data, verbose=False)
    labelled = LabelledImages.read(data.catalogue, validation_share=0.25, seed=4)
    rows = labelled.rows("validation")
    assert len(rows) == 90
    images = np.stack([decode(shop / labelled.images[row]) for row in rows]).astype(np.float32) / 255
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images)).argmax(dim=1).numpy()
    assert values["val/accuracy"] == pytest.approx((found == labelled.categories[rows]).mean(), abs=1e-6)


def test_it_trains_without_validation_images(shop, make_trainer):
    _, trainer = fit(shop, make_trainer, data=make_data(shop, validation_share=0))
    assert "train/loss" in trainer.callback_metrics
    assert not [name for name in trainer.callback_metrics if name.startswith("val/")]


def test_the_seeds_decide_every_bit(shop, make_trainer):
    first, again, other = (weights_of(fit(shop, make_trainer, seed)[0]) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    other_order = weights_of(fit(shop, make_trainer, 3, data=make_data(shop, seed=1))[0])
    assert not same(first, other_order)


def test_training_goes_on_where_it_stopped(shop, make_trainer, tmp_path):
    whole, _ = fit(shop, make_trainer, epochs=2)

    class Stop(Exception):
        pass

    from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint

    def stop(trainer, model):
        if trainer.current_epoch == 1:
            raise Stop

    seed_everything(0, verbose=False)
    callbacks = [
        ModelCheckpoint(tmp_path, "first", save_on_train_epoch_end=True),
        LambdaCallback(on_train_epoch_start=stop),
    ]
    with pytest.raises(Stop):
        make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=callbacks).fit(make_model(), make_data(shop))
    seed_everything(9, verbose=False)
    resumed = make_model()
    make_trainer(max_epochs=2).fit(resumed, make_data(shop), ckpt_path=str(tmp_path / "first.ckpt"))
    assert same(weights_of(resumed), weights_of(whole))


def test_label_smoothing_is_that_of_the_cross_entropy(shop, make_trainer):
    model, _ = fit(shop, make_trainer, label_smoothing=0.2)
    images, categories = torch.rand(5, 3, 16, 16), torch.tensor([0, 5, 2, 2, 1])
    model.eval()
    model._trainer = None
    model.log = lambda *args, **kwargs: None
    loss = model.training_step((images, categories), 0).item()
    log_probabilities = model(images).log_softmax(dim=1).detach().double().numpy()
    wanted = 0.8 * np.eye(6)[categories.numpy()] + 0.2 / 6
    assert loss == pytest.approx(-(wanted * log_probabilities).sum(axis=1).mean(), rel=1e-5)


class TestCheckpoints:
    def test_they_hold_plain_values(self, trained):
        checkpoint = torch.load(trained.checkpoint, weights_only=True)
        assert checkpoint["hyper_parameters"]["category_names"] == list(CATEGORIES)
        assert checkpoint["hyper_parameters"]["backbone_args"] == {"width": 8}
        assert all(name.startswith("network.") for name in checkpoint["state_dict"])

    def test_they_load_without_a_data_module(self, trained):
        model = ProductClassifier.load_from_checkpoint(trained.checkpoint).eval()
        assert model.category_names == CATEGORIES
        images = torch.rand(4, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(model(images), trained.classifier.network(images))

    def test_they_give_the_figures_of_the_network(self, shop, trained, make_trainer):
        data = make_data(shop)
        loaded = ProductClassifier.load_from_checkpoint(trained.checkpoint)
        (values,) = make_trainer().test(loaded, data, verbose=False)
        assert values["test/accuracy"] > 0.8
        assert make_trainer().test(make_model(), data, ckpt_path=str(trained.checkpoint), verbose=False) == [values]

    def test_other_categories_are_refused(self, trained, make_trainer, shop):
        data = make_data(shop)
        data.prepare_data()
        object.__setattr__(data.catalogue, "category_names", (*CATEGORIES, "Hat"))
        with pytest.raises(CatwalkError, match=r"trained on 6 categories \(Bag, .*\) and the dataset has 7"):
            make_trainer().test(make_model(), data, ckpt_path=str(trained.checkpoint), verbose=False)
        loaded = ProductClassifier.load_from_checkpoint(trained.checkpoint)
        with pytest.raises(CatwalkError, match=r"trained on 6 categories \(Bag, .*\) and the dataset has 7"):
            make_trainer().test(loaded, data, verbose=False)

    def test_another_width_is_refused(self, trained, make_trainer, shop):
        model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 4})
        message = re.escape("network.body.0.0.weight has shape (8, 3, 3, 3) there and (4, 3, 3, 3) here")
        with pytest.raises(CatwalkError, match=message):
            make_trainer().test(model, make_data(shop), ckpt_path=str(trained.checkpoint), verbose=False)

    def test_a_recommender_is_refused(self, shop, make_trainer, tmp_path):
        from datamodules import InteractionTriplets
        from lightning_modules import BPRMF

        trainer = make_trainer(max_epochs=1)
        trainer.fit(BPRMF(factors=2), InteractionTriplets(shop))
        trainer.save_checkpoint(tmp_path / "bpr_mf.ckpt")
        with pytest.raises(CatwalkError, match="the checkpoint is not one of a product classifier"):
            make_trainer().test(make_model(), make_data(shop), ckpt_path=str(tmp_path / "bpr_mf.ckpt"), verbose=False)
        with pytest.raises(CatwalkError, match="is not a checkpoint of a product classifier"):
            load_classifier(tmp_path / "bpr_mf.ckpt")

    def test_another_size_of_images(self, shop, trained, make_trainer):
        data = make_data(shop, image_size=(24, 16))
        message = r"trained on images of size their own .* data.image_size is \[24, 16\]"
        with pytest.raises(CatwalkError, match=message):
            make_trainer().predict(make_model(), data, ckpt_path=str(trained.checkpoint))
        with pytest.raises(CatwalkError, match=message):
            make_trainer().predict(ProductClassifier.load_from_checkpoint(trained.checkpoint), data)


class TestOptimisation:
    def test_the_default_is_nesterov_and_one_cycle(self, shop, make_trainer):
        _, trainer = fit(shop, make_trainer, epochs=2)
        (optimizer,) = trainer.optimizers
        assert isinstance(optimizer, torch.optim.SGD)
        group = optimizer.param_groups[0]
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
        (config,) = trainer.lr_scheduler_configs
        assert config.interval == "step"
        assert trainer.global_step == 2 * 11  # 324 images in batches of 32
        assert config.scheduler.total_steps == 22

    def test_the_rate_goes_up_and_comes_down(self, shop, make_trainer):
        from pytorch_lightning.callbacks import LambdaCallback

        rates = []

        def note(trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        seed_everything(0, verbose=False)
        trainer = make_trainer(max_epochs=2, callbacks=[LambdaCallback(on_train_batch_start=note)])
        trainer.fit(make_model(), make_data(shop))
        top = int(np.argmax(rates))
        assert rates[0] == pytest.approx(0.01)
        assert max(rates) == pytest.approx(0.1, rel=0.02)
        assert 0 < top < 10
        assert rates[-1] < 1e-5
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)

    def test_others_are_callables(self, shop, make_trainer):
        _, trainer = fit(
            shop,
            make_trainer,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.004),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5),
        )
        (optimizer,) = trainer.optimizers
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.param_groups[0]["lr"] == 0.004 / 4  # halved after 5 and 10 of the 11 batches

    def test_training_without_an_end_needs_a_schedule_of_its_own(self, shop, make_trainer):
        with pytest.raises(CatwalkError, match=r"trainer\.max_epochs"):
            make_trainer(max_epochs=-1).fit(make_model(), make_data(shop))

    def test_a_single_step_is_enough(self, shop, make_trainer):
        trainer = make_trainer(fast_dev_run=True)
        trainer.fit(make_model(), make_data(shop))
        assert trainer.global_step == 1


@pytest.mark.parametrize("batch_size", [7, 90])
def test_predictions_are_in_the_order_of_the_catalogue(shop, trained, make_trainer, batch_size):
    data = make_data(shop, batch_size=batch_size)
    outputs = make_trainer().predict(make_model(), data, ckpt_path=str(trained.checkpoint))
    features = torch.cat([output.features for output in outputs])
    assert torch.equal(features, trained.table.features)
    categories = torch.cat([output.categories for output in outputs]).numpy()
    assert np.array_equal(categories, trained.table.categories)
    # The shop's own labels stand in the same order.
    assert (categories == trained.catalogue.categories).mean() > 0.8
