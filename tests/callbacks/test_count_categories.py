"""CHR@K as the callback logs it, against counting the model's own lists one by one."""

import csv
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("categories_by", ["network", "dataset"])
@pytest.mark.parametrize("stage", ["test", "val"])
def test_it_counts_the_models_lists(
    shop, features, recommender, model, make_trainer, categories_by: str, stage: str
) -> None:
    data = InteractionTriplets(shop, features, validation=stage == "val")
    callback = CategoryHitRatio(TOP_K, categories_by=categories_by)
    lists: list[list[int]] = []
    step = f"{'validation' if stage == 'val' else stage}_step"
    original = getattr(model, step)

    def step_and_tell(*arguments):
        ranking = original(*arguments)
        lists.extend(ranking["recommended"].tolist())
        return ranking

    setattr(model, step, step_and_tell)
    trainer = make_trainer(callbacks=[callback])
    run = trainer.validate if stage == "val" else trainer.test
    (figures,) = run(model, data, ckpt_path=str(recommender), verbose=False)
    categories = category_by_item(shop, features, categories_by)
    assert len(lists) == data.num_users > (data.held_out_items(stage) >= 0).sum()  # everybody counts
    names = sorted(set(categories))
    expected = {f"{stage}/chr@{k}/{name}": count(lists, categories, name, k) for k in TOP_K for name in names}
    assert {name: value for name, value in figures.items() if "chr@" in name} == pytest.approx(expected)
    assert f"{stage}/hr@5" in figures  # the model's own list length stays


def test_network_and_dataset_differ_here(shop, features) -> None:
    """Otherwise the test above could not tell them apart."""
    assert category_by_item(shop, features, "network") != category_by_item(shop, features, "dataset")


def test_only_the_categories_asked_for_are_logged(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio([3], categories=["Sandal", "Bag"])])
    (figures,) = trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    assert {name for name in figures if "chr" in name} == {"test/chr@3/Sandal", "test/chr@3/Bag"}


def test_a_second_test_does_not_add_to_the_first(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio(TOP_K)])
    first = trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    assert trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False) == first


def test_every_epoch_is_counted_by_itself(shop, features, make_trainer, model) -> None:
    data = InteractionTriplets(shop, features, batch_size=64, validation=True)
    trainer = make_trainer(max_epochs=3, callbacks=[CategoryHitRatio(TOP_K)])
    trainer.fit(model, data)
    last = {name: value.item() for name, value in trainer.callback_metrics.items() if "val/chr" in name}
    (alone,) = make_trainer(callbacks=[CategoryHitRatio(TOP_K)]).validate(model, data, verbose=False)
    assert last == {name: value for name, value in alone.items() if "chr" in name}


def test_an_unknown_category_is_refused(triplets, recommender, model, make_trainer) -> None:
    trainer = make_trainer(callbacks=[CategoryHitRatio(categories=["Hat"])])
    with pytest.raises(CatwalkError, match=r"CategoryHitRatio.categories: .*'Hat'.* Bag, Dress"):
        trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)


def test_categories_of_the_network_need_features(shop, make_trainer) -> None:
    data = InteractionTriplets(shop)
    with pytest.raises(CatwalkError, match=r"categories_by: dataset"):
        make_trainer(callbacks=[CategoryHitRatio([3])], max_epochs=1).fit(BPRMF(4), data)
    make_trainer(callbacks=[CategoryHitRatio([3], categories_by="dataset")], max_epochs=1).fit(BPRMF(4), data)


def test_a_list_longer_than_the_catalogue_is_refused(triplets, recommender, model, make_trainer) -> None:
    with pytest.raises(CatwalkError, match=r"91.*90 items"):
        make_trainer(callbacks=[CategoryHitRatio([91])]).test(model, triplets, ckpt_path=str(recommender))


@pytest.mark.parametrize("top_k", [[], [0], [3, -1]])
def test_list_lengths_must_be_positive(top_k: list[int]) -> None:
    with pytest.raises(CatwalkError, match="top_k"):
        CategoryHitRatio(top_k)


def test_it_measures_recommenders_only(shop, make_trainer) -> None:
    model = ProductClassifier("catwalk.backbones.compact_cnn")
    with pytest.raises(CatwalkError, match="ProductClassifier"):
        make_trainer(callbacks=[CategoryHitRatio()], max_epochs=1).fit(model, ProductImages(shop))
