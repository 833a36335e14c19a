"""The smallest ε that succeeds on each item, and the share of them that an ε reaches, from one attack without ε."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catwalk.errors import CatwalkError
from catwalk.files.csv_text import from_cell
from catwalk.poisoning.attack_files import ITEMS_FILE, SUMMARY_FILE, read_summary


@dataclass(frozen=True, eq=False)
class SuccessCurve:
    """For each item the smallest ε at which an attack is known to succeed on its 8-bit image.

    The image of distance d that an attack without a budget has found lies in the ball of every ε from d on. Below, an
    image may succeed that was not found: a share that is read off is a lower bound of what an attacker can reach.

    Attributes:
        attack: The attack's name.
        norm: ``linf`` or ``l2``.
        item_ids: The shop's ids of the n items.
        epsilons: float64 ``(n,)`` in grey levels; infinite where nothing succeeded.
    """

    attack: str
    norm: str
    item_ids: Sequence[str]
    epsilons: NDArray[np.float64]

    def shares(self, epsilons: ArrayLike) -> NDArray[np.float64]:
        """Return the share of the items on which each ε, in grey levels, succeeds.

        >>> curve = SuccessCurve("DDN (100)", "l2", ["a", "b"], np.array([3.0, np.inf]))
        >>> curve.shares([2, 3, 400]).tolist()
        [0.0, 0.5, 0.5]
        """
        return np.searchsorted(np.sort(self.epsilons), np.asarray(epsilons, float), "right") / len(self.epsilons)

    def epsilon_for(self, share: float) -> float:
        """Return the smallest ε in grey levels that succeeds on a share of the items, in (0, 1]; infinite if none does.

        >>> SuccessCurve("DDN (100)", "l2", ["a", "b"], np.array([3.0, np.inf])).epsilon_for(0.5)
        3.0
        """
        # A product such as 0.07 · 100 may be off by its last bits.
        return float(np.sort(self.epsilons)[max(math.ceil(share * len(self.epsilons) - 1e-9), 1) - 1])


def read_success_curve(folder: Path) -> SuccessCurve:
    """Read the curve of an attack's folder, as ``catwalk attack``, ``fit`` and studies write it.

    Args:
        folder: With ``attack.json`` and ``attacked_items.csv``.

    Raises:
        CatwalkError: If one of them is missing or damaged, or the attack had a budget.
    """
    for name in (SUMMARY_FILE, ITEMS_FILE):
        if not (folder / name).is_file():
            raise CatwalkError(f"{folder} holds no {name}: give the folder that an attack's images were written to")
    summary = read_summary(folder)
    if summary.epsilon is not None:
        raise CatwalkError(
            f"{folder}: {summary.attack} has a budget, and tells of that alone; give the folder of an attack that "
            "looks for the least change: DDN, FMN or CarliniWagner"
        )
    column, ids, epsilons = f"{summary.norm}_levels", [], []
    try:
        with (folder / ITEMS_FILE).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                ids.append(from_cell(row["item_id"]))
                epsilons.append({"True": float(row[column]), "False": math.inf}[row["success"]])
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CatwalkError(f"{folder / ITEMS_FILE} is damaged, attack again: {error!r}") from error
    if not ids:
        raise CatwalkError(f"{folder / ITEMS_FILE} is damaged, attack again: it names no item")
    return SuccessCurve(summary.attack, summary.norm, ids, np.array(epsilons))
