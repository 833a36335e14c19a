"""The features of a catalogue's images, clean, attacked or mixed: what recommenders are trained and tested on."""

import abc

from catwalk.study.stages.stage import Stage


class CatalogueFeatures(Stage, abc.ABC):
    """A stage whose folder holds the features of a whole catalogue, and what a network sees in every clean image."""

    @property
    @abc.abstractmethod
    def seen_by(self) -> str:
        """The network, or the mixture of networks, by which the images are seen."""

    @property
    @abc.abstractmethod
    def attack_name(self) -> str | None:
        """The attack, or the control in its place, that has changed the images; None for clean ones."""
