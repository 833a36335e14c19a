"""The metrics of held-out items where users have several of them, against brute force."""

import brute_force
import pytest
import torch

from catwalk.metrics import AUC, HitRate, MeanReciprocalRank, NormalizedDCG, Precision, Recall
from catwalk.metrics.auc import auc
from catwalk.metrics.held_out import target_ranks
from catwalk.metrics.hit_rate import hit_rate
from catwalk.metrics.mean_reciprocal_rank import reciprocal_rank
from catwalk.metrics.normalized_dcg import normalized_dcg
from catwalk.metrics.precision import precision
from catwalk.metrics.recall import recall

DATA = brute_force.make_data()
OF_LISTS = {
    "hit_rate": (HitRate, hit_rate),
    "normalized_dcg": (NormalizedDCG, normalized_dcg),
    "mean_reciprocal_rank": (MeanReciprocalRank, reciprocal_rank),
    "precision": (Precision, precision),
    "recall": (Recall, recall),
}


@pytest.mark.parametrize("top_k", [1, 3, 5, 12])
@pytest.mark.parametrize("name", list(OF_LISTS))
def test_they_equal_brute_force_to_the_same_bits_however_the_users_are_split(name: str, top_k: int) -> None:
    kind, per_user = OF_LISTS[name]
    expected = getattr(brute_force, name)(DATA.recommended.numpy(), DATA.several.numpy(), top_k)
    assert 0 < expected < 1
    values = set()
    for seed, split in enumerate(brute_force.SPLITS):
        metric = kind(top_k)
        order = torch.randperm(61, generator=torch.Generator().manual_seed(seed))
        for rows in order.split(split):
            metric.update(DATA.recommended[rows], DATA.several[rows])
        values.add(metric.compute().item())
    assert len(values) == 1
    # a recall is rounded to a 2 ** -36th
    assert values.pop() == pytest.approx(expected, rel=1e-14, abs=2**-36 if name == "recall" else 0)
    assert per_user(DATA.recommended, DATA.several, top_k).mean().item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("top_k", [1, 5, 12])
@pytest.mark.parametrize("name", list(OF_LISTS))
def test_one_item_is_the_same_in_every_form(name: str, top_k: int) -> None:
    """As a vector, as a column, and with nothing but fillers beside it."""
    kind, per_user = OF_LISTS[name]
    filled = torch.full((61, 3), -1)
    filled[:, 1] = DATA.targets
    forms = DATA.targets, DATA.targets[:, None], filled
    metrics = [kind(top_k) for _ in forms]
    for metric, targets in zip(metrics, forms, strict=True):
        metric.update(DATA.recommended, targets)
    assert len({metric.compute().item() for metric in metrics}) == 1
    first, *others = (per_user(DATA.recommended, targets, top_k) for targets in forms)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("split", brute_force.SPLITS)
def test_auc_equals_brute_force(split: list[int]) -> None:
    metric = AUC()
    for scores, targets in zip(DATA.scores.split(split), DATA.several.split(split), strict=True):
        metric.update(scores, targets)
    assert metric.compute().item() == pytest.approx(
        brute_force.auc(DATA.scores.numpy(), DATA.several.numpy()), rel=1e-14
    )
    forms = DATA.targets, DATA.targets[:, None], torch.stack([torch.full((61,), -1), DATA.targets], dim=1)
    first, *others = (auc(DATA.scores, targets) for targets in forms)
    assert all(torch.equal(first.nan_to_num(-1), other.nan_to_num(-1)) for other in others)


def test_auc_does_not_compare_held_out_items_with_one_another() -> None:
    scores = torch.tensor(
        [[3.0, 1.0, 2.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0], [5.0, 4.0, brute_force.MASK, 1.0, 0.0]]
    )
    targets = torch.tensor([[0, 1, 3], [2, 4, -1], [3, 4, -1]])
    # of 6 pairs with the two others item 0 wins 2; all are level; none is won
    assert auc(scores, targets).tolist() == [2 / 6, 0.5, 0.0]
    assert auc(scores[2:], torch.tensor([[0, 1, 3, 4]])).isnan().all()


def test_ranks_are_those_of_plain_python() -> None:
    lists, targets = DATA.recommended.tolist(), DATA.several.tolist()
    for top_k in (1, 4, 12):
        ranks = target_ranks(DATA.recommended, DATA.several, top_k).tolist()
        assert ranks == [
            [row[:top_k].index(item) + 1 if item >= 0 and item in row[:top_k] else 0 for item in its]
            for row, its in zip(lists, targets, strict=True)
        ]


def test_users_without_an_item_are_refused() -> None:
    targets = torch.tensor([[0, 1], [-1, -1]])
    for metric, lists in ((Recall(2), torch.tensor([[0, 1], [1, 0]])), (AUC(), torch.rand(2, 3))):
        with pytest.raises(ValueError, match="leave out users without a held-out item"):
            metric.update(lists, targets)
