"""Metrics of recommendations and of attacks, as torchmetrics classes.

Each lives in a module of its own beside the pure function that gives its values per user or per item. A state is
replaced, never changed in place: one that was reset in inference mode could not be changed outside it.
"""

from catwalk.metrics.attack_success_rate import AttackSuccessRate
from catwalk.metrics.auc import AUC
from catwalk.metrics.category_hit_ratio import CategoryHitRatio
from catwalk.metrics.detection import DetectionAUROC, DetectionRate
from catwalk.metrics.exposure import Exposure
from catwalk.metrics.feature_loss import FeatureLoss
from catwalk.metrics.hit_rate import HitRate
from catwalk.metrics.item_reach import ItemRanks, ItemReach
from catwalk.metrics.mean_reciprocal_rank import MeanReciprocalRank
from catwalk.metrics.normalized_category_dcg import NormalizedCategoryDCG
from catwalk.metrics.normalized_dcg import NormalizedDCG
from catwalk.metrics.peak_signal_to_noise_ratio import PeakSignalToNoiseRatio
from catwalk.metrics.precision import Precision
from catwalk.metrics.recall import Recall
from catwalk.metrics.structural_similarity import StructuralSimilarity

__all__ = [
    "AUC",
    "AttackSuccessRate",
    "CategoryHitRatio",
    "DetectionAUROC",
    "DetectionRate",
    "Exposure",
    "FeatureLoss",
    "HitRate",
    "ItemRanks",
    "ItemReach",
    "MeanReciprocalRank",
    "NormalizedCategoryDCG",
    "NormalizedDCG",
    "PeakSignalToNoiseRatio",
    "Precision",
    "Recall",
    "StructuralSimilarity",
]
