"""Lightning callbacks that poison, measure and write."""

from callbacks.adversarial_accuracy import AdversarialAccuracy
from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.resumable_checkpoint import ResumableCheckpoint
from callbacks.write_features import WriteFeatures
from callbacks.write_recommendations import WriteRecommendations

__all__ = [
    "AdversarialAccuracy",
    "CategoryHitRatio",
    "InjectPoisonedImages",
    "ResumableCheckpoint",
    "WriteFeatures",
    "WriteRecommendations",
]
