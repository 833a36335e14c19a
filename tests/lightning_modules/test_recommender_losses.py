"""Loss, gradients and training steps of every recommender against plain code that makes two passes."""

import copy

import numpy as np
import pytest
import torch
from plain_recommenders import PlainAdagrad, PlainLazyAdam, plain_loss

from catwalk.errors import CatwalkError
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.lazy_adam import LazyAdam
from lightning_modules import AMR, APR, BPRMF, VBPR

NUM_USERS, NUM_ITEMS, NUM_FEATURES = 5, 7, 6
BATCH = tuple(map(torch.tensor, ([0, 3, 3, 1, 3, 0], [2, 5, 5, 0, 2, 2], [5, 2, 1, 6, 1, 4])))
"""A batch in which users and items occur several times, also on both sides."""

ADVERSARY = {"epsilon": 0.7, "adversarial_weight": 0.4}
SQUARED = {"regularization": 0.3, "projection_regularization": 0.07}
CASES = {
    "bpr-mf": (BPRMF, {"regularization": 0.3}),
    "bpr-mf with bias, added up": (BPRMF, {"regularization": 0.3, "item_bias": True, "reduction": "sum"}),
    "bpr-mf, linear": (BPRMF, {"regularization": 0.3, "item_regularization": 0.1, "regularizer": "linear"}),
    "apr": (APR, {"regularization": 0.3, **ADVERSARY}),
    "apr per item": (APR, {"regularization": 0.3, **ADVERSARY, "perturbation": "per_item"}),
    "apr with bias": (APR, {"regularization": 0.0, **ADVERSARY, "item_bias": True, "perturbation": "per_item"}),
    "vbpr": (VBPR, SQUARED),
    "vbpr with biases": (VBPR, {**SQUARED, "item_bias": True, "visual_bias": True, "item_regularization": 0.1}),
    "vbpr as published": (
        VBPR,
        {
            "regularization": 0.1,
            "item_regularization": 0.001,
            "projection_regularization": 0.01,
            "regularizer": "linear",
            "reduction": "sum",
            "shared_user_factors": True,
        },
    ),
    "amr": (AMR, {**SQUARED, **ADVERSARY}),
    "amr per item": (AMR, {**SQUARED, **ADVERSARY, "perturbation": "per_item"}),
    "amr with biases": (AMR, {**SQUARED, **ADVERSARY, "item_bias": True, "visual_bias": True}),
    "amr with biases per item": (
        AMR,
        {**SQUARED, **ADVERSARY, "item_bias": True, "visual_bias": True, "perturbation": "per_item"},
    ),
    "amr as published": (
        AMR,
        {
            "regularization": 0.1,
            "item_regularization": 0.001,
            "projection_regularization": 0.01,
            "regularizer": "linear",
            "reduction": "sum",
            "shared_user_factors": True,
            **ADVERSARY,
            "perturbation": "per_item",
        },
    ),
}


def make_model(cls, settings, **more):
    """A recommender in float64 with parameters large enough for every term to matter."""
    sizes = {"factors": 4} | ({"visual_factors": 4} if issubclass(cls, VBPR) else {})
    model = cls(**sizes | settings | more)
    model._build({"num_users": NUM_USERS, "num_items": NUM_ITEMS, "num_features": NUM_FEATURES})
    model.double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2)
    if cls.uses_features:
        # Multiples of 1/64, whose differences are exact in the float32 of features.
        values = torch.randint(-256, 257, (NUM_ITEMS, NUM_FEATURES), generator=random) / 64
        model.look_at(FeatureRows(values), 3.0)
    return model


def plain_weights(model):
    return {name: value.detach().clone().requires_grad_() for name, value in model.model.named_parameters()}


def plain_features(model):
    if not model.uses_features:
        return None
    return model.model.features.features.double() / model.model.feature_scale


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_loss_and_gradients_are_those_of_two_passes(case):
    cls, settings = case
    model = make_model(cls, settings)
    weights = plain_weights(model)
    expected = plain_loss(weights, plain_features(model), BATCH, {"projection_regularization": 0.0, **settings})
    gradients = dict(zip(weights, torch.autograd.grad(expected, list(weights.values())), strict=True))
    loss = model.model.loss(*BATCH)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.model.named_parameters():
        found = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        np.testing.assert_allclose(found.numpy(), gradients[name].numpy(), rtol=1e-7, atol=1e-10, err_msg=name)


RATES = {"P": 0.1, "Q": 0.02, "E": 0.05}


def adagrad(groups):
    return torch.optim.Adagrad(groups, initial_accumulator_value=0.1)


@pytest.mark.parametrize(("make", "plain"), [(adagrad, PlainAdagrad), (None, PlainLazyAdam)])
def test_ten_steps_are_those_of_the_optimizer_on_the_plain_loss(case, make, plain):
    cls, settings = case
    rates = {group: RATES[group] for group in cls.groups}
    model = make_model(cls, settings, learning_rates=rates, optimizer=make)
    weights, features = plain_weights(model), plain_features(model)
    group_of = {"users": "P", "visual_users": "P", "items": "Q", "item_biases": "Q", "projection": "E"}
    rate_of = {name: RATES[group_of.get(name.partition(".")[0], "E")] for name in weights}
    optimizer, by_hand = model.configure_optimizers(), plain(weights, rate_of)
    assert model.model.users.sparse
    random = torch.Generator().manual_seed(2)
    for _ in range(10):
        users, positives = (torch.randint(size, (6,), generator=random) for size in (NUM_USERS, NUM_ITEMS))
        # Another item: Adam would make a full step of what is left of a gradient that cancels out but for rounding.
        batch = users, positives, (positives + torch.randint(1, NUM_ITEMS, (6,), generator=random)) % NUM_ITEMS
        optimizer.zero_grad()
        model.model.loss(*batch).backward()
        optimizer.step()
        loss = plain_loss(weights, features, batch, {"projection_regularization": 0.0, **settings})
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        by_hand.step(weights, gradients)
    for name, parameter in model.model.named_parameters():
        expected = weights[name].detach().numpy()
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        lambda groups: torch.optim.Adagrad(groups, lr=0.1, lr_decay=0.2),
        lambda groups: LazyAdam(groups, lr=0.1),
        lambda groups: torch.optim.Adam(groups, lr=0.1),
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        lambda groups: torch.optim.Adagrad(groups, lr=0.1, weight_decay=0.1),
    ],
)
def test_sparse_gradients_are_used_where_they_make_the_same_of_the_parameters(optimizer):
    model = make_model(AMR, CASES["amr"][1], optimizer=optimizer)
    dense = copy.deepcopy(model)
    first, second = model.configure_optimizers(), optimizer(list(dense.parameters()))
    kind, settings = type(first), first.defaults
    exact = kind is not torch.optim.Adam and not settings.get("momentum") and not settings.get("weight_decay")
    assert model.model.items.sparse == exact
    assert not dense.model.items.sparse
    for _ in range(3):
        for trained, its_optimizer in ((model, first), (dense, second)):
            its_optimizer.zero_grad()
            trained.model.loss(*BATCH).backward()
            its_optimizer.step()
    for ours, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("adversarial", "plain"), [(AMR, VBPR), (APR, BPRMF)])
def test_without_weight_the_adversary_is_not_there_to_the_bit(adversarial, plain):
    results = []
    for cls, settings in ((adversarial, {"adversarial_weight": 0.0}), (plain, {})):
        torch.manual_seed(0)
        model = cls(**settings)
        model._build({"num_users": NUM_USERS, "num_items": NUM_ITEMS, "num_features": NUM_FEATURES})
        if cls.uses_features:
            values = torch.randn(NUM_ITEMS, NUM_FEATURES, generator=torch.Generator().manual_seed(3))
            model.look_at(FeatureRows(values), 2.0)
        optimizer = model.configure_optimizers()
        for _ in range(5):
            optimizer.zero_grad()
            model.model.loss(*BATCH).backward()
            optimizer.step()
        results.append(model.state_dict())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("perturbation", ["per_triplet", "per_item"])
@pytest.mark.parametrize("cls", [AMR, APR])
def test_rows_without_a_direction_do_no_harm(cls, perturbation):
    model = make_model(cls, {"perturbation": perturbation})
    with torch.no_grad():
        model.model.users.weight.zero_()
        if cls is AMR:
            model.model.visual_users.weight.zero_()
    model.model.loss(*BATCH).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


def test_the_adversary_makes_every_triplet_worse():
    model = make_model(AMR, CASES["amr"][1])
    plain = make_model(VBPR, CASES["vbpr"][1])
    clean = plain.model.loss(*BATCH)
    at_equal_weight = make_model(AMR, {**SQUARED, "epsilon": 0.0, "adversarial_weight": 1.0}).model.loss(*BATCH)
    attacked = make_model(AMR, {**SQUARED, "epsilon": 0.5, "adversarial_weight": 1.0}).model.loss(*BATCH)
    assert clean < at_equal_weight < attacked
    assert model.model.loss(*BATCH) > clean


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (AMR, {"epsilon": -1.0}, "epsilon must be at least 0, got -1.0"),
        (AMR, {"adversarial_weight": float("nan")}, "adversarial_weight must be at least 0, got nan"),
        (APR, {"epsilon": -0.1}, "epsilon must be at least 0"),
        (BPRMF, {"factors": 0}, "factors must be at least 1, got 0"),
        (BPRMF, {"regularization": -0.1}, "regularization must be at least 0"),
        (VBPR, {"visual_factors": 0}, "visual_factors must be at least 1"),
        (VBPR, {"projection_regularization": -1.0}, "projection_regularization must be at least 0"),
        (VBPR, {"learning_rates": {"F": 0.1}}, "learning_rates: there is no group 'F', only P, Q, E"),
        (BPRMF, {"learning_rates": {"E": 0.1}}, "learning_rates: there is no group 'E', only P, Q"),
        (BPRMF, {"learning_rates": {"P": -0.1}}, "learning_rates: that of P must be at least 0, got -0.1"),
        (BPRMF, {"top_k": ()}, "top_k must name list lengths"),
        (AMR, {"perturbation": "item"}, "perturbation must be one of per_triplet, per_item, got 'item'"),
        (APR, {"perturbation": "item"}, "perturbation must be one of"),
        (VBPR, {"regularizer": "l2"}, "regularizer must be one of squared, linear, got 'l2'"),
        (BPRMF, {"reduction": "avg"}, "reduction must be one of mean, sum, got 'avg'"),
    ],
)
def test_what_makes_no_sense_is_refused(cls, settings, message):
    with pytest.raises(CatwalkError, match=message):
        cls(**settings)


def test_sparse_adam_is_for_embeddings_alone():
    def make(groups):
        return torch.optim.SparseAdam(groups)

    assert make_model(BPRMF, {}, optimizer=make).configure_optimizers() is not None
    with pytest.raises(CatwalkError, match="SparseAdam cannot train VBPR, which has more than embeddings"):
        make_model(VBPR, {}, optimizer=make).configure_optimizers()
