"""WriteUserMetrics: a row for every user, the same however many processes and blocks there are."""

import csv
import json
import math
import re
from pathlib import Path

import attacks
import pyarrow.parquet
import pytest
import rankings

from callbacks import CategoryHitRatio, WriteUserMetrics
from catwalk.errors import CatwalkError
from catwalk.shop.splits import RatioSplit
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import BPRMF, ProductClassifier

TOP_K = (3, 8)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def items_of(data: InteractionTriplets, user: int) -> set[int]:
    """Return what a user bought in training."""
    return {item for buyer, item in zip(data.split.users, data.split.items, strict=True) if buyer == user}


def popularity_of(data: InteractionTriplets) -> list[str]:
    """Return each item's group, by its definition."""
    pairs = set(zip(data.split.users.tolist(), data.split.items.tolist(), strict=True))
    bought = [sum(item == other for _, other in pairs) for item in range(data.num_items)]
    as_popular = [sum(other >= count for other in bought) for count in bought]
    return [
        "cold" if count == 0 else "head" if 5 * better <= len(bought) else "tail"
        for count, better in zip(bought, as_popular, strict=True)
    ]


@pytest.fixture(scope="module")
def by_processes(forked, shop, features, recommender_by_share, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return what one process left, what two left, and what one left that ranks the users in one block."""
    folders = []
    for devices, blocks in ((1, 64), (2, 64), (1, 1)):
        folder = tmp_path_factory.mktemp("processes")
        script = Path(__file__).with_name("measure_users_in_processes.py")
        forked.check(script, folder, shop, features, recommender_by_share, blocks, folder, processes=devices)
        folders.append(folder)
    return folders


@pytest.mark.slow
def test_all_ways_to_share_the_users_out_write_the_same_files(by_processes: list[Path]) -> None:
    one, *others = by_processes
    for name in ("users.csv", "users.parquet", "items.parquet"):
        for other in others:
            assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.slow
def test_all_ways_to_share_the_users_out_log_the_same_figures(by_processes: list[Path]) -> None:
    one, *others = (json.loads((folder / "metrics.json").read_text()) for folder in by_processes)
    counted = {name: value for name, value in one.items() if "@" in name}
    counted["test/attacked/mean_rank"] = one["test/attacked/mean_rank"]
    assert {"test/ncdcg@8/Bag", "test/mrr@3", "test/gini@8", "test/attacked/exposure@3"} < set(counted)
    for other in others:
        assert {name: other[name] for name in counted} == counted


def test_a_row_holds_what_was_found_of_the_user(triplets, recommender, model, make_trainer, tmp_path: Path) -> None:
    found = rankings.record(model, "test")
    path = tmp_path / "new folder" / "users.csv"
    attacked = ["item-80", "item-07", "item-31"]
    writer = WriteUserMetrics(path, TOP_K, ["Sandal", "Bag"], source="Bag", target="Sandal", items=attacked)
    trainer = make_trainer(callbacks=[writer])
    trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    rows = read(path)
    item_ids, user_ids = triplets.catalogue.item_ids, triplets.split.user_ids
    table = triplets.feature_table
    popularity = popularity_of(triplets)
    scores = attacks.scores_of(model, triplets, table.features.numpy())
    candidates = attacks.ranked_candidates(scores, rankings.bought(triplets, "test"))
    assert [row["user_id"] for row in rows] == list(user_ids)
    by_user = {user.user: user for user in found}
    for number, row in enumerate(rows):
        user = by_user[number]
        expected = {
            f"chr@{k}/{name}": str(
                sum(table.category_names[table.categories[item]] == name for item in user.items[:k] if item >= 0)
            )
            for k in TOP_K
            for name in ("Sandal", "Bag")
        }
        if not user.targets:
            expected |= {"held_out_item_id": "", "rank": "", "auc": ""}
        else:
            (target,) = user.targets
            place = user.items.index(target) + 1 if target in user.items[:8] else 0
            expected |= {"held_out_item_id": item_ids[target], "rank": str(place), "auc": repr(user.auc)}
        bought = {table.category_names[table.categories[item]] for item in items_of(triplets, number)}
        groups = {(False, False): "neither", (True, False): "source", (False, True): "target", (True, True): "both"}
        expected["group"] = groups["Bag" in bought, "Sandal" in bought]
        for k in TOP_K:
            shown = [(popularity[item], item_ids[item] in attacked) for item in user.items[:k] if item >= 0]
            expected[f"attacked@{k}"] = str(sum(is_attacked for _, is_attacked in shown))
            for name in ("Sandal", "Bag"):
                of_category = [item for item in user.items[:k] if table.category_names[table.categories[item]] == name]
                expected[f"attacked@{k}/{name}"] = str(sum(item_ids[item] in attacked for item in of_category))
            for group in ("cold", "tail", "head"):
                expected[f"{group}@{k}"] = str(sum(popular == group for popular, _ in shown))
                expected[f"attacked_{group}@{k}"] = str(shown.count((group, True)))
        ranks = [rank for rank, item in enumerate(candidates[number], 1) if item_ids[item] in attacked]
        expected["attacked_rank"] = str(min(ranks)) if ranks else ""
        assert row == {"user_id": user_ids[number]} | expected
    assert {"", "0"} < {row["rank"] for row in rows}
    assert {row["group"] for row in rows} == {"neither", "source", "target", "both"}
    assert {row[f"{group}@8"] for row in rows for group in ("cold", "tail", "head")} > {"0", "1", "2"}
    assert {row["attacked@8"] for row in rows} >= {"0", "1"}
    assert {row[f"attacked@8/{name}"] for row in rows for name in ("Sandal", "Bag")} >= {"0", "1"}
    assert list(rows[0]) == [
        *("user_id", "held_out_item_id", "rank", "auc", "group"),
        *("chr@3/Sandal", "chr@3/Bag", "chr@8/Sandal", "chr@8/Bag"),
        *("cold@3", "tail@3", "head@3", "cold@8", "tail@8", "head@8"),
        *("attacked@3", "attacked@3/Sandal", "attacked@3/Bag", "attacked_cold@3", "attacked_tail@3", "attacked_head@3"),
        *("attacked@8", "attacked@8/Sandal", "attacked@8/Bag", "attacked_cold@8", "attacked_tail@8", "attacked_head@8"),
        "attacked_rank",
    ]


def test_several_held_out_items_are_lists(
    shop, recommender_by_share, model, features, make_trainer, tmp_path: Path
) -> None:
    data = InteractionTriplets(shop, features, split=RatioSplit(0.4))
    found = rankings.record(model, "test")
    paths = tmp_path / "users.csv", tmp_path / "users.parquet"
    trainer = make_trainer(callbacks=[WriteUserMetrics(path, [8], []) for path in paths])
    trainer.test(model, data, ckpt_path=str(recommender_by_share), verbose=False)
    expected = []
    for user in sorted(found, key=lambda user: user.user):
        places = [user.items.index(item) + 1 if item in user.items[:8] else 0 for item in user.targets]
        ids = [data.catalogue.item_ids[item] for item in user.targets]
        measured = (ids, places, user.auc) if ids else (None, None, None)
        expected.append((data.split.user_ids[user.user], *measured))
    assert {len(ids) for _, ids, *_ in expected if ids} >= {1, 2}
    names = ["user_id", "held_out_item_ids", "ranks", "auc"]
    table = pyarrow.parquet.read_table(paths[1])
    assert table.column_names == [*names, "cold@8", "tail@8", "head@8"]
    table = table.select(names)
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    in_csv = [tuple(json.loads(row[name] or "null") for name in names[1:]) for row in read(paths[0])]
    assert in_csv == [row[1:] for row in expected]


def test_means_over_the_rows_are_the_figures_of_the_test(triplets, recommender, model, make_trainer, tmp_path) -> None:
    path = tmp_path / "users.csv"
    trainer = make_trainer(callbacks=[WriteUserMetrics(path, TOP_K), CategoryHitRatio(TOP_K)])
    (values,) = trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)
    rows = read(path)
    counted = [name for name in rows[0] if name.startswith("chr@")]
    assert len(counted) == 2 * 6
    for name in counted:
        assert sum(int(row[name]) for row in rows) / len(rows) == pytest.approx(values[f"test/{name}"], rel=1e-6)
    ranks = [int(row["rank"]) for row in rows if row["rank"]]
    found = [rank for rank in ranks if 0 < rank <= 5]
    assert len(found) / len(ranks) == pytest.approx(values["test/hr@5"], rel=1e-6)
    gains = [1 / math.log2(rank + 1) for rank in found]
    assert sum(gains) / len(ranks) == pytest.approx(values["test/ndcg@5"], rel=1e-6)
    auc = [float(row["auc"]) for row in rows if row["auc"]]
    assert sum(auc) / len(auc) == pytest.approx(values["test/auc"], rel=1e-6)


def test_parquet_has_the_rows_of_the_csv_file_as_numbers(shop, make_trainer, tmp_path: Path) -> None:
    data, model = InteractionTriplets(shop), BPRMF(factors=4)
    paths = tmp_path / "users.csv", tmp_path / "users.parquet"
    writers = [WriteUserMetrics(path, categories=["Bag"], categories_by="dataset") for path in paths]
    trainer = make_trainer(max_epochs=1, callbacks=writers)
    trainer.fit(model, data)
    assert not any(path.exists() for path in paths)  # of the test alone
    trainer.test(model, data, verbose=False)
    rows = pyarrow.parquet.read_table(paths[1]).to_pylist()
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows] == read(
        paths[0]
    )
    types = {name: {type(row[name]) for row in rows} for name in rows[0]}
    nothing = type(None)
    assert types["rank"] == {int, nothing}
    assert types["auc"] == {float, nothing}
    assert types["held_out_item_id"] == {str, nothing}
    assert types["chr@20/Bag"] == {int}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": Path("users.json")}, "WriteUserMetrics.output must end in .csv or .parquet, got users.json"),
        ({"output": Path("users.csv"), "top_k": []}, "top_k must name list lengths of at least 1, got []"),
        ({"output": Path("users.csv"), "top_k": [3, 0]}, "top_k must name list lengths of at least 1, got [3, 0]"),
        ({"output": Path("users.csv"), "target": "Bag"}, "WriteUserMetrics.target: is nothing without source"),
        (
            {"output": Path("users.csv"), "items": ["a", "a"]},
            "WriteUserMetrics.items: must name items, each once, got 2, of which 1 differ",
        ),
        ({"output": Path("users.csv"), "items": []}, "WriteUserMetrics.items: must name items, each once, got 0"),
        (
            {"output": Path("users.csv"), "items": ["a"], "attack": Path("b")},
            "WriteUserMetrics.items: are those of WriteUserMetrics.attack unless they are given",
        ),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(CatwalkError, match=re.escape(message)):
        WriteUserMetrics(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": ["Hat"]}, r"WriteUserMetrics.categories: .*'Hat'.* Bag, Dress"),
        ({"source": "Hat"}, r"WriteUserMetrics.source: .*'Hat'.* Bag, Dress"),
        ({"source": "Bag", "target": "Hat"}, r"WriteUserMetrics.target: .*'Hat'.* Bag, Dress"),
        ({"items": ["item-07", "item-7"]}, r"WriteUserMetrics.items: .* has no item 'item-7'"),
        ({"attack": Path("nowhere")}, r"nowhere holds no attacked_items.csv"),
    ],
)
def test_what_there_is_not_is_refused(triplets, recommender, model, make_trainer, tmp_path, settings, message) -> None:
    trainer = make_trainer(callbacks=[WriteUserMetrics(tmp_path / "users.csv", **settings)])
    with pytest.raises(CatwalkError, match=message):
        trainer.test(model, triplets, ckpt_path=str(recommender), verbose=False)


def test_categories_of_the_network_need_features(shop, make_trainer, tmp_path) -> None:
    trainer = make_trainer(callbacks=[WriteUserMetrics(tmp_path / "users.csv")], max_epochs=1)
    with pytest.raises(CatwalkError, match=r"WriteUserMetrics takes the categories .* categories_by: dataset"):
        trainer.fit(BPRMF(factors=4), InteractionTriplets(shop))


def test_it_is_for_recommenders_only(shop, make_trainer, tmp_path) -> None:
    trainer = make_trainer(callbacks=[WriteUserMetrics(tmp_path / "users.csv")], max_epochs=1)
    with pytest.raises(CatwalkError, match="WriteUserMetrics measures recommenders, not a ProductClassifier"):
        trainer.fit(ProductClassifier("catwalk.networks.compact_cnn"), ProductImages(shop))
