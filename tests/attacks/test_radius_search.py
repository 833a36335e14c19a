"""What DDN and FMN have in common, against planes, whose distance is known, and against C&W."""

import math

import pytest
import torch
from least_change_cases import (
    Halves,
    LinearNetwork,
    MovedFromTheBorder,
    at_the_border,
    halves,
    inner_images,
)

from catwalk.attacks import DDN, FMN, PGD, Attack
from catwalk.attacks.least_change import as_saved
from catwalk.attacks.threat_model import l2_levels, linf_levels
from catwalk.errors import CatwalkError

EACH = {"ddn": DDN, "fmn in l2": lambda **settings: FMN("l2", **settings), "fmn": lambda **s: FMN("linf", **s)}
each = pytest.mark.parametrize("make_attack", EACH.values(), ids=EACH.keys())


def lengths(attack, images, clean):
    """Distances in the attack's norm, in images in [0, 1]."""
    return (linf_levels if attack.threat_model.norm == "linf" else l2_levels)(images, clean).double() / 255


@each
@pytest.mark.parametrize("targeted", [True, False])
def test_reaches_a_plane_at_its_distance(make_attack, targeted):
    images = inner_images(9)
    network, in_l2, in_linf = halves(images)
    attack = make_attack(iterations=300, rounded=False, targeted=targeted)
    result = attack(network, images, torch.full((9,), int(targeted)))
    assert result.success.all()
    expected = in_linf if attack.threat_model.norm == "linf" else in_l2
    found = lengths(attack, result.images, images)
    assert (found >= expected * (1 - 1e-4)).all(), "nothing is nearer"
    assert (found <= expected * 1.005).all()


@each
@pytest.mark.parametrize("targeted", [True, False])
def test_reaches_the_8_bit_image_next_to_a_plane(make_attack, targeted):
    images = inner_images(9)
    network, in_l2, in_linf = halves(images)
    attack = make_attack(targeted=targeted)
    result = attack(network, images, torch.full((9,), int(targeted)))
    assert result.success.all()
    assert torch.equal(as_saved(result.images, None), result.images)
    found = lengths(attack, result.images, images)
    if attack.threat_model.norm == "linf":
        # All values move by as many whole levels as lie beyond the plane.
        assert (found * 255).round().tolist() == (in_linf * 255).ceil().tolist()
    else:
        assert (found > in_l2).all()
        # Rounding λw to whole levels adds 1/12 to each squared value.
        assert (found <= 1.01 * (in_l2.square() + 243 / 12 / 255**2).sqrt()).all()


@each
def test_reaches_the_nearest_of_several_planes(make_attack):
    """A target's own half-space where the others hold there, too, and for an untargeted attack the nearest of all."""
    network, images = LinearNetwork(), inner_images(24)
    weight, bias = network[1].weight.detach().double(), network[1].bias.detach().double()
    logits = images.double().flatten(1) @ weight.T + bias
    seen = logits.argmax(dim=1)
    attack = make_attack(iterations=300, rounded=False)
    dual = (lambda w: w.abs().sum(-1)) if attack.threat_model.norm == "linf" else (lambda w: w.norm(dim=-1))
    differences = weight[None] - weight[seen][:, None]
    gaps = logits.gather(1, seen[:, None]) - logits
    distances = torch.where(gaps > 0, gaps / dual(differences).clamp(min=1e-9), math.inf)

    away = make_attack(iterations=300, rounded=False, targeted=False)(network, images, seen)
    nearest, targets = distances.min(dim=1)
    assert away.success.all()
    found = lengths(attack, away.images, images) / nearest
    assert found.min() >= 1 - 1e-4, "nothing is nearer"
    assert found.mean() <= 1.01

    # The category beyond the nearest plane is seen there: on the way no other is.
    towards = attack(network, images, targets)
    assert towards.success.all()
    found = lengths(attack, towards.images, images) / nearest
    assert found.min() >= 1 - 1e-4
    assert found.mean() <= 1.01


@each
def test_finds_what_pgd_finds_where_all_values_are_at_the_border(make_attack):
    network, images, targets = MovedFromTheBorder(), at_the_border(9), torch.ones(5).long()
    assert PGD(epsilon=8.0)(network, images, targets, keys=torch.arange(5)).success.all()
    result = make_attack()(network, images, targets)
    assert result.success.all()
    moved = (result.images - images).abs().flatten(1) * 255
    assert (moved.mean(dim=1) > 2.4).all()
    assert (moved.mean(dim=1) < 3.1).all()


@each
def test_what_is_wanted_already_is_left_at_once(make_attack):
    images = inner_images(20)
    network = Halves(torch.ones(3, 9, 9), torch.tensor(float((images.flatten(1).sum(dim=1)).median())))
    result = make_attack(iterations=60)(network, images, torch.ones(20).long())
    wanted = network(images).argmax(dim=1) == 1
    assert 0 < wanted.sum() < 20
    assert result.success.all()
    assert torch.equal(result.images[wanted], images[wanted])
    assert (result.images != images).flatten(1).any(dim=1)[~wanted].all()
    assert (result.iterations[wanted] == 1).all()


def test_nothing_is_nearer_than_a_level():
    """In L-infinity an image is done at one level; the others go on without it."""
    images = inner_images(20)
    weight = torch.ones(3, 9, 9)
    # The sum that each image must reach lies from 0.1 to 2 levels off in all values, by what it is.
    images[:, 0, 0, 0] = torch.linspace(100, 138, 20).round() / 255
    needed = torch.linspace(0.1, 2, 20) * 243 / 255

    class Own(torch.nn.Module):
        def forward(self, shown):
            first = ((shown[:, 0, 0, 0] * 255 - 100) / 2).round().clamp(0, 19).long()
            rest = weight.numel() * (shown - clean[first]).mean(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(rest), rest - needed[first]], dim=1)

    clean = images.clone()
    result = FMN("linf", iterations=30, check_every=10)(Own(), images, torch.ones(20).long())
    assert result.success.all()
    found = (linf_levels(result.images, images)).round()
    assert found.min() == 1
    assert (result.iterations[found == 1] < 15).all()
    assert (result.iterations[found > 1] > 15).all()


@each
def test_an_image_ends_where_its_distance_falls_no_more(make_attack):
    images = inner_images(9)
    network, _, _ = halves(images)
    targets = torch.ones(9).long()
    whole = make_attack(iterations=200, check_every=200)(network, images, targets)
    result = make_attack(iterations=200, check_every=20)(network, images, targets)
    assert whole.iterations.tolist() == [200] * 9
    # Not in the first half, and at a check alone.
    assert (result.iterations > 100).all()
    assert (result.iterations % 20 == 0).all()
    assert (result.iterations < 200).any()
    attack = make_attack()
    found, least = (lengths(attack, those.images, images) for those in (result, whole))
    assert (found <= 1.01 * least).all()


@each
def test_failure_gives_the_clean_image(make_attack):
    network, images = LinearNetwork(), inner_images(5)
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([3.0, 2, 1, 2.5]))
    result = make_attack(iterations=20)(network, images, torch.full((5,), 2))
    assert not result.success.any()
    assert torch.equal(result.images, images)
    assert result.iterations.tolist() == [20] * 5
    with torch.no_grad():
        network[1].bias.fill_(1.0)  # a tie is no success either
    assert torch.equal(make_attack(iterations=20)(network, images, torch.zeros(5).long()).images, images)


@each
def test_a_border_within_half_a_level_is_crossed(make_attack):
    """Steps that rounding takes away show nothing new: they must grow."""
    images = inner_images(6)
    network = Halves(torch.ones(3, 9, 9), images.flatten(1).sum(dim=1).max() + 1e-4)
    result = make_attack(iterations=100)(network, images, torch.ones(6).long())
    assert result.success.all()


@each
def test_more_steps_are_no_worse(make_attack):
    torch.manual_seed(0)  # of the last layer
    images = inner_images(16)
    network = torch.nn.Sequential(LinearNetwork(12), torch.nn.Tanh(), torch.nn.Linear(12, 4)).eval()
    with torch.no_grad():
        targets = network(images).argsort(dim=1)[:, 1]
    attack = make_attack()
    few, many = (make_attack(iterations=count)(network, images, targets) for count in (20, 200))
    assert (many.success >= few.success).all()
    both = few.success & many.success
    assert both.any()
    means = [lengths(attack, result.images, images)[both].mean() for result in (few, many)]
    assert means[1] < means[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"step": 0.0}, "step: must be a number of grey levels above 0, got 0.0"),
        ({"step": math.inf}, "step: .* got inf"),
        ({"final_step": 0.0}, "final_step: must be a number of grey levels above 0 and at most step, 255, got 0.0"),
        ({"final_step": 256}, "final_step: .* at most step, 255, got 256"),
        ({"gamma": 0.0}, "gamma: must be a share above 0 and below 1, got 0.0"),
        ({"gamma": 1.0}, "gamma: .* got 1.0"),
        ({"final_gamma": -0.1}, "final_gamma: must be a share of at least 0 and at most gamma, 0.05, got -0.1"),
        ({"final_gamma": 0.1}, "final_gamma: .* got 0.1"),
        ({"check_every": 0}, "check_every: must be at least 1, or null for a tenth of iterations, got 0"),
        ({"precision": "bf16"}, "precision: bf16 moves the border between categories"),
    ],
)
@each
def test_refuses_other_values(make_attack, arguments, message):
    with pytest.raises(CatwalkError, match=message):
        make_attack(**arguments)


@each
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_is_chosen_by_class_path(make_attack):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Attack, "attack")
    kind = type(make_attack())
    config = {"class_path": f"catwalk.attacks.{kind.__name__}", "init_args": {"step": "128/255", "final_step": 1}}
    attack = parser.instantiate_classes(parser.parse_object({"attack": config})).attack
    assert (type(attack), attack.step, attack.final_step) == (kind, 128, 1)
