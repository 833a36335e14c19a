"""A study's tables: Tables 1 and 2 in the paper's shape, defences beside no defence, and the accuracy of networks."""

import itertools
import math
import typing
from collections.abc import Mapping, Sequence

from catwalk.study.cells import Cell, distinct, where
from catwalk.study.controls import Scenario
from catwalk.study.derived import PLAIN
from catwalk.study.effects import Effect
from catwalk.study.grid import NO_ATTACK
from catwalk.study.table import Row, Table, Value, on_one_line, percentage


class PaperTables(typing.Protocol):
    """The values that the paper printed for a dataset."""

    def chr(self, recommender: str, attack: str, extractor: str) -> float | None:
        """Return a value of its Table 1; None where it has none."""

    def of_images(self, metric: str, attack: str, extractor: str) -> float | None:
        """Return a value of its Table 2 by the heading of its column, such as ``SR``; None where it has none."""


PAPER_COLUMNS = (("Items", 0, 1, ""), ("SR", 2, 1, "%"), ("FL", 7, 1, ""), ("LPIPS", 4, 1, ""))
"""Columns of the paper's Table 2 with the decimals, the factor and the unit with which they are shown."""


def table_1(
    cells: Sequence[Cell],
    effects: Sequence[Effect],
    top_k: int,
    notes: Sequence[str],
    scenario: Scenario = "poisoning",
    paper: PaperTables | None = None,
) -> Table:
    """Return CHR@K of the source category by recommender and attack, with the interval of its change.

    In bold what was pushed, by the verdict of its interval.

    Args:
        cells: All cells of a study, those without attack first.
        effects: The study's effects.
        top_k: K.
        notes: What a reader must know of attacks, protocols and networks, as sentences.
        scenario: ``poisoning`` gives Table 1; ``evasion`` the same of recommenders that were trained on clean images.
        paper: The paper's own values, which stand below ours.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    protocols, extractors = distinct(cells, "protocol"), distinct(cells, "extractor")
    chosen = [cell for cell in cells if cell.scenario in (None, scenario)]
    if scenario == "evasion":
        chosen = [cell for cell in chosen if cell.scenario or cell.attack == NO_ATTACK]
        shown = {cell.recommender for cell in chosen if cell.scenario}  # the others look at no images
        chosen = [cell for cell in chosen if cell.recommender in shown]
    by_labels = {
        (effect.protocol, effect.extractor, effect.recommender, effect.attack, effect.scenario): effect
        for effect in effects
    }
    rows: list[Row] = []
    best: set[tuple[int, int]] = set()
    entries = [
        (protocol, recommender, attack)  # some attacks are not for every recommender
        for protocol, recommender in itertools.product(protocols, distinct(chosen, "recommender"))
        for attack in distinct(where(chosen, protocol=protocol, recommender=recommender), "attack")
    ]
    for protocol, recommender, attack in entries:
        its_cells = where(chosen, protocol=protocol, recommender=recommender, attack=attack)
        values: list[Value | None] = []
        for column, name in enumerate(extractors):
            of_network = where(its_cells, extractor=name)
            effect = by_labels.get((protocol, name, recommender, attack, its_cells[0].scenario))
            rates = tuple(cell.chr for cell in of_network if cell.chr is not None)
            values.append(Value(rates, effect=effect) if rates else None)
            if effect is not None and effect.verdict == "pushed":
                best.add((len(rows), column))
        labels = (recommender, attack) if len(protocols) == 1 else (protocol, recommender, attack)
        rows.append((labels, tuple(values)))
        if paper is not None and scenario == "poisoning":
            printed = tuple(paper.chr(recommender, attack, name) for name in extractors)
            if any(value is not None for value in printed):
                theirs = tuple(None if value is None else Value((value,)) for value in printed)
                rows.append(((*labels[:-1], f"{attack} (paper)"), theirs))
    seeds = len(distinct(where(cells, attack=NO_ATTACK), "seed"))
    over = f", mean over {seeds} retraining seeds" if seeds > 1 else ""
    trained = "" if scenario == "poisoning" else ", recommenders trained on clean images and shown the attacked ones"
    return Table(
        name="Table 1" if scenario == "poisoning" else "Evasion",
        title=f"CHR@{top_k} of {source} on {dataset}{over}{trained}",
        notes=_sentences(
            f"Average number of {source} items in a user's top {top_k}.",
            "Behind it the change from no attack, of the same users and seeds, with its interval"
            + ("; without attack the standard deviation over seeds." if seeds > 1 else "."),
            "Bold: pushed, by the interval after Holm's correction.",
            *notes,
            _attacked(cells),
        ),
        row_headings=("Model", "Attack") if len(protocols) == 1 else ("Protocol", "Model", "Attack"),
        groups=tuple(extractors),
        headings=(f"CHR@{top_k}",) * len(extractors),
        rows=tuple(rows),
        best=frozenset(best),
    )


def table_2(cells: Sequence[Cell], lpips_net: str, notes: Sequence[str], paper: PaperTables | None = None) -> Table:
    """Return what attacks did by attack and network: attacked items, success rate, feature loss and LPIPS × 100.

    In bold the best of each for the attacker. An interval is over the attacked images. Of an attack that knows the
    recommender there is one for each, and these are means and standard deviations.

    Args:
        cells: All cells of a study.
        lpips_net: The network under LPIPS.
        notes: What a reader must know of attacks, protocols and networks, as sentences.
        paper: The paper's own values, which stand below ours.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    protocols, extractors = distinct(cells, "protocol"), distinct(cells, "extractor")
    attacks = [attack for attack in distinct(cells, "attack") if where(cells, attack=attack)[0].sr is not None]
    rows: list[Row] = []
    ours: list[int] = []
    for protocol, attack in itertools.product(protocols, attacks):
        values: list[Value | None] = []
        for extractor in extractors:
            its_cells = where(cells, protocol=protocol, attack=attack, extractor=extractor)
            outcomes = _one_of_each(its_cells)
            # The network chooses them, not the attack; some attacks are not on every network.
            values.append(Value((its_cells[0].n_attacked or 0,), 0) if its_cells else None)
            for name, digits, factor, unit in (("sr", 2, 100, "%"), ("feature_loss", 7, 1, ""), ("lpips", 4, 100, "")):
                values.append(_of_images(outcomes, name, digits, factor, unit))
        labels = (attack,) if len(protocols) == 1 else (protocol, attack)
        ours.append(len(rows))
        rows.append((labels, tuple(values)))
        if paper is not None:
            theirs = [
                Value((value,), digits, factor, unit) if value is not None else None
                for extractor in extractors
                for metric, digits, factor, unit in PAPER_COLUMNS
                for value in [paper.of_images(metric, attack, extractor)]
            ]
            if any(value is not None for value in theirs):
                rows.append(((*labels[:-1], f"{attack} (paper)"), tuple(theirs)))
    best = set()
    best_of = {"SR": _highest, "FL": _highest, "LPIPS": _lowest}
    headings = ("Items", *best_of) * len(extractors)
    for column, heading in enumerate(headings):
        compared = [rows[number] for number in ours]
        if heading in best_of and any(row[1][column] is not None for row in compared):
            best.add((ours[best_of[heading](compared, column)], column))
    attacked = [cell for cell in cells if cell.sr_clean is not None]
    # Targeted and untargeted attacks want something else, and so had something else before.
    before = dict.fromkeys((cell.sr_clean, cell.extractor) for cell in attacked)
    shown = ", ".join(f"{share:.2%} ({extractor})" for share, extractor in before)
    legend = (
        "Items: how many were attacked. SR: share of the images that the CNN takes for the target, or, where an attack "
        f"has none, no longer for the source, judged by the 8-bit files read back; before any attack it was {shown}. "
        "FL: mean squared error of the features. LPIPS: how different the images look (network: "
        f"{lpips_net}), times 100. Bold: the highest SR and FL, and the lowest LPIPS."
    )
    return Table(
        name="Table 2",
        title=f"what the attacks did to the {source} images of {dataset}",
        notes=_sentences(legend if rows else "", *notes),
        row_headings=("Attack",) if len(protocols) == 1 else ("Protocol", "Attack"),
        groups=tuple(extractor for extractor in extractors for _ in range(4)),
        headings=headings,
        rows=tuple(rows),
        best=frozenset(best),
        on_intervals="In brackets: the interval over the images." if rows else "",
    )


def defences_table(cells: Sequence[Cell], effects: Sequence[Effect], top_k: int, notes: Sequence[str]) -> Table:
    """Return what attacks reach on each network that has something in front, beside the same network without it.

    Args:
        cells: All cells of a study.
        effects: The study's effects.
        top_k: K.
        notes: What a reader must know of attacks, protocols and networks, as sentences.
    """
    dataset, source = _named(cells[0].dataset), _named(cells[0].source)
    protocols = distinct(cells, "protocol")
    by_labels = {
        (effect.protocol, effect.extractor, effect.recommender, effect.attack): effect
        for effect in effects
        if effect.scenario == "poisoning"
    }
    recommenders = [
        name for name in distinct(cells, "recommender") if name is not None and _looks_at_images(cells, name)
    ]
    rows: list[Row] = []
    for plain in _plain_attacks(cells):
        attack = plain.attack.removesuffix(f", {PLAIN}")
        compared = ((plain.crafted_on, attack), (plain.extractor, plain.attack), (plain.extractor, attack))
        values: list[Value | None] = []
        for extractor, row in compared:
            group = where(cells, protocol=plain.protocol, extractor=extractor, attack=row)
            values.append(_of_images(_one_of_each(group), "sr", 1, 100, "%"))
        for recommender in recommenders:
            for extractor, row in compared:
                effect = by_labels.get((plain.protocol, str(extractor), recommender, row))
                values.append(None if effect is None else Value((effect.size.attacked,), effect=effect))
        labels = (plain.extractor, attack) if len(protocols) == 1 else (plain.protocol, plain.extractor, attack)
        rows.append((labels, tuple(values)))
    groups = ["SR", *(f"CHR@{top_k}, {name}" for name in recommenders)]
    headings = ("without", "plain", "adaptive")
    return Table(
        name="Defences",
        title=f"attacks on {source} images of {dataset} behind defences and pipelines",
        notes=_sentences(
            "SR: share of the images where the attack wants them, judged by the 8-bit files read back and what stands "
            "in front of the network. Without: on the network without it. Plain: crafted on that network, judged "
            "behind it. Adaptive: crafted through it.",
            f"CHR@{top_k} with its change from no attack on the same network." if recommenders else "",
            *notes,
        ),
        row_headings=("CNN", "Attack") if len(protocols) == 1 else ("Protocol", "CNN", "Attack"),
        groups=tuple(group for group in groups for _ in headings),
        headings=headings * len(groups),
        rows=tuple(rows),
        best=frozenset(),
        group_heading="Metric",
        on_intervals="In brackets behind SR: the interval over the images.",
    )


def _looks_at_images(cells: Sequence[Cell], recommender: str) -> bool:
    """Return whether a recommender shows other lists where images were attacked."""
    attacked, clean = (
        {cell.users for cell in where(cells, recommender=recommender) if (cell.scenario is None) == is_clean}
        for is_clean in (False, True)
    )
    return bool(attacked - clean)


def _plain_attacks(cells: Sequence[Cell]) -> list[Cell]:
    """Return a cell of each attack that was crafted without what stands in front of the network that judges it."""
    plain = [cell for cell in cells if (cell.defence or cell.pipeline) and cell.attack.endswith(f", {PLAIN}")]
    return list({(cell.protocol, cell.extractor, cell.attack): cell for cell in plain}.values())


def _one_of_each(cells: Sequence[Cell]) -> list[Cell]:
    """Return a cell of each attack: those of other recommenders and seeds have the same images."""
    return list({(cell.sr, cell.feature_loss, cell.lpips): cell for cell in cells}.values())


def _of_images(cells: Sequence[Cell], name: str, digits: int, factor: int, unit: str) -> Value | None:
    """Return a metric of one attack's images with its interval; of several attacks with their spread."""
    values = [getattr(cell, name) for cell in cells]
    if None in values or not values:
        return None
    interval = None
    if len(cells) == 1:
        bounds = getattr(cells[0], f"{name}_low"), getattr(cells[0], f"{name}_high")
        interval = None if None in bounds else bounds
    return Value(tuple(values), digits, factor, unit, interval)


def networks_table(
    dataset: str, headings: Sequence[str], accuracies: Mapping[str, Sequence[float | None]], remarks: str = ""
) -> Table:
    """Return the accuracies of every network; bold the highest of each column.

    Args:
        dataset: Name of the dataset.
        headings: What each accuracy is.
        accuracies: By network, in the order of the headings; None for what was not measured.
        remarks: What a reader must know of the networks, as sentences.
    """
    rows: list[Row] = [
        ((name,), tuple(None if value is None else percentage((value,)) for value in values))
        for name, values in accuracies.items()
    ]
    columns = range(len(headings))
    return Table(
        name="Networks",
        title=f"accuracy on the test images of {_named(dataset)}",
        notes=_sentences("Under attack: every test image is led away from its category. Bold: the highest.", remarks),
        row_headings=("CNN",),
        groups=("",) * len(headings),
        headings=tuple(headings),
        rows=tuple(rows),
        best=frozenset((_highest(rows, column), column) for column in columns),
    )


def _attacked(cells: Sequence[Cell]) -> str:
    """Return how many items were attacked by network, as a sentence; nothing where none was."""
    numbers = dict.fromkeys((cell.n_attacked, cell.extractor) for cell in cells if cell.n_attacked is not None)
    shown = ", ".join(f"{number} ({extractor})" for number, extractor in numbers)
    return f"Attacked items: {shown}." if shown else ""


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _highest(rows: Sequence[Row], column: int) -> int:
    """Return the first of the rows with the highest value in a column."""
    means = _means(rows, column, missing=-math.inf)
    return max(range(len(means)), key=means.__getitem__)


def _lowest(rows: Sequence[Row], column: int) -> int:
    """Return the first of the rows with the lowest value in a column."""
    means = _means(rows, column, missing=math.inf)
    return min(range(len(means)), key=means.__getitem__)


def _means(rows: Sequence[Row], column: int, missing: float) -> list[float]:
    return [value.mean if (value := values[column]) is not None else missing for _, values in rows]


def _named(name: str) -> str:
    """Return what a table calls a category or a dataset, whose own names may be blank."""
    return on_one_line(name) or "(blank)"
