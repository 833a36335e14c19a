"""CHR@K and nCDCG@K as the callback logs them, against counting the model's own lists one by one."""

import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rankings

import callbacks.ranked_lists
from callbacks import CategoryHitRatio
from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import BPRMF, ProductClassifier

TOP_K = (3, 8)  # shorter and longer than the 5 of the model


def category_by_item(shop: Path, features: Path, categories_by: str) -> list[str]:
    """Read the category of every item from the file that tells it."""
    path = features / "predictions.csv" if categories_by == "network" else shop / "items.csv"
    with path.open() as file:
        return [row["category"] for row in csv.DictReader(file)]


def count(lists: list[list[int]], categories: list[str], name: str, k: int) -> float:
    hits = 0
    for items in lists:
        for item in items[:k]:
            if item >= 0 and categories[item] == name:
                hits += 1
    return hits / len(lists)


def discounted_share(users: list[rankings.User], bought: np.ndarray, categories: list[str], name: str, k: int) -> float:
    """Compare the list of every user who could be shown an item of the category with the ideal one."""
    shares = []
    for user in users:
        candidates = [item for item, its in enumerate(categories) if its == name and not bought[user.user, item]]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(candidates), k)))
        gained = sum(1 / math.log2(place + 2) for place, item in enumerate(user.items[:k]) if item in candidates)
        shares += [gained / ideal] if candidates else []
    return sum(shares) / len(shares)


@pytest.mark.parametrize("places_at_once", [1, 2**18])
@pytest.mark.parametrize("categories_by", ["network", "dataset"])
@pytest.mark.parametrize("stage", ["test", "val"])
def test_it_counts_the_models_lists(
    shop, features, recommender, model, make_trainer, monkeypatch, categories_by: str, stage: str, places_at_once: int
) -> None:
    monkeypatch.setattr(callbacks.ranked_lists, "PLACES_AT_ONCE", places_at_once)
    data = InteractionTriplets(shop, features, validation=True)
    users = rankings.record(model, stage)
    trainer = make_trainer(callbacks=[CategoryHitRatio(TOP_K, categories_by=categories_by)])
    run = trainer.validate if stage == "val" else trainer.test
    (figures,) = run(model, data, ckpt_path=str(recommender), verbose=False)
    categories = category_by_item(shop, features, categories_by)
    assert len(users) == data.num_users > len(data.held_out_items(stage)) > 0  # everybody counts
    names, lists, seen = sorted(set(categories)), [user.items for user in users], rankings.bought(data, stage)
    for figure, expected in (
        ("chr", {(k, name): count(lists, categories, name, k) for k in TOP_K for name in names}),
        ("ncdcg", {(k, name): discounted_share(users, seen, categories, name, k) for k in TOP_K for name in names}),
    ):
        found = {name: value for name, value in figures.items() if f"/{figure}@" in name}
        assert found == pytest.approx({f"{stage}/{figure}@{k}/{name}": value for (k, name), value in expected.items()})
    assert f"{stage}/hr@5" in figures  # the model's own list length stays


def test_network_and_dataset_differ_here(shop, features) -> None:
    """Otherwise the test above could not tell them apart."""
    assert category_by_item(shop, features, "network") != category_by_item(shop, features, "dataset")


def test_only_the_categories_asked_for_are_logged(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio([3], categories=["Sandal", "Bag"])])
    (figures,) = trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    expected = {f"test/{figure}@3/{name}" for figure in ("chr", "ncdcg") for name in ("Sandal", "Bag")}
    assert {name for name in figures if "chr" in name or "ncdcg" in name} == expected


def test_a_second_test_does_not_add_to_the_first(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio(TOP_K)])
    first = trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    assert trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False) == first


def test_every_epoch_is_counted_by_itself(shop, features, make_trainer, model) -> None:
    data = InteractionTriplets(shop, features, batch_size=64, validation=True)
    trainer = make_trainer(max_epochs=3, callbacks=[CategoryHitRatio(TOP_K)])
    trainer.fit(model, data)
    last = {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if "val/chr" in name or "val/ncdcg" in name
    }
    (alone,) = make_trainer(callbacks=[CategoryHitRatio(TOP_K)]).validate(model, data, verbose=False)
    assert len(last) == 2 * 2 * 6
    assert last == {name: value for name, value in alone.items() if name in last}


def test_a_shop_of_one_category_has_its_figures_too(shop, make_trainer, tmp_path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    with (shop / "items.csv").open() as file:
        rows = [row | {"category": "Bag"} for row in csv.DictReader(file)]
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "dataset.json").unlink()
    trainer = make_trainer(callbacks=[CategoryHitRatio([3], categories_by="dataset")], max_epochs=1)
    data = InteractionTriplets(folder)
    model = BPRMF(factors=4)
    trainer.fit(model, data)
    (figures,) = trainer.test(model, data, verbose=False)
    assert figures["test/chr@3/Bag"] == 3
    assert figures["test/ncdcg@3/Bag"] == pytest.approx(1)


def test_an_unknown_category_is_refused(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio(categories=["Hat"])])
    with pytest.raises(CatwalkError, match=r"CategoryHitRatio.categories: .*'Hat'.* Bag, Dress"):
        trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)


def test_categories_of_the_network_need_features(shop, make_trainer) -> None:
    data = InteractionTriplets(shop)
    with pytest.raises(CatwalkError, match=r"categories_by: dataset"):
        make_trainer(callbacks=[CategoryHitRatio([3])], max_epochs=1).fit(BPRMF(factors=4), data)
    make_trainer(callbacks=[CategoryHitRatio([3], categories_by="dataset")], max_epochs=1).fit(BPRMF(factors=4), data)


def test_a_list_longer_than_the_catalogue_is_refused(triplets, recommender, model, make_trainer) -> None:
    with pytest.raises(CatwalkError, match=r"91.*90 items"):
        make_trainer(callbacks=[CategoryHitRatio([91])]).test(model, triplets, ckpt_path=str(recommender))


@pytest.mark.parametrize("top_k", [[], [0], [3, -1]])
def test_list_lengths_must_be_positive(top_k: list[int]) -> None:
    with pytest.raises(CatwalkError, match="top_k"):
        CategoryHitRatio(top_k)


def test_it_measures_recommenders_only(shop, make_trainer) -> None:
    model = ProductClassifier("catwalk.networks.compact_cnn")
    with pytest.raises(CatwalkError, match="ProductClassifier"):
        make_trainer(callbacks=[CategoryHitRatio()], max_epochs=1).fit(model, ProductImages(shop))
