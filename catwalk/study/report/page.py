"""The page of a report: what stands on it, and how it becomes one file that asks for nothing else."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from catwalk.terminal.screen_text import printable

TEMPLATES = "templates"


@dataclass(frozen=True)
class About:
    """What something on the page is about, by which it is filtered; empty where it is about all.

    Attributes:
        attack: Name of an attack or a control.
        extractor: Name of a CNN.
        recommender: Name of a recommender.
        scenario: ``poisoning`` or ``evasion``.
        protocol: Name of a protocol.
    """

    attack: str = ""
    extractor: str = ""
    recommender: str = ""
    scenario: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        meaning: What it holds, shown when one points at the heading.
        is_number: Whether its entries stand at the right.
    """

    name: str
    meaning: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Entry:
    """An entry of a table.

    Attributes:
        text: What is read.
        order: What it is sorted by; None for an empty one, which is always last.
        is_bold: Whether it stands out.
        verdict: Which verdict it is; empty for all else.
    """

    text: str
    order: float | str | None = None
    is_bold: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        entries: One for each column; the first is the row's heading.
        about: What it is about.
        is_control: Whether it is a control, or no attack.
    """

    entries: Sequence[Entry]
    about: About = About()
    is_control: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table that can be sorted.

    Attributes:
        key: Its name in addresses.
        title: Stands above it.
        notes: What a reader must know to read it.
        columns: Its columns.
        rows: Its rows.
        is_open: Whether it is shown before somebody asks for it.
    """

    key: str
    title: str
    notes: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    is_open: bool = True


@dataclass(frozen=True)
class Picture:
    """A plot.

    Attributes:
        key: Its name in addresses and files.
        title: Stands above it.
        caption: How to read it.
        svg: The drawing.
        interactive: The same points for hovering, see ``templates/report.js``; None where there is but the drawing.
    """

    key: str
    title: str
    caption: str
    svg: bytes
    interactive: Mapping[str, Any] | None = None

    @property
    def address(self) -> str:
        """The drawing as an address of an image, in which no script runs."""
        return data_address(self.svg, "image/svg+xml")


@dataclass(frozen=True)
class Verdict:
    """What the interval of an attack says.

    Attributes:
        verdict: ``pushed``, ``lowered``, ``no effect`` or ``cannot tell``.
        sentence: The same in words.
        about: Which attack, CNN and recommender.
    """

    verdict: str
    sentence: str
    about: About


@dataclass(frozen=True)
class Ranks:
    """Mean rank of an item over the users of a recommender.

    Attributes:
        recommender: Its name.
        before: With the clean images, from 1.
        after: With the adversarial ones.
    """

    recommender: str
    before: float
    after: float


@dataclass(frozen=True)
class Card:
    """An attacked item.

    Attributes:
        item_id: The shop's id.
        title: The shop's title; empty where it has none.
        before: The clean image, as an address with the image in it.
        after: The adversarial one.
        difference: What changed, amplified.
        seen_before: What the network saw, with its probability.
        seen_after: What it sees.
        is_success: Whether the attack has what it wanted.
        distances: Names and values of how far the images are apart.
        ranks: Of the item in each recommender.
        case: ``best`` or ``worst`` for the attacker.
        lpips: LPIPS, by which it may be sorted; None where it was not measured.
    """

    item_id: str
    title: str
    before: str
    after: str
    difference: str
    seen_before: str
    seen_after: str
    is_success: bool
    distances: Sequence[tuple[str, str]]
    ranks: Sequence[Ranks]
    case: str
    lpips: float | None


@dataclass(frozen=True)
class Gallery:
    """Items of one attack on one CNN.

    Attributes:
        title: Which attack, on which CNN.
        note: How many of how many items are shown.
        about: The same, for the filter.
        cards: The items.
    """

    title: str
    note: str
    about: About
    cards: Sequence[Card]


@dataclass(frozen=True)
class ProtocolView:
    """A protocol, and where it differs from what we stand behind.

    Attributes:
        name: Its name.
        rows: Field and value.
        differences: Field, value, value of ``corrected``, and what the difference comes to.
    """

    name: str
    rows: Sequence[tuple[str, str]]
    differences: Sequence[tuple[str, str, str, str]] = ()


@dataclass(frozen=True)
class Page:
    """All that a report says.

    Attributes:
        name: Of the study.
        question: What it asks, as a sentence.
        answer: What it found, as sentences.
        facts: What was studied: names and values.
        protocols: How.
        verdicts: One for each attack, CNN and recommender.
        controls: The same of the controls.
        tables: The tables.
        pictures: The plots.
        galleries: Items of each attack.
        gallery_note: Why there are none, or how images are shown.
        choices: What there is to choose from, by filter.
        command: What runs the study again.
        configuration: The study's settings, as YAML.
        manifest: The study's manifest, as JSON.
        remarks: What a reader must know besides.
    """

    name: str
    question: str
    answer: Sequence[str]
    facts: Sequence[tuple[str, str]]
    protocols: Sequence[ProtocolView]
    verdicts: Sequence[Verdict]
    controls: Sequence[Verdict]
    tables: Sequence[PageTable]
    pictures: Sequence[Picture]
    galleries: Sequence[Gallery]
    gallery_note: str
    choices: Mapping[str, Sequence[str]]
    command: str
    configuration: str
    manifest: str
    remarks: Sequence[str] = field(default_factory=tuple)


def data_address(content: bytes, kind: str) -> str:
    """Return an address that holds a file of a MIME type itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def render(page: Page) -> str:
    """Return the page as one HTML file, which asks for no other and runs no script but its own."""
    scripts = [_part("report.js")]
    plots = {picture.key: picture.interactive for picture in page.pictures if picture.interactive is not None}
    if plots:
        scripts.insert(0, get_plotlyjs())
    scripts = [script.replace("</script", r"<\/script") for script in scripts]
    return (
        _environment()
        .get_template("report.html")
        .render(
            page=page,
            style=_part("report.css"),
            scripts=scripts,
            hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
            plots=_shown(plots),
        )
    )


def _shown(value: Any) -> Any:
    """Return values as the page shows them: their texts :func:`printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {name: _shown(each) for name, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list | tuple) else value


@cache
def _environment() -> jinja2.Environment:
    """Return what fills the templates: every text is escaped, and shows what a terminal or a browser would obey."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # what is safe is no plain string
    )
    environment.filters["symbol"] = {"pushed": "▲", "lowered": "▼", "no effect": "≈", "cannot tell": "?"}.get
    return environment


def _part(name: str) -> str:
    """Return one of the files that are no templates."""
    return (resources.files(__package__) / TEMPLATES / name).read_text("utf-8")
