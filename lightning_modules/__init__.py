"""LightningModules: the CNNs that classify product images, and the recommenders that use their features."""

from lightning_modules.adversarial_cnn import AdversarialClassifier
from lightning_modules.bpr_mf import BPRMF
from lightning_modules.cnn import ProductClassifier
from lightning_modules.fast_adversarial_cnn import FastAdversarialClassifier
from lightning_modules.free_adversarial_cnn import FreeAdversarialClassifier
from lightning_modules.recommender import Recommender
from lightning_modules.vbpr import VBPR

__all__ = [
    "BPRMF",
    "VBPR",
    "AdversarialClassifier",
    "FastAdversarialClassifier",
    "FreeAdversarialClassifier",
    "ProductClassifier",
    "Recommender",
]
