"""The thousand classes of ImageNet, by name."""

from collections import Counter
from collections.abc import Sequence
from functools import cache


@cache
def imagenet_categories() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes, in the order of a network's outputs.

    They are those in the metadata of torchvision's weights, where 774 is sandal, 770 running shoe, 610 jersey and 459
    brassiere, the categories of Di Noia et al. (2020) and Anelli et al. (2020).
    """
    from torchvision.models import ResNet50_Weights  # late: it takes long, and few need it

    return distinct_names(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names with the place of those that occur more than once in brackets, such as ``crane (134)``."""
    counts = Counter(names)
    return tuple(f"{name} ({place})" if counts[name] > 1 else name for place, name in enumerate(names))
