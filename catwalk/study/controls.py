"""Controls of a study: what stands beside its attacks, to tell what they do from what happens without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from catwalk.attacks import RandomNoise
from catwalk.attacks.random_noise import Distribution
from catwalk.study.specifications import NamedAttack, attack_of, is_noise

Scenario = Literal["poisoning", "evasion"]
"""Whether a recommender was trained on the attacked images as well, or is shown them by its catalogue alone."""

Control = Literal["noise", "sham", "other seeds"]
"""What a row is that is no attack, and stands beside those that are."""

OTHER_SEEDS = "No attack, other seeds"
"""What tables call the noise floor."""

SHAM = "Sham"
"""What tables call clean features in the rows that an attack would change."""


@dataclass(frozen=True)
class Controls:
    """What a study measures beside its attacks.

    Attributes:
        noise: Random noise on the same images as a row beside every L∞ budget: ``sign`` moves every value by ±ε,
            ``uniform`` by anything between; neither if empty.
        other_seeds: Whether recommenders are trained without attack with as many other seeds again: by how much
            metrics differ from these is what retraining does by itself.
        evasion: Whether the recommenders that were trained on clean images are shown the attacked ones as well, which
            tells what the images do by themselves from what recommenders learn of them. Nothing is trained for it.
        sham: Whether the attacked items' rows are replaced by the clean features of the network under attack, with no
            attack at all. Under a protocol that takes the other rows from another network this shows what mixing two
            networks' features does by itself; otherwise nothing changes.
    """

    noise: tuple[Distribution, ...] = ("sign",)
    other_seeds: bool = True
    evasion: bool = True
    sham: bool = False


def noise_beside(attacks: Sequence[NamedAttack], distributions: Sequence[Distribution]) -> list[NamedAttack]:
    """Return attacks with random noise behind the last one of every L∞ budget, in the same part of the images.

    Args:
        attacks: The attacks of a study.
        distributions: Which noise; a study that names it itself has it once.
    """
    by_budget = {}
    for attack in attacks:
        ball = attack.example.threat_model
        if not is_noise(attack) and ball.norm == "linf" and ball.epsilon is not None:
            by_budget[ball.epsilon, None if ball.mask is None else ball.mask.name] = attack
    last = {attack.name: epsilon for (epsilon, _), attack in by_budget.items()}
    named = {attack.name for attack in attacks}
    complete: list[NamedAttack] = []
    for attack in attacks:
        complete.append(attack)
        if attack.name not in last:
            continue
        for distribution in distributions:
            targeted = attack.example.targeted  # what counts as success
            arguments = {"epsilon": last[attack.name], "distribution": distribution, "targeted": targeted}
            if attack.example.threat_model.mask is not None:
                arguments["mask"] = attack.specification.settings["init_args"]["mask"]
            specification = attack_of({"class_path": "catwalk.attacks.RandomNoise", "init_args": arguments}, "controls")
            example: RandomNoise = specification.instantiate()
            if example.name not in named:
                complete.append(NamedAttack(example.name, specification, example))
    return complete
