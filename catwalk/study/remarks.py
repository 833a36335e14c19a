"""Remarks below a study's tables: on networks that know little of what they are attacked on, and replaced results."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catwalk.files.csv_text import from_cell
from catwalk.poisoning.protocol import Protocol
from catwalk.shop.catalogue import read_dataset_info
from catwalk.shop.labelled_images import LabelledImages
from catwalk.study.grid import Grid
from catwalk.study.shop import Shop
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.features import FeaturesStage

LITTLE_SKILL = 0.1
"""Share of the way from chance to no mistakes below which a network has learnt next to nothing."""

NAMED = 3
"""Values of a column that are told of a difference."""


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Tell whether a network is hardly better than one that always names the most frequent category.

    Args:
        accuracy: The network's, in [0, 1].
        chance: That of the other, in (0, 1].

    Returns:
        Whether the accuracy is less than twice that of chance, and the network makes at least nine tenths of the
        mistakes that chance makes. False where all images are of one category, which tells nothing.
    """
    return chance < 1 and accuracy < 2 * chance and accuracy - chance < LITTLE_SKILL * (1 - chance)


def remarks_on_networks(shop: Shop, grid: Grid, networks: Sequence[tuple[ClassifierStage, FeaturesStage]]) -> str:
    """Return sentences on networks that know little of the categories, or another source than the dataset's.

    Args:
        shop: The dataset.
        grid: The study's.
        networks: The classifiers, trained, and their features.
    """
    sentences: list[str] = []
    for classifier, features in networks:
        on_accuracy = _on_accuracy(shop, classifier) if classifier.training.is_trained_here else None
        if on_accuracy is not None:
            sentences.append(on_accuracy)
        chooses = classifier.name in grid.extractors  # behind operations, the network without them does
        if chooses and grid.source in shop.catalogue.category_names:  # ImageNet has other categories
            sentences += _on_source(shop, grid, classifier, features, on_accuracy is not None)
    return " ".join(sentences)


def on_protocol(protocol: Protocol, is_one_of_several: bool) -> Iterator[str]:
    """Yield sentences on how a protocol differs from the one that Catwalk stands behind.

    Args:
        protocol: The protocol.
        is_one_of_several: Whether to say which one it is.
    """
    differences = protocol.describe()
    which = f"Protocol {protocol.name}" if is_one_of_several or differences else ""
    if differences:
        yield f"{which}: {'; '.join(differences)}."
    elif which:
        yield f"{which}: as Catwalk stands behind it."


def on_core(shop: Shop, protocols: Sequence[Protocol]) -> Iterator[str]:
    """Yield a sentence where a dataset's rare users and items were left out otherwise than a protocol has it.

    Args:
        shop: The dataset; it says how it was made where an importer wrote it.
        protocols: The protocols of a study.
    """
    made_by = read_dataset_info(shop.catalogue.folder).get("made_by")
    if not isinstance(made_by, dict) or not isinstance(made_by.get("core"), int) or made_by["core"] <= 1:
        return  # nothing is known of any
    one_pass = made_by.get("one_pass") is True
    others = [protocol for protocol in protocols if (protocol.core == "one_pass") != one_pass]
    if others:
        how = "in one pass" if one_pass else "again and again until nothing changed"
        names = ", ".join(protocol.name for protocol in others)
        yield (
            f"{shop.catalogue.name} was made with users and items of fewer than {made_by['core']} purchases left out "
            f"{how}, and not as protocol {names} has it (core: {others[0].core}); import it anew for that."
        )


def _on_accuracy(shop: Shop, classifier: ClassifierStage) -> str | None:
    """Return a sentence where a network is near chance on the test images."""
    accuracy, data = classifier.record["accuracy"], classifier.training.data.settings["init_args"]
    if accuracy is None:
        return None
    labelled = LabelledImages.read(shop.catalogue, data["validation_share"], data["test_share"], data["seed"])
    test = labelled.categories[labelled.rows("test")]
    chance = float(np.bincount(test).max() / len(test))
    if not is_near_chance(accuracy, chance):
        return None
    return (
        f"CNN {classifier.name} is near chance: its accuracy on the test images is {accuracy:.2%}, and always naming "
        f"the most frequent category has {chance:.2%}; what attacks do to it says little."
    )


def _on_source(
    shop: Shop, grid: Grid, classifier: ClassifierStage, features: FeaturesStage, is_called_out: bool
) -> Iterator[str]:
    """Yield sentences where a network misses most of the source category's items, or sees it mostly in others."""
    labelled = shop.catalogue.categories == shop.catalogue.category_names.index(grid.source)
    seen = features.table.categories == list(classifier.training.category_names).index(grid.source)
    both, by_dataset, by_network = (int(items.sum()) for items in (labelled & seen, labelled, seen))
    if is_called_out and not by_network:  # which says as much
        return
    found = []
    if 2 * both < by_dataset:
        share = f"only {both:,}" if both else "none"
        found.append(
            f"CNN {classifier.name} sees {grid.source} in {share} of the {by_dataset:,} items that the dataset labels "
            "so"
        )
    if 2 * both < by_network:
        found.append(
            f"Of the {by_network:,} items that CNN {classifier.name} sees as {grid.source} the dataset labels "
            f"{by_network - both:,} otherwise"
        )
    if found and grid.protocols[0].source_items == "network" and by_dataset:
        found[-1] += "; protocol.source_items: dataset attacks those that the dataset labels so"
    yield from (f"{sentence}." for sentence in found)


def what_is_replaced(
    folder: Path, cells: Sequence[Mapping[str, Any]], keys: Mapping[str, str], source: str
) -> str | None:
    """Return a line where a study's folder holds the tables of another one, which has the same name.

    Args:
        folder: The study's folder.
        cells: ``extractor``, ``attack``, ``recommender`` and ``seed`` of every cell that is to come.
        keys: What each stage depends on, by description.
        source: The source category.
    """
    try:
        before = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("keys")
        with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
            rows = [{name: from_cell(text or "") for name, text in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, AttributeError):
        return None
    if before == keys:
        return None
    differences = []
    new_rows = [{**cell, "source": source} for cell in cells]
    for column in ("extractor", "attack", "recommender", "seed", "source"):
        then, now = _values(rows, column), _values(new_rows, column)
        if set(then) != set(now):
            differences.append(f"{column} {_listed(then)}, now {_listed(now)}")
    what = f"with another grid ({'; '.join(differences)})" if differences else "with other settings, data or code"
    return f"{folder} holds the tables of a study {what}, which this one replaces; another name keeps them"


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """Return the values of a column as text, in the order in which they appear."""
    return list(dict.fromkeys("" if row.get(column) is None else str(row[column]) for row in rows))


def _listed(values: Sequence[str]) -> str:
    shown = [value or "none" for value in values[:NAMED]]
    return ", ".join([*shown, *(["…"] if len(values) > NAMED else [])]) or "none"
