"""H&M's shop: articles, photographs and purchases, in the layout of its Kaggle competition.

The data are H&M's and may be used for academic, non-commercial purposes; they are not to be passed on.

References:
    C. García Ling, E. Hossain, J. Rim, W. Cukierski (2022): H&M Personalized Fashion Recommendations. Kaggle.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination
from catwalk.importers.items import (
    DAMAGED_ITEMS,
    DAMAGED_PURCHASES,
    TIDIED_CATEGORIES,
    Items,
    check_images,
    check_known,
    tidy_categories,
)
from catwalk.importers.purchases import SPELLED_ITEMS, Numbering, Purchases, check_core, check_ids, first_misfit, fits
from catwalk.importers.summary import print_summary
from catwalk.shop.catalogue import check_image_paths
from catwalk.shop.columns import read_table, scan_table
from catwalk.shop.times import trim_times

ARTICLES, TRANSACTIONS = "articles.csv", "transactions_train.csv"
UNSOLD = "articles that nobody bought"


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
    leave_out_damaged: bool = False,
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
        leave_out_damaged: Leave out and count articles whose photograph cannot be decoded, rather than end with an
            error.

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
    spelled = articles.column("article_id").to_pylist()
    all_ids = check_ids(spelled, source / ARTICLES, "article_id")
    rewritten = sum(one != text for one, text in zip(all_ids, spelled, strict=True))
    labels, tidied = tidy_categories(articles.column(category).to_pylist(), source / ARTICLES, category)
    photographs = [f"images/{one[:3]}/{one}.jpg" for one in all_ids]
    titles = articles.column("prod_name").to_pylist() if "prod_name" in articles.column_names else []
    on_sale = Items(all_ids, photographs, labels, titles)
    if group is not None:
        groups = articles.column("index_group_name").to_pylist()
        if group not in groups:
            known = ", ".join(sorted(set(groups)))
            raise CatwalkError(f"group: no article has {group!r} in the column index_group_name, which has {known}")
        of_group = {one for one, own in zip(all_ids, groups, strict=True) if own == group}
        on_sale = on_sale.where(of_group, "articles of other groups")
    ids = on_sale.ids
    absent = [row for row, image in enumerate(on_sale.images) if not (source / image).is_file()]
    check_images(absent, on_sale, source / ARTICLES, source)
    on_sale = on_sale.where({*ids}.difference(ids[row] for row in absent), "articles without a photograph")

    purchases = read_transactions(source / TRANSACTIONS).tidied(all_ids, source / TRANSACTIONS)
    check_known(purchases, all_ids, source / TRANSACTIONS, source / ARTICLES)
    purchases = purchases.of_items(ids, "purchases of other articles")
    purchases = purchases.of_items(on_sale.ids, "purchases of articles without a photograph")
    purchases = purchases.between(days["first_day"], days["last_day"]).without_repeats().core(core, one_pass)
    purchases.check_some_left(source)
    on_sale = on_sale.where(purchases.items_bought, UNSOLD)
    check_image_paths(source, on_sale.images, lambda row: f"article {on_sale.ids[row]!r}")
    with DatasetWriter(dest) as writer:
        damaged = writer.copy_images(
            source,
            on_sale.images,
            on_sale.images,
            allow_truncated=allow_truncated,
            leave_out_damaged=leave_out_damaged,
        )
        if damaged:
            lost = {on_sale.ids[row] for row in damaged}
            copied = on_sale.where({*on_sale.ids} - lost, DAMAGED_ITEMS)
            purchases = purchases.of_items(copied.ids, DAMAGED_PURCHASES).core(core, one_pass)
            purchases.check_some_left(source)
            on_sale = copied.where(purchases.items_bought, UNSOLD)
            writer.remove_images(sorted({*copied.images} - {*on_sale.images}))
        writer.write_items(on_sale.ids, on_sale.images, on_sale.categories, on_sale.titles)
        writer.write_interactions(*purchases.columns())
        writer.describe(
            name="H&M",
            source="H&M Group, H&M Personalized Fashion Recommendations (Kaggle, 2022)",
            licence="academic, non-commercial use; not to be passed on (the competition's rules)",
            categories=sorted(set(on_sale.categories)),
            made_by={
                "importer": "hm",
                "category": category,
                "group": group,
                "first_day": first_day,
                "last_day": last_day,
                "core": core,
                "one_pass": one_pass,
            },
            left_out=on_sale.left_out | purchases.left_out,
            repaired={SPELLED_ITEMS: rewritten, TIDIED_CATEGORIES: tidied} | purchases.repaired,
            remarks=purchases.remarks,
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
        column = trim_times(batch.column("t_dat"))
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
