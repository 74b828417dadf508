"""How does what a simulated QEMU writes get into a real file?

The twin says how many bytes it has written; this turns them into the bytes of a file that is whole in the end, and writes
them, in a thread. A pipe that nobody empties holds no thread: it is tried again.
"""

import fcntl
import os
import select
import stat
from collections import deque
from contextlib import suppress

from vmtui.backend.core.sim import FdKind
from vmtui.backend.core.sim.savefile import BATCH, PAGE, RECORD, SaveFile, dump_ends

PIPE_PATIENCE = 50
"""Milliseconds that one call waits for a reader."""
BLANK = bytes(1 << 20)


def kind_of(fd: int) -> FdKind:
    """What a descriptor that a client passed is open on. Raises OSError."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FdKind.FILE if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY else FdKind.FILE_RDWR
    poll = select.poll()
    poll.register(fd, 0)
    return FdKind.BROKEN if any(events & select.POLLERR for _fd, events in poll.poll(0)) else FdKind.PIPE


class Target:
    """An open file or pipe. Where a path is given, it is opened when first written to, as QEMU does."""

    def __init__(self, where: int | str, mode: int) -> None:
        self._fd = where if isinstance(where, int) else -1
        self._path = where if isinstance(where, str) else ""
        self._mode = mode
        self._left: deque[bytes] = deque()

    @property
    def behind(self) -> bool:
        return bool(self._left)

    def add(self, data: bytes) -> None:
        self._left.append(data)

    def put(self) -> None:
        """Write what is there, or as much as a pipe takes. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self._mode)
        while self._left:
            data = self._left[0]
            written = self._write(data)
            if written == len(data):
                self._left.popleft()
            elif written:
                self._left[0] = data[written:]
            elif not self._wait():
                return

    def _write(self, data: bytes) -> int:
        """A regular file takes it all, or raises; of a pipe nobody must wait for the reader."""
        if self._path or stat.S_ISREG(os.fstat(self._fd).st_mode):
            return os.write(self._fd, data)
        os.set_blocking(self._fd, False)
        with suppress(BlockingIOError):
            return os.write(self._fd, data[:65536])
        return 0

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(PIPE_PATIENCE))

    def close(self) -> None:
        """Only what this opened: a client's descriptor is closed by whoever took it."""
        self._left.clear()
        if self._path and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class File:
    """What goes into a target. `sent` and `finish` say what is due; `work` writes it, in a thread."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.finished = False
        """Nothing more will be due."""

    def sent(self, size: int) -> None:
        """The twin says that it has written so many bytes more."""

    def finish(self, runstate: str, left: int) -> None:
        """The VM stands still, and `left` bytes are all that is missing."""

    @property
    def due(self) -> bool:
        """Is there something to write?"""
        return self.target.behind

    def work(self) -> None:
        """Write what is due, or as much as a pipe takes; then it is to be called again. Raises OSError."""
        self.target.put()
        while not self.target.behind and (piece := self._next()):
            self.target.add(piece)
            self.target.put()

    def _next(self) -> bytes:
        return b""


class StreamFile(File):
    """A VM's state."""

    def __init__(self, target: Target, save: SaveFile, share: float) -> None:
        """`share`: bytes to be written for each that the twin says it has written."""
        super().__init__(target)
        self._save = save
        self._share = share
        self._sent = self._pages = 0
        self._parts: list[bytes] = [save.head()]
        self._runstate = ""

    def sent(self, size: int) -> None:
        self._sent += size

    def finish(self, runstate: str, left: int) -> None:
        self._sent += left
        self._runstate = runstate
        self.finished = True

    @property
    def due(self) -> bool:
        return super().due or bool(self._parts) or bool(self._runstate) or self._pages_due > 0

    @property
    def _pages_due(self) -> int:
        return int(self._sent * self._share) // RECORD - self._pages

    def _next(self) -> bytes:
        if self._parts:
            return self._parts.pop()
        due = self._pages_due
        if due > 0:
            count = min(due, BATCH)
            self._pages += count
            return self._save.pages(self._pages - count, count)
        if not self._runstate:
            return b""
        runstate, self._runstate = self._runstate, ""
        return self._save.tail(runstate, self._save.ram // PAGE - self._pages)


class DumpFile(File):
    """A memory dump: what its format begins and ends with, and nothing between."""

    def __init__(self, target: Target, dump_format: str, total: int, share: float) -> None:
        super().__init__(target)
        self._total, self._share = total, share
        self._sent = self._written = 0
        self._size = int(total * share)
        self._head, self._tail = dump_ends(dump_format, self._size)

    def sent(self, size: int) -> None:
        self._sent += size

    def finish(self, runstate: str, left: int) -> None:
        self._sent = self._total
        self.finished = True

    @property
    def _bytes_due(self) -> int:
        return int(self._sent * self._share) - self._written

    @property
    def due(self) -> bool:
        return super().due or self._bytes_due > 0

    def _next(self) -> bytes:
        due = self._bytes_due
        piece = self._piece(max(due, 0), self._size - len(self._tail) - self._written)
        self._written += len(piece)
        return piece

    def _piece(self, due: int, before_tail: int) -> bytes:
        head, self._head = self._head[:due], self._head[due:]
        if head:
            return head
        if before_tail > 0:
            return BLANK[: min(due, before_tail)]
        tail, self._tail = self._tail[:due], self._tail[due:]
        return tail
