"""QEMU's reading of JSON: the same values however the bytes are cut, and calm whatever they are."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmtui.backend.core.sim.qjson import MAX_NESTING, Bad, JsonReader

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def read(*pieces: bytes) -> list[Any]:
    reader = JsonReader()
    return [value for piece in pieces for value in reader.feed(piece)]


@given(st.lists(VALUES, max_size=4), st.booleans())
def test_it_reads_what_json_means(values: list[Any], ascii_only: bool) -> None:
    data = b" ".join(json.dumps(value, ensure_ascii=ascii_only).encode() for value in values) + b"\n"
    assert read(data) == values


PARTS = [b'{"execute":', b"}", b"[", b"]", b":", b",", b'"a"', b"'b'", b'"', b"\\", b"\n", b"1", b"-", b"0", b".5", b"true",
         b"nan",          b"\xff", b"\x01", b"\\ud83d", b"\\u0000", b"\xc3\xa4", b" "]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PARTS) | st.binary(max_size=3), max_size=30).map(b"".join)


@given(HOSTILE, st.lists(st.integers(0, 60), max_size=6))
def test_however_bytes_are_cut_the_values_and_complaints_are_the_same(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(places)]
    assert read(*pieces, b"\n") == read(data, b"\n")


@given(HOSTILE)
def test_a_command_behind_anything_is_read_once_the_brackets_are_closed(data: bytes) -> None:
    *_, last = read(data, b"\"'\n", b"}]" * 40 + b"\n", b'{"execute": "stop"}')
    assert last == {"execute": "stop"} or isinstance(last, Bad)


@pytest.mark.parametrize(
    ("data", "desc"),
    [
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": "\\q"}', "invalid escape sequence '\\q'"),
        (b'{"a": "\\u12"}', "invalid hex escape in string"),
        (b'{"a": "\\ud800"}', "\\ud800 is not a valid Unicode character"),
        (b'{"a": "\xc3"}', "invalid UTF-8 sequence in string"),
        (b'{"a": 1,}', "expecting value"),
        (b"}", "expecting value"),
        (b"[1}", "expected separator in list"),
    ],
)
def test_a_complaint_is_worded_as_qemu_words_it(data: bytes, desc: str) -> None:
    assert read(data)[0] == Bad(f"JSON parse error, {desc}")


def test_nesting_is_bounded_and_up_to_there_read() -> None:
    deep = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert len(read(deep)) == 1
    assert read(b"[" + deep)[0] == Bad("JSON nesting depth limit exceeded")


@pytest.mark.parametrize("number", [b"01", b"-", b"-x", b"1.", b"1e", b"1e+", b"2.e5", b"9" * 5000, b"a" * 5000])
def test_what_begins_as_a_number_and_is_none_holds_nothing_up(number: bytes) -> None:
    whole = read(number + b'\n{"execute": "stop"}')
    assert isinstance(whole[0], Bad)
    assert whole[-1] == {"execute": "stop"}
    assert read(*(bytes((each,)) for each in number + b'\n{"execute": "stop"}')) == whole


def test_numbers_need_nothing_between_them() -> None:
    assert read(b"1-2 1.5.", b"\n")[:3] == [1, -2, 1.5]


def test_a_number_or_keyword_without_end_is_not_kept() -> None:
    reader = JsonReader()
    for digits in (b"7" * 10_000, b"a" * 10_000):
        complaints = [value for _ in range(100) for value in reader.feed(digits)]
        assert complaints in ([Bad("JSON token size limit exceeded")], [])
        assert len(reader._buffer) < 20_000


def test_a_number_beyond_64_bits_is_a_float() -> None:
    assert read(b"18446744073709551615 18446744073709551616 1" + b"0" * 400 + b" ") == [
        (1 << 64) - 1,
        float(1 << 64),
        float("inf"),
    ]
