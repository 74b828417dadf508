"""What would the QEMU of a recorded journal say to a client that does much the same again?

A journal holds what a reply meant, not its letter, and the client's own pace differs from the recorded one. So the story
is cut at each command that changes something: such a command sets the clock to where the journal has it, then events come
as far apart as they came, up to the next such command. A query is answered with what QEMU answered to it in that stretch of
the story. What the journal does not tell, the twin answers.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from vmtui.backend.core.commands import (
    Command,
    ConfigWords,
    Devices,
    Learned,
    MigrationNow,
    Number,
    Offered,
    Runstate,
    Settings,
    Text,
)
from vmtui.backend.core.events import Answered, AnyEvent, Connected, Disconnected, QmpEvent, Refused, Unknown
from vmtui.backend.core.model import Fact, Link, Primary
from vmtui.backend.core.model import Migration as MigrationFacts
from vmtui.backend.core.sim import machine
from vmtui.backend.core.sim.migration import Migration
from vmtui.backend.core.sim.profile import PAUSE_VM_10_0, STOCK_7_2, STOCK_10_0, STOCK_11_1, Profile
from vmtui.backend.core.sim.schema import CommandSchema
from vmtui.backend.core.sim.stream import HEADER, Stream
from vmtui.backend.core.sim.target import Fd, Write, fd_target
from vmtui.backend.core.sim.vm import SimulatedVm

_OWN = frozenset({"getfd", "add-fd", "remove-fd", "closefd", "query-fdsets"})
"""Commands about descriptors: those of today, not the recorded ones."""
_FDSET = "/dev/fdset/"
_RUNSTATES = {"STOP": "paused", "RESUME": machine.RUNNING}
_JUST_BEFORE = 1e-6
"""Seconds before `completed` at which the rest of the file is written."""
NO_ID = "0000:0000"
NO_UUID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded command, and how it ended."""

    at: float
    command: Command
    ended: float
    outcome: Answered | Refused | Unknown

    @property
    def changes(self) -> bool:
        return self.command.learns is None and self.command.execute not in _OWN


@dataclass(frozen=True, slots=True)
class Story:
    """QEMU's part of a journal, in the order of time."""

    calls: tuple[Call, ...]
    events: tuple[tuple[float, QmpEvent | Disconnected], ...]
    version: tuple[int, int, int] = (10, 0, 0)
    package: str = ""

    def told(self, fact: Fact) -> Learned | None:
        """What the journal says first of this."""
        told = (call.outcome for call in self.calls if call.command.learns is fact)
        return next((each.learned for each in told if isinstance(each, Answered)), None)

    @property
    def profile(self) -> Profile:
        """The recorded QEMU it is most like; with its own version."""
        offered = self.told(Fact.FEATURES)
        if isinstance(offered, Offered) and offered.features.pause_vm:
            like = PAUSE_VM_10_0
        else:
            like = STOCK_7_2 if self.version < (9,) else STOCK_10_0 if self.version < (11,) else STOCK_11_1
        return replace(like, version=self.version, package=self.package)

    @property
    def name(self) -> str:
        told = self.told(Fact.NAME)
        return told.value if isinstance(told, Text) and told.value else "played"

    @property
    def ram(self) -> int:
        told = self.told(Fact.MEMORY)
        return told.value if isinstance(told, Number) and told.value else 256 << 20


def story(lines: Iterable[tuple[float, Command | AnyEvent]]) -> Story:
    """From a journal's commands and events."""
    calls: list[Call] = []
    events: list[tuple[float, QmpEvent | Disconnected]] = []
    asked: tuple[float, Command] | None = None
    made = Story((), ())
    for at, line in lines:
        match line:
            case Command():
                asked = (at, line)
            case Answered() | Refused() | Unknown() if asked is not None:
                calls.append(Call(*asked, at, line))
                asked = None
            case QmpEvent() | Disconnected():
                events.append((at, line))
                if asked is not None and isinstance(line, Disconnected):
                    calls.append(Call(*asked, at, Unknown(at, line.why)))
                    asked = None
            case Connected(version=version, package=package):
                made = replace(made, version=version, package=package)
    return replace(made, calls=tuple(calls), events=tuple(events))


class PlayedVm(SimulatedVm):
    """Speaks QMP as the twin does; what it says is the story's."""

    __slots__ = ("_begun", "_changed_at", "_clock", "_heard", "_told_events", "_until", "hangs_up", "story")

    def __init__(self, told: Story, schema: CommandSchema | None = None) -> None:
        super().__init__(told.profile, ram=told.ram, name=told.name, schema=schema)
        self.story = told
        self._told_events = 0
        self._begun = told.calls[0].at if told.calls else 0.0
        self._clock = 0.0
        """What our clock said when the story's said `_begun`."""
        self._changed_at = self._begun
        """When, in the story, something was last changed by a command."""
        self._heard: dict[Fact, tuple[float, Learned]] = {}
        """What events said, and when in the story."""
        self._until = self._next_change(self._begun)
        self.hangs_up = False
        """The story's connection breaks here; whoever serves this resets it."""

    # Time

    @property
    def _now_in_story(self) -> float:
        return min(self._begun + (self.now - self._clock), self._until)

    def _next_change(self, after: float) -> float:
        return next((call.at for call in self.story.calls if call.changes and call.at > after), float("inf"))

    def _set(self, at: float) -> None:
        """The story is at `at` now, and goes on by itself up to the next change."""
        self._begun, self._changed_at, self._clock = at, at, self.now
        self._until = self._next_change(at)

    def next_at(self) -> float | None:
        due = self._next_in_story()
        return None if due is None or due > self._until else max(self._clock + (due - self._begun), self.now)

    def _next_in_story(self) -> float | None:
        if self._told_events >= len(self.story.events):
            return None
        at, event = self.story.events[self._told_events]
        return at - _JUST_BEFORE if _completes(event) and self._copies else at

    @property
    def _copies(self) -> bool:
        return self.migration is not None and self.migration.switched_at is None

    def advance(self, now: float) -> None:
        self.now = max(self.now, now)
        while self.alive and (due := self._next_in_story()) is not None and due <= self._now_in_story + _JUST_BEFORE / 2:
            if due < self.story.events[self._told_events][0]:
                self._change(switched_at=self.now)
                return
            self._happens_now(*self.story.events[self._told_events])
            self._told_events += 1

    def _happens_now(self, at: float, event: QmpEvent | Disconnected) -> None:
        if isinstance(event, Disconnected):
            self.hangs_up = True
            if event.link is Link.GONE:
                self.die()
            return
        self.emit(event.name, event.data)
        if event.name in _RUNSTATES:
            self.runstate = _RUNSTATES[event.name]
            self._heard[Fact.STATUS] = (at, Runstate(self.runstate))
        status = event.data.get("status")
        if event.name == "MIGRATION" and isinstance(status, str):
            self._heard[Fact.MIGRATION] = (at, MigrationNow(MigrationFacts(status)))
            if self.migration is not None:
                self._change(status=status)

    def writes(self) -> list[Write]:
        """All of a file at its end: how fast it was written, the journal does not tell."""
        migration = self.migration
        if migration is None or migration.runs or not migration.written:
            return []
        self.migration = None
        return [Write(migration.target.scheme, migration.target.target, 0, "stream", True)]

    # Commands

    def _negotiate(self) -> dict[str, Any]:
        if not self._told_events and self._until >= self._now_in_story:
            self._clock = self.now  # the story begins with the first client
        return super()._negotiate()

    def _answer(self, message: dict[str, Any], passed: Fd | None) -> None:
        command = message.get("execute")
        told = self._told(message) if self.listening and command not in _OWN else None
        if told is None:
            super()._answer(message, passed)
            return
        if told.changes:
            self._set(told.at)
            if command == "migrate" and isinstance(told.outcome, Answered):
                self._open(str(told.command.arguments.get("uri")), str(message.get("arguments", {}).get("uri", "")))
            self._begun = max(told.ended, self._begun)
            self.advance(self.now)
        match told.outcome:
            case Answered(learned=learned):
                self._reply(message, {"return": raw(told.command, learned)})
            case Refused(text=text, error_class=name):
                self._reply(message, {"error": {"class": name, "desc": text}})

    def _told(self, message: dict[str, Any]) -> Call | None:
        """The recorded call that this one is, or None where the twin must answer."""
        alike = [call for call in self.story.calls if call.command.execute == message.get("execute")]
        if not alike:
            return None
        if alike[0].changes:
            ahead = [call for call in alike if call.at >= self._until]
            same = [call for call in ahead if call.command.arguments == message.get("arguments", {})]
            return (same or ahead or [self._nothing_left(alike[-1])])[0]
        same = [call for call in alike if call.command.arguments == message.get("arguments", {})]
        return self._as_of_now(same) if same and _tells(same[0]) else None

    def _nothing_left(self, last: Call) -> Call:
        refused = Refused(self._begun, f"the journal holds no {last.command.execute} from here on")
        return Call(self._begun, last.command, self._begun, refused)

    def _as_of_now(self, calls: list[Call]) -> Call:
        """The last of this stretch of the story that was answered by now, or what an event has said since.

        Before any of that: the stretch's first answer, for only what a command changes can be meant; else the last before.
        """
        here = [call for call in calls if self._changed_at <= call.at < self._until]
        by_now = bisect_right([call.ended for call in here], self._now_in_story)
        before = [call for call in calls if call.at < self._changed_at]
        last = here[by_now - 1] if by_now else before[-1] if before else calls[0]
        heard = self._heard.get(last.command.learns) if last.command.learns else None
        if heard is not None and heard[0] > last.ended:
            at, news = heard
            fuller = (call for call in here if call.at >= at and _says(call) == _status(news))
            return next(fuller, Call(last.at, last.command, at, Answered(at, news)))
        return here[0] if here and not by_now else last

    def _open(self, recorded: str, uri: str) -> None:
        """Where today's file goes; a migration that was to fail (into a broken pipe) writes none."""
        fd = self._passed_for(uri)
        if fd is None or recorded.startswith("exec:") or not self._completes_later():
            self.migration = None
            return
        size = self.ram * self.scenario.touched
        stream = Stream(size, size, sent=float(HEADER), at=self.now)
        self.migration = Migration("active", fd_target(fd), self.now, stream, active_at=self.now, written=1)

    def _passed_for(self, uri: str) -> Fd | None:
        scheme, _, rest = uri.partition(":")
        if scheme == "fd":
            return self.fds.pop(rest, None)
        number = rest.removeprefix(_FDSET)
        entries = self.fdsets.get(int(number), ()) if scheme == "file" and number.isdecimal() else ()
        return entries[0][0] if entries else None

    def _completes_later(self) -> bool:
        """Before another `migrate` is sent."""
        ends = next(
            (call.at for call in self.story.calls if call.command.execute == "migrate" and call.at > self._begun),
            float("inf"),
        )
        return any(_completes(event) and self._begun <= at < ends for at, event in self.story.events)


def _completes(event: QmpEvent | Disconnected) -> bool:
    return isinstance(event, QmpEvent) and event.name == "MIGRATION" and event.data.get("status") == "completed"


def _status(learned: Learned | None) -> str:
    match learned:
        case Runstate(status=status) | MigrationNow(now=MigrationFacts(status=status)):
            return status
    return ""


def _says(call: Call) -> str:
    return _status(call.outcome.learned) if isinstance(call.outcome, Answered) else ""


def _tells(call: Call) -> bool:
    """Can the reply be made again from what the journal says?"""
    return not isinstance(call.outcome, Answered) or type(call.outcome.learned) in _RAW


# --- replies ------------------------------------------------------------------------------------------------------


def raw(command: Command, learned: Learned | None) -> Any:
    """A reply from which `core.commands.understand` would learn this."""
    return {} if learned is None else _RAW[type(learned)](command, learned)


def _text(command: Command, learned: Text) -> Any:
    match command.learns:
        case Fact.NAME:
            return {"name": learned.value} if learned.value else {}
        case Fact.UUID:
            return {"UUID": learned.value or NO_UUID}
    return f"{learned.value}-machine"


def _migration(_command: Command, learned: MigrationNow) -> Any:
    now = learned.now
    reply: dict[str, Any] = {} if now.status == "none" else {"status": now.status}
    if now.total:
        reply["ram"] = {"transferred": now.transferred, "total": now.total, "remaining": now.remaining, "mbps": now.mbps}
    if now.error:
        reply["error-desc"] = now.error
    return {**reply, "blocked-reasons": list(now.blocked)} if now.blocked else reply


def _settings(command: Command, learned: Settings) -> Any:
    if command.learns is Fact.CAPABILITIES:
        return [{"capability": name, "state": state} for name, state in learned.values.items()]
    return learned.values


def _number(command: Command, learned: Number) -> Any:
    if command.learns is Fact.MEMORY:
        return {"base-memory": learned.value or 0, "plugged-memory": 0}
    if command.learns is not Fact.CONFIG_WINDOW:
        return {"fdset-id": learned.value or 0, "fd": 17}
    if learned.value is None:
        return "memory-region: system\r\n"
    return f"    {learned.value:016x}-{learned.value + 0xFFFFFFF:016x} (prio 0, i/o): pcie-mmcfg-mmio\r\n"


def _devices(_command: Command, learned: Devices) -> Any:
    lines = ["bus: main-system-bus", "  type System"]
    for card in learned.primaries:
        lines += _card(card)
    for standby in learned.standbys:
        lines += ["  bus: pcie.0", f'    dev: virtio-net-pci, id "{standby}"', "      failover = true"]
    return "".join(f"{line}\r\n" for line in lines)


def _card(card: Primary) -> list[str]:
    slot = []
    if card.slot is not None:
        bus, device, function = card.slot
        slot = [f"      class Ethernet controller, addr {bus:02x}:{device:02x}.{function:x}, pci id {card.pci_id or NO_ID}"]
    properties = [f"      {name} = {value}" for name, value in card.properties]
    return [f"  bus: {card.bus}", f'    dev: {card.driver}, id "{card.device_id}"', *properties, *slot]


def _words(_command: Command, learned: ConfigWords) -> Any:
    if learned.words is None:
        return "Cannot access memory\r\n"
    first, second = learned.words
    return f"{0:016x}: 0x{first:08x} 0x{second:08x}\r\n"


_RAW: dict[type[Any], Callable[[Command, Any], Any]] = {
    type(None):   lambda _command, _learned: {},
    Text:         _text,
    Runstate:     lambda _command, learned: {"status": learned.status, "running": learned.status == machine.RUNNING},
    MigrationNow: _migration,
    Settings:     _settings,
    Number:       _number,
    Devices:      _devices,
    ConfigWords:  _words,
}  # fmt: skip
