"""No tensor that ranking creates grows with users times items."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from catwalk.metrics import AUC, CategoryHitRatio
from catwalk.recommenders.candidate_scores import rank_users
from catwalk.recommenders.ranking import score_users, top_k, user_blocks
from catwalk.shop.user_items import SeenItems

MAX_BYTES = 2**20
K = 20


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest memory that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


def rank(num_users: int, num_items: int) -> int:
    """Rank and measure as an evaluation does, and return the bytes of the largest tensor."""
    generator = torch.Generator().manual_seed(0)
    bought = torch.randint(num_items, (num_users, 3), generator=generator)
    # Everybody has bought two items; the third is held out, one place on where it is one of the two.
    targets = bought[:, 2]
    for _ in range(2):
        targets = torch.where((targets[:, None] == bought[:, :2]).any(dim=1), (targets + 1) % num_items, targets)
    buyers = torch.arange(num_users).repeat_interleave(2)
    seen = SeenItems.from_pairs(buyers, bought[:, :2].flatten(), num_users, num_items)
    users, items = torch.randn(num_users, 4, generator=generator), torch.randn(num_items, 4, generator=generator)
    everyone, categories = torch.arange(num_users), torch.arange(num_items) % 7

    def score(block: Tensor) -> Tensor:
        return users[block] @ items.T

    auc, hits = AUC(), CategoryHitRatio(K, categories, 7)
    with LargestTensor() as largest:
        recommended, _ = rank_users(lambda block, items: score(block), everyone, K, seen, max_bytes=MAX_BYTES)
        hits.update(recommended)
        for block in user_blocks(everyone, num_items, max_bytes=MAX_BYTES):
            scores = score_users(score, block, seen)
            top_k(scores, K)
            auc.update(scores, targets[block])
    assert auc.count == hits.users == num_users
    return largest.bytes


@pytest.mark.parametrize("growth", [1, 4])
def test_the_largest_tensor_of_an_evaluation_is_a_block_or_the_lists(growth: int) -> None:
    num_users, num_items = 1_500 * growth, 1_000 * growth
    lists = 8 * num_users * K
    assert 4 * num_users * num_items > 4 * max(MAX_BYTES, lists)  # all scores would show
    # A block of float32 scores, which a tie or a group may look into with int64 indices, or the lists of all users.
    assert rank(num_users, num_items) <= max(2 * MAX_BYTES, lists)


def test_a_tensor_of_all_scores_would_be_noticed() -> None:
    with LargestTensor() as largest:
        torch.zeros(300, 10) @ torch.zeros(10, 70)
    assert largest.bytes == 4 * 300 * 70
