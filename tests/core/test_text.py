"""Nothing that comes from outside moves a cursor, turns a line around or breaks it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmtui.backend.core.text import printable


@given(st.text())
def test_what_is_shown_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert not {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} & {unicodedata.category(each) for each in shown}
    assert len((shown + ".").splitlines()) == 1
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web 1", "web 1"),
        ("größe 猫 😀", "größe 猫 😀"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("a\x1b[31mb\x9b2J", r"a\x1b[31mb\x9b2J"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2028b\u2029c\u200b", r"a\u2028b\u2029c\u200b"),
        ("\ud800", r"\ud800"),
        ("\ue000\U000e0041", r"\ue000\U000e0041"),
        (r"\x1b", r"\x1b"),
    ],
)
def test_a_control_character_can_still_be_read(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_text_that_is_too_long_is_cut_and_says_how_long_it_was() -> None:
    assert printable("a" * 10, 10) == "a" * 10
    assert printable("a" * 11, 10) == "a" * 10 + "… (11 characters)"
    assert len(printable("\U000e0041" * 10_000_000)) < 30_000
