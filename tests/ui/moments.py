"""What is there to see: each screen in each state that an operator can meet, as a value that stands still.

The states are real ones, played against the twin and stopped at their moment. `Moment.keys` are pressed one after the other
once the screens in `Moment.places` were opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from tests.core.play import Play
from tests.ui import test_preflight_screen as preflight
from tests.ui import test_snapshots_screen as snapshots
from tests.ui.frozen import Frozen, fleet_of
from tests.ui.vm_states import NEVER, SAVE, SLOW_DISK, Story, When, copied, in_phase, over, waited
from vmtui.backend.core.commands import Command
from vmtui.backend.core.events import AnyEvent, QmpEvent, Tune, Wish
from vmtui.backend.core.fleet import Fleet, Host, Reading, Record, Shelf, VmView
from vmtui.backend.core.model import Link, Phase, Then, Vm
from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_7_2, STOCK_10_0, STOCK_11_1, Profile, Scenario
from vmtui.backend.core.state import State
from vmtui.messages import Place

NO_SHELF = Shelf()
HOST = Host("hyper7", surveyed=True, offset=1_772_331_600.0)
"""Its clock shows 02:20 on a Sunday in March 2026 when the engine's shows nought."""

WEB1 = "unix:/run/qemu/web1.qmp"
GIB = 1 << 30
BUSY_MONITOR = "another client holds this monitor: virsh (pid 4711)"
NO_PERMISSION = "cannot connect: permission denied; run vmtui as the user that QEMU runs as"


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing to look at."""

    name: str
    source: Callable[[], Frozen]
    places: tuple[tuple[Place, str], ...] = ()
    keys: tuple[str, ...] = ()
    read_only: bool = False
    quiet: bool = True
    """Nobody has pressed a key for a while: a dialog may open by itself."""
    sizes: tuple[tuple[int, int], ...] = ((80, 24), (60, 20), (160, 50))
    """Columns and lines. Keys are pressed at the first, then the window is resized."""


# --- VMs ----------------------------------------------------------------------------------------------------------


def named(view: VmView, name: str = "web1", **changes: Any) -> VmView:
    """As a VM of this host is called, with a monitor where such are."""
    vm = replace(view.state.vm, key=f"unix:/run/qemu/{name}.qmp", name=name, **changes)
    return replace(view, state=replace(view.state, vm=vm))


def host_of(*views: VmView, shelf: Shelf = NO_SHELF, host: Host = HOST) -> Frozen:
    return Frozen(Fleet({view.state.vm.key: view for view in views}, host, shelf))


def rested(story: Story) -> Story:
    """Looked at closely, until nothing more is asked."""
    story.rest()
    _answered(story.play)
    return story


def _answered(play: Play) -> None:
    while play.state.outstanding is not None:
        play.take()


def at_rest(profile: Profile = STOCK_10_0, **scenario: Any) -> VmView:
    return rested(Story(profile=profile, scenario=Scenario(**scenario))).view


def saved(**play: Any) -> VmView:
    """To its end; where a file was read through, it was one that a reader knows."""
    view = Story(**play).until(over).view
    work = view.state.work
    if work is None or work.file is None:
        return view
    file = replace(work.file, size=96 << 20, devices=41, ram_blocks=9)
    return replace(view, state=replace(view.state, work=replace(work, file=file)))


def cancelled_in(phase: Phase, **play: Any) -> VmView:
    """Cancelled when it had come to that phase, and at its end."""

    def cancel(now: Play) -> None:
        if now.work.phase is phase and not now.work.given_up:
            now.cancel()

    story = Story(**play)
    story.play.watch = cancel
    return story.until(over).view


def undoing() -> VmView:
    """The guest did not let go, the user cancelled, and QEMU still waits."""
    story = Story(scenario=NEVER).until(waited(7)).cancel()
    return story.until(lambda play: play.work.phase is Phase.CANCEL and play.now > 12).view


def lost(why: str, name: str) -> VmView:
    return VmView(State(Vm(f"unix:/run/qemu/{name}.qmp", name=name, link=Link.LOST, why_lost=why)))


def silent() -> VmView:
    """Its monitor broke while it rested."""
    story = rested(Story())
    story.play.drop()
    return story.view


def silent_in_save() -> VmView:
    """The monitor broke while the file was written, four seconds ago."""
    story = Story(scenario=Scenario(disk_speed=8e6)).until(copied(0.4))
    story.play.drop()
    return replace(story.view, state=replace(story.view.state, now=story.play.now + 4))


class Logged(Play):
    """Keeps what was said both ways, as the engine's transcript has it."""

    def __init__(self, **play: Any) -> None:
        self.log: list[Record] = []
        self._asked: Command | None = None
        super().__init__(**play)

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        self.log.append(Record(len(self.log) + 1, self.now, kind, data))

    def step(self, event: AnyEvent) -> None:
        before, phase = self.state.actions, self.state.work.phase if self.state.work else None
        if isinstance(event, QmpEvent):
            self._note("qmp", {"dir": "recv", "msg": {"event": event.name, "data": event.data}})
        super().step(event)
        if self.state.work is not None and self.state.work.phase != phase:
            self._note("phase", {"phase": self.state.work.phase, "status": self.state.work.status})
        sent = self.state.outstanding
        if self.state.actions != before and isinstance(sent, Command):
            message: dict[str, Any] = {"execute": sent.execute, "id": f"vmtui{self.state.actions}"}
            arguments = {"arguments": sent.arguments} if sent.arguments else {}
            self._note("qmp", {"dir": "send", "msg": message | arguments})

    def meaning(self, command: Command, reply: dict[str, Any]) -> AnyEvent:
        self._note("qmp", {"dir": "recv", "msg": reply | {"id": f"vmtui{self.state.actions}"}})
        return super().meaning(command, reply)


def talked(when: When = over) -> VmView:
    """A save with all that was said, until then."""
    play = Logged(options=SAVE, scenario=SLOW_DISK)
    play.connect()
    play.step(Wish(play.now, play.options))
    while not (when(play) or play.done):
        play.turn()
    return named(VmView(play.state, tuple(play.log)))


def tuned(*events: Tune, profile: Profile = STOCK_10_0) -> VmView:
    """Looked at closely, and these settings asked for and made."""
    play = rested(Story(profile=profile)).play
    for event in events:
        play.step(event)
        _answered(play)
    return named(VmView(play.state))


def big_fleet() -> Frozen:
    """Every kind of line at once, as on a busy host."""
    at_seven = waited(6.9)
    views = (
        named(
            Story(scenario=Scenario(disk_speed=20e6, touched=0.9)).until(lambda play: play.now > 6.9).view, memory=4 * GIB
        ),
        named(Story(scenario=NEVER, profile=STOCK_11_1).until(at_seven).view, "db1", memory=64 * GIB),
        named(saved(profile=STOCK_7_2), "mail1", memory=8 * GIB),
        named(at_rest(PAUSE_VM_10_0), "next1", memory=2 * GIB),
        named(at_rest(primaries=0), "plain1", memory=GIB),
        named(at_rest(runstate="paused"), "shop1", memory=4 * GIB),
        named(cancelled_in(Phase.SAVE), "backup1", memory=16 * GIB),
        named(Story(scenario=Scenario(killed="active")).until(over).view, "build1", memory=8 * GIB),
        named(at_rest(migrating=True), "moved1", memory=8 * GIB),
        lost(BUSY_MONITOR, "win1"),
        lost(NO_PERMISSION, "dev1"),
        VmView(State(Vm("unix:/run/qemu/new1.qmp", name="new1"))),
    )
    return host_of(*views, shelf=Shelf("/var/lib/vmtui/snapshots", 1.0, (snapshots.WEB1, snapshots.WEB2)))


def many(count: int) -> Frozen:
    """More VMs than there are lines."""
    view = at_rest()
    return host_of(*(named(view, f"vm-{number:03}", memory=GIB) for number in range(count)))


def vm(name: str, made: Callable[[], VmView], *keys: str, read_only: bool = False, quiet: bool = True) -> Moment:
    return Moment(f"vm-{name}", lambda: host_of(named(made())), ((Place.VM, WEB1),), keys, read_only, quiet)


def in_save() -> VmView:
    return Story(scenario=SLOW_DISK).until(copied(0.6)).view


def stuck(seconds: float = 12, **scenario: Any) -> VmView:
    return Story(scenario=Scenario(**({"unplug_delay": None} | scenario))).until(waited(seconds)).view


FLEET = (
    Moment("fleet", big_fleet, quiet=False),
    Moment("fleet-attention", big_fleet, keys=("down",), quiet=False),
    Moment("fleet-filtered", big_fleet, keys=("slash", *"sav", "enter"), quiet=False),
    Moment("fleet-filter-finds-nothing", big_fleet, keys=("slash", *"xyz"), quiet=False),
    Moment("fleet-many", lambda: many(100)),
    Moment("fleet-empty", host_of),
    Moment("fleet-others-processes", lambda: host_of(host=replace(HOST, unreadable=12))),
    Moment("fleet-loading", lambda: host_of(host=replace(HOST, surveyed=False))),
    Moment("fleet-busy-monitor", lambda: host_of(lost(BUSY_MONITOR, "win1"))),
    Moment("fleet-no-permission", lambda: host_of(lost(NO_PERMISSION, "dev1"))),
    Moment("fleet-silent", lambda: host_of(named(silent()))),
    Moment("fleet-guest-needs-somebody", lambda: host_of(named(stuck()), named(at_rest(), "mail1"))),
    Moment("fleet-read-only", big_fleet, read_only=True, quiet=False),
    Moment("help", big_fleet, keys=("question_mark",), quiet=False),
    Moment("palette", big_fleet, keys=("ctrl+p",), quiet=False),
    Moment("quit", big_fleet, keys=("q",), quiet=False),
)

PHASES = (Phase.PREFLIGHT, Phase.PREPARE, Phase.UNPLUG, Phase.PAUSE, Phase.FINISH, Phase.RESUME, Phase.REPLUG,
          Phase.SETTLE, Phase.VERIFY)  # fmt: skip

VMS = (
    vm("idle", at_rest),
    vm("idle-no-card", lambda: at_rest(primaries=0)),
    vm("idle-two-cards", lambda: at_rest(primaries=2)),
    vm("idle-paused", lambda: at_rest(runstate="paused")),
    vm("connecting", lambda: VmView(State(Vm(WEB1, name="web1")))),
    *(vm(f"phase-{phase}", partial(in_phase, phase)) for phase in PHASES),
    vm("phase-save", in_save),
    vm("phase-save-read-only", in_save, read_only=True),
    vm("phase-save-pause-vm", lambda: Story(profile=PAUSE_VM_10_0, scenario=SLOW_DISK).until(copied(0.6)).view),
    vm("waiting", lambda: stuck(3)),
    vm("slow", lambda: stuck(12), quiet=False),
    vm("slow-choices", lambda: stuck(12)),
    vm("agent-choices", lambda: stuck(12, agent="answers")),
    vm("panicked", lambda: stuck(3, panics="wait-unplug", panic_action="pause")),
    vm("paused-choices", lambda: stuck(3, paused_by_other="wait-unplug")),
    vm("silent-in-save", silent_in_save),
    vm("undoing", undoing),
    vm("saved", saved),
    Moment("vm-saved-and-told", lambda: host_of(talked()), ((Place.VM, WEB1),), sizes=((160, 50),)),
    vm("saved-then-quit", lambda: saved(options=replace(SAVE, then=Then.QUIT))),
    vm("cancelled", lambda: cancelled_in(Phase.SAVE)),
    vm("stuck-and-cancelled", lambda: Story(scenario=NEVER).until(over).view),
    vm("disk-full", lambda: saved(scenario=Scenario(write_fails_after=20 << 20))),
    vm("refused", lambda: saved(scenario=Scenario(blocked_reasons=("0000:01:00.0/vfio: migration is not supported",)))),
    vm("attention", lambda: saved(scenario=Scenario(panics="active", panic_device=True, panic_action="pause"))),
    vm("qemu-died", lambda: Story(scenario=Scenario(killed="active")).until(over).view),
    vm("somebody-else-migrates", lambda: at_rest(migrating=True)),
    vm("silent", silent),
    vm("help", in_save, "question_mark"),
    Moment("vm-qmp-beside", lambda: host_of(talked(copied(0.6))), ((Place.VM, WEB1),), ("T",), sizes=((160, 50),)),
    Moment("vm-qmp-beside-saved", lambda: host_of(talked()), ((Place.VM, WEB1),), ("T",), sizes=((160, 50),)),
)


def checked(name: str, **answering: Any) -> Moment:
    return Moment(f"preflight-{name}", lambda: preflight.Answering(**answering), ((Place.PREFLIGHT, preflight.KEY),))


PREFLIGHT = (
    checked("ok"),
    checked("pause-vm", profile=PAUSE_VM_10_0),
    checked("warns", change=preflight.without_driver),
    checked("refuses", change=preflight.with_card_out),
)


def settings(name: str, made: Callable[[], VmView], *keys: str, read_only: bool = False) -> Moment:
    return Moment(f"parameters-{name}", lambda: host_of(named(made())), ((Place.PARAMETERS, WEB1),), keys, read_only)


TO_BANDWIDTH = ("slash", *"max-band", "enter")
PARAMETERS = (
    settings("list", tuned),
    settings("pause-vm", lambda: tuned(profile=PAUSE_VM_10_0)),
    settings("filtered", tuned, "slash", *"xbzrle"),
    settings("edit", tuned, *TO_BANDWIDTH, "enter", "ctrl+u", *"1G"),
    settings("refused", tuned, *TO_BANDWIDTH, "enter", "ctrl+u", *"fast"),
    settings("set", lambda: tuned(Tune(1.0, parameters={"max-bandwidth": GIB}))),
    settings("in-save", in_save),
    settings("typing-while-a-guest-is-stuck", stuck, *TO_BANDWIDTH, "enter", "ctrl+u", *"1G"),
    settings("read-only", tuned, read_only=True),
)

ALL_STATES = (snapshots.WEB1, snapshots.WEB2, snapshots.CUT, snapshots.PARTIAL)


def states(name: str, made: Callable[[], Frozen], *keys: str, read_only: bool = False) -> Moment:
    return Moment(f"snapshots-{name}", made, ((Place.SNAPSHOTS, ""),), keys, read_only)


def kept(*found: Any, **shelf: Any) -> Frozen:
    return Frozen(replace(fleet_of(), host=HOST, shelf=Shelf("/snap", 1.0, found, **shelf)))


def reading(share: float) -> dict[str, Reading]:
    return {snapshots.WEB1.path: Reading(snapshots.WEB1.path, share)}


SNAPSHOTS = (
    states("list", lambda: kept(*ALL_STATES)),
    states("whole", lambda: kept(*ALL_STATES), "down"),
    states("partial", lambda: kept(*ALL_STATES), "end"),
    states("empty", kept),
    states("no-permission", lambda: kept(trouble="Permission denied")),
    states("verify", lambda: kept(*ALL_STATES, readings=reading(0.42)), "down"),
    states("delete", lambda: kept(*ALL_STATES), "d"),
    states("deleted", lambda: kept(*ALL_STATES[1:], said=f"deleted {snapshots.WEB1.path}")),
    states("read-only", lambda: kept(*ALL_STATES), read_only=True),
)


def traffic(name: str, *keys: str) -> Moment:
    return Moment(f"transcript-{name}", lambda: host_of(talked()), ((Place.TRANSCRIPT, WEB1),), keys)


TRANSCRIPT = (
    traffic("list"),
    traffic("filtered", "slash", *"migrate", "enter"),
    traffic("raw", "slash", *"migrate", "enter", "p"),
    traffic("filter-finds-nothing", "slash", *"xyz", "enter"),
    traffic("copy-as", "home", *("down",) * 3, "c"),
)

MOMENTS = {each.name: each for each in (*FLEET, *VMS, *PREFLIGHT, *PARAMETERS, *SNAPSHOTS, *TRANSCRIPT)}
