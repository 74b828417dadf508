"""A socket that leads to a VM's monitor, open files and all: what stands between may see, hold up or break what passes."""

import os
import select
import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay(ABC):
    """One client at a time. `with Relay(door, monitor):` serves until the block ends."""

    def __init__(self, door: Path, monitor: Path) -> None:
        self._monitor = monitor
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(door))
        self._server.listen()
        self._serving = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # ends accept
        self._serving.join()
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with client, socket.socket(socket.AF_UNIX) as qemu:
                    qemu.connect(str(self._monitor))
                    while self._carry(client, qemu):
                        pass

    def _carry(self, client: socket.socket, qemu: socket.socket) -> bool:
        """What comes next, to the other side; whether the connection is to go on."""
        for source, target in ((client, qemu), (qemu, client)):
            if source in select.select([client, qemu], [], [])[0]:
                data, files, _flags, _address = socket.recv_fds(source, 1 << 20, 4)
                goes_on = self._pass_on(data, files, target, qemu)
                for file in files:
                    os.close(file)
                if not (data and goes_on):
                    return False
        return True

    @abstractmethod
    def _pass_on(self, data: bytes, files: list[int], target: socket.socket, qemu: socket.socket) -> bool:
        """Send it to `target`, which is `qemu` where it comes from the client; whether the connection is to go on.

        `data` is empty at the connection's end.
        """
