"""HopSkipJump: the distance of a plane, where it starts, and a peer."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from black_box import grey_images, linear
from every_attack import make_batch, make_network

from catwalk.attacks import HopSkipJump
from catwalk.attacks.hop_skip_jump import _resized
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.study.specifications import attack_of


def distances(images, clean, norm):
    moves = (images - clean).flatten(1)
    return moves.norm(dim=1) if norm == "l2" else moves.abs().amax(dim=1)


@pytest.mark.parametrize(("norm", "within"), [("l2", 1.1), pytest.param("linf", 1.35, marks=pytest.mark.slow)])
def test_comes_as_near_as_the_plane_is(norm, within):
    network, images, keys = linear(4, lead=0.6), grey_images(6, 4), torch.arange(6)
    weight = (network.weight[1] - network.weight[0]).detach()
    logits = network(images).detach()
    nearest = (logits[:, 0] - logits[:, 1]) / (weight.norm() if norm == "l2" else weight.abs().sum())
    attack = HopSkipJump(norm, queries=1200, samples=40, rounded=False, targeted=False)
    result = attack(network, images, torch.zeros(6, dtype=torch.int64), keys=keys)
    found = distances(result.images, images, norm)
    assert result.success.all()
    away = nearest > 0.3 * nearest.max()
    assert away.sum() >= 3
    assert (found[away] >= nearest[away] * 0.999).all(), "nothing nearer succeeds"
    assert float((found[away] / nearest[away]).median()) < within
    assert (found[nearest < 0] == 0).all()
    assert (result.iterations[nearest < 0] == 1).all()


def test_more_queries_come_nearer():
    network, images, keys = linear(4, lead=1.5), grey_images(4, 4), torch.arange(4)
    targets = torch.zeros(4, dtype=torch.int64)
    found = [
        distances(
            HopSkipJump(queries=queries, samples=20, rounded=False, targeted=False)(
                network, images, targets, keys=keys
            ).images,
            images,
            "l2",
        )
        for queries in (60, 700)
    ]
    assert (found[1] < 0.8 * found[0]).all()


def test_what_is_kept_succeeds_when_it_is_rounded():
    network, images, keys = linear(4, lead=1.0), grey_images(8, 4), torch.arange(8)
    targets = torch.zeros(8, dtype=torch.int64)
    exact, rounded = (
        HopSkipJump(queries=600, samples=20, rounded=is_rounded, targeted=False)(network, images, targets, keys=keys)
        for is_rounded in (False, True)
    )
    assert rounded.success.all()
    levels = rounded.images * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    on_file = (exact.images * 255).round() / 255
    assert 0 < int((network(on_file).argmax(1) != 0).sum()) < 8, "rounding undoes some of the others"
    longer = distances(rounded.images, images, "l2") - distances(exact.images, images, "l2")
    assert (longer.abs() * 255 < 8).all()


def test_starts_from_the_images_given():
    network, (images, _, keys) = make_network(), make_batch(30)
    target = int(network(images).argmax(1).mode().values)
    is_target = network(images).argmax(1) == target
    others = images[~is_target]
    targets = torch.full((len(others),), target)
    without, given = HopSkipJump(queries=20, tries=1), HopSkipJump(queries=20, tries=1)
    given.starts = list(images[is_target][:3])
    result = given(network, others, targets, keys=keys[: len(others)])
    assert result.success.all()
    assert not without(network, others, targets, keys=keys[: len(others)]).success.all()
    nearest = torch.cdist(others.flatten(1), torch.stack(given.starts).flatten(1)).amin(dim=1)
    assert (distances(result.images, others, "l2") <= nearest + 1e-4).all()


def test_a_start_of_another_size_is_resized():
    image = torch.tensor([0.2, 0.5, 1.0])[:, None, None].expand(3, 12, 7)
    resized = _resized(image, torch.zeros(1, 3, 9, 9))
    torch.testing.assert_close(resized, torch.tensor([0.2, 0.5, 1.0])[:, None, None].expand(3, 9, 9))
    network, (images, targets, keys) = make_network(), make_batch(3)
    attack = HopSkipJump(queries=40, tries=3)
    attack.starts = [image, torch.rand(3, 20, 20)]
    assert attack(network, images, targets, keys=keys).images.shape == images.shape


def test_starts_from_the_catalogue(trained, tmp_path):
    attack = HopSkipJump(queries=120, samples=4, tries=2)
    arguments = trained.classifier, attack, trained.catalogue, trained.table, tmp_path
    poison(*arguments, source="Sandal", target="Sneaker")
    summary = read_summary(tmp_path)
    assert (summary.attack, summary.access, summary.epsilon) == ("HopSkipJump (120)", "decisions", None)
    assert summary.sr == 1
    assert 3 < summary.queries <= 120
    assert attack.starts == (), "the attack itself is as it was"


def test_where_no_start_succeeds_the_image_stays_clean():
    network, images = linear(4, lead=100.0), grey_images(3, 4)
    result = HopSkipJump(tries=5)(network, images, torch.ones(3, dtype=torch.int64), keys=torch.arange(3))
    assert torch.equal(result.images, images)
    assert not result.success.any()
    assert result.iterations.tolist() == [6, 6, 6]


def test_names_and_errors():
    assert (HopSkipJump().name, HopSkipJump("linf", 300).name) == ("HopSkipJump (5000)", "HopSkipJump L∞ (300)")
    for settings, message in (
        ({"norm": "l1"}, "norm: must be one of linf, l2, got 'l1'"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
    ):
        with pytest.raises(CatwalkError, match=message):
            HopSkipJump(**settings)


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "hop_skip_jump.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.threat_model.norm) == (HopSkipJump, "HopSkipJump (5000)", "l2")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_comes_as_near_as_foolbox(norm):
    foolbox = pytest.importorskip("foolbox")
    network, (images, _, keys) = make_network(width=16), make_batch(24)
    predicted = network(images).argmax(1)
    counts = []
    network.register_forward_hook(lambda module, arguments, logits: counts.append(len(logits)))
    peer = foolbox.attacks.HopSkipJumpAttack(
        steps=8, initial_gradient_eval_steps=40, stepsize_search="geometric_progression", constraint=norm, gamma=1.0
    )
    torch.manual_seed(0)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, is_adversarial = peer(model, images, predicted, epsilons=None)
    queries = sum(counts) // len(images)
    attack = HopSkipJump(norm, queries=queries, samples=40, rounded=False, targeted=False)
    ours = attack(network, images, predicted, keys=keys)
    both = is_adversarial & ours.success
    assert both.float().mean() > 0.8
    ratio = distances(ours.images, images, norm)[both].median() / distances(theirs, images, norm)[both].median()
    assert float(ratio) < 1.1
