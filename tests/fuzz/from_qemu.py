"""What a QEMU, or who sits in its place, says to vmtui: recorded replies and events, and whole saves, made wrong."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import msgspec

from tests.core.play import Play
from tests.core.recorded import registers, transcripts
from tests.core.test_commands import VERSIONS, VM, hmp, query, schema
from tests.fuzz import mutate
from vmtui import headless
from vmtui.backend.core import facts, words, workflow
from vmtui.backend.core.commands import QUERIES, Command, ReplyError, understand
from vmtui.backend.core.events import Answered, AnyEvent, QmpEvent, Refused
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.model import Fact, Goal, OnStuck, Options, Then
from vmtui.backend.core.sim import PROFILES, Scenario
from vmtui.backend.core.state import State
from vmtui.backend.core.text import printable
from vmtui.backend.engine import finished

STATE_LIMIT = 300_000
"""Bytes of JSON that all that is known of a VM may have: what one reply brings, and no pile of them."""

# --- recorded -------------------------------------------------------------------------------------------------------


@cache
def replies() -> dict[Fact, tuple[Any, ...]]:
    """What QEMUs replied to the query of each fact."""
    asked = {command.execute: fact for fact in Fact if (command := QUERIES[fact](VM)) is not None}
    found: dict[Fact, list[Any]] = {fact: [] for fact in Fact}
    for fact, value in _recorded(asked):
        if value not in found[fact]:
            found[fact].append(value)
    for version in VERSIONS:
        found[Fact.DEVICES].append(hmp(version)["info qtree"])
        found[Fact.CONFIG_WINDOW].append(hmp(version)["info mtree"])
    found[Fact.CAPABILITIES] += [[{"capability": "events", "state": True}, {"capability": "multifd", "state": False}]]
    found[Fact.CARDS] += ["b0200000: 0x10d38086 0x00100507\r\n", "00000000b0200000: 0xffffffff 0xffffffff\r\n"]
    found[Fact.FEATURES] += [schema(name) for name in PROFILES]
    found[Fact.MACHINE] += ["pc-q35-10.0-machine"]
    found[Fact.MEMORY] += [{"base-memory": 256 << 20, "plugged-memory": 0}]
    found[Fact.FDSETS] += [[{"fds": [{"fd": 17, "opaque": "vmtui-state"}], "fdset-id": 0}, {"fds": [], "fdset-id": 1}]]
    found[Fact.YANK] += [[{"type": "chardev", "id": "c"}, {"type": "migration"}]]
    found[Fact.CPUS] += [texts[0][1] for texts in registers().values()]
    found[Fact.AGENT] += [[{"frontend-open": True, "filename": "disconnected:unix:/a.sock,server=on", "label": "agent0"}]]
    found[Fact.UUID] += [{"UUID": "6b29fc40-ca47-1067-b31d-00dd010662da"}]
    found[Fact.NAME] += [{"name": "web"}]
    return {fact: tuple(values) for fact, values in found.items()}


def _recorded(asked: dict[str, Fact]) -> Iterator[tuple[Fact, Any]]:
    for transcript in transcripts():
        fact: Fact | None = None
        for line in transcript.lines:
            if line.direction == "send":
                fact = asked.get(line.message.get("execute", ""))
                fact = None if fact in (Fact.DEVICES, Fact.CONFIG_WINDOW, Fact.CARDS, Fact.MACHINE, Fact.CPUS) else fact
            elif "return" in line.message and fact is not None:
                yield fact, line.message["return"]


@cache
def events() -> tuple[dict[str, Any], ...]:
    """Every kind of event that was recorded, a few of each."""
    found: dict[str, dict[str, Any]] = {}
    for transcript in transcripts():
        for line in transcript.lines:
            if "event" in line.message:
                message = {"event": line.message["event"], "data": line.message.get("data", {})}
                found[repr(message)] = message
    return tuple(found.values())


@cache
def _refusals() -> tuple[str, ...]:
    said = {line.message["error"]["desc"] for each in transcripts() for line in each.lines if "error" in line.message}
    return tuple(sorted(said))


# --- what must hold -------------------------------------------------------------------------------------------------

_events = msgspec.json.Decoder(AnyEvent)


def kept(event: AnyEvent) -> None:
    """A journal can hold it, and says the same when it is read again."""
    assert _events.decode(msgspec.json.encode(event)) == event


def shown(state: State) -> None:
    """Whatever front ends make of this, no terminal gets a control character."""
    view = VmView(state)
    assert state.work is not None
    lines = [words.phase_line(state), words.stopped_line(state), words.status_word(state, (), state.work.phase, state.now)]
    lines += [headless.live_line(view), words.progress_line(state), words.verdict(state)]
    for each in state.work.findings:
        lines.append(words.finding_line(each.level, each.text, each.remedy))
    out = io.StringIO()
    printers = [headless.LinePrinter(out), headless.CheckPrinter(out)]
    if finished(view):
        lines += headless.ending(view).rstrip("\n").split("\n")
        for printer in printers:
            printer.show(view)
            printer.end(view, workflow_report(state))
    lines += out.getvalue().split("\n")
    for line in lines:
        assert printable(line, len(line)) == line, line
    said = io.StringIO()
    json_printer = headless.JsonPrinter(said)
    json_printer.show(view)
    if finished(view):
        json_printer.end(view, workflow_report(state))
    for line in said.getvalue().splitlines():
        msgspec.json.decode(line)
        assert line.isascii()


def workflow_report(state: State) -> Any:
    from vmtui.backend.core.result import report

    return report(state)


def small(state: State) -> None:
    size = len(msgspec.json.encode(state))
    assert size < STATE_LIMIT, f"{size} bytes are known of one VM"


# --- batches --------------------------------------------------------------------------------------------------------

_RARE = (Fact.FEATURES, Fact.DEVICES, Fact.CONFIG_WINDOW)
_OFTEN = tuple(fact for fact in Fact if fact not in _RARE)


def reply_batch(random: Random, size: int) -> int:
    """Replies to every query: understood, or a ReplyError; and what was understood is a fact like any other."""
    vm = VM
    for number in range(size):
        fact = random.choice(_OFTEN if random.random() < 0.9 else _RARE)
        command = query(fact)
        told = mutate.value(random, random.choice(replies()[fact]))
        try:
            learned = understand(command, told)
        except ReplyError as error:
            assert str(error)
            continue
        assert learned is not None
        kept(Answered(0.0, learned))
        vm = facts.learn(vm, command, learned, float(number))
        QUERIES[Fact.CARDS](vm)
    small(State(vm))
    return size


def event_batch(random: Random, size: int) -> int:
    """Events in every phase of a save: facts change or do not, the table comes to rest, nothing grows."""
    state = random.choice(_stages())
    at = state.now
    for _ in range(size):
        at += random.choice((0.0, 0.001, 0.3))
        message = mutate.value(random, random.choice(events()))
        data = message.get("data") if isinstance(message, dict) else None
        name = str(message.get("event", "")) if isinstance(message, dict) else ""
        event = QmpEvent(at, name, data if isinstance(data, dict) else {})
        kept(event)
        state = workflow.step(state, event)
        if state.outstanding is not None and random.random() < 0.2:
            state = workflow.step(state, Refused(at, mutate.text(random, random.choice(_refusals()))))
    shown(state)
    small(state)
    return size


@cache
def _stages() -> tuple[State, ...]:
    """The states that a few saves go through, one of each phase."""
    found: dict[object, State] = {}

    def look(play: Play) -> None:
        found.setdefault((play.options.goal, play.work.phase), play.state)

    for scenario in (Scenario(), Scenario(unplug_delay=None), Scenario(write_fails_after=1000)):
        play = Play(scenario=scenario, watch=look)
        play.run()
        found[scenario] = play.state
    return tuple(found.values())


@dataclass
class _Liar:
    """Stands between the twin and a save, and changes what QEMU says, now and then."""

    random: Random
    often: float
    messages: int = 0
    most: int = 60
    """Lies in one save; then QEMU tells the truth, so that there is an end to be seen."""
    seen: list[AnyEvent] = field(default_factory=list)

    def lies(self) -> bool:
        if self.messages >= self.most or self.random.random() > self.often:
            return False
        self.messages += 1
        return True

    def reply(self, command: Command, told: Any) -> Any:
        if command.learns is None and command.execute != "add-fd":
            return told
        return mutate.value(self.random, told) if self.lies() else told

    def on_event(self, _play: Play, event: QmpEvent) -> list[AnyEvent]:
        if not self.lies():
            return [event]
        other = mutate.value(self.random, self.random.choice(events()))
        data = other.get("data") if isinstance(other, dict) else None
        name = str(other.get("event", "")) if isinstance(other, dict) else ""
        made = QmpEvent(event.at, name, data if isinstance(data, dict) else {})
        return [made, event] if self.random.random() < 0.5 else [made]

    def fault(self, _play: Play, _action: Any) -> str | None:
        return "refuse" if self.messages and self.random.random() < 0.02 else None


def save_batch(random: Random, size: int) -> int:
    """Whole saves from a QEMU that lies: each ends, is judged, and can be told; nothing raises, nothing piles up."""
    messages = 0
    while messages < size:
        liar = _Liar(random, random.choice((0.05, 0.3, 0.8)))
        options = Options(
            goal=random.choice((Goal.SAVE, Goal.SAVE, Goal.SAVE, Goal.CHECK, Goal.RESUME)),
            output="/snap/vm.vmstate",
            then=random.choice(list(Then)),
            on_stuck=OnStuck.CANCEL,
        )
        scenario = random.choice((Scenario(), Scenario(), Scenario(unplug_delay=None), Scenario(primaries=2)))
        profile = random.choice(list(PROFILES.values()))
        play = Play(profile, scenario, options, reply=liar.reply, on_event=liar.on_event, fault=liar.fault)
        result = play.run()
        assert result.outcome
        shown(play.state)
        small(play.state)
        assert len(play.work.timeline) < 60
        assert len(play.work.notes) < 60
        messages += liar.messages + 1
    return messages
