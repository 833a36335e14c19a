"""Names that a message about a name that there is not may suggest."""

import difflib
import re
from collections.abc import Sequence

OUR_PACKAGES = ("callbacks", "catwalk", "datamodules", "lightning_modules")
"""Our packages: their classes come first in messages, and their warnings are a line."""

SIMILAR = 0.65
"""Ratio of :class:`difflib.SequenceMatcher` from which one name may be meant by another."""

SHOWN = 30
"""Names that are listed at most."""


def closest(name: str, names: Sequence[str]) -> list[str]:
    """Return those names that another may have meant, the likeliest first; small and large letters are the same."""
    folded: dict[str, str] = {}
    for other in names:
        folded.setdefault(other.casefold(), other)
    name = name.casefold()
    scores = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in folded}
    best = max(scores.values(), default=0.0)
    similar = [other for other in folded if scores[other] >= max(SIMILAR, best - 0.05)]
    # Or a part of a name, from where a word begins.
    part = re.compile(rf"(^|[._ -]){re.escape(name)}")
    longer = [other for other in sorted(folded, key=len) if len(name) > 2 and part.search(other)]
    ranked = sorted(similar, key=scores.__getitem__, reverse=True)
    return [folded[other] for other in (ranked or longer)[:2]]


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return the end of a message about a name that there is not: what may have been meant, and all names."""
    similar = closest(name, names)
    listed = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    if similar:
        return f"; did you mean {' or '.join(similar)}? There are {listed}"
    return f"; there are {listed}" if names else ""
