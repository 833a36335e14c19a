"""The denoiser: its loss by hand, what it learns, and its use in front of a network."""

import pytest
import torch
from pytorch_lightning import seed_everything
from small_networks import small_images

from catwalk.attacks import PGD
from catwalk.errors import CatwalkError
from catwalk.networks.defended import defended
from catwalk.processing import Denoiser
from catwalk.processing.denoiser import DenoisingUNet
from catwalk.shop.images import load_images
from lightning_modules import ImageDenoiser


@pytest.mark.parametrize("size", [(16, 16), (13, 10), (5, 9)])
def test_at_first_it_changes_nothing(size):
    images = torch.rand(2, 3, *size)
    assert torch.equal(DenoisingUNet(4, 2).eval()(images), images)


def test_the_loss_is_the_distance_of_images_and_of_features(trained):
    model = ImageDenoiser(str(trained.checkpoint), width=4, image_weight=2.0, feature_weight=0.5)
    model.unet.last.bias.data.fill_(0.1)  # the denoised image is 0.1 below the image
    model.unet.last.weight.data.zero_()
    images, clean = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    features = trained.classifier.network.features
    expected = 2 * (images - 0.1 - clean).abs().mean() + 0.5 * (features(images - 0.1) - features(clean)).abs().mean()
    assert float(model.denoising_loss(images, clean).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module")
def learnt(trained, shop, tmp_path_factory):
    """Return a denoiser that was trained for a few steps, and its checkpoint."""
    from small_networks import quiet_trainer

    path = tmp_path_factory.mktemp("denoiser") / "denoiser.ckpt"
    seed_everything(0, verbose=False)
    settings = {"epsilon": 16, "iterations": 1, "optimizer": lambda weights: torch.optim.Adam(weights, lr=0.01)}
    model = ImageDenoiser(str(trained.checkpoint), width=4, depth=1, **settings)
    trainer = quiet_trainer(max_epochs=12, limit_val_batches=0)
    trainer.fit(model, small_images(shop))
    trainer.save_checkpoint(path)
    return model, path


def test_it_lowers_the_loss_and_leaves_the_network_alone(learnt, trained, shop):
    model, path = learnt
    network = trained.classifier.network
    guide = model.guide.network
    theirs = network.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in guide.state_dict().items())
    assert not any(name.startswith("_guide") or "body" in name for name in torch.load(path)["state_dict"])
    images = torch.from_numpy(load_images(shop, trained.catalogue.images[:16], None)) / 255
    categories = network(images).argmax(dim=1)
    attacked = PGD(16, iterations=2, targeted=False)(network, images, categories, keys=torch.arange(16)).images
    fresh = ImageDenoiser(str(trained.checkpoint), width=4, depth=1)
    with torch.no_grad():
        before, after = (float(each.eval().denoising_loss(attacked, images)) for each in (fresh, model))
    assert after < before


def test_it_is_an_operation_in_front_of_the_network(learnt, trained):
    model, path = learnt
    operation, images = Denoiser(str(path)), torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(operation(images), model.eval()(images).clamp(0, 1))
        network = defended(trained.classifier, [operation]).network
        assert torch.equal(network(images), trained.classifier.network(operation(images)))
    assert not any(parameter.requires_grad for parameter in operation.parameters())
    network.train()
    assert not operation.unet.down[0][1].training
    network.eval()


def test_it_is_measured(learnt, shop, make_trainer):
    (measured,) = make_trainer().test(learnt[0], small_images(shop), verbose=False)
    assert {"test/loss", "test/accuracy", "test/attacked_accuracy"} <= measured.keys()
    again = ImageDenoiser.load_from_checkpoint(learnt[1])
    assert make_trainer().test(again, small_images(shop), verbose=False) == [measured]


def test_refusals(trained, shop, make_trainer, tmp_path):
    path = str(trained.checkpoint)
    with pytest.raises(CatwalkError, match="both 0: there would be nothing to learn"):
        ImageDenoiser(path, image_weight=0, feature_weight=0)
    with pytest.raises(CatwalkError, match="epsilon: must be a number of grey levels above 0"):
        ImageDenoiser(path, epsilon=0)
    with pytest.raises(CatwalkError, match=r"images of size their own, and data.image_size is \(8, 8\)"):
        make_trainer(max_epochs=1).fit(ImageDenoiser(path), small_images(shop, image_size=(8, 8)))
    with pytest.raises(CatwalkError, match=r"is no checkpoint of lightning_modules\.ImageDenoiser"):
        Denoiser(path)
