"""A look at a dataset folder before a study: metrics on the screen, pictures in a folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_text
from catwalk.overview.facts import ImageFacts, LabelFacts, Overview, PurchaseFacts, category_facts, promising_pairs
from catwalk.overview.reading import purchase_tables, read_headers, same_photographs, split_facts
from catwalk.overview.screen import print_overview
from catwalk.overview.time_facts import TimeFacts
from catwalk.overview.weaknesses import weaknesses
from catwalk.shop.catalogue import Catalogue, read_dataset_info
from catwalk.shop.columns import find_table
from catwalk.shop.ids import doubtful_ids
from catwalk.shop.interactions import Interactions
from catwalk.shop.labelled_images import LabelledImages

__all__ = ["Look", "Overview", "look", "show"]


class Look(NamedTuple):
    """A dataset folder as it was read, and what was found in it.

    Attributes:
        catalogue: What is sold.
        interactions: The purchases; None for a folder of images alone.
        overview: The facts.
    """

    catalogue: Catalogue
    interactions: Interactions | None
    overview: Overview


def show(dataset: Path, output: Path | None = None) -> None:
    """Show what matters in a dataset folder before a study: print its metrics, and draw them beside sample images.

    Args:
        dataset: The dataset folder.
        output: Folder for the pictures and for overview.json, which holds every metric; overview inside the dataset
            folder by default.

    Raises:
        CatwalkError: If the dataset folder is missing or malformed, or the output folder cannot be written.
    """
    from catwalk.overview.pictures import draw_overview, draw_samples  # its imports would slow down the help

    catalogue, interactions, overview = look(dataset)
    output = catalogue.folder / "overview" if output is None else output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(output, error) from error
    print_overview(overview, dataset, Console())
    try:
        pictures = draw_overview(overview, catalogue, interactions, output)
        pictures += draw_samples(overview, catalogue, output)
        content = asdict(overview) | {"pictures": [path.name for path in pictures]}
        write_text(output / "overview.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise _unwritable(output, error) from error
    Console().print(
        f"\n{len(pictures)} pictures and overview.json are in {output}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def look(dataset: Path) -> Look:
    """Read a dataset folder, and compute all facts.

    Raises:
        CatwalkError: If the dataset folder is missing or malformed.
    """
    catalogue = Catalogue.read(dataset)
    tables = purchase_tables(catalogue)
    interactions = Interactions.from_tables(tables, catalogue) if tables else None
    labelled = LabelledImages.read(catalogue)
    own_file = find_table(catalogue.folder, "labelled_images") is not None
    images = _image_facts(catalogue.folder, catalogue.images, same_photographs(catalogue.folder, catalogue.images))
    labels = LabelFacts.of(labelled, own_file, _image_facts(catalogue.folder, labelled.images) if own_file else None)
    categories = category_facts(catalogue, interactions)
    purchases = PurchaseFacts.of(catalogue, interactions) if interactions is not None else None
    split = split_facts(catalogue, tables) if tables else None
    time = TimeFacts.of(interactions) if interactions is not None else None
    pairs = promising_pairs(categories)
    overview = Overview(
        name=catalogue.name,
        items=len(catalogue),
        simulated=read_dataset_info(catalogue.folder).get("simulated_purchases") is not None,
        categories=categories,
        images=images,
        labels=labels,
        purchases=purchases,
        split=split,
        time=time,
        pairs=pairs,
        weaknesses=weaknesses(
            categories,
            images,
            labels,
            purchases,
            split,
            time,
            pairs,
            [
                *doubtful_ids(catalogue.item_ids, "items"),
                *(() if interactions is None else interactions.remarks),
            ],
        ),
    )
    return Look(catalogue, interactions, overview)


def _image_facts(folder: Path, images: tuple[str, ...], owners: Sequence[Sequence[str]] = ()) -> ImageFacts:
    different = list(dict.fromkeys(images))  # items may share an image
    return ImageFacts.of(different, read_headers(folder, different), owners)


def _unwritable(output: Path, error: OSError) -> CatwalkError:
    return CatwalkError(f"{output} cannot be written ({error.strerror}): give another folder with --output")
