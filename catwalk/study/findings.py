"""What a study tells on the screen, and in a file beside its tables, from which it is told again.

What a study writes takes longer than all else that a study from the cache does: thousands of users are resampled for
every interval, and every plot is drawn. So the study's folder says of what it was written, and what its files hold. As
long as that is so, nothing of it is computed again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from catwalk.files.atomic import write_text
from catwalk.files.hashes import file_hash
from catwalk.results.keys import inputs_of
from catwalk.results.record import damage_of_files, damage_of_record, read_record, record_of
from catwalk.study.cells import USERS_FOLDER
from catwalk.study.configuration import CONFIGURATION_FILE, settings_of
from catwalk.study.effects import Effect
from catwalk.study.plan import Plan
from catwalk.study.results import CELLS_FILE, EFFECTS_FILE, MANIFEST_FILE, PLOTS_FOLDER, REPORT_FILE, TABLES
from catwalk.study.shop import Shop
from catwalk.study.table import Table, Value

FINDINGS_FILE = "findings.json"
"""File of a study's folder with what it tells, and the hashes of all that it wrote there."""

KIND = "findings"

MAKERS = ("catwalk.study.writing", "catwalk.study.report")
"""Modules that make a study's files of the results of its stages."""

LIBRARIES = ("scipy", "pyarrow", "matplotlib", "plotly", "jinja2", "rich")
"""Libraries of which they are made, beside those that the manifest names."""


@dataclass(frozen=True)
class Findings:
    """What a study tells at its end.

    Attributes:
        tables: Its tables by name.
        sentences: What each attack did, and what its shams say.
    """

    tables: dict[str, Table]
    sentences: list[str]

    def show(self, console: Console) -> None:
        """Print the tables and the sentences."""
        for table in self.tables.values():
            console.print()
            table.show(console)
        if self.sentences:
            console.print("\n[bold]What the attacks did[/]", highlight=False)
        for line in self.sentences:
            console.print(line, markup=False, highlight=False)

    def as_json(self) -> dict[str, Any]:
        """Return them as JSON has them; :meth:`of_json` is the way back."""
        return {"tables": [[name, _plain(table)] for name, table in self.tables.items()], "sentences": self.sentences}

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> "Findings":
        """Return what :meth:`as_json` made JSON of."""
        return cls({name: _table(each) for name, each in plain["tables"]}, list(plain["sentences"]))


def _plain(table: Table) -> dict[str, Any]:
    def plain(value: Value | None) -> dict[str, Any] | None:
        if value is None:
            return None
        effect = value.effect and {name: str(each) for name, each in value.effect.cells.items()}
        return {**vars(value), "effect": effect}

    rows = [[labels, [plain(value) for value in values]] for labels, values in table.rows]
    return {**vars(table), "rows": rows, "best": sorted(table.best)}


def _table(plain: Mapping[str, Any]) -> Table:
    def value(of: Mapping[str, Any] | None) -> Value | None:
        if of is None:
            return None
        interval, effect = of["interval"], of["effect"]
        changed = {"interval": interval and tuple(interval), "effect": effect and Effect.of_row(effect)}
        return Value(**{**of, "values": tuple(of["values"]), **changed})

    texts = {name: tuple(plain[name]) for name in ("row_headings", "groups", "headings")}
    rows = tuple((tuple(labels), tuple(map(value, values))) for labels, values in plain["rows"])
    return Table(**{**plain, **texts, "rows": rows, "best": frozenset(map(tuple, plain["best"]))})


class FindingsFile:
    """The file of a study's folder that says of what its files were made, what they hold, and what the study tells.

    Args:
        folder: The study's folder.
        arguments: Those of the study.
        shop: Its dataset.
        plan: Its stages, which are done.
        manifest: Its manifest.
    """

    def __init__(
        self, folder: Path, arguments: Mapping[str, Any], shop: Shop, plan: Plan, manifest: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        settings = {
            "study": settings_of(arguments),
            "folder": folder.as_posix(),
            "manifest": manifest,
            "results": {stage.place: stage.digest for stage in plan.stages},
            "images": shop.items.fingerprint,
            "lists": {path.name: file_hash(path) for path in shop.lists.states},
            "libraries": {name: version(name) for name in LIBRARIES},
            "templates and tables": _data_of_makers(),
        }
        self._key = inputs_of(settings, MAKERS).key

    def read(self) -> Findings | None:
        """Return what the study tells if its folder is as it would be written now; None otherwise."""
        record = read_record(self.folder, FINDINGS_FILE)
        if record is None or damage_of_record(record, KIND, self._key) is not None:
            return None
        if REPORT_FILE.as_posix() not in record["files"] or damage_of_files(self.folder, record["files"]) is not None:
            return None
        return Findings.of_json(record["findings"])

    def write(self, findings: Findings) -> None:
        """Say what the folder's files hold; they have just been written."""
        record = {"stage": KIND, "key": self._key, "findings": findings.as_json()}
        write_text(self.folder / FINDINGS_FILE, record_of(self.folder, record, _written(self.folder)))


def _written(folder: Path) -> Iterator[Path]:
    """Yield the files that a study writes into its folder."""
    own = (CELLS_FILE, EFFECTS_FILE, MANIFEST_FILE, CONFIGURATION_FILE, REPORT_FILE.as_posix())
    for pattern in (*own, *(f"{stem}.*" for stem in TABLES), f"{USERS_FOLDER}/*", f"{PLOTS_FOLDER}/*"):
        yield from folder.glob(pattern)


def _data_of_makers() -> dict[str, str | None]:
    """Return the hash of every file beside the modules of studies, such as the templates of the report."""
    folder = Path(__file__).parent
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(files)}
