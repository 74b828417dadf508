"""A workflow played against the twin: the pure core on one side, the simulated QEMU on the other, and no I/O between.

`Play` is the engine's stand-in: it carries messages, keeps a pretended store and moves the clock. Faults are given as
functions, so that a test says in a line what goes wrong.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.core.recorded import schema
from vmtui.backend.core import commands, workflow
from vmtui.backend.core.commands import (
    Action,
    Command,
    Discard,
    Fd,
    Learned,
    Offered,
    Publish,
    Read,
    Reserve,
    Survey,
    Surveyed,
    Verify,
)
from vmtui.backend.core.events import (
    Answered,
    AnyEvent,
    Cancel,
    Connected,
    Disconnected,
    QmpEvent,
    Refused,
    Tick,
    Unknown,
    Wish,
)
from vmtui.backend.core.model import Features, FileReport, Link, Options, Phase, Place, Vm, Workflow
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import STOCK_10_0, FdKind, Profile, Scenario, SimulatedVm
from vmtui.backend.core.state import State
from vmtui.backend.schemas import raw_schema

LATENCY = 0.0004
"""Seconds from a command to its reply, as measured on a unix socket."""
STATE_NUMBER, PIPE_NUMBER = 7, 8
LIMIT = 400.0
"""Simulated seconds in which every workflow must have ended."""


@cache
def _features(profile: str) -> Features:
    return commands.features(json.loads(raw_schema(profile)))


Fault = Callable[["Play", Action], str | None]
"""Looks at an action about to be sent: None lets it pass, a word makes it fail that way (see `_perform`)."""


@dataclass
class Store:
    """What is on the pretended disk."""

    partial: bool = False
    published: bool = False
    problem: str = ""
    free: int = 1 << 40
    refuse: str = ""
    """An action that the store refuses: reserve, verify, publish or discard."""


@dataclass
class Play:
    profile: Profile = STOCK_10_0
    scenario: Scenario = field(default_factory=Scenario)
    options: Options = field(default_factory=lambda: Options(output="/snap/vm.vmstate"))
    ram: int = 256 << 20
    fault: Fault | None = None
    on_event: Callable[["Play", QmpEvent], list[AnyEvent]] | None = None
    back_after: float = 0.2
    """Seconds after which a connection that broke can be made again."""
    reply: Callable[[Command, Any], Any] | None = None
    """Looks at what the twin replies, and gives what is replied instead."""
    latency: float = LATENCY
    argv: tuple[str, ...] = ("qemu-system-x86_64", "-device", "pvpanic")
    pid: int = 1
    watch: Callable[["Play"], None] | None = None
    """Called after every step: it may call `cancel` or `drop`."""

    def __post_init__(self) -> None:
        self.vm = SimulatedVm(self.profile, scenario=self.scenario, ram=self.ram, schema=schema(self.profile.name))
        self.store = Store()
        self.state = State(Vm("unix:/sim"))
        self.before = dict(self.vm.parameters), self.vm.capabilities
        self.now = 0.0
        self.sent: list[Action] = []
        self.drops = 0
        self.steps = 0
        self._reconnect_at: float | None = None

    # --- what a test says ---------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Play to the end, and say how it ended."""
        self.connect()
        self.step(Wish(self.now, self.options))
        while not self.done:
            self.turn()
        return report(self.state)

    @property
    def work(self) -> Workflow:
        assert self.state.work is not None
        return self.state.work

    @property
    def done(self) -> bool:
        return self.work.phase is Phase.DONE

    def cancel(self) -> None:
        self.step(Cancel(self.now))

    def drop(self) -> None:
        """The monitor's connection breaks, and can be made again a while later."""
        self.drops += 1
        self.vm.disconnect(self.now)
        self._reconnect_at = self.now + self.back_after
        self.step(Disconnected(self.now, Link.LOST, "the monitor's connection broke"))

    def phases(self) -> list[Phase]:
        return [phase for phase, _at in self.work.timeline]

    def commands(self, name: str) -> list[Command]:
        return [each for each in self.sent if isinstance(each, Command) and each.execute == name]

    # --- the engine's part --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self.vm.connect(self.now)
        self.vm.receive({"execute": "qmp_capabilities"}, self.now)
        self.vm.output()
        version = self.profile.version
        number = (version[0], version[1], version[2])
        self.step(Connected(self.now, number, "sim", True, self.pid, self.argv))

    def step(self, event: AnyEvent) -> None:
        """One event in; if an action comes out, it is performed at once."""
        self.steps += 1
        before = self.state.actions
        self.state = workflow.step(self.state, event)
        action = self.state.outstanding if self.state.actions != before else None
        if action is not None:
            self.sent.append(action)
        if self.watch is not None and self.state.work is not None and not self.done:
            watch, self.watch = self.watch, None  # what it does is not watched in turn
            watch(self)
            self.watch = watch
        if action is not None and self.state.outstanding is action:
            self._perform(action)

    def turn(self) -> None:
        """Let time pass until the next thing happens."""
        due = [at for at in (self.vm.next_at(), workflow.wake(self.state), self._reconnect_at) if at is not None]
        assert due, f"nothing will ever happen: {self.work.phase}, outstanding {self.state.outstanding}"
        self._move_to(max(min(due), self.now + 1e-6))
        assert self.now < LIMIT, f"still in {self.work.phase} after {self.now:.0f} s; last sent {self.sent[-5:]}"

    def _move_to(self, at: float) -> None:
        self.now = at
        self.vm.advance(at)
        if not self.vm.alive and self.state.vm.link is not Link.GONE:
            self._die()
            return
        if self._reconnect_at is not None and at >= self._reconnect_at:
            self._reconnect_at = None
            if self.vm.alive:
                self.connect()
        self._deliver()
        if not self.done:
            self.step(Tick(self.now))

    def _die(self) -> None:
        self._deliver()
        self._reconnect_at = None
        self.step(Disconnected(self.now, Link.GONE, "QEMU closed the monitor"))

    def _deliver(self) -> dict[str, Any] | None:
        """Hand on what the twin said; the reply, if one is among it, is returned instead."""
        reply = None
        for message in self.vm.output() if self.state.vm.link is Link.UP else []:
            if "event" in message:
                self._event(QmpEvent(self.now, message["event"], message.get("data", {})))
            elif "QMP" not in message:
                reply = message
        return reply

    def _event(self, event: QmpEvent) -> None:
        for each in [event] if self.on_event is None else self.on_event(self, event):
            if not self.done:
                self.step(each)

    def _perform(self, action: Action) -> None:
        how = self.fault(self, action) if self.fault else None
        if not isinstance(action, Command):
            self._answer(Refused(self.now, "the store says no") if how else self._stored(action))
        elif how == "refuse":
            self._answer(Refused(self.now, "made to fail"))
        elif how == "refuse-foreign":
            self._answer(Refused(self.now, "There's a migration process in progress"))
        elif how == "drop-before":
            self.drop()
        else:
            self._command(action, how)

    def _command(self, command: Command, how: str | None) -> None:
        message: dict[str, Any] = {"execute": command.execute}
        if command.arguments:
            message["arguments"] = command.arguments
        kinds = {Fd.STATE: (STATE_NUMBER, FdKind.FILE), Fd.BROKEN_PIPE: (PIPE_NUMBER, FdKind.BROKEN)}
        number, kind = kinds[command.fd] if command.fd else (None, FdKind.PIPE)
        self.now += self.latency
        if command.execute == "query-qmp-schema":
            self._answer(Answered(self.now, Offered(_features(self.profile.name))))
            return
        self.vm.receive(message, self.now, number, kind)
        if how == "drop-after":
            self.drop()
            return
        outstanding = self.state.actions
        reply = self._deliver()
        if not self.vm.alive:
            self._die()
            return
        if self.state.actions != outstanding or self.done:
            return
        if how == "lose-reply":
            self.now += command.timeout
            self.vm.advance(self.now)
            self._deliver()
            self._answer(Unknown(self.now, f"no answer within {command.timeout:g} s"))
        elif reply is not None:
            self._answer(self._meaning(command, reply))
        else:
            self._wait_for_reply(command)

    def _wait_for_reply(self, command: Command) -> None:
        """A reply that comes later, after events."""
        deadline = self.now + command.timeout
        while self.now < deadline:
            due = self.vm.next_at()
            self.now = min(due, deadline) if due is not None else deadline
            self.vm.advance(self.now)
            if (reply := self._deliver()) is not None:
                self._answer(self._meaning(command, reply))
                return
            if not self.vm.alive:
                self._die()
                return
        self._answer(Unknown(self.now, f"no answer within {command.timeout:g} s"))

    def _meaning(self, command: Command, reply: dict[str, Any]) -> AnyEvent:
        if "error" in reply:
            return Refused(self.now, reply["error"]["desc"], reply["error"]["class"])
        value = self.reply(command, reply["return"]) if self.reply else reply["return"]
        try:
            return Answered(self.now, commands.understand(command, value))
        except commands.ReplyError as error:
            return Refused(self.now, str(error), "BadReply")

    def _answer(self, event: AnyEvent) -> None:
        if not self.done:
            self.step(event)

    def _stored(self, action: Action) -> AnyEvent:
        if type(action).__name__.lower() == self.store.refuse:
            return Refused(self.now, "the store says no")
        learned: Learned | None = None
        match action:
            case Survey(path):
                learned = Surveyed(Place(path, self.store.problem, self.store.free))
            case Reserve():
                self.store.partial = True
            case Verify():
                self.now += 0.1
                self.vm.advance(self.now)
                self._deliver()
                learned = Read(self._read_through())
            case Publish():
                self.store.partial, self.store.published = False, True
            case Discard():
                self.store.partial = False
        return Answered(self.now, learned)

    def _read_through(self) -> FileReport:
        written = [write for write in self.vm.writes() if write.kind == "stream"]
        whole = self.vm.migration is not None and self.work.marks.completed is not None
        return FileReport(sum(write.size for write in written), whole, "" if whole else "it breaks off", runstate="paused")
