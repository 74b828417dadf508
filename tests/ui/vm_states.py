"""Moments of a VM's life, played against the twin, for screens to draw: each is a real state, stopped at its moment."""

from collections.abc import Callable
from typing import Any

from tests.core.play import Play
from vmtui.backend.core.events import AnyEvent, KeepWaiting, QmpEvent, Watch, Wish
from vmtui.backend.core.fleet import Fleet, Host, Record, Shelf, VmView
from vmtui.backend.core.model import Options, Phase
from vmtui.backend.core.sim import Scenario

KEY = "unix:/sim"
SAVE = Options(output="/snap/vm.vmstate")
When = Callable[[Play], bool]


class Story:
    """Plays one VM on, and keeps what QEMU said on the way."""

    def __init__(self, **play: Any) -> None:
        self._log: list[Record] = []
        self.play = Play(on_event=self._note, **{"options": SAVE, **play})

    def _note(self, _play: Play, event: QmpEvent) -> list[AnyEvent]:
        data = {"dir": "recv", "msg": {"event": event.name, "data": event.data}}
        self._log.append(Record(len(self._log) + 1, event.at, "qmp", data))
        return [event]

    @property
    def view(self) -> VmView:
        return VmView(self.play.state, tuple(self._log))

    def begin(self) -> "Story":
        self.play.connect()
        self.play.step(Wish(self.play.now, self.play.options))
        return self

    def until(self, when: When) -> "Story":
        """Begin, and play on until it is so (after whole turns, as a front end sees it)."""
        if self.play.state.work is None:
            self.begin()
        while not when(self.play) and not self.play.done:
            self.play.turn()
        return self

    def cancel(self) -> "Story":
        self.play.cancel()
        return self

    def wait(self, seconds: float) -> "Story":
        self.play.step(KeepWaiting(self.play.now, seconds))
        return self

    def rest(self) -> "Story":
        """Watched as a list and a screen do, until nothing more is asked."""
        self.play.connect()
        self.play.step(Watch(self.play.now, True))
        self.play.rest()
        return self


def phase(name: Phase | str) -> When:
    return lambda play: play.work.phase == name


def waited(seconds: float) -> When:
    """So long after the guest was asked to let go of its card."""

    def so_long(play: Play) -> bool:
        asked = play.work.marks.asked
        return asked is not None and play.now - asked >= seconds

    return so_long


def copied(share: float) -> When:
    return lambda play: play.work.done_share >= share


def over(play: Play) -> bool:
    return play.done


def in_phase(name: Phase | str, **play: Any) -> VmView:
    """The VM in the first moment of a phase, however short the phase is."""
    seen: list[VmView] = []
    story = Story(**play)

    def look(now: Play) -> None:
        if not seen and now.work.phase == name:
            seen.append(story.view)

    story.play.watch = look
    story.until(lambda _: bool(seen))
    assert seen, f"it never came to {name}"
    return seen[0]


def fleet(view: VmView, **others: Any) -> Fleet:
    shelf = Shelf(directory="/snap")
    return Fleet({KEY: view}, Host("host", surveyed=True, offset=1_700_000_000.0), **{"shelf": shelf, **others})


SLOW_DISK = Scenario(disk_speed=20e6)
NEVER = Scenario(unplug_delay=None)
