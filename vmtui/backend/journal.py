"""What happened, durably: every event in, action out and phase, as NDJSON; and how is it read again?

A journal's first line says what it is. `event` lines hold the very events that the reducer was given: playing them through
`workflow.step` again gives the same states. The other lines are for people, and for a vmtui that goes on with it
(`backend/unfinished`): that one writes into the same journal, so that it tells the whole story.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from vmtui.backend.config import journal_dir, private_directory, sync_directory
from vmtui.backend.core.commands import Action
from vmtui.backend.core.errors import StoreError, UsageError
from vmtui.backend.core.events import AnyEvent
from vmtui.backend.core.model import Vm
from vmtui.backend.core.text import printable

VERSION = 1
LINE_LIMIT = 16 << 20
"""Bytes of one line that a reader takes: no reply is as long."""
END_LINE = 4096
"""Bytes at the end of a journal that hold its last line, if that is its end."""
KEPT = 500
KEPT_BYTES = 512 << 20
"""Of journals that came to their end, so many and so much are kept; others are always."""


class Head(msgspec.Struct, frozen=True, tag_field="kind", tag="journal"):
    version: int
    vmtui: str
    key: str
    wall: float
    boot: str = ""
    """The kernel's boot_id: times of another boot are of another clock."""


class FactsLine(msgspec.Struct, frozen=True, tag_field="kind", tag="facts"):
    """What was known of the VM when the workflow began."""

    t: float
    vm: Vm


class EventLine(msgspec.Struct, frozen=True, tag_field="kind", tag="event"):
    t: float
    event: AnyEvent


class ActionLine(msgspec.Struct, frozen=True, tag_field="kind", tag="action"):
    t: float
    action: Action


class PhaseLine(msgspec.Struct, frozen=True, tag_field="kind", tag="phase"):
    t: float
    phase: str


class BaselineLine(msgspec.Struct, frozen=True, tag_field="kind", tag="baseline"):
    """The intent: what is about to be changed, and what it was before."""

    t: float
    options: Any
    baseline: Any
    inode: int | None = None
    """Of the file that was made for the state: by it the file is known again."""


class EndLine(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    t: float
    outcome: str


Line = Head | FactsLine | EventLine | ActionLine | PhaseLine | BaselineLine | EndLine
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


class Journal:
    """Lines wait in memory until something is about to be changed: then `commit` puts them, and the intent, on the disk."""

    def __init__(self, head: Head) -> None:
        self.path: Path | None = None
        self._waiting: list[bytes] = [_line(head)]
        self._fd = -1
        self._closed = False
        self._one_at_a_time = threading.Lock()
        """`commit` runs in a thread, and events do not wait for it: the head must stay the first line."""

    @classmethod
    def reopened(cls, path: Path) -> "Journal":
        """To go on with; half a line at its end is cut off. Raises StoreError."""
        journal = cls.__new__(cls)
        journal.path, journal._waiting, journal._one_at_a_time = path, [], threading.Lock()
        journal._closed = False
        try:
            journal._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.ftruncate(journal._fd, path.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise StoreError(f"cannot write {printable(str(path), 300)}: {os.strerror(error.errno or 0)}") from error
        return journal

    def write(self, line: Line) -> None:
        """Add a line. A journal that cannot be written any more never stops what it tells about."""
        with self._one_at_a_time:
            if self._closed:
                return
            if not self.committed:
                self._waiting.append(_line(line))
            elif self._fd >= 0:
                try:
                    _put(self._fd, _line(line))
                except OSError:
                    self._end()

    def commit(self, name: str) -> None:
        """Make the file, and sync it and its name. Raises StoreError: without it nothing may be changed."""
        with self._one_at_a_time:
            try:
                if self.committed:
                    os.fsync(self._fd)
                    return
                directory = private_directory(journal_dir())
                path = self._make(directory, f"{time.strftime('%Y%m%dT%H%M%S')}-{_safe(name)}-{os.getpid()}")
                self._fill(path)
                sync_directory(directory)
            except OSError as error:
                self._end()
                reason = os.strerror(error.errno or 0)
                raise StoreError(f"cannot write the journal in {journal_dir()}: {reason}") from error
            self.path = path
            self._waiting.clear()

    def _make(self, directory: Path, stem: str) -> Path:
        """Two VMs of one name may be saved within one second: the second journal gets a number."""
        names = (f"{stem}{suffix}.ndjson" for suffix in ("", *(f".{number}" for number in range(2, 100))))
        for path in (directory / name for name in names):
            with suppress(FileExistsError):
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
                return path
        raise FileExistsError(errno.EEXIST, "no name is free")

    def _fill(self, path: Path) -> None:
        try:
            _put(self._fd, b"".join(self._waiting))
            os.fsync(self._fd)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    @property
    def committed(self) -> bool:
        return self.path is not None

    def close(self) -> None:
        with self._one_at_a_time:
            self._end()
            self._waiting.clear()
            self._closed = True

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _put(fd: int, data: bytes) -> None:
    """All of it: a full disk takes a part of a write, and says so only at the next."""
    while data:
        data = data[os.write(fd, data) :]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80] or "vm"


def _line(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


def tidy() -> None:
    """Remove the oldest journals that came to their end, beyond what is kept. Raises nothing."""
    with suppress(OSError):
        paths = sorted(journal_dir().glob("*.ndjson"), reverse=True)  # a name begins with the time
        sizes = list(accumulate(path.stat().st_size for path in paths))
        for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
            if (number >= KEPT or size > KEPT_BYTES) and has_ended(path):
                path.unlink(missing_ok=True)


def has_ended(path: Path) -> bool:
    """A look at its last line: most journals have come to their end, and some are long. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - END_LINE, 0))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    with suppress(msgspec.MsgspecError):
        msgspec.json.decode(last, type=EndLine)
        return True
    return False


def read_journal(path: Path) -> Iterator[Line]:
    """The lines of a journal, one at a time. Raises UsageError with one clear line for anything that is none."""
    try:
        with path.open("rb") as file:
            yield from _lines(file, path)
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(path), 300)}: {os.strerror(error.errno or 0)}") from error


def _lines(file: Any, path: Path) -> Iterator[Line]:
    for number, raw in enumerate(iter(lambda: file.readline(LINE_LIMIT), b""), start=1):
        if not raw.endswith(b"\n"):
            return  # the last line of a journal whose writer died
        try:
            line: Line = _decoder.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            shown = printable(str(path), 300)
            raise UsageError(f"{shown} is no journal of vmtui: line {number}: {printable(str(error), 200)}") from error
        if number == 1 and not (isinstance(line, Head) and line.version == VERSION):
            raise UsageError(f"{printable(str(path), 300)} is no journal that this version of vmtui reads")
        yield line
