"""The switches on which studies of poisoned recommenders differ, in one place."""

from dataclasses import dataclass, replace
from typing import Literal

from catwalk.attacks.threat_model import Quantisation, Space, ThreatModel

ChosenBy = Literal["network", "dataset"]


@dataclass(frozen=True)
class AttackProtocol:
    """How an attack's items are chosen and its budget is meant; the defaults are what we stand behind.

    Attributes:
        name: Name for the records.
        source_items: Who says which items are of the source category: the ``network`` under attack, from the clean
            images (as in the paper), or the ``dataset``.
        epsilon_space: Where distances between images are measured, ``pixels``, or ``normalised`` as in the paper's
            code, where ε = 4 comes to less than one grey level.
        clip: Whether attacks keep to [0, 1] at every step (the paper's code does not).
        quantise: How adversarial images become 8-bit: ``inside`` the ball, by ``round``, or ``truncate`` as in the
            paper's code. See :class:`~catwalk.attacks.ThreatModel`.
    """

    name: str = "corrected"
    source_items: ChosenBy = "network"
    epsilon_space: Space = "pixels"
    clip: bool = True
    quantise: Quantisation = "inside"

    def threat_model(self, ball: ThreatModel) -> ThreatModel:
        """Return a threat model with the norm and the budget of another, and the rest as this protocol has it."""
        return replace(ball, space=self.epsilon_space, clip=self.clip, quantisation=self.quantise, std=None)


@dataclass(frozen=True)
class Protocol(AttackProtocol):
    """How a study chooses what it attacks, as of :class:`AttackProtocol`, and what it counts.

    Attributes:
        chr_categories: Who says of which category a recommended item is, for CHR@K: the ``network`` or the ``dataset``.
            An item keeps the category that it had before any attack.
    """

    chr_categories: ChosenBy = "network"
