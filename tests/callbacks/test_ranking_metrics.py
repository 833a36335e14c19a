"""RankingMetrics: what it logs, against the model's own lists in plain NumPy."""

import math

import numpy as np
import pytest
import rankings

from callbacks import RankingMetrics
from catwalk.errors import CatwalkError
from catwalk.shop.splits import RatioSplit
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import BPRMF, ProductClassifier

TOP_K = (3, 8)  # shorter and longer than the 5 of the model


def figures_of(users: list[rankings.User], purchases: np.ndarray, k: int) -> dict[str, float]:
    asked = [user for user in users if user.targets]
    ranks = [[user.items.index(item) + 1 for item in user.targets if item in user.items[:k]] for user in asked]
    buyers = purchases.sum(axis=0)
    places = [item for user in users for item in user.items[:k] if item >= 0]
    shown = np.sort(np.bincount(places, minlength=purchases.shape[1]))
    # the area between the Lorenz curve and the diagonal, by trapezoids
    lorenz = np.concatenate([[0], np.cumsum(shown) / len(places)])
    own = np.mean([buyers[row].mean() for row in purchases if row.any()])
    return {
        "mrr": np.mean([1 / min(its) if its else 0.0 for its in ranks]),
        "recall": np.mean([len(its) / len(user.targets) for its, user in zip(ranks, asked, strict=True)]),
        "precision": np.mean([len(its) / k for its in ranks]),
        "coverage": len(set(places)) / purchases.shape[1],
        "gini": 1 - np.sum(lorenz[1:] + lorenz[:-1]) / purchases.shape[1],
        "novelty": np.mean([-math.log2(max(buyers[item], 1) / len(purchases)) for item in places]),
        "arp": np.mean(buyers[places]),
        "popularity_lift": np.mean(buyers[places]) / own - 1,
    }


@pytest.mark.parametrize("rule", [None, RatioSplit(0.4, 0.3)])
@pytest.mark.parametrize("stage", ["test", "val"])
def test_it_measures_the_models_lists(shop, features, request, model, make_trainer, stage: str, rule) -> None:
    data = InteractionTriplets(shop, features, validation=True, split=rule)
    users = rankings.record(model, stage)
    trainer = make_trainer(callbacks=[RankingMetrics(TOP_K)])
    run = trainer.validate if stage == "val" else trainer.test
    recommender = request.getfixturevalue("recommender" if rule is None else "recommender_by_share")
    (values,) = run(model, data, ckpt_path=str(recommender), verbose=False)
    assert len(users) == data.num_users > sum(len(user.targets) > 0 for user in users) > 0
    assert (max(len(user.targets) for user in users) > 1) == (rule is not None)
    purchases = rankings.bought(data, "val")  # those of the training, in both stages
    expected = {f"{stage}/{name}@{k}": value for k in TOP_K for name, value in figures_of(users, purchases, k).items()}
    assert {name: value for name, value in values.items() if name in expected} == pytest.approx(expected, rel=1e-6)
    assert f"{stage}/hr@5" in values  # the model's own list length stays


def test_recall_is_the_models_hit_rate(triplets, recommender, model, make_trainer) -> None:
    (values,) = make_trainer(callbacks=[RankingMetrics([5])]).test(
        model, triplets, ckpt_path=str(recommender), verbose=False
    )
    assert values["test/recall@5"] == values["test/hr@5"] > 0


def test_every_epoch_is_measured_by_itself(shop, make_trainer) -> None:
    """Of a recommender without images, whose data has no features."""
    data, model = InteractionTriplets(shop, batch_size=64, validation=True), BPRMF(factors=4)
    trainer = make_trainer(max_epochs=2, callbacks=[RankingMetrics()])
    trainer.fit(model, data)
    (alone,) = make_trainer(callbacks=[RankingMetrics()]).validate(model, data, verbose=False)
    last = {name: value.item() for name, value in trainer.callback_metrics.items() if name in alone}
    assert len(alone) > 8
    assert last == alone


@pytest.mark.parametrize("top_k", [[], [0], [3, -1]])
def test_list_lengths_must_be_positive(top_k: list[int]) -> None:
    with pytest.raises(CatwalkError, match="top_k"):
        RankingMetrics(top_k)


def test_it_measures_recommenders_only(shop, make_trainer) -> None:
    model = ProductClassifier("catwalk.networks.compact_cnn")
    with pytest.raises(CatwalkError, match="RankingMetrics measures recommenders, not a ProductClassifier"):
        make_trainer(callbacks=[RankingMetrics()], max_epochs=1).fit(model, ProductImages(shop))
