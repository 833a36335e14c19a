"""Poisoning (with fit) and evasion (with test) by the callback."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from callbacks import CategoryHitRatio, InjectPoisonedImages
from catwalk.attacks import PGD, Attack
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import Poisoning
from datamodules import InteractionTriplets
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
    assert torch.equal(model.model.features.features, poisoned)
    assert model.model.feature_scale == clean.abs().max()
    assert not torch.equal(model.model.projection, fit(make_trainer, triplets).model.projection)


def test_the_data_module_has_its_clean_features_back(trained, triplets, make_trainer, poison) -> None:
    callback = poison()
    first = fit(make_trainer, triplets, callback)
    assert torch.equal(triplets.feature_table.features, trained.table.features)
    with_clean = fit(make_trainer, triplets)
    assert torch.equal(with_clean.model.features.features, trained.table.features)
    again = fit(make_trainer, triplets, callback)  # and it can be used again
    assert torch.equal(again.model.features.features, first.model.features.features)


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
    assert torch.equal(evaded.model.features.features, poisoned)
    assert evaded.model.feature_scale == triplets.feature_table.features.abs().max()


class TestFromAnEpochOn:
    """The first epochs are those of a clean run, bit for bit; the others have the poisoned features."""

    def states(self, make_trainer, data, *callbacks, epochs=3, stop=None, **fitting):
        seen = []

        class Remember(Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                trainer.should_stop = trainer.current_epoch + 1 == stop
                seen.append((pl_module.model.projection.detach().clone(), pl_module.model.features.features))

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
        trainer, seen = self.states(make_trainer, triplets, poison(from_epoch=2), epochs=4, stop=stop)
        assert len(seen) == stop
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        path = tmp_path / "last.ckpt"
        _, resumed = self.states(
            make_trainer, triplets, poison(from_epoch=2), epochs=4, ckpt_path=path, weights_only=True
        )
        assert len(resumed) == 4 - stop
        assert torch.equal(resumed[-1][0], whole[-1][0])

    def test_an_epoch_below_0_is_refused(self, poison):
        with pytest.raises(CatwalkError, match="from_epoch: must be at least 0, got -1"):
            poison(from_epoch=-1)

    @pytest.mark.parametrize("from_epoch", [3, 5])
    def test_an_epoch_that_never_comes_is_refused(self, triplets, make_trainer, poison, tmp_path, from_epoch):
        with pytest.raises(CatwalkError, match=f"from_epoch is {from_epoch}, .*trainer.max_epochs=3: the images would"):
            self.states(make_trainer, triplets, poison(from_epoch=from_epoch))
        assert not (tmp_path / "attack").exists()

    def test_a_run_without_a_last_epoch(self, trained, triplets, make_trainer, poison, tmp_path):
        _, seen = self.states(make_trainer, triplets, poison(from_epoch=1), epochs=-1, stop=2)
        assert torch.equal(seen[0][1], trained.table.features)
        assert torch.equal(seen[1][1], load_file(tmp_path / "attack" / "features.safetensors")["features"])

    def test_a_test_has_no_epochs(self, triplets, recommender, model, make_trainer, poison):
        trainer = make_trainer(max_epochs=1, callbacks=[poison(from_epoch=2)])
        assert trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)


def test_one_attack_in_a_run(triplets, make_trainer, poison, tmp_path) -> None:
    with pytest.raises(CatwalkError, match="there can be one attack in a run, and there are 2"):
        fit(make_trainer, triplets, poison(), poison(output=tmp_path / "other"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [1, -1])
def test_an_item_keeps_the_category_that_it_had(triplets, recommender, model, make_trainer, poison, order: int) -> None:
    """CHR of all categories counts by the clean images, whichever callback comes first."""
    counting = CategoryHitRatio([5])
    callbacks = [poison(PGD(epsilon=64.0)), counting][::order]
    (values,) = make_trainer(callbacks=callbacks).test(model, triplets, ckpt_path=str(recommender), verbose=False)
    assert read_summary(callbacks[0 if order == 1 else 1].output).sr > 0  # the network's opinion has changed
    lists, _ = model.recommend(torch.arange(triplets.num_users), 5)
    categories = triplets.feature_table.categories[lists.numpy()]
    for number, name in enumerate(triplets.feature_table.category_names):
        assert values[f"test/chr@5/{name}"] == pytest.approx((categories == number).sum() / triplets.num_users)


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
        weights.append(model.model.items.weight)
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
    with pytest.raises(CatwalkError, match=r"data\.features is not given"):
        make_trainer(max_epochs=1, callbacks=[poison()]).fit(BPRMF(factors=4, top_k=[5]), InteractionTriplets(shop))


def test_the_clean_features_are_not_written_over(triplets, features, make_trainer, poison) -> None:
    before = (features / "features.safetensors").read_bytes()
    with pytest.raises(CatwalkError, match="where the clean features are"):
        fit(make_trainer, triplets, poison(output=features / ".." / features.name))
    assert (features / "features.safetensors").read_bytes() == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestWhatIsNoAttacksIsNotReplaced:
    """It is refused before the attack."""

    @pytest.fixture(autouse=True)
    def _no_attack(self, monkeypatch):
        monkeypatch.setattr(Poisoning, "craft", None)

    @pytest.mark.parametrize("place", [".", "images", "attack", "..", "../link"])
    def test_the_datasets_folder_and_those_in_and_around_it(
        self, shop, features, make_trainer, poison, tmp_path, place
    ) -> None:
        folder = tmp_path / "all" / "shop"
        shutil.copytree(shop, folder)
        (tmp_path / "all" / "link").symlink_to(folder)
        before = contents(tmp_path)
        with pytest.raises(CatwalkError, match="give the attack a folder of its own, neither in the dataset's nor"):
            fit(make_trainer, InteractionTriplets(folder, features), poison(output=folder / place))
        assert {name for name in contents(tmp_path) if ".cache" not in name} == {
            name for name in before if ".cache" not in name
        }
        assert all((tmp_path / name).read_bytes() == content for name, content in before.items())

    def test_other_clean_features(self, triplets, features, make_trainer, poison, tmp_path) -> None:
        shutil.copytree(features, tmp_path / "others")
        before = contents(tmp_path)
        with pytest.raises(CatwalkError, match=r"might replace predictions\.csv, which is no attack's"):
            fit(make_trainer, triplets, poison(output=tmp_path / "others"))
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        "name",
        [
            *("predictions.csv", "attack.json", "attacked_items.csv", "stage.json", "finished.json"),
            *("features.safetensors", "png"),
        ],
    )
    @pytest.mark.parametrize("text", ["", "{}", "[1]", "item_id,image\n1,mine.png\n"])
    def test_somebodys_file(self, trained, triplets, make_trainer, poison, tmp_path, name, text) -> None:
        name = trained.catalogue.images[7] if name == "png" else name
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        with pytest.raises(CatwalkError, match=f"might replace {name}, which is no attack's: give"):
            fit(make_trainer, triplets, poison(output=tmp_path / "mine"))
        assert contents(tmp_path) == {f"mine/{name}": text.encode()}

    def test_a_file_in_its_place(self, triplets, make_trainer, poison, tmp_path) -> None:
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(CatwalkError, match="which is no folder"):
            fit(make_trainer, triplets, poison(output=tmp_path / "mine"))
        assert contents(tmp_path) == {"mine": b"mine"}
