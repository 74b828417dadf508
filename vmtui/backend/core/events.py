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
    start_time: int = 0
    """When QEMU's process began, in clock ticks since boot: with the pid it names the process for good. 0 = not known."""


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


class Pinged(Event, frozen=True):
    """What became of a question to the guest's agent."""

    id: int
    answered: bool
    why_not: str = ""
    """Why it could not be asked at all."""


class Wish(Event, frozen=True):
    """A front end asks for a workflow."""

    options: Options
    wall: float = 0.0
    """Seconds since 1970."""


class Cancel(Event, frozen=True):
    """A front end asks for the workflow to be undone."""

    text: str = "cancelled by the user"
    dump: bool = False
    """Then the guest's memory is to be dumped."""


class Restarted(Event, frozen=True):
    """A new engine goes on with this journal: the one before it was ended, at a moment that nobody knows.

    From here on `at` may be of another boot's clock, and smaller than before.
    """

    rebooted: bool = False
    """The host was started anew since: no QEMU of then is there any more."""
    file: bool = False
    """The file that was reserved is there, under any of its names."""
    published: bool = False
    """It is a snapshot: under its final name, with its manifest."""


class Tune(Event, frozen=True):
    """A front end asks for migration parameters or capabilities to be set, by their names in the QEMU reference."""

    parameters: dict[str, Any] = {}
    capabilities: dict[str, bool] = {}


class KeepWaiting(Event, frozen=True):
    """A front end gives the guest more time to let go of its card."""

    seconds: float


class LetRun(Event, frozen=True):
    """A front end asks that a guest which somebody paused be resumed, so that it can answer."""


class Watch(Event, frozen=True):
    """How closely the VM is to be looked at while no workflow runs; what may have changed is asked again."""

    closely: bool


AnyEvent = (
    Connected | Disconnected | QmpEvent | Answered | Refused | Unknown | Tick | Wish | Cancel
    | Restarted | Tune | KeepWaiting | LetRun | Watch | Pinged
)  # fmt: skip
