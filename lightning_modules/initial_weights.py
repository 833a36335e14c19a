"""Initial weights of a classifier: random ones, those that somebody trained, or a checkpoint's."""

from collections.abc import Mapping
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.networks.building import check_initial_weights, loads_weights


class InitialWeights:
    """Where a network's weights come from, and whether a checkpoint's take their place.

    Args:
        file: File with weights to begin with; None if there is none.
        backbone_args: The backbone's arguments, which may let it load weights itself.

    Raises:
        CatwalkError: If both name weights, or the file does not exist.
    """

    def __init__(self, file: str | None, backbone_args: dict[str, Any] | None) -> None:
        check_initial_weights(file, backbone_args)
        self.are_given = file is not None or loads_weights(backbone_args)
        self.checkpoint_is_loaded = False
        self._checkpoint_is_expected = False

    @property
    def are_used(self) -> bool:
        """Whether a network that is built now begins with weights that somebody trained."""
        return self.are_given and not self._checkpoint_is_expected

    @property
    def are_in_no_checkpoint(self) -> bool:
        """Whether the network came with weights that somebody trained, and no checkpoint's have taken their place."""
        return self.are_given and not self.checkpoint_is_loaded

    def expect_checkpoint(self) -> None:
        """Leave the weights alone: a checkpoint is about to be loaded, and to read or download them would be wasted.

        A Trainer builds the network before it says that it has a checkpoint.
        """
        self._checkpoint_is_expected = True

    def replace_by_checkpoint(self) -> None:
        """Remember that the network has a checkpoint's weights."""
        self.checkpoint_is_loaded = True

    def require(self, settings: Mapping[str, Any]) -> None:
        """Raise a CatwalkError if settings make sense with trained weights alone, and there are none.

        Args:
            settings: The classifier's ``categories`` and ``freeze_up_to``.
        """
        if self.are_given or self.checkpoint_is_loaded:
            return
        for argument, harmless in (("categories", "dataset"), ("freeze_up_to", None)):
            if settings[argument] != harmless:
                raise CatwalkError(
                    f"{argument}: {settings[argument]} needs a trained network, and this one would be random; give "
                    "a file as weights, or let the backbone load its own, such as backbone_args: "
                    "{weights: IMAGENET1K_V2}"
                )
