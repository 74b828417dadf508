"""What is done to files, in order; and the n-th of it fails, once or, as in a crash, with all that would follow."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WATCHED = ("open", "fchmod", "fsync", "link", "rename", "unlink", "write")


class Syscalls:
    """What code under test asked of the operating system; `nth` fails with `number`."""

    def __init__(self, nth: int = 0, *, for_ever: bool = False, number: int = errno.EIO) -> None:
        self.nth, self.for_ever, self.number = nth, for_ever, number
        self.seen: list[str] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *more: Any, **named: Any) -> Any:
            shown = _shown(first)
            if shown is None:
                return real(first, *more, **named)
            self.seen.append(f"{name} {shown}")
            count = len(self.seen)
            if count == self.nth or (self.for_ever and self.nth and count > self.nth):
                raise OSError(self.number, os.strerror(self.number))
            return real(first, *more, **named)

        return call


def _shown(first: Any) -> str | None:
    """The file's name; None for what is none of ours (pytest's own)."""
    path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else Path(os.fsdecode(first))
    if path.is_dir():
        return "its directory"
    return path.name if "vm" in path.name else None


@contextmanager
def watching(calls: Syscalls) -> Iterator[Syscalls]:
    with pytest.MonkeyPatch.context() as patch:
        for name in WATCHED:
            patch.setattr(os, name, calls.wrap(name, getattr(os, name)))
        yield calls
