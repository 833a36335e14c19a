"""Detectors of poisoned uploads: what scores an image, the higher the more suspect it is."""

from catwalk.detectors.declared_category import DeclaredCategory
from catwalk.detectors.detector import Detector, Reference, Score
from catwalk.detectors.feature_squeezing import FeatureSqueezing
from catwalk.detectors.item_roles import ItemRoles
from catwalk.detectors.neighbour_distance import NeighbourDistance
from catwalk.detectors.trained_detector import TrainedDetector

__all__ = [
    "DeclaredCategory",
    "Detector",
    "FeatureSqueezing",
    "ItemRoles",
    "NeighbourDistance",
    "Reference",
    "Score",
    "TrainedDetector",
]
