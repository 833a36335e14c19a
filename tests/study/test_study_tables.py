"""Tables as files and on the screen, with names that have a meaning in LaTeX, Markdown and Rich."""

import csv
import io
import re
import shutil
import statistics
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.study.cells import Cell
from catwalk.study.grid import check_names
from catwalk.study.latex import SYMBOLS, label, latex
from catwalk.study.remarks import is_near_chance
from catwalk.study.table import Table, Value
from catwalk.study.tables import networks_table, table_1, table_2

NAMES = ("a_b & c%", "$x^2$ {y} ~ #1", "p|q *r* `s` <t>", "[bold]u[/bold] \\v", "FGSM (ε = 8)", "* Kö/T-shirt, 外套")


@pytest.fixture
def table() -> Table:
    rows = tuple(((name, str(number)), (Value((number, number + 1.0)), None)) for number, name in enumerate(NAMES))
    return Table(
        name="Table 7",
        title="a table of 100% [red]names[/red], ジャケット",
        notes="A_note & more | of it ± 1",
        row_headings=("Name_1", "No."),
        groups=("G & H", "G & H"),
        headings=("x_1", "y|2"),
        rows=rows,
        best=frozenset({(1, 0)}),
    )


LATEX_NAMES = {
    **{"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"},
    **{"textbar": "|", "varepsilon": "ε", "pm": "±"},
}
LATEX_TOKEN = re.compile(
    r"\\otherscript\{(?P<other>[^{}]*)\}\{(?:\{\[\}U\+[0-9A-F]{4,5}\{\]\})+\}"
    r'|\\(?P<accent>["])\{(?P<letter>[a-z])\}|\\(?P<command>[a-z]+)\{\}|\$\\(?P<maths>[a-z]+)\$'
    r"|\\(?P<escaped>[&%#_${}])|\{(?P<held>[\[\]*])\}|(?P<dash>--)"
)


def plain_latex(text: str) -> str:
    """Return what LaTeX would print, and raise where it would not compile."""
    text = re.sub(r"\\textbf\{(.*?)\}$", r"\1", text)
    assert not re.search(r"[&%#_${}~^\\<>|*\[\]]|[^\0-\x7f]", LATEX_TOKEN.sub("", text)), text

    def printed(token: re.Match[str]) -> str:
        found = token.groupdict()
        if found["accent"]:
            return unicodedata.normalize("NFC", found["letter"] + "\N{COMBINING DIAERESIS}")
        name = found["command"] or found["maths"]
        if name:
            return LATEX_NAMES[name]
        return "–" if found["dash"] else found["other"] or found["escaped"] or found["held"]

    return LATEX_TOKEN.sub(printed, text)


def test_latex_prints_the_names_as_they_are(table: Table) -> None:
    text = table.latex("tab:names")
    lines = text.splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    cells = [[plain_latex(cell) for cell in re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))] for line in body]
    assert [row[0] for row in cells] == list(NAMES)
    assert [row[3] for row in cells] == ["–"] * len(NAMES)
    assert cells[2][2] == f"{2.5:.4f} ± {statistics.stdev([2, 3]):.4f}"
    assert [r"\textbf{" in line for line in body] == [False, True, False, False, False, False]
    header = lines[lines.index(r"\toprule") + 2].removesuffix(r" \\")
    assert [plain_latex(cell) for cell in re.split(r"(?<!\\) & ", header)] == ["Name_1", "No.", "x_1", "y|2"]
    assert r" &  & \multicolumn{2}{c}{G \& H} \\" in lines


def test_latex_numbers_the_table_itself_and_has_the_notes_apart(table: Table) -> None:
    text = table.latex("tab:names")
    (caption,) = re.findall(r"^\\caption\{(.*)\}$", text, re.MULTILINE)
    assert plain_latex(caption) == "A" + table.title[1:]
    (notes,) = re.findall(r"^\\parbox\{\\linewidth\}\{\\footnotesize (.*)\}$", text, re.MULTILINE)
    assert plain_latex(notes) == table.notes
    assert text.index(r"\caption") < text.index(r"\label{tab:names}") < text.index(r"\end{tabular}") < text.index(notes)
    assert "Table 7" not in text


@pytest.mark.parametrize(
    ("names", "key"),
    [(("demo", "table1"), "tab:demo-table1"), (("A_b %#~\\{", "x"), "tab:A-b-x"), (("外套", "table2"), "tab:table2")],
)
def test_labels_are_plain(names: tuple[str, ...], key: str) -> None:
    assert label(*names) == key


def test_what_is_written_has_a_label_of_the_study(table: Table, tmp_path: Path) -> None:
    (tmp_path / "my study").mkdir()
    table.write(tmp_path / "my study" / "table1")
    assert r"\label{tab:my-study-table1}" in (tmp_path / "my study" / "table1.tex").read_text(encoding="utf-8")


ODD_NAMES = (
    "".join(SYMBOLS),
    "".join(map(chr, range(32, 127))),
    "".join(map(chr, range(0xA0, 0x250))),
    "".join(map(chr, range(0x370, 0x530))),
    "-- --- '' `` ,, !` ?`",
    "[1mm] *x",
    "*",
    "外套 コート 코트 👗 مرحبا \u200b\u202e\ufeff",
    "e\u0301 i\u0308 x\u0301 \u0301",
    "",
    " ",
)


@pytest.mark.parametrize("engine", ["pdflatex", "xelatex", "lualatex"])
def test_latex_compiles_whatever_names_are_made_of(engine: str, tmp_path: Path) -> None:
    if shutil.which(engine) is None:
        pytest.skip(f"there is no {engine} on this machine")
    rows = tuple(((name, name), (Value((0.5, 1.0)), None)) for name in ODD_NAMES)
    odd = Table(
        "Table 1",
        " ".join((ODD_NAMES[1], *ODD_NAMES[4:])),
        "\n".join(ODD_NAMES),
        ODD_NAMES[:2],
        ODD_NAMES[2:4],
        ("*", "[x]"),
        rows,
        frozenset({(0, 0)}),
    )
    odd.write(tmp_path / "odd")
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\listoftables\input{odd.tex}"
        rf"See Table~\ref{{{label(tmp_path.name, 'odd')}}}.\end{{document}}"
    )
    (tmp_path / "document.tex").write_text(document)
    for _ in range(2):  # the second time with the captions in the list of tables
        command = [engine, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout[-1500:].decode(errors="replace")
    assert b"undefined references" not in done.stdout


def test_a_row_that_begins_with_a_bracket_is_no_argument_of_the_row_before() -> None:
    assert latex("[1mm]") == "{[}1mm{]}"
    assert latex("*") == "{*}"
    assert latex("a--b") == "a-{}-b"


def plain_markdown(text: str) -> str:
    """Return what Markdown would show; every special character must stand after a backslash."""
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_|<\[~]", text), text
    return re.sub(r"\\(.)", r"\1", text)


def test_markdown_shows_the_names_as_they_are(table: Table) -> None:
    lines = table.markdown().splitlines()
    rows = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines if line[:2] == "| "]
    assert [len(row) for row in rows] == [4] * (1 + len(NAMES))
    assert [plain_markdown(row[0]) for row in rows[1:]] == list(NAMES)
    assert [row[2].startswith("**") and row[2].endswith("**") for row in rows[1:]] == [False, True, *[False] * 4]
    assert plain_markdown(lines[0].removeprefix("**").removesuffix("**")) == f"Table 7: {table.title}"
    assert plain_markdown(lines[-1]) == table.notes


def test_the_screen_shows_the_names_as_they_are(table: Table) -> None:
    file = io.StringIO()
    table.show(Console(file=file, width=100))
    for text in (*NAMES, table.title, table.notes):
        assert text in file.getvalue()


def test_groups_stand_below_one_another_where_the_screen_is_narrow() -> None:
    headings = ("SR", "FL", "LPIPS")
    row = tuple(Value((float(number),), 7) for number in range(6))
    table = Table(
        name="Table",
        title="t",
        notes="n",
        row_headings=("Attack",),
        groups=("T",) * 3 + ("AT",) * 3,
        headings=headings * 2,
        rows=((("FGSM",), row), (("PGD",), (*row[:5], None))),
        best=frozenset({(0, 1), (1, 3)}),
    )
    shown = []
    for width in (100, 50):
        file = io.StringIO()
        table.show(Console(file=file, width=width))
        shown.append([line.split() for line in file.getvalue().splitlines() if "SM" in line or "PG" in line])
    values = [f"{number:.7f}" for number in range(6)]
    assert shown[0] == [["FGSM", *values], ["PGD", *values[:5], "–"]]
    first, second = values[:3], values[3:]
    assert shown[1] == [["T", "FGSM", *first], ["PGD", *first], ["AT", "FGSM", *second], ["PGD", *second[:2], "–"]]


def test_csv_holds_the_figures_in_full(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table")
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".tex"}
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name_1", "no.", "G & H x_1", "G & H x_1 sd", "G & H y|2"]
    assert [row[0] for row in rows] == list(NAMES)
    assert [float(row[2]) for row in rows] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert {float(row[3]) for row in rows} == {statistics.stdev([0, 1])}
    assert {row[4] for row in rows} == {""}


def test_a_single_seed_has_no_deviation() -> None:
    assert Value((0.25,)).text() == "0.2500"
    assert Value((0.125,), digits=1, factor=100, unit="%").text() == "12.5%"
    assert Value((0.1, 0.3), digits=1, factor=100, unit="%").text() == f"20.0% ± {100 * 0.02**0.5:.1f}%"


def cells_of(extractor: str, number: int, attack: str, **changed: Any) -> Cell:
    """Return a cell with made-up metrics."""
    is_attack = attack != "No attack"
    values = {"sr": 0.5, "sr_clean": 0.0, "feature_loss": 0.25, "lpips": 0.125}
    cell = {"dataset": "Shop", "protocol": "corrected", "extractor": extractor, "attack": attack, "recommender": "VBPR"}
    cell |= {"epsilon": None, "seed": 0, "source": "Sandal", "target": "Sneaker", "chr": 1.0}
    cell |= {"differences": "", "scenario": "poisoning" if is_attack else None, "control": None}
    cell |= {"n_attacked": number if is_attack else None}
    return Cell(**cell | (values if is_attack else {}) | changed)


def test_the_number_of_attacked_items_stands_in_the_tables(tmp_path: Path) -> None:
    cells = [cells_of(name, n, attack) for name, n in (("T", 1500), ("AT", 144)) for attack in ("No attack", "FGSM")]
    assert "Attacked items: 1500 (T), 144 (AT)." in table_1(cells, [], 20, []).notes
    table = table_2(cells, "vgg", [])
    assert table.headings == ("Items", "SR", "FL", "LPIPS") * 2
    table.write(tmp_path / "table2")
    assert (tmp_path / "table2.csv").read_text().splitlines() == [
        "attack,T Items,T SR,T FL,T LPIPS,AT Items,AT SR,AT FL,AT LPIPS",
        "FGSM,1500,0.5,0.25,0.125,144,0.5,0.25,0.125",
    ]
    # Nobody is proud of how many images there were.
    assert table.best == {(0, column) for column in (1, 2, 3, 5, 6, 7)}
    assert "Attacked" not in table_1(cells[:1], [], 20, []).notes


def test_rows_have_the_order_of_each_recommender_and_evasion_those_that_look_at_images() -> None:
    floor = {"control": "other seeds", "scenario": None}
    cells = [cells_of("T", 9, attack, recommender="BPR-MF") for attack in ("No attack", "FGSM")]
    cells += [cells_of("T", 9, "No attack"), cells_of("T", 9, "No attack, other seeds", **floor)]
    cells += [cells_of("T", 9, "FGSM", scenario=scenario) for scenario in ("poisoning", "evasion")]
    assert [labels for labels, _ in table_1(cells, [], 20, []).rows] == [
        *(("BPR-MF", "No attack"), ("BPR-MF", "FGSM")),
        *(("VBPR", "No attack"), ("VBPR", "No attack, other seeds"), ("VBPR", "FGSM")),
    ]
    evasion = table_1(cells, [], 20, [], "evasion")
    assert [labels for labels, _ in evasion.rows] == [("VBPR", "No attack"), ("VBPR", "FGSM")]


def test_numbers_are_never_cut_on_a_narrow_screen(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    long = replace(table, rows=tuple(((*labels[:-1], "x" * 99), values) for labels, values in table.rows))
    long.show(Console(width=80))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_notes_stand_in_every_table() -> None:
    cells = [cells_of("T", 3, attack) for attack in ("No attack", "FGSM")]
    for table in (table_1(cells, [], 20, ["P.", "", "R."]), table_2(cells, "vgg", ["P.", "", "R."])):
        assert " P. R." in table.notes
    assert networks_table("S", ["c"], {"T": [1.0]}, "R.").notes.endswith(" R.")


def test_blank_and_broken_names_do_not_break_a_table() -> None:
    cells = [cells_of("T", 3, attack, source=" \n", dataset="a\nb|c") for attack in ("No attack", "FGSM")]
    table = table_1(cells, [], 20, [])
    assert table.markdown().splitlines()[0] == r"**Table 1: CHR@20 of (blank) on a b\|c**"
    assert "(blank)" in table.notes


@pytest.mark.parametrize(
    ("accuracy", "chance", "expected"),
    [
        *[(0.1, 0.1, True), (0.05, 0.1, True), (0.18, 0.1, True), (0.2, 0.1, False), (0.54, 0.5, True)],
        *[(0.56, 0.5, False), (0.94, 0.95, True), (0.99, 0.95, False), (0.019, 0.01, True), (0.05, 0.01, False)],
        (1.0, 1.0, False),
    ],
)
def test_near_chance(accuracy: float, chance: float, expected: bool) -> None:
    assert is_near_chance(accuracy, chance) is expected


@pytest.mark.parametrize(
    "name", ["", " ", "T ", " T", "a  b", "a\nb", "a\tb", "\x1b[31mT", "T\u200b", "T\u202e", "\xa0"]
)
def test_names_that_no_table_can_show(name: str) -> None:
    with pytest.raises(CatwalkError, match=r"^extractors: a name .* got "):
        check_names("extractors", ["T", name])


@pytest.mark.parametrize("names", [["AT", "ＡＴ"], ["\u00c9", "E\u0301"]])
def test_names_that_look_the_same(names: list[str]) -> None:
    with pytest.raises(CatwalkError, match=r"^recommenders: .* look the same"):
        check_names("recommenders", names)


def test_names_that_are_fine() -> None:
    check_names("recommenders", ["VBPR", "BPR-MF", "外套", "a b", "50% & [x]", "vbpr"])
