"""How are words of each tone drawn: with which glyph and which colour?

A glyph comes with its word, and a colour with both: each alone says enough. Where the terminal cannot show the glyphs
(no UTF-8, or a console font that lacks them), plain ASCII does.
"""

import locale
import os
from collections.abc import Iterable, Mapping

from rich.text import Text
from textual.content import Content

from vmtui.backend.core.glance import Said, Tone

COLOURS = {
    Tone.GOOD: "$text-success",
    Tone.BUSY: "$text-accent",
    Tone.WARN: "$text-warning",
    Tone.BAD:  "$text-error bold",
    Tone.DIM:  "$foreground-muted",
}  # fmt: skip
"""Of Textual's themes: they hold in a dark, a light and a contrast-rich one."""

GLYPHS = {Tone.GOOD: "●", Tone.BUSY: "▶", Tone.WARN: "▲", Tone.BAD: "■", Tone.DIM: "○"}
ASCII = {Tone.GOOD: "*", Tone.BUSY: ">", Tone.WARN: "!", Tone.BAD: "#", Tone.DIM: "-"}
PLAIN_TERMINALS = frozenset({"linux", "vt100", "vt102", "vt220", "ansi", "dumb"})


def ascii_only() -> bool:
    """Whether only ASCII is to be drawn."""
    if os.environ.get("TERM", "") in PLAIN_TERMINALS:
        return True
    return "utf" not in locale.getpreferredencoding(False).lower()


def glyph(tone: Tone) -> str:
    return (ASCII if ascii_only() else GLYPHS)[tone]


def said(value: Said) -> Content:
    """Glyph, word and colour; nothing for an empty word."""
    return Content.styled(f"{glyph(value.tone)} {value.word}", COLOURS[value.tone]) if value.word else Content("")


def cell(value: Said, variables: Mapping[str, str]) -> Text:
    """`said` for a table, which draws with rich: `variables` are the theme's (`App.theme_variables`)."""
    if not value.word:
        return Text("")
    colour, _, weight = COLOURS[value.tone].removeprefix("$").partition(" ")
    return Text(f"{glyph(value.tone)} {value.word}", style=f"{variables[colour]} {weight}".strip(), no_wrap=True)


def css(tone: Tone) -> str:
    """The same colour as a rule for the style sheet of a widget that draws its lines itself."""
    colour, _, weight = COLOURS[tone].partition(" ")
    return f"color: {colour}; text-style: {weight or 'none'};"


def toned(text: str, tone: Tone) -> Content:
    """Text from anywhere, as it is: never read as markup."""
    return Content.styled(text, COLOURS[tone])


def lines(parts: Iterable[Content]) -> Content:
    return Content("\n").join(list(parts))
