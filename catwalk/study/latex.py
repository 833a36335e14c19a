"""Text as LaTeX: whatever a name is made of, pdfLaTeX, XeLaTeX and LuaLaTeX compile it."""

import re
import unicodedata

OTHER_SCRIPT = r"\otherscript"
"""The command around what pdfLaTeX has no letters for."""

DEFINE_OTHER_SCRIPT = (
    "% Other scripts: XeLaTeX and LuaLaTeX show them in a font that has them, pdfLaTeX their numbers, unless the\n"
    "% document defines the command itself.\n"
    rf"\providecommand{{{OTHER_SCRIPT}}}[2]{{\ifdefined\Umathcode #1\else #2\fi}}"
)
"""Definition that must stand before text with the command."""

GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
GREEK_NAMES = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)

SYMBOLS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the beginning of a row they would be arguments of the end of the row before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    '"': r"\char34{}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "\N{LEFT SINGLE QUOTATION MARK}": "`{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{BULLET}": r"$\bullet$",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{SUPERSCRIPT TWO}": "$^2$",
    "\N{SUPERSCRIPT THREE}": "$^3$",
    "\N{INFINITY}": r"$\infty$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "§": r"\S{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "€": r"\texteuro{}",
    "®": r"\textregistered{}",
    "™": r"\texttrademark{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "µ": r"$\mu$",
    **{letter: rf"$\{name}$" for letter, name in zip(GREEK_LETTERS, GREEK_NAMES.split(), strict=True)},
}

LIGATURES = ("--", "''", "``", ",,", "!`", "?`")
"""Neighbours that would become another sign."""

ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": r"\`",
    "\N{COMBINING ACUTE ACCENT}": r"\'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": r"\^",
    "\N{COMBINING TILDE}": r"\~",
    "\N{COMBINING MACRON}": r"\=",
    "\N{COMBINING BREVE}": r"\u",
    "\N{COMBINING DOT ABOVE}": r"\.",
    "\N{COMBINING DIAERESIS}": r"\"",
    "\N{COMBINING RING ABOVE}": r"\r",
    "\N{COMBINING DOUBLE ACUTE ACCENT}": r"\H",
    "\N{COMBINING CARON}": r"\v",
    "\N{COMBINING CEDILLA}": r"\c",
    "\N{COMBINING DOT BELOW}": r"\d",
    "\N{COMBINING MACRON BELOW}": r"\b",
}
"""Commands that put an accent on a letter, in every font encoding."""


def latex(text: str) -> str:
    """Return text as LaTeX that prints it, in a paragraph, a caption or a cell; control characters are left out."""
    parts: list[str] = []
    others = before = ""
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            continue
        known = _known(character)
        if known is None:
            others += character
            continue
        apart = "{}" if before + character in LIGATURES else ""
        parts += [_other_script(others), apart, known]
        others, before = "", character
    return "".join([*parts, _other_script(others)])


def label(*names: str) -> str:
    r"""Return names as one key for ``\label``, which may hold ASCII letters, digits and dashes."""
    plain = (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in names)
    return "tab:" + "-".join(filter(None, plain))


def _known(character: str) -> str | None:
    """Return how every LaTeX prints a character; None if not every one can."""
    if character in SYMBOLS:
        return SYMBOLS[character]
    if " " <= character <= "~":
        return character
    if character.isspace():
        return " "
    apart = unicodedata.normalize("NFD", character)
    if len(apart) == 2 and apart[0].isascii() and apart[0].isalpha() and apart[1] in ACCENTS:
        return f"{ACCENTS[apart[1]]}{{{apart[0]}}}"
    return None


def _other_script(text: str) -> str:
    """Return text for those that have its letters, and its numbers for the others."""
    if not text:
        return ""
    numbers = "".join(f"{{[}}U+{ord(character):04X}{{]}}" for character in text)
    return f"{OTHER_SCRIPT}{{{text}}}{{{numbers}}}"
