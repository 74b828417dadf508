"""What stands between vmtui and a monitor, and breaks."""

import os
import re
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Proxy:
    """A socket that leads to a VM's monitor, open files and all, and breaks at chosen words of the client's, once at each.

    Either QEMU never gets the command that holds the word, or it does and the client never gets the reply.
    """

    def __init__(self, door: Path, monitor: Path, *words: str, command_lost: bool) -> None:
        self.left = list(words)
        """Those that it did not break at yet."""
        self._monitor = monitor
        self._command_lost = command_lost
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
                breaks = source is client and self._is_due(data)
                if data and not (breaks and self._command_lost):
                    socket.send_fds(target, [data], files)
                for file in files:
                    os.close(file)
                if breaks and not self._command_lost:
                    self._await_reply(qemu)
                if breaks or not data:
                    return False
        return True

    def _is_due(self, data: bytes) -> bool:
        said = [word for word in self.left if f'"{word}"'.encode() in data]
        for word in said:
            self.left.remove(word)
        return bool(said)

    def _await_reply(self, qemu: socket.socket) -> None:
        said = b""
        while not re.search(rb'^\{"(return|error)"|"id": *"[^"]*"\}', said, re.MULTILINE):
            said += qemu.recv(1 << 16)
