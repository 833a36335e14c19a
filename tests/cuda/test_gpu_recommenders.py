"""Recommenders trained on a GPU: wherever their features lie, beside the CPU, and from its checkpoints and to it."""

import pytest
import torch
from gpu import ACCELERATOR, DEVICE
from pytorch_lightning import Callback, seed_everything

from catwalk.networks.features import FeatureTable
from catwalk.recommenders.captured_step import CapturedStep
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.stacked_step import StackedStep
from datamodules import InteractionTriplets
from lightning_modules import AMR, APR, BPRMF, VBPR, PairwiseRecommender

KINDS = {
    "bpr-mf": BPRMF,
    "apr": lambda **settings: APR(epsilon=0.05, **settings),
    "apr per item": lambda **settings: APR(epsilon=0.05, perturbation="per_item", **settings),
    "vbpr": lambda **settings: VBPR(visual_factors=4, **settings),
    "vbpr with biases": lambda **settings: VBPR(visual_factors=4, item_bias=True, visual_bias=True, **settings),
    "amr": lambda **settings: AMR(visual_factors=4, **settings),
    "amr per item": lambda **settings: AMR(visual_factors=4, perturbation="per_item", **settings),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def model_of(make, **settings):
    return make(**{"factors": 4, "top_k": [5]} | settings)


def data_of(shop, features, **settings):
    return InteractionTriplets(shop, features, **{"batch_size": 64} | settings)


def weights_of(model):
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def fit(trainer, make, data, **settings):
    seed_everything(0, verbose=False)
    model = model_of(make, **settings)
    trainer.fit(model, data)
    return model


class Devices(Callback):
    """Notes where things are while a recommender is trained."""

    def __init__(self):
        self.found = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        tensors = [*batch, *pl_module.parameters()]
        self.found |= {(type(pl_module).__name__, tensor.device.type) for tensor in tensors}
        self.features = pl_module.model.features.features.device.type if pl_module.uses_features else None


@every_kind
def test_training_and_test_beside_the_cpu(make, shop, features, make_trainer, gpu_trainer, tmp_path, record_property):
    """From the same parameters, the same triplets: what differs is rounding."""
    begun = tmp_path / "begun.ckpt"
    trainer = make_trainer(max_epochs=0)
    fit(trainer, make, data_of(shop, features, validation=True))
    trainer.save_checkpoint(begun)
    results = []
    for make_one, settings in ((make_trainer, {}), (gpu_trainer, {"deterministic": True})):
        where = Devices()
        trainer = make_one(max_epochs=2, callbacks=[where], **settings)
        data = data_of(shop, features, validation=True)
        # Dividing by the root of squared gradients, Adam takes steps of full length along gradients of mere rounding.
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.5)  # noqa: E731
        model = fit(trainer, make, data, warm_start=begun, optimizer=optimizer)
        weights = weights_of(model)
        (values,) = trainer.test(model, data, verbose=False)
        results.append((weights, values, trainer.callback_metrics))
    assert {device for _, device in where.found} == {DEVICE.type}
    assert where.features in (None, DEVICE.type)
    (expected, cpu_figures, _), (found, values, _) = results
    start = torch.load(begun, weights_only=True)["state_dict"]
    assert found.keys() == expected.keys()
    largest = 0.0
    for name, value in expected.items():
        moved = float((value - start[name]).abs().max())
        if value.is_floating_point() and moved:
            largest = max(largest, float((found[name] - value).abs().max()) / moved)
    record_property("largest difference of a parameter, as a share of the largest change", largest)
    assert largest < 1e-3
    for name, value in cpu_figures.items():
        assert values[name] == pytest.approx(value, abs=0.02), name


@every_kind
def test_twice_the_same_with_the_default_optimizer(make, shop, features, gpu_trainer):
    one, other = (
        weights_of(fit(gpu_trainer(max_epochs=2, deterministic=True), make, data_of(shop, features))) for _ in range(2)
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["vbpr with biases", "amr"])
def test_wherever_the_features_lie(kind, dtype, shop, features, gpu_trainer):
    found = {}
    for storage in ("device", "host", "disk"):
        where, trainer = Devices(), None
        data = data_of(shop, features, feature_storage=storage, feature_dtype=dtype, validation=True)
        trainer = gpu_trainer(max_epochs=2, deterministic=True, callbacks=[where])
        model = fit(trainer, KINDS[kind], data)
        assert where.features == (DEVICE.type if storage == "device" else "cpu")
        assert data.feature_table.features.dtype == getattr(torch, dtype)
        weights = weights_of(model)
        found[storage] = weights, trainer.test(model, data, verbose=False)[0]
    weights, values = found["device"]
    for storage in ("host", "disk"):
        for name, value in weights.items():
            assert torch.equal(found[storage][0][name], value), (storage, name)
        assert found[storage][1] == values


def test_checkpoints_go_from_the_gpu_to_the_cpu_and_back(shop, features, make_trainer, gpu_trainer, tmp_path):
    trainer = gpu_trainer(max_epochs=2)
    model = fit(trainer, KINDS["vbpr"], data_of(shop, features))
    trainer.save_checkpoint(tmp_path / "gpu.ckpt")
    (trained_figures,) = trainer.test(model, data_of(shop, features), verbose=False)
    for make_one in (make_trainer, gpu_trainer):
        trainer = make_one()
        other = model_of(KINDS["vbpr"])
        (values,) = trainer.test(
            other, data_of(shop, features), ckpt_path=tmp_path / "gpu.ckpt", weights_only=True, verbose=False
        )
        for name, value in trained_figures.items():
            assert values[name] == pytest.approx(value, abs=0.02)
    # A training goes on on the other device.
    for make_one, path, epochs in ((make_trainer, "gpu.ckpt", 3), (gpu_trainer, "cpu.ckpt", 4)):
        trainer, model = make_one(max_epochs=epochs), model_of(KINDS["vbpr"])
        trainer.fit(model, data_of(shop, features), ckpt_path=tmp_path / path, weights_only=True)
        trainer.save_checkpoint(tmp_path / "cpu.ckpt")
        assert trainer.current_epoch == epochs
        (optimizer,) = trainer.optimizers
        assert isinstance(optimizer, LazyAdam)
        assert all(bool(value.isfinite().all()) for value in model.parameters())
    weights = torch.load(tmp_path / "cpu.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value.cpu(), weights[name])


def test_recommend_after_training(shop, features, gpu_trainer, trained):
    data = data_of(shop, features)
    model = fit(gpu_trainer(max_epochs=2), KINDS["vbpr"], data)
    users = torch.arange(data.num_users)
    here = model.recommend(users, 5)  # where Lightning has left it
    there = model.to(DEVICE).recommend(users, 5)
    assert there[0].device.type == DEVICE.type
    torch.testing.assert_close(there[1].cpu(), here[1].cpu(), rtol=1e-4, atol=1e-5)
    table = FeatureTable.read(features, trained.catalogue)
    assert model.model.features.num_items == len(table.features)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision, shop, features, gpu_trainer):
    trainer = gpu_trainer(max_epochs=2, precision=precision)
    data = data_of(shop, features)
    model = fit(trainer, KINDS["amr"], data)
    begun = model_of(KINDS["amr"])
    assert all(bool(value.isfinite().all()) for value in model.parameters())
    (values,) = trainer.test(model, data, verbose=False)
    assert values["test/auc"] > 0.5
    assert begun.hparams == model.hparams


@pytest.mark.parametrize("kind", ["bpr-mf", "vbpr"])
def test_one_process_of_ddp(kind, shop, features, gpu_trainer):
    data = data_of(shop, features)
    plain = weights_of(fit(gpu_trainer(max_epochs=1, deterministic=True), KINDS[kind], data))
    trainer = gpu_trainer(max_epochs=1, deterministic=True, strategy="ddp")
    model = fit(trainer, KINDS[kind], data_of(shop, features))
    assert trainer.world_size == 1
    assert ACCELERATOR == "cpu" or torch.distributed.get_backend() == "nccl"
    for name, value in weights_of(model).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["bpr-mf", "vbpr", "amr"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_captured_steps_are_those_of_autograd(kind, deterministic, shop, features, gpu_trainer, monkeypatch):
    """The same triplets in the same order, schedules and counters: what differs is rounding."""
    captured = []
    capture = CapturedStep._capture
    monkeypatch.setattr(CapturedStep, "_capture", lambda self, *given: (captured.append(self), capture(self, *given)))
    found = []
    for is_plain in (True, False):
        with monkeypatch.context() as patch:
            if is_plain:
                patch.setattr(PairwiseRecommender, "closed_form", lambda self, optimizer: None)
            trainer = gpu_trainer(max_epochs=4, deterministic=deterministic)
            # Large ε: else Adam takes steps of full length along gradients of mere rounding.
            adam = lambda parameters: LazyAdam(parameters, lr=0.01, eps=1e-3)  # noqa: E731
            data = data_of(shop, features, batch_size=16)
            model = fit(trainer, KINDS[kind], data, optimizer=adam, captured=True)
            moments = [
                state[name].cpu()
                for state in trainer.optimizers[0].state.values()
                for name in ("exp_avg", "exp_avg_sq")
            ]
            found.append((weights_of(model), moments, trainer.global_step, trainer.callback_metrics["train/loss"]))
    assert len(captured) == 1
    assert captured[0]._graph is not None
    (expected, expected_moments, steps, expected_loss), (values, moments, steps_too, loss) = found
    assert steps == steps_too
    torch.testing.assert_close(loss, expected_loss, rtol=1e-3, atol=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-3, atol=1e-4)
    for value, own in zip(expected_moments, moments, strict=True):
        torch.testing.assert_close(own, value, rtol=1e-2, atol=1e-5)


def test_captured_steps_go_on_in_mid_epoch(shop, features, gpu_trainer, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 27:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    data = data_of(shop, features, batch_size=16)
    trainer = gpu_trainer(max_epochs=3, deterministic=True, callbacks=[Save()])
    whole = weights_of(fit(trainer, KINDS["vbpr"], data, captured=True))
    trainer, model = gpu_trainer(max_epochs=3, deterministic=True), model_of(KINDS["vbpr"], captured=True)
    data = data_of(shop, features, batch_size=16)
    trainer.fit(model, data, ckpt_path=tmp_path / "middle.ckpt", weights_only=True)
    for name, value in weights_of(model).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-3)


def test_a_stack_on_the_gpu_is_each_model_alone():
    from test_stacked_step import KINDS as MODELS
    from test_stacked_step import batches, by_autograd, everything, model_of, optimizer_of

    for kind in MODELS:
        pairs = []
        for seed in range(3):
            for _ in range(2):
                model = model_of(kind, seed).to(DEVICE)
                pairs.append((model, optimizer_of(model)))
                by_autograd(*pairs[-1], [column.to(DEVICE) for column in batches(1)[0]])
        alone, together = pairs[::2], pairs[1::2]
        step = CapturedStep(StackedStep(*map(list, zip(*together, strict=True))))
        for number in range(8):
            own = [[column.to(DEVICE) for column in batches(1, 10 * number + seed)[0]] for seed in range(3)]
            for pair, batch in zip(alone, own, strict=True):
                by_autograd(*pair, batch)
            step.take(*(torch.stack(columns) for columns in zip(*own, strict=True)))
        assert step._graph is not None
        for pair, other in zip(alone, together, strict=True):
            for expected, values in zip(everything(*pair), everything(*other), strict=True):
                torch.testing.assert_close(values, expected, rtol=1e-2, atol=1e-4)
