"""A terminal that shows nothing and measures: a program runs in it, and what it writes is counted and searched."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tools.measure.qmp import BenchError

LIMIT = 60.0


class Terminal:
    """`with Terminal(command, 80, 24) as terminal: terminal.until(b"Quit")`."""

    def __init__(self, command: Sequence[str], columns: int, rows: int, more: Mapping[str, str] | None = None) -> None:
        self.began = time.monotonic()
        self.written = 0
        """Bytes that the program has written so far."""
        self._environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "", **(more or {})}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(command[0], list(command), self._environment)
            finally:
                os._exit(127)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.set_blocking(self._fd, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def until(self, text: bytes, limit: float = LIMIT) -> float:
        """Read until `text` was written; the time at which it had come. Raises BenchError."""
        seen, deadline = b"", time.monotonic() + limit
        while time.monotonic() < deadline:
            seen = (seen + self._read(deadline - time.monotonic()))[-(1 << 16) :]
            if text in seen:
                return time.monotonic()
        raise BenchError(f"the program did not show {text!r}")

    def during(self, seconds: float) -> int:
        """Bytes that it writes in that time."""
        before, deadline = self.written, time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
        return self.written - before

    def _read(self, seconds: float) -> bytes:
        if not select.select([self._fd], [], [], max(seconds, 0))[0]:
            return b""
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError as error:
            raise BenchError("the program has ended") from error
        self.written += len(data)
        return data


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - no file, but a question to the kernel
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
