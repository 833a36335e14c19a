"""Networks behind input operations: what they compute, how attacks see them, and their checkpoints."""

import copy

import pytest
import torch
from frozen_networks import far_from_defaults

from catwalk.attacks import PGD, CarliniWagner
from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.networks.building import build_network
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.networks.defended import averaged, bare, defended, write_defended_checkpoint
from catwalk.networks.frozen import frozen
from catwalk.networks.network import network_fingerprint
from catwalk.processing import JPEG, BitDepth, Denoiser, GaussianNoise, Median, RandomResizePad, WebP


def make_network():
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 4}, num_classes=5)
    return far_from_defaults(network).eval()


def make_images(number=3, size=16, seed=0):
    images = torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (images * 255).round() / 255


def behind(network, *operations):
    return defended(Classifier(network, ("a",) * 5, None), operations).network


def test_images_go_through_the_operations_in_order():
    network, images = make_network(), make_images()
    both = behind(network, BitDepth(2), JPEG(50))
    assert torch.equal(both(images), network(JPEG(50)(BitDepth(2)(images))))
    assert torch.equal(both.features(images), network.features(JPEG(50)(BitDepth(2)(images))))
    assert not torch.equal(both(images), behind(network, JPEG(50), BitDepth(2))(images))


def test_further_operations_come_first():
    network, images = make_network(), make_images()
    twice = defended(Classifier(behind(network, JPEG(50)), ("a",) * 5, None), [BitDepth(2)]).network
    assert torch.equal(twice(images), behind(network, BitDepth(2), JPEG(50))(images))


def test_the_network_itself_stays_as_it_was():
    network = make_network()
    expected = network(make_images())
    behind(network, JPEG(10))
    assert torch.equal(network(make_images()), expected)
    assert torch.equal(bare(behind(network, JPEG(10)))(make_images()), expected)


def test_the_gradient_is_that_at_the_processed_image():
    """BPDA: the operation's derivative is taken for the identity, and the network's is that at what it sees."""
    network, images = make_network(), make_images().requires_grad_()
    behind(network, WebP(50))(images)[:, 1].sum().backward()
    processed = WebP(50)(images.detach()).requires_grad_()
    network(processed)[:, 1].sum().backward()
    assert torch.equal(images.grad, processed.grad)


@pytest.mark.parametrize("operations", [[JPEG(50)], [Median(3)], [RandomResizePad(0.7), GaussianNoise(10)]])
def test_the_quickest_form_is_the_plain_one_but_for_rounding(operations):
    network, images = behind(make_network(), *operations), make_images(4).requires_grad_()
    expected = network(images)
    (gradient,) = torch.autograd.grad(expected.square().sum(), images)
    with frozen(network, images.detach()) as view:
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms == []  # they are folded behind operations, too
        found = view(images)
        (ours,) = torch.autograd.grad(found.square().sum(), images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(ours, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


class TestDraws:
    def test_an_average_is_that_over_other_draws_than_the_networks_own(self):
        network, operation, images = make_network(), GaussianNoise(30), make_images()
        mean = torch.stack([network(operation(images, draw)) for draw in (1, 2, 3)]).mean(dim=0)
        assert torch.allclose(averaged(behind(network, operation), 3)(images), mean, atol=1e-5)
        assert torch.equal(behind(network, operation)(images), network(operation(images, 0)))

    def test_the_gradient_of_an_average_is_the_average_of_gradients(self):
        network, operation, images = make_network(), RandomResizePad(0.6), make_images().requires_grad_()
        averaged(behind(network, operation), 4)(images)[:, 2].sum().backward()
        gradients = []
        for draw in range(1, 5):
            copied = images.detach().clone().requires_grad_()
            network(operation(copied, draw))[:, 2].sum().backward()
            gradients.append(copied.grad)
        assert torch.allclose(images.grad, torch.stack(gradients).mean(dim=0), atol=1e-5)

    def test_what_is_not_random_is_not_repeated(self):
        network = behind(make_network(), JPEG(50))
        assert averaged(network, 10) is network

    def test_training_draws_anew(self):
        network, images = behind(make_network(), GaussianNoise(30)), make_images()
        network.input_operations.train()
        network.training = True  # without BatchNorm's statistics
        assert not torch.equal(network(images), network(images))
        torch.manual_seed(1)
        first = network(images)
        torch.manual_seed(1)
        assert torch.equal(network(images), first)

    def test_no_draws_are_refused(self):
        with pytest.raises(CatwalkError, match="draws: must be at least 1, got 0"):
            averaged(behind(make_network(), GaussianNoise(30)), 0)


@pytest.mark.parametrize("attack", [PGD(iterations=2), CarliniWagner(searches=1, iterations=2)])
def test_an_attack_does_not_depend_on_batches(attack):
    network = averaged(behind(make_network(), RandomResizePad(0.7), JPEG(60)), 2)
    images, targets, keys = make_images(20, 8), torch.arange(20) % 5, torch.arange(20)
    results = []
    for size in (16, 32):
        attack.batch_size = size
        results.append(attack(network, images, targets, keys=keys))
    assert torch.equal(results[0].images, results[1].images)
    assert torch.equal(results[0].success, results[1].success)


def test_the_fingerprint_tells_operations_apart():
    network = make_network()
    found = [
        network_fingerprint(each)
        for each in (
            network,
            behind(network, JPEG(50)),
            behind(network, JPEG(60)),
            behind(network, JPEG(50), JPEG(60)),
            behind(network, JPEG(60), JPEG(50)),
            behind(network, Denoiser(width=2, depth=1)),
        )
    ]
    assert len(set(found)) == len(found)
    assert network_fingerprint(bare(behind(network, JPEG(50)))) == found[0]


class TestCheckpoints:
    def test_a_defended_checkpoint_is_the_network_behind_the_operations(self, trained, tmp_path):
        images = make_images()
        denoiser = Denoiser(width=2, depth=1)
        denoiser.unet.last.weight.fill_(0.3)
        for operations in ([JPEG(40), RandomResizePad(0.7, seed=3)], [denoiser, BitDepth(3)]):
            write_defended_checkpoint(trained.checkpoint, operations, tmp_path / "folder" / "d.ckpt")
            loaded = load_classifier(tmp_path / "folder" / "d.ckpt")
            assert loaded.category_names == trained.classifier.category_names
            expected = defended(trained.classifier, copy.deepcopy(operations)).network
            assert torch.equal(loaded.network(images), expected(images))
            assert network_fingerprint(loaded.network) == network_fingerprint(expected)

    def test_a_second_writing_puts_operations_in_front(self, trained, tmp_path):
        denoiser = Denoiser(width=2, depth=1)
        denoiser.unet.last.weight.fill_(0.3)
        write_defended_checkpoint(trained.checkpoint, [denoiser], tmp_path / "1.ckpt")
        write_defended_checkpoint(tmp_path / "1.ckpt", [JPEG(40), BitDepth(3)], tmp_path / "2.ckpt")
        expected = defended(trained.classifier, [JPEG(40), BitDepth(3), denoiser]).network
        assert torch.equal(load_classifier(tmp_path / "2.ckpt").network(make_images()), expected(make_images()))

    def test_foreign_operations_must_be_named(self, trained, tmp_path):
        checkpoint = read_checkpoint(trained.checkpoint)
        checkpoint["hyper_parameters"]["input_operations"] = [
            {"class_path": "os.system", "init_args": {"command": "x"}}
        ]
        torch.save(checkpoint, tmp_path / "a.ckpt")
        with pytest.raises(CatwalkError, match=r"a\.ckpt asks for the input operation os\.system"):
            load_classifier(tmp_path / "a.ckpt")
        checkpoint["hyper_parameters"]["input_operations"] = "JPEG"
        torch.save(checkpoint, tmp_path / "b.ckpt")
        with pytest.raises(CatwalkError, match=r"b\.ckpt is damaged: its input_operations cannot be 'JPEG'"):
            load_classifier(tmp_path / "b.ckpt")

    def test_refusals(self, trained, tmp_path):
        with pytest.raises(CatwalkError, match="operations: give one at least"):
            write_defended_checkpoint(trained.checkpoint, [], tmp_path / "a.ckpt")
        with pytest.raises(CatwalkError, match="give another file"):
            write_defended_checkpoint(trained.checkpoint, [JPEG()], trained.checkpoint)
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(CatwalkError, match="is not a checkpoint of a product classifier"):
            write_defended_checkpoint(tmp_path / "other.ckpt", [JPEG()], tmp_path / "a.ckpt")
