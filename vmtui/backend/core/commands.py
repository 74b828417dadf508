"""What can be sent, and what do the replies mean?

`QUERIES` has one query for each fact. `understand` turns a reply into one of our own types, at the door: nothing further
in ever sees QEMU's JSON. What cannot be understood raises `ReplyError`, never KeyError.
"""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from vmtui.backend.core.model import Cpu, Dump, Fact, Features, FileReport, Migration, Place, Primary, Setting, Vm

STATE_FD = "vmtui-state"
"""The name under which QEMU gets the file: of a descriptor (getfd), or as the opaque of an fd set (add-fd)."""

AGENT_PORT = "org.qemu.guest_agent.0"
"""The name of the port that a guest agent opens, where it is told no other."""


class Fd(StrEnum):
    """An open file that goes with a command."""

    STATE = "state"
    """The partial file, O_WRONLY."""
    BROKEN_PIPE = "broken-pipe"
    """The write end of a pipe that nobody reads."""


class Command(msgspec.Struct, frozen=True, tag="qmp"):
    """A QMP command, by its name in the QEMU reference."""

    execute: str
    arguments: dict[str, Any] = {}
    fd: Fd | None = None
    learns: Fact | None = None
    """The fact that the reply tells."""
    about: str = ""
    """The device that it is asked about, where a fact has several."""
    timeout: float = 10.0
    """Seconds after which the outcome is unknown."""


class Survey(msgspec.Struct, frozen=True, tag="survey"):
    """Look at where the file is to go; changes nothing."""

    path: str
    makes_directory: bool = True
    """A directory that is missing is no problem."""


class Reserve(msgspec.Struct, frozen=True, tag="reserve"):
    """Open the partial file (O_EXCL) and write the intent down, durably, before anything is changed."""

    path: str


class Verify(msgspec.Struct, frozen=True, tag="verify"):
    """Read the finished file through and sync it."""

    dump: bool = False
    """It is to be a core dump, and not a stream."""


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Give the file its final name and write its manifest."""


class Discard(msgspec.Struct, frozen=True, tag="discard"):
    """Remove the partial file."""


class Ping(msgspec.Struct, frozen=True):
    """A question to the guest's agent. It is no action: nothing waits for its answer, and it may be left unanswered."""

    id: int
    """By which its answer is known."""
    path: str


Action = Command | Survey | Reserve | Verify | Publish | Discard


# --- what a reply tells -------------------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True, tag="text"):
    """A name, a uuid or a machine type."""

    value: str


class Runstate(msgspec.Struct, frozen=True, tag="runstate"):
    status: str


class MigrationNow(msgspec.Struct, frozen=True, tag="migration"):
    now: Migration


class Settings(msgspec.Struct, frozen=True, tag="settings"):
    """Parameters or capabilities, by name."""

    values: dict[str, Any]


class Offered(msgspec.Struct, frozen=True, tag="features"):
    features: Features


class Number(msgspec.Struct, frozen=True, tag="number"):
    """Bytes of RAM, a config window's address, an fd set's number; None = there is none."""

    value: int | None


class FdSets(msgspec.Struct, frozen=True, tag="fdsets"):
    ids: tuple[int, ...]
    in_use: tuple[int, ...] = ()


class Devices(msgspec.Struct, frozen=True, tag="devices"):
    primaries: tuple[Primary, ...]
    standbys: tuple[str, ...]
    agent_port: str = ""
    """The character device behind the guest agent's port."""


class ConfigWords(msgspec.Struct, frozen=True, tag="config-words"):
    """The first two words of a card's PCI config space as the guest sees it, or None where they could not be read."""

    device_id: str
    words: tuple[int, int] | None


class Dumping(msgspec.Struct, frozen=True, tag="dump"):
    now: Dump


class Formats(msgspec.Struct, frozen=True, tag="formats"):
    names: tuple[str, ...]


class Cpus(msgspec.Struct, frozen=True, tag="cpus"):
    """All vCPUs in this moment, or none."""

    cpus: tuple[Cpu, ...]


class Channel(msgspec.Struct, frozen=True, tag="channel"):
    """The guest agent's, in this moment."""

    path: str = ""
    """Of its socket, where somebody may connect and somebody in the guest listens."""
    held: bool = False
    """Somebody is connected."""


class Surveyed(msgspec.Struct, frozen=True, tag="place"):
    place: Place


class Read(msgspec.Struct, frozen=True, tag="file"):
    report: FileReport


Learned = (
    Text | Runstate | MigrationNow | Settings | Offered | Number | Devices | FdSets | ConfigWords | Dumping | Formats
    | Cpus | Channel | Surveyed | Read
)  # fmt: skip


# --- the queries --------------------------------------------------------------------------------------------------


def hmp(line: str, **more: Any) -> Command:
    """A command of the human monitor, for what QMP does not offer."""
    return Command("human-monitor-command", {"command-line": line}, **more)


def _cards(vm: Vm) -> Command | None:
    """The card whose proof is oldest; None where nothing can be proved."""
    provable = [card for card in vm.primaries if card.slot is not None]
    if vm.config_window is None or not provable:
        return None
    card = min(provable, key=lambda each: each.proved_at)
    assert card.slot is not None
    bus, device, function = card.slot
    address = vm.config_window + (bus << 20 | device << 15 | function << 12)
    return hmp(f"xp /2xw 0x{address:x}", learns=Fact.CARDS, about=card.device_id)


def _channel(vm: Vm) -> Command | None:
    return Command("query-chardev", learns=Fact.AGENT, about=vm.agent_port) if vm.agent_port else None


def _ask(execute: str, fact: Fact) -> Callable[[Vm], Command]:
    return lambda _vm: Command(execute, learns=fact)


QUERIES: dict[Fact, Callable[[Vm], Command | None]] = {
    Fact.NAME:          _ask("query-name", Fact.NAME),
    Fact.UUID:          _ask("query-uuid", Fact.UUID),
    Fact.STATUS:        _ask("query-status", Fact.STATUS),
    Fact.MIGRATION:     _ask("query-migrate", Fact.MIGRATION),
    Fact.PARAMETERS:    _ask("query-migrate-parameters", Fact.PARAMETERS),
    Fact.CAPABILITIES:  _ask("query-migrate-capabilities", Fact.CAPABILITIES),
    Fact.FEATURES:      _ask("query-qmp-schema", Fact.FEATURES),
    Fact.MEMORY:        _ask("query-memory-size-summary", Fact.MEMORY),
    Fact.MACHINE:       lambda _vm: Command("qom-get", {"path": "/machine", "property": "type"}, learns=Fact.MACHINE),
    Fact.DEVICES:       lambda _vm: hmp("info qtree", learns=Fact.DEVICES),
    Fact.CONFIG_WINDOW: lambda _vm: hmp("info mtree", learns=Fact.CONFIG_WINDOW),
    Fact.CARDS:         _cards,
    Fact.FDSETS:        _ask("query-fdsets", Fact.FDSETS),
    Fact.YANK:          _ask("query-yank", Fact.YANK),
    Fact.DUMP:          _ask("query-dump", Fact.DUMP),
    Fact.DUMP_FORMATS:  _ask("query-dump-guest-memory-capability", Fact.DUMP_FORMATS),
    Fact.CPUS:          lambda _vm: hmp("info registers -a", learns=Fact.CPUS),
    Fact.AGENT:         _channel,
}  # fmt: skip


# --- what replies mean --------------------------------------------------------------------------------------------


class ReplyError(ValueError):
    """QEMU said something that this program does not understand."""


def understand(command: Command, value: Any) -> Learned | None:
    """What `value`, the reply to `command`, tells. Raises ReplyError where it is not what QEMU documents."""
    try:
        return _understood(command, value)
    except ReplyError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ReplyError(f"{type(error).__name__}: {error}") from error


def _understood(command: Command, value: Any) -> Learned | None:
    if command.execute == "add-fd":
        return Number(_get(value, "fdset-id", int))
    if command.learns is None:
        return None
    if command.learns is Fact.CARDS:
        return ConfigWords(command.about, config_words(_expect(value, str)))
    if command.learns is Fact.AGENT:
        return channel(command.about, value)
    return _UNDERSTAND[command.learns](value)


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ReplyError(f"expected {kind.__name__}, got {type(value).__name__}")
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        raise ReplyError("a number has more than 64 bits")
    return value


def _count(members: dict[str, Any], key: str) -> int:
    """A number of bytes that may be absent, and is never less than none."""
    count: int = _expect(members.get(key, 0), int)
    return max(count, 0)


def _get(value: Any, key: str, kind: type[Any]) -> Any:
    if key not in _expect(value, dict):
        raise ReplyError(f"no member {key!r}")
    return _expect(value[key], kind)


def _uuid(text: str) -> str:
    """QEMU says all zeros for a VM that was given none."""
    return text if text.strip("0-") else ""


def migration(value: Any) -> Migration:
    """query-migrate: everything but the status may be absent (it is, in setup, wait-unplug, failed and cancelled)."""
    reply = _expect(value, dict)
    ram = _expect(reply.get("ram", {}), dict)
    return Migration(
        status=_expect(reply.get("status", "none"), str),
        error=str(reply.get("error-desc", "")),
        transferred=_count(ram, "transferred"),
        total=_count(ram, "total"),
        remaining=_count(ram, "remaining"),
        mbps=_finite(ram.get("mbps", 0.0)),
        blocked=tuple(map(str, reply.get("blocked-reasons", ()))),
    )


def _finite(value: Any) -> float:
    """A rate, which nothing rests on: what is none is no reason to refuse the rest."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else 0.0


def memory(sizes: dict[str, Any]) -> int:
    """query-memory-size-summary: bytes, plugged ones too."""
    total: int = _expect(_get(sizes, "base-memory", int) + _count(sizes, "plugged-memory"), int)
    return total


def capabilities(value: Any) -> dict[str, bool]:
    """query-migrate-capabilities, by name."""
    return {_get(each, "capability", str): _get(each, "state", bool) for each in _expect(value, list)}


def features(schema: Any) -> Features:
    """query-qmp-schema: follow the commands' argument types; type names differ between builds."""
    types = {_get(each, "name", str): each for each in _expect(schema, list)}

    def members(name: str) -> dict[str, Any]:
        return {each["name"]: each for each in types.get(name, {}).get("members", ())}

    def of(command: str) -> dict[str, Any]:
        return members(types.get(command, {}).get("arg-type", ""))

    def element(member: Any) -> str:
        return str(types.get(member["type"], {}).get("element-type", ""))

    parameters = of("migrate-set-parameters")
    capability = of("migrate-set-capabilities").get("capabilities")
    names = types.get(members(element(capability))["capability"]["type"], {}) if capability else {}
    channels = of("migrate").get("channels")
    address = types.get(members(element(channels))["addr"]["type"], {}) if channels else {}
    return Features(
        pause_vm="pause-vm" in parameters,
        background_snapshot="background-snapshot" in _enum(names),
        channels="file" in {each["case"] for each in address.get("variants", ())},
        set_action="panic" in of("set-action"),
        parameters=tuple(_parameter(parameters[name], types) for name in sorted(parameters)),
        capabilities=tuple(
            Setting(name, "bool", marks=tuple(marks))
            for name, marks in sorted((each["name"], each.get("features", ())) for each in names.get("members", ()))
        ),
    )


def _enum(entry: Any) -> list[str]:
    return [each["name"] for each in entry.get("members", ())] or list(entry.get("values", ()))


_KINDS = {"int": "int", "boolean": "bool", "string": "str"}


def _parameter(member: Any, types: dict[str, Any]) -> Setting:
    entry = types.get(member["type"], {})
    choices = tuple(_enum(entry)) if entry.get("meta-type") == "enum" else ()
    kind = "enum" if choices else _KINDS.get(entry.get("json-type", ""), "other")
    if entry.get("meta-type") == "alternate":  # a string, or null for none
        kind = "str"
    return Setting(member["name"], kind, choices, tuple(member.get("features", ())))


_WINDOW = re.compile(r"^\s*([0-9a-f]{8,16})-[0-9a-f]{8,16} \(prio [^)]*\): pcie-mmcfg", re.MULTILINE)


def config_window(mtree: str) -> int | None:
    """The base of `pcie-mmcfg` in `info mtree`; None on a machine without PCI Express (or before the firmware set it)."""
    found = _WINDOW.search(mtree)
    return int(found[1], 16) if found else None


_WORDS = re.compile(r"^[0-9a-f]+: 0x([0-9a-f]{8}) 0x([0-9a-f]{8})\s*$")


def config_words(text: str) -> tuple[int, int] | None:
    """The two words of `xp /2xw ADDRESS`: 0xffffffff = no card there, else device<<16 | vendor, then the command word."""
    found = _WORDS.match(text.strip())
    return (int(found[1], 16), int(found[2], 16)) if found else None


_CPU = re.compile(r"^[RE]IP=([0-9a-f]{1,16}) [RE]FL=([0-9a-f]{1,16}) .*\bCPL=([0-3]) .*\bHLT=([01])", re.MULTILINE)
INTERRUPT_FLAG = 1 << 9
MOST_CPUS = 64


def cpus(registers: str) -> tuple[Cpu, ...]:
    """The vCPUs of `info registers -a`, in its order; none of another machine than x86, or of one too large to keep."""
    found = tuple(
        Cpu(int(pc, 16), halted == "1", bool(int(flags, 16) & INTERRUPT_FLAG), cpl == "3")
        for pc, flags, cpl, halted in _CPU.findall(registers)
    )
    return found if len(found) <= MOST_CPUS else ()


_FREE = re.compile(r"disconnected:unix:(/[^\0]*),server=on", re.DOTALL)


def channel(label: str, value: Any) -> Channel:
    """The character device of this label in query-chardev; nothing where it is no unix socket that QEMU listens at."""
    found = next((each for each in _expect(value, list) if _get(each, "label", str) == label), None)
    if found is None or not _get(found, "frontend-open", bool):
        return Channel()
    filename = _get(found, "filename", str)
    free = _FREE.fullmatch(filename)
    return Channel(free[1]) if free else Channel(held=filename.startswith("unix:"))


class _Dev:
    """One device of `info qtree`, while it is read."""

    def __init__(self, indent: int, driver: str, device_id: str, bus: str, parent: "_Dev | None") -> None:
        self.indent, self.driver, self.device_id, self.bus, self.parent = indent, driver, device_id, bus, parent
        self.properties: dict[str, str] = {}
        self.slot: tuple[int, int, int] | None = None
        self.pci_id = ""


_DEV = re.compile(r'^( *)dev: ([^,]+), id "(.*)"$')
_BUS = re.compile(r"^( *)bus: (.+)$")
_PROPERTY = re.compile(r"^ *([A-Za-z0-9_.\-\[\]]+) = (.*)$")
_ADDRESS = re.compile(r"^ *class .*, addr ([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-9a-f]), pci id ([0-9a-f]{4}:[0-9a-f]{4})")


def devices(qtree: str) -> Devices:
    """Failover primaries and standbys in `info qtree`: the one reply that has bus, address and every property. And the
    guest agent's port."""
    primaries, standbys, agent_port = [], [], ""
    for device in _read_qtree(qtree):
        pair = device.properties.get("failover_pair_id", '""').strip('"')
        if pair:
            primaries.append(_primary(device, pair))
        if device.properties.get("failover") == "true":
            owner = device if device.device_id or device.parent is None else device.parent
            standbys.append(owner.device_id)
        if device.driver == "virtserialport" and device.properties.get("name") == f'"{AGENT_PORT}"':
            agent_port = device.properties.get("chardev", "").strip('"')
    return Devices(tuple(primaries), tuple(standbys), agent_port)


def _primary(device: _Dev, standby_id: str) -> Primary:
    return Primary(
        device_id=device.device_id,
        standby_id=standby_id,
        driver=device.driver,
        bus=device.bus,
        slot=device.slot,
        pci_id=device.pci_id,
        properties=tuple(device.properties.items()),
    )


def _read_qtree(qtree: str) -> Iterator[_Dev]:
    """Devices in order; indentation says what belongs to what."""
    found: list[_Dev] = []
    open_devices: list[_Dev] = []
    buses: list[tuple[int, str]] = []
    for raw in qtree.splitlines():
        line = raw.rstrip()
        indent = len(line) - len(line.lstrip())
        if entry := _BUS.match(line):
            buses = [each for each in buses if each[0] < indent] + [(indent, entry[2])]
        elif entry := _DEV.match(line):
            open_devices = [each for each in open_devices if each.indent < indent]
            buses = [each for each in buses if each[0] < indent]
            parent = open_devices[-1] if open_devices else None
            device = _Dev(indent, entry[2], entry[3], buses[-1][1] if buses else "", parent)
            open_devices.append(device)
            found.append(device)
        elif open_devices and (entry := _ADDRESS.match(line)):
            bus, slot, function = (int(part, 16) for part in entry.groups()[:3])
            open_devices[-1].slot = (bus, slot, function)
            open_devices[-1].pci_id = entry[4]
        elif open_devices and (entry := _PROPERTY.match(line)):
            open_devices[-1].properties[entry[1]] = entry[2]
    yield from found


def tidying(value: Any) -> Number:
    """query-yank: a migration that QEMU has not finished with is among the things that could be yanked."""
    return Number(int(any(_get(each, "type", str) == "migration" for each in _expect(value, list))))


def fdsets(value: Any) -> FdSets:
    """query-fdsets: the sets that hold a file of ours, and those that hold none any more but are still in use."""

    def ours(entry: Any) -> bool:
        return any(_expect(each, dict).get("opaque") == STATE_FD for each in _get(entry, "fds", list))

    sets = {_get(each, "fdset-id", int): each for each in _expect(value, list)}
    return FdSets(
        ids=tuple(number for number, entry in sets.items() if ours(entry)),
        in_use=tuple(number for number, entry in sets.items() if not entry["fds"]),
    )


def dump(value: Any) -> Dump:
    """query-dump, and what DUMP_COMPLETED tells as its result."""
    return Dump(_get(value, "status", str), _count(value, "completed"), _count(value, "total"))


_UNDERSTAND: dict[Fact, Callable[[Any], Learned]] = {
    Fact.NAME:          lambda value: Text(str(_expect(value, dict).get("name", ""))),
    Fact.UUID:          lambda value: Text(_uuid(_get(value, "UUID", str))),
    Fact.MACHINE:       lambda value: Text(_expect(value, str).removesuffix("-machine")),
    Fact.STATUS:        lambda value: Runstate(_get(value, "status", str)),
    Fact.MIGRATION:     lambda value: MigrationNow(migration(value)),
    Fact.PARAMETERS:    lambda value: Settings(_expect(value, dict)),
    Fact.CAPABILITIES:  lambda value: Settings(dict(capabilities(value))),
    Fact.FEATURES:      lambda value: Offered(features(value)),
    Fact.MEMORY:        lambda value: Number(memory(_expect(value, dict))),
    Fact.DEVICES:       lambda value: devices(_expect(value, str)),
    Fact.FDSETS:        fdsets,
    Fact.YANK:          tidying,
    Fact.DUMP:          lambda value: Dumping(dump(value)),
    Fact.DUMP_FORMATS:  lambda value: Formats(tuple(_expect(each, str) for each in _get(value, "formats", list))),
    Fact.CONFIG_WINDOW: lambda value: Number(config_window(_expect(value, str))),
    Fact.CPUS:          lambda value: Cpus(cpus(_expect(value, str))),
}  # fmt: skip
