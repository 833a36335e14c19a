"""What a finished study has in the store of results, beside its own folder: images, ranks, and lists by category."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catwalk.errors import CatwalkError
from catwalk.results.record import RECORD_FILE
from catwalk.shop.catalogue import Catalogue
from catwalk.study.results import StudyResults
from catwalk.study.stages.recommendations import ITEMS_FILE


@dataclass(frozen=True)
class AttackFolder:
    """An attack of a study, and where its results are.

    Attributes:
        protocol: Name of the protocol.
        extractor: Name of the network.
        attack: Name of the attack.
        recommender: The recommender that the attacker knows; None where it knows none.
        seed: Of that recommender.
        images: Folder with the adversarial images.
        looks: Folder with what was measured of their looks; None where nothing was.
    """

    protocol: str
    extractor: str
    attack: str
    recommender: str | None
    seed: int | None
    images: Path
    looks: Path | None


@dataclass(frozen=True)
class StoredResults:
    """What a finished study has in the store of results.

    Results may have been removed since, as by ``catwalk results clean`` after another study took the name: what is gone
    is None.

    Attributes:
        results: The study.
        store: The store.
        dataset: The dataset's folder.
    """

    results: StudyResults
    store: Path
    dataset: Path

    @classmethod
    def of(cls, results: StudyResults, store: Path | None = None, dataset: Path | None = None) -> "StoredResults":
        """Return what a study has.

        Args:
            results: The study.
            store: The store, where it is not where the study left it.
            dataset: The dataset's folder, likewise.
        """
        manifest = results.manifest
        folder = results.folder / str(manifest.get("dataset", {}).get("folder", ""))
        return cls(results, store or results.folder / str(manifest.get("store", "")), dataset or folder)

    @property
    def attacks(self) -> list[AttackFolder]:
        """The attacks whose images are there, in the study's order."""
        found = []
        for entry in self.results.manifest.get("attacks", []):
            images = self._place(entry["images"])
            if images is not None:
                labels = {name: entry[name] for name in ("protocol", "extractor", "attack", "recommender", "seed")}
                looks = None if entry["looks"] is None else self._place(entry["looks"])
                found.append(AttackFolder(**labels, images=images, looks=looks))
        return found

    def catalogue(self) -> Catalogue | None:
        """Return the catalogue; None where the dataset is gone."""
        try:
            return Catalogue.read(self.dataset)
        except CatwalkError:
            return None

    def places_by_category(self, cell: Mapping[str, Any]) -> dict[str, float] | None:
        """Return CHR@K of every category in a cell."""
        folder = self._recommendations(cell)
        if folder is None:
            return None
        try:
            return dict(json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["chr"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def attacked_items(self, cell: Mapping[str, Any]) -> pa.Table | None:
        """Return how far each attacked item gets in a cell: ``item_id``, ``popularity``, ``mean_rank`` and more."""
        folder = self._recommendations(cell)
        if folder is None:
            return None
        try:
            return pq.read_table(folder / ITEMS_FILE)
        except (OSError, pa.ArrowException):
            return None

    def _recommendations(self, cell: Mapping[str, Any]) -> Path | None:
        """Return the folder of a cell's recommendations, whose key its file of users has."""
        users = cell.get("users")
        return None if users is None else self._place(f"recommendations/{PurePosixPath(str(users)).stem}")

    def _place(self, name: str) -> Path | None:
        folder = self.store / name
        return folder if folder.is_dir() else None
