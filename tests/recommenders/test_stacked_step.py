"""Steps in closed form against autograd with LazyAdam: the same bits on a CPU, alone and in a stack."""

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import nn

from catwalk.recommenders.amr import AMRModel, AMRSettings
from catwalk.recommenders.bpr_mf import BPRMFModel, BPRMFSettings
from catwalk.recommenders.captured_step import WARM_UP, CapturedStep
from catwalk.recommenders.feature_rows import FeatureRows, StackedFeatures
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.row_sums import CoalescedRowSums, static_row_sums
from catwalk.recommenders.stacked_step import StackedStep, may_step
from catwalk.recommenders.stacked_tables import with_memory_of_its_own
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings

USERS, ITEMS, FEATURES, BATCH = 23, 17, 24, 96
"""Few items, so that batches use the same ones often, bought and not bought."""

KINDS: dict[str, tuple[Any, Any]] = {
    "bpr-mf": (BPRMFModel, BPRMFSettings),
    "vbpr": (VBPRModel, VBPRSettings),
    "amr": (AMRModel, AMRSettings),
}

EVERY_SETTING = [
    ("bpr-mf", {}),
    ("bpr-mf", {"regularization": 0.0}),
    ("vbpr", {}),
    ("vbpr", {"reduction": "sum", "projection_regularization": 0.0}),
    ("vbpr", {"item_regularization": 0.5}),
    ("amr", {}),
    ("amr", {"reduction": "sum", "epsilon": 0.3, "adversarial_weight": 2.0}),
    ("amr", {"adversarial_weight": 0.0}),
]


def model_of(kind: str, seed: int = 0, factors: int = 16, scale: float = 1.7, **settings: Any) -> Any:
    torch.manual_seed(seed)
    make, make_settings = KINDS[kind]
    if kind == "bpr-mf":
        model = make(USERS, ITEMS, make_settings(factors=factors, **settings))
    else:
        settings = {"factors": factors, "visual_factors": factors, **settings}
        model = make(USERS, ITEMS, FEATURES, make_settings(**settings))
        model.look_at(FeatureRows(torch.randn(ITEMS, FEATURES)), scale)
    with torch.no_grad():  # far from where all scores are 0
        for parameter in model.parameters():
            parameter.mul_(30)
    return model


def optimizer_of(model: Any) -> LazyAdam:
    for table in model.modules():
        if isinstance(table, nn.Embedding):
            table.sparse = True
    groups = model.parameter_groups()
    rates = {"P": 0.01, "Q": 0.02, "E": 0.003}
    return LazyAdam([{"params": parameters, "lr": rates[name]} for name, parameters in groups.items()])


def batches(count: int, seed: int = 0, size: int = BATCH) -> list[tuple[torch.Tensor, ...]]:
    random = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randint(most, (size,), generator=random) for most in (USERS, ITEMS, ITEMS)) for _ in range(count)
    ]


def by_autograd(model: Any, optimizer: LazyAdam, batch: tuple[torch.Tensor, ...]) -> float:
    optimizer.zero_grad()
    loss = model.loss(*batch)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def everything(model: Any, optimizer: LazyAdam) -> list[torch.Tensor]:
    moments = [optimizer.state[each][name] for each in model.parameters() for name in ("exp_avg", "exp_avg_sq")]
    return [each.detach().clone() for each in (*model.parameters(), *moments)]


@pytest.mark.parametrize(("kind", "settings"), EVERY_SETTING)
@pytest.mark.parametrize("factors", [16, 5])
def test_the_bits_of_autograd(kind: str, settings: dict[str, Any], factors: int) -> None:
    pairs = []
    for _ in range(2):
        model = model_of(kind, factors=factors, **settings)
        pairs.append((model, optimizer_of(model)))
        by_autograd(*pairs[-1], batches(1, seed=9)[0])
    (plain, plain_optimizer), (model, optimizer) = pairs
    assert may_step(model, optimizer)
    step = StackedStep([model], [optimizer])
    for number, batch in enumerate([*batches(12), *batches(2, seed=1, size=31)]):
        expected = by_autograd(plain, plain_optimizer, batch)
        if number % 5 == 4:  # whole steps come between
            found = by_autograd(model, optimizer, batch)
        else:
            found = float(step.take(*(column[None] for column in batch))[0])
        assert found == pytest.approx(expected, rel=1e-5)
        assert step.is_bound
    assert all(map(torch.equal, everything(plain, plain_optimizer), everything(model, optimizer)))
    assert {optimizer.state[each]["step"] for each in model.parameters()} == {15}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_static", [False, True])
def test_each_of_a_stack_is_as_alone(kind: str, is_static: bool) -> None:
    """On a CPU by the bit; in the shapes that a GPU wants by rounding."""
    several = {"amr": [{"adversarial_weight": w, "epsilon": 1 + w, "regularization": w} for w in (0.1, 0.0, 2.0)]}
    seeds, settings = (0, 1, 2), several.get(kind, [{}, {"regularization": 0.3}, {}])
    stacks: list[list[Any]] = []
    for _ in range(2):
        models = [model_of(kind, seed, **own) for seed, own in zip(seeds, settings, strict=True)]
        stacks.append([(model, optimizer_of(model)) for model in models])
        for pair in stacks[-1]:
            by_autograd(*pair, batches(1, seed=9)[0])
    alone, together = stacks
    models, optimizers = map(list, zip(*together, strict=True))
    if kind != "bpr-mf":  # the same features but for some items, divided by something else
        for pairs in stacks:
            shared = pairs[0][0].features.features
            for number, (model, _) in enumerate(pairs):
                own = shared.clone()
                own[: 4 * number] += 0.5
                model.look_at(FeatureRows(own), 1.0 + number)
    step = StackedStep(models, optimizers, is_static)
    for number in range(6):
        own = [batches(1, seed=10 * number + seed)[0] for seed in seeds]
        expected = [by_autograd(*pair, batch) for pair, batch in zip(alone, own, strict=True)]
        found = step.take(*(torch.stack(columns) for columns in zip(*own, strict=True)))
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
    for pair, other in zip(alone, together, strict=True):
        for expected_values, values in zip(everything(*pair), everything(*other), strict=True):
            if is_static:
                torch.testing.assert_close(values, expected_values, rtol=1e-3, atol=2e-5)
            else:
                assert torch.equal(values, expected_values)


@pytest.mark.parametrize("rows", [3, 40, 4000])
def test_row_sums_are_those_of_sparse_gradients(rows: int) -> None:
    """Of autograd itself, for users, and for items of which two gradients meet."""
    random = torch.Generator().manual_seed(rows)
    for _ in range(5):
        users, bought, others = torch.randint(rows, (3, 200), generator=random)
        table = nn.Embedding(rows, 7, sparse=True)
        gradients = torch.randn(4, 200, 7, generator=random)
        ((table(bought) * gradients[1]).sum() + (table(others) * gradients[2]).sum()).backward()
        expected = table.weight.grad.coalesce()
        keys = torch.stack([users, bought + rows, others + rows])
        found = CoalescedRowSums(3, 1, 200, 2 * rows, rows)(keys[:, None], gradients)
        items = found.rows[found.num_user_rows :] - rows
        assert torch.equal(items, expected.indices()[0])
        assert torch.equal(found.sums[found.num_user_rows :], expected.values())
        exact = torch.zeros(2 * rows, 7, dtype=torch.float64)
        exact.index_add_(0, keys.flatten(), gradients[:3].flatten(0, 1).double())
        assert found.rows.tolist() == sorted(set(keys.flatten().tolist()))
        for sums in (found, static_row_sums(keys[:, None], gradients[:3])):
            torch.testing.assert_close(sums.sums.double(), exact[sums.rows], rtol=1e-5, atol=1e-5)
            assert bool((sums.rows[: sums.num_user_rows] < rows).all())
            assert bool((sums.rows[sums.num_user_rows :] >= rows).all())


def test_features_of_a_stack() -> None:
    random = torch.Generator().manual_seed(0)
    tables = [torch.randn(9, 4, generator=random)] * 3
    tables[1] = tables[1].clone()
    tables[1][[2, 5]] += 1
    tables[2] = torch.randn(9, 4, generator=random)
    positives, negatives = torch.randint(9, (2, 3, 50), generator=random)
    found = StackedFeatures([FeatureRows(table) for table in tables]).difference(positives, negatives)
    expected = torch.cat([table[i] - table[j] for table, i, j in zip(tables, positives, negatives, strict=True)])
    assert torch.equal(found, expected)


def other_step(optimizer: LazyAdam) -> None:
    optimizer.register_step_pre_hook(lambda *_: None)


def other_decay(optimizer: LazyAdam) -> None:
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)


def nothing(optimizer: LazyAdam) -> None:
    pass


@pytest.mark.parametrize(
    ("kind", "settings", "change"),
    [
        ("bpr-mf", {"item_bias": True}, nothing),
        ("bpr-mf", {"regularizer": "linear"}, nothing),
        ("vbpr", {"visual_bias": True}, nothing),
        ("vbpr", {"shared_user_factors": True}, nothing),
        ("vbpr", {"visual_factors": 8}, nothing),
        ("amr", {"perturbation": "per_item"}, nothing),
        ("vbpr", {}, other_step),
        ("vbpr", {}, other_decay),
    ],
)
def test_autograd_steps_where_no_closed_form_is_known(kind: str, settings: Any, change: Any) -> None:
    model = model_of(kind, **settings)
    optimizer = optimizer_of(model)
    by_autograd(model, optimizer, batches(1)[0])
    change(optimizer)
    assert not may_step(model, optimizer)


def test_a_subclass_and_a_fresh_optimizer_are_left_to_autograd() -> None:
    class Own(BPRMFModel):
        pass

    model = Own(USERS, ITEMS, BPRMFSettings(factors=4))
    optimizer = optimizer_of(model)
    by_autograd(model, optimizer, batches(1)[0])
    assert not may_step(model, optimizer)
    model = model_of("vbpr")
    assert not may_step(model, optimizer_of(model))


def test_who_takes_the_memory_away_is_noticed() -> None:
    model = model_of("vbpr")
    optimizer = optimizer_of(model)
    by_autograd(model, optimizer, batches(1)[0])
    step = StackedStep([model], [optimizer])
    assert step.is_bound
    before = model.features
    model.look_at(FeatureRows(torch.randn(ITEMS, FEATURES)), 1.7)
    assert not step.is_bound
    model.look_at(before, model.feature_scale)
    assert step.is_bound
    model.items.weight.data = with_memory_of_its_own(model.items.weight.data)
    assert not step.is_bound
    step = StackedStep([model], [optimizer])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not step.is_bound


class FakeGraph:
    """What a GPU replays, computed anew."""

    def __init__(self, captured: CapturedStep) -> None:
        self._captured = captured

    def replay(self) -> None:
        self._captured._losses = self._captured._move()


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_on_the_device_follow_those_of_the_optimizer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps, other batches and other learning rates come between replays."""
    replays: list[int] = []

    def capture(self: CapturedStep, batch: tuple[torch.Tensor, ...], settings: object) -> None:
        replays.append(1)
        self._inputs = [column.clone() for column in batch]
        self._graph, self._settings = FakeGraph(self), settings  # type: ignore[assignment]

    monkeypatch.setattr(CapturedStep, "_capture", capture)
    pairs = []
    for _ in range(2):
        model = model_of(kind)
        pairs.append((model, optimizer_of(model)))
        by_autograd(*pairs[-1], batches(1, seed=9)[0])
    (plain, plain_optimizer), (model, optimizer) = pairs
    step = CapturedStep(StackedStep([model], [optimizer], is_static=True))
    for number, batch in enumerate(batches(20)):
        shorter = [column[: 40 if number == 11 else BATCH] for column in batch]
        if number == 8:
            for each in (optimizer, plain_optimizer):
                each.param_groups[0]["lr"] = 0.05
        expected = by_autograd(plain, plain_optimizer, tuple(shorter))
        if number == 15:
            by_autograd(model, optimizer, tuple(shorter))
        else:
            assert float(step.take(*(column[None] for column in shorter))[0]) == pytest.approx(expected, rel=1e-4)
    assert replays == [1]
    for expected_values, values in zip(everything(plain, plain_optimizer), everything(model, optimizer), strict=True):
        torch.testing.assert_close(values, expected_values, rtol=1e-3, atol=1e-4)


def test_without_a_gpu_steps_are_taken_one_by_one_with_a_warning() -> None:
    pairs = []
    for _ in range(2):
        model = model_of("vbpr")
        pairs.append((model, optimizer_of(model)))
        by_autograd(*pairs[-1], batches(1, seed=9)[0])
    (plain, plain_optimizer), (model, optimizer) = pairs
    step = CapturedStep(StackedStep([model], [optimizer]))
    for number, batch in enumerate(batches(6)):
        by_autograd(plain, plain_optimizer, batch)
        told = pytest.warns(UserWarning, match="one by one, without a CUDA graph")
        with told if number == WARM_UP else contextlib.nullcontext():
            step.take(*(column[None] for column in batch))
    assert all(map(torch.equal, everything(plain, plain_optimizer), everything(model, optimizer)))
