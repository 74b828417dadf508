"""What can happen to a workflow: the only way in for facts, answers, time and wishes.

Every event carries `at`, seconds of the engine's monotonic clock. They are tagged structs: a journal of them can be read
back and played through the same reducer.
"""

from typing import Any

import msgspec

from vmtui.backend.core.commands import Learned
from vmtui.backend.core.model import Link, Options


class Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower):
    at: float


class Connected(Event, frozen=True):
    """A monitor greeted us and took our capabilities: everything known about the VM must be asked anew."""

    version: tuple[int, int, int]
    package: str
    fd_passing: bool
    pid: int
    argv: tuple[str, ...]


class Disconnected(Event, frozen=True):
    """The monitor's connection is not there; nobody knows what became of a command that was under way."""

    link: Link
    why: str


class QmpEvent(Event, frozen=True):
    """An asynchronous event of QEMU, by its name in the QEMU reference."""

    name: str
    data: dict[str, Any]


class Answered(Event, frozen=True):
    """The outstanding action was done; `learned` is what its reply says, if it says anything."""

    learned: Learned | None = None


class Refused(Event, frozen=True):
    """The outstanding action was refused, in the words of QEMU or of the operating system."""

    text: str
    error_class: str = "GenericError"


class Unknown(Event, frozen=True):
    """Nobody knows whether the outstanding action was done: no reply in time."""

    why: str


class Tick(Event, frozen=True):
    """Time passed and nothing happened."""


class Wish(Event, frozen=True):
    """A front end asks for a workflow."""

    options: Options
    wall: float = 0.0
    """Seconds since 1970."""


class Cancel(Event, frozen=True):
    """A front end asks for the workflow to be undone."""

    text: str = "cancelled by the user"


AnyEvent = Connected | Disconnected | QmpEvent | Answered | Refused | Unknown | Tick | Wish | Cancel
