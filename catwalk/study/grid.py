"""The grid of a study: what is trained, attacked and trained again, checked before anything runs."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.limits import LARGEST_SEED, check_seed
from catwalk.poisoning.protocol import Protocol
from catwalk.study.controls import Controls, noise_beside
from catwalk.study.derived import Defence, Derived, Pipeline, derived_networks
from catwalk.study.specifications import NamedAttack, attack_of

NO_ATTACK = "No attack"
"""What tables call the rows without attack, to which all others are compared."""


Settings = dict
"""Settings of a class, checked when it is known which one. Not ``dict[str, Any]``: inside of that the parser looks for
classes by itself, and completes an optimizer with arguments that only its caller can give."""


@dataclass
class Training:
    """How a network or a recommender is trained.

    Attributes:
        model: ``class_path`` and ``init_args`` of a LightningModule.
        data: Arguments of its data module, without the dataset and the seed.
        trainer: Arguments of Lightning's Trainer, such as ``max_epochs``.
        seed: Seed of weights and batches of a network; recommenders take the study's seeds instead.
        warm_start: Another recommender of the study, with whose parameters this one begins: the one with the same seed
            on the same images.
        shifts: How the shifts are found that images can reach, for a recommender that is trained against them
            (:class:`~lightning_modules.ImageRobustVBPR`): fields of
            :class:`~catwalk.recommenders.reachable_shifts.ShiftSettings`.
    """

    model: Settings
    data: Settings | None = None
    trainer: Settings | None = None
    seed: int = 0
    warm_start: str | None = None
    shifts: Settings | None = None


@dataclass
class Grid:
    """All cells of a study: networks × (no attack and every attack) × recommenders × seeds.

    Attributes:
        dataset: The dataset folder.
        source: Category whose images are attacked.
        target: Category that the network shall see in them.
        extractors: Networks by name, such as ``T`` for traditional training.
        attacks: ``class_path`` and ``init_args`` of each attack.
        recommenders: Recommenders by name; without any, networks and attacks alone are measured.
        seeds: Seeds with which every recommender is trained again.
        top_k: K of all metrics.
        protocols: What is attacked and counted, once for each.
        controls: What stands beside the attacks, to tell what they do from what happens without them.
        undefended: The network that a protocol calls undefended; the first by default.
        defences: Input defences of extractors, by name.
        pipelines: The shop's own processing of images, by name.
        transfers: For a network, by name, those on which attacks on it are crafted as well.
        derived: The networks that defences and pipelines make of others.
        named_attacks: The attacks, checked, with what tables call them; the noise of each budget among them.
    """

    dataset: Path
    source: str
    target: str
    extractors: dict[str, Training]
    attacks: list[Settings]
    recommenders: dict[str, Training]
    seeds: list[int]
    top_k: int
    protocols: list[Protocol] = field(default_factory=lambda: [Protocol()])
    controls: Controls = field(default_factory=Controls)
    undefended: str | None = None
    defences: dict[str, Defence] = field(default_factory=dict)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    transfers: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for argument in ("extractors", "seeds"):
            if not getattr(self, argument):
                raise CatwalkError(f"{argument}: a study needs at least one")
        for seed in self.seeds:
            check_seed(seed, "seeds: each")
        for argument in ("extractors", "recommenders", "defences", "pipelines"):
            check_names(argument, list(getattr(self, argument)))
        self.derived: list[Derived] = derived_networks(self.extractors, self.defences, self.pipelines)
        self._check_transfers()
        for argument in ("extractors", "recommenders"):
            for name, training in getattr(self, argument).items():
                check_seed(training.seed, f"{argument}.{name}.seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise CatwalkError(f"seeds: each may occur once, got {self.seeds}")
        if self.recommenders and self.controls.other_seeds and self.other_seeds[-1] > LARGEST_SEED:
            raise CatwalkError(
                f"seeds: controls.other_seeds takes as many behind the largest, which must be at most "
                f"{LARGEST_SEED - len(self.seeds)}; got {max(self.seeds)}; let other_seeds be false for it"
            )
        self._check_warm_starts()
        if self.undefended is None:
            self.undefended = next(iter(self.extractors))
        if self.undefended not in self.extractors:
            raise CatwalkError(
                f"undefended: must be one of the extractors, {', '.join(self.extractors)}, got {self.undefended!r}"
            )
        specifications = [attack_of(attack) for attack in self.attacks]
        examples = [specification.instantiate() for specification in specifications]
        names = _distinct_names(
            [attack.name for attack in examples],
            [specification.settings["init_args"] for specification in specifications],
        )
        self.named_attacks = [NamedAttack(*attack) for attack in zip(names, specifications, examples, strict=True)]
        if self.source == self.target and any(attack.targeted for attack in examples):
            raise CatwalkError(f"source and target are both {self.source!r}: they must differ")
        self._check_attacks()
        self.named_attacks = noise_beside(self.named_attacks, self.controls.noise)

    @property
    def other_seeds(self) -> list[int]:
        """Seeds beyond the study's own, one beside each, with which the noise floor is measured."""
        return [max(self.seeds) + 1 + place for place in range(len(self.seeds))]

    def _check_attacks(self) -> None:
        """Raise a CatwalkError if an attack's budget is too small to be saved, or it names a recommender itself."""
        for attack in self.named_attacks:
            attack.example.check_eight_bit()
            if getattr(attack.example, "recommender", None) is not None:
                raise CatwalkError(
                    f"attacks: {attack.name} knows the study's own recommenders, trained on the clean catalogue, so "
                    "leave recommender out"
                )
            for surrogate in getattr(attack.example, "surrogates", ()):
                if surrogate.name not in self.recommenders:
                    raise CatwalkError(
                        f"attacks: {attack.name}: surrogates must be recommenders of the study "
                        f"({', '.join(self.recommenders) or 'there is none'}), got {surrogate.name!r}"
                    )
            if attack.example.knowledge == "network and recommender" and not self.recommenders:
                raise CatwalkError(
                    f"attacks: {attack.name} must know a recommender, and the study has none: give it recommenders, or "
                    "leave the attack out"
                )

    def _check_transfers(self) -> None:
        """Raise a CatwalkError unless attacks are crafted on other networks of the study."""
        known = [*self.extractors, *(each.name for each in self.derived)]
        for name, surrogates in self.transfers.items():
            for network in (name, *surrogates):
                if network not in known:
                    raise CatwalkError(
                        f"transfers: {network!r} is none of the networks, {', '.join(known)}; write the network under "
                        "attack with a list of those on which attacks are crafted"
                    )
            if name in surrogates or len(set(surrogates)) < len(surrogates):
                raise CatwalkError(f"transfers.{name}: must be a list of other networks, each once, got {surrogates}")

    def _check_warm_starts(self) -> None:
        """Raise a CatwalkError unless every recommender begins with one that stands before it, if with any."""
        for name, training in self.extractors.items():
            if training.warm_start is not None:
                raise CatwalkError(f"extractors.{name}.warm_start: is for recommenders; a network has model.weights")
            if training.shifts is not None:
                raise CatwalkError(f"extractors.{name}.shifts: is for recommenders that are trained against them")
        before: list[str] = []
        for name, training in self.recommenders.items():
            if training.warm_start is not None and training.warm_start not in before:
                raise CatwalkError(
                    f"recommenders.{name}.warm_start: must name a recommender that stands before it "
                    f"({', '.join(before) or 'there is none'}), got {training.warm_start!r}"
                )
            before.append(name)


def check_names(argument: str, names: list[str]) -> None:
    """Raise a CatwalkError unless names can head rows and columns of a table, and readers can tell them apart."""
    for name in names:
        if name != " ".join(name.split()) or not name or not name.isprintable():
            raise CatwalkError(
                f"{argument}: a name heads rows and columns of tables: it must be text on one line, without blanks "
                f"around it, got {name!r}"
            )
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(unicodedata.normalize("NFKC", name), name)
        if other != name:
            raise CatwalkError(f"{argument}: {other!r} and {name!r} look the same in a table; rename one")


def _distinct_names(names: list[str], settings: list[dict[str, Any]]) -> list[str]:
    """Return the attacks' names, with the settings in which attacks of one name differ.

    Raises:
        CatwalkError: If two attacks have the same name and the same settings.
    """
    distinct = []
    for name, its_settings in zip(names, settings, strict=True):
        alike = [others for other, others in zip(names, settings, strict=True) if other == name]
        if alike.count(its_settings) > 1:
            raise CatwalkError(f"attacks: {name} occurs twice with the same settings; leave one out")
        differing = [key for key in its_settings if any(others.get(key) != its_settings[key] for others in alike)]
        distinct.append(" · ".join([name, *(f"{key} = {its_settings[key]}" for key in differing)]))
    return distinct
