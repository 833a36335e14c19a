"""The gallery of a report: of every attack the items that it served best and worst, as images within the page."""

import io
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.plots.gallery import FACTOR, GalleryItem, difference
from catwalk.plots.gallery_items import gallery_items
from catwalk.poisoning.attack_files import AttackedItem
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import find_table, read_table
from catwalk.shop.decoding import UInt8Array
from catwalk.study.grid import NO_ATTACK
from catwalk.study.plots.lists import mean_ranks
from catwalk.study.report.page import About, Card, Gallery, Ranks, data_address
from catwalk.study.stored import AttackFolder, StoredResults

MOST_CARDS = 6
"""Items of an attack, half of them the best and half the worst for the attacker."""

MOST_BYTES = 9_000_000
"""Size of all images, as text in the page; where they are more, every attack has fewer items."""

SMALL, SIDE = 96, 176
"""Longest side of an image that is kept as it is, and of a larger one in the page, in pixels."""

NOTE = (
    f"The difference is {FACTOR} times as large as it is, around grey. Orange: the CNN sees what the attack wants. "
    f"Ranks are means over users and seeds; 1 is the top. Images of more than {SMALL} pixels are shown smaller and as "
    "JPEG; the adversarial files themselves are in the store of results."
)

GONE = (
    "There are no images to show: nothing was attacked, or the dataset or the attacks' images are not where the study "
    "had them. `catwalk report STUDY --store FOLDER --dataset FOLDER` says where they are now."
)

Gains = dict[str, tuple[dict[str, float], dict[str, float]]]
"""Mean rank of the attacked items by id, before and after, for each recommender."""


def galleries(stored: StoredResults) -> list[Gallery]:
    """Return the items of every attack whose images are there; none without the dataset."""
    catalogue = stored.catalogue()
    attacks = _one_of_each(stored.attacks)
    if catalogue is None or not attacks:
        return []
    titles = _titles(catalogue)
    several = len({attack.protocol for attack in attacks}) > 1
    found = []
    for attack in attacks:
        ranks = _ranks(stored, attack)
        try:
            items = gallery_items(
                attack.images, catalogue, MOST_CARDS, attack.looks, partial(_best_and_worst, ranks=ranks)
            )
        except CatwalkError:  # the dataset is another by now, or an image is gone
            continue
        found.append((attack, ranks, items))
    cards: list[list[Card]] = [[] for _ in found]
    size = 0
    for place in range(MOST_CARDS):
        for (_, ranks, items), its_cards in zip(found, cards, strict=True):
            if place < len(items) and size < MOST_BYTES:
                card = _card(items[place], place, ranks, titles)
                size += len(card.before) + len(card.after) + len(card.difference)
                its_cards.append(card)
    return [
        _gallery(stored, attack, its_cards, several)
        for (attack, _, _), its_cards in zip(found, cards, strict=True)
        if its_cards
    ]


def _one_of_each(attacks: Sequence[AttackFolder]) -> list[AttackFolder]:
    """Return the attacks without those that have the images of an earlier one, or differ from it by the seed alone."""
    by_folder = {attack.images: attack for attack in reversed(attacks)}
    first: dict[tuple[str | None, ...], AttackFolder] = {}
    for attack in reversed(by_folder.values()):
        first.setdefault((attack.protocol, attack.extractor, attack.attack, attack.recommender), attack)
    return list(first.values())


def _gallery(stored: StoredResults, attack: AttackFolder, cards: list[Card], several: bool) -> Gallery:
    knowing = "" if attack.recommender is None else f", knowing {attack.recommender}"
    of = f" ({attack.protocol})" if several else ""
    under = "" if several or len(stored.results.manifest["protocols"]) == 1 else f" Ranks under {attack.protocol}."
    attacked = [
        cell["n_attacked"]
        for cell in stored.results.cells
        if (cell["protocol"], cell["extractor"], cell["attack"]) == (attack.protocol, attack.extractor, attack.attack)
    ]
    return Gallery(
        title=f"{attack.attack} on CNN {attack.extractor}{knowing}{of}",
        note=(f"{len(cards)} of {attacked[0]:,} attacked items." if attacked and attacked[0] else "") + under,
        about=About(attack.attack, attack.extractor, attack.recommender or "", "", attack.protocol if several else ""),
        cards=cards,
    )


def _ranks(stored: StoredResults, attack: AttackFolder) -> Gains:
    """Return the mean ranks of an attack's items before and after poisoning, over the seeds."""
    tables: dict[str, tuple[list, list]] = {}
    for cell in stored.results.cells:
        if (cell["protocol"], cell["extractor"]) != (attack.protocol, attack.extractor) or not cell["recommender"]:
            continue
        if attack.recommender is not None and (cell["recommender"], cell["seed"]) != (attack.recommender, attack.seed):
            continue
        is_attacked = (cell["attack"], cell["scenario"]) == (attack.attack, "poisoning")
        if is_attacked or cell["attack"] == NO_ATTACK:
            table = stored.attacked_items(cell)
            if table is not None:
                tables.setdefault(cell["recommender"], ([], []))[is_attacked].append(table)
    return {
        name: (mean_ranks(before), mean_ranks(after)) for name, (before, after) in tables.items() if before and after
    }


def _best_and_worst(rows: Sequence[AttackedItem], ranks: Gains) -> list[int]:
    """Return the places of the best item for the attacker, of the worst, of the second best, and so on.

    Best is what rose by most places, relative to where it was, in the recommenders on average; without ranks, what the
    network is surest of as the attack wants it.
    """

    def rise(row: AttackedItem) -> float:
        gains = [
            np.log(before[row.item_id] / after[row.item_id])
            for before, after in ranks.values()
            if row.item_id in before and row.item_id in after
        ]
        return float(np.mean(gains)) if gains else 0.0

    def key(place: int) -> tuple[float, float, str]:
        row = rows[place]
        return -rise(row), -row.probability_after if row.success else row.probability_after, row.item_id

    order = sorted(range(len(rows)), key=key)
    turns = [place for pair in zip(order, reversed(order), strict=True) for place in pair]
    return list(dict.fromkeys(turns))


def _card(item: GalleryItem, place: int, ranks: Gains, titles: Mapping[str, str]) -> Card:
    distances = [("LPIPS", item.lpips), ("SSIM", item.ssim)]
    return Card(
        item_id=item.item_id,
        title=titles.get(item.item_id, ""),
        before=image_address(item.before),
        after=image_address(item.after),
        difference=image_address(difference(item.before, item.after)),
        seen_before=f"{item.category_before} {item.probability_before:.0%}",
        seen_after=f"{item.category_after} {item.probability_after:.0%}",
        is_success=item.success,
        distances=[(name, f"{value:.4f}") for name, value in distances if value is not None],
        ranks=[
            Ranks(name, before[item.item_id], after[item.item_id])
            for name, (before, after) in ranks.items()
            if item.item_id in before and item.item_id in after
        ],
        case="worst" if place % 2 else "best",
        lpips=item.lpips,
    )


def image_address(levels: UInt8Array) -> str:
    """Return an image, uint8 ``(3, H, W)``, as an address that holds it: as it is, or smaller and as JPEG."""
    image, file = Image.fromarray(levels.transpose(1, 2, 0)), io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(file, format="PNG", optimize=True)
        return data_address(file.getvalue(), "image/png")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(file, format="JPEG", quality=88, subsampling=0)
    return data_address(file.getvalue(), "image/jpeg")


def _titles(catalogue: Catalogue) -> dict[str, str]:
    """Return the titles that the shop gives its items, by id; none where it has none."""
    path = find_table(catalogue.folder, "items")
    if path is None:
        return {}
    table = read_table(path, ["item_id"], ["title"])
    if "title" not in table.column_names:
        return {}
    rows = zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True)
    return {item: title for item, title in rows if title}
