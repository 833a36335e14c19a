"""Ids as people and programs write them: the same one in several spellings, and different ones that look alike."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Characters without ink that Unicode does not call blanks (Zs) or formats (Cf), as variation selectors are."""

FLOAT = re.compile(r"([+-]?\d+)\.0+", re.ASCII)
"""An integer that a program has written as a float."""

EXPONENT = re.compile(r"[+-]?(\d)(?:\.(\d+))?[eE]\+?(\d+)", re.ASCII)
"""A number in scientific notation, as spreadsheets show long ones."""


def item_keys(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return a 64-bit number for each id, int64 ``(N,)``, made from it alone: seeds of what is random about items."""
    digests = b"".join(hashlib.sha256(item.encode()).digest()[:8] for item in ids)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def plain_id(text: str) -> str:
    """Return an id without invisible characters and surrounding blanks, in Unicode's composed form (NFC).

    Invisible are zero-width characters, byte order marks, soft hyphens, marks of writing direction, variation
    selectors. Non-breaking and other spaces within become spaces. Control characters within stay, to be refused, see
    :func:`has_controls`.
    """
    if text.isascii() and text.isprintable() and text == text.strip():
        return text  # nearly all of them
    seen = (" " if unicodedata.category(one) == "Zs" else one for one in text if not is_invisible(one))
    return unicodedata.normalize("NFC", "".join(seen)).strip()


def has_controls(text: str) -> bool:
    """Return whether a text holds control characters, such as line breaks and commands to a terminal."""
    return not text.isprintable() and any(unicodedata.category(one) in ("Cc", "Zl", "Zp") for one in text)


def is_invisible(character: str) -> bool:
    """Return whether a character has neither ink nor width of its own."""
    return (
        unicodedata.category(character) == "Cf"
        or character in INVISIBLE
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


def id_key(text: str) -> str:
    """Return what two spellings of one id have in common: :func:`plain_id`, and ``123`` for ``123.0``."""
    return _without_fraction(plain_id(text))


def _without_fraction(text: str) -> str:
    match = FLOAT.fullmatch(text) if text.endswith((".0", "00")) else None
    return match[1] if match else text


def narrow_key(text: str) -> str:
    """Return :func:`id_key` with full-width and half-width characters as the ordinary ones, ``12`` for ``１２``."""
    key = id_key(text)
    return key if key.isascii() else id_key("".join(map(_without_width, key)))


def _without_width(character: str) -> str:
    is_variant = unicodedata.decomposition(character).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", character) if is_variant else character


def look_alike_key(text: str) -> str:
    """Return what ids that are easily taken for one another have in common: Unicode's compatibility form (NFKC).

    Full-width and ASCII digits are the same in it, but so are ``m²`` and ``m2``: it tells what is doubtful, and makes
    no two ids one.
    """
    key = id_key(text)
    return key if key.isascii() else id_key(unicodedata.normalize("NFKC", key))


def lost_digits(text: str) -> bool:
    """Return whether a text is a whole number in scientific notation with fewer digits than the number has."""
    match = EXPONENT.fullmatch(text.strip())
    return match is not None and len(match[2] or "") < int(match[3])


@dataclass(frozen=True)
class Spellings:
    """Spellings of ids, each led to the id that it stands for.

    Attributes:
        names: The ids, those that were known before first.
        places: The place of every spelling's id in ``names``, int64 ``(S,)``.
        rewritten: Whether a spelling is not the id itself, bool ``(S,)``.
        example: The first such spelling and its id, as ASCII literals; empty where there is none.
    """

    names: tuple[str, ...]
    places: NDArray[np.int64]
    rewritten: NDArray[np.bool_]
    example: str

    @classmethod
    def of(cls, spellings: Sequence[str], known: Sequence[str] = ()) -> "Spellings":
        """Lead spellings to ids.

        A known id is kept as it is, and takes what is spelled like it by :func:`id_key`, or otherwise by
        :func:`narrow_key` if no other known id is. The remaining spellings of one :func:`id_key` are one id: the
        key itself where it occurs, otherwise the plain form of the first.

        Args:
            spellings: S different texts.
            known: Different ids.
        """
        names = list(known)
        exact = {name: place for place, name in enumerate(names)}
        by_key = {id_key(name): place for place, name in enumerate(names)}
        alike = _unique(map(narrow_key, names)) if not all(map(exact.__contains__, spellings)) else {}
        forms = {text: plain_id(text) for text in spellings if text not in exact}
        plain = set(forms.values())
        places = np.empty(len(spellings), dtype=np.int64)
        for number, text in enumerate(spellings):
            place = exact.get(text)
            if place is None:
                key = _without_fraction(forms[text])
                place = by_key.get(key)
                if place is None:
                    place = alike.get(narrow_key(text))
                if place is None:
                    place = by_key[key] = len(names)
                    names.append(key if key in plain else forms[text])
            places[number] = place
        rewritten = np.array([names[place] != text for place, text in zip(places, spellings, strict=True)], dtype=bool)
        first = np.flatnonzero(rewritten)
        example = f"{spellings[first[0]]!a} for {names[places[first[0]]]!a}" if len(first) else ""
        return cls(tuple(names), places, rewritten, example)


def _unique(keys: Iterable[str]) -> dict[str, int]:
    """Return the places of the keys that occur once."""
    found: dict[str, int] = {}
    repeated = set()
    for place, key in enumerate(keys):
        if found.setdefault(key, place) != place:
            repeated.add(key)
    return {key: place for key, place in found.items() if key not in repeated}


def first_clash(ids: Sequence[str]) -> tuple[int, int] | None:
    """Return the rows of the first two ids that are spellings of one, or None."""
    rows: dict[str, int] = {}
    for row, text in enumerate(ids):
        other = rows.setdefault(id_key(text), row)
        if other != row:
            return other, row
    return None


def doubtful_ids(ids: Sequence[str], what: str) -> list[str]:
    """Return a sentence on ids that may be one and the same, and one on ids that have lost digits.

    Args:
        ids: Different ids.
        what: What they are the ids of, in the plural.
    """
    found = []
    groups: dict[str, list[str]] = {}
    for text in ids:
        if not text.isascii():
            groups.setdefault(look_alike_key(text), []).append(text)
    if groups:
        for text in ids:
            if text.isascii() and text in groups:
                groups[text].append(text)
    alike = [members for members in groups.values() if len(members) > 1]
    if alike:
        one, other, *_ = alike[0]
        found.append(
            f"{sum(map(len, alike)):,} {what} have ids that are the same in Unicode's compatibility form and are "
            f"counted apart, such as {one!a} and {other!a}"
        )
    short = [text for text in ids if ("e" in text or "E" in text) and lost_digits(text)]
    if short:
        found.append(
            f"{len(short):,} {what} have ids in scientific notation such as {short[0]!r}, whose other digits are lost: "
            "several may have become one; save the table anew, with its ids as text"
        )
    return found
