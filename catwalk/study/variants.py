"""Variants of a protocol: every combination of values that a study gives to some of its fields."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from catwalk.configuration.names import did_you_mean
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import Protocol


def varied(protocol: Protocol, vary: Mapping[str, Sequence[Any]]) -> list[Protocol]:
    """Return a protocol with every combination of values of some fields, named by them; itself where none is varied.

    Args:
        protocol: The fields that are not varied.
        vary: Values by field, at least one each.

    Raises:
        CatwalkError: If there is no such field, or it does not take a value.

    Example:
        >>> from catwalk.poisoning.protocol import Protocol
        >>> print(*(each.name for each in varied(Protocol(), {"source_items": ["network", "dataset"]})), sep="; ")
        source_items network; source_items dataset
    """
    if not vary:
        return [protocol]
    hints = get_type_hints(Protocol)
    known = [each.name for each in fields(Protocol) if each.name != "name"]
    for name, values in vary.items():
        if name not in known:
            raise CatwalkError(f"vary: a protocol has no field {name!r}{did_you_mean(name, known)}")
        if not isinstance(values, list | tuple) or not values:
            raise CatwalkError(
                f"vary.{name}: give a list of values, such as [{getattr(protocol, name)}], got {values!r}"
            )
        if len(set(map(str, values))) < len(values):
            raise CatwalkError(f"vary.{name}: each value may occur once, got {list(values)}")
        allowed = get_args(hints[name])
        for value in values:
            if allowed and all(isinstance(each, str) for each in allowed) and value not in allowed:
                raise CatwalkError(f"vary.{name}: must be one of {', '.join(allowed)}, got {value!r}")
            if hints[name] is bool and not isinstance(value, bool):
                raise CatwalkError(f"vary.{name}: must be true or false, got {value!r}")
            for kind, kinds, what in ((int, int, "a whole number"), (float, int | float, "a number")):
                if kind in allowed and value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                    raise CatwalkError(f"vary.{name}: must be {what} or null, got {value!r}")
    return [
        replace(protocol, **values, name=", ".join(f"{name} {value}" for name, value in values.items()))
        for values in (dict(zip(vary, chosen, strict=True)) for chosen in itertools.product(*vary.values()))
    ]
