"""WriteRecommendations: the lists are those of the recommender, as long as they were asked for."""

import csv
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from callbacks import CategoryHitRatio, WriteRecommendations
from catwalk.errors import CatwalkError


@pytest.mark.parametrize(("top_k", "length"), [(3, 3), (8, 8), (None, 5)])
def test_the_lists_are_those_of_the_model(
    triplets, recommender, model, make_trainer, tmp_path: Path, top_k: int | None, length: int
) -> None:
    """Also where another callback looks further down: by default they are as long as the model's own."""
    path = tmp_path / "new folder" / "recommendations.csv"
    trainer = make_trainer(callbacks=[CategoryHitRatio([12]), WriteRecommendations(path, top_k)])
    trainer.predict(model, triplets, ckpt_path=recommender, weights_only=True, return_predictions=False)
    expected, _ = model.recommend(torch.arange(triplets.num_users), length)
    users, items = triplets.split.user_ids, triplets.catalogue.item_ids
    rows = [[users[u], str(r + 1), items[i]] for u, row in enumerate(expected.tolist()) for r, i in enumerate(row)]
    with path.open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["user_id", "rank", "item_id"], *rows]


def test_parquet_holds_what_csv_does(triplets, recommender, model, make_trainer, tmp_path: Path) -> None:
    csv_file, parquet = tmp_path / "lists.csv", tmp_path / "lists.parquet"
    trainer = make_trainer(callbacks=[WriteRecommendations(csv_file), WriteRecommendations(parquet)])
    trainer.predict(model, triplets, ckpt_path=recommender, weights_only=True, return_predictions=False)
    table = pyarrow.parquet.read_table(parquet)
    with csv_file.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [{**row, "rank": str(row["rank"])} for row in table.to_pylist()] == rows
    assert len(rows) > triplets.num_users
    assert table.schema.field("rank").type == "int64"


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CatwalkError, match=r"WriteRecommendations\.output must end in \.csv or \.parquet, got lists.txt"
    ):
        WriteRecommendations(Path("lists.txt"))
    (tmp_path / "lists.csv").mkdir()
    with pytest.raises(CatwalkError, match=r"must be a file, and .*lists\.csv is a folder"):
        WriteRecommendations(tmp_path / "lists.csv")
