"""The page of a report in a browser: opened from the disk, sorted, filtered, and hostile names are but text on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_page import example

from catwalk.study.report.page import render

pytestmark = pytest.mark.slow


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
    recommenders = opened.page.locator("select[name=recommender]")
    recommenders.select_option("AMR")
    assert not opened.page.locator("#plot-spots").is_visible()  # none of its points is about this one
    assert opened.page.locator("#plot-bars").is_visible()
    recommenders.select_option("")
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
