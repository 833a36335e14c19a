"""T, AT, fast AT and free AT on a GPU: beside the CPU, in mixed precision, and from its checkpoints and to it."""

import pytest
import torch
from gpu import ACCELERATOR, DEVICE
from pytorch_lightning import Callback, seed_everything

from callbacks import AdversarialAccuracy
from catwalk.attacks import PGD
from catwalk.networks.classifier import load_classifier
from catwalk.networks.frozen import exact_convolutions
from datamodules import ProductImages
from lightning_modules import (
    AdversarialClassifier,
    FastAdversarialClassifier,
    FreeAdversarialClassifier,
    ProductClassifier,
)

TRAININGS = {
    "T": ProductClassifier,
    "AT": lambda **settings: AdversarialClassifier(iterations=2, random_start=False, **settings),
    "fast AT": lambda **settings: FastAdversarialClassifier(check_every_n_steps=2, **settings),
    "free AT": lambda **settings: FreeAdversarialClassifier(replays=2, **settings),
}
every_training = pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS.keys())


def model_of(make, backbone="catwalk.networks.compact_cnn", arguments=None, **settings):
    return make(backbone=backbone, backbone_args={"width": 8} if arguments is None else arguments, **settings)


def plain_descent(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def constant(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def data_of(shop, **settings):
    return ProductImages(shop, **{"batch_size": 32, "shift": 1, "flip": True} | settings)


class Noted(Callback):
    """Notes the network as training begins, its losses, and where and in which types its images and weights are."""

    def __init__(self):
        self.losses, self.found = [], set()

    def on_train_start(self, trainer, pl_module):
        self.begun = {name: value.detach().cpu().clone() for name, value in pl_module.network.state_dict().items()}

        def note(module, arguments, logits):
            weight = next(module.parameters())
            self.found.add((arguments[0].device.type, arguments[0].dtype, weight.device.type, weight.dtype))

        pl_module.network.register_forward_hook(note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit(make_one, model, data, *callbacks, **settings):
    seed_everything(0, verbose=False)
    noted = Noted()
    trainer = make_one(**{"max_epochs": 2} | settings, callbacks=[*callbacks, noted])
    trainer.fit(model, data)
    return trainer, noted


class BeginsWith(Callback):
    """Begins with given weights: Lightning draws them on the device, where one seed gives others than on a CPU."""

    def __init__(self, state):
        self.state = state

    def on_fit_start(self, trainer, pl_module):
        pl_module.network.load_state_dict(self.state)


@pytest.mark.parametrize("name", ["T", "AT", "free AT"])
def test_a_few_steps_beside_the_cpu(name, shop, trained, make_trainer, gpu_trainer, record_property):
    """Without random starts, which every device draws for itself; from the same weights, on the same images."""
    state = {key: value.clone() for key, value in trained.classifier.network.state_dict().items()}
    results = []
    for make_one, settings in ((make_trainer, {}), (gpu_trainer, {"deterministic": True})):
        model = model_of(TRAININGS[name], optimizer=plain_descent, lr_scheduler=constant)
        with exact_convolutions():
            _, noted = fit(
                make_one, model, data_of(shop), BeginsWith(state), max_epochs=1, limit_train_batches=2, **settings
            )
        results.append((noted, {key: value.cpu() for key, value in model.network.state_dict().items()}))
    (_, expected), (noted, found) = results
    assert {device for device, _, weight, _ in noted.found} == {DEVICE.type}
    assert all(torch.equal(value, results[0][0].begun[key]) for key, value in noted.begun.items())
    floating = [key for key, value in expected.items() if value.is_floating_point()]
    moved, off = (
        torch.cat([(expected[key] - others[key]).double().flatten() for key in floating]).norm()
        for others in (noted.begun, found)
    )
    record_property("difference of the weights, as a share of their change", float(off / moved))
    assert off < (0.001 if name == "T" else 0.1) * moved  # a gradient next to 0 may have another sign
    assert noted.losses == pytest.approx(results[0][0].losses, rel=0.01)


@every_training
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_it_learns_in_every_precision(make, precision, shop, gpu_trainer):
    trainer, noted = fit(gpu_trainer, model_of(make), data_of(shop), max_epochs=6, precision=precision)
    assert noted.found == {(DEVICE.type, torch.float32, DEVICE.type, torch.float32)}
    assert all(loss == loss for loss in noted.losses)
    assert min(noted.losses[-3:]) < noted.losses[0]
    assert trainer.global_step > 0


@every_training
def test_twice_the_same_with_deterministic_kernels(make, shop, gpu_trainer):
    states = []
    for _ in range(2):
        model = model_of(make)
        fit(gpu_trainer, model, data_of(shop), deterministic=True)
        states.append(model.network.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_resnet_with_deterministic_kernels(shop, gpu_trainer):
    model = model_of(ProductClassifier, "torchvision.models.resnet18", {})
    trainer, noted = fit(gpu_trainer, model, data_of(shop, image_size=(32, 32)), max_epochs=1, deterministic=True)
    assert all(loss == loss for loss in noted.losses)
    assert model.network.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.global_step > 0


@pytest.mark.parametrize("name", ["T", "fast AT", "free AT"])
def test_checkpoints_go_from_the_gpu_to_the_cpu_and_back(name, shop, make_trainer, gpu_trainer, tmp_path):
    data = data_of(shop)
    model = model_of(TRAININGS[name], lr_scheduler=constant, optimizer=plain_descent)
    trainer, _ = fit(gpu_trainer, model, data)
    path = tmp_path / "gpu.ckpt"
    trainer.save_checkpoint(path)
    classifier = load_classifier(path)
    for key, value in model.network.state_dict().items():
        assert torch.equal(classifier.network.state_dict()[key], value.cpu())
    epochs = 4
    for make_one in (make_trainer, gpu_trainer):
        other = model_of(TRAININGS[name], lr_scheduler=constant, optimizer=plain_descent)
        other.initial_weights.expect_checkpoint()
        trainer = make_one(max_epochs=2 * epochs)
        trainer.fit(other, data_of(shop), ckpt_path=path, weights_only=True)
        path = tmp_path / "next.ckpt"
        trainer.save_checkpoint(path)
        assert all(bool(value.isfinite().all()) for value in other.parameters())
        epochs += 2


def test_accuracy_under_attack_beside_the_cpu(trained, shop, make_trainer, gpu_trainer):
    values = []
    for make_one in (make_trainer, gpu_trainer):
        model = model_of(ProductClassifier)
        model.initial_weights.expect_checkpoint()
        trainer = make_one(callbacks=[AdversarialAccuracy(PGD(epsilon=4, targeted=False))])
        values += trainer.test(model, data_of(shop), ckpt_path=trained.checkpoint, weights_only=True, verbose=False)
    assert values[1].keys() == values[0].keys()
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, abs=0.03), name


def test_one_process_of_ddp(shop, gpu_trainer):
    model = model_of(FreeAdversarialClassifier, replays=2)
    trainer, noted = fit(gpu_trainer, model, data_of(shop), max_epochs=2, strategy="ddp")
    assert all(loss == loss for loss in noted.losses)
    assert ACCELERATOR == "cpu" or torch.distributed.get_backend() == "nccl"
    assert trainer.world_size == 1
    torch.distributed.destroy_process_group()
