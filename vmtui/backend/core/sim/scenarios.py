"""What can be asked for by name of a simulated VM, and what does each name change?

Names may be combined; some take a value after `=`. `--list` prints this table, and the tests hold each name to the exit
code that `vmtui save` is said to end with.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vmtui.backend.core.sim.scenario import CardState, Scenario, When
from vmtui.backend.core.sim.wire import FaultKind, WireFault

MIB = 1 << 20
MIN_RAM, MAX_RAM = MIB, 1 << 42
EVERY = 3000
"""Messages that a fault of the wire goes on for."""


class UnknownScenario(ValueError):
    """Its text says what there is."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the server does that no QEMU would, or that needs a socket to be done."""

    busy: bool = False
    """Another client seems to hold the monitor: nobody is greeted."""
    drops: When | None = None
    """The connection breaks once: seconds after the start, or a status or run state just entered."""
    back_after: float = 0.5
    """Seconds after which a connection that broke can be made again."""
    flood: float = 0.0
    """Events a second that mean nothing."""
    mute: str = ""
    """The command whose first reply never comes."""


@dataclass(frozen=True, slots=True)
class World:
    """One simulated VM, and everything around it."""

    scenario: Scenario = field(default_factory=Scenario)
    faults: tuple[WireFault, ...] = ()
    behaviour: Behaviour = field(default_factory=Behaviour)
    ram: int = 256 * MIB
    """Bytes."""


Change = Callable[[World, str], World]


class Named(NamedTuple):
    name: str
    value: str
    """What may stand after `=`: a word for the list; empty where nothing may."""
    default: str
    exit_code: int
    """Of `vmtui save` with its defaults on stock-10.0."""
    line: str
    change: Change

    @property
    def shown(self) -> str:
        return f"{self.name}[={self.value}]" if self.value else self.name


def world(names: Iterable[str], ram: int | None = None) -> World:
    """The world in which all of these hold. Raises UnknownScenario."""
    made = World() if ram is None else World(ram=ram)
    for spec in names:
        name, equals, value = spec.partition("=")
        named = BY_NAME.get(name)
        if named is None:
            raise UnknownScenario(f"{spec!r} is no scenario; there are: {', '.join(BY_NAME)}")
        if equals and not named.value:
            raise UnknownScenario(f"{name} takes no value")
        try:
            made = named.change(made, value or named.default)
        except ValueError as error:
            raise UnknownScenario(f"{spec!r}: {error}") from error
    return made


def listed() -> Iterator[str]:
    """One line for each."""
    width = max(len(named.shown) for named in SCENARIOS)
    for named in SCENARIOS:
        default = f" (default: {named.default})" if named.default else ""
        yield f"{named.shown:{width}}  {named.exit_code:>2}  {named.line}{default}"


# --- values -------------------------------------------------------------------------------------------------------

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
WORDS = ("setup", "wait-unplug", "active", "device", "completed", "cancelling", "cancelled", "failing", "failed", "paused",
         "running", "finish-migrate")  # fmt: skip
"""The migration statuses and run states that something may hang on."""


def size(text: str) -> int:
    """Bytes: "100M", "1T", "4096". Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size: 4096, 100M, 64G, 1T")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def ram_size(text: str) -> int:
    value = size(text)
    if not MIN_RAM <= value <= MAX_RAM:
        raise ValueError("a VM has 1M to 4T of RAM")
    return value


def number(text: str, least: float = 0.0, most: float = 1e6) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not least <= value <= most:
        raise ValueError(f"{text} is not between {least:g} and {most:g}")
    return value


def when(text: str) -> When:
    if text in WORDS:
        return text
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number of seconds nor one of {', '.join(WORDS)}") from None


def _share(text: str) -> float:
    return number(text, 0.0, 1.0)


def _word(*allowed: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text

    return check


# --- what a name changes ------------------------------------------------------------------------------------------


def _same(made: World, _value: str) -> World:
    return made


def _scenario(**changes: Any) -> Change:
    """These members of the scenario; a function is called with the value."""

    def change(made: World, value: str) -> World:
        wanted = {name: each(value) if callable(each) else each for name, each in changes.items()}
        return replace(made, scenario=replace(made.scenario, **wanted))

    return change


def _behaviour(**changes: Any) -> Change:
    def change(made: World, value: str) -> World:
        wanted = {name: each(value) if callable(each) else each for name, each in changes.items()}
        return replace(made, behaviour=replace(made.behaviour, **wanted))

    return change


def _wire(kind: FaultKind, of: str, first: int = 1, step: int = 1) -> Change:
    """Every `step`th message from the `first` on. The value is the seconds of a delay."""

    def change(made: World, value: str) -> World:
        seconds = number(value, 0.0, 3600.0) if value else 1.0
        faults = tuple(WireFault(kind, of, nth, seconds) for nth in range(first, EVERY, step))
        return replace(made, faults=made.faults + faults)

    return change


def _ram(made: World, value: str) -> World:
    return replace(made, ram=ram_size(value))


SCENARIOS: tuple[Named, ...] = (
    Named("good", "", "", 0, "nothing goes wrong", _same),
    Named("ram", "SIZE", "256M", 0, "how much RAM the guest has, 1M to 4T", _ram),
    Named("touched", "SHARE", "0.33", 0, "the share of the RAM that is not zero pages", _scenario(touched=_share)),
    Named("slow-disk", "SIZE", "50M", 0, "the disk takes that many bytes a second",
          _scenario(disk_speed=lambda text: float(max(size(text), 1)))),
    Named("slow-eject", "SECONDS", "12", 0, "the guest takes that long to let its card go",
          _scenario(unplug_delay=number)),
    Named("never-ejects", "", "", 6, "the guest never lets its card go", _scenario(unplug_delay=None)),
    Named("panics-before", "", "", 4, "the guest has panicked already, and stands (panic device, action pause)",
          _scenario(panics=0.0, panic_action="pause")),
    Named("panics-in-unplug", "", "", 10, "it panics when asked to let its card go, and stands (action pause)",
          _scenario(panics="wait-unplug", panic_action="pause", unplug_delay=None)),
    Named("panics-after-pause", "", "", 10, "it panics as soon as it runs again, and stands (action pause)",
          _scenario(panics="running", panic_action="pause")),
    Named("panics", "WHEN", "wait-unplug", 10, "it panics then, and QEMU does what its panic action says",
          _scenario(panics=when)),
    Named("panic-action", "ACTION", "shutdown", 0, "what QEMU does on a panic: shutdown (QEMU ends), pause, none",
          _scenario(panic_action=_word("shutdown", "pause", "none", "exit-failure"))),
    Named("no-panic-device", "", "", 0, "QEMU sees nothing of a panic: only silence tells",
          _scenario(panic_device=False)),
    Named("crashes", "WHEN", "wait-unplug", 6, "it panics without a panic device: silence, and the run state says running",
          _scenario(panics=when, panic_device=False, unplug_delay=None)),
    Named("agent", "HOW", "answers", 0, "it has a channel for a guest agent; there is one that answers, is silent, or none",
          _scenario(agent=_word("answers", "silent", "none"))),
    Named("agent-in-use", "", "", 0, "somebody else is connected to the guest agent",
          _scenario(agent="answers", agent_in_use=True)),
    Named("paused-by-other", "WHEN", "wait-unplug", 6, "somebody else pauses the VM then, and leaves it so",
          _scenario(paused_by_other=when, unplug_delay=0.4)),
    Named("continued-by-other", "WHEN", "paused", 0, "somebody else lets the VM run then",
          _scenario(continued_by_other=when)),
    Named("resets", "WHEN", "wait-unplug", 0, "the guest resets itself then", _scenario(resets=when)),
    Named("disk-full", "SIZE", "20M", 7, "no space left after that many bytes", _scenario(write_fails_after=size)),
    Named("write-error", "SIZE", "20M", 1, "an input/output error after that many bytes",
          _scenario(write_fails_after=size, write_error=lambda _: "Input/output error")),
    Named("killed", "WHEN", "active", 10, "QEMU is killed then", _scenario(killed=when)),
    Named("drops", "WHEN", "wait-unplug", 0, "the monitor's connection breaks then, and can be made again a while later",
          _behaviour(drops=when)),
    Named("back-after", "SECONDS", "0.5", 0, "how long it cannot be made again", _behaviour(back_after=number)),
    Named("busy", "", "", 3, "another client seems to hold the monitor: no greeting", _behaviour(busy=True)),
    Named("events-lost", "", "", 0, "no event ever arrives", _wire(FaultKind.LOSE, "event")),
    Named("events-doubled", "", "", 0, "every event comes twice", _wire(FaultKind.DOUBLE, "event")),
    Named("events-reordered", "", "", 0, "every other event comes after what followed it",
          _wire(FaultKind.SWAP, "event", step=2)),
    Named("events-late", "SECONDS", "0.5", 0, "every event comes that much later", _wire(FaultKind.DELAY, "event")),
    Named("replies-late", "SECONDS", "0.2", 0, "every reply but the first comes that much later; events overtake them",
          _wire(FaultKind.DELAY, "reply", first=2)),
    Named("reply-never", "COMMAND", "migrate", 0, "the first reply to that command never comes, though it was done",
          _behaviour(mute=str)),
    Named("flood", "RATE", "10000", 0, "that many events a second that mean nothing",
          _behaviour(flood=lambda text: number(text, 0, 1e5))),
    Named("option-rom", "", "", 0, "the card has an option ROM: the file would not load", _scenario(option_rom=True)),
    Named("no-q35", "", "", 0, "no PCI config window: nothing can be proved", _scenario(q35=False)),
    Named("no-failover", "", "", 0, "no failover pair", _scenario(primaries=0)),
    Named("two-cards", "", "", 0, "two failover pairs", _scenario(primaries=2)),
    Named("card-out", "", "", 4, "the card is out already, as after a save by another tool",
          _scenario(card=CardState.OUT)),
    Named("card-forgotten", "", "", 4, "and the guest was rebooted since: QEMU will ask for a card that nobody sees",
          _scenario(card=CardState.OUT, guest_forgot_card=True)),
    Named("paused", "", "", 4, "the VM is paused, its card plugged", _scenario(runstate="paused")),
    Named("blocked", "", "", 4, "QEMU says that it cannot be migrated",
          _scenario(blocked_reasons=("The qcow format used by node 'disk0' does not support live migration",))),
    Named("migrating", "", "", 4, "somebody else's migration runs already", _scenario(migrating=True)),
)  # fmt: skip
BY_NAME = {named.name: named for named in SCENARIOS}
