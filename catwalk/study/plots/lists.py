"""Plots of the lists before and after an attack: of the places of all categories, and of the ranks of items."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from catwalk.metrics.groups import POPULARITY_GROUPS
from catwalk.plots.category_bars import draw_category_bars
from catwalk.plots.ranks import RankPanel, draw_ranks
from catwalk.study.effects import Effect
from catwalk.study.grid import NO_ATTACK
from catwalk.study.plots.study_plot import StudyPlot, protocols_of, source_of
from catwalk.study.results import StudyResults
from catwalk.study.stored import StoredResults

MOST_PANELS = 9
"""Panels of ranks, the attacks with the largest effects first."""

MOST_BARS = 6
"""Plots of categories, of which each is of one recommender on one CNN."""


def bars(stored: StoredResults) -> Iterable[StudyPlot]:
    """Yield CHR of all categories before and after the attack with the largest effect, by recommender and CNN."""
    results = stored.results
    for number, effect in enumerate(_strongest(results)[:MOST_BARS]):
        clean, attacked = _cells(results, effect)
        before = _mean([found for cell in clean if (found := stored.places_by_category(cell))])
        now = _mean([found for cell in attacked if (found := stored.places_by_category(cell))])
        if not before or not now:
            continue
        title = f"Places of all categories: {_whose(results, effect)}"
        yield StudyPlot(
            key=f"categories-{number + 1}",
            title=title,
            caption=f"CHR@{results.top_k} of each category after the attack that moved {source_of(results)} most in "
            "this recommender, and before any, mean over seeds.",
            figure=draw_category_bars(
                now,
                before,
                "without attack",
                top_k=results.top_k,
                source=source_of(results),
                target=results.manifest["target"],
                title=title,
            ),
        )


def ranks(stored: StoredResults) -> StudyPlot | None:
    """Draw the ranks of the attacked items before and after the attacks with the largest effects."""
    results = stored.results
    panels: list[RankPanel] = []
    for effect in _strongest(results):
        pairs = []
        for clean, attacked in zip(*_cells(results, effect), strict=False):
            before, after = stored.attacked_items(clean), stored.attacked_items(attacked)
            if before is not None and after is not None and before["item_id"].equals(after["item_id"]):
                pairs.append((before, after))
        if not pairs or len(panels) == MOST_PANELS:
            continue
        ranks = [mean_ranks([pair[place] for pair in pairs]) for place in (0, 1)]
        groups = dict(zip(*(pairs[0][0][name].to_pylist() for name in ("item_id", "popularity")), strict=True))
        known = [item for group in POPULARITY_GROUPS for item in ranks[0] if item in ranks[1] and groups[item] == group]
        if known:
            before, after = ([of[item] for item in known] for of in ranks)
            panels.append(RankPanel(_whose(results, effect), before, after, [groups[item] for item in known]))
    if not panels:
        return None
    title = "Ranks of the attacked items"
    return StudyPlot(
        key="ranks",
        title=title,
        caption="Mean rank of every attacked item over all users, before and after the attack with the largest effect "
        "in each recommender, mean over seeds. Nobody bought cold ones; the head is the fifth that was bought most.",
        figure=draw_ranks(panels, title=title),
    )


def mean_ranks(tables: Sequence[Any]) -> dict[str, float]:
    """Return the mean rank of each item over several tables of attacked items, of those that have one in all.

    Args:
        tables: Columns ``item_id`` and ``mean_rank``, of the same items in the same order.
    """
    columns = [table["mean_rank"].to_pylist() for table in tables]
    items = tables[0]["item_id"].to_pylist()
    return {
        item: sum(values) / len(values)
        for item, *values in zip(items, *columns, strict=True)
        if None not in values and all(value == value for value in values)
    }


def _strongest(results: StudyResults) -> list[Effect]:
    """Return the poisoning with the largest effect for each recommender and CNN, under any protocol, largest first."""
    found: dict[tuple[str, str], Effect] = {}
    size: Callable[[Effect], float] = lambda effect: abs(effect.size.difference.mean)  # noqa: E731
    for effect in results.effects:
        if effect.scenario == "poisoning" and effect.control is None and size(effect):
            place = (effect.extractor, effect.recommender)
            found[place] = max(found.get(place, effect), effect, key=size)
    return sorted(found.values(), key=size, reverse=True)


def _cells(results: StudyResults, effect: Effect) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the cells without attack and those of an effect, by seed."""
    found = []
    for attack, scenario in ((NO_ATTACK, None), (effect.attack, effect.scenario)):
        labels = {name: getattr(effect, name) for name in ("protocol", "extractor", "recommender")}
        labels |= {"attack": attack, "scenario": scenario}
        chosen = [cell for cell in results.cells if all(cell[name] == value for name, value in labels.items())]
        found.append(sorted(chosen, key=lambda cell: cell["seed"]))
    return found[0], found[1]


def _mean(counted: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not counted:
        return {}
    return {name: sum(each.get(name, 0) for each in counted) / len(counted) for name in counted[0]}


def _whose(results: StudyResults, effect: Effect) -> str:
    of = f", {effect.protocol}" if len(protocols_of(results.effects)) > 1 else ""
    return f"{effect.recommender}, CNN {effect.extractor}, {effect.attack}{of}"
