"""Attacks on image classifiers, each in its own file, and the threat model that bounds them."""

from catwalk.attacks.attack import Attack, AttackResult
from catwalk.attacks.fgsm import FGSM
from catwalk.attacks.pgd import PGD
from catwalk.attacks.threat_model import ThreatModel, ThreatModelError

__all__ = ["FGSM", "PGD", "Attack", "AttackResult", "ThreatModel", "ThreatModelError"]
