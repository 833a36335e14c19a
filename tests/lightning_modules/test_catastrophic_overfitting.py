"""The guard of fast AT: when it ends a training, with which weights, and what a run that is killed remembers of it."""

import plain_training
import pytest
import torch
from pytorch_lightning import Callback, seed_everything

from datamodules import ProductImages
from lightning_modules import FastAdversarialClassifier


class Misled(Callback):
    """Turns the classification layer against every category, at the beginning of each of some steps."""

    def __init__(self, first, last):
        self.steps, self.head = range(first, last + 1), None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps:
            head = pl_module.network.head
            self.head = self.head or [-parameter.detach().clone() for parameter in head.parameters()]
            with torch.no_grad():
                for parameter, turned in zip(head.parameters(), self.head, strict=True):
                    parameter.copy_(turned)


def guarded():
    settings = {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 8}}
    return FastAdversarialClassifier(epsilon=2, check_every_n_steps=4, max_drop=0.3, **settings)


class Keep(Callback):
    """Keeps the weights after every step, and saves a checkpoint after one of them."""

    def __init__(self, path, step):
        self.path, self.step, self.weights = path, step, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.global_step
        self.weights[step] = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        if step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("saved", [44, 46, 48])
def test_the_guard_stops_and_goes_back_to_the_last_good_weights(shop, make_trainer, tmp_path, saved):
    """Also if the run is killed between the two bad checks, or after the second and before it has ended."""
    path = tmp_path / "x.ckpt"

    def fit(callbacks, checkpoint=None):
        seed_everything(0, verbose=False)
        model, trainer = guarded(), make_trainer(max_epochs=6, callbacks=callbacks)
        trainer.fit(model, ProductImages(shop, batch_size=32, shift=0), ckpt_path=checkpoint, weights_only=True)
        return model.network.state_dict(), trainer.global_step

    keep, misled = Keep(path, saved), Misled(43, 47)
    with pytest.warns(UserWarning, match="catastrophic overfitting: after step 48 .* weights of step 40"):
        weights, step = fit([misled, keep])
    resumed, resumed_step = fit([misled], path)
    assert step == resumed_step == 48
    for name, value in weights.items():
        assert torch.equal(value, keep.weights[40][name])
        assert torch.equal(value, resumed[name])


def test_the_guard_forgives_a_single_bad_batch(shop, make_trainer, monkeypatch):
    seed_everything(0, verbose=False)
    model, accuracies = guarded(), []
    perturb = model.check.perturb

    def spoil(network, images, *arguments):
        result = perturb(network, images, *arguments)
        return (torch.zeros_like(images), result[1]) if model.global_step + 1 == 44 else result

    class Record(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 44:
                accuracies.append((model._accuracy, model._best_accuracy, model._has_failed))

    monkeypatch.setattr(model.check, "perturb", spoil)
    trainer = make_trainer(max_epochs=6, callbacks=[Record()])
    trainer.fit(model, ProductImages(shop, batch_size=32, shift=0))
    ((accuracy, best, has_failed),) = accuracies
    assert accuracy < best - 0.3
    assert has_failed
    assert not model._has_failed
    assert trainer.global_step == 66


def test_the_guard_measures_pgd_accuracy(shop, make_trainer):
    values = []

    class Compare(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.network, self.batch = pl_module.network, batch
            if "train/pgd_accuracy" in trainer.callback_metrics:
                values.append(float(trainer.callback_metrics["train/pgd_accuracy"]))

    compare = Compare()
    model = FastAdversarialClassifier(
        check_every_n_steps=11, backbone="catwalk.networks.compact_cnn", backbone_args={"width": 8}
    )
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=3, callbacks=[compare])
    trainer.fit(model, ProductImages(shop, batch_size=32, shift=0))
    images, categories = compare.batch
    adversarial = plain_training.pgd(compare.network, images, categories, 8 / 255, 2 / 255, 10, start=True)
    with torch.no_grad():
        accuracy = (compare.network.eval()(adversarial).argmax(1) == categories).float().mean()
    # Two random starts may differ in an image or two.
    assert float(trainer.callback_metrics["train/pgd_accuracy"]) == pytest.approx(float(accuracy), abs=3 / len(images))
