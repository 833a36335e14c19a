"""Lightning callbacks that poison, measure and write."""

from callbacks.adversarial_accuracy import AdversarialAccuracy
from callbacks.attack_gallery import AttackGallery
from callbacks.attacked_items import AttackedItems
from callbacks.category_bars import CategoryBars
from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.perceptual_distance import PerceptualDistance
from callbacks.ranking_metrics import RankingMetrics
from callbacks.resumable_checkpoint import ResumableCheckpoint
from callbacks.robust_accuracy import RobustAccuracy
from callbacks.wandb_axes import WandbAxes
from callbacks.write_attacked_items import WriteAttackedItems
from callbacks.write_features import WriteFeatures
from callbacks.write_reachable_shifts import WriteReachableShifts
from callbacks.write_recommendations import WriteRecommendations
from callbacks.write_user_metrics import WriteUserMetrics
from catwalk.moved import renamed

__all__ = [
    "AdversarialAccuracy",
    "AttackGallery",
    "AttackedItems",
    "CategoryBars",
    "CategoryHitRatio",
    "InjectPoisonedImages",
    "PerceptualDistance",
    "RankingMetrics",
    "ResumableCheckpoint",
    "RobustAccuracy",
    "WandbAxes",
    "WriteAttackedItems",
    "WriteFeatures",
    "WriteReachableShifts",
    "WriteRecommendations",
    "WriteUserMetrics",
]

__getattr__ = renamed(__name__, {"RankingFigures": "RankingMetrics", "WriteUserFigures": "WriteUserMetrics"})
