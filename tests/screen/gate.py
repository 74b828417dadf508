"""What stands between vmtui and a monitor, and lets a command wait: so long a phase lasts, and can be seen."""

import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Held(NamedTuple):
    """The first of vmtui's messages with `command` in it that comes after QEMU has said `after`."""

    command: str
    after: str = ""


class Gate:
    """A socket that leads to a VM's monitor, open files and all.

    `close(held)`, do what leads there, `await_held()`: QEMU has not heard the command yet. `open()` hands it over.
    """

    def __init__(self, door: Path, monitor: Path) -> None:
        self._door, self._monitor = door, monitor
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(door))
        self._server.listen()
        self._wanted: Held | None = None
        self._heard = False
        self._holds, self._may_go = threading.Event(), threading.Event()
        self._serving = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.open()
        self._server.shutdown(socket.SHUT_RDWR)  # ends accept
        self._serving.join()
        self._server.close()
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

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with client, socket.socket(socket.AF_UNIX) as qemu:
                    qemu.connect(str(self._monitor))
                    while self._carry(client, qemu):
                        pass

    def _carry(self, client: socket.socket, qemu: socket.socket) -> bool:
        """What comes next, to the other side; whether the connection goes on."""
        for source, target in ((client, qemu), (qemu, client)):
            if source in select.select([client, qemu], [], [])[0]:
                data, files, _flags, _address = socket.recv_fds(source, 1 << 20, 4)
                if source is client:
                    self._wait_with(data)
                elif self._wanted is not None and self._wanted.after.encode() in data:
                    self._heard = True
                if data:
                    socket.send_fds(target, [data], files)
                for file in files:
                    os.close(file)
                if not data:
                    return False
        return True

    def _wait_with(self, data: bytes) -> None:
        if self._wanted is not None and self._heard and self._wanted.command.encode() in data:
            self._holds.set()
            self._may_go.wait(30.0)
