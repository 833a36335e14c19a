import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catwalk.errors import CatwalkError, DivergedError
from catwalk.recommenders.candidate_scores import rank_users
from catwalk.recommenders.ranking import score_users, top_k, user_blocks
from catwalk.shop.user_items import SeenItems, mask_value

INF = float("inf")
MASK = torch.finfo(torch.float32).min
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def lists_by_hand(scores: np.ndarray, k: int, mask: float) -> tuple[list[list[int]], list[list[float]]]:
    """Sort every row whole, by score and then by index, in plain Python."""
    items, values = [], []
    for row in scores.tolist():
        candidates = [item for item, score in enumerate(row) if score != mask]
        best = sorted(candidates, key=lambda item: (-row[item], item))[:k]
        items.append(best + [-1] * (k - len(best)))
        values.append([row[item] for item in best] + [-INF] * (k - len(best)))
    return items, values


def assert_lists(scores: Tensor, k: int) -> None:
    items, values = top_k(scores, k)
    expected_items, expected_values = lists_by_hand(scores.double().cpu().numpy(), k, mask_value(scores.dtype))
    assert items.dtype == torch.int64
    assert values.dtype == scores.dtype
    assert items.tolist() == expected_items
    assert values.tolist() == expected_values


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 2, 7, 100])
@pytest.mark.parametrize("k", [1, 10, 199, 200])
def test_top_k_of_scores_with_ties(device: str, dtype: torch.dtype, levels: int, k: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(-levels, levels, (23, 200), generator=generator).to(dtype)
    scores[torch.rand(23, 200, generator=generator) < 0.3] = torch.finfo(dtype).min
    scores[3] = torch.finfo(dtype).min
    scores[4, 9:] = torch.finfo(dtype).min
    assert_lists(scores.to(device), k)


@pytest.mark.parametrize("device", DEVICES)
def test_top_k_of_scores_without_ties(device: str) -> None:
    scores = torch.randn(31, 500, generator=torch.Generator().manual_seed(0))
    assert_lists(scores.to(device), 20)


@pytest.mark.parametrize("device", DEVICES)
def test_a_tie_over_the_end_of_the_list_takes_the_smallest_indices(device: str) -> None:
    scores = torch.zeros(2, 10_000, device=device)
    scores[1, 9_999] = 1.0
    items, _ = top_k(scores, 4)
    assert items.tolist() == [[0, 1, 2, 3], [9_999, 0, 1, 2]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", [1, 3, 40, 10_000])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("num_items", [8 * 16, 337, 1_000, 1_601])
def test_top_k_of_rows_long_enough_for_groups(device: str, num_items: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(num_items + levels)
    scores = torch.randint(-levels, levels + 1, (12, num_items), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) < 0.3] = MASK
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = -0.0
    scores[0] = MASK
    scores[1, : num_items - 3] = MASK  # fewer candidates than places, the last columns among them
    scores[2] = torch.arange(num_items)  # the highest are the columns that fill no group
    scores[3] = -torch.arange(num_items)
    scores[4, ::2] = -MASK
    scores[5] = MASK
    scores[5, num_items % 7 :: max(num_items // 8, 1)] = 7.0  # members of one group tie
    assert_lists(scores.to(device), k)
    for rows in (1, 5):  # blocks of another size, and rows that are not side by side in memory
        parts = [top_k(part, k) for part in scores.to(device).repeat(1, 2)[:, :num_items].split(rows)]
        items, values = top_k(scores.to(device), k)
        assert torch.equal(torch.cat([part for part, _ in parts]), items)
        assert torch.equal(torch.cat([part for _, part in parts]), values)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_items=st.integers(40, 300), k=st.integers(1, 4))
def test_top_k_of_any_long_rows(data: st.DataObject, num_items: int, k: int) -> None:
    levels = data.draw(st.lists(st.sampled_from([MASK, -1e38, -0.0, 0.0, 1e-45, 1.0, -MASK]), min_size=1, max_size=4))
    seed = data.draw(st.integers(0, 2**16))
    drawn = torch.randint(len(levels), (3, num_items), generator=torch.Generator().manual_seed(seed))
    assert_lists(torch.tensor(levels)[drawn], k)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), num_items=st.integers(1, 12), num_rows=st.integers(0, 4))
def test_top_k_of_any_scores(data: st.DataObject, num_items: int, num_rows: int) -> None:
    levels = st.sampled_from([MASK, -1e38, -0.0, 0.0, 1e-45, 1.0, -MASK])
    rows = data.draw(st.lists(st.lists(levels, min_size=num_items, max_size=num_items), min_size=num_rows, max_size=4))
    k = data.draw(st.integers(1, num_items))
    assert_lists(torch.tensor(rows, dtype=torch.float32).reshape(len(rows), num_items), k)


def test_top_k_leaves_its_input_alone() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, MASK]], requires_grad=True)
    before = scores.detach().clone()
    items, values = top_k(scores, 4)
    assert items.tolist() == [[0, 1, 2, -1]]
    assert torch.equal(scores, before)
    assert not values.requires_grad


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_needs_a_positive_length(k: int) -> None:
    with pytest.raises(CatwalkError, match=f"k = {k} .* at least 1"):
        top_k(torch.zeros(2, 10), k)


def test_top_k_needs_a_large_enough_catalogue() -> None:
    with pytest.raises(CatwalkError, match=re.escape("k = 50 is larger than the catalogue (10 items)")):
        top_k(torch.zeros(2, 10), 50)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("num_items", "column"), [(100, 0), (100, 70), (100, 99), (1_003, 0), (1_003, 1_002)])
def test_top_k_refuses_nan(device: str, num_items: int, column: int) -> None:
    scores = torch.randn(5, num_items, device=device)
    scores[3] = MASK
    scores[3, column] = torch.nan
    with pytest.raises(DivergedError, match="a score is NaN"):
        top_k(scores, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [INF, -INF])
@pytest.mark.parametrize("num_items", [6, 300])
def test_an_infinite_score_is_no_purchase_and_no_tie(device: str, dtype: torch.dtype, value: float, num_items: int):
    scores = torch.linspace(0, 1, num_items, device=device).repeat(3, 1).to(dtype)
    scores[1, :-2] = torch.finfo(dtype).min  # a list that is short but for the score that has overflowed
    scores[1, -1] = value
    with pytest.raises(DivergedError, match=rf"a score is infinite \({value}\)"):
        top_k(scores, 3)


@pytest.mark.parametrize("value", [INF, -INF, torch.nan, MASK])
@pytest.mark.parametrize("seen_item", [0, 1, 4])
def test_scores_are_looked_at_before_they_are_masked(value: float, seen_item: int) -> None:
    """Whether the item was bought or not, and whether it would be in a list or not."""
    scores = torch.arange(5.0).repeat(16, 1)
    scores[2, 4] = value
    seen = SeenItems.from_pairs(torch.tensor([2]), torch.tensor([seen_item]), num_users=16, num_items=5)
    for rank in (lambda score, users: score_users(score, users, seen), lambda *two: rank_users(*two, 1, seen)):
        with pytest.raises(DivergedError, match="scores must be finite"):
            rank(lambda users, *items: scores[: len(users)].clone(), torch.arange(10))


def test_no_score_is_mistaken_for_a_mask() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        lowest = np.nextafter(MASK, np.float32(0)) if dtype == torch.float32 else torch.finfo(dtype).min / 2
        scores = torch.tensor([[1.0, lowest, 0.0]], dtype=dtype)
        seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([2]), num_users=1, num_items=3)
        items, _ = rank_users(
            lambda users, items, scores=scores: scores.repeat(len(users), 1), torch.tensor([0]), 3, seen
        )
        assert items.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("scores", [torch.zeros(10), torch.zeros(2, 10, dtype=torch.int64)])
def test_top_k_refuses_what_is_no_score_matrix(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="tensor of floats"):
        top_k(scores, 2)


def random_pairs(seed: int, num_users: int, num_items: int, size: int) -> tuple[Tensor, Tensor, list[set[int]]]:
    """Draw interactions with repeats; the last user has none."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(num_users - 1, (size,), generator=generator)
    items = torch.randint(num_items, (size,), generator=generator)
    histories: list[set[int]] = [set() for _ in range(num_users)]
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        histories[user].add(item)
    return users, items, histories


@pytest.mark.parametrize("size", [0, 1, 40, 400])
def test_seen_items_are_the_sets_of_the_pairs(size: int) -> None:
    num_users, num_items = 13, 29
    users, items, histories = random_pairs(size, num_users, num_items, size)
    seen = SeenItems.from_pairs(users, items, num_users, num_items)
    assert (seen.num_users, seen.num_items) == (num_users, num_items)
    assert seen.offsets.dtype == seen.items.dtype == torch.int64
    assert seen.counts.tolist() == [len(history) for history in histories]
    for user, history in enumerate(histories):
        assert seen.items[seen.offsets[user] : seen.offsets[user + 1]].tolist() == sorted(history)

    contained = seen.contains(torch.arange(num_users)[:, None], torch.arange(-2, num_items + 2))
    assert contained.tolist() == [[item in history for item in range(-2, num_items + 2)] for history in histories]

    block = torch.tensor([5, 12, 0, 5, 7])  # with a repeat, out of order, one without history
    scores = torch.ones(len(block), num_items)
    assert seen.mask_(scores, block) is scores
    expected = [[MASK if item in histories[user] else 1.0 for item in range(num_items)] for user in block.tolist()]
    assert scores.tolist() == expected


def test_seen_items_do_not_depend_on_the_order_of_the_pairs() -> None:
    users, items, _ = random_pairs(3, 13, 29, 100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    first, second = (SeenItems.from_pairs(users[rows], items[rows], 13, 29) for rows in (torch.arange(100), order))
    assert torch.equal(first.offsets, second.offsets)
    assert torch.equal(first.items, second.items)


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 5], [0, 0], "users must be in 0..4, got 0..5"),
        ([0, -1], [0, 0], "users must be in 0..4, got -1..0"),
        ([0, 1], [0, 7], "items must be in 0..6, got 0..7"),
        ([0, 1], [0, -1], "items must be in 0..6, got -1..0"),
        ([0, 1], [0], "(n,)"),
    ],
)
def test_seen_items_refuse_pairs_out_of_range(users: list[int], items: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SeenItems.from_pairs(torch.tensor(users), torch.tensor(items), num_users=5, num_items=7)


@pytest.mark.parametrize("shape", [(2, 6), (3, 7), (7,)])
def test_masking_refuses_scores_of_another_shape(shape: tuple[int, ...]) -> None:
    seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([0]), num_users=5, num_items=7)
    with pytest.raises(ValueError, match=re.escape("(2, 7)")):
        seen.mask_(torch.zeros(shape), torch.tensor([0, 1]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [slice(0, 29), slice(0, 10), slice(10, 11), slice(11, 29)])
def test_a_block_of_items_is_masked_as_all_are(device: str, block: slice) -> None:
    users, items, histories = random_pairs(3, 13, 29, 100)
    seen = SeenItems.from_pairs(users, items, 13, 29).to(device)
    asked = torch.tensor([12, 0, 5, 5, 7], device=device)
    masked = seen.mask_(torch.zeros(5, block.stop - block.start, device=device), asked, block) == MASK
    for user, row in zip(asked.tolist(), masked.tolist(), strict=True):
        assert row == [item in histories[user] for item in range(block.start, block.stop)]
    with pytest.raises(ValueError, match="scores must be"):
        seen.mask_(torch.zeros(5, 30), asked.cpu(), block)


@pytest.mark.parametrize("device", DEVICES)
def test_seen_items_move_to_a_device_once(device: str) -> None:
    users, items, histories = random_pairs(3, 13, 29, 100)
    there = SeenItems.from_pairs(users, items, 13, 29).to(device)
    assert there.to(device) is there
    scores = there.mask_(torch.zeros(13, 29, device=device), torch.arange(13, device=device))
    assert (scores == MASK).sum(dim=1).tolist() == [len(history) for history in histories]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_users", [0, 1, 16, 37, 100])
def test_blocks_cover_each_user_once_and_are_the_same_for_every_number_of_processes(
    num_users: int, world_size: int
) -> None:
    users = torch.randperm(num_users, generator=torch.Generator().manual_seed(0)) + 7
    shares = [list(user_blocks(users, 50, rank, world_size, max_bytes=4 * 50 * 20)) for rank in range(world_size)]
    cuts = [users[start : start + 16].tolist() for start in range(0, num_users, 16)]  # 20 rows fit, 16 are taken
    for rank, share in enumerate(shares):
        assert [block.tolist() for block in share] == cuts[rank::world_size]
    assert sorted(torch.cat([block for share in shares for block in share] or [users]).tolist()) == sorted(
        users.tolist()
    )


@pytest.mark.parametrize(("num_items", "rows"), [(1_000, 4_192), (7_371, 560), (2_000_000, 16)])
def test_blocks_stay_below_16_mib_but_have_16_rows(num_items: int, rows: int) -> None:
    block = next(user_blocks(torch.arange(20_000), num_items))
    assert len(block) == rows
    assert rows % 16 == 0
    assert rows == 16 or rows * num_items * 4 <= 16 * 2**20 < (rows + 16) * num_items * 4


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_blocks_refuse_a_rank_out_of_range(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        list(user_blocks(torch.arange(3), 5, rank, world_size))


class MatrixModel:
    def __init__(self, num_users: int, num_items: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.users = torch.randn(num_users, 64, generator=generator)
        self.items = torch.randn(num_items, 64, generator=generator)

    def __call__(self, users: Tensor, items: slice) -> Tensor:
        return self.users[users] @ self.items[items].T


def test_ranking_is_the_same_to_the_bit_for_every_block_size_and_order() -> None:
    num_users, num_items, k = 37, 300, 50
    users, items, histories = random_pairs(9, num_users, num_items, 3_000)
    seen = SeenItems.from_pairs(users, items, num_users, num_items)
    model = MatrixModel(num_users, num_items)
    whole_items, whole_scores = rank_users(model, torch.arange(num_users), k, seen)

    for rows in (16, 32, 64):
        block_items, block_scores = rank_users(model, torch.arange(num_users), k, seen, max_bytes=4 * num_items * rows)
        assert torch.equal(block_items, whole_items)
        assert torch.equal(block_scores, whole_scores)

    order = torch.randperm(num_users, generator=torch.Generator().manual_seed(2))
    mixed_items, mixed_scores = rank_users(model, order, k, seen, max_bytes=4 * num_items * 16)
    assert torch.equal(mixed_items, whole_items[order])
    assert torch.equal(mixed_scores, whole_scores[order])

    for user in (0, 20, 36):  # one user alone
        own_items, own_scores = rank_users(model, torch.tensor([user]), k, seen)
        assert torch.equal(own_items[0], whole_items[user])
        assert torch.equal(own_scores[0], whole_scores[user])

    exact = model.users.double().numpy() @ model.items.double().numpy().T
    for user, history in enumerate(histories):
        exact[user, sorted(history)] = MASK
    assert whole_items.tolist() == lists_by_hand(exact, k, MASK)[0]


def test_users_with_few_candidates_get_short_lists_without_seen_items() -> None:
    users = torch.tensor([0, 0, 0, 1])
    seen = SeenItems.from_pairs(users, torch.tensor([0, 2, 3, 1]), num_users=2, num_items=5)
    items, scores = rank_users(lambda users, items: torch.zeros(len(users), 5), torch.tensor([0, 1]), 4, seen)
    assert items.tolist() == [[1, 4, -1, -1], [0, 2, 3, 4]]
    assert scores.tolist() == [[0.0, 0.0, -INF, -INF], [0.0] * 4]


def test_masking_is_done_in_the_memory_of_the_scores() -> None:
    table = torch.zeros(32, 3)
    seen = SeenItems.from_pairs(torch.arange(20), torch.ones(20, dtype=torch.int64), num_users=20, num_items=3)
    scores = score_users(lambda users: table[: len(users)], torch.arange(20), seen)
    assert scores.data_ptr() == table.data_ptr()
    assert scores.tolist() == [[0.0, MASK, 0.0]] * 20
    assert (table[20:] == 0).all()  # padding


@pytest.mark.parametrize("num_users", [1, 15, 16, 17, 100])
def test_scoring_pads_to_a_multiple_of_16_users(num_users: int) -> None:
    asked: list[list[int]] = []

    def score(users: Tensor) -> Tensor:
        asked.append(users.tolist())
        return users[:, None].float().repeat(1, 3)

    seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([0]), num_users=200, num_items=3)
    users = torch.arange(num_users) + 50
    assert score_users(score, users, seen)[:, 2].tolist() == users.tolist()
    assert len(asked) == 1
    assert len(asked[0]) % 16 == 0
    assert asked[0] == users.tolist() + [users[-1].item()] * (len(asked[0]) - num_users)


def test_ranking_refuses_a_list_longer_than_the_catalogue_before_it_scores() -> None:
    def never(users: Tensor, items: slice) -> Tensor:
        raise AssertionError("scored")

    seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([0]), num_users=1, num_items=5)
    with pytest.raises(CatwalkError, match="k = 6 is larger than the catalogue"):
        rank_users(never, torch.tensor([0]), 6, seen)
    with pytest.raises(ValueError, match="at least one user"):
        rank_users(never, torch.tensor([], dtype=torch.int64), 5, seen)
