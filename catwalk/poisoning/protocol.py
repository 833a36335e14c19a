"""The switches on which studies of poisoned recommenders differ, in one place."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from catwalk.attacks.threat_model import Quantisation, Space, ThreatModel

FeaturesBy = Literal["network", "undefended"]
"""Whose features: those of the network under attack, or of the undefended one of the same study."""

ChosenBy = Literal["network", "undefended", "dataset"]
"""Who says of which category an item is: one of two networks, from its clean image, or the dataset."""

FeatureScale = Literal["clean", "own_matrix"]
"""What features are divided by: the largest absolute value of a network's clean features, or of the matrix itself."""

NO_UNDEFENDED = (
    "protocol.source_items is undefended, and there are no features of the undefended network: name their folder, "
    "which `catwalk predict` wrote, as undefended (poison.undefended of a run), or let source_items be network or "
    "dataset"
)


@dataclass(frozen=True)
class AttackProtocol:
    """How an attack's items are chosen and its budget is meant; the defaults are what we stand behind.

    Attributes:
        name: Name for the records.
        source_items: Who says which items are of the source category, from their clean images: the ``network`` under
            attack, as the paper says; the ``undefended`` network, as its published code does; or the ``dataset``.
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

    @property
    def of_attack(self) -> dict[str, Any]:
        """What an attack's result depends on of the protocol, by field: not its name, nor what comes after attacks."""
        names = [field.name for field in fields(AttackProtocol) if field.name != "name"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Protocol(AttackProtocol):
    """How a study chooses what it attacks, as of :class:`AttackProtocol`, and what it counts.

    Attributes:
        background_features: Whose features the items have that are not attacked, where a defended network is attacked:
            that ``network``'s, or the ``undefended`` one's as in the paper's code, which so mixes two feature spaces.
        chr_categories: Who says of which category a recommended item is, for CHR@K: the ``network`` under attack, the
            ``undefended`` one, or the ``dataset``. An item keeps the category that it had before any attack.
        feature_scale: What recommenders divide features by: the largest absolute value of the ``clean`` features, or of
            the matrix itself (``own_matrix``), again after every attack, as the paper's code does.
    """

    background_features: FeaturesBy = "network"
    chr_categories: ChosenBy = "network"
    feature_scale: FeatureScale = "clean"

    @property
    def categories_by(self) -> Literal["network", "dataset"]:
        """Who says of which category an item is, once the undefended network's predictions stand beside the features.

        :func:`~catwalk.poisoning.mixed_features.mix_features` puts them there.
        """
        return "dataset" if self.chr_categories == "dataset" else "network"

    def differences(self) -> list[tuple[str, Any, Any]]:
        """Return the fields in which the protocol is not as Catwalk stands behind it: name, value, and ours."""
        pairs = [(each.name, getattr(self, each.name), each.default) for each in fields(self) if each.name != "name"]
        return [pair for pair in pairs if pair[1] != pair[2]]

    def describe(self) -> list[str]:
        """Return them as phrases."""
        return [f"{name} is {value}, not {ours}" for name, value, ours in self.differences()]
