"""What a report says of a finished study."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from catwalk.poisoning.protocol import Protocol
from catwalk.study.configuration import CONFIGURATION_FILE
from catwalk.study.effects import Effect
from catwalk.study.plots import StudyPlot
from catwalk.study.report.gallery import GONE, NOTE, galleries
from catwalk.study.report.page import Page, Picture, ProtocolView, Verdict
from catwalk.study.report.tables import ABOUT, about, page_tables
from catwalk.study.results import StudyResults
from catwalk.study.statistics import Verdict as Decision
from catwalk.study.stored import StoredResults

ORDER = ("pushed", "lowered", "cannot tell", "no effect")
"""Verdicts in the order in which they are told."""


def content(stored: StoredResults, plots: Sequence[tuple[StudyPlot, bytes]]) -> Page:
    """Return all that the report of a study says.

    Args:
        stored: The study, with what it has in the store of results.
        plots: Its plots, and each as SVG.
    """
    results = stored.results
    path = results.folder / CONFIGURATION_FILE
    effects = sorted(results.effects, key=lambda effect: ORDER.index(effect.verdict))
    shown = galleries(stored)
    return Page(
        name=results.name,
        question=_question(results),
        answer=answer(results),
        facts=_facts(results),
        protocols=[_protocol(each) for each in results.manifest["protocols"]],
        verdicts=[_verdict(effect) for effect in effects if effect.control is None],
        controls=[_verdict(effect) for effect in effects if effect.control is not None],
        tables=page_tables(results),
        pictures=[Picture(plot.key, plot.title, plot.caption, svg, plot.interactive) for plot, svg in plots],
        galleries=shown,
        gallery_note=NOTE if shown else GONE,
        choices={name: list(dict.fromkeys(str(cell[name]) for cell in results.cells if cell[name])) for name in ABOUT},
        command=f"catwalk study --config {shlex.quote(path.as_posix())}" if path.is_file() else "",
        configuration=path.read_text(encoding="utf-8") if path.is_file() else "",
        manifest=json.dumps(results.manifest, indent=2, ensure_ascii=False),
        remarks=results.manifest["notes"],
    )


def _question(results: StudyResults) -> str:
    manifest, k = results.manifest, results.top_k
    target = f" that a CNN takes for {manifest['target']}" if manifest["target"] else ""
    return (
        f"Do adversarial images of {manifest['source']}{target} push {manifest['source']} into more of the top-{k} "
        f"lists of {manifest['dataset']['name']}? Whose lists, at what cost, would people see it, and do defences help?"
    )


def answer(results: StudyResults) -> list[str]:
    """Return what a study found, as sentences computed from its effects."""
    attacks = [each for each in results.effects if each.control is None and each.scenario == "poisoning"]
    if not attacks:
        return []
    source, share = results.manifest["source"], results.manifest["statistics"]["smallest_effect"]
    counts = Counter(effect.verdict for effect in attacks)
    found: dict[Decision, str] = {
        "pushed": f"pushed {source}",
        "lowered": f"lowered {source}",
        "no effect": f"had no effect larger than {100 * share:g}% of the places that {source} has without attack",
        "cannot tell": "cannot be told from chance",
    }
    told = [f"{counts[verdict]} {what}" for verdict, what in found.items() if counts[verdict]]
    sentences = [f"Of {len(attacks)} poisonings ({_what(results)}): {_listed(told)}."]
    strongest = max(attacks, key=lambda effect: abs(effect.size.difference.mean))
    if strongest.verdict in ("pushed", "lowered"):
        sentences.append(f"The largest effect: {strongest.sentence}")
    extractors = list(dict.fromkeys(effect.extractor for effect in attacks))
    if len(extractors) > 1:
        sentences.append(
            f"By CNN, attacks pushed {source} in {_listed([_share(attacks, each) for each in extractors])}."
        )
    noise = [each for each in results.effects if each.control == "noise" and each.scenario == "poisoning"]
    if noise:
        pushed, lowered = (sum(effect.verdict == each for effect in noise) for each in ("pushed", "lowered"))
        sentences.append(
            f"Random noise of the same budgets pushed it in {pushed} and lowered it in {lowered} of {len(noise)} cases."
        )
    floor = [each for each in results.effects if each.control == "other seeds"]
    if floor:
        moved = max(abs(effect.size.difference.mean) for effect in floor)
        sentences.append(f"Retraining with other seeds, without any attack, moved it by up to {moved:.4f} places.")
    evasion = [each for each in results.effects if each.control is None and each.scenario == "evasion"]
    if evasion:
        pushed = sum(effect.verdict == "pushed" for effect in evasion)
        sentences.append(
            f"Shown to recommenders that were trained on clean images, the attacked images pushed it in {pushed} of "
            f"{len(evasion)} cases."
        )
    return [*sentences, *results.manifest.get("shams", [])]


def _share(effects: Sequence[Effect], extractor: str) -> str:
    of_network = [effect for effect in effects if effect.extractor == extractor]
    pushed = sum(effect.verdict == "pushed" for effect in of_network)
    return f"{pushed} of {len(of_network)} cases where {extractor} sees the images"


def _what(results: StudyResults) -> str:
    """Return the size of the grid."""
    attacks = {cell["attack"] for cell in results.cells if cell["scenario"] == "poisoning" and not cell["control"]}
    counted = [(len(attacks), "attack", "attacks")]
    for column, one, many in (("extractor", "CNN", "CNNs"), ("recommender", "recommender", "recommenders")):
        counted.append((len({cell[column] for cell in results.cells if cell[column]}), one, many))
    counted.append((len(results.manifest["protocols"]), "protocol", "protocols"))
    return " × ".join(
        f"{count} {one if count == 1 else many}" for count, one, many in counted if count != 1 or one != "protocol"
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _facts(results: StudyResults) -> list[tuple[str, str]]:
    manifest = results.manifest

    def distinct(column: str) -> str:
        return ", ".join(dict.fromkeys(str(cell[column]) for cell in results.cells if cell[column]))

    attacks = dict.fromkeys(cell["attack"] for cell in results.cells if cell["n_attacked"] and not cell["control"])
    users = {effect.size.users for effect in results.effects}
    attacked = {cell["n_attacked"] for cell in results.cells if cell["n_attacked"]}
    found = [
        ("Dataset", manifest["dataset"]["name"]),
        ("Attacked category", manifest["source"]),
        ("Target of the attacks", manifest["target"] or ""),
        ("Attacked items", _range(attacked)),
        ("Test users", _range(users)),
        ("CNNs", distinct("extractor")),
        ("Attacks", ", ".join(attacks)),
        ("Recommenders", distinct("recommender")),
        ("Seeds", ", ".join(map(str, manifest["seeds"]))),
        ("Length of lists", str(results.top_k)),
        ("Smallest effect of interest", f"{100 * manifest['statistics']['smallest_effect']:g}% of CHR without attack"),
        ("Confidence", f"{100 * manifest['statistics']['confidence']:g}%"),
        ("Catwalk", manifest["catwalk"]),
    ]
    return [(name, value) for name, value in found if value]


def _range(values: set[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, by CNN"


def _protocol(settings: Mapping[str, Any]) -> ProtocolView:
    rows = [(name, _shown(value)) for name, value in settings.items() if name != "name"]
    differences = [
        (each.field, _shown(each.value), _shown(each.default), each.meaning)
        for each in Protocol(**settings).differences()
    ]
    return ProtocolView(str(settings["name"]), rows, differences)


def _shown(value: object) -> str:
    """Return the value of a field of a protocol; what is None is up to the study."""
    return "up to the study" if value is None else str(value)


def _verdict(effect: Effect) -> Verdict:
    labels = {name: getattr(effect, name) for name in ABOUT}
    return Verdict(effect.verdict, effect.sentence, about(labels))
