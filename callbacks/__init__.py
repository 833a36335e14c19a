"""Lightning callbacks that poison, measure and write."""

from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.write_features import WriteFeatures

__all__ = ["CategoryHitRatio", "InjectPoisonedImages", "WriteFeatures"]
