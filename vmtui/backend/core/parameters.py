"""What do QEMU's migration parameters and capabilities mean, and what may be typed for each?

QEMU's schema tells names and types, but no unit, range or default: those are in `PARAMETERS`, taken from the QEMU reference
and the source (`migrate_params_check`). A name that is not there, of a QEMU to come, is typed by its schema alone.
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Any

import msgspec

from vmtui.backend.core import tuning, words
from vmtui.backend.core.model import Link, Setting
from vmtui.backend.core.state import State
from vmtui.backend.core.text import printable


class Unit(StrEnum):
    """What a number counts, in the words of the QEMU reference."""

    BYTES = "bytes"
    RATE = "bytes/s"
    MEGABYTES = "MB/s"
    MS = "ms"
    PERCENT = "%"
    COUNT = ""


class About(msgspec.Struct, frozen=True):
    """What QEMU's schema does not tell about one setting."""

    meaning: str
    """One line."""
    unit: Unit = Unit.COUNT
    low: int = 0
    high: int = (1 << 64) - 1
    default: Any = None
    """Of a QEMU that nobody has touched; None = not known."""
    zero: str = ""
    """What 0 means, where it does not mean nothing."""
    power_of_two: bool = False


UNKNOWN = About("vmtui does not know this one; the QEMU reference does", low=-(1 << 63))

SIZE_MAX = (1 << 63) - 1
"""The most that QEMU takes for a rate on every host, in bytes a second."""
PAUSE_VM = "pause-vm"

_RATE, _BYTES, _MS, _PERCENT, _COUNT = Unit.RATE, Unit.BYTES, Unit.MS, Unit.PERCENT, Unit.COUNT

PARAMETERS: dict[str, About] = {
    PAUSE_VM:                     About("QEMU pauses the guest itself, right after the card is unplugged", default=False),
    "announce-initial":           About("wait before the first packet that tells the network where the guest is now",
                                        _MS, 0, 100_000, 50),
    "announce-max":               About("longest wait between two such packets", _MS, 0, 100_000, 550),
    "announce-rounds":            About("how many such packets are sent", _COUNT, 0, 1000, 5),
    "announce-step":              About("by how much each wait is longer than the one before", _MS, 1, 10_000, 100),
    "avail-switchover-bandwidth": About("what the link is said to carry at the end; for estimates only, limits nothing",
                                        _RATE, 0, SIZE_MAX, 0, "QEMU estimates it"),
    "block-bitmap-mapping":       About("under which names dirty bitmaps travel; not set = their own"),
    "block-incremental":          About("with capability block: copy only what lies above the backing file", default=False),
    "compress-level":             About("with capability compress: 0 = none, 1 = fastest, 9 = smallest", _COUNT, 0, 9, 1),
    "compress-threads":           About("with capability compress: threads that compress", _COUNT, 1, 255, 8),
    "compress-wait-thread":       About("with capability compress: wait for a free thread instead of sending raw",
                                        default=True),
    "cpr-exec-command":           About("with mode cpr-exec: the new QEMU's program and its arguments", default=[]),
    "cpu-throttle-increment":     About("with auto-converge: how much more the guest's CPUs are slowed each time",
                                        _PERCENT, 1, 99, 10),
    "cpu-throttle-initial":       About("with auto-converge: how much the guest's CPUs are slowed at first",
                                        _PERCENT, 1, 99, 20),
    "cpu-throttle-tailslow":      About("with auto-converge: slow down more gently towards the end", default=False),
    "decompress-threads":         About("with capability compress: threads that decompress", _COUNT, 1, 255, 2),
    "direct-io":                  About("with mapped-ram: write the file past the host's page cache (O_DIRECT)",
                                        default=False),
    "downtime-limit":             About("how long a live migration may stop the guest at its end", _MS, 0, 2_000_000, 300),
    "max-bandwidth":              About("how fast a migration may be; it slows a save down even while the guest is stopped",
                                        _RATE, 0, SIZE_MAX, 128 << 20, "no limit"),
    "max-cpu-throttle":           About("with auto-converge: the most that its CPUs are slowed; not below "
                                        "cpu-throttle-initial", _PERCENT, 1, 99, 99),
    "max-postcopy-bandwidth":     About("how fast pages that nobody asked for may follow in postcopy",
                                        _RATE, 0, SIZE_MAX, 0, "no limit"),
    "mode":                       About("normal migration, or one of the ways to replace QEMU on this host (CPR)",
                                        default="normal"),
    "multifd-channels":           About("with multifd: connections that are used side by side", _COUNT, 1, 255, 2),
    "multifd-compression":        About("with multifd: how pages are compressed", default="none"),
    "multifd-qatzip-level":       About("with multifd and qatzip: 1 = fastest, 9 = smallest", _COUNT, 1, 9, 1),
    "multifd-zlib-level":         About("with multifd and zlib: 0 = none, 1 = fastest, 9 = smallest", _COUNT, 0, 9, 1),
    "multifd-zstd-level":         About("with multifd and zstd: 0 = none, 1 = fastest, 20 = smallest", _COUNT, 0, 20, 1),
    "throttle-trigger-threshold": About("with auto-converge: how much of what was sent may be dirty again",
                                        _PERCENT, 1, 100, 50),
    "tls-authz":                  About("id of the object that says whose certificate is let in; empty = none",
                                        default=""),
    "tls-creds":                  About("id of the TLS credentials of migrations over a network; empty = no TLS",
                                        default=""),
    "tls-hostname":               About("name that the other side's certificate must have; empty = the host of the URI",
                                        default=""),
    "vcpu-dirty-limit":           About("with dirty-limit: how fast each CPU of the guest may dirty memory",
                                        Unit.MEGABYTES, 1, default=1),
    "x-checkpoint-delay":         About("with x-colo: time between two checkpoints", _MS, 0, (1 << 32) - 1, 20_000),
    "x-rdma-chunk-size":          About("over RDMA: how much memory is registered at a time; the same on both sides",
                                        _BYTES, 1 << 20, 1 << 30, 1 << 20, power_of_two=True),
    "x-vcpu-dirty-limit-period":  About("with dirty-limit: how often it is looked at", _MS, 1, 1000, 1000),
    "xbzrle-cache-size":          About("with xbzrle: memory for what was sent before, at least one page",
                                        _BYTES, 4096, SIZE_MAX, 64 << 20, power_of_two=True),
    "zero-page-detection":        About("where empty pages are looked for: nowhere, in the main thread, in multifd's",
                                        default="multifd"),
}  # fmt: skip


def _capability(meaning: str) -> About:
    return About(meaning, default=False)


CAPABILITIES: dict[str, About] = {name: _capability(meaning) for name, meaning in {
    "auto-converge":           "slow the guest's CPUs down when it dirties memory faster than it is sent",
    "background-snapshot":     "save the guest as it is at this moment, while it runs on",
    "block":                   "copy the disks as well",
    "compress":                "send pages compressed",
    "dirty-bitmaps":           "take the disks' named dirty bitmaps along",
    "dirty-limit":             "hold each CPU of the guest to vcpu-dirty-limit (needs KVM's dirty ring)",
    "events":                  "tell every change of the migration as an event; vmtui needs it while it saves",
    "late-block-activate":     "the receiver takes the disks' locks only when the guest is to run",
    "mapped-ram":              "give each page a fixed place in the file (needs a file that can seek)",
    "multifd":                 "send memory over several connections side by side",
    "pause-before-switchover": "stop before the devices' state is sent, and wait for migrate-continue",
    "postcopy-blocktime":      "measure how long postcopy made the guest's CPUs wait",
    "postcopy-preempt":        "pages that the guest waits for overtake the others in postcopy",
    "postcopy-ram":            "the guest may move over first and its memory follow; a failure on the way loses it",
    "rdma-pin-all":            "over RDMA: lock all memory at the start",
    "release-ram":             "free memory that was sent, in postcopy",
    "return-path":             "the receiver may answer",
    "switchover-ack":          "the receiver must agree before the guest is stopped (needs return-path)",
    "validate-uuid":           "the receiver must have the same UUID",
    "x-colo":                  "never end: keep a second VM in step (COLO)",
    "x-ignore-shared":         "leave shared memory out that the receiver can reach itself",
    "xbzrle":                  "send only what changed in pages that were sent before",
    "zero-blocks":             "with block: do not send blocks of zeros",
    "zero-copy-send":          "send pages without copying them first (needs locked memory)",
}.items()}  # fmt: skip


def about(name: str) -> About:
    return PARAMETERS.get(name) or CAPABILITIES.get(name) or UNKNOWN


# --- what a value looks like --------------------------------------------------------------------------------------


def shown(name: str, value: Any) -> str:
    """A value with its unit, as a person reads it."""
    match value:
        case None:
            return "not set"
        case bool():
            return "on" if value else "off"
        case int():
            return _number(about(name), value)
        case str():
            return printable(value, 200) if value else "(empty)"
        case _:
            return printable(json.dumps(value), 200)


def _number(known: About, value: int) -> str:
    if value == 0 and known.zero:
        return f"0 ({known.zero})"
    match known.unit:
        case Unit.BYTES:
            return words.size(value)
        case Unit.RATE:
            return f"{words.size(value)}/s"
        case Unit.COUNT:
            return str(value)
    return f"{value} {known.unit}"


def typed(name: str, value: Any) -> str:
    """A value as a user would type it: `parsed` makes exactly this value of it again."""
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case int() if about(name).unit in (Unit.BYTES, Unit.RATE):
            return _in_whole_units(value) + ("/s" if about(name).unit is Unit.RATE and value else "")
        case int():
            return str(value)
        case str():
            return value
        case _:
            return json.dumps(value)


_BINARY = ("", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def _in_whole_units(count: int) -> str:
    power = 0
    while count and count % 1024 == 0 and power < len(_BINARY) - 1:
        count, power = count // 1024, power + 1
    return f"{count} {_BINARY[power]}".strip() if power else f"{count} B" if count else "0"


def exactly(name: str, value: Any) -> str:
    """What QEMU will get, where that differs from what is shown; else empty."""
    known = about(name)
    if isinstance(value, bool) or not isinstance(value, int) or known.unit not in (_BYTES, _RATE) or value < 1024:
        return ""
    return f"{value} {known.unit}"


def accepted(setting: Setting) -> str:
    """What may be typed, in a line."""
    known = about(setting.name)
    match setting.kind:
        case "bool":
            return "on or off"
        case "enum":
            return "one of " + ", ".join(printable(each, 40) for each in setting.choices)
        case "int":
            return _accepted_number(known)
        case "str":
            return "text, or nothing"
    return "JSON: a list or an object"


def _accepted_number(known: About) -> str:
    if known is UNKNOWN:
        return "a whole number"
    bounded = known.high < SIZE_MAX
    low, high = (_number(msgspec.structs.replace(known, zero=""), each) for each in (known.low, known.high))
    match known.unit:
        case Unit.RATE:
            return "such as 100M, 1.5GiB/s, 10Gbit/s" + (f"; 0 = {known.zero}" if known.zero else "")
        case Unit.BYTES:
            text = f"{low} to {high}" if bounded else f"such as 64M, at least {low}"
            return text + (", a power of two" if known.power_of_two else "")
        case Unit.PERCENT:
            return f"{known.low} to {known.high} %"
        case Unit.MS:
            return f"such as 300ms or 2s: {known.low} to {high}"
    return (f"{known.low} to {high}" if bounded else f"from {known.low}") + (
        " MB/s" if known.unit is Unit.MEGABYTES else ""
    )


# --- what was typed -----------------------------------------------------------------------------------------------


class BadValue(ValueError):
    """What was typed is no value of that setting; the text says why."""


_BOOL = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


def parsed(setting: Setting, text: str) -> Any:
    """The value that QEMU is to get. Raises BadValue before QEMU would."""
    match setting.kind:
        case "bool":
            return _choice(_BOOL, text, "on or off")
        case "enum":
            return _choice({each.lower(): each for each in setting.choices}, text, accepted(setting))
        case "int":
            return _parsed_number(setting.name, text)
        case "str":
            return _plain(text)
    return _parsed_json(text)


def _choice(values: Mapping[str, Any], text: str, expected: str) -> Any:
    if (word := text.strip().lower()) not in values:
        raise BadValue(f"{expected}, not {printable(text, 40)!r}" if word else expected)
    return values[word]


def _plain(text: str) -> str:
    if not all(character.isprintable() for character in text):
        raise BadValue("it holds a character that cannot be shown")
    return text


def _parsed_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"no JSON: {printable(str(error), 80)}") from error
    if not isinstance(value, list | dict):
        raise BadValue("JSON, but neither a list nor an object")
    return value


_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,30}(?:\.[0-9]{1,15})?)\s*([A-Za-z%]*)\s*(/\s*s|ps)?\s*", re.ASCII)


def _parsed_number(name: str, text: str) -> int:
    known = about(name)
    found = _NUMBER.fullmatch(text)
    if not found:
        raise BadValue("a number, " + _accepted_number(known) if known is not UNKNOWN else "a whole number")
    amount = Fraction(found[1]) * _factor(known, found[2], per_second=bool(found[3]))
    value = round(amount) if known.unit in (_BYTES, _RATE) else amount
    if value != int(value):
        raise BadValue(f"not a whole number of {known.unit}" if known.unit else "not a whole number")
    return _in_range(known, int(value))


def _factor(known: About, suffix: str, *, per_second: bool) -> Fraction:
    """How many of the setting's units one of what was typed is."""
    if per_second and known.unit not in (Unit.RATE, Unit.MEGABYTES):
        raise BadValue(f"not so much a second: {_accepted_number(known)}")
    factor = _suffixes(known.unit).get(suffix if suffix in ("Mb", "Gb", "Kb", "kb") else suffix.lower())
    if suffix and factor is None:
        if known.unit is Unit.RATE and suffix.endswith("b"):
            raise BadValue(f"bits or bytes? write {suffix[0]}bit/s or {suffix[0].upper()}B/s")
        raise BadValue(f"{suffix!r} is no unit of it: {_accepted_number(known)}")
    return factor or Fraction(1)


_SIZES = {"b": Fraction(1), "bytes": Fraction(1)} | {
    f"{letter}{tail}": Fraction(base**power)
    for power, letter in enumerate("kmgtpe", 1)
    for tail, base in (("", 1024), ("i", 1024), ("ib", 1024), ("b", 1000))
}
"""As QEMU, libvirt and IEC read them: M and MiB are 1024 * 1024 bytes, MB is a million."""
_BITS = {f"{letter}{tail}": Fraction(1000**power, 8)
         for power, letter in enumerate(("", "k", "m", "g", "t")) for tail in ("bit", "bits")}  # fmt: skip
_TIMES = {"ms": Fraction(1), "s": Fraction(1000), "sec": Fraction(1000), "min": Fraction(60_000)}


def _suffixes(unit: Unit) -> dict[str, Fraction]:
    return {
        Unit.BYTES: _SIZES,
        Unit.RATE: _SIZES | _BITS,
        Unit.MEGABYTES: {"mb": Fraction(1), "m": Fraction(1)},
        Unit.MS: _TIMES,
        Unit.PERCENT: {"%": Fraction(1)},
    }.get(unit, {})


def _in_range(known: About, value: int) -> int:
    if not known.low <= value <= known.high:
        if known is UNKNOWN:
            raise BadValue("too large a number")
        raise BadValue(f"out of range: {_accepted_number(known)}" if known.high < SIZE_MAX or value < known.low
                       else "more than QEMU can take")  # fmt: skip
    if known.power_of_two and value & (value - 1):
        raise BadValue(f"not a power of two: {typed_near(value)}")
    return value


def typed_near(value: int) -> str:
    """The two powers of two around a number of bytes."""
    below = 1 << (value.bit_length() - 1)
    return f"{_in_whole_units(below)} or {_in_whole_units(below * 2)}"


# --- all of one VM ------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """One line of the table. All texts are safe to show."""

    setting: Setting
    capability: bool
    value: Any
    """QEMU's; None = not set, or not told."""
    shown: str
    default: str
    """Of an untouched QEMU; empty = not known."""
    standing: bool
    """The value is that default."""
    changed: str
    """By whom, and what it was; empty where nobody did in this session."""
    refusal: str
    """Why it cannot be changed now."""

    @property
    def name(self) -> str:
        """As QEMU spells it."""
        return self.setting.name

    @property
    def kind(self) -> str:
        return "capability" if self.capability else "list" if self.setting.kind == "other" else self.setting.kind

    @property
    def meaning(self) -> str:
        return about(self.name).meaning

    @property
    def marks(self) -> str:
        return ", ".join(printable(each, 20) for each in self.setting.marks)


def entries(state: State) -> tuple[Entry, ...]:
    """Every parameter and capability that this QEMU's schema offers: pause-vm first, then by name."""
    features = state.vm.features
    parameters = sorted(features.parameters, key=lambda each: (each.name != PAUSE_VM, each.name))
    return (
        *(_entry(state, each, state.vm.parameters, capability=False) for each in parameters),
        *(_entry(state, each, state.vm.capabilities, capability=True) for each in features.capabilities),
    )


def _entry(state: State, setting: Setting, values: Mapping[str, Any], *, capability: bool) -> Entry:
    name, default = setting.name, about(setting.name).default
    value = values.get(name)
    return Entry(
        setting=setting,
        capability=capability,
        value=value,
        shown=shown(name, value),
        default="" if default is None else shown(name, default),
        standing=value == default or default is None,
        changed=_changed(state, name, value),
        refusal=refusal(state, name, capability=capability),
    )


def _changed(state: State, name: str, value: Any) -> str:
    """Compared with the moment before the running save, or before somebody changed it here."""
    work = state.work
    if state.busy and work is not None and work.baseline is not None:
        before = {**work.baseline.parameters, **work.baseline.capabilities}
        if name in before and before[name] != value:
            by = "you" if name == tuning.BANDWIDTH and work.bandwidth else "vmtui"
            return f"by {by}, for this save; then {shown(name, before[name])} again"
    if name in state.touched and state.touched[name] != value:
        return f"by you; it was {shown(name, state.touched[name])}"
    return ""


def refusal(state: State, name: str, *, capability: bool) -> str:
    """Why a setting cannot be changed now; empty when it can."""
    if state.vm.link is not Link.UP:
        return "QEMU does not answer now"
    return tuning.refusal(state, () if capability else (name,), (name,) if capability else ())


def pause_vm_line(state: State) -> str:
    """What this QEMU does about pausing, or what vmtui does instead."""
    if not state.vm.features.parameters:
        return ""
    if state.vm.features.pause_vm:
        return "This QEMU has pause-vm: it pauses the guest itself once the card is out. vmtui sets it for each save."
    return "This QEMU has no pause-vm: vmtui itself pauses the guest, as soon as QEMU says that the card is out."


def tuned_line(state: State, names: Iterable[str] = ()) -> str:
    """What became of the last settings that somebody asked for here; in QEMU's words where it refused."""
    if state.tunes:
        return "asking QEMU"
    if state.tuned is None:
        return ""
    told = ", ".join(printable(each, 60) for each in state.tuned.names)
    if state.tuned.error:
        return f"{told} not set: {printable(state.tuned.error, 300)}"
    values = {**state.vm.parameters, **state.vm.capabilities}
    if state.tuned.names == (tuning.BANDWIDTH,) and state.busy:
        return f"{told}: this save copies at that rate; it is put back afterwards"
    return "set: " + ", ".join(f"{printable(each, 60)} {shown(each, values.get(each))}" for each in state.tuned.names)
