"""Facts about a shop before a study, computed from its catalogue, its purchases and its image files' headers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catwalk.overview.time_facts import (
    TimeFacts,
)
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions
from catwalk.shop.labelled_images import SPLITS, LabelledImages

IntArray = NDArray[np.int64]
Header = tuple[int, int, str]
"""Width, height and Pillow's mode of an image file, with its colour profile unless that is sRGB's."""

TOP = 0.2
"""Share of the items, the most bought ones, whose purchases tell how long the tail is."""

BUCKETS = (1, 2, 3, 4, 5, 10, 20, 50, 100)
"""Smallest numbers of purchases of the groups in which users are counted."""

MIN_ITEMS = 30
"""Items that a category must have to be attacked or imitated: a success rate that is measured on 30 images has a
standard error of up to 9 percentage points. The paper attacks 113 and 191 items."""

TARGET_SHARE = 0.5
"""The most popular categories are the fewest that have at least this share of the purchases."""

BEST_PAIRS, TARGETS_PER_SOURCE = 10, 2
"""Pairs of source and target that are listed, and how many of them may have the same source: the targets of all sources
stand in the same order, and those of the least popular would fill the list."""

FEW_USERS = 500
"""With fewer tested users, a hit rate of 5% has a standard error of more than one percentage point."""

SHOWN_SIZES = 10
"""Image sizes that are listed, the commonest ones."""


@dataclass(frozen=True)
class UserGroup:
    """Users with a similar number of purchases.

    Attributes:
        first: Smallest number of purchases.
        last: Largest number; None if there is no limit.
        users: How many users.
        share: Share of all users in [0, 1].
    """

    first: int
    last: int | None
    users: int
    share: float


@dataclass(frozen=True)
class PurchaseFacts:
    """Purchases as a whole; a user counts an item once.

    Attributes:
        users: Number of users.
        purchases: Number of pairs of a user and an item.
        repeats: Rows left out because the user had bought the item before.
        density: Purchases by users × items, in [0, 1].
        user_groups: Users by their number of purchases.
        per_user_mean: Purchases of a user, mean.
        per_user_median: Purchases of a user, median.
        per_user_most: Purchases of the user with most.
        per_item_mean: Purchases of an item, mean.
        per_item_median: Purchases of an item, median.
        per_item_most: Purchases of the item with most.
        top_items: Number of the most bought items, a share of :data:`TOP` of all.
        top_share: Their share of the purchases, in [0, 1].
        half_items: Number of the most bought items that together have half of the purchases.
        never_bought: Number of items that nobody bought.
    """

    users: int
    purchases: int
    repeats: int
    density: float
    user_groups: tuple[UserGroup, ...]
    per_user_mean: float
    per_user_median: float
    per_user_most: int
    per_item_mean: float
    per_item_median: float
    per_item_most: int
    top_items: int
    top_share: float
    half_items: int
    never_bought: int

    @classmethod
    def of(cls, catalogue: Catalogue, interactions: Interactions) -> "PurchaseFacts":
        """Compute them."""
        per_user = np.bincount(interactions.users, minlength=interactions.num_users)
        per_item = np.bincount(interactions.items, minlength=len(catalogue))
        running = np.sort(per_item)[::-1].cumsum()
        top = max(1, round(TOP * len(catalogue)))
        return cls(
            users=interactions.num_users,
            purchases=len(interactions),
            repeats=interactions.num_repeats,
            density=len(interactions) / (interactions.num_users * len(catalogue)),
            user_groups=_user_groups(per_user),
            per_user_mean=float(per_user.mean()),
            per_user_median=float(np.median(per_user)),
            per_user_most=int(per_user.max()),
            per_item_mean=float(per_item.mean()),
            per_item_median=float(np.median(per_item)),
            per_item_most=int(per_item.max()),
            top_items=top,
            top_share=float(running[top - 1] / running[-1]),
            half_items=int((2 * running < running[-1]).sum()) + 1,
            never_bought=int((per_item == 0).sum()),
        )


def _user_groups(per_user: IntArray) -> tuple[UserGroup, ...]:
    """Return the groups of :data:`BUCKETS` from 1 up to the last that has a user."""
    ends = [*(first - 1 for first in BUCKETS[1:]), None]
    groups = []
    for first, last in zip(BUCKETS, ends, strict=True):
        if first > per_user.max():
            break
        users = int(((per_user >= first) & (per_user <= (last or per_user.max()))).sum())
        groups.append(UserGroup(first, last, users, users / len(per_user)))
    return tuple(groups)


@dataclass(frozen=True)
class CategoryFacts:
    """A category and its popularity; what there is to know of purchases is None where the folder has none.

    Attributes:
        name: Its name.
        items: Number of its items.
        purchases: Number of purchases of them.
        share: Their share of all purchases, in [0, 1].
        per_item: Purchases of an item, mean; None as well where the category has no item.
        is_source: Whether it may be attacked: :data:`MIN_ITEMS` items or more, and fewer purchases per item than the
            median of the categories of that size.
        is_target: Whether it may be imitated: as many items, and among the most popular, see :data:`TARGET_SHARE`.
    """

    name: str
    items: int
    purchases: int | None = None
    share: float | None = None
    per_item: float | None = None
    is_source: bool = False
    is_target: bool = False


def category_facts(catalogue: Catalogue, interactions: Interactions | None) -> tuple[CategoryFacts, ...]:
    """Return all categories, those with most purchases first, those with most items first among equals."""
    items = np.bincount(catalogue.categories, minlength=catalogue.num_categories)
    names = catalogue.category_names
    if interactions is None:
        order = np.argsort(-items, kind="stable").tolist()
        return tuple(CategoryFacts(names[number], int(items[number])) for number in order)
    purchases = np.bincount(catalogue.categories[interactions.items], minlength=catalogue.num_categories)
    per_item = purchases / np.maximum(items, 1)
    large = items >= MIN_ITEMS
    is_source = large & (per_item < np.median(per_item[large]) if large.any() else False)
    order = np.lexsort((-items, -purchases))
    # Those whose predecessors have less than the share.
    before = purchases[order].cumsum() - purchases[order]
    is_target = np.zeros(len(items), dtype=bool)
    is_target[order[before < TARGET_SHARE * len(interactions)]] = True
    return tuple(
        CategoryFacts(
            name=names[number],
            items=int(items[number]),
            purchases=int(purchases[number]),
            share=float(purchases[number] / len(interactions)),
            per_item=float(per_item[number]) if items[number] else None,
            is_source=bool(is_source[number]),
            is_target=bool(large[number] and is_target[number]),
        )
        for number in order.tolist()
    )


@dataclass(frozen=True)
class Pair:
    """A source whose images are worth leading to a target.

    Attributes:
        source: The category to attack.
        target: The category that the network shall see.
        ratio: Purchases per item of the source by those of the target, in [0, 1).
    """

    source: CategoryFacts
    target: CategoryFacts
    ratio: float


def promising_pairs(categories: Sequence[CategoryFacts], count: int = BEST_PAIRS) -> tuple[Pair, ...]:
    """Return the pairs with the smallest ratio; among equals the one that attacks most items goes first."""
    targets = [category for category in categories if category.is_target]
    targets.sort(key=lambda category: -(category.per_item or 0))
    pairs = [
        Pair(source, target, source.per_item / target.per_item)
        for source in categories
        if source.is_source and source.per_item is not None
        for target in targets[:TARGETS_PER_SOURCE]
        if target.per_item and source.per_item < target.per_item
    ]
    return tuple(sorted(pairs, key=lambda pair: (pair.ratio, -pair.source.items))[:count])


@dataclass(frozen=True)
class SplitFacts:
    """What recommenders are trained and tested on.

    Attributes:
        kind: ``published``, or ``leave-one-out`` in the order of time.
        train: Training pairs.
        validation: Held-out pairs for validation.
        test: Held-out pairs for the test.
        tested_users: Users with a test item.
        cold: Held-out pairs whose item nobody has in training: only its image can rank it.
        seen_future: Test pairs that are earlier than a training pair: a recommender is trained on what other users
            bought later.
    """

    kind: str
    train: int
    validation: int
    test: int
    tested_users: int
    cold: int
    seen_future: int = 0


@dataclass(frozen=True)
class ImageFacts:
    """Sizes and modes of image files, by their headers.

    Attributes:
        images: Number of files.
        different_sizes: Number of different sizes.
        sizes: Width, height and number of files of the commonest sizes.
        modes: Number of files by Pillow's mode and the colour profile unless that is sRGB's, the commonest first.
        smallest: Path, width and height of the smallest by area; None if none is readable.
        largest: The same of the largest.
        shared: Number of items whose image is, byte for byte, that of another item as well.
        most_shared: Path of the image of most items, and their number; None if each has its own.
        unreadable: Number of files whose header cannot be read.
        first_unreadable: Path of the first of them.
    """

    images: int
    different_sizes: int
    sizes: tuple[tuple[int, int, int], ...]
    modes: dict[str, int]
    smallest: tuple[str, int, int] | None
    largest: tuple[str, int, int] | None
    unreadable: int
    first_unreadable: str | None
    shared: int = 0
    most_shared: tuple[str, int] | None = None

    @classmethod
    def of(
        cls, images: Sequence[str], headers: Sequence[Header | None], owners: Sequence[Sequence[str]] = ()
    ) -> "ImageFacts":
        """Compute them.

        Args:
            images: The paths.
            headers: Their headers, None where one cannot be read.
            owners: Groups of paths, one for each item, that have the same content.
        """
        largest = max(owners, key=len, default=())
        readable = [(image, *header) for image, header in zip(images, headers, strict=True) if header is not None]
        unreadable = [image for image, header in zip(images, headers, strict=True) if header is None]
        sizes = Counter((width, height) for _, width, height, _ in readable)
        by_area = sorted(readable, key=lambda row: row[1] * row[2])
        return cls(
            images=len(images),
            different_sizes=len(sizes),
            sizes=tuple((*size, count) for size, count in sizes.most_common(SHOWN_SIZES)),
            modes=dict(Counter(mode for *_, mode in readable).most_common()),
            smallest=by_area[0][:3] if by_area else None,
            largest=by_area[-1][:3] if by_area else None,
            unreadable=len(unreadable),
            first_unreadable=unreadable[0] if unreadable else None,
            shared=sum(map(len, owners)),
            most_shared=(largest[0], len(largest)) if largest else None,
        )


@dataclass(frozen=True)
class LabelFacts:
    """The images from which a CNN learns the categories.

    Attributes:
        own_file: Whether the folder has ``labelled_images.csv``; otherwise these are the items' own images.
        by_split: Number of images by split.
        untaught: Names of the categories without a training image.
        files: Sizes and modes; None without a file of their own.
    """

    own_file: bool
    by_split: dict[str, int]
    untaught: tuple[str, ...]
    files: ImageFacts | None

    @classmethod
    def of(cls, labelled: LabelledImages, own_file: bool, files: ImageFacts | None) -> "LabelFacts":
        """Compute them."""
        taught = np.bincount(labelled.categories[labelled.rows("train")], minlength=len(labelled.category_names))
        return cls(
            own_file=own_file,
            by_split={split: len(labelled.rows(split)) for split in SPLITS},
            untaught=tuple(labelled.category_names[number] for number in np.flatnonzero(taught == 0)),
            files=files,
        )


@dataclass(frozen=True)
class Overview:
    """All facts of a shop.

    Attributes:
        name: Its name.
        items: Number of items.
        simulated: Whether ``dataset.json`` says that the purchases are simulated.
        categories: Its categories, the most popular first.
        images: The items' images.
        labels: What a CNN learns from.
        purchases: Its purchases; None for a folder of images alone, as is ``split`` then.
        split: What recommenders are trained and tested on.
        time: When things were bought; None as well where that is not told.
        pairs: The most promising pairs of source and target, the best first.
        weaknesses: What makes a study of this shop weak, a sentence each.
    """

    name: str
    items: int
    simulated: bool
    categories: tuple[CategoryFacts, ...]
    images: ImageFacts
    labels: LabelFacts
    purchases: PurchaseFacts | None
    split: SplitFacts | None
    time: TimeFacts | None
    pairs: tuple[Pair, ...]
    weaknesses: tuple[str, ...]
