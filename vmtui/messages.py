"""What screens and widgets are given, and what they ask for: the only things that cross between them and the app."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath

from textual.message import Message

from vmtui.backend.core import verdict
from vmtui.backend.core.fleet import Fleet, Request, VmView
from vmtui.backend.core.naming import default_name
from vmtui.backend.core.verdict import Usual


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that may be drawn, at one moment."""

    fleet: Fleet
    now: float
    """Seconds of the engine's clock: add `fleet.host.offset` to have seconds since 1970."""
    read_only: bool = False
    host_colour: str = "$primary"
    """What the user wants to know this host by: a colour, as Textual writes it."""

    def vm(self, key: str) -> VmView | None:
        return self.fleet.vms.get(key)

    def at_present(self, key: str) -> VmView | None:
        """The VM with its clock set to now, so that what is under way counts up; one that rests keeps its time."""
        view = self.vm(key)
        if view is None or not view.state.busy or self.now <= view.state.now:
            return view
        return view.at(self.now)

    def new_file(self, view: VmView, ending: str = "vmstate") -> str:
        """A free name for this VM in the snapshot directory; empty while that is not known."""
        shelf = self.fleet.shelf
        if not shelf.directory:
            return ""
        stamp = f"{datetime.fromtimestamp(self.now + self.fleet.host.offset):%Y%m%dT%H%M%S}"
        taken = (PurePosixPath(each.path).name for each in shelf.snapshots)
        return str(PurePosixPath(shelf.directory) / default_name(view.state.vm.name or view.name, stamp, taken, ending))

    def usual(self, key: str) -> Usual:
        """How long this VM's guest took so far to let go of its card."""
        view = self.vm(key)
        return verdict.usual(self.fleet.shelf.snapshots, view.state.vm) if view else verdict.NEVER_SAVED

    @property
    def busy(self) -> bool:
        """Something is under way whose times count up by themselves."""
        return any(view.state.busy for view in self.fleet.vms.values())


class Ask(Message):
    """A wish for the engine. What comes of it is seen in the fleet."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


class Place(StrEnum):
    """A screen that can be opened."""

    VM = "vm"
    PREFLIGHT = "preflight"
    PARAMETERS = "parameters"
    TRANSCRIPT = "transcript"
    SNAPSHOTS = "snapshots"
    HELP = "help"


class Open(Message):
    """Another screen is wanted, about the VM `key` where it is about one."""

    def __init__(self, place: Place, key: str = "") -> None:
        super().__init__()
        self.place = place
        self.key = key


class Redraw(Message):
    """This screen has just come to the top, or was told something new by the user: draw it from the latest values."""


class Copy(Message):
    """Text for the user's clipboard: over the terminal (OSC 52), and into a file for terminals that cannot."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__()
        self.text = text
        self.what = what
        """What it is, in a word or two, for the line that says so."""
