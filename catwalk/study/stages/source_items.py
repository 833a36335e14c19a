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
        return {
            "source": self.source,
            "source items": self.protocol.source_items,
            "source items by": [stage.key for stage in self.inputs],
        }

    def read(self) -> NDArray[np.int64]:
        """Return the items, int64 ``(n,)``, in order; errors as of :func:`~catwalk.poisoning.items_to_attack`."""
        chosen_by = self.protocol.source_items
        undefended = self.undefended.table if chosen_by == "undefended" else None
        catalogue = self.clean.shop.catalogue
        try:
            return items_to_attack(self.clean.table, catalogue, self.source, chosen_by, undefended)
        except NothingToAttackError as error:
            network = self.clean.classifier
            raise CatwalkError(f"CNN {network.name}, {network.outcome}: {error}") from error
