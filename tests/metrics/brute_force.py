"""Every metric once more, in loops over plain NumPy, and random data to compare on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catwalk.shop.user_items import SeenItems, mask_value

MASK = mask_value(torch.float32)
NUM_CATEGORIES = 5
TOP_K = 10
TOP_KS = [7, 1, 10]


def users_of(lists: np.ndarray, targets: np.ndarray) -> list[tuple[list, set[int]]]:
    """Return each user's row, and the held-out items: ``targets`` is ``(B,)``, or ``(B, T)`` filled up with -1."""
    return [
        (row, {item for item in np.atleast_1d(its).tolist() if item >= 0})
        for row, its in zip(lists.tolist(), targets, strict=True)
    ]


def hit_rate(recommended: np.ndarray, targets: np.ndarray, k: int) -> float:
    return sum(bool(its & set(row[:k])) for row, its in users_of(recommended, targets)) / len(targets)


def normalized_dcg(recommended: np.ndarray, targets: np.ndarray, k: int) -> float:
    total = 0.0
    for row, its in users_of(recommended, targets):
        gain = math.fsum(1 / math.log2(place + 2) for place, item in enumerate(row[:k]) if item in its)
        best = [*its, *(-2 for _ in range(k))][:k]  # the held-out items first, and then others
        total += gain / math.fsum(1 / math.log2(place + 2) for place, item in enumerate(best) if item in its)
    return total / len(targets)


def mean_reciprocal_rank(recommended: np.ndarray, targets: np.ndarray, k: int) -> float:
    ranks = [
        next((rank for rank, item in enumerate(row[:k], start=1) if item in its), math.inf)
        for row, its in users_of(recommended, targets)
    ]
    return math.fsum(1 / rank for rank in ranks) / len(targets)


def precision(recommended: np.ndarray, targets: np.ndarray, k: int) -> float:
    return sum(len(its & set(row[:k])) / k for row, its in users_of(recommended, targets)) / len(targets)


def recall(recommended: np.ndarray, targets: np.ndarray, k: int) -> float:
    return sum(len(its & set(row[:k])) / len(its) for row, its in users_of(recommended, targets)) / len(targets)


def auc(scores: np.ndarray, targets: np.ndarray) -> float:
    shares = []
    for row, its in users_of(scores, targets):
        others = [score for item, score in enumerate(row) if item not in its and score != MASK]
        if others:
            points = [
                1.0 if row[item] > score else 0.5 if row[item] == score else 0.0 for item in its for score in others
            ]
            shares.append(sum(points) / len(points))
    return sum(shares) / len(shares)


def category_hits(recommended: np.ndarray, categories: np.ndarray, k: int) -> list[int]:
    hits = [0] * NUM_CATEGORIES
    for row in recommended.tolist():
        for item in row[:k]:
            if item != -1 and categories[item] != -1:
                hits[categories[item]] += 1
    return hits


def normalized_category_dcg(recommended: np.ndarray, seen: np.ndarray, categories: np.ndarray, k: int) -> list[float]:
    """Build every user's ideal list of every category; ``seen`` is bool ``(B, N)``, or False for nothing."""
    seen = np.broadcast_to(seen, (len(recommended), len(categories)))
    means = []
    for category in range(NUM_CATEGORIES):
        shares = []
        for row, bought in zip(recommended.tolist(), seen, strict=True):
            candidates = [item for item, its in enumerate(categories) if its == category and not bought[item]]
            ideal = math.fsum(1 / math.log2(rank + 1) for rank, _ in enumerate(candidates[:k], start=1))
            if candidates:
                ranks = [rank for rank, item in enumerate(row[:k], start=1) if item in candidates]
                shares.append(math.fsum(1 / math.log2(rank + 1) for rank in ranks) / ideal)
        means.append(math.fsum(shares) / len(shares) if shares else math.nan)
    return means


def exposure(recommended: np.ndarray, seen: np.ndarray, k: int) -> dict[str, float]:
    """Return the metrics of the lists, place by place; ``seen`` is bool ``(U, N)``."""
    num_users, num_items = seen.shape
    buyers = [sum(bought) for bought in seen.T.tolist()]
    places = [item for row in recommended.tolist() for item in row[:k] if item != -1]
    shown = [places.count(item) for item in range(num_items)]
    differences = sum(abs(one - other) for one in shown for other in shown)
    own = [[buyers[item] for item in np.flatnonzero(bought)] for bought in seen if bought.any()]
    own_popularity = sum(sum(its) / len(its) for its in own) / len(own)
    popularity = sum(buyers[item] for item in places) / len(places)
    return {
        "coverage": len(set(places)) / num_items,
        "gini": differences / (2 * num_items * len(places)),
        "novelty": math.fsum(-math.log2(max(buyers[item], 1) / num_users) for item in places) / len(places),
        "arp": popularity,
        "popularity_lift": (popularity - own_popularity) / own_popularity,
    }


def attack_success_rates(before: np.ndarray, after: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    images = list(zip(before.tolist(), after.tolist(), targets.tolist(), strict=True))
    elsewhere = [(later, target) for earlier, later, target in images if earlier != target]
    return {
        "sr": sum(later == target for _, later, target in images) / len(images),
        "sr_clean": sum(earlier == target for earlier, _, target in images) / len(images),
        "sr_net": sum(later == target for later, target in elsewhere) / len(elsewhere),
    }


def feature_loss(before: np.ndarray, after: np.ndarray) -> float:
    differences = [float(b) - float(a) for a, b in zip(before.ravel(), after.ravel(), strict=True)]
    return math.fsum(difference**2 for difference in differences) / len(differences)


@dataclass(frozen=True)
class Data:
    scores: Tensor
    targets: Tensor
    several: Tensor
    recommended: Tensor
    seen: SeenItems
    categories: Tensor
    predicted_before: Tensor
    predicted_after: Tensor
    classes: Tensor
    features_before: Tensor
    features_after: Tensor


def make_data(seed: int = 0, num_users: int = 61, num_items: int = 40) -> Data:
    """Draw scores with many ties and masked items, lists with fillers, items without a category.

    ``targets`` has an item of each user, and ``several`` 1 to 7 of them, filled up with -1.
    """
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (num_users, num_items)).astype(np.float32)
    targets = rng.integers(0, num_items, num_users)
    masked = rng.random((num_users, num_items)) < 0.4
    masked[5] = True  # no candidate but the target
    masked[6, 4:] = True  # fewer candidates than places
    masked[np.arange(num_users), targets] = False
    scores[masked] = MASK
    recommended = np.full((num_users, 12), -1)
    for user in range(num_users):
        candidates = [item for item in range(num_items) if not masked[user, item]]
        best = sorted(candidates, key=lambda item, user=user: (-scores[user, item], item))[:12]
        recommended[user, : len(best)] = best
    several = np.full((num_users, 7), -1)
    for user, its in enumerate(several):
        candidates = np.flatnonzero(~masked[user])
        chosen = np.random.default_rng(user).permutation(candidates)[: user % 7 + 1]
        its[: len(chosen)] = np.sort(chosen)
    features = rng.normal(size=(2, num_users, 8)).astype(np.float32)
    return Data(
        scores=torch.from_numpy(scores),
        targets=torch.from_numpy(targets),
        several=torch.from_numpy(several),
        recommended=torch.from_numpy(recommended),
        seen=SeenItems.from_pairs(*map(torch.from_numpy, masked.nonzero()), num_users, num_items),
        categories=torch.from_numpy(rng.integers(-1, NUM_CATEGORIES, num_items)),
        predicted_before=torch.from_numpy(rng.integers(0, 3, num_users)),
        predicted_after=torch.from_numpy(rng.integers(0, 3, num_users)),
        classes=torch.from_numpy(rng.integers(0, 3, num_users)),
        features_before=torch.from_numpy(features[0]),
        features_after=torch.from_numpy(features[1]),
    )


SPLITS = [[61], [1, 60], [16, 16, 16, 13], [1] * 61]
"""Ways to hand the 61 rows over."""
