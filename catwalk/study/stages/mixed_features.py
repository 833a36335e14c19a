"""The stage that composes a catalogue's features of several networks, as a protocol asks for it by name."""

from pathlib import Path
from typing import Any

from catwalk.poisoning.mixed_features import mix_features
from catwalk.poisoning.poison import items_to_attack
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.stages.source_items import SourceItems


class MixedFeaturesStage(CatalogueFeatures):
    """A matrix with the attacked items' features by one network, all others' by another, and categories by a third."""

    kind = "mixed"

    def __init__(
        self,
        cache: StageCache,
        items: SourceItems,
        background: FeaturesStage,
        rows: AttackStage | FeaturesStage,
        categories: FeaturesStage,
        *,
        seen_by: str,
        attack_name: str | None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            items: What is attacked, whose rows are replaced.
            background: The features of all other items.
            rows: The features of the attacked items: adversarial, or the clean ones of a sham.
            categories: Who says of which category an item is.
            seen_by: The network under attack, for the screen.
            attack_name: The attack or control, for the screen.
        """
        super().__init__(cache)
        self.items = items
        self.background = background
        self.rows = rows
        self.categories = categories
        self._seen_by = seen_by
        self._attack_name = attack_name
        self.inputs = tuple(dict.fromkeys((background, rows, categories, *items.inputs)))
        self.description = (
            f"Features of {background.classifier.name} with {attack_name or 'clean'} rows of {seen_by}, "
            f"items by {items.protocol.source_items}, categories by {categories.classifier.name}"
        )
        self.files = background.files
        self.modules = modules_of(mix_features, items_to_attack)
        self.settings = {
            "background": background.key,
            "rows": rows.key,
            "categories": categories.key,
            "scale": items.protocol.feature_scale,
            **items.settings,
        }

    @property
    def seen_by(self) -> str:
        """The network under attack, and the one that sees the other items."""
        among = "" if self.background is self.items.clean else f" among {self.background.seen_by}"
        by = "" if self.items.protocol.source_items == "network" else f", items by {self.items.protocol.source_items}"
        return f"{self._seen_by}{among}{by}"

    @property
    def attack_name(self) -> str | None:
        """The attack, or the control in its place."""
        return self._attack_name

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Compose the matrix."""
        catalogue = self.background.shop.catalogue
        mixed = mix_features(
            catalogue,
            background=self.background.table,
            rows=self.rows.table,
            items=self.items.read(),
            categories=self.categories.table,
            scale=self.items.protocol.feature_scale,
        )
        mixed.write(folder, catalogue)
        return {"scale": mixed.scale}

    @property
    def outcome(self) -> str:
        """By what recommenders divide it."""
        return f"divided by {self.record['scale']:.4g}"
