"""A process is its pid and its start time: a pid alone may by now be somebody else's."""

import os
import select
import signal
from pathlib import Path


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (/proc/PID/stat); None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def end(pid: int, start: int, *, seconds: float = 10.0) -> bool:
    """SIGTERM, then SIGKILL after so many seconds. True once it is gone, at once if it was.

    The start time is checked with the process held by a pidfd: the pid cannot change hands in between.
    """
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if started(pid) != start:
            return True
        return _ended_by(held, signal.SIGTERM, seconds) or _ended_by(held, signal.SIGKILL, seconds)
    finally:
        os.close(held)


def _ended_by(held: int, number: signal.Signals, seconds: float) -> bool:
    try:
        signal.pidfd_send_signal(held, number)
    except ProcessLookupError:
        return True
    return bool(select.select([held], [], [], seconds)[0])
