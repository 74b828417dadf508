"""What crosses between front ends and the engine comes out as it went in; old journals go, others stay."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.core.play import Play
from vmtui.backend import config, journal, wire
from vmtui.backend.core.fleet import Begin, CancelWish, Record, VmView
from vmtui.backend.core.model import Options, Outcome
from vmtui.backend.journal import EndLine, Head, Journal

T = TypeVar("T")


def heard(receive: Callable[[asyncio.StreamReader], Coroutine[Any, Any, T]], raw: bytes) -> T:
    """What the other end makes of these bytes."""

    async def run() -> T:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        return await receive(reader)

    return asyncio.run(run())


def test_each_state_of_a_save_crosses_the_wire_unchanged() -> None:
    views: list[VmView] = []
    log = (Record(1, 0.5, "qmp", {"dir": "recv", "msg": {"return": [1, {"a": None}]}}),)
    play = Play(watch=lambda now: views.append(VmView(now.state, log, "journal", "name")))
    assert play.run().outcome is Outcome.SAVED
    for view in views:
        assert heard(wire.receive_out, wire.packed(wire.News({"key": view}))) == wire.News({"key": view})
    assert len(views) > 50


@pytest.mark.parametrize(
    "wish", [Begin("unix:/a", Options(output="/b")), CancelWish("unix:/a"), wire.hello(), wire.Recover()]
)
def test_a_wish_crosses_the_wire_unchanged(wish: wire.In) -> None:
    assert heard(wire.receive_in, wire.packed(wish)) == wish


@pytest.mark.parametrize(
    "raw", [b"\0\x10\0\1" + b"x" * 10, b"\0\0\0\1\xc1", b"\0\0\x01\0" + b"\x91" * 256, b"\0\0\0\x01\x80"]
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(wire.BadMessage):
        heard(wire.receive_in, raw)


def test_half_a_message_is_an_end() -> None:
    with pytest.raises(EOFError):
        heard(wire.receive_in, struct.pack(">I", 10) + b"abc")


def test_of_journals_the_oldest_go_and_an_unfinished_one_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT", 3)
    for number in range(6):
        each = Journal(Head(1, "test", f"unix:/{number}", 0.0))
        each.commit(f"vm{number}")
        if number:
            each.write(EndLine(1.0, "saved"))
        each.close()
    journal.tidy()
    kept = [path.name.split("-")[1] for path in sorted(config.journal_dir().iterdir())]
    assert kept == ["vm0", "vm3", "vm4", "vm5"]
