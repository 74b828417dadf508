"""What counts as the answer of a guest's agent: everything that it may send, over a real socket."""

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from vmtui.backend import agent
from vmtui.backend.core.errors import Unreachable

LIMIT = 0.3
US = {os.getpid()}


def asked(path: Path, says: Callable[[bytes], bytes | None]) -> bool:
    """Whether what a guest says to the question counts. None: it says nothing."""

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as client, client.makefile("rb") as heard:
            said = says(heard.readline())
            client.sendall(said) if said is not None else heard.read()

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as guest:
        listener.bind(str(path))
        listener.listen()
        guest.submit(serve)
        return asyncio.run(agent.answers(str(path), 42, US, LIMIT))


def test_the_number_of_the_question_is_the_answer(tmp_path: Path) -> None:
    assert asked(tmp_path / "s", lambda question: b'{"return": 42}\n' if b'"guest-sync"' in question else None)
    assert asked(tmp_path / "t", lambda _: b'{"return": 41}\n{"return": 42}\n'), "late answers may come before"


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"",
        b"\n",
        b'{"return": 41}\n',
        b'{"return": "42"}\n',
        b'{"return": 42}',
        b'{"error": {"class": "CommandNotFound"}}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b"x" * (agent.LONGEST + 1) + b'\n{"return": 42}\n',
        b"\n" * (agent.LONGEST + 1) + b'{"return": 42}\n',
    ],
)
def test_anything_else_is_none(tmp_path: Path, said: bytes | None) -> None:
    assert not asked(tmp_path / "s", lambda _: said)


def test_a_socket_that_others_wait_at_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        first.connect(str(tmp_path / "s"))
        with pytest.raises(Unreachable, match="Resource temporarily unavailable"):
            asyncio.run(agent.answers(str(tmp_path / "s"), 1, US, LIMIT))


def test_a_path_where_nobody_or_another_process_listens_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, why in (("gone", "No such file"), ("file", "Connection refused"), ("nul\0", "No such file")):
        with pytest.raises(Unreachable, match=why):
            asyncio.run(agent.answers(str(tmp_path / name), 1, US, LIMIT))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(Unreachable, match="another process"):
            asyncio.run(agent.answers(str(tmp_path / "s"), 1, {1}, LIMIT))
