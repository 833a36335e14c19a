"""The page of a report as text: all that comes from elsewhere is escaped, and its policy forbids the rest."""

import base64
import hashlib
import re
from importlib import resources

import pytest
from hostile_page import example
from plotly.offline import get_plotlyjs

from catwalk.study.report.page import render


@pytest.fixture(scope="module")
def html() -> str:
    return render(example())


SCRIPTS = [
    get_plotlyjs(),
    (resources.files("catwalk.study.report") / "templates" / "report.js").read_text("utf-8"),
]


def test_every_text_is_escaped(html: str) -> None:
    outside = html
    for script in SCRIPTS:
        assert script in outside
        outside = outside.replace(f"<script>{script}</script>", "")
    assert {"\x00", "\x1b", "\u202e"}.isdisjoint(outside)
    assert outside.count("<script") == 1  # the numbers of the plots
    assert "<img src=x" not in outside
    assert outside.count("</title>") == 1
    assert outside.count("{{7*7}}") > 20  # a text is no template


def test_only_its_own_scripts_may_run_and_nothing_may_be_fetched(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy[1].split(";"))
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in SCRIPTS]
    assert rules == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(f"'sha256-{digest}'" for digest in hashes),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
