"""Classifiers that begin with weights that somebody else trained, through a Trainer on the tiny shop."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from callbacks import WriteFeatures
from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import CATEGORIES
from catwalk.networks.classifier import load_classifier
from catwalk.networks.compact_cnn import compact_cnn
from catwalk.networks.features import FeatureTable
from catwalk.networks.imagenet import imagenet_categories
from catwalk.networks.network import network_fingerprint
from catwalk.shop.decoding import decode
from catwalk.shop.images import to_float
from datamodules import ProductImages
from lightning_modules import ProductClassifier

BACKBONE = "catwalk.networks.compact_cnn"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with weights of somebody else's network for six classes of their own."""
    torch.manual_seed(7)
    network = compact_cnn(8, 6)
    for _ in range(20):
        network.train()(torch.randn(16, 3, 16, 16))  # statistics that are no new network's
    path = tmp_path_factory.mktemp("others") / "model_best.pth.tar"
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return path


def make_model(weights: Path | str | None, width: int = 8, **settings) -> ProductClassifier:
    return ProductClassifier(BACKBONE, {"width": width}, weights=None if weights is None else str(weights), **settings)


def make_data(shop: Path, **settings) -> ProductImages:
    return ProductImages(shop, **{"batch_size": 32, "shift": 1} | settings)


def state_of(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in torch.load(path)["state_dict"].items()}


def body_of(model: ProductClassifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.network.body.state_dict().items()}


class TestFreezing:
    def test_what_is_frozen_keeps_every_bit_and_the_rest_learns(self, shop, others, make_trainer) -> None:
        model = make_model(others, freeze_up_to="1")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found .* in eval mode")
            make_trainer(max_epochs=2).fit(model, make_data(shop))
        before, after = state_of(others), body_of(model)
        assert after.keys() == {name for name in before if not name.startswith("6.")}
        for name, tensor in after.items():
            is_frozen = name.split(".")[0] in ("0", "1")
            assert torch.equal(tensor, before[name]) == is_frozen, name
        assert after["1.1.num_batches_tracked"] == 20
        assert not torch.equal(model.network.head.weight, before["6.weight"])

    def test_without_it_everything_learns(self, shop, others, make_trainer) -> None:
        model = make_model(others)
        make_trainer(max_epochs=1).fit(model, make_data(shop))
        before = state_of(others)
        assert not any(torch.equal(tensor, before[name]) for name, tensor in body_of(model).items())

    def test_the_optimizer_has_what_learns(self, shop, others, make_trainer) -> None:
        model, trainer = make_model(others, freeze_up_to="4"), make_trainer(max_epochs=1)
        trainer.fit(model, make_data(shop))
        (optimizer,) = trainer.optimizers
        (group,) = optimizer.param_groups
        assert {id(parameter) for parameter in group["params"]} == {id(p) for p in model.network.head.parameters()}

    def test_it_is_so_after_validation_and_in_a_checkpoint_that_is_resumed(
        self, shop, others, make_trainer, tmp_path
    ) -> None:
        def schedule(optimizer):  # one without an end, with which the training can go on
            return torch.optim.lr_scheduler.ConstantLR(optimizer)

        trainer = make_trainer(max_epochs=1)
        trainer.fit(make_model(others, freeze_up_to="1", lr_scheduler=schedule), make_data(shop))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        model = make_model(None, freeze_up_to="1", lr_scheduler=schedule)  # a checkpoint does without the file
        make_trainer(max_epochs=2).fit(model, make_data(shop), ckpt_path=str(tmp_path / "one.ckpt"))
        before = state_of(others)
        assert torch.equal(model.network.body[1][1].running_mean, before["1.1.running_mean"])
        loaded = ProductClassifier.load_from_checkpoint(tmp_path / "one.ckpt")
        assert [p.requires_grad for p in loaded.network.parameters()] == [
            p.requires_grad for p in model.network.parameters()
        ]

    def test_synchronised_statistics_stay_as_well(self, others, shop) -> None:
        model = make_model(others, freeze_up_to="1")
        data = make_data(shop)
        data.prepare_data()
        model.build_for(data)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
        assert not model.network.body[1][1].training
        assert model.network.body[2][1].training

    @pytest.mark.parametrize(("name", "message"), [("9", "no module '9'; it has 0, 1, 2"), ("6", "nothing to train")])
    def test_what_cannot_be_frozen(self, shop, others, make_trainer, name, message) -> None:
        with pytest.raises(CatwalkError, match=message):
            make_trainer(max_epochs=1).fit(make_model(others, freeze_up_to=name), make_data(shop))

    def test_random_weights_are_not_frozen(self, shop, make_trainer) -> None:
        with pytest.raises(CatwalkError, match="freeze_up_to: 1 needs a trained network"):
            make_trainer(max_epochs=1).fit(make_model(None, freeze_up_to="1"), make_data(shop))


class TestWeights:
    def test_a_missing_file_is_said_at_once(self) -> None:
        with pytest.raises(CatwalkError, match=r"weights: nowhere\.pt does not exist"):
            make_model("nowhere.pt")

    def test_two_sources_are_said_at_once(self, others) -> None:
        with pytest.raises(CatwalkError, match="give one of them"):
            ProductClassifier(backbone_args={"weights": "IMAGENET1K_V1"}, weights=str(others))

    def test_a_new_classification_layer_is_told_of(self, shop, others, trained, make_trainer) -> None:
        with pytest.warns(UserWarning, match="the categories are random"):
            make_trainer().predict(make_model(others), make_data(shop))
        tuned = make_model(others)
        make_trainer(max_epochs=1).fit(tuned, make_data(shop))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*the categories are random")
            make_trainer().predict(tuned, make_data(shop))
            make_trainer().predict(make_model(trained.checkpoint), make_data(shop))
            make_trainer().predict(make_model(others), make_data(shop), ckpt_path=str(trained.checkpoint))

    def test_a_checkpoint_does_without_the_file(self, shop, others, make_trainer, tmp_path) -> None:
        path = tmp_path / "weights.pt"
        path.write_bytes(others.read_bytes())
        trainer, model = make_trainer(max_epochs=1), make_model(path)
        trainer.fit(model, make_data(shop))
        trainer.save_checkpoint(tmp_path / "tuned.ckpt")
        path.unlink()
        assert model.hparams["weights"] == str(path)
        loaded = ProductClassifier.load_from_checkpoint(tmp_path / "tuned.ckpt")
        fingerprint = network_fingerprint(model.network)
        assert network_fingerprint(loaded.network) == fingerprint
        assert network_fingerprint(load_classifier(tmp_path / "tuned.ckpt").network) == fingerprint

    def test_an_already_trained_network_without_training(self, shop, trained, make_trainer, tmp_path) -> None:
        data = make_data(shop)
        (expected,) = make_trainer().test(
            ProductClassifier.load_from_checkpoint(trained.checkpoint), data, verbose=False
        )
        model, trainer = make_model(trained.checkpoint), make_trainer(max_epochs=0)
        trainer.fit(model, data)
        assert network_fingerprint(model.network) == network_fingerprint(trained.classifier.network)
        assert trainer.test(model, data, verbose=False) == [expected]


@pytest.fixture(scope="module")
def imagenet_weights(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a network of a thousand outputs, six of which know the shop's categories."""
    network = compact_cnn(8, 1000)
    own = trained.classifier.network
    state = dict(own.body.state_dict())
    state["6.weight"], state["6.bias"] = torch.zeros(1000, 64), torch.full((1000,), -1e3)
    for row, place in enumerate(PLACES):
        state["6.weight"][place], state["6.bias"][place] = own.head.weight[row].detach(), own.head.bias[row].detach()
    network.load_state_dict(state)
    path = tmp_path_factory.mktemp("imagenet") / "imagenet.pt"
    torch.save(network.state_dict(), path)
    return path


PLACES = (414, 601, 774, 770, 610, 608)
"""ImageNet's classes that stand for the shop's six categories."""


class TestImageNet:
    def test_features_and_classes_by_name(self, shop, trained, imagenet_weights, make_trainer, tmp_path) -> None:
        model = make_model(imagenet_weights, categories="imagenet")
        trainer = make_trainer(callbacks=[WriteFeatures(tmp_path)])
        trainer.predict(model, make_data(shop), return_predictions=False)
        table = FeatureTable.read(tmp_path, trained.catalogue)
        assert table.category_names == model.category_names == imagenet_categories()
        assert torch.equal(table.features, trained.table.features)
        assert [PLACES.index(place) for place in table.categories] == trained.table.categories.tolist()
        rows = (tmp_path / "predictions.csv").read_text().splitlines()[1:]
        names = [row.split(",")[1] for row in rows]
        assert names == [imagenet_categories()[PLACES[category]] for category in trained.table.categories]
        classifier = load_classifier(tmp_path / "classifier.ckpt")
        assert classifier.category_names == imagenet_categories()
        assert network_fingerprint(classifier.network) == table.network

    def test_the_checkpoint_that_is_written_works_again_in_every_way(
        self, shop, imagenet_weights, make_trainer, tmp_path
    ) -> None:
        folders = [tmp_path / name for name in ("first", "loaded", "by path", "as weights")]
        checkpoint = str(folders[0] / "classifier.ckpt")

        def write(model: ProductClassifier, folder: Path, **settings) -> None:
            make_trainer(callbacks=[WriteFeatures(folder)]).predict(
                model, make_data(shop), return_predictions=False, **settings
            )

        write(make_model(imagenet_weights, categories="imagenet"), folders[0])
        write(ProductClassifier.load_from_checkpoint(checkpoint), folders[1])
        write(make_model(None, categories="imagenet"), folders[2], ckpt_path=checkpoint)
        write(make_model(checkpoint, categories="imagenet"), folders[3])
        assert len({(folder / "predictions.csv").read_bytes() for folder in folders}) == 1
        assert len({(folder / "features.safetensors").read_bytes() for folder in folders}) == 1

    @pytest.mark.parametrize("command", ["fit", "validate", "test"])
    def test_the_datasets_labels_are_not_learnt_as_its_classes(
        self, shop, imagenet_weights, make_trainer, command
    ) -> None:
        model = make_model(imagenet_weights, categories="imagenet")
        with pytest.raises(CatwalkError, match=f"categories: imagenet is for .* not for `{command}`.*dataset$"):
            getattr(make_trainer(max_epochs=1), command)(model, make_data(shop))

    def test_random_weights_see_nothing(self, shop, make_trainer) -> None:
        with pytest.raises(CatwalkError, match="categories: imagenet needs a trained network"):
            make_trainer().predict(make_model(None, categories="imagenet"), make_data(shop))

    def test_six_classes_are_not_a_thousand(self, shop, others, trained, make_trainer) -> None:
        with pytest.raises(CatwalkError, match=r"has 6 outputs in .*model_best\.pth\.tar, and .* 1000, tench, …"):
            make_trainer().predict(make_model(others, categories="imagenet"), make_data(shop))
        with pytest.raises(CatwalkError, match=r"classifier\.ckpt tells Bag, Dress, .* not the 1000 categories tench"):
            make_trainer().predict(make_model(trained.checkpoint, categories="imagenet"), make_data(shop))

    def test_categories_of_a_checkpoint_must_be_those_stated(
        self, shop, trained, imagenet_weights, make_trainer, tmp_path
    ) -> None:
        trainer = make_trainer(callbacks=[WriteFeatures(tmp_path)])
        trainer.predict(make_model(imagenet_weights, categories="imagenet"), make_data(shop), return_predictions=False)
        checkpoint = str(tmp_path / "classifier.ckpt")
        with pytest.raises(CatwalkError, match=r"tells ImageNet's classes, and dataset is stated; set .* imagenet$"):
            make_trainer().predict(make_model(None), make_data(shop), ckpt_path=checkpoint)
        model = make_model(None, categories="imagenet")
        with pytest.raises(CatwalkError, match=r"tells those of a dataset, and imagenet is stated; set .* dataset$"):
            make_trainer().predict(model, make_data(shop), ckpt_path=str(trained.checkpoint))

    def test_as_a_start_for_the_datasets_own_categories(self, shop, imagenet_weights, make_trainer) -> None:
        model = make_model(imagenet_weights, freeze_up_to="4")
        trainer, data = make_trainer(max_epochs=3), make_data(shop)
        trainer.fit(model, data)
        assert model.category_names == CATEGORIES
        (values,) = trainer.test(model, data, verbose=False)
        assert values["test/accuracy"] > 0.7

    def test_unknown_choice(self) -> None:
        with pytest.raises(CatwalkError, match="categories: must be dataset or imagenet, got 'cifar'"):
            make_model(None, categories="cifar")


def test_a_frozen_image_reads_the_same_however_it_is_made(shop, trained, imagenet_weights) -> None:
    """The file's network, called by hand, gives the features and classes that the module gives."""
    model = make_model(imagenet_weights, categories="imagenet")
    data = make_data(shop)
    data.prepare_data()
    model.build_for(data)
    plain = compact_cnn(8, 1000)
    plain.load_state_dict(torch.load(imagenet_weights))
    plain.eval()
    levels = torch.from_numpy(decode(shop / data.catalogue.images[0], None))[None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (to_float(levels) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(to_float(levels)), plain(images), rtol=1e-4, atol=1e-4)
