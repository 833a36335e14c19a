"""WriteAttackedItems: a row for every attacked item, as brute force finds it."""

import csv
from pathlib import Path

import attacks
import numpy as np
import pyarrow.parquet
import pytest
import rankings

from callbacks import AttackedItems, WriteAttackedItems
from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import ProductClassifier

TOP_K = (3, 8)


@pytest.mark.parametrize("given", [True, False], ids=["items", "attack"])
def test_rows_are_those_of_brute_force(
    shop, features, recommender, attacked, model, make_trainer, tmp_path: Path, given: bool
) -> None:
    data = InteractionTriplets(shop, features)
    folder = attacked(tmp_path / "attack")
    ids = [row["item_id"] for row in attacks.rows_of(folder / "attacked_items.csv")]
    ids = [ids[3], ids[0], "item-88"] if given else ids
    source = {"items": ids} if given else {"attack": folder}
    paths = tmp_path / "items.csv", tmp_path / "items.parquet"
    # Others have other items ranked in the same test.
    others = AttackedItems(top_k=[2], mean_rank=True, items=["item-05", "item-88"])
    trainer = make_trainer(callbacks=[*(WriteAttackedItems(path, top_k=TOP_K, **source) for path in paths), others])
    trainer.test(model, data, ckpt_path=str(recommender), verbose=False)
    found = pyarrow.parquet.read_table(paths[1]).to_pylist()
    with paths[0].open(newline="") as file:
        assert list(csv.DictReader(file)) == [{name: str(value) for name, value in row.items()} for row in found]
    scores = attacks.scores_of(model, data, data.feature_table.features.numpy())
    everybodys = attacks.ranked_candidates(scores, rankings.bought(data, "test"))
    assert [row["item_id"] for row in found] == sorted(ids)
    bought = np.bincount([item for _, item in set(zip(data.split.users, data.split.items, strict=True))], minlength=90)
    for row in found:
        item = data.catalogue.item_ids.index(row["item_id"])
        ranks = [items.index(item) + 1 for items in everybodys if item in items]
        assert row["candidates"] == len(ranks) / 200
        assert row["mean_rank"] == pytest.approx(np.mean(ranks), rel=1e-9)
        assert [row[f"hr@{k}"] for k in TOP_K] == [sum(rank <= k for rank in ranks) / 200 for k in TOP_K]
        assert row["purchases"] == bought[item]
        is_head = bought[item] and (bought >= bought[item]).sum() <= 18
        assert row["popularity"] == ("cold" if bought[item] == 0 else "head" if is_head else "tail")
    assert any(row["hr@8"] for row in found)


def test_it_has_something_to_write(shop, features, recommender, model, make_trainer, tmp_path: Path) -> None:
    path, data = tmp_path / "items.csv", InteractionTriplets(shop, features, validation=True)
    with pytest.raises(CatwalkError, match="WriteAttackedItems observes the attack of its run, and there is none"):
        make_trainer(callbacks=[WriteAttackedItems(path)]).test(model, data, ckpt_path=str(recommender), verbose=False)
    with pytest.raises(CatwalkError, match=r"WriteAttackedItems.output must end in .csv or .parquet"):
        WriteAttackedItems(tmp_path / "items.json")
    trainer = make_trainer(callbacks=[WriteAttackedItems(path, items=["item-05"])])
    with pytest.raises(CatwalkError, match="WriteAttackedItems measures recommenders, not a ProductClassifier"):
        trainer.test(ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}), ProductImages(shop))
    trainer.validate(model, data, ckpt_path=str(recommender), verbose=False)
    assert not path.exists(), "of the test alone"
