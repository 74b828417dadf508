"""What does QEMU's monitor read from bytes that come in pieces of any size, and what does it say of those that are no JSON?

After QEMU's qobject/json-lexer.c, json-streamer.c and json-parser.c, error texts included (run against 7.2): values follow
each other without any separator, strings may have single quotes, and after an error reading goes on at the next bracket.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_TOKENS_SIZE = 64 << 20
MAX_TOKENS = 2 << 20
MAX_NESTING = 300
"""QEMU takes 1024, and Python's own stack fewer; no command needs ten."""
MAX_WORD = 4096
"""Bytes of a number or a keyword: they are read anew with each piece that comes. QEMU takes 64 MiB."""

_SPACE = b" \t\r\n"
_PUNCTUATION = frozenset(b"{}[]:,")
_KEYWORD = re.compile(rb"[a-z]+")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_ALMOST = re.compile(rb"-?(?:(?:0|[1-9][0-9]*+)(?:\.(?:[0-9]++(?:[eE][-+]?[0-9]*+)?)?|[eE][-+]?[0-9]*+)?)?")
"""A number, or the beginning of one."""
_DIGITS = frozenset(b"0123456789")
_BEGINS_NUMBER = frozenset(b"-") | _DIGITS
_STRING = {
    quote: re.compile(
        rb"[^%b\\\x00-\x1f\xfe\xff]*+(?:\\[\x20-\xfd][^%b\\\x00-\x1f\xfe\xff]*+)*+" % ((bytes((quote,)),) * 2)
    )
    for quote in b"\"'"
}
"""What may stand in a string, by its quote."""
_BACKSLASH = ord("\\")
_RESYNC = re.compile(rb"[\x00-\x1f\xfe\xff{}\[\]:,]")


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that was no JSON."""

    desc: str
    """As in the "desc" of QEMU's error."""


class _Token(NamedTuple):
    kind: str
    """One of { } [ ] : , or string, number, keyword."""
    text: bytes


class _Complaint(Exception):
    pass


class JsonReader:
    """Takes bytes as they come, and gives the values that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._scanned = 0
        """How far a string that has not ended yet was looked through."""
        self._lost = False
        """After an error: everything up to the next bracket is skipped."""
        self._forget()

    def _forget(self) -> None:
        self._tokens: list[_Token] = []
        self._size = self._braces = self._brackets = 0

    def feed(self, data: bytes) -> Iterator[Any | Bad]:
        """The values that end in `data`. Take them all: what is not taken is not read."""
        del self._buffer[: self._at]
        self._buffer += data
        self._scanned -= self._at
        self._at = 0
        while (token := self._next_token()) is not None:
            yield from self._take(token)

    # --- tokens

    def _next_token(self) -> _Token | Bad | None:
        """None: the next one is not whole yet."""
        buffer = self._buffer
        if self._lost and not self._find_again():
            return None
        while self._at < len(buffer) and buffer[self._at] in _SPACE:
            self._at += 1
        if self._at >= len(buffer):
            return None
        first = buffer[self._at]
        if first in _PUNCTUATION:
            return self._found(chr(first), self._at + 1)
        if first in _STRING:
            return self._string(first)
        word = (_ALMOST if first in _BEGINS_NUMBER else _KEYWORD).match(buffer, self._at)
        if word is None:
            return self._stray(self._at + 1)
        if len(word[0]) > MAX_WORD:
            return self._too_long(word.end())
        if word.end() == len(buffer):
            return None
        if first not in _BEGINS_NUMBER:
            return self._found("keyword", word.end())
        leading_zero = word[0] in (b"0", b"-0") and buffer[word.end()] in _DIGITS
        if leading_zero or not _NUMBER.fullmatch(word[0]):
            return self._stray(word.end() + 1)
        return self._found("number", word.end())

    def _found(self, kind: str, end: int) -> _Token:
        token = _Token(kind, bytes(self._buffer[self._at : end]))
        self._at = self._scanned = end
        return token

    def _stray(self, end: int) -> Bad:
        text = self._buffer[self._at : min(end, self._at + MAX_WORD)].decode(errors="replace")
        shown = "".join(letter if letter.isprintable() and letter.isascii() else f"\\u{ord(letter):04X}" for letter in text)
        self._at = self._scanned = end
        self._lost = True
        return Bad(f"JSON parse error, stray '{shown}'")

    def _too_long(self, end: int) -> Bad:
        self._at, self._lost = end, True
        return Bad("JSON token size limit exceeded")

    def _find_again(self) -> bool:
        found = _RESYNC.search(self._buffer, self._at)
        self._at = len(self._buffer) if found is None else found.start()
        if found is not None and found[0] in b"\xfe\xff" + bytes(range(0x20)):
            self._at += 1
        self._lost = found is None
        return found is not None

    def _string(self, quote: int) -> _Token | Bad | None:
        """To its closing quote. Where that is not there yet, the next call goes on where this one ended."""
        inside = _STRING[quote].match(self._buffer, max(self._scanned, self._at + 1))
        end = self._scanned = inside.end() if inside else self._at + 1
        if end - self._at > MAX_TOKENS_SIZE:
            return self._too_long(end)
        if end >= len(self._buffer) or (self._buffer[end] == _BACKSLASH and end + 1 == len(self._buffer)):
            return None
        return self._found("string", end + 1) if self._buffer[end] == quote else self._stray(end + 1)

    # --- values

    def _take(self, token: _Token | Bad) -> Iterator[Any | Bad]:
        if not isinstance(token, Bad):
            token = self._limited(token)
        if isinstance(token, Bad):
            self._forget()
            yield token
            return
        self._tokens.append(token)
        if min(self._braces, self._brackets) >= 0 and max(self._braces, self._brackets) > 0:
            return
        tokens = self._tokens
        self._forget()
        try:
            value = _Parser(tokens).value()
        except _Complaint as complaint:
            yield Bad(f"JSON parse error, {complaint}")
        else:
            yield value

    def _limited(self, token: _Token) -> _Token | Bad:
        self._size += len(token.text)
        self._braces += {"{": 1, "}": -1}.get(token.kind, 0)
        self._brackets += {"[": 1, "]": -1}.get(token.kind, 0)
        if self._size > MAX_TOKENS_SIZE:
            return Bad("JSON token size limit exceeded")
        if len(self._tokens) >= MAX_TOKENS:
            return Bad("JSON token count limit exceeded")
        return Bad("JSON nesting depth limit exceeded") if self._braces + self._brackets > MAX_NESTING else token


_KEYWORDS: dict[bytes, Any] = {b"true": True, b"false": False, b"null": None}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?|(.))", re.DOTALL)


class _Parser:
    """One value from its tokens. Bounded by MAX_NESTING, it may call itself: one level, one frame."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = iter(tokens)
        self._ahead = next(self._tokens, None)

    def _pop(self) -> _Token:
        token = self._peek()
        self._ahead = next(self._tokens, None)
        return token

    def _peek(self) -> _Token:
        if self._ahead is None:
            raise _Complaint("premature EOI")
        return self._ahead

    def value(self) -> Any:
        kind, text = self._pop()
        match kind:
            case "string":
                return _unescaped(text)
            case "number":
                return float(text) if set(text) & set(b".eE") else _integer(text)
            case "keyword" if text in _KEYWORDS:
                return _KEYWORDS[text]
            case "keyword":
                raise _Complaint(f"invalid keyword '{text.decode()}'")
            case "{":
                return self._object()
            case "[":
                return self._array()
        raise _Complaint("expecting value")

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while self._peek().kind != "}" or members:
            name = self.value()
            if not isinstance(name, str):
                raise _Complaint("key is not a string in object")
            if self._pop().kind != ":":
                raise _Complaint("missing : in object pair")
            value = self.value()
            if name in members:
                raise _Complaint("duplicate key")
            members[name] = value
            if self._peek().kind == "}":
                break
            if self._pop().kind != ",":
                raise _Complaint("expected separator in dict")
        self._pop()
        return members

    def _array(self) -> list[Any]:
        items: list[Any] = []
        while self._peek().kind != "]" or items:
            items.append(self.value())
            if self._peek().kind == "]":
                break
            if self._pop().kind != ",":
                raise _Complaint("expected separator in list")
        self._pop()
        return items


def _integer(text: bytes) -> int | float:
    """What does not fit into 64 bits is a floating point number to QEMU."""
    if len(text) > 20:
        return float(text)
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(value)


def _unescaped(token: bytes) -> str:
    try:
        text = token[1:-1].decode()
    except UnicodeDecodeError:
        raise _Complaint("invalid UTF-8 sequence in string") from None
    return _ESCAPE.sub(_escape, text) if "\\" in text else text


def _escape(found: re.Match[str]) -> str:
    first, second, letter = found.groups()
    if letter is not None:
        if letter not in _ESCAPES:
            raise _Complaint(f"invalid escape sequence '\\{letter}'" if letter != "u" else "invalid hex escape in string")
        return _ESCAPES[letter]
    code = int(first, 16)
    if second is not None and 0xD800 <= code < 0xDC00:
        return chr(0x10000 + ((code & 0x3FF) << 10) + (int(second, 16) & 0x3FF))
    if 0xD800 <= code < 0xE000 or code == 0:
        raise _Complaint(f"{found[0][:6]} is not a valid Unicode character")
    return chr(code) if second is None else chr(code) + _escape_alone(second)


def _escape_alone(digits: str) -> str:
    raise _Complaint(f"\\u{digits} is not a valid Unicode character")
