"""The workflow and the twin together, one small step at a time: what happens next, and what may go wrong there?

A `World` is the engine's stand-in. It carries messages, keeps a pretended store and moves the clock; there is no I/O and
no recursion, so that it can be cloned at any point and go on differently. `point()` says what is about to happen, `take()`
lets it happen, or makes it go wrong.
"""

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any, Self

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
from vmtui.backend.core.conditions import LOST_LIMIT
from vmtui.backend.core.events import (
    Answered,
    AnyEvent,
    Cancel,
    Connected,
    Disconnected,
    Pinged,
    QmpEvent,
    Refused,
    Restarted,
    Tick,
    Unknown,
    Wish,
)
from vmtui.backend.core.model import Features, FileReport, Link, Options, Phase, Place, Vm, Workflow
from vmtui.backend.core.sim import STOCK_10_0, FdKind, Profile, Scenario, SimulatedVm
from vmtui.backend.core.state import State
from vmtui.backend.schemas import raw_schema

LATENCY = 0.0004
"""Seconds from a command to its reply, as measured on a unix socket."""
BACK_AFTER = 0.2
"""Seconds after which a connection that broke can be made again."""
PING_LIMIT = 2.0
"""Seconds that a guest agent has for its answer."""
READING = 0.1
"""Seconds that the file takes to be read through."""
STATE_NUMBER, PIPE_NUMBER = 7, 8
DESCRIPTORS = {
    Fd.STATE: (STATE_NUMBER, FdKind.FILE),
    Fd.BROKEN_PIPE: (PIPE_NUMBER, FdKind.BROKEN),
    None: (None, FdKind.PIPE),
}
LIMIT = 900.0
"""Simulated seconds in which every workflow must have ended."""


class Point(StrEnum):
    """What is about to happen."""

    ACTION = "action"
    """An action is performed: a command reaches QEMU, or the store does something."""
    EVENT = "event"
    """An event of QEMU reaches the workflow."""
    REPLY = "reply"
    """What became of the action reaches the workflow."""
    WAIT = "wait"
    """Nothing: time passes until something happens."""


class Choice(StrEnum):
    """What becomes of it. All but the first are deviations from the plain story."""

    PASS = "pass"
    REFUSE = "refuse"
    REFUSE_KIND = "refuse-this-for-ever"
    """This command, or action of the store, is refused from now on."""
    REFUSE_ALL = "refuse-all-for-ever"
    """Everything is, questions too, from a command that changes something on."""
    LOSE = "lose"
    LOSE_ALL = "lose-all-for-ever"
    """No event arrives any more; or, of a reply: no reply does."""
    DOUBLE = "double"
    SWAP = "swap"
    """It arrives after the next message."""
    DROP = "drop"
    """The connection breaks, with all that is on its way, and can be made again a while later."""
    DROP_FOR_GOOD = "drop-for-good"
    CANCEL = "cancel"
    """The user cancels, just before."""
    RESTART = "restart"
    """vmtui is killed, with all that is on its way; a new one goes on from the journal."""


OPTIONS: dict[Point, tuple[Choice, ...]] = {
    Point.ACTION: (Choice.REFUSE, Choice.REFUSE_KIND, Choice.REFUSE_ALL, Choice.DROP, Choice.DROP_FOR_GOOD, Choice.CANCEL,
                   Choice.RESTART),
    Point.EVENT:  (Choice.LOSE, Choice.LOSE_ALL, Choice.DOUBLE, Choice.SWAP, Choice.DROP, Choice.CANCEL, Choice.RESTART),
    Point.REPLY:  (Choice.LOSE, Choice.LOSE_ALL, Choice.DROP, Choice.CANCEL, Choice.RESTART),
    Point.WAIT:   (Choice.DROP, Choice.CANCEL, Choice.RESTART),
}  # fmt: skip
"""Where what may go wrong. Another kind of deviation is a member above, a word here, and a line in `World.take`.

A cancel before QEMU's reply is the cancel before its action; a connection that breaks before the reply loses the reply.
"""


BREAKS = frozenset({Choice.DROP, Choice.RESTART, Choice.CANCEL})
"""What breaks off a story, whatever was being done."""
FOR_EVER = frozenset({Choice.REFUSE_KIND, Choice.REFUSE_ALL})
"""Long stories: a walk has them as the only deviation, never with others (tests with random plans have both)."""


class StuckError(AssertionError):
    """The workflow has not ended, and never will."""


@dataclass(frozen=True, slots=True)
class Store:
    """What is on the pretended disk."""

    partial: bool = False
    published: bool = False
    whole: bool = False
    """The twin has written a state into the file from its beginning to its end."""
    problem: str = ""
    free: int = 1 << 40
    refuse: str = ""
    """An action that the store refuses: reserve, verify, publish or discard."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What goes wrong for ever."""

    refused: frozenset[str] = frozenset()
    """Actions that are refused, by name; `*` for all of them."""
    deaf: bool = False
    """Events are lost."""
    mute: bool = False
    """Replies are lost."""


PLAIN = Mode()


@dataclass(frozen=True, slots=True)
class Reply:
    """QEMU's reply, or what stands for it."""

    message: dict[str, Any] = field(default_factory=dict)
    event: AnyEvent | None = None
    """Where it is none of QEMU's: a refusal that was made up."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store answers: no connection is needed for it."""

    event: AnyEvent


Message = QmpEvent | Reply | Stored


def changes_something(action: Action | None) -> bool:
    """The store's actions after the first one do too, but that one comes before them."""
    return isinstance(action, Reserve) or (isinstance(action, Command) and action.learns is None)


@cache
def features(profile: str) -> Features:
    return commands.features(json.loads(raw_schema(profile)))


@lru_cache(maxsize=4096)
def _understood_text(execute: str, command: "_ByFact", text: str) -> Learned | None:
    return commands.understand(command.command, text)


@dataclass(frozen=True, slots=True)
class _ByFact:
    """A question to the human monitor: its text answer means the same each time."""

    fact: str
    about: str
    command: Command = field(compare=False)


def understand(command: Command, value: Any) -> Learned | None:
    """As `commands.understand`, which is pure: long texts are read once."""
    if isinstance(value, str) and command.learns is not None:
        return _understood_text(command.execute, _ByFact(command.learns, command.about, command), value)
    return commands.understand(command, value)


def name_of(action: Action) -> str:
    """QEMU's name of a command; of the store's actions, their own."""
    return action.execute if isinstance(action, Command) else type(action).__name__.lower()


class World:
    """One VM, and what vmtui does to it."""

    def __init__(
        self,
        profile: Profile = STOCK_10_0,
        scenario: Scenario | None = None,
        options: Options | None = None,
        *,
        ram: int = 256 << 20,
        latency: float = LATENCY,
        back_after: float | None = BACK_AFTER,
        argv: tuple[str, ...] | None = None,
        pid: int = 1,
        store: Store | None = None,
        mode: Mode = PLAIN,
    ) -> None:
        """`latency` and `back_after` in seconds; a connection that broke does not come back where the latter is None.
        Without `argv` QEMU's command line says what the scenario says of a panic."""
        self.profile = profile
        self.options = options or Options(output="/snap/vm.vmstate")
        self.latency, self.back_after, self.pid = latency, back_after, pid
        self.argv = ("qemu-system-x86_64", *(scenario or Scenario()).panic_words) if argv is None else argv
        self.vm = SimulatedVm(profile, scenario=scenario or Scenario(), ram=ram, schema=schema(profile.name))
        self.before = dict(self.vm.parameters), self.vm.capabilities
        self.state = State(Vm("unix:/sim"))
        self.store = store or Store()
        self.mode = mode
        self.now = 0.0
        self.points = 0
        """How often `take` was called: what a recipe counts by."""
        self.queue: tuple[Message, ...] = ()
        """What is on its way to the workflow."""
        self.held: Message | None = None
        """What arrives after the next message."""
        self.performed = 0
        """The number of the last action that was performed, or was kept from being."""
        self.intent_kept = False
        """On disk, in the journal: from the first action on that changes anything."""
        self.deadline: float | None = None
        """When a reply that has not come counts as lost."""
        self.reconnect_at: float | None = None
        self.ping_ends: float | None = None

    def clone(self) -> Self:
        """An independent copy, cheap: all values are immutable but the twin."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.vm = self.vm.clone()
        return other

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def work(self) -> Workflow:
        assert self.state.work is not None
        return self.state.work

    @property
    def done(self) -> bool:
        return self.state.work is not None and self.state.work.phase is Phase.DONE

    @property
    def linked(self) -> bool:
        return self.state.vm.link is Link.UP

    def point(self) -> Point | None:
        """What is about to happen; None at the end."""
        if self.done:
            return None
        if self.state.outstanding is not None and self.performed != self.state.actions:
            return Point.ACTION
        if self.queue:
            return Point.EVENT if isinstance(self.queue[0], QmpEvent) else Point.REPLY
        return Point.WAIT

    def about(self) -> str:
        """What is about to happen, for people."""
        point = self.point()
        if point is Point.ACTION and self.state.outstanding is not None:
            return name_of(self.state.outstanding)
        if point is Point.EVENT and isinstance(event := self.queue[0], QmpEvent):
            return f"{event.name} {event.data.get('status', '')}".strip()
        if point is Point.REPLY and self.state.outstanding is not None:
            return f"reply to {name_of(self.state.outstanding)}"
        return str(point)

    def deviations(self) -> tuple[Choice, ...]:
        """What may go wrong here."""
        point = self.point()
        return () if point is None else tuple(choice for choice in OPTIONS[point] if self._may(choice, point))

    def _may(self, choice: Choice, point: Point) -> bool:
        match choice:
            case Choice.DROP | Choice.DROP_FOR_GOOD:
                return self.linked
            case Choice.CANCEL:
                seen = point is Point.REPLY and isinstance(self.queue[0], Reply)
                return not (seen or self.work.given_up or self.work.published)
            case Choice.RESTART:
                return self.intent_kept or (point is Point.ACTION and changes_something(self.state.outstanding))
            case Choice.REFUSE_ALL:
                action = self.state.outstanding
                asks = isinstance(action, Command) and action.learns is not None
                return not asks and "*" not in self.mode.refused
            case Choice.REFUSE_KIND:
                return self.state.outstanding is not None and name_of(self.state.outstanding) not in self.mode.refused
            case Choice.SWAP:
                return self.held is None
            case Choice.LOSE | Choice.LOSE_ALL if point is Point.REPLY:
                return isinstance(self.queue[0], Reply)
            case _:
                return True

    # --- stepping -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and ask for the workflow."""
        self.connect()
        self.step(Wish(self.now, self.options))

    def take(self, choice: Choice = Choice.PASS) -> None:
        """Let what is about to happen happen, or make it go wrong."""
        point = self.point()
        self.points += 1
        match choice:
            case Choice.CANCEL:
                self.cancel()
            case Choice.DROP:
                self.drop()
            case Choice.DROP_FOR_GOOD:
                self.drop(for_good=True)
            case Choice.RESTART:
                self.restart()
            case Choice.LOSE_ALL if point is Point.EVENT:
                self.mode = replace(self.mode, deaf=True)
            case Choice.LOSE_ALL:
                self.mode = replace(self.mode, mute=True)
            case Choice.REFUSE_KIND | Choice.REFUSE_ALL:
                assert self.state.outstanding is not None
                name = "*" if choice is Choice.REFUSE_ALL else name_of(self.state.outstanding)
                self.mode = replace(self.mode, refused=self.mode.refused | {name})
            case _ if point is Point.ACTION:
                self._act(choice)
            case _ if point is Point.WAIT:
                self._wait()
            case _:
                self._deliver(choice)
        self.settle()

    def step(self, event: AnyEvent) -> None:
        """One event into the workflow."""
        before = self.state.ping
        self.state = workflow.step(self.state, event)
        if self.state.ping is not before:
            takes = LATENCY if self.vm.agent_answers() else PING_LIMIT
            self.ping_ends = None if self.state.ping is None else self.now + takes

    def cancel(self) -> None:
        self.step(Cancel(self.now))

    def drop(self, *, for_good: bool = False) -> None:
        """The monitor's connection breaks."""
        self.vm.disconnect(self.now)
        self.queue = tuple(each for each in self.queue if isinstance(each, Stored))
        self.held = self.deadline = None
        if isinstance(self.state.outstanding, Command):
            self.performed = self.state.actions
        self.reconnect_at = None if for_good or self.back_after is None else self.now + self.back_after
        self.step(Disconnected(self.now, Link.LOST, "the monitor's connection broke"))

    def restart(self) -> None:
        """vmtui is killed. To play the journal gives the very state that it had (tests/core/test_restart.py); then there is
        one event more, and the new engine connects. What is on disk was synced before anything was changed."""
        back = self.linked or self.reconnect_at is not None
        self.vm.disconnect(self.now)
        self.queue, self.held, self.deadline = (), None, None
        self.performed, self.intent_kept = self.state.actions, True
        self.reconnect_at = self.now + (self.back_after or BACK_AFTER) if back and self.vm.alive else None
        store = self.store
        self.step(Restarted(self.now, file=store.partial or store.published, published=store.published))

    def connect(self) -> None:
        self.reconnect_at = None
        self.vm.connect(self.now)
        self.vm.receive({"execute": "qmp_capabilities"}, self.now)
        self.vm.output()
        version = self.profile.version
        self.step(Connected(self.now, (version[0], version[1], version[2]), "sim", True, self.pid, self.argv))

    # --- actions ------------------------------------------------------------------------------------------------------

    def _act(self, choice: Choice) -> None:
        action = self.state.outstanding
        assert action is not None
        self.intent_kept = self.intent_kept or changes_something(action)
        if choice is Choice.REFUSE or self.mode.refused & {"*", name_of(action)}:
            self.refuse()
        else:
            self.perform()

    def refuse(self, text: str = "made to fail") -> None:
        """The action is not done, and whoever should do it says so."""
        self.performed = self.state.actions
        refused = Refused(self.now, text)
        if not isinstance(self.state.outstanding, Command):
            self.queue += (Stored(refused),)
            return
        self._move_to(self.now + self.latency)
        self.deadline = self.now + self.state.outstanding.timeout
        self.queue += (Reply(event=refused),)

    def perform(self) -> None:
        action = self.state.outstanding
        assert action is not None
        self.performed = self.state.actions
        if not isinstance(action, Command):
            event = self._stored(action)
            self.queue += (Stored(event),)
            return
        self.deadline = self.now + action.timeout
        self._move_to(self.now + self.latency)
        if action.execute == "query-qmp-schema":
            self.queue += (Reply(event=Answered(self.now, Offered(features(self.profile.name)))),)
            return
        message = {"execute": action.execute, "arguments": action.arguments}
        number, kind = DESCRIPTORS[action.fd]
        self.vm.receive(message, self.now, number, kind)
        self._collect()

    def _stored(self, action: Action) -> AnyEvent:
        if name_of(action) == self.store.refuse:
            return Refused(self.now, "the store says no")
        learned: Learned | None = None
        match action:
            case Survey(path):
                learned = Surveyed(Place(path, self.store.problem, self.store.free))
            case Reserve() if self.store.partial or self.store.published:
                return Refused(self.now, "File exists", "StoreError")
            case Reserve():
                self.store = replace(self.store, partial=True)
            case Verify() if self.work.interrupt:
                return Refused(self.now, "reading was interrupted", "StreamInterrupted")
            case Verify():
                self._move_to(self.now + READING)
                whole = self.store.whole
                learned = Read(FileReport(1, whole, "" if whole else "it breaks off", runstate="paused"))
            case Publish():
                self.store = replace(self.store, partial=False, published=True)
            case Discard():
                self.store = replace(self.store, partial=False, published=False)
        return Answered(self.now, learned)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _deliver(self, choice: Choice) -> None:
        message, self.queue = self.queue[0], self.queue[1:]
        if choice is Choice.SWAP:
            self.held = message
            return
        lost = self.mode.deaf if isinstance(message, QmpEvent) else self.mode.mute and isinstance(message, Reply)
        if choice is Choice.LOSE or lost:
            return
        self._hand_on(message)
        if choice is Choice.DOUBLE and not self.done:
            self._hand_on(message)
        if self.held is not None:
            self.queue, self.held = (self.held, *self.queue), None

    def _hand_on(self, message: Message) -> None:
        match message:
            case QmpEvent(_, name, data):
                self.step(QmpEvent(self.now, name, data))
            case Stored(event):
                self.step(_at(event, self.now))
            case Reply(reply, event):
                self.deadline = None
                command = self.state.outstanding
                assert isinstance(command, Command)
                self.step(_at(event, self.now) if event is not None else self.meaning(command, reply))

    def meaning(self, command: Command, reply: dict[str, Any]) -> AnyEvent:
        if "error" in reply:
            return Refused(self.now, reply["error"]["desc"], reply["error"]["class"])
        try:
            return Answered(self.now, understand(command, reply["return"]))
        except commands.ReplyError as error:
            return Refused(self.now, str(error), "BadReply")

    # --- time ---------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Let time pass until something happens that the workflow gets to know."""
        while self.vm.alive or self.state.vm.link is Link.GONE:
            waiting = self.state.outstanding is not None
            wake = self.deadline if waiting else self._wake()
            due = [at for at in (self.vm.next_at(), wake, self.reconnect_at, self.ping_ends) if at is not None]
            if not due:
                raise StuckError(f"nothing will ever happen: {self.work.phase}, outstanding {self.state.outstanding}")
            self._move_to(max(min(due), self.now + 1e-6))
            if self.now >= LIMIT:
                raise StuckError(f"still in {self.work.phase} after {self.now:.0f} s")
            if self._woken(wake, waiting) or self.queue:
                return

    def _wake(self) -> float | None:
        """When the engine would tick; of its ticks without a connection only the last one can change anything."""
        wake, lost = workflow.wake(self.state), self.work.marks.lost
        if wake is None or lost is None or self.linked or self.reconnect_at is not None:
            return wake
        return max(wake, lost + LOST_LIMIT)

    def _woken(self, wake: float | None, waiting: bool) -> bool:
        if self.reconnect_at is not None and self.now >= self.reconnect_at and self.vm.alive:
            self.connect()
            return True
        if self.ping_ends is not None and self.now >= self.ping_ends and self.state.ping is not None:
            self.step(Pinged(self.now, self.state.ping.id, self.vm.agent_answers()))
            return True
        if wake is None or self.now < wake:
            return False
        if not waiting:
            before = self.state
            self.step(Tick(self.now))
            return self.state.work is not before.work or self.state.actions != before.actions
        if not any(isinstance(each, Reply) for each in self.queue):
            self.deadline = None
            self.step(Unknown(self.now, "no answer in time"))
        return True

    def _move_to(self, at: float) -> None:
        self.now = at
        self.vm.advance(at)
        self._collect()

    def _collect(self) -> None:
        """What the twin has said, and what it has written."""
        if self.vm.out:
            said = self.vm.output()
            if self.linked:
                self.queue += tuple(_message(each) for each in said if "QMP" not in each)
        migration, dump = self.vm.migration, self.vm.dump
        made = [each for each in (migration, dump) if each is not None and each.target.target == STATE_NUMBER]
        if made and (whole := made[-1].status == "completed") != self.store.whole:
            self.store = replace(self.store, whole=whole)

    def settle(self) -> None:
        """A QEMU that has ended says what it still had to say, and then its monitor breaks."""
        if self.vm.alive or self.state.vm.link is Link.GONE or self.done:
            return
        self.queue = tuple(each for each in self.queue if not isinstance(each, Reply))
        if any(isinstance(each, QmpEvent) for each in self.queue):
            return
        self.held = self.deadline = self.reconnect_at = None
        if isinstance(self.state.outstanding, Command):
            self.performed = self.state.actions
        self.step(Disconnected(self.now, Link.GONE, "QEMU closed the monitor"))


def _message(said: dict[str, Any]) -> Message:
    return QmpEvent(0.0, said["event"], said.get("data", {})) if "event" in said else Reply(said)


def _at(event: AnyEvent, now: float) -> AnyEvent:
    match event:
        case Answered(_, learned):
            return Answered(now, learned)
        case Refused(_, text, error_class):
            return Refused(now, text, error_class)
        case Unknown(_, why):
            return Unknown(now, why)
        case _:
            return event
