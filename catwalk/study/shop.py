"""The dataset of a study, with the fingerprints that its stages depend on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from catwalk.configuration.specification import Specification
from catwalk.files.watched import WatchedFiles, watch_folder, watch_named
from catwalk.poisoning.protocol import Protocol
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.labelled_images import LabelledImages
from catwalk.shop.splits import Split, published_split, read_split
from catwalk.study.specifications import split_of


@dataclass(frozen=True)
class Shop:
    """The dataset of a study, with the fingerprints that its stages depend on, and the files behind these.

    Attributes:
        catalogue: What is sold.
        lists: The files that say what is sold, watched since before they were read.
        split: How the purchases are divided; as :func:`~catwalk.shop.splits.read_split` does without a rule by default.
    """

    catalogue: Catalogue
    lists: WatchedFiles
    split: Specification | None = None

    @classmethod
    def read(cls, folder: str | Path, split: Specification | None = None) -> "Shop":
        """Read the catalogue of a dataset folder; errors as of :meth:`~catwalk.shop.catalogue.Catalogue.read`."""
        lists = watch_folder(Path(folder), "items.*", "dataset.json")
        return cls(Catalogue.read(folder), lists, split)

    def under(self, protocols: Sequence[Protocol]) -> "Shop":
        """Return the dataset with its purchases divided as protocols agree to, where nobody else says how.

        Where the study states a rule, the dataset was published with a split, or protocols differ, it stays as it is.
        """
        rules = [protocol.split_rule for protocol in protocols]
        if self.split is not None or rules[0] is None or any(rule != rules[0] for rule in rules):
            return self
        return self if published_split(self.catalogue) else replace(self, split=split_of(rules[0], "protocol.split"))

    def read_split(self) -> Split:
        """Return the purchases, divided."""
        return read_split(self.catalogue, rule=None if self.split is None else self.split.instantiate())

    @cached_property
    def split_facts(self) -> tuple[str, ...]:
        """What there is to tell of how the purchases are divided; reading them shows that they are sound."""
        return tuple(self.read_split().facts())

    @cached_property
    def items(self) -> "Contents":
        """The catalogue and its images."""
        folder = self.catalogue.folder
        images = watch_named(folder, self.catalogue.images)
        return Contents(replace(self.catalogue).fingerprint, (self.lists, images))

    @cached_property
    def interactions(self) -> "Contents":
        """The files that say who bought what; they are read once, to see that they are sound."""
        folder, patterns = self.catalogue.folder, ("interactions.*", "splits/*")
        files = watch_folder(folder, *patterns)
        _ = self.split_facts
        digest = hashlib.sha256()
        for path in [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        return Contents(digest.hexdigest(), (files,))

    @cached_property
    def labelled_images(self) -> "Contents":
        """The labelled images; what is held out of them is up to the data module's own arguments."""
        folder = self.catalogue.folder
        table = watch_folder(folder, "labelled_images.*")
        labelled = LabelledImages.read(self.catalogue)
        images = watch_named(folder, labelled.images)
        return Contents(labelled.fingerprint, (self.lists, table, images))


class Contents(NamedTuple):
    """What some files held when their states were taken.

    Attributes:
        fingerprint: Of the contents, which enters the keys of what is made of them.
        files: The files, watched since before they were read.
    """

    fingerprint: str
    files: tuple[WatchedFiles, ...]
