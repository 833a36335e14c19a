"""What an attack's effect consists of: who won places, whose they were, and who is shown them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catwalk.metrics.groups import POPULARITY_GROUPS


def _part(meaning: str) -> Any:
    """Return a field with what it means, as columns of ``cells.csv`` have it."""
    return field(metadata={"meaning": meaning})


@dataclass(frozen=True)
class Decomposition:
    """What the effect of an attack on one recommender consists of, beside the same recommender without it.

    What is won, gained or taken is a number of places of a list of K, attacked minus clean, mean over users; below 0 it
    was lost. ``won_by_attacked + won_by_others`` is what CHR@K of the source category has gained, and what the three
    popularity groups gain sums to ``won_by_attacked + won_elsewhere``. Where all lists are full, as much was taken from
    the three groups of items that were not attacked. The fields are columns of ``cells.csv``.
    """

    won_by_attacked: float = _part("Places won by the attacked items that count to the source category.")
    won_by_others: float = _part("Places won by the other items of the source category.")
    won_elsewhere: float = _part(
        "Places won by the attacked items that count to another category; 0 unless one network chooses what is "
        "attacked and another one tells the categories."
    )
    users_reached_clean: float = _part("Share of users with an attacked item in the list, without attack, in [0, 1].")
    users_reached: float = _part("Share of users with an attacked item in the list, in [0, 1].")
    attacked_hr_clean: float = _part(
        "Share of users in whose list an attacked item is, mean over these items, without attack, in [0, 1]."
    )
    attacked_hr: float = _part("Share of users in whose list an attacked item is, mean over these items, in [0, 1].")
    attacked_mean_rank_clean: float | None = _part(
        "Rank of an attacked item among a user's candidates, mean over users and items, without attack; 1 is the best."
    )
    attacked_mean_rank: float | None = _part(
        "Rank of an attacked item among a user's candidates, mean over users and items; 1 is the best."
    )
    gain_bought_source: float | None = _part(
        "Places won by the source category with users who bought of it in training; empty where nobody did."
    )
    gain_bought_target: float | None = _part(
        "Places won by the source category with users who bought of the target in training; empty where nobody did."
    )
    gain_neither: float | None = _part(
        "Places won by the source category with users who bought of neither; empty where there is nobody."
    )
    gain_cold: float = _part("Places won by the attacked items that nobody bought in training.")
    gain_tail: float = _part("Places won by the attacked items between cold and head.")
    gain_head: float = _part("Places won by the attacked items of the most popular fifth of the catalogue.")
    taken_from_cold: float = _part("Places lost by items that are not attacked and that nobody bought in training.")
    taken_from_tail: float = _part("Places lost by items that are not attacked, between cold and head.")
    taken_from_head: float = _part("Places lost by items that are not attacked, of the most popular fifth.")
    taken_from: str | None = _part("The category, but for the source, that lost most; empty where none has lost.")
    taken_from_places: float | None = _part("How many places it lost; empty where none has lost.")


def decompose(
    clean_users: pa.Table,
    attacked_users: pa.Table,
    clean_items: pa.Table,
    attacked_items: pa.Table,
    clean_chr: Mapping[str, float],
    attacked_chr: Mapping[str, float],
    *,
    source: str,
    top_k: int,
) -> Decomposition:
    """Return what an attack's effect consists of.

    Args:
        clean_users: What :class:`~callbacks.WriteUserMetrics` wrote of a test without attack, with its ``source``,
            ``target`` and the items to follow.
        attacked_users: The same of a test with it.
        clean_items: What :class:`~callbacks.WriteAttackedItems` wrote of the test without attack.
        attacked_items: The same of the test with it.
        clean_chr: CHR@K by category, without attack.
        attacked_chr: The same with it.
        source: The source category.
        top_k: K.

    Raises:
        ValueError: If the two tests are not of the same users and items.
    """
    for name, clean, attacked in (
        ("user_id", clean_users, attacked_users),
        ("item_id", clean_items, attacked_items),
    ):
        if not clean.column(name).equals(attacked.column(name)):
            raise ValueError(f"{name}: clean and attacked must be of the same ones, in the same order")

    def gains(column: str) -> NDArray[np.float64]:
        return _numbers(attacked_users, column) - _numbers(clean_users, column)

    attacked, in_source = f"attacked@{top_k}", f"attacked@{top_k}/{source}"
    of_source = gains(f"chr@{top_k}/{source}")
    gained = {name: float(gains(f"attacked_{name}@{top_k}").mean()) for name in POPULARITY_GROUPS}
    changed = {name: float(gains(f"{name}@{top_k}").mean()) for name in POPULARITY_GROUPS}
    groups = clean_users.column("group").to_numpy()
    loser, lost = next(iter(places_lost(clean_chr, attacked_chr, source).items()), (None, None))
    return Decomposition(
        won_by_attacked=float(gains(in_source).mean()),
        won_by_others=float((of_source - gains(in_source)).mean()),
        won_elsewhere=float((gains(attacked) - gains(in_source)).mean()),
        users_reached_clean=float((_numbers(clean_users, attacked) > 0).mean()),
        users_reached=float((_numbers(attacked_users, attacked) > 0).mean()),
        attacked_hr_clean=float(_numbers(clean_items, f"hr@{top_k}").mean()),
        attacked_hr=float(_numbers(attacked_items, f"hr@{top_k}").mean()),
        attacked_mean_rank_clean=mean_rank(clean_items),
        attacked_mean_rank=mean_rank(attacked_items),
        gain_bought_source=_mean(of_source[np.isin(groups, ("source", "both"))]),
        gain_bought_target=_mean(of_source[np.isin(groups, ("target", "both"))]),
        gain_neither=_mean(of_source[groups == "neither"]),
        **{f"gain_{name}": gained[name] for name in POPULARITY_GROUPS},
        **{f"taken_from_{name}": gained[name] - changed[name] for name in POPULARITY_GROUPS},
        taken_from=loser,
        taken_from_places=lost,
    )


def places_lost(clean_chr: Mapping[str, float], attacked_chr: Mapping[str, float], source: str) -> dict[str, float]:
    """Return the categories but for the source that lost places, those that lost most first, with how many they lost.

    Args:
        clean_chr: CHR@K by category, without attack.
        attacked_chr: The same with it.
        source: The source category.

    Example:
        >>> from catwalk.study.decomposition import places_lost
        >>> clean = {"Bag": 5.0, "Coat": 6.0, "Sandal": 1.0, "Sneaker": 8.0}
        >>> places_lost(clean, {"Bag": 5.5, "Coat": 5.75, "Sandal": 2.25, "Sneaker": 6.5}, source="Sandal")
        {'Sneaker': 1.5, 'Coat': 0.25}
    """
    lost = {name: clean_chr[name] - attacked_chr[name] for name in clean_chr if name != source}
    return {name: places for name, places in sorted(lost.items(), key=lambda each: -each[1]) if places > 0}


def mean_rank(items: pa.Table) -> float | None:
    """Return the mean rank of items over users and items, as ``attacked/mean_rank`` is; None if none is a candidate.

    Args:
        items: What :class:`~callbacks.WriteAttackedItems` wrote.
    """
    ranks, candidates = _numbers(items, "mean_rank"), _numbers(items, "candidates")
    known = candidates > 0
    return float(np.average(ranks[known], weights=candidates[known])) if known.any() else None


def _numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """Return a column as float64, with NaN for what is empty."""
    return np.asarray(table.column(column).to_numpy(), dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
