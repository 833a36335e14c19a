"""Short training steps: the bits, counters and checkpoints of Lightning's own, and only where nobody would notice."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import CSVLogger

from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.stacked_step import StackedStep
from catwalk.shop.catalogue import Catalogue
from datamodules import InteractionTriplets
from lightning_modules import AMR, BPRMF, VBPR, PairwiseRecommender
from lightning_modules.short_steps import ShortSteps

BATCHES, EPOCHS, LOGGED = 20, 3, 10


@pytest.fixture(scope="module")
def features(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalogue, folder = Catalogue.read(shop), tmp_path_factory.mktemp("features")
    values = torch.rand(len(catalogue), 12, generator=torch.Generator().manual_seed(0))
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(len(catalogue)))
    table = FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "noise")
    table.write(folder, catalogue)
    return folder


class Watch(Callback):
    """Notes what a callback may read after a batch, and saves a checkpoint in the middle of an epoch."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, loss = trainer.global_step, trainer.callback_metrics.get("train/loss")
        total = trainer.fit_loop.total_batch_idx
        self.seen.append((step, batch_idx, total, trainer.is_last_batch, float(outputs["loss"]), loss and float(loss)))
        if step == BATCHES + 5:
            trainer.save_checkpoint(self.path / "middle.ckpt")


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.fixture(autouse=True)
def _logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let losses be logged often."""
    monkeypatch.setattr("lightning_modules.pairwise.LOGGED", LOGGED)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of triplets of the steps in closed form."""
    found: list[int] = []
    take = StackedStep.take

    def take_and_tell(self: StackedStep, users: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        found.append(users.numel())
        return take(self, users, *columns)

    monkeypatch.setattr(StackedStep, "take", take_and_tell)
    return found


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the places in their epoch of the batches that take a short step."""
    found: list[int] = []
    advance = ShortSteps._advance

    def advance_and_tell(self: ShortSteps, data_fetcher: Any, batch_idx: int) -> None:
        found.append(batch_idx)
        advance(self, data_fetcher, batch_idx)

    monkeypatch.setattr(ShortSteps, "_advance", advance_and_tell)
    return found


@pytest.fixture
def fit(shop: Path, features: Path, make_trainer) -> Callable[..., Any]:
    def run(
        model: PairwiseRecommender,
        *callbacks: Callback,
        checkpoint: Path | None = None,
        batch_size: int = 32,
        **settings: Any,
    ) -> Any:
        seed_everything(0, verbose=False)
        trainer = make_trainer(max_epochs=EPOCHS, callbacks=list(callbacks), **settings)
        data = InteractionTriplets(shop, features, batch_size=batch_size)
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
        return trainer

    return run


@pytest.mark.parametrize(
    ("make", "is_closed"),
    [
        (VBPR, False),  # whose visual factors are more than the others
        (partial(VBPR, visual_factors=4), True),
        (partial(AMR, visual_factors=4, learning_rates={"P": 0.02, "E": 0.001}), True),
        (BPRMF, True),
        (partial(BPRMF, item_bias=True), False),
        (partial(VBPR, optimizer=partial(torch.optim.Adagrad, lr=0.1)), False),
    ],
)
def test_they_end_in_the_same_checkpoints(make, is_closed, fit, short, closed, tmp_path: Path, monkeypatch) -> None:
    found = {}
    for name in ("whole", "short"):
        folder = tmp_path / name
        folder.mkdir()
        watch = Watch(folder)
        with monkeypatch.context() as patch:
            if name == "whole":
                patch.setattr("lightning_modules.pairwise.shorten_steps", lambda trainer: None)
            seed_everything(0, verbose=False)
            trainer = fit(make(factors=4), watch)
        trainer.save_checkpoint(folder / "end.ckpt")
        assert bool(short) == (name == "short")
        checkpoints = [torch.load(folder / f"{end}.ckpt", weights_only=True) for end in ("middle", "end")]
        found[name] = (watch.seen, checkpoints)
    (seen, checkpoints), (seen_in_short, checkpoints_of_short) = found.values()
    assert len(closed) == (len(short) if is_closed else 0)
    for line, line_of_short in zip(seen, seen_in_short, strict=True):
        assert line[:4] == line_of_short[:4]
        assert line[5] == line_of_short[5]
        assert line[4] == (pytest.approx(line_of_short[4], rel=1e-6) if is_closed else line_of_short[4])
    assert len(seen) == checkpoints[1]["global_step"] == EPOCHS * BATCHES
    assert checkpoints[0]["global_step"] == BATCHES + 5
    assert same(checkpoints, checkpoints_of_short)
    # All but the first and the last of an epoch, and every tenth of all.
    expected = [n % BATCHES for n in range(EPOCHS * BATCHES) if n % BATCHES not in (0, BATCHES - 1) and (n + 1) % 10]
    assert short == expected


@pytest.mark.parametrize("visual_factors", [4, 8])
def test_they_go_on_in_mid_epoch(visual_factors, fit, short, closed, tmp_path: Path) -> None:
    make = partial(VBPR, factors=4, visual_factors=visual_factors)
    whole = fit(make(), Watch(tmp_path)).lightning_module
    assert bool(closed) == (visual_factors == 4)
    short.clear()
    again = fit(make(), checkpoint=tmp_path / "middle.ckpt")
    assert short[0] == 6  # the one with which it goes on, 5, is whole
    assert again.global_step == EPOCHS * BATCHES
    assert same(dict(whole.state_dict()), dict(again.lightning_module.state_dict()))


class Looks(Callback):
    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look."""


class Steps(VBPR):
    def optimizer_step(self, *arguments: Any) -> None:
        super().optimizer_step(*arguments)


class Trains(VBPR):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx)


class Schedules(VBPR):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (VBPR, {"gradient_clip_val": 1.0}),
        (VBPR, {"accumulate_grad_batches": 2}),
        (VBPR, {"precision": "bf16-mixed"}),
        (VBPR, {"profiler": "simple"}),
        (VBPR, {"enable_progress_bar": True}),
        (VBPR, {"logger": "csv"}),
        (VBPR, {"callback": Looks}),
        (Steps, {}),
        (Trains, {}),
        (Schedules, {}),
    ],
)
def test_they_are_whole_where_somebody_looks(make, settings, fit, short, tmp_path: Path) -> None:
    settings = dict(settings)
    if "logger" in settings:
        settings["logger"] = CSVLogger(tmp_path)
    callbacks = [settings.pop("callback")()] if "callback" in settings else []
    fit(make(factors=4), *callbacks, **settings)
    assert short == []


def test_what_was_trained_and_its_checkpoints_hold_no_stacks(fit, closed, tmp_path: Path) -> None:
    trainer = fit(VBPR(factors=4, visual_factors=4), Watch(tmp_path))
    assert closed
    checkpoint = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    states = checkpoint["optimizer_states"][0]["state"]
    saved = [*checkpoint["state_dict"].values(), *(each["exp_avg"] for each in states.values())]
    for tensor in (*saved, *trainer.lightning_module.model.parameters()):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize


def test_batches_that_would_not_be_aligned_are_left_to_autograd(fit, short, closed) -> None:
    fit(BPRMF(factors=5), batch_size=31)
    assert short
    assert closed == []


def test_another_module_of_the_same_trainer_has_its_own_steps(fit, short, shop: Path, features: Path) -> None:
    trainer = fit(VBPR(factors=4))
    assert short
    short.clear()
    trainer.fit_loop.max_epochs = EPOCHS + 1
    other = Trains(factors=4)
    trainer.fit(other, InteractionTriplets(shop, features, batch_size=32))
    assert short == []
    assert trainer.lightning_module is other


def test_a_gpu_captures_steps_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    step = object()
    monkeypatch.setattr("lightning_modules.pairwise.may_step", lambda model, optimizer: True)
    monkeypatch.setattr("lightning_modules.pairwise.make_step", lambda models, optimizers: step)
    found = {}
    for device in ("cpu", "cuda"):
        for captured in (False, True):
            model = VBPR(factors=4, visual_factors=4, captured=captured)
            model.build(3, 4, 5)
            optimizer = model.configure_optimizers()
            monkeypatch.setattr(VBPR, "device", torch.device(device))
            found[device, captured] = model.closed_form(optimizer)
    assert found == {("cpu", False): step, ("cpu", True): step, ("cuda", False): None, ("cuda", True): step}
    assert "captured" not in model.hparams  # how it is trained, not what
