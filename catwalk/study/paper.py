"""What the reproduced paper printed in its Tables 1 and 2, to stand beside a study's own values."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from catwalk.limits import check_choice

PaperDataset = Literal["amazon_men", "amazon_women"]
"""Datasets of the paper."""

TOP_K = 20
"""K of its Table 1."""


@cache
def _printed() -> dict[tuple[str, ...], float]:
    """Return all cells of both tables."""
    text = files("catwalk.study").joinpath("paper_tables.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {tuple(value for name, value in row.items() if name != "printed"): float(row["printed"]) for row in rows}


def paper_value(
    dataset: PaperDataset, table: Literal[1, 2], recommender: str | None, attack: str, extractor: str, metric: str
) -> float | None:
    """Return what the paper printed in a cell; None where it has none.

    Args:
        dataset: Dataset of the paper.
        table: 1, of recommendations, or 2, of images.
        recommender: ``VBPR`` or ``AMR`` in Table 1; None in Table 2, which has none.
        attack: As a study calls it: ``No attack``, ``FGSM (ε = 4)``, ``PGD (ε = 8)``, ``C&W (5 × 1000)`` …
        extractor: ``T``, ``AT`` or ``FAT``.
        metric: ``CHR@20`` in Table 1; ``SR`` (in per cent), ``FL`` or ``LPIPS`` (times 100) in Table 2.

    References:
        V. W. Anelli, T. Di Noia, D. Malitesta, F. A. Merra (2020): Assessing Perceptual and Recommendation Mutation of
        Adversarially-Poisoned Visual Recommenders. AIxIA 2020 Discussion Papers Workshop.

    Example:
        >>> from catwalk.study.paper import paper_value
        >>> paper_value("amazon_men", 1, "VBPR", "PGD (ε = 8)", "T", "CHR@20")
        1.5736
        >>> paper_value("amazon_men", 2, None, "PGD (ε = 8)", "AT", "SR")
        24.08
    """
    return _printed().get((dataset, str(table), recommender or "", attack, extractor, metric))


@dataclass(frozen=True)
class Paper:
    """The paper's tables of one of its datasets, as :mod:`catwalk.study.tables` shows them beside a study's.

    Attributes:
        dataset: Dataset of the paper.
        top_k: K of the study; the paper has none but 20.

    Raises:
        CatwalkError: If the paper has no such dataset.
    """

    dataset: PaperDataset
    top_k: int = TOP_K

    def __post_init__(self) -> None:
        check_choice(self.dataset, "paper", PaperDataset)

    def chr(self, recommender: str, attack: str, extractor: str) -> float | None:
        """Return a value of Table 1; None where it has none."""
        return paper_value(self.dataset, 1, recommender, attack, extractor, f"CHR@{self.top_k}")

    def of_images(self, metric: str, attack: str, extractor: str) -> float | None:
        """Return a value of Table 2, as printed; None where it has none."""
        return paper_value(self.dataset, 2, None, attack, extractor, metric)
