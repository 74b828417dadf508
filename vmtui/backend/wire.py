"""What crosses between a front end and the engine's process, over its unix socket: the same values as inside.

A message is its length in four bytes, big-endian, and a msgpack map. A front end says `Hello`; the engine answers
`Welcome` or `Refusal`. Then wishes go in, and `News` comes out: each VM that has changed since the last, as it is now. A
front end that reads slowly gets fewer of them, never older ones.
"""

import asyncio
import struct
from typing import Any

import msgspec

from vmtui import __version__
from vmtui.backend import config
from vmtui.backend.core.fleet import VmRequest, VmView
from vmtui.backend.core.state import Watching

SPEAKS = f"vmtui {__version__}, wire 1"
"""Both ends must say the same: values of another version cannot be read."""
IN_LIMIT = 1 << 20
"""Bytes of one wish: more is no front end of ours."""
OUT_LIMIT = 1 << 28
LENGTH = struct.Struct(">I")


class BadMessage(Exception):
    """What came is no message of the other end's kind."""


# --- in -----------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    speaks: str
    home: str
    """The state directory, which must be the engine's: locks and journals lie there."""
    demo: str = ""
    """VMTUI_DEMO_DIR: an engine of a demo is for its simulated VMs."""


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Keep this VM's facts for me: the engine holds its monitor as long as somebody follows it, or it is worked on."""

    key: str
    """The monitor's address."""
    pid: int = 0
    """QEMU's process, as far as its command line told: for a monitor whose other end is not QEMU itself."""
    how: Watching = Watching.NO
    name: str = ""


class Unfollow(msgspec.Struct, frozen=True, tag="unfollow"):
    key: str


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Give this VM's monitor back, until something is asked of it."""

    key: str


class Recover(msgspec.Struct, frozen=True, tag="recover"):
    """Look once more for what was left unfinished, and go on with it."""


In = Hello | Follow | Unfollow | Release | Recover | VmRequest


# --- out ----------------------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    pid: int
    since: float
    """When the engine was started, in seconds since 1970."""
    front_ends: int
    """How many there are, this one included."""
    ending: bool = False
    """It was told to stop: it begins nothing new."""


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """In words: what cannot be had, and what to do."""

    text: str
    key: str = ""
    """The VM that something was wished for."""


class News(msgspec.Struct, frozen=True, tag="news"):
    """What has changed since the last of them; the first has everything."""

    vms: dict[str, VmView]
    """Of each log only the records that are new."""
    gone: tuple[str, ...] = ()


Out = Welcome | Refusal | News


# --- bytes --------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()


def _foreign(_code: int, _data: memoryview) -> Any:
    raise BadMessage("a value that is not of JSON")


_in = msgspec.msgpack.Decoder(In, ext_hook=_foreign)
_out = msgspec.msgpack.Decoder(Out)


def hello() -> Hello:
    return Hello(SPEAKS, str(config.state_home()), config.demo_dir())


def packed(message: In | Out) -> bytes:
    raw = _encoder.encode(message)
    return LENGTH.pack(len(raw)) + raw


async def receive_in(reader: asyncio.StreamReader) -> In:
    """The next wish. Raises BadMessage, EOFError at the end, OSError."""
    wish: In = await _receive(reader, IN_LIMIT, _in)
    return wish


async def receive_out(reader: asyncio.StreamReader) -> Out:
    """The next value. Raises BadMessage, EOFError at the end, OSError."""
    value: Out = await _receive(reader, OUT_LIMIT, _out)
    return value


async def _receive(reader: asyncio.StreamReader, limit: int, decoder: Any) -> Any:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > limit:
        raise BadMessage(f"{length} bytes in one message")
    raw = await reader.readexactly(length)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadMessage(str(error)) from error
