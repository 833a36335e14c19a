"""AT, fast AT and free AT: each against the same algorithm in plain PyTorch, and what all three promise."""

import copy
import itertools

import numpy as np
import plain_training
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, seed_everything
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from catwalk.attacks import PGD
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from datamodules import ProductImages
from datamodules.batches import Batches
from lightning_modules import (
    AdversarialClassifier,
    FastAdversarialClassifier,
    FreeAdversarialClassifier,
    ProductClassifier,
    TradesClassifier,
)
from lightning_modules.trades_cnn import divergences

DEFENCES = (AdversarialClassifier, FastAdversarialClassifier, FreeAdversarialClassifier, TradesClassifier)
QUICK_FIRST = (*DEFENCES[:3], pytest.param(TradesClassifier, marks=pytest.mark.slow))
LR = 0.05


@pytest.mark.parametrize("make", DEFENCES)
def test_epsilon_may_be_a_share(make, recwarn):
    model, same = make(epsilon="8/255"), make(epsilon=8.0)
    assert model.hparams["epsilon"] == model.hparams_initial["epsilon"] == 8.0
    assert dict(model.hparams) == dict(same.hparams)
    if make is TradesClassifier:
        stepping = make(epsilon="4/255", step="1/255")
        assert (stepping.ball.epsilon, stepping.step, stepping.hparams["step"]) == (4.0, 1.0, 1.0)
        assert model.step == same.step == 2.0
    elif make is not FreeAdversarialClassifier:
        stepping = make(epsilon="4/255", step="1/255")
        assert (stepping.attack.threat_model.epsilon, stepping.attack.step, stepping.hparams["step"]) == (4.0, 1.0, 1.0)
        assert model.attack.step == same.attack.step
    with pytest.raises(CatwalkError, match=r"epsilon: must be a number of grey levels.* got 'eight'"):
        make(epsilon="eight")
    with pytest.raises(CatwalkError, match="epsilon: must be a number of grey levels above 0 and at most 255, got 306"):
        make(epsilon="306/255")
    assert not [one for one in recwarn if "grey level" in str(one.message)]
    with pytest.warns(UserWarning, match="epsilon: 0.03137 is less than half a grey level.*write 8, or 8/255"):
        make(epsilon=8 / 255)


class Tensors(LightningDataModule):
    """Batches that a test has made."""

    category_names = tuple("abcdef")
    image_size = None

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def train_dataloader(self):
        return Batches(lambda: iter(self.batches), len(self.batches)).loader()


class Recorder(Callback):
    """Keeps the loss of every batch and counts the network's forward passes, by mode."""

    def __init__(self):
        self.losses, self.passes, self.dtypes = [], [], set()

    def on_train_start(self, trainer, pl_module):
        def record(module, arguments):
            self.passes.append("train" if module.training else "eval")
            self.dtypes.add(arguments[0].dtype)

        pl_module.network.register_forward_pre_hook(record)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def make_batches(count=4, size=8, last=5, seed=0):
    """Images with white and black pixels among them; the last batch is smaller."""
    random = torch.Generator().manual_seed(seed)
    sizes = [size] * (count - 1) + [last]
    return [
        (
            torch.randint(-40, 296, (n, 3, 12, 12), generator=random).clamp(0, 255) / 255,
            torch.randint(6, (n,), generator=random),
        )
        for n in sizes
    ]


def make(cls, backbone="with_dropout", lr=LR, **settings):
    return cls(
        backbone=f"plain_networks.{backbone}",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        **settings,
    )


def train(make_trainer, model, batches, before=None, **settings):
    """Train and return the callback; ``before`` gets the network as it is when training begins."""
    seed_everything(0, verbose=False)
    recorder = Recorder()

    class Copy(Callback):
        def on_train_start(self, trainer, pl_module):
            if before is not None:
                before.append(copy.deepcopy(pl_module.network))

    trainer = make_trainer(**{"max_epochs": 1} | settings, callbacks=[Copy(), recorder])
    trainer.fit(model, Tensors(batches))
    return recorder


def assert_equal_networks(ours, theirs, **tolerance):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


# The algorithms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("iterations", [1, 3])
def test_at_is_the_plain_algorithm_step_by_step(make_trainer, steps, iterations):
    batches, start = make_batches()[-steps:], []
    model = make(
        AdversarialClassifier, "without_statistics", epsilon=6, step=2.5, iterations=iterations, random_start=False
    )
    recorder = train(make_trainer, model, batches, start)
    losses = plain_training.adversarial_training(start[0], batches, LR, 6 / 255, 2.5 / 255, iterations)
    assert recorder.losses == pytest.approx(losses, rel=1e-5)
    assert_equal_networks(model.network, start[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("replays", [1, 3])
def test_free_at_is_the_plain_algorithm_step_by_step(make_trainer, steps, replays):
    batches, start = make_batches()[-steps:], []
    model = make(FreeAdversarialClassifier, "without_statistics", epsilon=6, replays=replays)
    recorder = train(make_trainer, model, batches, start)
    losses, delta = plain_training.free_adversarial_training(
        start[0], batches, LR, 6 / 255, replays, max(len(x) for x, _ in batches)
    )
    assert recorder.losses == pytest.approx(losses[replays - 1 :: replays], rel=1e-5)
    assert_equal_networks(model.network, start[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(model._perturbation, delta)
    assert delta.abs().max() == pytest.approx(6 / 255)


def test_free_at_keeps_its_perturbation_over_epochs_and_for_batches_that_grow(make_trainer):
    batches, start = make_batches()[::-1], []  # the small one first
    model = make(FreeAdversarialClassifier, "without_statistics", epsilon=4, replays=2)
    train(make_trainer, model, batches, start, max_epochs=4)
    _, delta = plain_training.free_adversarial_training(start[0], batches * 2, LR, 4 / 255, 2, 8)
    assert_equal_networks(model.network, start[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(model._perturbation, delta)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_trades_is_the_plain_algorithm_step_by_step(make_trainer, monkeypatch, beta):
    batches, start = make_batches(), []
    noise = [torch.randn(x.shape, generator=torch.Generator().manual_seed(7)) for x, _ in batches]
    model = make(TradesClassifier, "without_statistics", epsilon=6, step=2.5, iterations=3, beta=beta)
    coming = iter(noise)
    with monkeypatch.context() as patch:
        patch.setattr("lightning_modules.trades_cnn.torch.randn_like", lambda _: next(coming))
        recorder = train(make_trainer, model, batches, start)
    with_noise = [(x, y, z) for (x, y), z in zip(batches, noise, strict=True)]
    losses = plain_training.trades(start[0], with_noise, LR, 6 / 255, 2.5 / 255, 3, beta)
    assert recorder.losses == pytest.approx(losses, rel=1e-5)
    assert_equal_networks(model.network, start[0], rtol=1e-5, atol=1e-6)


def test_the_divergence_is_that_of_numpy():
    generator = torch.Generator().manual_seed(0)
    logits, others = (3 * torch.randn(5, 4, generator=generator) for _ in range(2))
    p, q = (np.exp(z.double().numpy()) / np.exp(z.double().numpy()).sum(1, keepdims=True) for z in (logits, others))
    np.testing.assert_allclose(divergences(logits, others), (p * np.log(p / q)).sum(1), rtol=1e-5)
    assert divergences(logits, logits).abs().max() < 1e-6


def test_random_starts_lie_in_the_ball_and_differ_from_visit_to_visit(make_trainer):
    """With one tiny step, what the network is trained on is the random start, almost."""
    (images, categories), seen = make_batches(1, last=8)[0], []
    model = make(AdversarialClassifier, epsilon=8, step=1e-4, iterations=1)

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            hook = lambda module, arguments: seen.append(arguments[0].detach()) if module.training else None  # noqa: E731
            pl_module.network.register_forward_pre_hook(hook)

    seed_everything(0, verbose=False)
    make_trainer(max_epochs=2, callbacks=[See()]).fit(model, Tensors([(images, categories)]))
    differences = [(x - images) * 255 for x in seen]
    inside = (images > 0.05) & (images < 0.95)
    for difference in differences:
        assert difference.abs().max() <= 8.001
        values = difference[inside]
        assert values.mean().abs() < 0.5
        assert values.std() == pytest.approx(8 / 3**0.5, rel=0.05)
    assert (differences[0] - differences[1]).abs().max() > 8


def test_fast_at_takes_one_long_step(make_trainer):
    (images, categories), seen, start = make_batches(1, last=8)[0], [], []
    model = make(FastAdversarialClassifier, "without_statistics", epsilon=8, check_every_n_steps=0)

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            start.append(copy.deepcopy(pl_module.network))
            pl_module.network.register_forward_pre_hook(lambda m, arguments: seen.append(arguments[0].detach().clone()))

    seed_everything(0, verbose=False)
    make_trainer(max_epochs=1, callbacks=[See()]).fit(model, Tensors([(images, categories)]))
    first, trained_on = seen
    x = first.clone().requires_grad_()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(start[0](x), categories), x)[0]
    expected = (first + 10 / 255 * gradient.sign()).clamp(images - 8 / 255, images + 8 / 255).clamp(0, 1)
    torch.testing.assert_close(trained_on, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "settings", "eval_passes", "train_passes"),
    [
        (AdversarialClassifier, {"iterations": 7}, 7, 1),
        (FastAdversarialClassifier, {"check_every_n_steps": 0}, 1, 1),
        (FreeAdversarialClassifier, {"replays": 4}, 0, 4),
        (TradesClassifier, {"iterations": 10}, 11, 2),
    ],
)
def test_a_step_costs_the_passes_that_it_must(make_trainer, cls, settings, eval_passes, train_passes):
    """Forward passes per batch; with the backward ones this makes 17F, 5F and 3F per replay."""
    recorder = train(make_trainer, make(cls, **settings), make_batches(2))
    assert recorder.passes == (["eval"] * eval_passes + ["train"] * train_passes) * 2


def test_defaults_are_madrys_and_wongs_ratios():
    assert AdversarialClassifier().attack.step == 2
    assert AdversarialClassifier(epsilon=4).attack.step == 1
    assert AdversarialClassifier().attack.iterations == 7
    assert FastAdversarialClassifier(epsilon=4).attack.step == 5
    assert FastAdversarialClassifier().attack.random_start
    assert FreeAdversarialClassifier().hparams["replays"] == 4


# State that an attack must leave alone --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [AdversarialClassifier, FastAdversarialClassifier])
def test_the_attack_moves_no_statistics_flags_or_gradients(make_trainer, cls):
    """Everything is compared bit by bit when the training's own forward pass begins."""
    model, compared = make(cls, check_every_n_steps=0) if cls is FastAdversarialClassifier else make(cls), []

    class Compare(Callback):
        def on_train_start(self, trainer, pl_module):
            frozen = pl_module.network.body[1]
            frozen.eval()  # a frozen BatchNorm stays frozen

            def compare(module, arguments):
                flags = [m.training for m in module.modules()]
                if module.training:
                    assert flags == self.flags
                    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), self.state, strict=True))
                    assert all(p.grad is g for p, g in zip(module.parameters(), self.gradients, strict=True))
                    assert all(g is None or g._version == v for g, v in zip(self.gradients, self.versions, strict=True))
                    compared.append(True)
                else:
                    assert not any(flags)

            pl_module.network.register_forward_pre_hook(compare)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.flags = [m.training for m in pl_module.network.modules()]
            self.state = [value.clone() for value in pl_module.network.state_dict().values()]
            self.gradients = [parameter.grad for parameter in pl_module.network.parameters()]
            self.versions = [None if g is None else g._version for g in self.gradients]

    seed_everything(0, verbose=False)
    make_trainer(max_epochs=1, callbacks=[Compare()]).fit(model, Tensors(make_batches()))
    assert len(compared) == 4
    assert torch.equal(model.network.body[1].running_mean, torch.zeros(8))
    assert model.network.body[1].num_batches_tracked == 0


def test_statistics_are_those_of_the_adversarial_images(make_trainer):
    model, start = make(AdversarialClassifier, random_start=False), []
    batches = make_batches(1)
    train(make_trainer, model, batches, start)
    reference = start[0]
    adversarial = plain_training.pgd(reference, *batches[0], 8 / 255, 2 / 255, 7, start=False)
    reference.train()(adversarial)
    torch.testing.assert_close(model.network.body[1].running_mean, reference.body[1].running_mean)
    assert model.network.body[1].num_batches_tracked == 1


# Schedules and lengths ------------------------------------------------------------------------------------------------


def one_cycle_steps(model):
    return model.trainer.lr_scheduler_configs[0].scheduler.total_steps


@pytest.mark.parametrize(("max_epochs", "replays", "expected"), [(4, 4, 1), (5, 4, 2), (3, 1, 3), (1, 4, 1), (9, 3, 3)])
def test_free_at_divides_epochs_and_counts_replays(make_trainer, max_epochs, replays, expected):
    model = FreeAdversarialClassifier(backbone="plain_networks.with_dropout", replays=replays)
    trainer = make_trainer(max_epochs=max_epochs)
    trainer.fit(model, Tensors(make_batches(3)))
    assert trainer.current_epoch == expected
    assert trainer.max_epochs == max_epochs  # given back
    assert trainer.global_step == one_cycle_steps(model) == expected * 3 * replays
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == trainer.global_step


@pytest.mark.parametrize(("max_steps", "steps"), [(7, 7), (8, 8), (100, 24)])
def test_free_at_counts_max_steps_in_replays(make_trainer, max_steps, steps):
    model = FreeAdversarialClassifier(backbone="plain_networks.with_dropout", replays=4)
    trainer = make_trainer(max_steps=max_steps, max_epochs=8)
    trainer.fit(model, Tensors(make_batches(3)))
    assert trainer.global_step == one_cycle_steps(model) == steps


def test_free_at_without_end_needs_max_steps(make_trainer):
    model = FreeAdversarialClassifier(backbone="plain_networks.with_dropout", replays=4)
    with pytest.raises(CatwalkError, match="needs an end"):
        make_trainer(max_epochs=-1).fit(model, Tensors(make_batches(3)))
    trainer = make_trainer(max_epochs=-1, max_steps=6)
    trainer.fit(FreeAdversarialClassifier(backbone="plain_networks.with_dropout"), Tensors(make_batches(3)))
    assert trainer.global_step == 6


# Precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", DEFENCES)
def test_in_bf16_images_and_perturbations_stay_float32(make_trainer, cls):
    model = make(cls)
    recorder = train(make_trainer, model, make_batches(2), precision="bf16-mixed")
    assert recorder.dtypes == {torch.float32}
    if cls is FreeAdversarialClassifier:
        assert model._perturbation.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_free_at_in_bf16_replays_with_the_weights_of_the_last_replay(make_trainer):
    """Autocast may keep its copies of the weights for as long as it lasts, and later replays would use old ones."""
    batches, start = make_batches(2), []
    model = make(FreeAdversarialClassifier, "without_statistics", replays=3, lr=0.5)
    train(make_trainer, model, batches, start, precision="bf16-mixed")
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain_training.free_adversarial_training(start[0], batches, 0.5, 8 / 255, 3, 8)
    assert_equal_networks(model.network, start[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cls", [ProductClassifier, AdversarialClassifier, FreeAdversarialClassifier])
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_other_precisions_are_refused(make_trainer, cls, precision):
    with pytest.raises(CatwalkError, match=r"trainer.precision: .*32-true, bf16-mixed, 16-mixed, .* got " + precision):
        train(make_trainer, make(cls), make_batches(1), precision=precision)


def test_an_overflow_in_float16_holds_weights_and_perturbation(make_trainer):
    """The scale begins so high that the first replays overflow, and comes down by half each time."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    model = make(FreeAdversarialClassifier, "without_statistics", replays=1)
    history = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.network.parameters()])
            history.append((scaler.get_scale(), weights, pl_module._perturbation.clone()))

    seed_everything(0, verbose=False)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    trainer = make_trainer(max_epochs=15, plugins=[plugin], callbacks=[Watch()])
    trainer.fit(model, Tensors(make_batches(3, last=8)))
    held = moved = 0
    for (scale, weights, delta), (next_scale, next_weights, next_delta) in itertools.pairwise(history):
        if next_scale < scale:
            assert torch.equal(weights, next_weights)
            assert torch.equal(delta, next_delta)
            held += 1
        else:
            assert not torch.equal(weights, next_weights)
            assert not torch.equal(delta, next_delta)
            moved += 1
    assert held > 3
    assert moved > 3


# What all three share with T ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", QUICK_FIRST)
def test_checkpoints_load_everywhere(shop, make_trainer, tmp_path, cls):
    seed_everything(0, verbose=False)
    model = cls(epsilon=4, backbone="catwalk.networks.compact_cnn", backbone_args={"width": 8})
    data = ProductImages(shop, batch_size=32)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        logits = model.eval()(images)
        assert torch.equal(load_classifier(tmp_path / "x.ckpt").network(images), logits)
        loaded = cls.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
        assert torch.equal(loaded(images), logits)
    assert loaded.hparams["epsilon"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 12}, "had 24 as steps in all and this one has 36"),
        ({"max_epochs": 12, "count": 4}, "had 3 as batches in an epoch and this one has 4"),
        (
            {"cls": AdversarialClassifier},
            "is of FreeAdversarialClassifier, and the model is AdversarialClassifier",
        ),
    ],
)
def test_a_training_goes_on_as_the_one_that_it_was(make_trainer, tmp_path, change, message):
    def fit(cls=FreeAdversarialClassifier, max_epochs=8, count=3, checkpoint=None):
        trainer = make_trainer(max_epochs=max_epochs)
        model = cls(backbone="plain_networks.with_dropout")
        trainer.fit(model, Tensors(make_batches(count)), ckpt_path=checkpoint, weights_only=True)
        return trainer

    fit().save_checkpoint(tmp_path / "x.ckpt")
    fit(checkpoint=tmp_path / "x.ckpt")
    with pytest.raises(CatwalkError, match=message):
        fit(checkpoint=tmp_path / "x.ckpt", **change)


def test_every_batch_has_random_numbers_of_its_own(make_trainer):
    """Also where several batches make a step."""
    seeds = []

    class See(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seeds.append(torch.initial_seed())

    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=3, callbacks=[See()])
    trainer.fit(make(AdversarialClassifier), Tensors(make_batches(4)))
    assert len(set(seeds)) == len(seeds) == 8


@pytest.mark.parametrize("cls", QUICK_FIRST)
def test_they_learn_to_withstand(shop, make_trainer, cls):
    """On the same batches T learns features that PGD turns round."""
    seed_everything(0, verbose=False)
    settings = {"iterations": 3} if cls in (AdversarialClassifier, TradesClassifier) else {}
    model = cls(backbone="catwalk.networks.compact_cnn", backbone_args={"width": 8}, **settings)
    data = ProductImages(shop, batch_size=32, shift=1)
    make_trainer(max_epochs=12).fit(model, data)
    images, categories = data.on_after_batch_transfer(data._labelled(data.labelled.rows("test")), 0)
    result = PGD(epsilon=8, targeted=False)(model.network, images, categories, keys=torch.arange(len(images)))
    assert (~result.success).float().mean() > 0.5


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        *((cls, {"epsilon": value}, "epsilon: must be a number of grey") for cls in DEFENCES for value in (0, -1, 256)),
        (AdversarialClassifier, {"step": 0}, "step: must be"),
        (AdversarialClassifier, {"iterations": 0}, "iterations: must be at least 1"),
        (FastAdversarialClassifier, {"check_every_n_steps": -1}, "check_every_n_steps: must be at least 0"),
        (FastAdversarialClassifier, {"max_drop": 0}, "max_drop: must be"),
        (FastAdversarialClassifier, {"check_iterations": 0}, "iterations: must be"),
        (FreeAdversarialClassifier, {"replays": 0}, "replays: must be at least 1"),
        (TradesClassifier, {"step": 0}, "step: must be"),
        (TradesClassifier, {"iterations": 0}, "iterations: must be at least 1"),
        (TradesClassifier, {"beta": -1}, "beta: must be a number of 0 or above, got -1"),
    ],
)
def test_bad_settings(cls, settings, message):
    with pytest.raises(CatwalkError, match=message):
        cls(**settings)


def test_free_at_needs_images_of_one_size(make_trainer):
    batches = [*make_batches(1), (torch.rand(4, 3, 10, 12), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(CatwalkError, match=r"images must stay at \(3, 12, 12\).*got \(3, 10, 12\)"):
        train(make_trainer, make(FreeAdversarialClassifier), batches)
