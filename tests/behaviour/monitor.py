"""A QMP connection of a test's own, on the lab guest's second monitor: to look, while vmtui holds the first."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Refused(Exception):
    """QEMU answered with an error; the text is its description."""


class Monitor:
    """`with Monitor(vm.monitor) as qemu: qemu("query-status")`. Blocking, with a time limit on everything."""

    def __init__(self, path: Path, *, seconds: float = 30.0) -> None:
        self.events: list[dict[str, Any]] = []
        """Every event so far, as QEMU sent it."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(seconds)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        self._next()  # the greeting
        self("qmp_capabilities")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._lines.close()
        self._socket.close()

    def __call__(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """The command's return value. Raises Refused; OSError if QEMU does not answer or is gone."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": dict(arguments or {})}).encode())
        while True:
            message = self._next()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise Refused(message["error"]["desc"])

    def wait_event(self, name: str, **data: Any) -> dict[str, Any]:
        """The first event of that name whose data has these values, past ones included."""
        looked = 0
        while True:
            for event in self.events[looked:]:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    return event
            looked = len(self.events)
            self._next()

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("QEMU closed the monitor")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message
