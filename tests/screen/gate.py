"""What stands between vmtui and a monitor, and lets a command wait: so long a phase lasts, and can be seen."""

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.behaviour.relay import Relay


class Held(NamedTuple):
    """The first of vmtui's messages with `command` in it that comes after QEMU has said `after`."""

    command: str
    after: str = ""


class Gate(Relay):
    """`close(held)`, do what leads there, `await_held()`: QEMU has not heard the command yet. `open()` hands it over."""

    def __init__(self, door: Path, monitor: Path) -> None:
        super().__init__(door, monitor)
        self._door = door
        self._wanted: Held | None = None
        self._heard = False
        self._holds, self._may_go = threading.Event(), threading.Event()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.open()
        super().__exit__(kind, error, where)
        self._door.unlink()

    def close(self, held: Held) -> None:
        self._holds.clear()
        self._may_go.clear()
        self._heard = not held.after
        self._wanted = held

    def await_held(self, seconds: float = 30.0) -> None:
        assert self._holds.wait(seconds), f"not within {seconds:g} s: vmtui sends {self._wanted}"

    def open(self) -> None:
        self._wanted = None
        self._may_go.set()

    def _pass_on(self, data: bytes, files: list[int], target: socket.socket, qemu: socket.socket) -> bool:
        if target is qemu:
            self._wait_with(data)
        elif self._wanted is not None and self._wanted.after.encode() in data:
            self._heard = True
        if data:
            socket.send_fds(target, [data], files)
        return True

    def _wait_with(self, data: bytes) -> None:
        if self._wanted is not None and self._heard and self._wanted.command.encode() in data:
            self._holds.set()
            self._may_go.wait(30.0)
