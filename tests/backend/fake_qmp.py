"""A QMP server on a real unix socket with the twin behind it: what a client sees is bytes and descriptors, as from QEMU.

Like QEMU it takes a stream of JSON values, not lines; serves one client and lets the next one wait without a greeting;
and writes what it saves to the descriptor that it was handed. A thread of its own serves it, so that the client may be
an event loop, `main()` or another process.
"""

import fcntl
import json
import lzma
import os
import select
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.core.recorded import DATA, schema
from vmtui.backend.core.sim import STOCK_10_0, FaultyWire, FdKind, Profile, Scenario, SimulatedVm, WireFault
from vmtui.backend.discovery import Address, Peer, process
from vmtui.backend.schemas import raw_schema

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
        saved: bytes | None = None,
    ) -> None:
        """`speed`: seconds of the twin for each of ours. `saved`: what it writes as the guest's state."""
        self.path = path
        self.vm = SimulatedVm(
            profile, scenario=scenario or Scenario(), ram=16 << 20, name=name, schema=schema(profile.name)
        )
        self.before = dict(self.vm.parameters), self.vm.capabilities
        self.received: list[Message] = []
        """Every command, in order."""
        self.connections = 0
        self._wire = FaultyWire(self.vm, *faults)
        self._hook = hook
        self._speed = speed
        self._saved = stream() if saved is None else saved
        self._client: socket.socket | None = None
        self._buffer = b""
        self._fds: list[int] = []
        self._passed: list[int] = []
        self._body: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._listener = listening(self.path)
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._waker)
        self._thread.join()
        os.close(self._wake)
        for fd in self._fds:
            os.close(fd)
        if self._body is not None:
            self._body.kill()
            self._body.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def address(self) -> Address:
        return Address("unix", path=str(self.path))

    def body(self) -> Peer:
        """A process that ends when the twin does: what a QEMU is to its host."""
        self._body = subprocess.Popen(("sleep", "1000"))
        peer = process(self._body.pid)
        assert peer is not None
        return peer

    def commands(self, *names: str) -> list[Message]:
        return [each for each in self.received if each.get("execute") in names]

    @property
    def as_before(self) -> bool:
        """The guest runs, its card is plugged, its settings are what they were: asked of the twin, not of vmtui."""
        settings = dict(self.vm.parameters), self.vm.capabilities
        return self.vm.runstate == "running" and self.vm.card == {"primary0": "plugged"} and settings == self.before

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self.vm.alive and self._turn():
                pass
            self._write_out()
            self._die()
        except BaseException as error:  # noqa: BLE001 - shown by the thread that reads the result
            self._failure = error
        finally:
            self._hang_up()
            self._listener.close()

    def _turn(self) -> bool:
        due = self._wire.next_at()
        timeout = None if due is None else max(due - self._now(), 0) / self._speed
        readable = ready(self._client or self._listener, self._wake, timeout=timeout)
        self._wire.advance(self._now())
        if self._listener in readable:
            self._client, _ = self._listener.accept()
            self._buffer = b""
            self.connections += 1
            self._wire.connect(self._now())
        elif self._client is not None and self._client in readable:
            self._receive(self._client)
        self._write_out()
        return self._wake not in readable

    def _now(self) -> float:
        return (time.monotonic() - self._began) * self._speed

    def _receive(self, client: socket.socket) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(client, 1 << 16, 8)
        except ConnectionError:
            data, fds = b"", []
        self._fds += fds
        self._passed += fds
        self._buffer += data
        if not data:
            self._hang_up()
        for message in self._messages():
            self._take(message)

    def _messages(self) -> Iterator[Message]:
        """The whole JSON values that have come so far; what is left of the next one waits."""
        while self._client is not None:
            try:
                text = self._buffer.decode().lstrip()
                message, end = json.JSONDecoder().raw_decode(text)
            except (UnicodeDecodeError, json.JSONDecodeError):
                return
            self._buffer = text[end:].encode()
            yield message

    def _take(self, message: Message) -> None:
        self.received.append(message)
        what = self._hook(self, message) if self._hook else None
        if what is Do.CUT_BEFORE:
            self._hang_up()
            return
        if message["execute"] == "query-qmp-schema" and what is None:
            identity = json.dumps(message["id"]).encode()
            self._write_out(b'{"id": %b, "return": %b}\r\n' % (identity, raw_schema(self.vm.profile.name)))
            return
        number = self._passed.pop(0) if self._passed and message["execute"] in ("getfd", "add-fd") else None
        kind = FdKind.PIPE if number is None else kind_of(number)
        self._wire.receive(message, self._now(), number, kind)
        if what is Do.CUT_AFTER:
            self._hang_up()
        elif what is Do.MUTE:
            self._write_out(without=message.get("id"))
        else:
            self._write_out(what if isinstance(what, bytes) else b"")

    def _write_out(self, first: bytes = b"", without: object = None) -> None:
        """What QEMU does to the file is done before it says so."""
        self._write_streams()
        said = [each for each in self._wire.output() if without is None or each.get("id") != without]
        data = first + b"".join(json.dumps(each).encode() + b"\r\n" for each in said)
        if self._client is None:
            return
        with suppress(ConnectionError):
            self._client.sendall(data)
        if not self._wire.connected:
            self._hang_up()

    def _write_streams(self) -> None:
        for write in self.vm.writes():
            if write.last and write.kind == "stream" and isinstance(write.target, int):
                whole = self.vm.migration_status == "completed" or self.vm.runstate == "finish-migrate"
                if kind_of(write.target) is FdKind.FILE:
                    os.write(write.target, self._saved if whole else self._saved[:1000])

    def _die(self) -> None:
        if not self.vm.alive and self._body is not None:
            self._body.kill()
            self._body.wait()

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
            self._passed = []  # QEMU closes what no command has taken
            self._wire.disconnect(self._now())


def ready(*which: socket.socket | int, timeout: float | None = None) -> list[socket.socket | int]:
    """Those that can be read from."""
    readable: list[Any] = select.select(which, [], [], timeout)[0]
    return readable


def kind_of(fd: int) -> FdKind:
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FdKind.FILE if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY else FdKind.FILE_RDWR
    poll = select.poll()
    poll.register(fd, 0)
    return FdKind.BROKEN if any(events & select.POLLERR for _fd, events in poll.poll(0)) else FdKind.PIPE


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
