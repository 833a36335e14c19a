"""The page of a report in a browser: opened from the disk, sorted, filtered, and hostile names are but text on it."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catwalk.study.report.page import (
    About,
    Card,
    Column,
    Entry,
    Gallery,
    Page,
    PageTable,
    Picture,
    ProtocolView,
    Ranks,
    TableRow,
    Verdict,
    data_address,
    render,
)

HOSTILE = (
    "</script></title><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>\"'&\x00\x1b\u202e{{7*7}}"
)


def image(level: int) -> str:
    picture = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(picture, format="PNG")
    return data_address(picture.getvalue(), "image/png")


def card(item: str, gain: float, lpips: float | None, case: str) -> Card:
    ranks = [Ranks("VBPR", 100, 100 - gain), Ranks("AMR", 100, 100 + gain)]
    seen = ("Sandal 90%", f"{HOSTILE} 80%")
    return Card(item, HOSTILE, image(9), image(99), image(128), *seen, True, [("LPIPS", "0.01")], ranks, case, lpips)


def example() -> Page:
    """Return a page with texts that would like to be more."""
    pgd, fgsm = (About(attack, "T", "VBPR", "poisoning") for attack in ("PGD", "FGSM"))
    other = About("PGD", HOSTILE, "AMR", "poisoning")
    rows = [
        TableRow([Entry("PGD", "PGD"), Entry("0.5", 0.5), Entry("pushed", "pushed", verdict="pushed")], pgd),
        TableRow([Entry("FGSM", "FGSM"), Entry("–"), Entry("no effect", "no effect", verdict="no effect")], fgsm),
        TableRow([Entry(HOSTILE, HOSTILE), Entry("-10", -10.0), Entry("lowered", verdict="lowered")], other),
        TableRow([Entry("No attack", "No attack"), Entry("3", 3.0), Entry("")], is_control=True),
    ]
    columns = [Column("attack", HOSTILE, is_number=False), Column("change"), Column("verdict", is_number=False)]
    point = {
        "panel": HOSTILE,
        "kind": HOSTILE,
        "attack": "PGD",
        "extractor": "T",
        "x": 0.1,
        "y": 2,
        "low": 1,
        "high": 3,
    }
    more = {"panel": "", "series": HOSTILE, "kind": "", "x": 0.2, "y": 0.5, "low": None, "high": None}
    points = [{"series": "T", **point}, {"attack": "FGSM", "extractor": "T", **more}]
    interactive = {"points": points, "x": HOSTILE, "y": "y", "colours": ["#0072b2"], "symbols": ["circle"]}
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="300" height="90"><rect width="300" height="90"/></svg>'
    return Page(
        name=HOSTILE,
        question=f"Does it push {HOSTILE}?",
        answer=[HOSTILE],
        facts=[(HOSTILE, HOSTILE)],
        protocols=[ProtocolView(HOSTILE, [("clip", HOSTILE)], [("clip", HOSTILE, "True", HOSTILE)])],
        verdicts=[Verdict("pushed", "A", pgd), Verdict("no effect", "B", fgsm), Verdict("lowered", HOSTILE, other)],
        controls=[Verdict("cannot tell", HOSTILE, About("Noise", "T", "VBPR"))],
        tables=[PageTable("effects", HOSTILE, HOSTILE, columns, rows)],
        pictures=[Picture("spots", HOSTILE, HOSTILE, drawing, interactive), Picture("bars", "Bars", "", drawing)],
        galleries=[
            Gallery("PGD on T", HOSTILE, About("PGD", "T"), [card("a", 5, 0.3, "best"), card("b", 50, None, "worst")]),
            Gallery("FGSM on T", "", About("FGSM", "T"), [card(HOSTILE, 9, 0.1, "best")]),
        ],
        gallery_note="",
        choices={
            "attack": ["PGD", "FGSM"],
            "extractor": ["T", HOSTILE],
            "recommender": ["VBPR", "AMR"],
            "scenario": ["poisoning"],
            "protocol": ["corrected"],
        },
        command=f"catwalk study --config {HOSTILE}",
        configuration=HOSTILE,
        manifest=HOSTILE,
        remarks=[HOSTILE],
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright, of the extra dev")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs the browser Chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page of the browser, with all that it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.page = browser.new_page(**settings)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def texts(self, selector: str) -> list[str]:
        return [each.inner_text().strip() for each in self.page.query_selector_all(selector) if each.is_visible()]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(example()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(browser: Any, path: Path) -> Opened:
    opened = Opened(browser, path)
    opened.page.wait_for_selector(".hover .main-svg")
    return opened


@pytest.fixture
def opened(page: Opened) -> Iterator[Opened]:
    """Return the page as it is when it has been opened, all filters at rest."""
    yield page
    page.page.emulate_media(media="screen")
    page.page.evaluate("for (const form of document.forms) form.reset()")
    page.page.wait_for_selector("[data-filtered][hidden]", state="detached")
    page.complaints.clear()


def test_every_text_is_escaped(path: Path) -> None:
    html = path.read_text("utf-8")
    assert {"\x00", "\x1b", "\u202e"}.isdisjoint(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))
    outside = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)  # those of the page itself
    assert "<script>window.hacked" not in outside
    assert "<img src=x" not in outside
    assert outside.count("<script") == 1  # the numbers of the plots
    assert outside.count("{{7*7}}") > 20  # a text is no template


def test_only_its_own_scripts_may_run_and_nothing_may_be_fetched(path: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', path.read_text("utf-8"))
    assert policy is not None
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert "unsafe" not in rules["script-src"]
    assert len(re.findall("'sha256-[^']+'", rules["script-src"])) == 2


def test_it_opens_from_the_disk_and_asks_for_nothing(opened: Opened, path: Path) -> None:
    opened.page.wait_for_selector(".hover .main-svg")
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.query_selector_all("img[src='x'], a[href^='javascript']") == []
    assert opened.page.evaluate("[...document.images].every(image => !image.complete || image.naturalWidth > 0)")


def test_a_heading_sorts_numbers_as_numbers_and_what_is_empty_last(opened: Opened) -> None:
    button = opened.page.locator("#effects th:nth-child(2) button")
    button.focus()
    opened.page.keyboard.press("Enter")
    heading = opened.page.locator("#effects th[aria-sort]")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert opened.texts("#effects tbody td:nth-child(2)") == ["-10", "0.5", "3", "–"]
    opened.page.keyboard.press("Space")
    assert opened.texts("#effects tbody td:nth-child(2)") == ["3", "0.5", "-10", "–"]
    assert heading.get_attribute("aria-sort") == "descending"
    opened.page.locator("#effects th:nth-child(1) button").click()
    assert opened.texts("#effects tbody th")[1:] == ["FGSM", "No attack", "PGD"]
    assert heading.count() == 1
    assert opened.complaints == []


def test_a_filter_leaves_what_is_about_the_choice_or_about_all(opened: Opened) -> None:
    opened.page.locator("select[name=attack]").select_option("FGSM")
    assert opened.texts("#verdicts > ul > li") == ["≈ no effect\nB"]
    assert [text.splitlines()[0] for text in opened.texts("#effects tbody tr")] == [
        "FGSM\t–\t≈ no effect",
        "No attack\t3",
    ]
    assert opened.texts("#gallery h3") == ["FGSM on T"]
    assert opened.texts("#shown") == ["1 of 3 verdicts, 1 of 3 items"]
    opened.page.locator("select[name=recommender]").select_option("AMR")
    assert opened.texts("#verdicts .none") == ["Nothing here is about this choice."]
    assert [text.split("\n")[0] for text in opened.texts(".ranks div")] == ["AMR"]
    opened.page.locator("#filters button[type=reset]").click()
    opened.page.wait_for_selector("#verdicts > ul > li[hidden]", state="detached")
    assert len(opened.texts(".card")) == 3
    assert opened.complaints == []


def test_a_hostile_choice_is_a_choice_as_any_other(opened: Opened) -> None:
    opened.page.locator("select[name=extractor]").select_option(index=2)
    assert len(opened.texts("#verdicts > ul > li")) == 1
    assert opened.page.evaluate("window.hacked") is None
    assert opened.complaints == []


def test_cards_are_ordered_by_what_the_attack_gained(opened: Opened) -> None:
    items = "#gallery .group:first-of-type h4 > span > bdi"
    by, recommender = opened.page.locator("select[name=by]"), opened.page.locator("select[name=recommender]")
    recommender.select_option("VBPR")
    by.select_option("gain")
    assert opened.texts(items) == ["b", "a"]
    recommender.select_option("AMR")  # where it is the other way round
    assert opened.texts(items) == ["a", "b"]
    by.select_option("loss")
    assert opened.texts(items) == ["b", "a"]
    by.select_option("far")
    assert opened.texts(items) == ["a", "b"]  # of b it was not measured
    by.select_option("")
    opened.page.locator("select[name=case]").select_option("worst")
    assert opened.texts(items) == ["b"]
    assert opened.complaints == []


def test_a_plot_follows_the_filter_and_shows_its_text_as_text(opened: Opened) -> None:
    opened.page.wait_for_selector(".hover .main-svg")
    points = "document.querySelector('.hover').data.reduce((sum, trace) => sum + trace.x.length, 0)"
    assert opened.page.evaluate(points) == 2
    opened.page.locator("select[name=attack]").select_option("PGD")
    assert opened.page.evaluate(points) == 1
    drawn = opened.page.locator(".hover .main-svg").all_text_contents()
    assert any("<script>" in text for text in drawn)
    assert opened.page.query_selector_all(".hover script, .hover image") == []
    assert opened.complaints == []


def test_on_paper_there_are_drawings_instead_of_controls(opened: Opened) -> None:
    opened.page.wait_for_selector(".hover .main-svg")
    assert not opened.page.locator("#plot-spots img.plot").is_visible()
    opened.page.emulate_media(media="print")
    assert opened.page.locator("#plot-spots img.plot").is_visible()
    assert not opened.page.locator("#filters").is_visible()
    assert not opened.page.locator(".hover").is_visible()


def test_a_narrow_screen_has_nothing_beside_it(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, viewport={"width": 360, "height": 700})
    try:
        opened.page.wait_for_selector(".hover .main-svg")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        opened.page.close()


def test_without_scripts_all_is_there_to_read(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, java_script_enabled=False)
    try:
        assert opened.page.locator("#plot-spots img.plot").is_visible()
        assert len(opened.texts("#verdicts > ul > li")) == 3
        assert opened.texts("#verdicts .none") == []
    finally:
        opened.page.close()
