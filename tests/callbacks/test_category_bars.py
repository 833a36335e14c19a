"""What the categories' pictures show: CHR@K as it was logged, and what became of what the network saw."""

from collections import Counter
from pathlib import Path

import attacks
import numpy as np
import pytest
import rankings
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from pytorch_lightning import seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from safetensors.torch import load_file

import catwalk.plots.category_bars
import catwalk.plots.confusion
from callbacks import CategoryBars, CategoryHitRatio, InjectPoisonedImages
from catwalk.attacks import PGD
from catwalk.plots.category_bars import LARGEST, draw_category_bars
from catwalk.plots.confusion import MOST, draw_confusion
from catwalk.plots.style import BLUE, GREY, ORANGE, save
from datamodules import InteractionTriplets
from lightning_modules import VBPR


@pytest.fixture
def folder(attacked, tmp_path: Path) -> Path:
    return attacked(tmp_path / "earlier attack")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Return what the pictures were last drawn of."""
    collected = {}
    for module, draw in (
        (catwalk.plots.category_bars, draw_category_bars),
        (catwalk.plots.confusion, draw_confusion),
    ):

        def draw_and_tell(*arguments, draw=draw, **settings):
            collected[draw.__name__] = arguments, settings
            return draw(*arguments, **settings)

        monkeypatch.setattr(module, draw.__name__, draw_and_tell)
    return collected


def test_the_bars_of_a_test_are_the_lists_of_its_users(
    folder, shop, features, recommender, model, make_trainer, drawn, monkeypatch
) -> None:
    shown = []

    class Board(TensorBoardLogger):
        """Takes pictures without the package that writes them."""

        def __init__(self) -> None:
            self.experiment_of_this = type(
                "Experiment", (), {"add_image": lambda _, *given, **form: shown.append(given)}
            )

        experiment = property(lambda self: self.experiment_of_this())
        log_metrics = log_hyperparams = log_graph = finalize = save = lambda *_, **__: None
        name = version = save_dir = log_dir = root_dir = property(lambda _: "")

    data = InteractionTriplets(shop, features)
    found = rankings.record(model, "test")
    trainer = make_trainer(callbacks=[CategoryBars(folder, 8)], logger=Board())
    trainer.test(model, data, ckpt_path=str(recommender), verbose=False)
    (now, before, _), settings = drawn["draw_category_bars"]
    table = data.feature_table
    counts = Counter(table.category_names[table.categories[item]] for user in found for item in user.items[:8])
    assert now == pytest.approx({name: counts[name] / data.num_users for name in table.category_names})
    assert before is None
    assert settings == {"top_k": 8, "source": "Sandal", "target": "Sneaker", "title": "CHR@8 in the test"}
    assert [name for name, *_ in shown] == ["attack/confusion", "attack/category_bars"]
    assert all(image.ndim == 3 and image.shape[2] == 3 for _, image, _ in shown)


def test_a_test_with_injected_images_shows_the_clean_lists_beside(
    trained, shop, features, recommender, model, make_trainer, tmp_path, drawn
) -> None:
    """And the recommender has the poisoned features afterwards, as before."""
    found = []
    for callbacks in (
        [CategoryHitRatio([8])],
        [
            CategoryBars(tmp_path, 8),
            CategoryHitRatio([8]),
            InjectPoisonedImages(trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, tmp_path, attacks.TARGET),
        ],
    ):
        trainer, data = make_trainer(callbacks=callbacks), InteractionTriplets(shop, features)
        (figures,) = trainer.test(model, data, ckpt_path=str(recommender), verbose=False)
        names = trained.table.category_names
        found.append(pytest.approx({name: figures[f"test/chr@8/{name}"] for name in names}, rel=1e-6))
    (now, before, label), _ = drawn["draw_category_bars"]
    assert (before, now) == tuple(found)
    assert before != now
    assert label == "clean catalogue, in the test"
    poisoned = load_file(tmp_path / "features.safetensors")["features"]
    assert torch.equal(model.model.features.features, poisoned)
    assert torch.equal(model._item_vectors, model.model.item_vectors())


def test_a_fit_shows_the_last_validation_beside_the_last_clean_one(
    trained, shop, features, make_trainer, tmp_path, drawn
) -> None:
    """And the confusion of the attack that it made."""
    folder, logged = tmp_path / "attack", []

    class Remember(CategoryHitRatio):
        def values(self):
            logged.append({name.removeprefix("chr@20/"): float(value) for name, value in super().values().items()})
            return {}

    inject = InjectPoisonedImages(
        trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET, from_epoch=2
    )
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=4, callbacks=[CategoryBars(folder), inject, Remember()], num_sanity_val_steps=0)
    trainer.fit(VBPR(factors=4, visual_factors=4), InteractionTriplets(shop, features, validation=True))
    (now, before, label), settings = drawn["draw_category_bars"]
    assert len(logged) == 4
    for found, expected in ((before, logged[1]), (now, logged[3])):
        assert found == {name: expected[name] for name in trained.table.category_names}
    assert before != now
    assert label == "clean catalogue, in the validation of epoch 1"
    assert settings["title"] == "CHR@20 in the validation of epoch 3"
    rows = attacks.rows_of(folder / "attacked_items.csv")
    (then, after, title), _ = drawn["draw_confusion"]
    assert (then, after) == tuple([row[name] for row in rows] for name in ("category_before", "category_after"))
    assert title == f"PGD (ε = 32): what the network sees in the {len(rows)} attacked items"
    assert {path.name for path in folder.glob("*.png")} == {"category_bars.png", "confusion.png"}


def test_a_test_shows_nothing_of_the_fit_that_wrote_its_checkpoint(
    trained, shop, features, make_trainer, tmp_path, drawn
) -> None:
    folder, data = tmp_path / "attack", InteractionTriplets(shop, features, validation=True)
    inject = InjectPoisonedImages(
        trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET, from_epoch=1
    )
    trainer = make_trainer(max_epochs=2, callbacks=[CategoryBars(folder), inject])
    trainer.fit(VBPR(factors=4, visual_factors=4), data)
    trainer.save_checkpoint(tmp_path / "poisoned.ckpt")
    (_, before, _), _ = drawn["draw_category_bars"]
    assert before is not None
    model, found = VBPR(factors=4, visual_factors=4), []
    for callback in (CategoryBars(folder), CategoryHitRatio()):
        trainer = make_trainer(callbacks=[callback])
        found += trainer.test(model, data, ckpt_path=tmp_path / "poisoned.ckpt", weights_only=True, verbose=False)
    (now, before, _), settings = drawn["draw_category_bars"]
    assert now == pytest.approx({name: found[1][f"test/chr@20/{name}"] for name in now})
    assert before is None
    assert settings["title"] == "CHR@20 in the test"


def test_a_fit_without_validation_shows_the_confusion_alone(folder, triplets, make_trainer, drawn) -> None:
    make_trainer(max_epochs=1, callbacks=[CategoryBars(folder)]).fit(VBPR(factors=4, visual_factors=4), triplets)
    assert list(drawn) == ["draw_confusion"]


def test_the_largest_bars_are_drawn_and_source_and_target_whatever_theirs_is() -> None:
    now = {f"category {number:02d}": 1.0 + number / 10 for number in range(30)} | {"A": 0.25, "B_$x": 0.0}
    before = {name: value + 0.5 for name, value in now.items()}
    figure = draw_category_bars(now, before, "then", top_k=7, source="A", target="B_$x", title="Title")
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"category {number:02d}" for number in range(29, 29 - LARGEST, -1)] + ["A", "B_$x"]
    bars = {name: (bar.get_width(), to_hex(bar.get_facecolor())) for name, bar in zip(names, axes.patches, strict=True)}
    assert bars["category 29"] == (pytest.approx(3.9), GREY)
    assert (bars["A"], bars["B_$x"]) == ((0.25, ORANGE), (0, BLUE))
    marks = [line.get_xdata()[0] for line in axes.lines]
    assert marks == [before[name] for name in names]
    texts = [text.get_text() for text in axes.texts]
    assert texts[-2] == "0.250  (−0.500)"
    assert axes.get_title(loc="left") == "Title: 22 of 32 categories"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["source: A", "target: B_$x", "then"]


def test_the_confusion_counts_every_pair() -> None:
    before = ["Sandal", "Sandal", "Sandal", "Bag"]
    figure = draw_confusion(before, ["Sneaker", "Sneaker", "Bag", "Bag"], "Title")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Sandal", "Bag"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Sandal", "Bag", "Sneaker"]
    assert np.allclose(axes.images[0].get_array(), [[0, 1 / 3, 2 / 3], [0, 1, 0]])
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(1, 0): "1\n33%", (2, 0): "2\n67%", (1, 1): "1\n100%"}


def test_many_categories_are_counted_together() -> None:
    """The most frequent ones have a row and a column; nobody is lost."""
    generator = np.random.default_rng(0)
    names = [f"category {number}" for number in range(30)]
    before, after = (list(generator.choice(names, 2000, p=np.arange(1, 31) / 465)) for _ in range(2))
    (axes,) = draw_confusion(before, after, "Title").axes
    kept = [name for name, _ in Counter(before).most_common(MOST - 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*kept, "(others)"]
    counted = {text.get_position(): int(text.get_text().split("\n")[0]) for text in axes.texts}
    assert sum(counted.values()) == 2000
    both = sum(then not in kept for then in before)
    assert sum(count for (_, row), count in counted.items() if row == MOST - 1) == both


@pytest.mark.parametrize("name", ["$5 and $10 tops", r"$\frac{x}$", "a_b^c %", "外套 👗", "x" * 200, "a\nb"])
def test_names_in_pictures_are_no_formulas(name: str, tmp_path: Path) -> None:
    bars = draw_category_bars(
        {name: 1.0, "Bag": 0.5}, None, None, top_k=20, source=name, target=f"{name} 2", title=f"CHR of {name[:40]}"
    )
    for number, figure in enumerate((bars, draw_confusion([name], [f"{name} 2"], f"{name[:40]}: what is seen"))):
        save(figure, tmp_path / f"{number}.png")
        texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() != "")
        assert not any(text.get_parse_math() for text in texts)
