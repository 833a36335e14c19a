"""What all attacks without gradients have in common: what they see, what they ask, and when they stop."""

import dataclasses

import pytest
import torch
from black_box import NoGradients
from every_attack import ALL, BY_DISTANCE, BY_QUERIES, aims, make_batch, make_network

from catwalk.attacks import PGD, FeatureMatching, HopSkipJump, RandomNoise, Square
from catwalk.attacks.queries import Oracle, margins
from catwalk.networks.network import Network

BLACK_BOX = {**BY_QUERIES, **BY_DISTANCE, "list rank attack": ALL["list rank attack"]}
every_black_box = pytest.mark.parametrize("make_attack", BLACK_BOX.values(), ids=BLACK_BOX)


@every_black_box
def test_uses_no_gradient_of_the_network(make_attack):
    images, categories, keys = make_batch(20)
    targets = aims(make_attack(), categories)
    plain = make_attack()(make_network(), images, targets, keys=keys)
    with pytest.raises(AssertionError, match="has asked for one"):
        PGD()(NoGradients(make_network()), images, categories, keys=keys)
    hidden = make_attack()(NoGradients(make_network()), images, targets, keys=keys)
    assert torch.equal(hidden.images, plain.images)
    assert torch.equal(hidden.iterations, plain.iterations)


@every_black_box
def test_never_asks_more_than_it_may(make_attack):
    attack = make_attack()
    images, categories, keys = make_batch(33)
    result = attack(make_network(), images, aims(attack, categories), keys=keys)
    assert result.iterations.min() >= 1
    assert result.iterations.max() <= attack.queries
    assert torch.equal(attack.queries_of(result.iterations), result.iterations)
    forwards, backwards = attack.passes(result.iterations)
    assert torch.equal(forwards, result.iterations)
    assert not backwards.any()


@every_black_box
def test_an_image_that_is_alone_has_the_same_result_for_every_batch_size(make_attack):
    network, (images, categories, keys) = make_network(), make_batch(2)
    results = [
        make_attack(batch_size=size)(network, images, aims(make_attack(), categories), keys=keys, alone=True)
        for size in (1, 64)
    ]
    assert torch.equal(results[0].images, results[1].images)
    assert torch.equal(results[0].iterations, results[1].iterations)


@pytest.mark.parametrize("make_attack", [*BY_QUERIES.values(), *BY_DISTANCE.values()], ids=[*BY_QUERIES, *BY_DISTANCE])
@pytest.mark.parametrize("clip", [True, False])
def test_stays_inside_in_the_normalised_space(make_attack, clip):
    layers = make_network()
    network = Network(layers[:-1], layers[-1], (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).eval()
    images, targets, keys = make_batch(8)
    attack = make_attack()
    attack.threat_model = dataclasses.replace(attack.threat_model, space="normalised", clip=clip)
    result = attack(network, images, targets, keys=keys)  # which verifies the images
    assert not torch.equal(result.images, images)
    assert (result.images - images).abs().max() < 1


@pytest.mark.parametrize("make_attack", BY_DISTANCE.values(), ids=BY_DISTANCE)
@pytest.mark.parametrize("targeted", [True, False])
def test_what_has_no_budget_is_a_success_in_8_bits_or_clean(make_attack, targeted):
    network, (images, _, keys) = make_network(), make_batch(60)
    predicted, runner_up = network(images).topk(2).indices.unbind(1)
    targets = runner_up if targeted else predicted
    result = make_attack(targeted=targeted)(network, images, targets, keys=keys)
    assert torch.equal(result.images[~result.success], images[~result.success])
    levels = result.images * 255
    moved = result.success & (result.images != images).flatten(1).any(1)
    assert moved.any()
    assert (levels - levels.round()).abs().max() < 1e-4


def test_how_much_each_attack_sees():
    seen = {kind: make().access for kind, make in ALL.items()}
    assert {seen[kind] for kind in (*BY_QUERIES, "zoo")} == {"scores"}
    assert (seen["hop skip jump"], seen["list rank attack"], seen["noise"]) == ("decisions", "lists", "nothing")
    assert {seen[kind] for kind in ("fgsm", "pgd", "c&w", "rank attack", "feature matching")} == {"gradients"}
    assert FeatureMatching().queries_of(torch.ones(2)) is None
    assert RandomNoise().queries_of(torch.zeros(2)).tolist() == [0, 0]


def test_decisions_are_all_that_is_seen():
    class Squashed(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            logits = self.network(images)
            return 0.01 * torch.nn.functional.one_hot(logits.argmax(1), 5) + 0 * logits

    network, (images, targets, keys) = make_network(), make_batch(20)
    attack = HopSkipJump(queries=80, samples=4, tries=10)
    for seen in (network, Squashed(network)):
        results = attack(seen, images, targets, keys=keys)
        if seen is network:
            expected = results
    torch.testing.assert_close(results.images, expected.images)


def test_the_margin_is_below_0_exactly_where_the_goal_is_reached():
    logits = torch.tensor([[1.0, 3, 2], [3, 1, 2], [2, 2, 1]])
    assert margins(logits, torch.tensor([1, 1, 1]), targeted=True).tolist() == [-1, 2, 0]
    assert margins(logits, torch.tensor([1, 1, 1]), targeted=False).tolist() == [1, -2, 0]


def test_rows_are_padded_to_what_keeps_their_bits():
    oracle = Oracle(lambda points, rows: rows, 40, 3, 16, torch.device("cpu"))
    active = torch.zeros(40, dtype=torch.bool)
    active[[2, 7, 30]] = True
    rows = oracle.rows_of(active)
    assert rows.tolist() == [2, 7] + [30] * 14
    assert oracle(torch.zeros(16, 3, 2, 2), rows).tolist() == rows.tolist()
    assert oracle.asked[[2, 7, 30]].tolist() == [1, 1, 1]
    assert oracle.asked.sum() == 3
    assert len(oracle.rows_of(active, cost=3)) == 0
    assert oracle.rows_of(torch.ones_like(active), cost=3).unique().tolist() == [
        row for row in range(40) if row not in (2, 7, 30)
    ]
    made = list(oracle.several(lambda number: torch.full((16, 3, 2, 2), float(number)), 2, rows))
    assert [float(points[0, 0, 0, 0]) for points, _ in made] == [0, 1]
    assert oracle.asked[[2, 7, 30]].tolist() == [3, 3, 3]


def test_perturb_without_keys_draws_from_the_global_generator():
    network, (images, targets, _) = make_network(), make_batch(4)
    torch.manual_seed(3)
    first, asked = Square(queries=5).perturb(network, images, targets, None)
    second, _ = Square(queries=5).perturb(network, images, targets, None)
    torch.manual_seed(3)
    again, _ = Square(queries=5).perturb(network, images, targets, None)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not first.requires_grad
    assert asked.dtype == torch.int64
