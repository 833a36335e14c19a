"""PGD past a detector: what it goes along, what it keeps, and that it does go past."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_attack import make_batch, make_levels, make_network

from catwalk.attacks import PGD, AttackContext, EvadingPGD
from catwalk.detectors import DeclaredCategory, ItemRoles, NeighbourDistance, Reference
from catwalk.errors import CatwalkError

NETWORK = make_network()
IMAGES, AIMS, KEYS = make_batch(6)
DECLARED = AIMS.flip(0)
TARGETS = torch.stack([AIMS, DECLARED], dim=1)


def attack_with(detector, **settings):
    attack = EvadingPGD(detector, **settings)
    with torch.no_grad():
        features = NETWORK.features(make_levels(40, seed=5).float() / 255)
    attack.score = detector.fitted(Reference(features, torch.arange(40) % 5))
    return attack


def by_hand(attack, images, targets, keys):
    """The steps in the plainest form, an image at a time: each point with its margin, its score, and its gradient."""
    for image, (aim, declared), key in zip(images, targets, keys, strict=True):
        clean, points = image[None], []
        current = PGD(attack.threat_model.epsilon, seed=attack.seed)
        start = copy.copy(current)
        start.iterations = 0
        current, _ = start.perturb(NETWORK, clean, aim[None], key[None])
        for number in range(attack.iterations + 1):
            point = current.detach().requires_grad_()
            logits = NETWORK(point)
            score = attack.score(NETWORK, point, logits, declared[None])[0]
            rivals = [value for place, value in enumerate(logits[0].tolist()) if place != int(aim)]
            margin = logits[0, aim].item() - max(rivals)
            points.append(
                (margin >= attack.margin, -score.item() if margin >= attack.margin else margin, point.detach())
            )
            loss = F.cross_entropy(logits, aim[None])
            if attack.weight is not None:
                loss = loss + attack.weight * score
            elif margin >= attack.margin:
                loss = score
            (gradient,) = torch.autograd.grad(loss, point)
            ball = attack.threat_model.epsilon / 255
            moved = point.detach() - attack.step / 255 * gradient.sign()
            current = torch.clamp(torch.clamp(moved, clean - ball, clean + ball), 0, 1)
            if number == attack.iterations:
                break
        yield max(points, key=lambda entry: entry[:2])[2][0]


@pytest.mark.parametrize("weight", [None, 0.7])
@pytest.mark.parametrize("detector", [DeclaredCategory(), NeighbourDistance()])
def test_steps_and_choice_are_those_by_hand(detector, weight) -> None:
    attack = attack_with(detector, epsilon=40, iterations=8, weight=weight, margin=0.1)
    found, iterations = attack.perturb(NETWORK, IMAGES, TARGETS, KEYS)
    expected = torch.stack(list(by_hand(attack, IMAGES, TARGETS, KEYS)))
    assert torch.allclose(found, expected, atol=1e-6)
    assert iterations.tolist() == [8] * 6


@pytest.mark.parametrize("detector", [DeclaredCategory(), NeighbourDistance()])
def test_it_is_less_suspect_than_pgd_where_both_succeed(detector) -> None:
    attack = attack_with(detector, epsilon=64, iterations=60)
    evading = attack(NETWORK, IMAGES, TARGETS, keys=KEYS)
    plain = PGD(epsilon=64, iterations=60)(NETWORK, IMAGES, AIMS, keys=KEYS)
    both = evading.success & plain.success
    assert both.sum() >= 3
    with torch.no_grad():
        scores = [attack.score(NETWORK, r.images, NETWORK(r.images), DECLARED)[both] for r in (evading, plain)]
    assert (scores[0] < scores[1]).all()


def test_an_untargeted_attack_leaves_the_category() -> None:
    attack = attack_with(NeighbourDistance(), epsilon=64, iterations=40, targeted=False)
    seen = NETWORK(IMAGES).argmax(1)
    result = attack(NETWORK, IMAGES, torch.stack([seen, seen], dim=1), keys=KEYS)
    left = NETWORK(result.images).argmax(1) != seen
    assert torch.equal(result.success, left)
    assert left.sum() >= 3


def scene(**settings):
    random = torch.Generator().manual_seed(0)
    features = torch.randn(200, 32, generator=random)
    known = {"declared": torch.arange(200) % 5, "keys": torch.arange(200) * 31} | settings
    categories = torch.zeros(200, dtype=torch.int64)
    items = torch.tensor([3, 8, 10])
    return AttackContext(items, [str(n) for n in range(200)], 4, list("abcde"), features, categories, None, **known)


def test_the_attacker_has_the_detector_as_it_is_fitted_to_the_items_of_its_role() -> None:
    attack, roles = EvadingPGD(NeighbourDistance(neighbours=1), roles=ItemRoles(0.5, 0.2)), ItemRoles(0.5, 0.2)
    found = scene()
    assert attack.targets_of(found).tolist() == [[4, 3], [4, 3], [4, 0]]
    trusted = roles.has("fit", found.keys).numpy()
    images = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    own, declared = NETWORK.features(images).detach().numpy(), np.array([3, 3, 0])
    scores = attack.score(NETWORK, images, NETWORK(images), torch.from_numpy(declared)).tolist()
    for image, category, score in zip(own, declared, scores, strict=True):
        among = found.features.numpy()[trusted & (found.declared.numpy() == category)]
        assert score == pytest.approx(np.linalg.norm(among - image, axis=1).min(), rel=1e-5)


def test_what_it_must_know_and_does_not() -> None:
    with pytest.raises(CatwalkError, match="must know the items' declared categories"):
        EvadingPGD(NeighbourDistance()).targets_of(scene(declared=None))
    with pytest.raises(CatwalkError, match="is not fitted yet"):
        EvadingPGD(NeighbourDistance())(NETWORK, IMAGES, TARGETS, keys=KEYS)
    attack = EvadingPGD(NeighbourDistance())
    attack.score = attack.detector.fitted(Reference(torch.randn(9, 7), torch.arange(9) % 5))
    with pytest.raises(CatwalkError, match="fitted to 7 features, and the network gives 32"):
        attack(NETWORK, IMAGES, TARGETS, keys=KEYS)
    attack = attack_with(DeclaredCategory())
    with pytest.raises(CatwalkError, match="targets: must be in 0"):
        attack(NETWORK, IMAGES, TARGETS + torch.tensor([5, 0]), keys=KEYS)
    with pytest.raises(ValueError, match="the category to aim at and the declared one"):
        attack(NETWORK, IMAGES, AIMS, keys=KEYS)


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"margin": float("nan")}, {"iterations": 0}, {"step": 0.0}])
def test_arguments_that_make_no_sense(arguments) -> None:
    with pytest.raises(CatwalkError, match=next(iter(arguments))):
        EvadingPGD(NeighbourDistance(), **arguments)
