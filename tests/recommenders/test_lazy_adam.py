"""LazyAdam against PyTorch's SparseAdam and Adam, and against Adam that is run on the used rows alone."""

import copy

import pytest
import torch
from torch import nn

from catwalk.errors import CatwalkError
from catwalk.recommenders.lazy_adam import LazyAdam

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}


def batches(steps, rows):
    random = torch.Generator().manual_seed(0)
    return [torch.randint(rows, (6,), generator=random) for _ in range(steps)]


def train(table, optimizer, steps=20):
    targets = torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for rows in batches(steps, len(table.weight)):
        optimizer.zero_grad()
        (table(rows) - targets[rows]).square().sum().backward()
        optimizer.step()
    return table.weight.detach()


def make_table(sparse):
    table = nn.Embedding(30, 3, sparse=sparse, dtype=torch.float64)
    with torch.no_grad():
        table.weight.copy_(torch.randn(30, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    return table


def test_on_sparse_gradients_it_is_sparse_adam():
    ours, theirs = make_table(sparse=True), make_table(sparse=True)
    settings = SETTINGS | {"eps": 1e-14}  # which SparseAdam adds before the second moment is corrected
    found = train(ours, LazyAdam(ours.parameters(), **settings))
    expected = train(theirs, torch.optim.SparseAdam(list(theirs.parameters()), **settings))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert not torch.equal(found, make_table(True).weight)


def test_a_dense_gradient_makes_the_same_of_the_parameters():
    sparse, dense = make_table(sparse=True), make_table(sparse=False)
    expected = train(sparse, LazyAdam(sparse.parameters(), **SETTINGS))
    torch.testing.assert_close(train(dense, LazyAdam(dense.parameters(), **SETTINGS)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_used_row_whose_gradient_is_zero_stays_too(sparse):
    table = make_table(sparse)
    optimizer = LazyAdam(table.parameters(), **SETTINGS)
    train(table, optimizer)
    before = table.weight.detach().clone()
    optimizer.zero_grad()
    (table(torch.tensor([4, 9])) * torch.tensor([[0.0], [1.0]])).sum().backward()
    optimizer.step()
    assert (table.weight != before).any(dim=1).nonzero().squeeze(1).tolist() == [9]


def test_rows_without_a_gradient_stay_as_they_are():
    table = make_table(sparse=False)
    optimizer = LazyAdam(table.parameters(), **SETTINGS)
    train(table, optimizer)
    before = table.weight.detach().clone()
    optimizer.zero_grad()
    table(torch.tensor([4, 4, 9])).sum().backward()
    optimizer.step()
    changed = (table.weight != before).any(dim=1).nonzero().squeeze(1)
    assert changed.tolist() == [4, 9]


@pytest.mark.parametrize("shape", [(5, 4), (7,), (2, 3, 4), ()])
def test_on_gradients_without_zeros_it_is_adam(shape):
    random = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=random, dtype=torch.float64)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    pairs = [(ours, LazyAdam([ours], **SETTINGS)), (theirs, torch.optim.Adam([theirs], **SETTINGS))]
    for _ in range(15):
        gradient = torch.randn(shape, generator=random, dtype=torch.float64)
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_it_goes_on_from_its_state():
    whole, halves = make_table(sparse=True), make_table(sparse=True)
    expected = train(whole, LazyAdam(whole.parameters(), **SETTINGS), steps=20)
    optimizer = LazyAdam(halves.parameters(), **SETTINGS)
    targets = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for step, rows in enumerate(batches(20, 30)):
        if step == 9:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = LazyAdam(halves.parameters(), lr=1.0)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (halves(rows) - targets[rows]).square().sum().backward()
        optimizer.step()
    assert torch.equal(halves.weight, expected)


def test_groups_have_their_own_learning_rates():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LazyAdam([{"params": [first], "lr": 0.5}, {"params": [second]}], lr=0.25)
    loss = optimizer.step(lambda: (first.sum() + second.sum()).backward() or 7.0)
    assert loss == 7.0
    torch.testing.assert_close(first, torch.full((3,), 0.5))  # the first step of Adam is the learning rate
    torch.testing.assert_close(second, torch.full((3,), 0.75))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"lr": -1.0}, "lr must"), ({"betas": (0.9, 1.0)}, "betas must"), ({"eps": 0.0}, "eps must")],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(CatwalkError, match=message):
        LazyAdam([nn.Parameter(torch.ones(2))], **setting)
