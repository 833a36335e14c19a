"""Attacks beside their shams: whether what looks like an attack's effect is that of mixing two networks' features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from catwalk.study.cells import Cell, where
from catwalk.study.controls import SHAM
from catwalk.study.effects import Effect, ReadUsers, Statistics, places_of
from catwalk.study.statistics import EffectSize, Verdict, paired_effect, verdict
from catwalk.study.table import Row, Table, Value

Cause = Literal["mixing", "at least mixing", "attack", "both", "neither", "cannot tell"]

CAUSES: dict[Cause, str] = {
    "mixing": "it is the mixing's: the sham, with no attack at all, moves CHR as the attack does",
    "at least mixing": "the sham, with no attack at all, moves CHR; whether the attack adds to it cannot be told",
    "attack": "it is the attack's: the sham does not move CHR",
    "both": "the mixing and the attack both move CHR",
    "neither": "neither moves CHR by more than the smallest effect of interest",
    "cannot tell": "the intervals are too wide to tell",
}
"""What a comparison says, in words."""


@dataclass(frozen=True)
class Mixing:
    """An attack beside its sham: the same items' rows in the same matrix, with clean features instead of adversarial.

    Attributes:
        protocol: Name of the protocol's variant.
        extractor: The network under attack.
        recommender: The recommender.
        attack: The attack.
        of_sham: The sham's change from no attack.
        of_attack: The attack's.
        between: The attack's change from its sham, of the same users and seeds.
        cause: What the intervals say.
    """

    protocol: str
    extractor: str
    recommender: str
    attack: str
    of_sham: Effect
    of_attack: Effect
    between: EffectSize
    between_verdict: Verdict
    cause: Cause

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        sham, attack, between = self.of_sham.size.difference, self.of_attack.size.difference, self.between.difference
        numbers = ", ".join(
            f"{name} {each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
            for name, each in (("sham", sham), ("attack", attack), ("attack less sham", between))
        )
        return (
            f"{self.protocol}: {self.attack} on CNN {self.extractor}, {self.recommender}: {CAUSES[self.cause]} "
            f"(places in a list: {numbers})."
        )


def compare_with_shams(
    cells: Sequence[Cell],
    effects: Sequence[Effect],
    users: ReadUsers,
    top_k: int,
    statistics: Statistics,
    undefended: str | None,
) -> list[Mixing]:
    """Compare every attack of a study with the sham of its protocol, network and recommender.

    Args:
        cells: All cells.
        effects: The study's effects, those of shams among them; without any there is nothing to compare.
        users: Reads a cell's users.
        top_k: K of the study.
        statistics: How effects are judged.
        undefended: The undefended network, whose features are mixed with no others.
    """
    smallest_effect, confidence = statistics.smallest_effect, statistics.confidence
    shams = {(each.protocol, each.extractor, each.recommender): each for each in effects if each.control == "sham"}
    found = []
    for effect in effects:
        sham = shams.get((effect.protocol, effect.extractor, effect.recommender))
        if sham is None or not effect.is_headline or effect.extractor == undefended:
            continue
        of_one = where(cells, protocol=effect.protocol, extractor=effect.extractor, recommender=effect.recommender)
        before = places_of(where(of_one, attack=SHAM), users, top_k)
        after = places_of(where(of_one, attack=effect.attack, scenario="poisoning"), users, top_k, before.shape[1])
        between = paired_effect(before, after, confidence=confidence)
        # The smallest effect of interest is a share of no attack, here as elsewhere.
        share = effect.size.limit(smallest_effect) / (abs(between.clean) or 1.0)
        decision = verdict(between, between.p_value, share, confidence)
        found.append(
            Mixing(
                *(effect.protocol, effect.extractor, effect.recommender, effect.attack),
                sham,
                effect,
                between,
                decision,
                _cause(sham.verdict, effect.verdict, decision),
            )
        )
    return found


def _cause(sham: Verdict, attack: Verdict, between: Verdict) -> Cause:
    """Return what moves the metric, by the verdicts on the sham, on the attack, and on what is between them."""
    moved = ("pushed", "lowered")
    if sham in moved and between == "no effect":
        return "mixing"
    if sham in moved:
        return "both" if between in moved else "at least mixing"
    if sham == "no effect" and attack in moved and between in moved:
        return "attack"
    if sham == "no effect" and attack == "no effect":
        return "neither"
    return "cannot tell"


def conclusion(comparisons: Sequence[Mixing]) -> str:
    """Return what the comparisons say together, as sentences; nothing where there is none."""
    if not comparisons:
        return ""
    counts = {cause: sum(each.cause == cause for each in comparisons) for cause in CAUSES}
    shown = "; ".join(f"{count} × {CAUSES[cause]}" for cause, count in counts.items() if count)
    return f"Attacks beside their shams, {len(comparisons)} comparisons: {shown}."


def mixing_table(comparisons: Sequence[Mixing], source: str, top_k: int, notes: Sequence[str]) -> Table:
    """Return the changes of shams and attacks, and what is between them.

    Args:
        comparisons: At least one.
        source: The source category.
        top_k: K.
        notes: What a reader must know of protocols and networks, as sentences.
    """
    rows: list[Row] = []
    best = set()
    columns = ("Sham", "Attack", "Attack less sham")
    named = len({each.protocol for each in comparisons}) > 1
    for each in comparisons:
        sizes = (each.of_sham.size, each.of_attack.size, each.between)
        values = tuple(
            Value((size.difference.mean,), interval=(size.difference.low, size.difference.high)) for size in sizes
        )
        verdicts = (each.of_sham.verdict, each.of_attack.verdict, each.between_verdict)
        best |= {(len(rows), column) for column, said in enumerate(verdicts) if said in ("pushed", "lowered")}
        labels = (each.extractor, each.recommender, each.attack, each.cause)
        rows.append(((each.protocol, *labels) if named else labels, values))
    return Table(
        name="Shams",
        title=f"change of CHR@{top_k} of {source} from no attack, in places of a list",
        notes=" ".join(
            filter(
                None,
                (
                    "Sham: the attacked items' rows hold the clean features of the network under attack, with no "
                    "attack. In brackets: the interval. Bold: pushed or lowered.",
                    conclusion(comparisons),
                    *notes,
                ),
            )
        ),
        row_headings=(*("Protocol",) * named, "CNN", "Model", "Attack", "Says"),
        groups=("",) * 3,
        headings=columns,
        rows=tuple(rows),
        best=frozenset(best),
    )
