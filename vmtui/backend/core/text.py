"""How is text from outside made safe to show?

Text from guests, QEMU, files and command lines may hold escape codes, bidirectional overrides or line breaks. Whatever
goes to a terminal passes through `printable` first.
"""

import unicodedata
from collections.abc import Iterable

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, limit: int = 2000) -> str:
    """`text` on one line with every control character visible, cut after `limit` characters.

    Escapes use Python's notation (`\\x1b`), so that what was there can still be read.
    """
    shown = "".join(_visible(character) for character in text[:limit])
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters)"


def _visible(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known; empty where none of those that are is near."""
    import difflib  # noqa: PLC0415 - needed only to say what was meant

    found = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {printable(found[0])}?" if found else ""
