"""LightningModules: CNNs that classify product images, detectors beside them, and recommenders of their features."""

from lightning_modules.adversarial_cnn import AdversarialClassifier
from lightning_modules.amr import AMR
from lightning_modules.apr import APR
from lightning_modules.bpr_mf import BPRMF
from lightning_modules.cnn import ProductClassifier
from lightning_modules.denoiser import ImageDenoiser
from lightning_modules.fast_adversarial_cnn import FastAdversarialClassifier
from lightning_modules.free_adversarial_cnn import FreeAdversarialClassifier
from lightning_modules.image_robust_vbpr import ImageRobustVBPR
from lightning_modules.pairwise import PairwiseRecommender
from lightning_modules.poisoning_detector import PoisoningDetector
from lightning_modules.popularity import Popularity
from lightning_modules.random import Random
from lightning_modules.recommender import Recommender
from lightning_modules.trades_cnn import TradesClassifier
from lightning_modules.vbpr import VBPR

__all__ = [
    "AMR",
    "APR",
    "BPRMF",
    "VBPR",
    "AdversarialClassifier",
    "FastAdversarialClassifier",
    "FreeAdversarialClassifier",
    "ImageDenoiser",
    "ImageRobustVBPR",
    "PairwiseRecommender",
    "PoisoningDetector",
    "Popularity",
    "ProductClassifier",
    "Random",
    "Recommender",
    "TradesClassifier",
]
