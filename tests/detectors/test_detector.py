"""What all detectors share: scores that do not depend on batches, and roles that no item has two of."""

import numpy as np
import pytest
import torch

from catwalk.detectors import DeclaredCategory, FeatureSqueezing, ItemRoles, NeighbourDistance, Reference
from catwalk.detectors.detector import scores_of
from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network

DETECTORS = [
    FeatureSqueezing(window=3),
    NeighbourDistance(),
    NeighbourDistance("mahalanobis", "predicted"),
    DeclaredCategory(),
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("catwalk.networks.compact_cnn", {"width": 4}, num_classes=5).eval()


@pytest.fixture(scope="module")
def levels():
    random = np.random.default_rng(0)
    sizes = [(9, 9)] * 20 + [(8, 11)] * 3  # of which the last run alone
    return [random.integers(256, size=(3, *size), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.title)
def test_a_score_is_the_same_in_every_batch(detector, network, levels) -> None:
    random = torch.Generator().manual_seed(1)
    declared = torch.randint(5, (23,), generator=random)
    reference = Reference(torch.randn(50, 32, generator=random), torch.randint(5, (50,), generator=random))
    score = detector.fitted(reference)
    found = [scores_of(score, network, levels, declared, size) for size in (1, 16, 64)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    order = torch.randperm(23, generator=random)
    shuffled = scores_of(score, network, [levels[row] for row in order], declared[order])
    assert torch.equal(shuffled, found[0][order])
    network.train()
    again = scores_of(score, network, levels, declared)
    assert network.training
    assert torch.equal(again, found[0])
    network.eval()
    assert scores_of(score, network, [], declared[:0]).shape == (0,)


def test_a_score_that_is_no_number(network, levels) -> None:
    def score(network, images, logits, declared):
        return logits[:, 0] * torch.nan

    with pytest.raises(CatwalkError, match="not finite"):
        scores_of(score, network, levels, torch.zeros(23, dtype=torch.int64))


def test_every_item_has_one_role_whatever_the_catalogue() -> None:
    keys = torch.arange(5000) * 7919
    roles = ItemRoles(fit=0.2, calibrate=0.5)
    has = {role: roles.has(role, keys) for role in ("fit", "calibrate", "judge")}
    assert torch.equal(torch.stack(list(has.values())).sum(0), torch.ones(5000, dtype=torch.int64))
    for role, share in (("fit", 0.2), ("calibrate", 0.5), ("judge", 0.3)):
        assert float(has[role].double().mean()) == pytest.approx(share, abs=0.03)
        assert torch.equal(roles.has(role, keys.flip(0)[:100]), has[role].flip(0)[:100])
    assert not torch.equal(ItemRoles(0.2, 0.5, seed=1).has("fit", keys), has["fit"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"fit": 0.0}, "roles.fit"), ({"calibrate": 1.0}, "roles.calibrate"), ({"fit": 0.6, "calibrate": 0.4}, "below 1")],
)
def test_roles_that_leave_nothing(arguments: dict, message: str) -> None:
    with pytest.raises(CatwalkError, match=message):
        ItemRoles(**arguments)
