"""What does an event say about the VM? `observe` folds it into the facts, in any phase, whoever caused it.

A query's answer and an event are equally good facts; an event only comes sooner. What a command may have changed is
forgotten (`without`), so that it is asked again before anybody relies on it.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from vmtui.backend.core import cmdline
from vmtui.backend.core.commands import (
    Channel,
    Command,
    ConfigWords,
    Cpus,
    Devices,
    Dumping,
    FdSets,
    Formats,
    Learned,
    MigrationNow,
    Number,
    Offered,
    Runstate,
    Settings,
    Text,
    dump,
)
from vmtui.backend.core.events import Connected, Disconnected, Pinged, QmpEvent
from vmtui.backend.core.model import Agent, Card, Cpu, Dump, Fact, Link, Migration, Primary, Sample, Vm

NO_CARD = 0xFFFFFFFF
BUS_MASTER = 1 << 2
UNPLUGGED_STATES = frozenset({"active", "pre-switchover", "device", "completed"})
"""Migration states that come only after every primary has left."""
KEPT_SAMPLES = 16


def with_fact(vm: Vm, fact: Fact, at: float, **changes: Any) -> Vm:
    return replace(vm, seen={**vm.seen, fact: at}, **changes)


def without(vm: Vm, *facts: Fact) -> Vm:
    """`vm` with these facts to be asked again; their last values stay."""
    vm = _unproved(vm) if Fact.CARDS in facts else vm
    return replace(vm, seen={fact: at for fact, at in vm.seen.items() if fact not in facts})


def _unproved(vm: Vm) -> Vm:
    """Each card is to be looked at again before the fact CARDS is known."""
    return replace(vm, primaries=tuple(replace(card, proved_at=-1.0) for card in vm.primaries))


def learn(vm: Vm, command: Command, learned: Learned, at: float) -> Vm:
    """`vm` after the answer to a query."""
    fact = command.learns
    assert fact is not None
    match learned:
        case Text(value) | Settings(value) | Dumping(value) | Offered(value) | Formats(value):
            known = _keep_reason(vm, value) if isinstance(value, Dump) else value
            return with_fact(vm, fact, at, **{fact.value.replace("-", "_"): known})
        case Runstate(status):
            return with_fact(vm, fact, at, runstate=status, panicked=vm.panicked or status == "guest-panicked")
        case MigrationNow(now):
            return with_fact(vm, fact, at, migration=_keep_numbers(vm.migration, now), primaries=_let_go(vm, now.status))
        case Number(value) if fact is Fact.YANK:
            return with_fact(vm, fact, at, tidying=bool(value))
        case Number(value) if fact is Fact.MEMORY:
            return with_fact(vm, fact, at, memory=value or 0)
        case Number(value):
            return with_fact(vm, fact, at, config_window=value)
        case FdSets(ids, in_use):
            return with_fact(vm, fact, at, fdsets=ids, fdsets_in_use=in_use)
        case Cpus(cpus):
            return with_fact(vm, fact, at, samples=_sampled(vm.samples, cpus, at))
        case Channel(path, held):
            return with_fact(vm, fact, at, agent=replace(vm.agent, path=path, held=held))
        case Devices(primaries, standbys, port):
            return with_fact(vm, fact, at, primaries=_merge(vm.primaries, primaries), standbys=standbys, agent_port=port)
        case ConfigWords(device_id, words):
            return _cards_seen(replace(vm, primaries=_proved(vm.primaries, device_id, words, at)), at)
        case _:
            return vm


def _sampled(before: tuple[Sample, ...], cpus: tuple[Cpu, ...], at: float) -> tuple[Sample, ...]:
    """Where their number has changed, the older ones cannot be compared with it."""
    if not cpus:
        return ()
    same = before if before and len(before[-1].cpus) == len(cpus) else ()
    return (*same, Sample(at, cpus))[-KEPT_SAMPLES:]


def pinged(vm: Vm, event: Pinged) -> Vm:
    """`vm` after the guest's agent answered, or did not. That of a guest which stands still could not."""
    agent = vm.agent
    if event.answered:
        return replace(vm, agent=replace(agent, answered=event.at, silent=None))
    if event.why_not:
        return replace(vm, agent=replace(agent, why_not=event.why_not))
    first = agent.asked if agent.silent is None else agent.silent
    return replace(vm, agent=replace(agent, silent=first)) if vm.runstate == "running" else vm


def _keep_numbers(before: Migration, now: Migration) -> Migration:
    """query-migrate gives no numbers in wait-unplug, setup, failed and cancelled: the last ones stay."""
    if now.total:
        return now
    return replace(now, transferred=before.transferred, total=before.total, remaining=before.remaining, mbps=before.mbps)


def _merge(before: tuple[Primary, ...], now: tuple[Primary, ...]) -> tuple[Primary, ...]:
    """Devices listed anew keep what was proved of them; one that was listed and is no longer is deleted."""
    old = {card.device_id: card for card in before}
    listed = tuple(
        replace(card, card=was.card, driven=was.driven, proved_at=was.proved_at, asked=was.asked)
        if (was := old.pop(card.device_id, None)) and was.card is not Card.DELETED
        else card
        for card in now
    )
    return listed + tuple(replace(card, card=Card.DELETED, driven=False) for card in old.values())


def _proved(
    primaries: tuple[Primary, ...], device_id: str, words: tuple[int, int] | None, at: float
) -> tuple[Primary, ...]:
    return tuple(_proved_card(card, words, at) if card.device_id == device_id else card for card in primaries)


def _proved_card(card: Primary, words: tuple[int, int] | None, at: float) -> Primary:
    if card.card is Card.DELETED:
        return replace(card, proved_at=at)
    if words is None:
        return replace(card, card=Card.NOT_PROVED, driven=False, proved_at=at)
    first, second = words
    if first == NO_CARD:
        return replace(card, card=Card.OUT, driven=False, proved_at=at)
    if f"{first & 0xFFFF:04x}:{first >> 16:04x}" != card.pci_id:
        # Some other device, or none at all: the guest has not numbered its buses yet, or has done so anew.
        return replace(card, card=Card.NOT_PROVED, driven=False, proved_at=at)
    return replace(card, card=Card.PLUGGED, driven=bool(second & BUS_MASTER), proved_at=at)


def _cards_seen(vm: Vm, at: float) -> Vm:
    """The fact CARDS is as old as its oldest proof: it is learned once every provable card was read."""
    oldest = min((card.proved_at for card in vm.primaries if card.slot is not None), default=at)
    return with_fact(vm, Fact.CARDS, oldest) if oldest >= 0 else vm


def _let_go(vm: Vm, status: str) -> tuple[Primary, ...]:
    if status not in UNPLUGGED_STATES:
        return vm.primaries
    return tuple(replace(card, asked=False) if card.asked else card for card in vm.primaries)


# --- events -------------------------------------------------------------------------------------------------------


def connected(vm: Vm, event: Connected) -> Vm:
    return replace(
        _unproved(vm),
        link=Link.UP,
        why_lost="",
        version=event.version,
        package=event.package,
        fd_passing=event.fd_passing,
        pid=event.pid,
        start_time=event.start_time,
        argv=event.argv or vm.argv,
        panic_action=_panic_action(vm, event),
        samples=(),
        agent=Agent(),
        seen={},
    )


def _panic_action(vm: Vm, event: Connected) -> str:
    """As the command line has it for a QEMU that is new to us; what was sent to this one since outlives its monitor."""
    known = vm.version != (0, 0, 0) and not is_another(vm, event)
    return vm.panic_action if known else cmdline.panic_action(event.argv or vm.argv)


def is_another(vm: Vm, event: Connected) -> bool:
    """Whether it is known that another process answers now; over tcp nobody knows."""
    if not vm.pid or not event.pid:
        return False
    return vm.pid != event.pid or (vm.start_time != event.start_time and 0 not in (vm.start_time, event.start_time))


def disconnected(vm: Vm, event: Disconnected) -> Vm:
    return replace(vm, link=event.link, why_lost=event.why, seen={})


def qmp_event(vm: Vm, event: QmpEvent) -> Vm:
    handler = _EVENTS.get(event.name)
    return handler(vm, event.data, event.at) if handler else vm


def _migration(vm: Vm, data: dict[str, Any], at: float) -> Vm:
    status = str(data.get("status", ""))
    numbers = replace(vm.migration, status=status, error=vm.migration.error if status == vm.migration.status else "")
    known = with_fact(vm, Fact.MIGRATION, at, migration=numbers, primaries=_let_go(vm, status))
    # Why it failed is only in query-migrate's answer.
    return without(known, Fact.MIGRATION) if status == "failed" else known


def _asked(vm: Vm, data: dict[str, Any], _at: float) -> Vm:
    name = data.get("device-id")
    return replace(
        vm,
        primaries=tuple(replace(card, asked=True) if card.device_id == name else card for card in vm.primaries),
    )


def _deleted(vm: Vm, data: dict[str, Any], _at: float) -> Vm:
    name = data.get("device")
    return replace(
        vm,
        primaries=tuple(
            replace(card, card=Card.DELETED, driven=False, asked=False) if card.device_id == name else card
            for card in vm.primaries
        ),
    )


def _keep_reason(vm: Vm, now: Dump) -> Dump:
    """Why it failed only the event has told."""
    return replace(now, error=vm.dump.error) if now.status == vm.dump.status == "failed" else now


def _dumped(vm: Vm, data: dict[str, Any], at: float) -> Vm:
    """What an event says that makes no sense is asked."""
    try:
        ended = dump(data.get("result"))
    except ValueError:
        return without(vm, Fact.DUMP, Fact.STATUS)
    # QEMU lets the guest run on only after this.
    return without(with_fact(vm, Fact.DUMP, at, dump=replace(ended, error=str(data.get("error", "")))), Fact.STATUS)


def _reset(vm: Vm, _data: dict[str, Any], _at: float) -> Vm:
    """The guest boots: it will number its buses anew."""
    stale = (Fact.STATUS, Fact.DEVICES, Fact.CONFIG_WINDOW, Fact.CARDS)
    return without(replace(vm, panicked=False, samples=(), agent=Agent()), *stale)


def _stopped(vm: Vm, _data: dict[str, Any], at: float) -> Vm:
    """What tells how it is of a guest that does not answer is to be gathered anew, once it runs."""
    return with_fact(vm, Fact.STATUS, at, runstate="paused", samples=(), agent=replace(vm.agent, silent=None))


_EVENTS: dict[str, Callable[[Vm, dict[str, Any], float], Vm]] = {
    "MIGRATION":      _migration,
    "STOP":           _stopped,
    "RESUME":         lambda vm, _data, at: with_fact(vm, Fact.STATUS, at, runstate="running"),
    "GUEST_PANICKED": lambda vm, _data, _at: without(replace(vm, panicked=True), Fact.STATUS),
    "RESET":          _reset,
    "DUMP_COMPLETED": _dumped,
    "SHUTDOWN":       lambda vm, _data, _at: without(vm, Fact.STATUS),
    "UNPLUG_PRIMARY": _asked,
    "DEVICE_DELETED": _deleted,
}  # fmt: skip
