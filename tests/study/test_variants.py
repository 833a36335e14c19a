"""Every combination of values that a study gives to fields of its protocol."""

from typing import Any

import pytest

from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import Protocol
from catwalk.study.variants import varied


def test_nothing_varied_is_the_protocol_itself() -> None:
    protocol = Protocol(name="mine", clip=False)
    assert varied(protocol, {}) == [protocol]


def test_every_combination_stands_once_the_last_field_fastest() -> None:
    protocol = Protocol(name="mine", clip=False, quantise="truncate")
    found = varied(protocol, {"source_items": ["undefended", "dataset"], "clip": [True, False]})
    names = [(each.source_items, each.clip) for each in found]
    assert names == [("undefended", True), ("undefended", False), ("dataset", True), ("dataset", False)]
    assert [each.name for each in found] == [f"source_items {items}, clip {clip}" for items, clip in names]
    assert {each.quantise for each in found} == {"truncate"}  # what is not varied is as it was
    both = ["network", "undefended"]
    eight = varied(Protocol(), {"source_items": both, "background_features": both, "chr_categories": both})
    assert len(set(eight)) == len({each.name for each in eight}) == 2**3


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"chr_category": ["network"]}, r"vary: a protocol has no field 'chr_category'; did you mean chr_categories\?"),
        ({"name": ["a", "b"]}, "vary: a protocol has no field 'name'"),
        ({"clip": []}, r"vary\.clip: give a list of values, such as \[True\], got \[\]"),
        ({"clip": True}, r"vary\.clip: give a list of values, such as \[True\], got True"),
        ({"source_items": "network"}, r"vary\.source_items: give a list of values, such as \[network\], got 'network'"),
        ({"source_items": ["network", "network"]}, r"vary\.source_items: each value may occur once"),
        (
            {"source_items": ["network", "defended"]},
            r"vary\.source_items: must be one of network, undefended, dataset, got 'defended'",
        ),
        ({"background_features": ["dataset"]}, r"vary\.background_features: must be one of network, undefended, got"),
        ({"quantise": [None]}, r"vary\.quantise: must be one of .*, got None"),
        ({"clip": [1]}, r"vary\.clip: must be true or false, got 1"),
        ({"epochs": [1.5]}, r"vary\.epochs: must be a whole number or null, got 1\.5"),
        ({"batch_size": [None, True]}, r"vary\.batch_size: must be a whole number or null, got True"),
        ({"amr_weight": [1, "x"]}, r"vary\.amr_weight: must be a number or null, got 'x'"),
    ],
)
def test_what_cannot_be_varied(vary: dict[str, Any], message: str) -> None:
    with pytest.raises(CatwalkError, match=rf"^{message}") as raised:
        varied(Protocol(), vary)
    assert "\n" not in str(raised.value)
