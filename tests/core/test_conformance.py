"""The twin answers the recorded commands as the real QEMU did: the same events, in the same order, the same replies.

A recording is replayed command by command, each at its own time. A command that a client sent after it had seen an
event waits for the twin's event too, so that a copy which takes a little longer here does not change the story.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.core.conformance_differences import DIFFERENCES
from tests.core.recorded import Line, Transcript, schema, transcripts
from vmtui.backend.core.sim import PROFILES, FdKind, Scenario, SimulatedVm

TOLERANCE = 0.35
"""Seconds by which an event may come earlier or later than recorded: the copy's speed was not quite constant."""

CHATTER = frozenset({"NIC_RX_FILTER_CHANGED", "FAILOVER_NEGOTIATED"})
"""Events about the guest's network drivers, at times that say nothing."""

EXACT = frozenset({"total", "page-size", "dirty-sync-count", "pass", "expected-downtime"})
"""Numbers that must be the same; of all others only the type counts. Everything else is compared as it is."""

LONG = 100
"""Characters from which a text is not quoted."""

WORLD: dict[str, Any] = {"unplug_delay": 0.17, "disk_speed": 600e6, "dump_speed": 350e6, "dirty_rate": 2.5e6}
"""How fast the recorded guests and disks were."""

SCENARIOS: dict[str, dict[str, Any]] = {
    "pause-vm-10.0": {"touched": 0.36},
    "crashed-guest-no-panic-device": {"panics": 1.0, "panic_device": False},
    "crashed-guest-panic-action-pause": {"panics": 0.4066},
    "panic-default-action-qemu-exits": {"panics": 0.4065},
    "system-reset-during-cancelling": {"panics": 0.4066},
    "stock-11.1/crashed-guest-no-panic-device": {"panics": 1.0, "panic_device": False, "dump_speed": 250e6},
    "stock-11.1/system-reset-during-cancelling": {"panics": 0.4066, "boot_time": 6.0},
    "restore-incoming-defer": {"runstate": "inmigrate"},
    "pause-vm-10.0/crashed-guest-no-panic-device": {"panics": 6.0, "panic_device": False},
    "pause-vm-10.0/crashed-guest-panic-action-pause": {"panics": 5.794, "panic_action": "pause"},
}

RECORDED = transcripts()


def scenario_of(transcript: Transcript) -> Scenario:
    own = SCENARIOS.get(str(transcript), SCENARIOS.get(transcript.name, {}))
    return Scenario(**{**WORLD, **SCENARIOS.get(transcript.profile, {}), **own})


@dataclass
class Replay:
    """One recording against one twin."""

    transcript: Transcript
    vm: SimulatedVm
    late: float = 0.0
    """Seconds by which the twin's story lags behind the recording."""
    differences: list[str] = field(default_factory=list)
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """The twin's, with their times, not yet compared."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    """The twin's, not yet compared."""
    command: str = "connect"

    def run(self) -> list[str]:
        self.vm.connect(0.0)
        for index, line in enumerate(self.transcript.lines):
            self.step(line, self.handled_at(index))
        self.until(self.transcript.lines[-1].at)
        for _, event in self.events:
            self.differ(f"the twin alone sends {words(event)}")
        return self.differences

    def handled_at(self, index: int) -> float:
        """When the real QEMU had handled what was sent: at the reply, not when it was sent."""
        later = self.transcript.lines[index:]
        return next((line.at for line in later if "return" in line.message or "error" in line.message), later[0].at)

    def step(self, line: Line, handled_at: float) -> None:
        if line.direction == "send":
            self.send(line, handled_at)
        elif line.direction == "closed":
            self.until(line.at)
            if self.vm.alive:
                self.differ("the twin lives on")
        elif "event" in line.message:
            if line.message["event"] not in CHATTER:
                self.expect_event(line)
        else:
            self.expect_reply(line)

    def send(self, line: Line, handled_at: float) -> None:
        self.until(handled_at)
        message = dict(line.message)
        passed = message.pop("fd", None)
        self.command = describe(message)
        fd, kind = (None, FdKind.PIPE) if passed is None else (7, FdKind.BROKEN)
        self.vm.receive(message, self.vm.now, fd, kind)
        self.take()

    def expect_reply(self, line: Line) -> None:
        self.take()
        if not self.replies:
            self.differ(f"no reply to {self.command}")
            return
        differences = compare(line.message, self.replies.pop(0), "")
        self.differences += [f"{self.command}: {difference}" for difference in differences]

    def expect_event(self, line: Line) -> None:
        wanted = words(line.message)
        position = self.wait_for_event(wanted, line.at)
        if position is None:
            self.differ(f"the twin does not send {wanted}")
            return
        at, event = self.events.pop(position)
        if position > 0:
            self.differ(f"{wanted} comes after {words(self.events[0][1])}")
        if abs(at - self.late - line.at) > TOLERANCE:
            self.differ(f"{wanted} {at - self.late - line.at:+.2f} s")
        self.differences += compare(data(line.message), data(event), wanted)

    def wait_for_event(self, wanted: str, at: float) -> int | None:
        """Where among the twin's events it is; the twin may go on past the recorded time until it comes."""
        patience = at + self.late + TOLERANCE
        while (position := self.position(wanted)) is None:
            due = self.vm.next_at()
            if due is None or due > patience:
                return None
            self.vm.advance(due)
            self.take()
            self.late = max(self.late, self.vm.now - at)
        return position

    def position(self, wanted: str) -> int | None:
        return next((index for index, (_, event) in enumerate(self.events) if words(event) == wanted), None)

    def until(self, at: float) -> None:
        """Let the twin go on until a recorded time, each event at its own."""
        end = max(self.vm.now, at + self.late)
        while (due := self.vm.next_at()) is not None and due <= end:
            self.vm.advance(due)
            self.take()
        self.vm.advance(end)
        self.take()

    def take(self) -> None:
        for message in self.vm.output():
            if "event" not in message:
                self.replies.append(message)
            elif message["event"] not in CHATTER:
                self.events.append((self.vm.now, message))

    def differ(self, what: str) -> None:
        self.differences.append(what)


def words(event: dict[str, Any]) -> str:
    detail = data(event)
    return f"{event['event']} {detail.get('status', detail.get('pass', ''))}".strip()


def data(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = event.get("data", {})
    return found


def describe(message: dict[str, Any]) -> str:
    arguments = message.get("arguments", {})
    return f"{message['execute']} {arguments.get('command-line', '')}".strip()


def compare(real: Any, twin: Any, where: str) -> list[str]:
    """What differs in shape or meaning."""
    if isinstance(real, dict) and isinstance(twin, dict):
        return [*_compare_keys(real, twin, where), *_compare_members(real, twin, where)]
    if isinstance(real, list) and isinstance(twin, list) and len(real) == len(twin):
        pairs = enumerate(zip(real, twin, strict=True))
        return [item for index, (one, other) in pairs for item in compare(one, other, f"{where}[{index}]")]
    if is_number(real) and is_number(twin) and where.rpartition(".")[2] not in EXACT:
        return []
    if real == twin:
        return []
    if isinstance(real, str) and len(real) > LONG:
        return [f"{where} is another text"]
    return [f"{where} is {twin!r} instead of {real!r}"]


def _compare_keys(real: dict[str, Any], twin: dict[str, Any], where: str) -> list[str]:
    missing = [f"{where}.{key} is missing" for key in real if key not in twin]
    return missing + [f"{where}.{key} is too much" for key in twin if key not in real]


def _compare_members(real: dict[str, Any], twin: dict[str, Any], where: str) -> list[str]:
    shared = (key for key in real if key in twin)
    return [difference for key in shared for difference in compare(real[key], twin[key], f"{where}.{key}")]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("transcript", RECORDED, ids=str)
def test_the_twin_tells_the_recorded_story(transcript: Transcript) -> None:
    vm = SimulatedVm(PROFILES[transcript.profile], scenario=scenario_of(transcript), schema=schema(transcript.profile))
    found = Replay(transcript, vm).run()
    assert sorted(set(found)) == sorted(DIFFERENCES.get(str(transcript), {}))


def test_every_listed_difference_belongs_to_a_recording() -> None:
    assert DIFFERENCES.keys() <= {str(transcript) for transcript in RECORDED}


def test_every_profile_was_recorded() -> None:
    assert {transcript.profile for transcript in RECORDED} == PROFILES.keys()
