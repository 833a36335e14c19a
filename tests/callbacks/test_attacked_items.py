"""The metrics of the attacked items are those of brute force."""

from pathlib import Path

import attacks
import numpy as np
import pytest
import rankings
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from callbacks import AttackedItems, InjectPoisonedImages
from catwalk.attacks import PGD
from catwalk.errors import CatwalkError, DivergedError
from catwalk.metrics.item_reach import ItemReach, item_ranks
from catwalk.shop.user_items import mask_value
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, ProductClassifier

TOP_K = (3, 8)


@pytest.fixture
def folder(attacked, tmp_path: Path) -> Path:
    return attacked(tmp_path / "earlier attack")


@pytest.mark.parametrize("values", [1000, 3], ids=["few ties", "many ties"])
def test_ranks_are_those_of_a_sorted_list(values: int) -> None:
    """Negative, positive and signed zeros among the scores; some items are no candidates."""
    generator = np.random.default_rng(values)
    scores = generator.integers(-values, values + 1, (40, 57)).astype(np.float32)
    scores[(scores == 0) & (generator.random(scores.shape) < 0.5)] = -0.0
    no_candidate = generator.random(scores.shape) < 0.2
    no_candidate[0] = True
    items = generator.permutation(57)[:9]
    masked = np.where(no_candidate, np.finfo(scores.dtype).min, scores)
    found = item_ranks(torch.from_numpy(masked), torch.from_numpy(items))
    for row, candidates in zip(found.tolist(), attacks.ranked_candidates(scores, no_candidate), strict=True):
        assert row == [candidates.index(item) + 1 if item in candidates else 0 for item in items]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_items_are_masked_in_any_type(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1.0, mask_value(dtype), 2.0, mask_value(dtype), 2.0]], dtype=dtype)
    assert item_ranks(scores, torch.tensor([0, 1, 2, 3, 4])).tolist() == [[3, 0, 1, 0, 2]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_model_that_has_diverged_has_no_ranks(value: float) -> None:
    with pytest.raises(DivergedError, match=r"a score is (NaN|infinite)"):
        item_ranks(torch.tensor([[1.0, value, 0.0]]), torch.tensor([0]))


@pytest.mark.parametrize("stage", ["val", "test"])
def test_figures_are_those_of_brute_force(
    shop, features, recommender, folder: Path, model, make_trainer, stage: str
) -> None:
    data = InteractionTriplets(shop, features, validation=True)
    trainer = make_trainer(callbacks=[AttackedItems(folder, TOP_K, mean_rank=True)])
    run = trainer.validate if stage == "val" else trainer.test
    (values,) = run(model, data, ckpt_path=str(recommender), verbose=False)
    ids = [row["item_id"] for row in attacks.rows_of(folder / "attacked_items.csv")]
    attacked = {data.catalogue.item_ids.index(item) for item in ids}
    assert 3 < len(attacked) < 80
    scores = attacks.scores_of(model, data, data.feature_table.features.numpy())
    everybodys = attacks.ranked_candidates(scores, rankings.bought(data, stage))
    ranks = [rank for items in everybodys for rank, item in enumerate(items, 1) if item in attacked]
    assert values[f"{stage}/attacked/mean_rank"] == pytest.approx(np.mean(ranks), rel=1e-6)
    for k in TOP_K:
        lists = [[item in attacked for item in items[:k]] for items in everybodys]
        gains = [sum(hit / np.log2(1 + rank) for rank, hit in enumerate(own, 1)) for own in lists]
        for name, expected in (
            ("exposure", np.mean([sum(own) for own in lists])),
            ("discounted_exposure", np.mean(gains)),
            ("users_reached", np.mean([any(own) for own in lists])),
        ):
            assert values[f"{stage}/attacked/{name}@{k}"] == pytest.approx(expected, rel=1e-6)
            assert expected > 0


def test_lists_that_nobody_fills_count_their_items_alone() -> None:
    metric = ItemReach([1, 4], torch.tensor([2, 0]), num_items=3)
    metric.update(torch.tensor([[1, 2, -1, -1], [-1, -1, -1, -1]]))
    values = {name: value.tolist() for name, value in metric.compute().items()}
    assert values["exposure"] == [0, 0.5]
    assert values["discounted_exposure"] == pytest.approx([0, 0.5 / np.log2(3)])
    assert values["users_reached"] == [0, 0.5]


@pytest.mark.parametrize("order", [1, -1])
def test_the_items_of_the_attack_in_the_same_run_are_followed_from_before_it_on(
    trained, shop, features, make_trainer, tmp_path: Path, order: int
) -> None:
    """Until the images are injected the metrics are those of a clean run; then the poisoned features rank."""

    def fit(folder: Path, *callbacks) -> tuple[VBPR, InteractionTriplets, list[float]]:
        seed_everything(0, verbose=False)
        model, data = VBPR(factors=4, visual_factors=4, top_k=[5]), InteractionTriplets(shop, features, validation=True)
        trainer = make_trainer(max_epochs=2, callbacks=list(callbacks), logger=CSVLogger(folder, "log", "0"))
        trainer.fit(model, data)
        ranks = [row["val/attacked/mean_rank"] for row in attacks.rows_of(folder / "log" / "0" / "metrics.csv")]
        return model, data, [float(rank) for rank in ranks if rank]

    folder = tmp_path / "attack"
    inject = InjectPoisonedImages(
        trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET, from_epoch=1
    )
    model, data, ranks = fit(tmp_path, *[inject, AttackedItems(folder, TOP_K, mean_rank=True)][::order])
    _, _, clean = fit(tmp_path / "clean", AttackedItems(folder, TOP_K, mean_rank=True))
    assert ranks[0] == clean[0]
    assert ranks[1] != clean[1]
    attacked = {row["item_id"] for row in attacks.rows_of(folder / "attacked_items.csv")}
    scores = attacks.scores_of(model, data, load_file(folder / "features.safetensors")["features"].numpy())
    expected = [
        rank
        for items in attacks.ranked_candidates(scores, rankings.bought(data, "val"))
        for rank, item in enumerate(items, 1)
        if data.catalogue.item_ids[item] in attacked
    ]
    assert ranks[1] == pytest.approx(np.mean(expected), rel=1e-6)


def test_only_recommenders_have_such_figures(shop, folder: Path, make_trainer) -> None:
    trainer = make_trainer(callbacks=[AttackedItems(folder)])
    with pytest.raises(CatwalkError, match="AttackedItems measures recommenders, not a ProductClassifier"):
        trainer.test(ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}), ProductImages(shop))
