"""A recommender that is trained against shifts of features, by plain loops over all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.image_robust_vbpr import ImageRobustVBPRModel, ImageRobustVBPRSettings
from catwalk.recommenders.reachable_shifts import SHIFTS_FILE, ReachableShifts, ShiftSettings, reachable_drop
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings

NUM_USERS, NUM_ITEMS, NUM_FEATURES, SHIFTS = 5, 7, 6, 4
BATCH = tuple(map(torch.tensor, ([0, 3, 3, 1, 3, 0], [2, 5, 5, 0, 2, 2], [5, 2, 1, 6, 1, 4])))


def make_model(kind=ImageRobustVBPRModel, settings=ImageRobustVBPRSettings, **arguments):
    """A model in float64 with parameters large enough for every term to matter."""
    random = torch.Generator().manual_seed(1)
    made = kind(NUM_USERS, NUM_ITEMS, NUM_FEATURES, settings(factors=3, visual_factors=2, **arguments)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    made.look_at(FeatureRows(torch.randint(-256, 257, (NUM_ITEMS, NUM_FEATURES), generator=random) / 64), 3.0)
    return made


def make_shifts():
    return torch.randint(-64, 65, (NUM_ITEMS, SHIFTS, NUM_FEATURES), generator=torch.Generator().manual_seed(2)) / 64


def plain_worst(model, shifts, user, bought, other):
    """The least difference of two scores over all pairs of shifts, no shift included, from scores written out."""
    weights = dict(model.named_parameters())

    def score(item, shift):
        f = (model.features.features[item].double() + shift) / model.feature_scale
        rho = weights["visual_users.weight"][user]
        value = weights["users.weight"][user] @ weights["items.weight"][item]
        value = value + rho @ (weights["projection"].T @ f)
        if "visual_bias" in weights:
            value = value + weights["visual_bias"][:, 0] @ f
        return value

    none = torch.zeros(NUM_FEATURES, dtype=torch.float64)
    pairs = [
        score(bought, first) - score(other, second)
        for first in (none, *shifts[bought].double())
        for second in (none, *shifts[other].double())
    ]
    return min(pairs, key=lambda value: value.item())


@pytest.mark.parametrize("arguments", [{}, {"visual_bias": True, "reduction": "sum"}, {"adversarial_weight": 2.0}])
def test_the_loss_and_its_gradients_are_those_of_the_worst_of_all_pairs_of_shifts(arguments):
    settings = {"regularization": 0.3, "projection_regularization": 0.07, **arguments}
    model, shifts = make_model(**settings), make_shifts()
    model.be_ready_for(FeatureRows(shifts.flatten(1)))
    loss = model.loss(*BATCH)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    weight = settings.pop("adversarial_weight", 0.1)
    plain = make_model(VBPRModel, VBPRSettings, **settings)
    worst = torch.stack([plain_worst(plain, shifts, *row) for row in zip(*(b.tolist() for b in BATCH), strict=True)])
    adversarial = F.softplus(-worst).sum() if settings.get("reduction") == "sum" else F.softplus(-worst).mean()
    expected = plain.loss(*BATCH) + weight * adversarial
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for got, wanted in zip(ours, torch.autograd.grad(expected, list(plain.parameters())), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


def test_without_weight_it_is_vbpr_to_the_bit():
    with_it, without = make_model(adversarial_weight=0.0), make_model(VBPRModel, VBPRSettings)
    assert torch.equal(with_it.loss(*BATCH), without.loss(*BATCH))


def test_no_mixture_of_shifts_is_worse_than_the_worst_of_them():
    """A score is linear: its extremes over the convex hull, with no shift at all in it, lie at the corners."""
    random = torch.Generator().manual_seed(4)
    directions, bought, others = (torch.randn(shape, generator=random) for shape in ((50, 6), (50, 4, 6), (50, 4, 6)))
    drop = reachable_drop(directions, bought, others)
    assert (drop >= 0).all()
    shares = torch.distributions.Dirichlet(torch.full((5,), 0.3)).sample((200, 50))[..., :4]
    for first, second in zip(shares[:100], shares[100:], strict=True):
        moved = [torch.einsum("bj,bjd->bd", share, part) for share, part in ((first, bought), (second, others))]
        assert (((moved[1] - moved[0]) * directions).sum(1) <= drop + 1e-5).all()
    still = torch.zeros(50, 4, 6)
    assert torch.equal(reachable_drop(directions, still, still), torch.zeros(50))


def test_shifts_are_no_part_of_what_was_learnt():
    model = make_model()
    before = list(model.state_dict())
    model.be_ready_for(FeatureRows(make_shifts().flatten(1)))
    assert list(model.state_dict()) == before == list(make_model(VBPRModel, VBPRSettings).state_dict())
    with pytest.raises(ValueError, match=r"no shifts to train against: give them by be_ready_for\(shifts\)"):
        make_model().loss(*BATCH)


@pytest.fixture
def table():
    return FeatureTable(
        features=torch.rand(NUM_ITEMS, NUM_FEATURES),
        categories=np.zeros(NUM_ITEMS, np.int64),
        probabilities=np.ones(NUM_ITEMS, np.float32),
        category_names=("a",),
        scale=1.0,
        catalogue="these items",
        network="this network",
    )


@pytest.fixture
def written(tmp_path, table):
    found = ReachableShifts(
        make_shifts(), torch.eye(6)[:2].clone(), ShiftSettings(4.0, 2, 3), table.catalogue, table.network
    )
    found.write(tmp_path)
    return found


def test_a_file_holds_what_was_found(tmp_path, table, written):
    found = ReachableShifts.read(tmp_path, table)
    assert torch.equal(found.shifts, written.shifts)
    assert torch.equal(found.directions, written.directions)
    assert (found.settings, found.catalogue, found.network) == (written.settings, table.catalogue, table.network)


def test_what_does_not_fit_is_refused(tmp_path, table, written):
    for changed, message in (("catalogue", "another catalogue"), ("network", "another network")):
        with pytest.raises(CatwalkError, match=f"shifts: .* is of {message} than the features; find them again"):
            ReachableShifts.read(tmp_path, replace(table, **{changed: "other"}))
    with pytest.raises(CatwalkError, match=f"shifts: .* holds no {SHIFTS_FILE}; `catwalk predict` with a trained"):
        ReachableShifts.read(tmp_path / "elsewhere", table)
    path = tmp_path / SHIFTS_FILE
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CatwalkError, match="is damaged; find them again"):
        ReachableShifts.read(tmp_path, table)
    path.write_bytes(content[:50])
    with pytest.raises(CatwalkError, match="cannot be read, find them again"):
        ReachableShifts.read(tmp_path, table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.2}, r"shifts\.epsilon must be at least 0.5, got 0.2"),
        ({"directions": 0}, r"shifts\.directions must be at least 1, got 0"),
        ({"iterations": 1.5}, r"shifts\.iterations must be a whole number, got 1.5"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        ShiftSettings(**arguments)
