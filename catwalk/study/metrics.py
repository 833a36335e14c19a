"""What else a study measures of its recommenders: any metric that ``fit`` can log, by the name under which it does."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytorch_lightning import Callback

from callbacks.attacked_items import AttackedItems
from callbacks.ranking_metrics import HELD_OUT_METRICS, RankingMetrics
from catwalk.configuration.names import did_you_mean
from catwalk.errors import CatwalkError
from catwalk.metrics.exposure import Exposure
from catwalk.metrics.item_reach import ItemReach
from catwalk.shop.catalogue import number_of

OWN = ("hr", "ndcg")
"""What every recommender logs of lists, by itself."""

OF_CATEGORIES = ("chr", "ncdcg")
OF_LISTS = (*HELD_OUT_METRICS, *Exposure.names)
OF_ATTACKED_ITEMS = tuple(f"attacked/{name}" for name in ItemReach.names)

MEAN_RANK = "attacked/mean_rank"
"""The one metric that has no K."""

OF_EVERYBODY = Exposure.names
"""What every study measures of everybody's lists beyond hits, at its own K: what an attack does to all of them."""

AT_K = (*OWN, *OF_CATEGORIES, *OF_LISTS, *OF_ATTACKED_ITEMS)


@dataclass(frozen=True)
class Metric:
    """A metric of a recommender.

    Attributes:
        name: What the user calls it, and its column.
        kind: Its name without K and category, such as ``chr``.
        k: Length of the lists; None where it has none.
        category: Of which category; None for the source, or where it has none.
    """

    name: str
    kind: str
    k: int | None
    category: str | None

    @classmethod
    def of(cls, name: str) -> "Metric":
        """Read a name, such as ``mrr@20``, ``chr@10``, ``chr@10/Bag`` or ``attacked/mean_rank``.

        Raises:
            CatwalkError: If there is no such metric.
        """
        if name == MEAN_RANK:
            return cls(name, name, None, None)
        kind, _, rest = name.partition("@")
        length, slash, category = rest.partition("/")
        has_length = re.fullmatch(r"[1-9][0-9]*", length) is not None
        if kind not in AT_K:
            known = [*(f"{each}@{length if has_length else 20}" for each in AT_K), MEAN_RANK]
            raise CatwalkError(f"metrics: there is no metric {name!r}{did_you_mean(name, known)}")
        if not has_length:
            raise CatwalkError(f"metrics: {kind} needs the length of the lists, such as {kind}@20, got {name!r}")
        if slash and kind not in OF_CATEGORIES:
            raise CatwalkError(
                f"metrics: {kind} has no categories, as {' and '.join(OF_CATEGORIES)} have: write {kind}@{length}, "
                f"got {name!r}"
            )
        return cls(name, kind, int(length), category if slash else None)


@dataclass(frozen=True)
class Metrics:
    """Metrics that a study is to measure besides its own.

    Attributes:
        chosen: Which ones.
        source: The source category.
    """

    chosen: tuple[Metric, ...]
    source: str

    @classmethod
    def of(cls, names: Iterable[str], columns: Sequence[str], num_items: int, source: str) -> "Metrics":
        """Read the names of metrics.

        Args:
            names: The names; those that the study has as columns anyway count once.
            columns: The study's own columns.
            num_items: Size of the catalogue, which bounds K.
            source: The source category.

        Raises:
            CatwalkError: If there is no such metric, or lists cannot be that long.
        """
        chosen = tuple(Metric.of(name) for name in dict.fromkeys(names) if name not in columns)
        for metric in chosen:
            if metric.k is not None and metric.k > num_items:
                raise CatwalkError(
                    f"metrics: {metric.name}: K must lie in 1..{num_items}, the size of the catalogue, got {metric.k}"
                )
        return cls(chosen, source)

    def check_categories(self, names: Sequence[str]) -> None:
        """Raise a CatwalkError if a metric is of a category that is not among these."""
        for metric in self.chosen:
            if metric.category is not None:
                number_of(metric.category, names, f"metrics: {metric.name}")

    @property
    def of_attacked_items(self) -> bool:
        """Whether one of them is of the attacked items."""
        return any(metric.kind in (*OF_ATTACKED_ITEMS, MEAN_RANK) for metric in self.chosen)

    def lengths(self, kinds: Iterable[str]) -> list[int]:
        """Return the list lengths at which metrics of some kinds are asked for."""
        kinds = tuple(kinds)
        return sorted({metric.k for metric in self.chosen if metric.kind in kinds and metric.k is not None})

    def category_lengths(self, top_k: int) -> list[int]:
        """Return the list lengths at which CHR and nCDCG are measured.

        Args:
            top_k: That of the study.
        """
        return sorted({top_k, *self.lengths(OF_CATEGORIES)})

    @property
    def callback_classes(self) -> list[type[Callback]]:
        """The classes of :meth:`callbacks`."""
        of_lists: list[type[Callback]] = [RankingMetrics] if self.lengths(OF_LISTS) else []
        return [*of_lists, AttackedItems] if self.of_attacked_items else of_lists

    def callbacks(self, items: Sequence[str] | None = None) -> list[Callback]:
        """Return the callbacks that measure them, as far as neither the recommender nor every study does.

        Args:
            items: Ids of the items of which the metrics of attacked items are; for them alone.
        """
        callbacks: list[Callback] = []
        if self.lengths(OF_LISTS):
            callbacks.append(RankingMetrics(self.lengths(OF_LISTS)))
        if self.of_attacked_items:
            assert items is not None
            mean_rank = any(metric.kind == MEAN_RANK for metric in self.chosen)
            lengths = self.lengths(OF_ATTACKED_ITEMS) or [1]
            callbacks.append(AttackedItems(top_k=lengths, mean_rank=mean_rank, items=items))
        return callbacks

    def values(self, logged: Mapping[str, float]) -> dict[str, float | None]:
        """Return the metrics by name, of what a test logged; None for what is not a number."""
        values: dict[str, float | None] = {}
        for metric in self.chosen:
            name = f"{metric.kind}@{metric.k}" if metric.k is not None else metric.kind
            if metric.kind in OF_CATEGORIES:
                name = f"{name}/{self._category(metric)}"
            value = float(logged[f"test/{name}"])
            values[metric.name] = None if math.isnan(value) else value
        return values

    def _category(self, metric: Metric) -> str:
        return self.source if metric.category is None else metric.category
