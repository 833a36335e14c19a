"""The stage that finds the shifts of features that perturbations of a catalogue's images can reach."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from catwalk.poisoning.reachable_shifts import find_shifts, shifts_of_attacked
from catwalk.poisoning.records import read_attacked_items
from catwalk.recommenders.reachable_shifts import ReachableShifts, ShiftSettings
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.stage import Stage


class ShiftsStage(Stage):
    """Shifts of the features of a clean catalogue, or of one that an attack has poisoned: by the images as they are."""

    kind = "shifts"

    def __init__(
        self,
        cache: StageCache,
        search: ShiftSettings,
        features: FeaturesStage,
        attack: AttackStage | None = None,
        clean: "ShiftsStage | None" = None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            search: How the shifts are found.
            features: The features of the clean catalogue.
            attack: The attack whose images are in the catalogue; None for the clean one.
            clean: The shifts of the clean catalogue, which the items have that are not attacked; with ``attack`` alone.
        """
        super().__init__(cache)
        self.search = search
        self.features = features
        self.attack = attack
        self.clean = clean
        self.inputs = tuple(stage for stage in (features, attack, clean) if stage is not None)
        images = "clean images" if attack is None else attack.description
        self.description = f"Shifts within ε = {search.epsilon:g}, {images}, CNN {features.classifier.name}"
        self.modules = modules_of(find_shifts, read_attacked_items, ReachableShifts)
        self.settings = {
            "search": asdict(search),
            "features": features.key,
            "attack": None if attack is None else attack.key,
        }
        self.files = features.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Find them, and write them."""
        classifier, catalogue = self.features.classifier.load(), self.features.shop.catalogue
        table = self.features.table
        classifier.network.to(self.features.classifier.training.device)
        if self.attack is None or self.clean is None:
            found = find_shifts(classifier, catalogue, table, self.search, progress=progress.callback)
        else:
            clean = ReachableShifts.read(self.clean.folder, table)
            items, rows = read_attacked_items(self.attack.folder, catalogue)
            images = self.attack.folder
            found = shifts_of_attacked(clean, classifier, items, rows, images, progress=progress.callback)
        found.write(folder)
        return {"shifts": found.shifts.shape[1], "length": float(found.shifts.norm(dim=2).mean())}

    @property
    def outcome(self) -> str:
        """How many, and how far they lead."""
        return f"{self.record['shifts']} of every item, of mean length {self.record['length']:.3g}"
