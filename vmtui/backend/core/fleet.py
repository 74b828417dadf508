"""What crosses between the engine and a front end: one value out (`Fleet`), one wish in (`Request`), nothing else."""

from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from vmtui.backend.core.model import Options
from vmtui.backend.core.snapshot import Manifest
from vmtui.backend.core.state import State


class Record(msgspec.Struct, frozen=True):
    """One line of what happened to a VM: a QMP message, a phase, a warning."""

    number: int
    """Counts up by one for each VM; a gap means that a front end was too slow for the last records."""
    at: float
    kind: str
    """`qmp`, `phase`, `link`."""
    data: dict[str, Any]


class VmView(msgspec.Struct, frozen=True):
    """One VM, as the engine knows it now."""

    state: State
    log: tuple[Record, ...] = ()
    """The latest records, oldest first."""
    journal: str = ""
    """Path of the running workflow's journal, once there is one."""
    name: str = ""
    """As the host's process list has it: known before QEMU has said anything."""

    def at(self, now: float) -> "VmView":
        """With its clock set to `now`."""
        return replace(self, state=replace(self.state, now=now))

    @property
    def called(self) -> str:
        """By what every command finds it while something is done to it: the job's id; the name alone may not be found."""
        return self.journal.rpartition("/")[2].removesuffix(".ndjson") if self.journal else self.state.vm.shown


class Host(msgspec.Struct, frozen=True):
    """The host that the engine runs on."""

    name: str = ""
    surveyed: bool = False
    """Its processes were looked through at least once."""
    unreadable: int = 0
    """Processes of other users that could not be looked at."""
    trouble: str = ""
    """Why nothing can be asked of the engine, in words; empty when it can."""
    offset: float = 0.0
    """Seconds to add to a time of the engine's clock to have seconds since 1970."""


class Standing(StrEnum):
    """How a file of the snapshot directory stands; the words are part of `vmtui snapshots --json`."""

    WHOLE = "whole"
    """Its manifest says that it was read through, and it still has that size."""
    WRITING = "writing"
    """A save has it open now."""
    PARTIAL = "partial"
    """It was never finished."""
    CUT_OFF = "cut-off"
    """It is shorter than its manifest says."""
    TOO_LONG = "too-long"
    NO_MANIFEST = "no-manifest"
    BAD_MANIFEST = "bad-manifest"
    """Not readable, or of a version that is not known."""
    FOREIGN = "foreign"
    """Others could have written its manifest, and what that names is run by a restore."""
    NO_FILE = "no-file"
    """A symbolic link, a directory, a device: it is not followed, opened or removed."""


class Snapshot(msgspec.Struct, frozen=True):
    """One file of the snapshot directory."""

    path: str
    size: int
    """Bytes."""
    changed: float
    """Seconds since 1970."""
    standing: Standing
    trouble: str = ""
    """Why it is no snapshot, in words; empty when it is one."""
    manifest: Manifest | None = None

    @property
    def whole(self) -> bool:
        return self.standing is Standing.WHOLE


class Reading(msgspec.Struct, frozen=True):
    """A file that is read through, or was."""

    path: str
    share: float = 0.0
    """0 to 1."""
    over: bool = False
    verdict: str = ""
    """In words, once it is over; `whole` tells which."""
    whole: bool = False
    at: float = 0.0
    """When it was over, in seconds since 1970."""
    changed: float = 0.0
    """When the file that was read had been changed last: the verdict is about that one."""
    machine: str = ""
    runstate: str = ""
    ram_blocks: tuple[tuple[str, int], ...] = ()
    """Name, and bytes of the guest's memory."""
    devices: tuple[tuple[str, int], ...] = ()
    """Name, and bytes in the file."""


class Shelf(msgspec.Struct, frozen=True):
    """What lies in the snapshot directory."""

    directory: str = ""
    looked_at: float | None = None
    """When, in seconds since 1970; None = not yet."""
    snapshots: tuple[Snapshot, ...] = ()
    """The latest first."""
    trouble: str = ""
    """Why the directory cannot be read."""
    readings: dict[str, Reading] = {}
    """By path."""
    said: str = ""
    """What became of the last wish: deleted, or why not."""


class Fleet(msgspec.Struct, frozen=True):
    """Everything that a front end shows. Per VM the latest wins."""

    vms: dict[str, VmView] = {}
    """By the monitor's address."""
    host: Host = Host()
    shelf: Shelf = Shelf()


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Start a workflow on a VM."""

    key: str
    options: Options


class CancelWish(msgspec.Struct, frozen=True, tag="cancel"):
    """Undo the workflow of a VM."""

    key: str
    text: str = "cancelled by the user"
    dump: bool = False
    """And dump the guest's memory then."""


class TuneWish(msgspec.Struct, frozen=True, tag="tune"):
    """Set migration parameters or capabilities."""

    key: str
    parameters: dict[str, Any] = {}
    capabilities: dict[str, bool] = {}


class WaitWish(msgspec.Struct, frozen=True, tag="wait"):
    """Give the guest more time to let go of its card: seconds from now."""

    key: str
    seconds: float


class LetRunWish(msgspec.Struct, frozen=True, tag="let-run"):
    """Resume a guest that somebody paused while it was to let go of its card."""

    key: str


class WatchWish(msgspec.Struct, frozen=True, tag="watch"):
    """Look at a VM closely from now on, and at once; or only as a list does."""

    key: str
    closely: bool


class SurveyWish(msgspec.Struct, frozen=True, tag="survey"):
    """Look for VMs on the host, and into the snapshot directory, now."""


class ReadWish(msgspec.Struct, frozen=True, tag="read"):
    """Read a saved state through, or no longer."""

    path: str
    stop: bool = False


class DeleteWish(msgspec.Struct, frozen=True, tag="delete"):
    """Delete a saved state and its manifest."""

    path: str


VmRequest = Begin | CancelWish | TuneWish | WaitWish | LetRunWish | WatchWish
HostRequest = SurveyWish | ReadWish | DeleteWish
Request = VmRequest | HostRequest
