"""Lightning callbacks that poison, measure and write."""

from callbacks.adversarial_accuracy import AdversarialAccuracy
from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.perceptual_distance import PerceptualDistance
from callbacks.ranking_figures import RankingFigures
from callbacks.resumable_checkpoint import ResumableCheckpoint
from callbacks.write_features import WriteFeatures
from callbacks.write_recommendations import WriteRecommendations
from callbacks.write_user_figures import WriteUserFigures

__all__ = [
    "AdversarialAccuracy",
    "CategoryHitRatio",
    "InjectPoisonedImages",
    "PerceptualDistance",
    "RankingFigures",
    "ResumableCheckpoint",
    "WriteFeatures",
    "WriteRecommendations",
    "WriteUserFigures",
]
