"""A page of a report all of whose texts would like to be more."""

import io

import numpy as np
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
        "recommender": "VBPR",
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
