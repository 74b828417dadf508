"""How is something that was recorded made wrong? Bytes, JSON values and lines of text, a little at a time.

All choices come from the `Random` that is handed in: the same seed makes the same material.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028\r\n\0"
"""What would move a cursor, set a title or turn a line around."""
WORDS = ("", "none", "active", "completed", "failed", "cancelled", "wait-unplug", "running", "paused", "postmigrate",
         "guest-panicked", "primary0", "standby0", "vmtui-state", "migration", "9" * 400,
         "a" * 5000, "%s%n", ESCAPES)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 255, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 0.5, -0.0, 1e-300, 1e308, -1e308)


def _nested(depth: int) -> Any:
    value: Any = []
    for number in range(depth):
        value = {"a": value} if number % 2 else [value]
    return value


HOSTILE: tuple[Any, ...] = (None, True, False, [], {}, _nested(60), [0] * 300, *NUMBERS, *WORDS)
"""Every kind of value that JSON has, at its limits."""
NO_JSON_OF_QEMU: tuple[Any, ...] = (float("nan"), float("inf"), float("-inf"), 10**30, -(10**25), "\ud800", "a\udfffb",
                                    _nested(150), _nested(400), *map(_nested, range(880, 990, 10)))  # fmt: skip
"""What Python's reader takes for JSON, and no file of ours can hold."""


# --- values -------------------------------------------------------------------------------------------------------


def value(random: Random, whole: Any, donors: Sequence[Any] = HOSTILE, changes: int = 3) -> Any:
    """`whole` with up to `changes` members changed; what is not on the way to them is shared, not copied."""
    for _ in range(random.randint(1, changes)):
        whole = _value(random, whole, donors)
    return whole


def _value(random: Random, whole: Any, donors: Sequence[Any]) -> Any:
    if isinstance(whole, dict) and whole and random.random() < 0.85:
        return _member(random, whole, donors)
    if isinstance(whole, list) and whole and random.random() < 0.85:
        return _item(random, whole, donors)
    if isinstance(whole, str) and random.random() < 0.5:
        return text(random, whole)
    if isinstance(whole, int) and not isinstance(whole, bool) and random.random() < 0.5:
        return max(min(whole + random.choice((1, -1, 1 << 31, -whole)), (1 << 64) - 1), -(1 << 63))
    return random.choice(donors)


def _member(random: Random, whole: dict[str, Any], donors: Sequence[Any]) -> dict[str, Any]:
    name = random.choice(list(whole))
    match random.randrange(10):
        case 0:
            return {key: each for key, each in whole.items() if key != name}
        case 1:
            return {**whole, random.choice(WORDS): random.choice(donors)}
        case 2:
            return {**whole, name: whole[random.choice(list(whole))]}
    return {**whole, name: _value(random, whole[name], donors)}


def _item(random: Random, whole: list[Any], donors: Sequence[Any]) -> list[Any]:
    at = random.randrange(len(whole))
    match random.randrange(10):
        case 0:
            return whole[:at] + whole[at + 1 :]
        case 1:
            return [*whole, random.choice(donors)]
        case 2:
            return whole[:at] + whole[at : at + 1] * random.randint(2, 50) + whole[at + 1 :]
    return [*whole[:at], _value(random, whole[at], donors), *whole[at + 1 :]]


# --- text ---------------------------------------------------------------------------------------------------------


def text(random: Random, whole: str) -> str:
    """A few characters, or a few lines, of a text changed."""
    lines = whole.split("\n")
    if len(lines) > 3 and random.random() < 0.5:
        return "\n".join(_lines(random, lines))
    at = random.randint(0, len(whole))
    piece = random.choice((*WORDS, "\n", '"', ",", "=", ":", "ffffffff", whole[:64]))
    return whole[:at] + piece + whole[at + random.choice((0, 0, 1, len(piece), len(whole))) :]


def _lines(random: Random, lines: list[str]) -> list[str]:
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            return lines[:at] + lines[at + 1 :]
        case 1:
            return [*lines[:at], lines[other], *lines[at:]]
        case 2:
            return [*lines[:at], " " * random.randrange(12) + lines[at].lstrip(), *lines[at + 1 :]]
        case 3:
            return [*lines[:at], text(random, lines[at]), *lines[at + 1 :]]
    return lines[:at]


# --- bytes --------------------------------------------------------------------------------------------------------


def data(random: Random, whole: bytes, donors: Sequence[bytes] = (), changes: int = 4) -> bytes:
    """`whole` with up to `changes` wounds: bits, bytes, lengths, pieces lost, doubled, moved, taken from elsewhere."""
    wounded = bytearray(whole)
    for _ in range(random.randint(1, changes)):
        random.choice(_WOUNDS)(random, wounded)
    if donors and random.random() < 0.2:
        _graft(random, wounded, random.choice(donors))
    return bytes(wounded)


def _flip(random: Random, whole: bytearray) -> None:
    if whole:
        whole[random.randrange(len(whole))] ^= 1 << random.randrange(8)


def _overwrite(random: Random, whole: bytearray) -> None:
    at = random.randint(0, len(whole))
    whole[at : at + 4] = random.choice(_PATCHES)


def _insert(random: Random, whole: bytearray) -> None:
    at = random.randint(0, len(whole))
    whole[at:at] = random.choice((*_PATCHES, random.randbytes(random.randint(1, 40))))


def _lose(random: Random, whole: bytearray) -> None:
    at = random.randint(0, len(whole))
    del whole[at : at + random.choice((1, 2, 4, 8, 64, 4096))]


def _cut(random: Random, whole: bytearray) -> None:
    if random.random() < 0.3:
        del whole[random.randint(0, len(whole)) :]


def _double(random: Random, whole: bytearray) -> None:
    at = random.randint(0, len(whole))
    whole[at:at] = whole[at : at + random.choice((1, 8, 100, 5000))]


def _move(random: Random, whole: bytearray) -> None:
    at, size = random.randint(0, len(whole)), random.choice((1, 8, 100, 5000))
    piece = whole[at : at + size]
    del whole[at : at + size]
    to = random.randint(0, len(whole))
    whole[to:to] = piece


def _blow_up(random: Random, whole: bytearray) -> None:
    """Four bytes that may be a length become another one."""
    at = random.randint(0, max(0, len(whole) - 4))
    number = int.from_bytes(whole[at : at + 4], "big")
    other = random.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, number + 1, number * 2, number - 1, number << 16)) & 0xFFFFFFFF
    whole[at : at + 4] = other.to_bytes(4, "big")


def _graft(random: Random, whole: bytearray, donor: bytes) -> None:
    at, begin = random.randint(0, len(whole)), random.randint(0, len(donor))
    whole[at : at + random.choice((0, 64))] = donor[begin : begin + random.choice((16, 256, 4096))]


_PATCHES = (b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x7e", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf",
            b"\xfe", b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b"\\ud800", b"\\u0000", b",", b":", b"\r\n", b"1e999", b"-",
            b"9" * 30, b"0", b"NaN", b"true", b"null", b"\x1b[2J", b"\x04", b"\x06", b"\x08", b"[" * 500,
            b'{"a":' * 300)  # fmt: skip
_WOUNDS: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip, _flip, _flip, _overwrite, _insert, _lose, _cut, _double, _move, _blow_up, _blow_up,
)  # fmt: skip


def cut(random: Random, whole: bytes, most: int = 12) -> list[bytes]:
    """The same bytes in a few pieces."""
    places = sorted(random.randint(0, len(whole)) for _ in range(random.randint(0, most)))
    return [whole[begin:end] for begin, end in zip([0, *places], [*places, len(whole)], strict=True)]
