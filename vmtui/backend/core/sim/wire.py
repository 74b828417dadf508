"""What if the wire, not QEMU, misbehaves: messages lost, doubled, swapped or late, or the connection cut?"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vmtui.backend.core.sim.target import FdKind
from vmtui.backend.core.sim.vm import SimulatedVm

Message = dict[str, Any]


class FaultKind(StrEnum):
    """What becomes of the message."""

    LOSE = "lose"
    DOUBLE = "double"
    SWAP = "swap"
    """It comes after the message that followed it."""
    DELAY = "delay"
    """It comes late; others overtake it."""
    CUT = "cut"
    """The connection ends instead; the next `connect` makes a new one."""


@dataclass(frozen=True, slots=True)
class WireFault:
    """One fault, for one message."""

    kind: FaultKind
    of: str = "event"
    """event or reply: which of the two `nth` counts. The greeting is never touched."""
    nth: int = 1
    """From 1, over all connections."""
    seconds: float = 1.0
    """Of a delay."""


class FaultyWire:
    """Stands where the twin's own wire stands, with the same methods. The VM behind it is `vm`."""

    __slots__ = ("_counts", "_held", "_out", "_swapped", "connected", "faults", "vm")

    def __init__(self, vm: SimulatedVm, *faults: WireFault) -> None:
        self.vm = vm
        self.faults = {(fault.of, fault.nth): fault for fault in faults}
        self.connected = False
        self._counts = {"event": 0, "reply": 0}
        self._out: list[Message] = []
        self._held: list[tuple[float, Message]] = []
        self._swapped: Message | None = None

    def connect(self, now: float) -> None:
        self.advance(now)
        self.connected = True
        self._out.clear()
        self.vm.connect(now)
        self._take()

    def disconnect(self, now: float) -> None:
        self.advance(now)
        self._cut()

    def receive(self, message: Message, now: float, fd: int | None = None, kind: FdKind = FdKind.PIPE) -> None:
        self.advance(now)
        self.vm.receive(message, now, fd, kind)
        self._take()

    def next_at(self) -> float | None:
        own = self.vm.next_at()
        late = [at for at, _ in self._held]
        return min(late if own is None else [own, *late], default=None)

    def advance(self, now: float) -> None:
        while (due := self.next_at()) is not None and due <= now:
            self._advance_to(due)
        self._advance_to(now)

    def _advance_to(self, now: float) -> None:
        self.vm.advance(now)
        self._take()
        due = [message for at, message in self._held if at <= now]
        self._held = [(at, message) for at, message in self._held if at > now]
        self._out += due

    def output(self) -> list[Message]:
        """What arrives at the client."""
        self._take()
        out, self._out = self._out, []
        return out

    def clone(self) -> "FaultyWire":
        twin = FaultyWire(self.vm.clone())
        twin.faults, twin.connected, twin._swapped = self.faults, self.connected, self._swapped
        twin._counts, twin._out, twin._held = self._counts.copy(), self._out.copy(), self._held.copy()
        return twin

    def key(self) -> Hashable:
        held = tuple((round((at - self.vm.now) * 1e6), repr(message)) for at, message in self._held)
        return (self.vm.key(), self.connected, tuple(self._counts.items()), held, repr(self._swapped), repr(self._out))

    def _take(self) -> None:
        for message in self.vm.output():
            if self.connected:
                self._carry(message)

    def _carry(self, message: Message) -> None:
        fault = self._fault(message)
        if fault is None:
            self._deliver(message)
        elif fault.kind is FaultKind.DOUBLE:
            self._deliver(message)
            self._deliver(message)
        elif fault.kind is FaultKind.SWAP:
            self._swapped = message
        elif fault.kind is FaultKind.DELAY:
            self._held.append((self.vm.now + fault.seconds, message))
        elif fault.kind is FaultKind.CUT:
            self._cut()

    def _fault(self, message: Message) -> WireFault | None:
        if "QMP" in message:
            return None
        of = "event" if "event" in message else "reply"
        self._counts[of] += 1
        return self.faults.get((of, self._counts[of]))

    def _deliver(self, message: Message) -> None:
        self._out.append(message)
        if self._swapped is not None:
            self._out.append(self._swapped)
            self._swapped = None

    def _cut(self) -> None:
        self.connected = False
        self._held, self._swapped = [], None
        self.vm.disconnect(self.vm.now)
