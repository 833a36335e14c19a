"""Poisoning (with fit) and evasion (with test) by the callback."""

import csv
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from callbacks import CategoryHitRatio, InjectPoisonedImages
from catwalk.attacks import PGD, Attack
from catwalk.errors import CatwalkError
from catwalk.poisoning import read_summary
from lightning_modules import BPRMF, VBPR


@pytest.fixture
def poison(trained, tmp_path: Path):
    """Return a function that makes the callback."""

    def make(attack: Attack | None = None, **settings: object) -> InjectPoisonedImages:
        arguments = {"source": "Sandal", "target": "Sneaker", "output": tmp_path / "attack"} | settings
        return InjectPoisonedImages(trained.checkpoint, attack or PGD(epsilon=32.0), **arguments)

    return make


def fit(make_trainer, data, *callbacks) -> VBPR:
    seed_everything(0, verbose=False)
    model = VBPR(factors=4, visual_factors=4, top_k=[5])
    make_trainer(max_epochs=2, callbacks=list(callbacks)).fit(model, data)
    return model


def test_fit_trains_on_the_poisoned_features(trained, triplets, make_trainer, poison, tmp_path: Path) -> None:
    model = fit(make_trainer, triplets, poison())
    poisoned = load_file(tmp_path / "attack" / "features.safetensors")["features"]
    clean = trained.table.features
    attacked = torch.tensor([trained.table.category_names[c] == "Sandal" for c in trained.table.categories])
    assert 0 < attacked.sum() < 90
    assert torch.equal(poisoned[~attacked], clean[~attacked])
    assert bool((poisoned[attacked] != clean[attacked]).any(dim=1).all())
    assert torch.equal(model.features.features, poisoned)
    assert model.feature_scale == clean.abs().max()
    assert not torch.equal(model.projection, fit(make_trainer, triplets).projection)


def test_the_data_module_has_its_clean_features_back(trained, triplets, make_trainer, poison) -> None:
    callback = poison()
    first = fit(make_trainer, triplets, callback)
    assert torch.equal(triplets.feature_table.features, trained.table.features)
    with_clean = fit(make_trainer, triplets)
    assert torch.equal(with_clean.features.features, trained.table.features)
    again = fit(make_trainer, triplets, callback)  # and it can be used again
    assert torch.equal(again.features.features, first.features.features)


def test_test_alone_is_evasion(triplets, recommender, model, make_trainer, poison, tmp_path: Path) -> None:
    (clean,) = make_trainer(callbacks=[CategoryHitRatio([5])]).test(
        model, triplets, ckpt_path=str(recommender), verbose=False
    )
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    evaded = VBPR(factors=4, visual_factors=4, top_k=[5])
    (attacked,) = make_trainer(callbacks=[poison(), CategoryHitRatio([5])]).test(
        evaded, triplets, ckpt_path=str(recommender), verbose=False
    )
    assert attacked != clean
    assert all(torch.equal(weight, evaded.state_dict()[name]) for name, weight in weights.items())
    poisoned = load_file(tmp_path / "attack" / "features.safetensors")["features"]
    assert torch.equal(evaded.features.features, poisoned)
    assert evaded.feature_scale == triplets.feature_table.features.abs().max()


class TestFromAnEpochOn:
    """The first epochs are those of a clean run, bit for bit; the others have the poisoned features."""

    def states(self, make_trainer, data, *callbacks, epochs=3, **fitting):
        seen = []

        class Remember(Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                seen.append((pl_module.projection.detach().clone(), pl_module.features.features))

        seed_everything(0, verbose=False)
        model = VBPR(factors=4, visual_factors=4, top_k=[5])
        trainer = make_trainer(max_epochs=epochs, callbacks=[*callbacks, Remember()])
        trainer.fit(model, data, **fitting)
        return trainer, seen

    def test_the_images_are_injected_at_its_beginning(self, trained, triplets, make_trainer, poison, tmp_path):
        _, clean = self.states(make_trainer, triplets)
        _, switched = self.states(make_trainer, triplets, poison(from_epoch=2))
        poisoned = load_file(tmp_path / "attack" / "features.safetensors")["features"]
        for epoch in (0, 1):
            assert torch.equal(clean[epoch][0], switched[epoch][0])
            assert torch.equal(switched[epoch][1], trained.table.features)
        assert torch.equal(switched[2][1], poisoned)
        assert not torch.equal(clean[2][0], switched[2][0])
        assert torch.equal(triplets.feature_table.features, trained.table.features)

    @pytest.mark.parametrize("stop", [1, 3])
    def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(self, triplets, make_trainer, poison, tmp_path, stop):
        _, whole = self.states(make_trainer, triplets, poison(from_epoch=2), epochs=4)
        trainer, _ = self.states(make_trainer, triplets, poison(from_epoch=2), epochs=stop)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        path = tmp_path / "last.ckpt"
        _, resumed = self.states(
            make_trainer, triplets, poison(from_epoch=2), epochs=4, ckpt_path=path, weights_only=True
        )
        assert len(resumed) == 4 - stop
        assert torch.equal(resumed[-1][0], whole[-1][0])

    def test_an_epoch_below_0_is_refused(self, poison):
        with pytest.raises(CatwalkError, match="from_epoch must be at least 0, got -1"):
            poison(from_epoch=-1)


@pytest.mark.parametrize("order", [1, -1])
def test_an_item_keeps_the_category_that_it_had(triplets, recommender, model, make_trainer, poison, order: int) -> None:
    """CHR of all categories counts by the clean images, whichever callback comes first."""
    counting = CategoryHitRatio([5])
    callbacks = [poison(PGD(epsilon=64.0)), counting][::order]
    (figures,) = make_trainer(callbacks=callbacks).test(model, triplets, ckpt_path=str(recommender), verbose=False)
    assert read_summary(callbacks[0 if order == 1 else 1].output).sr > 0  # the network's opinion has changed
    lists, _ = model.recommend(torch.arange(triplets.num_users), 5)
    categories = triplets.feature_table.categories[lists.numpy()]
    for number, name in enumerate(triplets.feature_table.category_names):
        assert figures[f"test/chr@5/{name}"] == pytest.approx((categories == number).sum() / triplets.num_users)


def test_no_file_of_the_network_or_the_shop_is_touched(shop, features, trained, triplets, make_trainer, poison) -> None:
    files = [trained.checkpoint, *features.iterdir(), *(shop / "images").rglob("*.png")]
    before = [path.read_bytes() for path in files]
    fit(make_trainer, triplets, poison())
    assert [path.read_bytes() for path in files] == before


def test_a_recommender_without_images_does_not_care(triplets, make_trainer, poison) -> None:
    weights = []
    for callbacks in ([], [poison()]):
        seed_everything(0, verbose=False)
        model = BPRMF(factors=4, top_k=[5])
        make_trainer(max_epochs=1, callbacks=callbacks).fit(model, triplets)
        weights.append(model.items.weight)
    assert torch.equal(*weights)


def test_what_the_attack_did_is_logged(triplets, make_trainer, poison, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "log", "0")
    make_trainer(max_epochs=1, callbacks=[poison()], logger=logger).fit(
        VBPR(factors=4, visual_factors=4, top_k=[5]), triplets
    )
    summary = read_summary(tmp_path / "attack")
    with (tmp_path / "log" / "0" / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["attack/sr"]]
    assert float(row["attack/sr"]) == pytest.approx(summary.sr)
    assert float(row["attack/n_attacked"]) == summary.n_attacked
    assert float(row["attack/linf_levels"]) == summary.linf_levels <= 32


def test_features_are_needed(shop, make_trainer, poison) -> None:
    from datamodules import InteractionTriplets

    with pytest.raises(CatwalkError, match=r"data\.features is not given"):
        make_trainer(max_epochs=1, callbacks=[poison()]).fit(BPRMF(factors=4, top_k=[5]), InteractionTriplets(shop))


def test_the_clean_features_are_not_written_over(triplets, features, make_trainer, poison) -> None:
    before = (features / "features.safetensors").read_bytes()
    with pytest.raises(CatwalkError, match="where the clean features are"):
        fit(make_trainer, triplets, poison(output=features / ".." / features.name))
    assert (features / "features.safetensors").read_bytes() == before
