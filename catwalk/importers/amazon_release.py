"""Amazon Men and Amazon Women, as the paper's authors release them: images by number, and a split.

References:
    V. W. Anelli, T. Di Noia, D. Malitesta, F. A. Merra (2020): Assessing Perceptual and Recommendation Mutation of
    Adversarially-Poisoned Visual Recommenders.
    R. He, J. McAuley (2016): Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class
    Collaborative Filtering. WWW.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination
from catwalk.importers.items import DAMAGED_ITEMS, DAMAGED_PURCHASES, TIDIED_CATEGORIES, check_known, tidy_categories
from catwalk.importers.purchases import Numbering, Purchases
from catwalk.importers.summary import print_summary
from catwalk.shop.columns import DELIMITERS, read_table, scan_table
from catwalk.shop.ids import id_key
from catwalk.shop.times import times_without_digits

IMAGES, TRAINING, TEST, CLASSES = Path("original/images"), "trainingset.tsv", "testset.tsv", "classes.csv"

IMAGE_NAME = re.compile(r"(\d{1,18})\.(jpg|jpeg|png)", re.IGNORECASE | re.ASCII)

COLUMNS = {2: ("user", "item"), 4: ("user", "item", "rating", "timestamp")}
"""The columns of the two tables, which have no header, by their number."""

UNCLASSIFIED = "unclassified"
"""Category of the items of which the release does not state one."""


def amazon_release(
    source: Path, dest: Path, name: str | None = None, allow_truncated: bool = False, leave_out_damaged: bool = False
) -> None:
    """Write the paper's Amazon Men or Amazon Women, as its authors release it, as a dataset folder.

    The published split stays as it is. Purchases of items without an image are left out and counted; items that nobody
    bought stay on sale. Categories are the classes in classes.csv, where there is one.

    Args:
        source: Folder with original/images/0.jpg and so on, trainingset.tsv, testset.tsv and perhaps classes.csv.
        dest: The dataset folder to write; it must not exist, or be empty.
        name: Name of the dataset, for tables; by default that of the folder, so that amazon_men is called Amazon Men.
        allow_truncated: Take images that end too early as far as they go, rather than refuse them.
        leave_out_damaged: Leave out and count items whose image cannot be decoded, rather than end with an error.

    Raises:
        CatwalkError: If DEST is not empty, or a file is missing or malformed.
    """
    check_destination(dest)
    if not source.is_dir():
        raise CatwalkError(f"source: there is no folder {source}")
    images, strange = find_numbered_images(source / IMAGES)
    classes, tidied = read_classes(source)
    training = _read_part(source / TRAINING, images)
    test = _read_part(source / TEST, images, training.user_ids)
    test = _without_training_pairs(test, training)
    training.check_some_left(source / TRAINING)
    test.check_some_left(source / TEST)
    items = [str(number) for number in sorted(map(int, images))]
    paths = {item: f"images/{item}{images[item].suffix.lower()}" for item in items}
    with DatasetWriter(dest) as writer:
        sources = [images[item].relative_to(source).as_posix() for item in items]
        damaged = writer.copy_images(
            source,
            sources,
            list(paths.values()),
            allow_truncated=allow_truncated,
            leave_out_damaged=leave_out_damaged,
        )
        if damaged:
            lost = {items[row] for row in damaged}
            items = [item for item in items if item not in lost]
            training, test = (purchases.of_items(items, DAMAGED_PURCHASES) for purchases in (training, test))
            training.check_some_left(source / TRAINING)
            test.check_some_left(source / TEST)
        left_out = Counter(training.left_out) + Counter(test.left_out)
        left_out["files that are no numbered image"] = strange
        left_out["classes of items without an image"] = len(classes.keys() - images.keys())
        if damaged:
            left_out[DAMAGED_ITEMS] = len(damaged)
        labels = [classes.get(item, UNCLASSIFIED) for item in items]
        writer.write_items(items, [paths[item] for item in items], labels)
        # The authors' script writes 0 or nothing, which says of no purchase that it was earlier than another.
        has_times = all(len(np.unique(purchases.timestamps)) > 1 for purchases in (training, test))
        for part, purchases in (("train", training), ("test", test)):
            users, bought, _ = purchases.columns()
            times = purchases.timestamps.tolist() if has_times else []
            writer.write_split(part, users, bought, [int(time) if time == int(time) else time for time in times])
        writer.describe(
            name=name or source.resolve().name.replace("_", " ").replace("-", " ").title(),
            source="Release of Anelli et al., Assessing Perceptual and Recommendation Mutation (2020), from the Amazon "
            "data of R. He, J. McAuley, Ups and Downs (WWW 2016)",
            licence="for research; none is stated, and the images are Amazon's and its sellers'",
            categories=sorted(set(labels)),
            made_by={"importer": "amazon-release", "name": name},
            left_out=left_out,
            repaired=Counter(training.repaired) + Counter(test.repaired) + Counter({TIDIED_CATEGORIES: tidied}),
            remarks=[*training.remarks, *test.remarks],
        )
    console = Console()
    print_summary(writer, console)
    for line in _remarks(items, labels, classes, training, test):
        console.print(f"• {line}", highlight=False, markup=False)


def find_numbered_images(folder: Path) -> tuple[dict[str, Path], int]:
    """Return the images of a folder by their numbers, and how many other entries it has.

    Raises:
        CatwalkError: If there is no folder, no image in it, or a number has two images.
    """
    if not folder.is_dir():
        raise CatwalkError(f"source: there is no folder {folder}")
    images: dict[str, Path] = {}
    strange = 0
    for path in sorted(folder.iterdir()):
        match = IMAGE_NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            strange += 1
            continue
        item = str(int(match[1]))
        if item in images:
            raise CatwalkError(f"{folder} has two images of item {item}: {images[item].name} and {path.name}")
        images[item] = path
    if not images:
        raise CatwalkError(f"{folder} has no image such as 0.jpg")
    return images, strange


def read_classes(source: Path) -> tuple[dict[str, str], int]:
    """Return the class of every item in ``classes.csv``, and how many names of classes were written in another way.

    The release has the table in one of two places or not at all.

    ImageNet has different classes of one name, such as two cranes: these get their numbers.

    Raises:
        CatwalkError: If it is malformed or contradicts itself.
    """
    found = [path for path in (source / CLASSES, source / "original" / CLASSES) if path.is_file()]
    if not found:
        return {}, 0
    if len(found) > 1:
        raise CatwalkError(f"{source} has two tables of classes, {found[0]} and {found[1]}: keep one of them")
    path = found[0]
    table = read_table(path, ["ImageID", "ClassNum", "ClassStr"])
    numbers_of: defaultdict[str, set[str]] = defaultdict(set)
    classes: dict[str, tuple[str, str]] = {}
    ids, class_numbers, given = (column.to_pylist() for column in table.columns)
    texts, tidied = tidy_categories([" ".join(text.split()) for text in given], path, "ClassStr")
    for row, (image, number, text) in enumerate(zip(ids, class_numbers, texts, strict=True), 1):
        item = image.strip()
        if not item.isdecimal() or not item.isascii():
            raise CatwalkError(f"{path}, row {row}: ImageID {image!r} is no number of an image")
        item = str(int(item))
        if classes.setdefault(item, (number, text)) != (number, text):
            raise CatwalkError(
                f"{path}, row {row}: item {item} has a second class, {text!r} beside {classes[item][1]!r}"
            )
        numbers_of[text].add(number)
    names = {
        item: f"{text} ({number})" if len(numbers_of[text]) > 1 else text for item, (number, text) in classes.items()
    }
    return names, tidied


def _read_part(path: Path, images: Mapping[str, Path], known_users: Sequence[str] = ()) -> Purchases:
    """Read one of the two tables; purchases of items without an image are left out.

    Args:
        path: The table.
        images: The images by the ids of their items.
        known_users: The users of the other table.
    """
    header = COLUMNS[_count_columns(path)]
    users, items = Numbering(), Numbering()
    times: list[str | None] = []
    rows = rewritten = 0
    for batch in scan_table(path, ["user", "item"], ["timestamp"], header=header):
        users.add(batch.column("user"))
        given = batch.column("item").dictionary_encode()
        keys = pa.array([id_key(text) for text in given.dictionary.to_pylist()], pa.string())
        column = keys.take(given.indices)
        rewritten += pa.compute.sum(pa.compute.not_equal(column, batch.column("item"))).as_py()
        is_number = pa.compute.match_substring_regex(column, r"^\d{1,18}$")
        first = pa.compute.index(is_number, False).as_py()
        if first >= 0:
            raise CatwalkError(
                f"{path}, row {rows + first + 1}: item {batch.column('item')[first].as_py()!r} is no number of an image"
            )
        items.add(pa.compute.cast(pa.compute.cast(column, pa.int64()), pa.string()))  # 007 is 7
        rows += batch.num_rows
        times += batch.column("timestamp").to_pylist() if len(header) > 2 else [None] * batch.num_rows
    user_ids, user_numbers = users.finish()
    item_ids, item_numbers = items.finish()
    numbers = _numbers(times, path)
    left_out = {}
    stated = numbers[np.isfinite(numbers)]
    if len(stated) < len(numbers):  # then the order of the file is all there is
        if len(np.unique(stated)) > 1:
            left_out["times of purchases, because others have none"] = len(stated)
        numbers = np.zeros(len(numbers))
    repaired = {"ids of items spelled in another way": rewritten}
    moments: NDArray[np.generic] = numbers
    if not any("." in time or "e" in time.lower() for time in times if time):
        moments = numbers.astype(np.int64)  # floats only to be read
    purchases = Purchases(
        user_ids,
        item_ids,
        user_numbers,
        item_numbers,
        moments,
        left_out,
        repaired,
        times_without_digits(pa.array([time or "" for time in times])),
    ).tidied(list(images), path, user_ids=known_users, has_times=len(np.unique(moments)) > 1)
    check_known(purchases, images, path, path.parent / IMAGES)
    part = "training" if path.name == TRAINING else "test"
    return purchases.of_items(images, f"{part} purchases of items without an image").without_repeats()


def _count_columns(path: Path) -> int:
    if not path.is_file():
        raise CatwalkError(f"{path} does not exist")
    with path.open("rb") as file:
        line = file.readline(1 << 16)
    count = line.count(b"\t") + 1
    if count not in COLUMNS:
        marks = [name for mark, name in DELIMITERS.items() if mark.encode() in line]
        separated = f", separated by {marks[0]}" if count == 1 and marks else ""
        raise CatwalkError(
            f"{path} must have 2 columns (user, item) or 4 (user, item, rating, timestamp) with tabs between them, and "
            f"no header; its first line has {count}{separated}"
        )
    return count


def _numbers(times: list[str | None], path: Path) -> NDArray[np.float64]:
    """Return times as numbers, NaN where the authors' script left the cell empty."""
    numbers = np.full(len(times), np.nan)
    for row, time in enumerate(times):
        try:
            numbers[row] = float(time) if time else np.nan
        except ValueError:
            numbers[row] = np.inf
        if time and not np.isfinite(numbers[row]):
            raise CatwalkError(f"{path}, row {row + 1}: timestamp {time!r} is no number")
    return numbers


def _without_training_pairs(test: Purchases, training: Purchases) -> Purchases:
    """Leave out the test purchases that the same user has in training: what a user has is never recommended."""
    users, items, _ = training.columns()
    known = set(zip(users, items, strict=True))
    users, items, _ = test.columns()
    kept = np.array([pair not in known for pair in zip(users, items, strict=True)], dtype=bool)
    return test.where(kept, "test purchases that the same user has in training")


def _remarks(
    items: list[str], labels: list[str], classes: Mapping[str, str], training: Purchases, test: Purchases
) -> list[str]:
    """Return what is odd about a release, and what follows from it."""
    remarks = []
    unsold = len(set(items) - training.items_bought)
    untrained = len({test.user_ids[user] for user in test.users} - {training.user_ids[user] for user in training.users})
    missing = labels.count(UNCLASSIFIED)
    if unsold:
        remarks.append(f"{unsold:,} items have no purchase in training, and stay on sale")
    if untrained:
        remarks.append(f"{untrained:,} users occur in the test alone: nothing is known of their taste")
    if not classes:
        remarks.append(
            f"there is no {CLASSES}: all items are {UNCLASSIFIED}; a study takes the classes that the network predicts "
            "(categories: imagenet)"
        )
    elif missing:
        remarks.append(f"{missing:,} items are not in {CLASSES}, and {UNCLASSIFIED}")
    return remarks
