"""Attacks on networks and on what recommends by them, each in its own file, and the threat model that bounds them."""

from catwalk.attacks.apgd import APGD
from catwalk.attacks.apgd_t import APGDT
from catwalk.attacks.attack import Attack, AttackContext, AttackResult
from catwalk.attacks.auto_attack import AutoAttack, EnsembleResult
from catwalk.attacks.carlini_wagner import CarliniWagner
from catwalk.attacks.ddn import DDN
from catwalk.attacks.estimated_gradient import NES, SPSA
from catwalk.attacks.evading_pgd import EvadingPGD
from catwalk.attacks.fab import FAB
from catwalk.attacks.feature_matching import FeatureMatching
from catwalk.attacks.fgsm import FGSM
from catwalk.attacks.fmn import FMN
from catwalk.attacks.foreign_attack import ForeignAttack
from catwalk.attacks.hop_skip_jump import HopSkipJump
from catwalk.attacks.jsma import JSMA
from catwalk.attacks.list_rank import ListRankAttack, ShownLists
from catwalk.attacks.mi_fgsm import MIFGSM
from catwalk.attacks.pgd import PGD
from catwalk.attacks.random_noise import RandomNoise
from catwalk.attacks.rank_attack import RankAttack
from catwalk.attacks.sparse_rs import SparseRS
from catwalk.attacks.square import Square
from catwalk.attacks.threat_model import ThreatModel, ThreatModelError
from catwalk.attacks.transfer import Transfer
from catwalk.attacks.universal_perturbation import UniversalPerturbation
from catwalk.attacks.zoo import ZOO

__all__ = [
    "APGD",
    "APGDT",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "MIFGSM",
    "NES",
    "PGD",
    "SPSA",
    "ZOO",
    "Attack",
    "AttackContext",
    "AttackResult",
    "AutoAttack",
    "CarliniWagner",
    "EnsembleResult",
    "EvadingPGD",
    "FeatureMatching",
    "ForeignAttack",
    "HopSkipJump",
    "ListRankAttack",
    "RandomNoise",
    "RankAttack",
    "ShownLists",
    "SparseRS",
    "Square",
    "ThreatModel",
    "ThreatModelError",
    "Transfer",
    "UniversalPerturbation",
]
