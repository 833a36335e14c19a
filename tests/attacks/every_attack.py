"""Every attack, and a network to try them on."""

import pytest
import torch
from torch import nn
from visual_models import visual_model

from catwalk.attacks import (
    APGD,
    APGDT,
    DDN,
    FAB,
    FGSM,
    FMN,
    JSMA,
    MIFGSM,
    NES,
    PGD,
    SPSA,
    ZOO,
    AutoAttack,
    CarliniWagner,
    EvadingPGD,
    FeatureMatching,
    HopSkipJump,
    ListRankAttack,
    RandomNoise,
    RankAttack,
    ShownLists,
    SparseRS,
    Square,
    Transfer,
    UniversalPerturbation,
)
from catwalk.detectors import FeatureSqueezing, NeighbourDistance, Reference
from catwalk.networks.classifier import Classifier

ATTACKS = {
    "fgsm": lambda **kwargs: FGSM(**kwargs),
    "pgd": lambda **kwargs: PGD(iterations=3, **kwargs),
    "pgd without random start": lambda **kwargs: PGD(iterations=3, random_start=False, **kwargs),
    "pgd in l2": lambda **kwargs: PGD(iterations=3, norm="l2", **kwargs),
    "mi-fgsm": lambda **kwargs: MIFGSM(iterations=3, **kwargs),
    "apgd": lambda **kwargs: APGD(iterations=3, **kwargs),
    "apgd in l2": lambda **kwargs: APGD(iterations=3, norm="l2", **kwargs),
}

OF_OTHER_AIMS = {
    "feature matching": lambda **kwargs: FeatureMatching(iterations=3, **kwargs),
    "feature matching in l2": lambda **kwargs: FeatureMatching(iterations=3, norm="l2", random_start=True, **kwargs),
    "rank attack": lambda **kwargs: rank_attack(**kwargs),
    "nuking rank attack on three recommenders": lambda **kwargs: rank_attack(3, intent="nuke", **kwargs),
    "rank attack on the mean": lambda **kwargs: rank_attack(objective="mean", random_start=True, **kwargs),
    "list rank attack": lambda **kwargs: list_rank_attack(**kwargs),
    "evading pgd": lambda **kwargs: evading_pgd(NeighbourDistance(), **kwargs),
    "evading pgd in l2": lambda **kwargs: evading_pgd(FeatureSqueezing(window=3), weight=1.0, norm="l2", **kwargs),
}
"""Attacks whose targets are no categories."""

CARLINI_WAGNER = {
    "c&w": lambda **kwargs: CarliniWagner(searches=2, iterations=8, initial_c=1.0, learning_rate=0.02, **kwargs)
}
"""An attack without a budget, that may fail."""

RADIUS_SEARCH = {
    "ddn": lambda **kwargs: DDN(iterations=6, **kwargs),
    "fmn": lambda **kwargs: FMN("linf", iterations=6, **kwargs),
    "fmn in l2": lambda **kwargs: FMN("l2", iterations=6, **kwargs),
}
"""Attacks without a budget, that may fail and have no confidence."""

UNTARGETED = {
    "apgd-t": lambda **kwargs: APGDT(iterations=3, num_targets=2, **kwargs),
    "fab-t": lambda **kwargs: FAB(iterations=3, num_targets=2, **kwargs),
    "auto attack": lambda **kwargs: AutoAttack(iterations=3, num_targets=2, queries=5, **kwargs),
}
"""Attacks that lead away from a category, and stop for each image where it has left it."""

BOUNDARY = {
    "fab": lambda **kwargs: FAB(iterations=3, targeted=True, **kwargs),
    "fab without a budget": lambda **kwargs: FAB(epsilon=None, norm="l2", iterations=3, num_targets=2, **kwargs),
}
"""Attacks that look for the nearest image beyond a boundary."""

NOISE = {
    "noise": lambda **kwargs: RandomNoise(**kwargs),
    "uniform noise": lambda **kwargs: RandomNoise(distribution="uniform", **kwargs),
}
"""Attacks that ask the network nothing."""

SPARSE = {
    "jsma": lambda **kwargs: JSMA(**{"pixels": 5} | kwargs),
    "jsma by single values": lambda **kwargs: JSMA(**{"pixels": 4, "pairs": False, "theta": 130} | kwargs),
    "sparse-rs": lambda **kwargs: SparseRS(**{"pixels": 6, "queries": 12} | kwargs),
}
"""Attacks whose budget is a number of pixels."""

JOINT = {
    "universal": lambda **kwargs: UniversalPerturbation(iterations=3, **kwargs),
    "universal in l2": lambda **kwargs: UniversalPerturbation(iterations=3, norm="l2", **kwargs),
}
"""Attacks that make something of all images together."""

TRANSFER = {
    "transfer": lambda **kwargs: transfer(1, **kwargs),
    "transfer from two networks": lambda **kwargs: transfer(2, **kwargs),
}
"""Attacks that are crafted on other networks than the one under attack."""

BY_QUERIES = {
    "square": lambda **kwargs: Square(queries=12, **kwargs),
    "square in l2": lambda **kwargs: Square(queries=12, norm="l2", loss="ce", **kwargs),
    "nes": lambda **kwargs: NES(queries=20, samples=3, **kwargs),
    "nes in l2": lambda **kwargs: NES(queries=20, samples=3, norm="l2", **kwargs),
    "spsa": lambda **kwargs: SPSA(queries=20, samples=3, **kwargs),
}
"""Attacks without gradients."""

BY_DISTANCE = {
    "hop skip jump": lambda **kwargs: HopSkipJump(queries=80, samples=4, tries=10, **kwargs),
    "hop skip jump in linf": lambda **kwargs: HopSkipJump("linf", queries=80, samples=4, tries=10, **kwargs),
    "zoo": lambda **kwargs: ZOO(queries=64, coordinates=10, constants=1, learning_rate=120, **kwargs),
}
"""Attacks without gradients and without a budget, that may fail."""

KINDS = [
    ATTACKS,
    CARLINI_WAGNER,
    OF_OTHER_AIMS,
    NOISE,
    TRANSFER,
    BY_QUERIES,
    BY_DISTANCE,
    UNTARGETED,
    BOUNDARY,
    SPARSE,
    JOINT,
    RADIUS_SEARCH,
]
ALL = {name: make_attack for kind in KINDS for name, make_attack in kind.items()}

attack_towards_a_category = pytest.mark.parametrize("make_attack", ATTACKS.values(), ids=ATTACKS.keys())

every_attack = pytest.mark.parametrize("make_attack", ALL.values(), ids=ALL.keys())


def rank_attack(number=1, **settings):
    """A rank attack that knows a number of recommenders, each with other users."""
    attack, random = RankAttack(iterations=3, **settings), torch.Generator().manual_seed(2)
    shapes = [((users, 3), (5, 3), (users, 2), (32, 2)) for users in (7, 4, 9)[:number]]
    attack.scorers = [visual_model(*(torch.randn(shape, generator=random) for shape in each)) for each in shapes]
    return attack


def evading_pgd(detector, **settings):
    attack, random = EvadingPGD(detector, iterations=3, **settings), torch.Generator().manual_seed(2)
    reference = Reference(torch.randn(20, 32, generator=random), torch.arange(20) % 5)
    attack.score = detector.fitted(reference)
    return attack


def list_rank_attack(**settings):
    attack, random = ListRankAttack(queries=12, top_k=2, **settings), torch.Generator().manual_seed(2)
    model = visual_model(*(torch.randn(shape, generator=random) for shape in ((7, 3), (5, 3), (7, 2), (32, 2))))
    attack.shown = ShownLists.of(model, torch.rand(5, 32, generator=random), 2)
    return attack


def transfer(number, **settings):
    attack = Transfer(PGD(iterations=3, **settings), ["surrogate.ckpt"] * number)
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        attack.networks = [Classifier(make_network(seed=5 + place), tuple("abcde"), None) for place in range(number)]
    return attack


def aims(attack, categories):
    """Return targets of the kind that an attack takes: features, items, categories, or pairs of them."""
    if isinstance(attack, FeatureMatching):
        return torch.rand(5, 32, generator=torch.Generator().manual_seed(1))[categories]
    if isinstance(attack, EvadingPGD):
        return torch.stack([categories, categories.flip(0)], dim=1)
    return categories


class SmallNetwork(nn.Sequential):
    """Layers with features before the last of them, as :class:`~catwalk.networks.network.Network` has."""

    def features(self, images):
        for layer in list(self)[:-1]:
            images = layer(images)
        return images

    @property
    def head(self):
        return self[-1]


def make_network(num_classes=5, width=8, seed=0):
    """A small network with everything that must not notice an attack, its statistics away from their defaults."""
    torch.manual_seed(seed)
    network = SmallNetwork(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2),
        nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
    for _ in range(3):
        network(torch.rand(16, 3, 9, 9))
    return network.eval()


def make_levels(number, size=9, seed=0):
    """Grey levels of which a third are exactly 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 320, (number, 3, size, size), generator=generator).clamp(0, 255).to(torch.uint8)


def make_batch(number, num_classes=5, seed=0):
    images = make_levels(number, seed=seed).to(torch.float32) / 255
    generator = torch.Generator().manual_seed(seed + 1)
    targets = torch.randint(num_classes, (number,), generator=generator)
    keys = torch.randperm(10 * number, generator=generator)[:number]
    return images, targets, keys
