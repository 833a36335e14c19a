"""Plot of what attacks reach on networks that have something in front."""

from collections.abc import Iterator, Mapping
from typing import Any

from catwalk.plots.intervals import IntervalRow, draw_intervals
from catwalk.study.derived import PLAIN
from catwalk.study.plots.study_plot import StudyPlot, percent
from catwalk.study.results import StudyResults

ADAPTIVE, PLAINLY, WITHOUT = "adaptive", "plain", "without it"


def defences(results: StudyResults) -> StudyPlot | None:
    """Draw the success rates of attacks on defended networks, plain and adaptive, beside those without a defence."""
    rows = list(_rows(results))
    if not rows:
        return None
    title = "Success of attacks behind input defences and the shop's processing"
    return StudyPlot(
        key="defences",
        title=title,
        caption="Share of the images where the attack wants them, with its interval over the images: on the network "
        "without what stands in front; crafted on that network and judged behind it (plain); crafted through it "
        "(adaptive).",
        figure=draw_intervals(
            rows, title=title, x_label=f"success rate in per cent, with {percent(results)} intervals"
        ),
    )


def _rows(results: StudyResults) -> Iterator[IntervalRow]:
    """Yield a row for each network, attack and attacker; of attacks that differ by the seed the first."""
    protocols = {cell["protocol"] for cell in results.cells}
    cells: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for cell in results.cells:
        if cell.get("sr") is not None:
            cells.setdefault((cell["protocol"], cell["extractor"], cell["attack"]), cell)
    for (protocol, network, name), plain in cells.items():
        if not name.endswith(f", {PLAIN}"):
            continue
        attack = name.removesuffix(f", {PLAIN}")
        panel = attack if len(protocols) == 1 else f"{attack}, {protocol}"
        of_series = {
            WITHOUT: cells.get((protocol, plain["crafted_on"], attack)),
            PLAINLY: plain,
            ADAPTIVE: cells.get((protocol, network, attack)),
        }
        for series, found in of_series.items():
            if found is not None and found["sr_low"] is not None:
                rate, low, high = (100 * found[column] for column in ("sr", "sr_low", "sr_high"))
                yield IntervalRow(panel, network, series, rate, low, high)
