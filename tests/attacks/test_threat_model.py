import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.attacks import APGD, FGSM, MIFGSM, PGD, FeatureMatching, RankAttack, ThreatModel, ThreatModelError
from catwalk.attacks.threat_model import grey_levels, l2_levels, linf_levels
from catwalk.errors import CatwalkError


def random_levels(number, size=6, seed=0):
    """Grey levels of which many are exactly 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(-100, 356, (number, 3, size, size), generator=generator)
    return levels.clamp(0, 255).to(torch.uint8)


def to_images(levels):
    return levels.to(torch.float32) / 255


def noise(images, length, seed=1):
    """Perturbations in grey levels, uniform in [-length, length]."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(images.shape, generator=generator) * 2 - 1) * length / 255


@pytest.mark.parametrize(
    ("written", "levels"),
    [
        ("8/255", 8.0),
        (" 8 / 255 ", 8.0),
        ("0.5/255", 0.5),
        ("4/510", 2.0),
        ("1/2", 127.5),
        ("8", 8.0),
        ("1e1", 10.0),
        (8, 8),
        (0.3, 0.3),
    ],
)
def test_grey_levels_may_be_written_as_a_share(written, levels):
    assert grey_levels(written) == levels
    for attack in (FGSM(written), MIFGSM(written), PGD(written), APGD(written), FeatureMatching(written)):
        assert attack.threat_model.epsilon == levels
    assert RankAttack(written, step=written).step == levels
    assert MIFGSM(step=written).step == PGD(step=written).step == levels


@pytest.mark.parametrize("written", ["", "eight", "8/0", "8/255/2", "/255", "8/", "nan", "inf", "8:255", "1e999"])
def test_what_are_no_grey_levels(written):
    message = "epsilon: must be a number of grey levels, such as 8, or a share of .* 8/255, .*; got "
    for make in (FGSM, MIFGSM, PGD, APGD, FeatureMatching, RankAttack):
        with pytest.raises(CatwalkError, match=message):
            make(written)
    with pytest.raises(CatwalkError, match=r"^step: must be a number of grey levels"):
        PGD(step=written)
    with pytest.raises(CatwalkError, match=r"^epsilon: .* 0 or above"):
        PGD("-8/255")


@pytest.mark.parametrize("epsilon", [0.03, 8 / 255, 0.499, "0.3/255"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_epsilon_that_8_bits_cannot_show(epsilon, norm):
    attack = PGD(epsilon, norm=norm, iterations=1, random_start=False)
    with pytest.raises(CatwalkError, match=r"^PGD\.epsilon: .* less than half a grey level.*: write .*/255 as text"):
        attack.check_eight_bit()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 2))
    with pytest.warns(UserWarning, match="less than half a grey level"):  # its images are of floating-point numbers
        attack(network, torch.full((1, 3, 3, 3), 0.5), torch.tensor([1]))
    PGD(0.5, norm=norm).check_eight_bit()


def test_the_remedy_is_what_was_meant():
    with pytest.raises(CatwalkError, match=r"0\.03137 is less .*: write 8, or 8/255 as text, for 8/255 of the range"):
        PGD(8 / 255).check_eight_bit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1"}, "norm: must be one of linf, l2, l0, got 'l1'"),
        ({"quantisation": "ceil"}, "quantisation: must be one of inside, round, truncate, got 'ceil'"),
        ({"epsilon": -8.0}, "epsilon: .*, got -8.0"),
        ({"epsilon": math.nan}, "epsilon: .*, got nan"),
        ({"epsilon": math.inf}, "epsilon: .*, got inf"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        ThreatModel(**{"norm": "linf", "epsilon": 8.0, **arguments})


def test_distances_equal_numpy():
    levels, clean_levels = random_levels(5), random_levels(5, seed=3)
    differences = levels.numpy().reshape(5, -1).astype(np.int64) - clean_levels.numpy().reshape(5, -1)
    for function, order in ((linf_levels, np.inf), (l2_levels, 2)):
        expected = np.linalg.norm(differences, ord=order, axis=1)
        assert np.array_equal(function(levels, clean_levels).numpy(), expected)
        of_floats = function(to_images(levels), to_images(clean_levels))
        np.testing.assert_allclose(of_floats.numpy(), expected, rtol=1e-6)


def test_distances_refuse_unlike_tensors():
    levels = random_levels(2)
    with pytest.raises(ValueError, match="same shape and dtype"):
        linf_levels(levels, to_images(levels))
    with pytest.raises(ValueError, match="same shape and dtype"):
        l2_levels(levels, levels[:1])


def test_linf_projection_is_the_nearest_allowed_point():
    clean = to_images(random_levels(4))
    images = clean + noise(clean, 40)
    projected = ThreatModel("linf", 8.0).project(images, clean)
    # The allowed set is a box, so the nearest point is had by clipping to its sides.
    lower, upper = (clean.double() - 8 / 255).clamp(min=0), (clean.double() + 8 / 255).clamp(max=1)
    expected = torch.minimum(torch.maximum(images.double(), lower), upper)
    torch.testing.assert_close(projected.double(), expected, atol=1e-7, rtol=0)


def test_l2_projection_scales_what_is_outside_and_leaves_the_rest():
    clean = torch.full((3, 3, 4, 4), 0.5)
    images = clean.clone()
    images[1, 0, 0, 0] += 5 / 255
    images[2, 0, 0, :2] += torch.tensor([30, -40]) / 255
    projected = ThreatModel("l2", 10.0).project(images, clean)
    expected = images.clone()
    expected[2, 0, 0, :2] = clean[2, 0, 0, :2] + torch.tensor([6, -8]) / 255
    torch.testing.assert_close(projected, expected)


def test_projection_without_budget_only_clips():
    images = torch.tensor([-0.5, 0.25, 1.5]).reshape(1, 3, 1, 1)
    projected = ThreatModel("l2", None).project(images, torch.zeros(1, 3, 1, 1))
    assert projected.flatten().tolist() == [0, 0.25, 1]


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(0.3, 40),
    spread=st.floats(0, 60),
    seed=st.integers(0, 1000),
)
def test_whatever_is_projected_verifies_and_quantises_inside(norm, epsilon, spread, seed):
    threat_model = ThreatModel(norm, epsilon)
    clean_levels = random_levels(3, seed=seed)
    clean = to_images(clean_levels)
    images = threat_model.project(clean + noise(clean, spread, seed), clean)
    threat_model.verify(images, clean)
    levels = threat_model.quantise(images, clean)
    differences = levels.numpy().astype(np.int64) - clean_levels.numpy()
    if norm == "linf":
        assert abs(differences).max() <= epsilon
    else:
        assert (differences.reshape(3, -1) ** 2).sum(axis=1).max() <= epsilon**2
    threat_model.verify_levels(levels, clean_levels)


def test_linf_quantises_to_the_nearest_level_inside():
    clean_levels = torch.full((1, 3, 1, 2), 100, dtype=torch.uint8)
    moves = torch.tensor([2.3, -2.3, 1.6, 1.4, -0.6, 0.0])
    images = (clean_levels + moves.reshape(1, 3, 1, 2)) / 255
    clean = to_images(clean_levels)
    assert (ThreatModel("linf", 2.3).quantise(images, clean).flatten() - 100.0).tolist() == [2, -2, 2, 1, -1, 0]
    # 2.7 would round to 3, which is outside.
    images = (clean_levels + torch.tensor([2.7, -2.7, 0, 0, 0, 0]).reshape(1, 3, 1, 2)) / 255
    assert (ThreatModel("linf", 2.7).quantise(images, clean).flatten() - 100.0).tolist() == [2, -2, 0, 0, 0, 0]
    assert (ThreatModel("linf", 0.5).quantise(images, clean) == 100).all()


def test_l2_undoes_the_least_of_the_rounding():
    clean_levels = torch.full((1, 3, 1, 2), 100, dtype=torch.uint8)
    # Rounds to (3, 2, -2, 1, 0, 0), of squared length 18; the ball admits 14.
    moves = torch.tensor([2.6, 1.7, -1.55, 0.8, 0.4, 0.0])
    images = (clean_levels + moves.reshape(1, 3, 1, 2)) / 255
    threat_model = ThreatModel("l2", math.sqrt(14.5))
    levels = threat_model.quantise(images, to_images(clean_levels))
    # -1.55 was carried furthest and goes to -1 (15), then 2.6 goes to 2 (10).
    assert (levels.flatten() - 100.0).tolist() == [2, 2, -1, 1, 0, 0]
    # Nothing is undone where the rounded image is inside.
    levels = ThreatModel("l2", math.sqrt(18.5)).quantise(images, to_images(clean_levels))
    assert (levels.flatten() - 100.0).tolist() == [3, 2, -2, 1, 0, 0]


def test_other_quantisations_round_and_truncate_and_may_leave_the_ball_by_so_much():
    clean_levels = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    clean = to_images(clean_levels)
    images = (clean_levels + torch.tensor([2.6, -2.6, 0.4]).reshape(1, 3, 1, 1)) / 255
    for quantisation, expected in (("round", [103, 97, 100]), ("truncate", [102, 97, 100])):
        threat_model = ThreatModel("linf", 2.6, quantisation)
        levels = threat_model.quantise(images, clean)
        assert levels.flatten().tolist() == expected
        threat_model.verify_levels(levels, clean_levels)
        with pytest.raises(ThreatModelError):
            threat_model.verify_levels(levels - 1, clean_levels)
        with pytest.raises(ThreatModelError):
            ThreatModel("linf", 2.6).verify_levels(levels, clean_levels)


def test_quantise_refuses_clean_images_between_levels():
    clean = torch.full((1, 3, 2, 2), 100.4 / 255)
    with pytest.raises(ValueError, match="clean: must be 8-bit"):
        ThreatModel("linf", 0.3).quantise(clean, clean)


@pytest.mark.parametrize("epsilon", [1, 2.3, 8.0, 40])
def test_verify_levels_is_exact_to_one_level(epsilon):
    clean_levels = random_levels(5).clamp(50, 150)
    threat_model = ThreatModel("linf", epsilon)
    reach = math.floor(epsilon)
    for sign in (1, -1):
        levels = clean_levels.clone()
        levels[3, 1, 2, 2] = int(levels[3, 1, 2, 2]) + sign * reach
        threat_model.verify_levels(levels, clean_levels)
        levels[3, 1, 2, 2] = int(levels[3, 1, 2, 2]) + sign
        with pytest.raises(ThreatModelError, match=f"image 3 is {reach + 1} grey levels .* budget of {epsilon:g} grey"):
            threat_model.verify_levels(levels, clean_levels)
        with pytest.raises(ThreatModelError, match="image 103 "):
            threat_model.verify_levels(levels, clean_levels, first=100)


def test_verify_levels_is_exact_in_l2():
    clean_levels = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    levels = clean_levels.clone()
    levels[1, 0, 0, :2] = torch.tensor([103, 96])
    ThreatModel("l2", 5).verify_levels(levels, clean_levels)
    levels[1, 2, 3, 3] += 1
    with pytest.raises(
        ThreatModelError, match=r"image 1 is 5\.09902 grey levels .* in l2, beyond its budget of 5 grey"
    ):
        ThreatModel("l2", 5).verify_levels(levels, clean_levels)


@pytest.mark.parametrize(("norm", "distance"), [("linf", 8.01), ("l2", 8.01)])
def test_verify_notices_a_hundredth_of_a_level(norm, distance):
    clean = to_images(random_levels(4)).clamp(0.2, 0.8)
    images = clean.clone()
    images[2, 0, 3, 3] += 8 / 255
    ThreatModel(norm, 8.0).verify(images, clean)
    images[2, 0, 3, 3] = clean[2, 0, 3, 3] - distance / 255
    with pytest.raises(
        ThreatModelError, match=f"image 2 is {distance}.* in {norm}, beyond its budget of 8 grey levels"
    ):
        ThreatModel(norm, 8.0).verify(images, clean)
    ThreatModel(norm, None).verify(images, clean)


@pytest.mark.parametrize("value", [math.nan, -0.001, 1.001, math.inf])
@pytest.mark.parametrize("epsilon", [8.0, None])
def test_verify_refuses_values_that_are_no_colour(value, epsilon):
    clean = torch.ones(3, 3, 2, 2) * (value > 0.5)
    images = clean.clone()
    images[1, 2, 1, 0] = value
    threat_model = ThreatModel("linf", epsilon)
    with pytest.raises(ThreatModelError, match=r"adversarial image 1 holds .* outside 0 to 255"):
        threat_model.verify(images, clean)
    with pytest.raises(ThreatModelError, match="clean image 1 holds"):
        threat_model.verify(clean, images)
    with pytest.raises(ThreatModelError, match="adversarial image 1 holds"):
        threat_model.quantise(images, clean)


def test_verify_refuses_other_shapes_and_dtypes():
    threat_model, clean = ThreatModel("linf", 8.0), torch.zeros(2, 3, 4, 4)
    for images in (clean.double(), clean.half(), clean.to(torch.uint8), clean[0], clean[:, :1], clean[:1]):
        with pytest.raises(ThreatModelError):
            threat_model.verify(images, clean)
    levels = clean.to(torch.uint8)
    for other in (clean, levels.long(), levels[0], levels[:, :1], levels[:, :, :2]):
        with pytest.raises(ThreatModelError):
            threat_model.verify_levels(other, levels)
    threat_model.verify(clean, clean)
    threat_model.verify_levels(levels, levels)
    threat_model.verify(clean[:0], clean[:0])
    threat_model.verify_levels(levels[:0], levels[:0])


@pytest.mark.parametrize("epsilon", [math.nextafter(8.0, 0), 8.0, math.nextafter(8.0, 9)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_quantises_inside_to_the_last_digit_of_epsilon(norm, epsilon):
    clean_levels = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    clean = to_images(clean_levels)
    images = clean.clone()
    images[0, 0] += 8 / 255
    threat_model = ThreatModel(norm, epsilon)
    levels = threat_model.quantise(images, clean)
    assert (levels.flatten() - 100.0).tolist() == [7.0 if epsilon < 8 else 8.0, 0, 0]
    threat_model.verify_levels(levels, clean_levels)
