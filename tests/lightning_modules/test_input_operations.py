"""Product classifiers behind input operations: trained, written, and loaded again."""

import pytest
import torch
from pytorch_lightning import seed_everything
from small_networks import small_classifier, small_images

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from catwalk.networks.defended import write_defended_checkpoint
from catwalk.processing import JPEG, BitDepth, Denoiser, GaussianNoise
from lightning_modules import ProductClassifier


@pytest.fixture(scope="module")
def behind(trained, tmp_path_factory):
    """Return the checkpoint of the trained network behind JPEG compression."""
    path = tmp_path_factory.mktemp("behind") / "classifier.ckpt"
    write_defended_checkpoint(trained.checkpoint, [JPEG(quality=30)], path)
    return path


def test_it_trains_behind_operations_and_its_checkpoint_says_so(shop, make_trainer, tmp_path):
    seed_everything(0, verbose=False)
    model = small_classifier(input_operations=[BitDepth(2), GaussianNoise(4)])
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, small_images(shop))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    network = load_classifier(tmp_path / "a.ckpt").network
    assert [type(operation) for operation in network.input_operations] == [BitDepth, GaussianNoise]
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(network(images), model.eval()(images))
    again = ProductClassifier.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    assert torch.equal(again(images), model(images))


def test_the_loss_is_that_of_processed_images(shop, make_trainer):
    """Of operations that move the mean of images far, so that the network cannot have seen others."""
    seen = []
    model = small_classifier(input_operations=[BitDepth(1)])
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    model.configure_model = lambda: _watch(model, seen)
    trainer.fit(model, small_images(shop))
    assert seen
    assert all(set(images.unique().tolist()) <= {0.0, 1.0} for images in seen)


def _watch(model, seen):
    ProductClassifier.configure_model(model)
    network = model.network
    mean, std = network.mean, network.std
    network.body.register_forward_pre_hook(
        lambda module, inputs: seen.append((inputs[0] * std + mean).detach().round(decimals=4).abs())
    )


def test_a_trained_operation_keeps_its_weights(shop, make_trainer, tmp_path):
    denoiser = Denoiser(width=2, depth=1)
    denoiser.unet.last.weight.fill_(0.3)
    model, images = small_classifier(input_operations=[denoiser]), torch.rand(2, 3, 16, 16)
    expected = denoiser(images)
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, small_images(shop))
    assert torch.equal(model.network.input_operations[0](images), expected)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(load_classifier(tmp_path / "a.ckpt").network.input_operations[0](images), expected)


def test_a_checkpoints_operations_are_taken(behind, shop, trained, make_trainer):
    model = small_classifier()
    trainer = make_trainer()
    (measured,) = trainer.test(model, small_images(shop), ckpt_path=behind, verbose=False)
    assert [type(operation) for operation in model.network.input_operations] == [JPEG]
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(model.network.eval()(images), trained.classifier.network(JPEG(quality=30)(images)))
    assert 0 <= measured["test/accuracy"] <= 1


def test_stated_operations_must_be_the_checkpoints(behind, shop, make_trainer):
    with pytest.raises(CatwalkError, match=r"the checkpoint has JPEG .*'quality': 30.*, and BitDepth .* is stated"):
        make_trainer().test(small_classifier(input_operations=[BitDepth(2)]), small_images(shop), ckpt_path=behind)
    make_trainer().test(
        small_classifier(input_operations=[JPEG(30)]), small_images(shop), ckpt_path=behind, verbose=False
    )


def test_a_configuration_states_operations(shop, tmp_path, capsys):
    given = [
        *("--model", "ProductClassifier", "--model.backbone", "catwalk.networks.compact_cnn"),
        *("--data", "ProductImages", "--data.dataset", str(shop), "--trainer.max_epochs", "1"),
        *("--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "1"),
    ]
    operations = "[{class_path: catwalk.processing.JPEG, init_args: {quality: %d}}]"
    writes = ["--trainer.callbacks+", "callbacks.ResumableCheckpoint", "--trainer.callbacks.filename", "c"]
    writes += ["--trainer.callbacks.dirpath", str(tmp_path)]
    main(["fit", *given, "--model.input_operations", operations % 60, *writes])
    assert load_classifier(tmp_path / "c.ckpt").network.input_operations[0].quality == 60
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *given, "--model.input_operations", operations % 600])
    assert "quality must be at most 100, got 600" in capsys.readouterr().err
