"""The plainest QMP client there can be: one socket, one command at a time, nothing of vmtui's.

It drives the contenders by hand, and it is the observer that all of them are measured with.
"""

import array
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 120.0
"""Seconds for any reply or event: the slowest recipe takes a tenth of it."""


class BenchError(Exception):
    """Something that is measured did not do its work; the text says what."""


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    at: float
    """Seconds since 1970, by QEMU's own clock: when it happened, not when somebody read of it."""
    data: dict[str, Any]


class Qmp:
    """One monitor. `events` holds all that were read, in order."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, BenchError."""
        self.events: list[Event] = []
        self._unread = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT)
        self._socket.connect(str(path))
        self._message()  # the greeting
        self.execute("qmp_capabilities")

    def close(self) -> None:
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None, fd: int | None = None) -> Any:
        """What the command returns. Raises BenchError if QEMU refuses it."""
        reply = self._ask({"execute": command, **({"arguments": arguments} if arguments else {})}, fd)
        if "error" in reply:
            raise BenchError(f"QEMU refused {command}: {reply['error']['desc']}")
        return reply["return"]

    def accepts(self, command: str) -> bool:
        """Send it; whether QEMU did it."""
        return "error" not in self._ask({"execute": command}, None)

    def wait(self, holds: Callable[[Event], bool], since: int = 0) -> Event:
        """The first such event, of those from number `since` on. Raises BenchError if none comes."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            for event in self.events[since:]:
                if holds(event):
                    return event
            since = len(self.events)
            self._take(self._message())
        raise BenchError("QEMU did not send the event that was waited for")

    def catch_up(self) -> int:
        """Read all events up to now; returns how many there are."""
        self.execute("query-status")
        return len(self.events)

    def _ask(self, message: dict[str, Any], fd: int | None) -> dict[str, Any]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self._socket.sendmsg([json.dumps(message).encode()], rights)
        while self._take(reply := self._message()):
            pass
        return reply

    def _take(self, message: dict[str, Any]) -> bool:
        if "event" not in message:
            return False
        stamp = message["timestamp"]
        at = stamp["seconds"] + stamp["microseconds"] / 1e6
        self.events.append(Event(message["event"], at, message.get("data", {})))
        return True

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            data = self._socket.recv(1 << 18)
            if not data:
                raise BenchError("QEMU closed its monitor")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def migration(status: str) -> Callable[[Event], bool]:
    return lambda event: event.name == "MIGRATION" and event.data.get("status") == status
