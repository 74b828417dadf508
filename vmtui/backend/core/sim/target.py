"""Where does a stream go, and who would notice if nobody read it?"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class FdKind(StrEnum):
    """What is a passed file descriptor open on?"""

    PIPE = "pipe"
    BROKEN = "broken"
    """The write end of a pipe whose read end is closed."""
    FILE = "file"
    """A regular file, opened O_WRONLY."""
    FILE_RDWR = "file-rdwr"
    """A regular file, opened O_RDWR: QEMU's fd sets do not hand it out for writing."""


@dataclass(frozen=True, slots=True)
class Fd:
    """A file descriptor a client passed."""

    number: int
    """Opaque to the twin: handed back in `Write`."""
    kind: FdKind = FdKind.PIPE


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes QEMU has written since the last time it was asked, for somebody who can really write them."""

    scheme: str
    """fd, file or exec."""
    target: int | str
    """The file descriptor's number, the path, or the command."""
    size: int
    """Bytes."""
    kind: str
    """stream or dump."""
    last: bool
    """QEMU closes the target after this."""


@dataclass(frozen=True, slots=True)
class Target:
    """An open stream."""

    scheme: str
    target: int | str
    limit: float | None = None
    """Bytes after which writing fails."""
    error: str = "Broken pipe"
    """strerror of that failure."""

    @property
    def failure(self) -> str:
        """error-desc, as QEMU words it."""
        return f"Unable to write to {_NOUNS.get(self.scheme, 'file')}: {self.error}"

    def failing(self, error: str) -> "Target":
        return replace(self, limit=0.0, error=error)


_NOUNS = {"exec": "command", "unix": "socket", "tcp": "socket"}
_HEAD = re.compile(r"head -c (\d+)")
_PIPE_BUFFER = 65536


def exec_target(command: str) -> Target:
    """The few commands that tests and recordings use; any other swallows everything."""
    if command == "false":
        return Target("exec", command, limit=0.0)
    if head := _HEAD.match(command):
        return Target("exec", command, limit=float(head[1]) + _PIPE_BUFFER)
    return Target("exec", command)


def fd_target(fd: Fd) -> Target:
    return Target("fd", fd.number, limit=0.0 if fd.kind is FdKind.BROKEN else None)
