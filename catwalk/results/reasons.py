"""Why a result is made again: which of its inputs differ from those of an earlier one."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from catwalk.results.keys import Inputs
from catwalk.results.record import Record

CONTENTS = {
    "allow_truncated": "what the dataset says of truncated images",
    "attack": "the attack",
    "catalogue": "the catalogue",
    "classifier": "the CNN",
    "features": "the features",
    "file": "a file that a setting names",
    "interactions": "the purchases",
    "known recommender": "the known recommender",
    "labelled images": "the labelled images",
    "library": "the version of the CNN's library",
    "purchases": "the purchases",
    "sha256": "a file that a setting names",
    "trunk": "the weights of LPIPS",
    "warm start": "the recommender that it begins with",
    "weights": "the weights",
}
"""What is said of entries of the settings that stand for contents: a hash, a fingerprint or another result's key."""

RESULTS = ("attack", "classifier", "features", "known recommender", "warm start", "weights")
"""Those of them that results stand for: what changes these mostly changes something else as well, which says more."""

CLASSES = ("class", "class_path")
"""Entries that name a class; the others beside it are its arguments."""

SHOWN = 3


def why_again(before: Record, inputs: Inputs) -> str:
    """Return which inputs differ from those of an earlier result, such as ``setting epsilon changed``.

    Args:
        before: The earlier result's ``stage.json``.
        inputs: What the new result depends on.

    Returns:
        At most three of them, and how many more; modules by their files.
    """
    differences = list(_differences(before.get("settings") or {}, inputs.settings, ()))
    classes = [path[:-1] for path in differences if path[-1] in CLASSES]
    # Another class has other modules, and other arguments.
    differences = [path for path in differences if path[-1] in CLASSES or not any(map(partial(_is_in, path), classes))]
    causes = [] if classes else _code_that_differs(before, inputs)
    if before.get("torch") != inputs.torch:
        causes.append("PyTorch's version")
    first = [path for path in differences if not _is_result(path, before, inputs)]
    causes += dict.fromkeys(_words(path, before, inputs) for path in (first or ([] if causes else differences)))
    more = [f"{len(causes) - SHOWN} more"] if len(causes) > SHOWN else []
    shown = causes[:SHOWN] + more
    return f"{' and '.join(filter(None, [', '.join(shown[:-1]), *shown[-1:]])) or 'what it is made of'} changed"


def _code_that_differs(before: Record, inputs: Inputs) -> list[str]:
    """Return the files of the modules that differ, or, where none does, of those that only one of the two has."""
    then, now = before.get("code") or {}, inputs.code
    changed = [name for name in now if name in then and then[name] != now[name]]
    others = [name for name in now if name not in then] + [name for name in then if name not in now]
    return [f"{name.replace('.', '/')}.py" for name in changed or others]


def _is_in(path: tuple[str, ...], prefix: tuple[str, ...]) -> bool:
    return path[: len(prefix)] == prefix


def _differences(then: Any, now: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths at which two nested values differ, as deep as both are mappings."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(name), now.get(name), (*path, name))
    elif then != now:
        yield path


def _is_result(path: tuple[str, ...], before: Record, inputs: Inputs) -> bool:
    return path[-1] in RESULTS and _is_content(path, before, inputs)


def _is_content(path: tuple[str, ...], before: Record, inputs: Inputs) -> bool:
    """Return whether an entry stands for a content: arguments of the same name are mappings, numbers or words."""
    values = [_at(before.get("settings"), path), _at(inputs.settings, path)]
    return path[-1] in CONTENTS and not any(isinstance(value, Mapping | bool | int | float) for value in values)


def _words(path: tuple[str, ...], before: Record, inputs: Inputs) -> str:
    if path[-1] in CLASSES:
        return f"the class of {path[-2]}" if len(path) > 1 else "the class"
    return CONTENTS[path[-1]] if _is_content(path, before, inputs) else f"setting {path[-1]}"


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
