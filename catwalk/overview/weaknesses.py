"""Remarks on what makes a study of a shop weak."""

from collections.abc import Sequence

from catwalk.overview.facts import (
    FEW_USERS,
    MIN_ITEMS,
    CategoryFacts,
    ImageFacts,
    LabelFacts,
    Pair,
    PurchaseFacts,
    SplitFacts,
)
from catwalk.overview.time_facts import TimeFacts
from catwalk.shop.ids import first_clash


def weaknesses(
    categories: Sequence[CategoryFacts],
    images: ImageFacts,
    labels: LabelFacts,
    purchases: PurchaseFacts | None,
    split: SplitFacts | None,
    time: TimeFacts | None,
    pairs: Sequence[Pair],
    remarks: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return what makes a study of a shop weak, a sentence each.

    The arguments are an :class:`Overview`'s, and what is doubtful about ids and times, see
    :func:`~catwalk.shop.ids.doubtful_ids` and :class:`~catwalk.shop.interactions.Interactions`.
    """
    found = []
    if purchases is None or split is None:
        found.append("there are no purchases: a CNN can be trained and attacked, and no recommender")
    else:
        found += _about_tests(purchases, split, time)
        if not pairs:
            found.append(
                f"no pair of categories is promising: of those with {MIN_ITEMS} items or more, none that is bought "
                "less than most could take after one that is bought most"
            )
    found += remarks
    found += _about_categories(categories, labels)
    found += _about_images(images, "item image")
    if labels.files is not None:
        found += _about_images(labels.files, "labelled image")
    return tuple(found)


def _about_tests(purchases: PurchaseFacts, split: SplitFacts, time: TimeFacts | None) -> list[str]:
    found = []
    if split.tested_users < FEW_USERS:
        found.append(
            f"{_count(split.tested_users, 'user')} can be tested, fewer than {FEW_USERS}: differences in HR@K of a "
            "few percentage points are chance"
        )
    if split.kind == "leave-one-out":
        single = purchases.user_groups[0].share
        if single > 0.5:
            found.append(f"{single:.0%} of the users have a single purchase and are not tested")
        if time is not None and time.tied_users:
            found.append(
                f"the order in the table decides the test item of {_count(time.tied_users, 'user')}: their last "
                "purchase has the timestamp of another"
            )
    if split.seen_future:
        found.append(
            f"{split.kind} lets recommenders train on the future: of {split.test:,} tested purchases "
            f"{split.seen_future:,} are earlier than a training purchase of another user; "
            "catwalk.shop.splits.DateSplit, a global split by time, does not"
        )
    if split.cold:
        found.append(
            f"{_count(split.cold, 'held-out purchase')} of items that nobody buys in training, which only their images "
            "can rank"
        )
    if purchases.never_bought:
        found.append(f"nobody bought {_count(purchases.never_bought, 'item')}")
    return found


def _about_categories(categories: Sequence[CategoryFacts], labels: LabelFacts) -> list[str]:
    found = []
    clash = first_clash([category.name for category in categories])
    if clash is not None:
        one, other = (categories[row].name for row in clash)
        found.append(f"the categories {one!a} and {other!a} are two spellings of one name, and count as two")
    for number, what in ((0, "no item"), (1, "a single item")):
        names = [category.name for category in categories if category.items == number]
        if names:
            found.append(_categories(names, what))
    if labels.untaught:
        found.append(_categories(labels.untaught, "no image to train the CNN on"))
    return found


def _about_images(images: ImageFacts, what: str) -> list[str]:
    found = []
    if images.unreadable:
        verb = "are" if images.unreadable > 1 else "is"
        found.append(f"{_count(images.unreadable, what)} {verb} unreadable, first of all {images.first_unreadable}")
    if images.most_shared is not None:
        found.append(
            f"{images.shared:,} items share their photograph with others, {images.most_shared[1]:,} of them "
            f"{images.most_shared[0]}: no image can tell them apart, and what is attacked in one is attacked in all"
        )
    if images.different_sizes > 1:
        found.append(
            f"{what}s come in {images.different_sizes} sizes: training on them needs an image_size for all to be "
            "brought to"
        )
    return found


def _categories(names: Sequence[str], what: str) -> str:
    """Return a sentence on what these categories have, with the names of the first three."""
    if len(names) == 1:
        return f"category {names[0]!r} has {what}"
    return f"{len(names):,} categories have {what}: {', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
