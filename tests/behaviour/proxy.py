"""What stands between vmtui and a monitor, and breaks."""

import re
import socket
from pathlib import Path

from tests.behaviour.relay import Relay


class Proxy(Relay):
    """Breaks at chosen words of the client's, once at each.

    Either QEMU never gets the command that holds the word, or it does and the client never gets the reply.
    """

    def __init__(self, door: Path, monitor: Path, *words: str, command_lost: bool) -> None:
        super().__init__(door, monitor)
        self.left = list(words)
        """Those that it did not break at yet."""
        self._command_lost = command_lost

    def _pass_on(self, data: bytes, files: list[int], target: socket.socket, qemu: socket.socket) -> bool:
        breaks = target is qemu and self._is_due(data)
        if data and not (breaks and self._command_lost):
            socket.send_fds(target, [data], files)
        if breaks and not self._command_lost:
            self._await_reply(qemu)
        return not breaks

    def _is_due(self, data: bytes) -> bool:
        said = [word for word in self.left if f'"{word}"'.encode() in data]
        for word in said:
            self.left.remove(word)
        return bool(said)

    def _await_reply(self, qemu: socket.socket) -> None:
        said = b""
        while not re.search(rb'^\{"(return|error)"|"id": *"[^"]*"\}', said, re.MULTILINE):
            said += qemu.recv(1 << 16)
