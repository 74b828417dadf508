"""Does a guest's agent answer? One question through its channel, a unix socket at which QEMU serves one client at a time.

What comes back is the guest's: one line of JSON with the number of the question, or it is no answer.
"""

import asyncio
import os
import socket
from collections.abc import Collection

import msgspec

from vmtui.backend.core.errors import Unreachable
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import connectable_path, credentials

LIMIT = 2.0
"""Seconds that an agent has for its answer."""
START = b"\xff"
"""Has an agent's reader forget half a line that another client left there."""
LONGEST = 64 << 10
"""Bytes that are read at most: an answer has 20."""


class _Return(msgspec.Struct):
    value: int = msgspec.field(name="return")


async def answers(path: str, number: int, listeners: Collection[int], limit: float = LIMIT) -> bool:
    """Whether it answers to guest-sync with this number in time. Late answers to earlier questions may come before.

    Raises Unreachable where the socket cannot be used; so, too, where none of these processes listens there.
    """
    with _connected(path) as sock:
        if credentials(sock)[0] not in listeners:
            raise Unreachable(f"at {printable(path, 200)} listens another process than at the VM's monitor")
        try:
            async with asyncio.timeout(limit):
                return await _answers(sock, number)
        except (TimeoutError, OSError):
            return False


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with connectable_path(path) as short:
            sock.connect(short)  # never waits: a full queue is an error
    except (OSError, ValueError) as error:
        sock.close()
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise Unreachable(f"{printable(path, 200)}: {printable(why, 100)}") from error
    return sock


async def _answers(sock: socket.socket, number: int) -> bool:
    loop = asyncio.get_running_loop()
    question = {"execute": "guest-sync", "arguments": {"id": number}}
    await loop.sock_sendall(sock, START + msgspec.json.encode(question) + b"\n")
    left, begun = LONGEST, b""
    while left > 0 and (data := await loop.sock_recv(sock, left)):
        left -= len(data)
        *lines, begun = (begun + data).split(b"\n")
        if any(_is_answer(line, number) for line in lines):
            return True
    return False


def _is_answer(line: bytes, number: int) -> bool:
    try:
        return msgspec.json.decode(line, type=_Return).value == number
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
