"""H&M's shop: articles, photographs and purchases, in the layout of its Kaggle competition.

The data are H&M's and may be used for academic, non-commercial purposes; they are not to be passed on.

References:
    C. García Ling, E. Hossain, J. Rim, W. Cukierski (2022): H&M Personalized Fashion Recommendations. Kaggle.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from rich.console import Console

from catwalk.catalogue import check_image_paths
from catwalk.errors import CatwalkError
from catwalk.tables import read_table, scan_table
from datamodules.importers.dataset_writer import DatasetWriter, check_destination, print_summary
from datamodules.importers.purchases import Numbering, Purchases, check_core, check_ids, first_misfit, fits

ARTICLES, TRANSACTIONS = "articles.csv", "transactions_train.csv"


def hm(
    source: Path,
    dest: Path,
    category: str = "product_type_name",
    group: str | None = None,
    first_day: str | None = None,
    last_day: str | None = None,
    core: int = 1,
    one_pass: bool = False,
    allow_truncated: bool = False,
) -> None:
    """Write H&M's Kaggle data as a dataset folder: photographs, product types and purchases.

    Articles without a photograph, and those that nobody bought, are left out and counted.

    Args:
        source: Folder with articles.csv, transactions_train.csv and images/010/0108775015.jpg.
        dest: The dataset folder to write; it must not exist, or be empty.
        category: Column of articles.csv whose values become the categories.
        group: Keep the articles with this value in the column index_group_name, such as Ladieswear; all by default.
        first_day: Leave out purchases before this day, such as 2020-01-01.
        last_day: Leave out purchases after this day.
        core: Keep users and items with at least this many purchases, repeated until nothing changes.
        one_pass: Drop users and then items with fewer than CORE purchases once only, as the paper's code does.
        allow_truncated: Take photographs that end too early as far as they go, rather than refuse them.

    Raises:
        CatwalkError: If an argument is out of range, DEST is not empty, or a file is missing or malformed.
    """
    check_destination(dest)
    check_core(core)
    days = {name: parse_day(value, name) for name, value in (("first_day", first_day), ("last_day", last_day))}
    if not source.is_dir():
        raise CatwalkError(f"source: there is no folder {source}")
    columns = ["article_id", category, *([] if group is None else ["index_group_name"])]
    articles = read_table(source / ARTICLES, columns, ["prod_name"])
    left_out = {}
    if group is not None:
        groups, everything = articles.column("index_group_name"), len(articles)
        articles = articles.filter(pa.compute.equal(groups, group))
        if not len(articles):
            known = ", ".join(sorted(groups.unique().to_pylist()))
            raise CatwalkError(f"group: no article has {group!r} in the column index_group_name, which has {known}")
        left_out["articles of other groups"] = everything - len(articles)
    ids = articles.column("article_id").to_pylist()
    check_ids(ids, source / ARTICLES, "article_id")
    photographs = {item: f"{item[:3]}/{item}.jpg" for item in ids}
    shown = {item for item in ids if (source / "images" / photographs[item]).is_file()}
    left_out["articles without a photograph"] = len(ids) - len(shown)

    purchases = read_transactions(source / TRANSACTIONS)
    purchases = purchases.of_items(ids, "purchases of other articles")
    purchases = purchases.of_items(shown, "purchases of articles without a photograph")
    purchases = purchases.between(days["first_day"], days["last_day"]).without_repeats().core(core, one_pass)
    purchases.check_some_left(source)
    rows = [row for row, item in enumerate(ids) if item in purchases.items_bought]
    left_out["articles that nobody bought"] = len(shown) - len(rows)
    kept = articles.take(pa.array(rows))
    item_ids = kept.column("article_id").to_pylist()
    labels = kept.column(category).to_pylist()
    images = [f"images/{photographs[item]}" for item in item_ids]
    check_image_paths(source, images, lambda row: f"article {item_ids[row]!r}")
    with DatasetWriter(dest) as writer:
        writer.copy_images(source, images, images, allow_truncated=allow_truncated)
        titles = kept.column("prod_name").to_pylist() if "prod_name" in kept.column_names else []
        writer.write_items(item_ids, images, labels, titles)
        writer.write_interactions(*purchases.columns())
        writer.describe(
            name="H&M",
            source="H&M Group, H&M Personalized Fashion Recommendations (Kaggle, 2022)",
            licence="academic, non-commercial use; not to be passed on (the competition's rules)",
            categories=sorted(set(labels)),
            made_by={
                "importer": "hm",
                "category": category,
                "group": group,
                "first_day": first_day,
                "last_day": last_day,
                "core": core,
                "one_pass": one_pass,
            },
            left_out=left_out | purchases.left_out,
        )
    print_summary(writer, Console())


def read_transactions(path: Path) -> Purchases:
    """Read ``transactions_train.csv``, which may have tens of millions of rows."""
    users, items = Numbering(), Numbering()
    days: list[NDArray[np.generic]] = []
    rows = 0
    for batch in scan_table(path, ["t_dat", "customer_id", "article_id"]):
        users.add(batch.column("customer_id"))
        items.add(batch.column("article_id"))
        column = batch.column("t_dat")
        try:
            parsed = column.cast(pa.date32())
        except pa.ArrowInvalid:
            row = first_misfit([column], pa.date32())
            text = column[row].as_py()
            raise CatwalkError(f"{path}, row {rows + row + 1}: t_dat {text!r} is no day such as 2020-01-31") from None
        days.append(parsed.to_numpy(zero_copy_only=False))
        rows += batch.num_rows
    user_ids, user_numbers = users.finish()
    item_ids, item_numbers = items.finish()
    return Purchases(user_ids, item_ids, user_numbers, item_numbers, np.concatenate(days))


def parse_day(text: str | None, argument: str) -> np.datetime64 | None:
    """Return a day given as ``2020-01-31``, or raise a CatwalkError."""
    if text is None:
        return None
    if not fits(pa.scalar(text), pa.date32()):
        raise CatwalkError(f"{argument} must be a day such as 2020-01-31, got {text!r}")
    return np.datetime64(text, "D")
