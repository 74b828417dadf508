"""How does a simulated VM look through its QMP monitors: the one that everything goes through, and one to look through?"""

from collections.abc import Hashable
from typing import Any

from vmtui.backend.core.sim.commands import COMMANDS
from vmtui.backend.core.sim.machine import LATER, MIB, Machine, Refused
from vmtui.backend.core.sim.profile import STOCK_10_0, Profile
from vmtui.backend.core.sim.scenario import Scenario
from vmtui.backend.core.sim.schema import CommandSchema
from vmtui.backend.core.sim.target import Fd, FdKind

_GOOD_DAY = Scenario()
_NEGOTIATE = "qmp_capabilities"
_EXPECTING = f"Expecting capabilities negotiation with '{_NEGOTIATE}'"
_COMPLETE = "Capabilities negotiation is already complete, command ignored"


class SimulatedVm(Machine):
    """A VM that answers QMP. It does no I/O and reads no clock: it is told the time and the messages.

    Times are seconds on any clock that does not run backwards. Reading the plain attributes (`runstate`, `cards`,
    `migration`, `alive`, `parameters`, `capabilities`) is how a test looks behind QMP; call `advance` first.
    """

    __slots__ = ("_waiting", "connected", "schema")

    def __init__(
        self,
        profile: Profile = STOCK_10_0,
        *,
        scenario: Scenario = _GOOD_DAY,
        ram: int = 256 * MIB,
        name: str = "vm",
        now: float = 0.0,
        schema: CommandSchema | None = None,
    ) -> None:
        """`ram` in bytes. Without a `schema` arguments are not checked."""
        super().__init__(profile, scenario, ram, name, now)
        self.schema = schema
        self.connected = False
        self._waiting: tuple[tuple[dict[str, Any], Fd | None], ...] = ()

    def clone(self) -> "SimulatedVm":
        """An independent copy: cheap, for nothing deep is copied."""
        twin = SimulatedVm.__new__(SimulatedVm)
        self._copy_into(twin)
        for slot in SimulatedVm.__slots__:
            setattr(twin, slot, getattr(self, slot))
        return twin

    # The wire

    def connect(self, now: float) -> None:
        """A client is connected: it gets the greeting. Whether it may is for the caller to say: QEMU serves one."""
        self.advance(now)
        if not self.alive:
            return
        self.connected, self.listening = True, False
        self.out.append(self.greeting())

    def disconnect(self, now: float) -> None:
        """The client is gone. Whatever runs goes on.

        Seen on 7.2: descriptors of getfd stay until they are used or closed; those of add-fd go, but not while the VM
        stands, and not while a migration writes to them.
        """
        self.advance(now)
        self.connected = self.listening = False
        if self.running and not self.migrating:
            self.fdsets.clear()
        self.out.clear()
        self._waiting = ()

    def receive(self, message: dict[str, Any], now: float, fd: int | None = None, kind: FdKind = FdKind.PIPE) -> None:
        """One QMP message, and the descriptor that came with it."""
        self.advance(now)
        if not self.alive or not self.connected:
            return
        self._take(message, None if fd is None else Fd(fd, kind))

    def output(self) -> list[dict[str, Any]]:
        """Takes the replies and events so far, in wire order."""
        out, self.out = self.out, []
        return out

    def ask(self, message: dict[str, Any], now: float) -> dict[str, Any]:
        """The reply to a message at the second monitor. Nothing that takes a descriptor or blocks goes through it.

        Its events are `overheard` once it has negotiated, which makes the VM `watched`; who serves it ends that.
        """
        self.advance(now)
        try:
            reply = {"return": self._answer_second(*_parsed(message))}
        except Refused as refused:
            reply = {"error": {"class": refused.error_class, "desc": str(refused)}}
        return {**reply, "id": message["id"]} if "id" in message else reply

    def _answer_second(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == _NEGOTIATE and not self.watched:
            self.watched = True
            return {}
        _refuse_unless_negotiated(command, self.watched)
        if command == "dump-guest-memory" and not arguments.get("detach"):
            raise Refused("the simulated VM does not know how to wait for a dump at its second monitor")
        return self._do(command, arguments)

    def _take(self, message: dict[str, Any], passed: Fd | None) -> None:
        if self._waiting:
            self._waiting += ((message, passed),)
        else:
            self._answer(message, passed)

    def unblock(self) -> None:
        """The command that blocked the monitor is answered, and then those that came meanwhile."""
        if not self._waiting:
            return
        (blocker, _), *behind = self._waiting
        self._waiting = ()
        self._reply(blocker, {"return": {}})
        for message, passed in behind:
            self._take(message, passed)

    def _answer(self, message: dict[str, Any], passed: Fd | None) -> None:
        self.passed = passed
        try:
            answer = self._execute(message)
        except Refused as refused:
            self._reply(message, {"error": {"class": refused.error_class, "desc": str(refused)}})
        else:
            if answer is LATER:
                self._waiting = ((message, None),)
            else:
                self._reply(message, {"return": answer})
        finally:
            self.passed = None

    def _reply(self, message: dict[str, Any], reply: dict[str, Any]) -> None:
        if "id" in message:
            reply["id"] = message["id"]
        self.out.append(reply)

    def _execute(self, message: dict[str, Any]) -> Any:
        command, arguments = _parsed(message)
        if command == _NEGOTIATE and not self.listening:
            return self._negotiate()
        _refuse_unless_negotiated(command, self.listening)
        return self._do(command, arguments)

    def _negotiate(self) -> dict[str, Any]:
        self.listening = True
        return {}

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        handler = COMMANDS.get(command)
        if command not in self.schema if self.schema is not None else handler is None:
            raise Refused(f"The command {command} has not been found", "CommandNotFound")
        complaint = self.schema.complaint(command, arguments) if self.schema is not None else None
        if complaint is not None:
            raise Refused(complaint)
        if handler is None:
            raise Refused(f"the simulated VM does not know how to {command}")
        return handler(self, arguments)

    def greeting(self) -> dict[str, Any]:
        """What a monitor says first."""
        return {"QMP": {"version": self.version(), "capabilities": ["oob"]}}

    def version(self) -> dict[str, Any]:
        major, minor, micro = self.profile.version
        return {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": self.profile.package}

    # For tests and exploration

    @property
    def card(self) -> dict[str, str]:
        """Where each primary is: plugged, out or deleted."""
        return {card.id: str(card.state) for card in self.cards}

    @property
    def migration_status(self) -> str:
        """The status query-migrate would name; empty when there never was a migration."""
        return self.migration.status if self.migration is not None else ""

    def key(self) -> Hashable:
        """The state in a canonical form: VMs with equal keys behave alike from here on.

        Times are relative to now, in whole microseconds, and sizes in pages. Left out is what only shows as a number of
        elapsed milliseconds, what was before, and what never changes within one exploration: profile, scenario, RAM and
        schema.
        """
        due = sorted(self.timers.items(), key=_time)  # stable: what is due at the same time keeps its order
        usual = self.profile.parameters
        return (
            (self.alive, self.connected, self.listening, self.runstate, self.guest, self.boots, self.panic_action),
            tuple((name, _micros(at - self.now)) for name, at in due),
            self.cards,
            self._migration_key(),
            (self.dump.status, self.dumped()),
            self.capabilities,
            tuple((name, repr(value)) for name, value in self.parameters.items() if usual.get(name) != value),
            tuple(self.fds.items()),
            tuple(self.fdsets.items()),
            self.disks,
            repr(self.out) if self.out else "",
            repr(self._waiting) if self._waiting else "",
        )

    def _migration_key(self) -> Hashable:
        migration = self.migration
        if migration is None:
            return None
        stream = migration.stream.settled(self.now)
        return (
            (migration.status, migration.target, migration.background, migration.error, migration.passes),
            (migration.polls_left, migration.stopped_it, migration.old_state, migration.incoming),
            migration.switched_at is None,
            (_pages(stream.left), _pages(stream.sent), _pages(stream.dirty), stream.rate, stream.dirtying),
        )


def _time(timer: tuple[str, float]) -> float:
    return timer[1]


def _pages(size: float) -> int:
    return round(size / 4096)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _refuse_unless_negotiated(command: str, negotiated: bool) -> None:
    """And a second negotiation, too."""
    if (command == _NEGOTIATE) == negotiated:
        raise Refused(_COMPLETE if negotiated else _EXPECTING, "CommandNotFound")


def _parsed(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    command = message.get("execute", message.get("exec-oob"))
    if command is None:
        raise Refused("QMP input lacks member 'execute'")
    if not isinstance(command, str):
        raise Refused("QMP input member 'execute' must be a string")
    arguments = message.get("arguments", {})
    if not isinstance(arguments, dict):
        raise Refused("QMP input member 'arguments' must be an object")
    return command, arguments
