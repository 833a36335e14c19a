"""Ranking a catalogue a block of items at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from catwalk.errors import CatwalkError, DivergedError
from catwalk.metrics.measured_users import measure_users
from catwalk.recommenders.candidate_scores import CandidateScores, rank_users
from catwalk.recommenders.ranking import ITEM_BLOCK, WHOLE_CATALOGUE, block_width, item_blocks
from catwalk.shop.user_items import SeenItems

NUM_USERS, NUM_ITEMS = 37, 200
CUTS = {
    "whole": [200],
    "even": [50, 100, 150, 200],
    "narrower than the lists": [3, 7, 8, 100, 200],
    "one at the end": [199, 200],
}


def blocks_of(ends: list[int]) -> list[slice]:
    return [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]


@pytest.fixture(scope="module", params=[1, 4, 1_000_000], ids="levels {}".format)
def table(request: pytest.FixtureRequest) -> Tensor:
    """Scores with all, many or hardly any ties, of which some are -0."""
    generator = torch.Generator().manual_seed(request.param)
    scores = torch.randint(-request.param, request.param + 1, (NUM_USERS, NUM_ITEMS), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = -0.0
    return scores


@pytest.fixture(scope="module")
def is_seen() -> np.ndarray:
    is_seen = np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)) < 0.3
    is_seen[3] = True
    is_seen[3, [5, 77]] = False  # fewer candidates than places
    is_seen[4] = False
    return is_seen


@pytest.fixture(scope="module")
def seen(is_seen: np.ndarray) -> SeenItems:
    users, items = (torch.from_numpy(ids) for ids in is_seen.nonzero())
    return SeenItems.from_pairs(users, items, NUM_USERS, NUM_ITEMS)


def in_order(table: Tensor, is_seen: np.ndarray) -> list[list[int]]:
    """Each user's candidates, best first."""
    scores = table.tolist()
    return [
        sorted(np.flatnonzero(~is_seen[user]).tolist(), key=lambda item, row=row: (-row[item], item))
        for user, row in enumerate(scores)
    ]


@pytest.mark.parametrize("ends", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("k", [1, 20, NUM_ITEMS])
def test_lists_are_those_of_sorting_everything(
    table: Tensor, is_seen: np.ndarray, seen: SeenItems, ends: list[int], k: int
) -> None:
    def score(users: Tensor, items: slice) -> Tensor:
        return table[users, items].clone()

    lists, scores = rank_users(score, torch.arange(NUM_USERS), k, seen, blocks=blocks_of(ends))
    for user, best in enumerate(in_order(table, is_seen)):
        expected = best[:k]
        assert lists[user].tolist() == expected + [-1] * (k - len(expected))
        assert scores[user].tolist() == table[user, expected].tolist() + [-torch.inf] * (k - len(expected))


@pytest.mark.parametrize("ends", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("number", [1, 3])
def test_auc_and_ranks_are_those_of_counting_pairs(
    table: Tensor, is_seen: np.ndarray, seen: SeenItems, ends: list[int], number: int
) -> None:
    users = torch.arange(NUM_USERS)[:12]  # not a multiple of 16
    random, ranked = np.random.default_rng(1), torch.tensor([0, 49, 50, 199])
    targets = torch.full((len(users), number), -1)
    for user in users.tolist():
        count = 0 if user == 7 else min(number, 1 + user % 3, int((~is_seen[user]).sum()) - 1)
        targets[user, :count] = torch.from_numpy(random.choice(np.flatnonzero(~is_seen[user]), count, replace=False))

    def candidates(users: Tensor, seen: SeenItems) -> CandidateScores:
        return CandidateScores(lambda users, items: table[users, items].clone(), users, seen, blocks_of(ends))

    found = measure_users(candidates, users, seen, 5, targets, ranked)
    orders, scores = in_order(table, is_seen), table.tolist()
    for user in users.tolist():
        order, row, held_out = orders[user], scores[user], [item for item in targets[user].tolist() if item >= 0]
        assert found.recommended[user].tolist() == (order + [-1] * 5)[:5]
        expected = [order.index(item) + 1 if item in order else 0 for item in ranked.tolist()]
        assert found.ranks[user].tolist() == expected
        others = [item for item in order if item not in held_out]
        points = [
            1.0 if row[one] > row[other] else 0.5 * (row[one] == row[other]) for one in held_out for other in others
        ]
        if points:
            assert found.auc[user].item() == sum(points) / len(points)
        else:
            assert found.auc[user].isnan()


@pytest.mark.parametrize("num_items", [WHOLE_CATALOGUE + 1, WHOLE_CATALOGUE + 1_003])
def test_products_of_a_block_of_items_have_the_bits_of_all(num_items: int) -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(48, 32, generator=generator), torch.randn(num_items, 32, generator=generator)
    whole = users @ items.T
    for block in item_blocks(num_items):
        assert torch.equal(users @ items[block].T, whole[:, block])
        assert torch.equal(users[7:23] @ items[block].T, whole[7:23, block])


def test_only_a_large_catalogue_is_cut_and_into_blocks_of_one_width() -> None:
    assert item_blocks(WHOLE_CATALOGUE) == [slice(0, WHOLE_CATALOGUE)]
    for num_items in (WHOLE_CATALOGUE + 1, 300_007, 1_000_000):
        blocks = item_blocks(num_items)
        widths = [block.stop - block.start for block in blocks]
        assert [0, *(block.stop for block in blocks)] == [*(block.start for block in blocks), num_items]
        assert set(widths[:-1]) == {block_width(num_items)}
        assert widths[0] % 16 == 0
        assert ITEM_BLOCK / 2 < widths[-1] <= widths[0] <= ITEM_BLOCK


def test_a_large_catalogue_that_is_scored_at_once_is_scored_for_few_users() -> None:
    num_items, asked = WHOLE_CATALOGUE + 10, []

    def candidates(users: Tensor, seen: SeenItems) -> CandidateScores:
        def score(users: Tensor, items: slice) -> Tensor:
            asked.append(len(users))
            scores = torch.zeros(len(users), num_items)
            scores[:, 7] = scores[:, num_items - 1] = 1 + users.float()
            return scores

        return CandidateScores(score, users, seen, [slice(0, num_items)])

    nothing = torch.zeros(0, dtype=torch.int64)
    seen = SeenItems.from_pairs(nothing, nothing, 40, num_items)
    found = measure_users(
        candidates, torch.arange(40), seen, 3, torch.arange(40)[:, None], torch.tensor([num_items - 1])
    )
    assert asked == [16, 16, 16]
    assert found.recommended.tolist() == [[7, num_items - 1, 0]] * 40
    assert found.ranks.tolist() == [[2]] * 40
    assert found.auc[7] == 1 - 0.5 / (num_items - 1)
    assert found.auc[6] == 0.5 * (num_items - 3) / (num_items - 1)


def test_what_a_recommender_must_not_give_is_refused_in_any_block(seen: SeenItems) -> None:
    def candidates(score: float, width: int = 0) -> CandidateScores:
        def scores(users: Tensor, items: slice) -> Tensor:
            return torch.full((len(users), items.stop - items.start + width), score if items.start else 0.0)

        return CandidateScores(scores, torch.arange(5), seen, blocks_of([120, 200]))

    with pytest.raises(DivergedError, match="a score is NaN"):
        candidates(torch.nan).top_k(3)
    with pytest.raises(ValueError, match=r"scores must be \(5, 120\), got \(5, 121\)"):
        candidates(1.0, width=1).top_k(3)
    with pytest.raises(CatwalkError, match="k = 201 is larger than the catalogue"):
        candidates(1.0).top_k(201)
    held_out = torch.from_numpy(np.array([[int(seen.items[0])]]))
    with pytest.raises(ValueError, match="among the seen items"):
        measure_users(
            lambda users, seen: CandidateScores(
                lambda users, items: torch.zeros(16, 100), users, seen, blocks_of([100, 200])
            ),
            torch.tensor([0]),
            seen,
            3,
            held_out,
            torch.zeros(0, dtype=torch.int64),
        )
