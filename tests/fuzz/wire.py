"""What comes through the real socket: vmtui's engine with its QMP client, and a monitor that sends wrong bytes."""

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.core.recorded import schema
from tests.fuzz import mutate
from tests.fuzz.from_qemu import events, shown
from vmtui.backend.core.fleet import Begin, Fleet, VmView
from vmtui.backend.core.model import Goal, Link, Options
from vmtui.backend.core.sim import STOCK_10_0, SimulatedVm
from vmtui.backend.core.sim.qjson import JsonReader
from vmtui.backend.discovery import Address
from vmtui.backend.engine import LOG_LENGTH, Engine, finished
from vmtui.backend.schemas import raw_schema

LOG_LIMIT = 8 << 20
"""Bytes of JSON that the log of one VM may have."""
TALKS = 8
TALK_LIMIT = 400.0
"""Seconds: a save whose monitor answers to nothing ends after 120 s; longer than a few of these is a hang."""


def wire_batch(random: Random, size: int) -> int:
    """Wrong bytes in the middle of a conversation: the engine lives on, connects again, and nothing piles up."""
    return asyncio.run(_talks(random, size))


class _Monitor:
    """A QEMU's monitor, as far as the twin goes, that says wrong things between the right ones."""

    def __init__(self, random: Random, most: int) -> None:
        self.random, self.most, self.sent = random, most, 0
        self.connections = 0
        self.enough = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        vm, values = SimulatedVm(STOCK_10_0, ram=16 << 20, schema=schema("stock-10.0")), JsonReader()
        self.connections += 1
        try:
            vm.connect(0.0)
            for greeting in vm.output():
                writer.write(self._said(greeting, often=0.1))
            while data := await reader.read(1 << 16):
                for command in values.feed(data):
                    self._answer(vm, command, writer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, vm: SimulatedVm, command: Any, writer: asyncio.StreamWriter) -> None:
        for _ in range(self.random.choice((0,) * 12 + (1, 1, 5, 40))):
            lie = self.random.choice(events()) if self.random.random() < 0.8 else {"return": {}, "id": command.get("id")}
            writer.write(self._said(lie, often=1.0))
        if command.get("execute") == "query-qmp-schema":
            said = b'{"id": %b, "return": %b}\r\n' % (json.dumps(command["id"]).encode(), raw_schema("stock-10.0"))
            writer.write(said)
            return
        vm.receive(command, vm.now + 0.01)
        for message in vm.output():
            writer.write(self._said(message, often=0.02))

    def _said(self, message: dict[str, Any], often: float) -> bytes:
        raw = json.dumps(message).encode()
        if self.random.random() >= often or self.sent >= self.most:
            return raw + b"\r\n"
        self.sent += 1
        if self.sent >= self.most:
            self.enough.set()
        match self.random.randrange(60):
            case 0:
                return mutate.data(self.random, raw) + b"\r\n"
            case 1:
                donors = (*mutate.HOSTILE, *mutate.NO_JSON_OF_QEMU)
                with suppress(RecursionError):  # nested deeper than Python itself can write here
                    return json.dumps(mutate.value(self.random, message, donors)).encode() + b"\r\n"
        return json.dumps(mutate.value(self.random, message)).encode() + b"\r\n"


async def _talks(random: Random, size: int) -> int:
    """Several at a time: what each waits for, it waits for beside the others."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        talks = [_talk(Random(random.random()), size // TALKS, Path(folder) / str(number)) for number in range(TALKS)]
        sent = sum(await asyncio.gather(*talks))
    assert not failures, failures
    return sent


async def _talk(random: Random, size: int, path: Path) -> int:
    views: dict[str, VmView] = {}
    changed = asyncio.Event()

    def take(fleet: Fleet) -> None:
        views.update(fleet.vms)
        changed.set()

    monitor, address = _Monitor(random, size), Address("unix", path=str(path))
    server = await asyncio.start_unix_server(monitor.serve, path, limit=1 << 24)
    async with server, Engine(take) as engine, asyncio.timeout(TALK_LIMIT):
        while not monitor.enough.is_set():
            key = engine.watch(address)
            while (view := views.get(key)) is None or view.state.vm.link is Link.CONNECTING:
                await _next(changed)
            work = view.state.work
            goal = random.choice((Goal.CHECK, Goal.CHECK, Goal.SAVE))
            engine.request(Begin(key, Options(goal=goal, output=f"{path}.vmstate")))
            while not _over(views.get(key), work.started if work else None) and not monitor.enough.is_set():
                await _next(changed)
            _looked_at(views[key])
            if views[key].state.vm.link is not Link.UP:
                engine.forget(key)  # a new session connects at once, this one after many seconds
                del views[key]
    return monitor.sent


async def _next(changed: asyncio.Event) -> None:
    changed.clear()
    await changed.wait()


def _over(view: VmView | None, began: float | None) -> bool:
    return finished(view) and view is not None and view.state.work is not None and view.state.work.started != began


def _looked_at(view: VmView) -> None:
    assert len(view.log) <= LOG_LENGTH
    assert len(msgspec.json.encode(view.log)) < LOG_LIMIT
    if view.state.work is not None:
        shown(view.state)
