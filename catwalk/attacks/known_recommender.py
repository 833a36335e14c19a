"""Checks of a recommender that an attacker knows, or whose lists the attacker sees."""

from torch import Tensor

from catwalk.attacks.attack import AttackContext, check_numbers
from catwalk.errors import CatwalkError
from catwalk.recommenders.vbpr import VBPRModel


def check_catalogue(model: VBPRModel, scene: AttackContext) -> None:
    """Raise a CatwalkError unless a recommender was trained on as many items as a catalogue has."""
    known = model.items.num_embeddings
    if known != len(scene.item_ids):
        raise CatwalkError(
            f"recommender: was trained on another catalogue, of {known} items; this one has {len(scene.item_ids)}"
        )


def check_features(model: VBPRModel, size: int) -> None:
    """Raise a CatwalkError unless a recommender looks at features of that many values."""
    if len(model.projection) != size:
        raise CatwalkError(
            f"recommender: was trained on features of {len(model.projection)} values, and the network gives {size}"
        )


def check_items(model: VBPRModel, targets: Tensor) -> None:
    """Raise a CatwalkError unless targets are numbers of a recommender's items."""
    check_numbers("targets", targets, model.items.num_embeddings, "for the recommender has {} items")
