"""Spellings of ids."""

import unicodedata

import pytest

from catwalk.shop.ids import Spellings, doubtful_ids, first_clash, id_key, lost_digits, plain_id

NFD = unicodedata.normalize("NFD", "Größe")


@pytest.mark.parametrize(
    "spelling",
    [
        *(" u1", "u1 ", "\tu1\n", "\u00a0u1", "u1\u2003", "\ufeffu1", "u\u200b1", "u1\u200d", "u\u00ad1"),
        *("\u200eu1\u200f", "\u202au1\u202c", "u1\ufe0f", "u\u20601", "u\u180e1", "u\u034f1", "u1\u3164"),
    ],
)
def test_blanks_and_what_is_invisible_make_no_other_id(spelling):
    assert plain_id(spelling) == "u1"
    spellings = Spellings.of([spelling, "u1", "u2"])
    assert spellings.names == ("u1", "u2")
    assert spellings.places.tolist() == [0, 0, 1]
    assert spellings.rewritten.tolist() == [True, False, False]
    assert spellings.example == f"{spelling!a} for 'u1'"
    assert first_clash(["x", spelling, "u1"]) == (1, 2)


@pytest.mark.parametrize("text", ["u1", "007", "a b", "Größe", "1.5", "1e3", "-0", "ab\u0000", "m²", "１", "", "U1"])
def test_other_ids_stay_as_they_are(text):
    assert plain_id(text) == id_key(text) == text
    assert Spellings.of([text]).names == (text,)


def test_forms_of_one_letter_are_one_id():
    assert NFD != "Größe"
    assert Spellings.of([NFD, "Größe"]).names == ("Größe",)
    assert Spellings.of([NFD]).names == ("Größe",)
    assert Spellings.of(["Größe"], known=[NFD]).names == (NFD,)  # what is known stays as it is
    assert Spellings.of(["a\u00a0b", "a b"]).names == ("a b",)


def test_integers_that_became_floats():
    assert Spellings.of(["123.0", "7", "123", "8.0", "007.00"]).names == ("123", "7", "8.0", "007.00")
    known = Spellings.of(["5.0", "06.0", "6.0"], known=["5", "06"])
    assert known.names == ("5", "06", "6.0")
    assert known.places.tolist() == [0, 1, 2]


def test_a_look_alike_leads_to_a_known_id_only_and_only_to_the_one():
    assert Spellings.of(["１２"], known=["11", "12"]).places.tolist() == [1]
    assert Spellings.of(["１２"], known=["12", "1２"]).names == ("12", "1２", "１２")
    assert Spellings.of(["１２", "12"]).names == ("１２", "12")
    [remark] = doubtful_ids(["12", "x", "１２", "ﬁn", "y"], "users")
    assert remark.startswith("2 users have ids that are the same in Unicode's compatibility form")
    assert remark.endswith(r"such as '\uff11\uff12' and '12'")


@pytest.mark.parametrize(
    ("text", "known"), [("１２", "12"), ("12", "１２"), ("Ａ\u3000b", "A b"), ("ｶﾞ", "ガ"), ("１２.０", "12")]
)
def test_widths_of_a_character_make_no_other_id(text, known):
    assert Spellings.of([text], known=[known]).names == (known,)


@pytest.mark.parametrize(("text", "known"), [("m²", "m2"), ("ﬁn", "fin"), ("①", "1"), ("Ⅳ", "IV"), ("℡", "TEL")])
def test_what_only_looks_alike_stays_unknown(text, known):
    assert Spellings.of([text], known=[known]).names == (known, text)
    assert len(doubtful_ids([text, known], "items")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.2E+12", True), ("1e9", True), ("1.23456e+08", True), ("1.5e1", False), ("123e", False), ("beef", False)],
)
def test_lost_digits(text, expected):
    assert lost_digits(text) == expected
    assert len(doubtful_ids([text, "a"], "users")) == expected
