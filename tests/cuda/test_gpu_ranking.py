"""Lists, ranks and figures on a GPU are those of the CPU, bit for bit, ties included; and so are triplets."""

import numpy as np
import pytest
import torch
from gpu import DEVICE, deterministic_kernels

from catwalk.keyed_random import content_keys, integers, permutation, uniform
from catwalk.metrics import (
    CategoryHitRatio,
    HitRate,
    ItemReach,
    MeanReciprocalRank,
    NormalizedCategoryDCG,
    NormalizedDCG,
    Precision,
    Recall,
)
from catwalk.metrics.auc import auc
from catwalk.metrics.item_reach import item_ranks
from catwalk.metrics.measured_users import measure_users
from catwalk.recommenders.candidate_scores import CandidateScores
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.ranking import score_users, top_k
from catwalk.shop.splits import read_split
from catwalk.shop.triplets import TripletSampler
from catwalk.shop.user_items import SeenItems, UserItems, mask_value

USERS, ITEMS, K = 333, 1000, 20
MASK = mask_value(torch.float32)


@pytest.fixture(scope="module", params=["distinct", "ties"])
def scores(request):
    """Scores of which some are no candidates; with ties, of few values and both zeros."""
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(USERS, ITEMS, generator=random)
    if request.param == "ties":
        scores = (scores * 2).round() / 2
        scores[:7] = 0.25
    scores[torch.rand(scores.shape, generator=random) < 0.1] = MASK
    scores[11, K // 2 :] = MASK
    return scores


@pytest.fixture(scope="module")
def targets(scores):
    """One to three held-out items of every user, all of them candidates."""
    found = scores.masked_fill(scores == MASK, -99).argsort(dim=1)[:, -400:][:, [5, 200, 399]]
    found[11] = -1
    found[11, 0] = scores[11].argmax()
    found[::2, 2] = -1
    found[::3, 1:] = -1
    return found


@pytest.fixture(scope="module")
def seen(scores):
    users, items = (scores == MASK).nonzero(as_tuple=True)
    return SeenItems.from_pairs(users, items, USERS, ITEMS)


def same(one, other):
    assert one.device.type == DEVICE.type
    assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("k", [1, K, 300, ITEMS])
def test_top_k(scores, k):
    for one, other in zip(top_k(scores.to(DEVICE), k), top_k(scores, k), strict=True):
        same(one, other)


def test_top_k_by_brute_force(scores):
    items, _ = top_k(scores.to(DEVICE), K)
    values = scores.numpy() + 0.0
    order = np.lexsort((np.broadcast_to(np.arange(ITEMS), values.shape), -values))[:, :K]
    expected = np.where(np.take_along_axis(values, order, 1) == MASK, -1, order)
    assert np.array_equal(items.cpu().numpy(), expected)


def test_seen_items(scores, seen):
    users = torch.randperm(USERS, generator=torch.Generator().manual_seed(1))[:100]
    plain = torch.randn(USERS, ITEMS, generator=torch.Generator().manual_seed(2))
    there, table = seen.to(DEVICE), plain.to(DEVICE)
    with deterministic_kernels():
        same(score_users(lambda of: table[of], users.to(DEVICE), there), score_users(lambda of: plain[of], users, seen))
    items = torch.arange(-1, ITEMS + 1)
    same(there.contains(users[:, None].to(DEVICE), items.to(DEVICE)), seen.contains(users[:, None], items))
    same(there.padded(users.to(DEVICE)), seen.padded(users))
    pairs = (scores == MASK).nonzero().flip(0).to(DEVICE)
    built = UserItems.from_pairs(pairs[:, 0], pairs[:, 1], USERS, ITEMS)
    same(built.items, seen.items)


def test_auc_and_item_ranks(scores, targets):
    same(auc(scores.to(DEVICE), targets.to(DEVICE)), auc(scores, targets))
    same(auc(scores.to(DEVICE), targets[:, 0].to(DEVICE)), auc(scores, targets[:, 0]))
    items = torch.tensor([3, 999, 0, 500])
    same(item_ranks(scores.to(DEVICE), items.to(DEVICE)), item_ranks(scores, items))


def test_blocks_of_items(scores, targets, seen):
    table, ranked = scores.masked_fill(scores == MASK, 9.0), torch.tensor([3, 999, 0, 500])

    def found(device, ends):
        there, of_all = table.to(device), seen.to(device)
        blocks = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]

        def candidates(users, seen):
            return CandidateScores(lambda some, items: there[some, items].clone(), users, seen, blocks)

        users = torch.arange(USERS, device=device)
        return measure_users(candidates, users, of_all, K, targets.to(device), ranked.to(device))

    whole = found("cpu", [ITEMS])
    for ends in ([ITEMS], [7, 500, ITEMS]):
        for one, other in zip(found(DEVICE, ends), whole, strict=True):
            same(one, other)


def make_metrics(seen):
    categories = torch.arange(ITEMS) % 7 - 1
    return {
        "chr": CategoryHitRatio([5, K], categories, 6),
        "ncdcg": NormalizedCategoryDCG([5, K], categories, 6, seen),
        "reach": ItemReach([5, K], torch.arange(0, ITEMS, 9), ITEMS),
        **{kind.__name__: kind(K) for kind in (HitRate, NormalizedDCG, MeanReciprocalRank, Precision, Recall)},
    }


def test_metrics_with_deterministic_kernels(scores, targets, seen):
    lists, users = top_k(scores, K)[0], torch.arange(USERS)
    arguments = {"chr": (lists,), "ncdcg": (lists, users), "reach": (lists,)}
    here, there = make_metrics(seen), {name: metric.to(DEVICE) for name, metric in make_metrics(seen).items()}
    with deterministic_kernels():
        for name in here:
            for metric, device in ((here[name], "cpu"), (there[name], DEVICE)):
                for rows in (slice(100), slice(100, None)):
                    metric.update(*(part[rows].to(device) for part in arguments.get(name, (lists, targets))))
            states = [
                {state: getattr(metric, state) for state in metric._defaults} for metric in (there[name], here[name])
            ]
            for state, value in states[1].items():
                same(states[0][state], value)  # counts
            figures = [metric.compute() for metric in (there[name], here[name])]
            figures = [figure if isinstance(figure, dict) else {name: figure} for figure in figures]
            for key, value in figures[1].items():
                assert float(value.abs().sum()) > 0
                # Of the same counts, with the last bit that the order of a sum decides.
                torch.testing.assert_close(figures[0][key].cpu(), value, rtol=1e-14, atol=0, equal_nan=True)


def test_random_numbers_do_not_know_where_they_are_drawn():
    keys = torch.arange(-50, 50) * 123_456_789_123
    same(uniform(3, keys.to(DEVICE), (3, 7, 7)), uniform(3, keys, (3, 7, 7)))
    highs = torch.arange(1, 101)
    same(integers(4, keys.to(DEVICE), highs.to(DEVICE)), integers(4, keys, highs))
    same(permutation(5, 10_000, DEVICE), permutation(5, 10_000))
    images = (torch.rand(5, 3, 9, 9) * 255).round() / 255
    same(content_keys(images.to(DEVICE)), content_keys(images))


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_triplets_do_not_know_where_they_are_drawn(trained, negatives):
    split = read_split(trained.catalogue)
    users, items = torch.from_numpy(split.users), torch.from_numpy(split.items)
    seen = SeenItems.from_pairs(users, items, split.num_users, len(trained.catalogue))
    sampler = TripletSampler(split, seen, negatives)
    for rank, world_size in ((0, 1), (1, 3)):
        expected = sampler.sample_epoch(7, 2, rank, world_size)
        for one, other in zip(sampler.to(DEVICE).sample_epoch(7, 2, rank, world_size), expected, strict=True):
            same(one, other)


@pytest.mark.parametrize("sparse", [True, False])
def test_lazy_adam(sparse):
    """It makes the same of the parameters as on the CPU, from gradients in which rows occur several times."""
    tables = [torch.nn.Embedding(50, 8, sparse=sparse) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    tables[1].to(DEVICE)
    optimizers = [LazyAdam(table.parameters(), lr=0.1) for table in tables]
    random = torch.Generator().manual_seed(0)
    begun = tables[0].weight.detach().clone()
    with deterministic_kernels():
        for _ in range(20):
            rows = torch.randint(40, (64,), generator=random)
            factors = torch.randn(64, 8, generator=random)
            for table, optimizer in zip(tables, optimizers, strict=True):
                device = table.weight.device
                optimizer.zero_grad()
                (table(rows.to(device)) * factors.to(device)).sum().backward()
                optimizer.step()
    torch.testing.assert_close(tables[1].weight.detach().cpu(), tables[0].weight.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(tables[1].weight[40:].cpu(), begun[40:])
    assert not torch.equal(tables[1].weight[:40].cpu(), begun[:40])
