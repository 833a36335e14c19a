"""The switches on which studies of poisoned recommenders differ, in one place."""

from dataclasses import dataclass
from typing import Literal

ChosenBy = Literal["network", "dataset"]


@dataclass(frozen=True)
class Protocol:
    """How a study chooses what it attacks and what it counts; the defaults are what we stand behind.

    Attributes:
        name: Name for the records.
        source_items: Who says which items are of the source category: the ``network`` under attack, from the clean
            images (as in the paper), or the ``dataset``.
        chr_categories: Who says of which category a recommended item is, for CHR@K: the same two. An item keeps the
            category that it had before any attack.
    """

    name: str = "corrected"
    source_items: ChosenBy = "network"
    chr_categories: ChosenBy = "network"
