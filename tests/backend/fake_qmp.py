"""The simulated server, with a test that may have a say in what becomes of each command; and servers that are no QEMU.

A thread of its own serves it, so that the client may be an event loop, `main()` or another process.
"""

import lzma
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.core.recorded import DATA
from tests.twins import Twins
from vmtui.backend.core.sim import STOCK_10_0, Profile, Scenario, WireFault
from vmtui.backend.core.sim.scenarios import World
from vmtui.backend.discovery import Address, Peer, process
from vmtui.backend.sim_server import Qemu, Settings, Spec

FILE_LIMIT = 256 << 10
"""Bytes written of a state, about."""
Message = dict[str, Any]


class Do(Enum):
    """What happens to a command instead of its usual end."""

    CUT_BEFORE = auto()
    """The connection breaks, and the command was not done."""
    CUT_AFTER = auto()
    """It was done, and the connection breaks before the reply."""
    MUTE = auto()
    """It was done, and nobody ever says so."""


Hook = Callable[["FakeQemu", Message], Do | bytes | None]
"""Looks at each command before it is done. Bytes are sent in one write with what the command causes, before it."""


@cache
def stream(name: str = "microvm-7.2") -> bytes:
    """A real QEMU's migration stream."""
    return lzma.decompress((DATA / "streams" / f"{name}.xz").read_bytes())


class FakeQemu:
    """`with FakeQemu(path) as qemu:` serves until the block ends."""

    def __init__(
        self,
        path: Path,
        *,
        profile: Profile = STOCK_10_0,
        scenario: Scenario | None = None,
        faults: tuple[WireFault, ...] = (),
        hook: Hook | None = None,
        name: str = "vm",
        speed: float = 10.0,
        cut_short: int = 0,
    ) -> None:
        """`speed`: seconds of the twin for each of ours. `cut_short`: bytes that are missing of each file in the end."""
        self.path = path
        self.received: list[Message] = []
        """Every command, in order."""
        self.connections = 0
        self.cut_short = cut_short
        self.hook = hook
        self._spec = Spec(name, profile, World(scenario or Scenario(), faults, ram=16 << 20), path)
        self._settings = Settings(speed, FILE_LIMIT)

    def __enter__(self) -> Self:
        self._twins = Twins().__enter__()
        try:
            made = self._twins.serve_as(lambda: _HookedQemu(self._spec, self._settings, self))
            self._served, self._record = made
        except BaseException:
            self._twins.__exit__()
            raise
        self.vm = self._served.vm
        self.before = dict(self.vm.parameters), self.vm.capabilities
        return self

    def __exit__(self, *_error: object) -> None:
        self._twins.__exit__()

    @property
    def address(self) -> Address:
        return Address("unix", path=str(self.path))

    def body(self) -> Peer:
        """A process that ends when the twin does: what a QEMU is to its host."""
        peer = process(self._record.pid)
        assert peer is not None
        return peer

    def commands(self, *names: str) -> list[Message]:
        return [each for each in self.received if each.get("execute") in names]

    @property
    def as_before(self) -> bool:
        """The guest runs, its card is plugged, its settings are what they were: asked of the twin, not of vmtui."""
        settings = dict(self.vm.parameters), self.vm.capabilities
        return self.vm.runstate == "running" and self.vm.card == {"primary0": "plugged"} and settings == self.before


class _HookedQemu(Qemu):
    """A simulated QEMU that lets somebody look at each command first."""

    def __init__(self, spec: Spec, settings: Settings, fake: FakeQemu) -> None:
        super().__init__(spec, settings)
        self._fake = fake

    def _accept(self) -> None:
        super()._accept()
        self._fake.connections += 1

    def _take(self, value: Message) -> None:
        self._fake.received.append(value)
        what = self._fake.hook(self._fake, value) if self._fake.hook else None
        if what is Do.CUT_BEFORE:
            self._hang_up()
            return
        held, self._holds = self._holds, self._holds or what is not None
        if isinstance(what, bytes):
            self._held.append(what)
        if what is Do.MUTE:
            self._muted.append(value.get("id"))
        super()._take(value)
        if what is Do.CUT_AFTER:
            self._hang_up()
        if what is not None:
            self._say_all()
            self._let_go(held)

    def _let_go(self, held: bool) -> None:
        """What was held is said in one write, unless a file is being written that it must wait for."""
        self._holds = held
        if not held:
            self._send(b"".join(self._held))
            self._held.clear()

    def _written(self, job: Any) -> None:
        if self._files.finished:
            self._cut_short()
        super()._written(job)

    def _cut_short(self) -> None:
        """Once, before anybody may say that the file is complete."""
        missing, self._fake.cut_short = self._fake.cut_short, 0
        for fd in self._files.owned if missing else ():
            if stat.S_ISREG((status := os.fstat(fd)).st_mode):
                os.ftruncate(fd, status.st_size - missing)


def ready(*which: socket.socket | int, timeout: float | None = None) -> list[socket.socket | int]:
    """Those that can be read from."""
    readable: list[Any] = select.select(which, [], [], timeout)[0]
    return readable


# --- servers that are no QEMU ------------------------------------------------------------------------------------------


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(1)
    return sock


GREETING = b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}\r\n'


@contextmanager
def saying(path: Path, *data: bytes, hang_up: bool = True, accepts: bool = True) -> Iterator[Address]:
    """A server that says its pieces to each client, one before it heard anything and one after each time that it did."""
    with listening(path) as listener:
        wake, waker = os.pipe()
        thread = threading.Thread(target=_say, args=(listener, data, hang_up, wake))
        if accepts:
            thread.start()
        try:
            yield Address("unix", path=str(path))
        finally:
            os.close(waker)
            if accepts:
                thread.join()
            os.close(wake)


def _say(listener: socket.socket, data: tuple[bytes, ...], hang_up: bool, wake: int) -> None:
    while listener in ready(listener, wake):
        client, _ = listener.accept()
        with client, suppress(ConnectionError):
            for number, piece in enumerate(data):
                if number and (client not in ready(client, wake) or not client.recv(1 << 16)):
                    break
                client.sendall(piece)
            else:
                if not hang_up:
                    ready(client, wake)
