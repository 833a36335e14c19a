"""Which items a study attacks on one network, by its protocol; no stage, for it takes no time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import NothingToAttackError, items_to_attack
from catwalk.poisoning.protocol import Protocol
from catwalk.study.stages.features import FeaturesStage


@dataclass(frozen=True)
class SourceItems:
    """The items of the source category, by whom the protocol asks.

    Attributes:
        protocol: The protocol.
        source: The source category.
        clean: Clean features by the network under attack.
        undefended: Those by the undefended network.
    """

    protocol: Protocol
    source: str
    clean: FeaturesStage
    undefended: FeaturesStage

    @property
    def inputs(self) -> tuple[FeaturesStage, ...]:
        """The stages that say which items they are."""
        return (self.clean, self.undefended) if self.protocol.source_items == "undefended" else (self.clean,)

    @property
    def settings(self) -> dict[str, Any]:
        """What it depends on, as plain values."""
        settings: dict[str, Any] = {
            "source": self.source,
            "source items": self.protocol.source_items,
            "source items by": [stage.key for stage in self.inputs],
        }
        if self.protocol.source_popularity != "all":
            shop = self.clean.shop
            settings["source popularity"] = self.protocol.source_popularity
            settings["interactions"] = shop.interactions.fingerprint
            settings["split"] = None if shop.split is None else shop.split.settings
        return settings

    def read(self) -> NDArray[np.int64]:
        """Return the items, int64 ``(n,)``, in order; errors as of :func:`~catwalk.poisoning.items_to_attack`."""
        chosen_by, popularity = self.protocol.source_items, self.protocol.source_popularity
        undefended = self.undefended.table if chosen_by == "undefended" else None
        catalogue = self.clean.shop.catalogue
        try:
            return items_to_attack(
                self.clean.table, catalogue, self.source, chosen_by, undefended, popularity, self._purchases()
            )
        except NothingToAttackError as error:
            network = self.clean.classifier
            raise CatwalkError(f"CNN {network.name}, {network.outcome}: {error}") from error

    def _purchases(self) -> NDArray[np.int64] | None:
        """Return how often each item was bought, where it must be known."""
        if self.protocol.source_popularity == "all":
            return None
        shop = self.clean.shop
        return np.bincount(shop.read_split().items, minlength=len(shop.catalogue))
