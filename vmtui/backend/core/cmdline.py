"""What does a QEMU command line say, and how must it read to start the VM again for a saved state?

QEMU takes `-opt` and `--opt`; an argument is a plain word, `key=value,...` (a comma in a value is written twice), JSON,
or a character device in its short form (`unix:PATH,server=on`). All four become `Arguments`, so that one rule serves
them all. Command lines are untrusted: whatever cannot be read is left as it is, and nothing here raises.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from vmtui.backend.core.text import printable

MAX_SOCKET_PATH = 107
"""Bytes: the longest path a unix socket can be bound to (`sun_path` less its final NUL)."""

# Of QEMU 7.2, each tried (last on the line it does not say "requires an argument"); then of later and earlier ones.
_ALONE = """
    h help version S s usb daemonize nodefaults nographic no-user-config no-reboot no-shutdown snapshot enable-kvm
    no-hpet no-acpi preconfig only-migratable no-fd-bootchk singlestep async-teardown audio-help mem-prealloc
    portrait full-screen win2k-hack enable-sync-profile xen-attach xen-domid-restrict semihosting old-param

    one-insn-per-tb nodefconfig enable-fips show-cursor alt-grab ctrl-grab no-frame no-quit sdl curses tdf localtime
    rtc-td-hack no-kvm no-kvm-irqchip no-kvm-pit no-kvm-pit-reinjection std-vga
"""
WITHOUT_ARGUMENT = frozenset(_ALONE.split())
"""Options that stand alone; every other one takes the next word."""


# --- words to options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    """Without its dashes; empty for a bare word, which QEMU takes as the first hard disk's image."""
    value: str | None
    """None where the option takes no argument, or the command line ends before it."""
    spelled: str
    """As it was written, `-qmp` or `--qmp`; empty for a bare word."""

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for word in (self.spelled or None, self.value) if word is not None)

    def __str__(self) -> str:
        return printable(" ".join(self.words), 120)


def options(argv: Sequence[str]) -> tuple[Option, ...]:
    """What follows the program's name; `argv[:1]` and the options' `words` give `argv` again."""
    return tuple(_options(iter(argv[1:])))


def _options(words: Iterator[str]) -> Iterator[Option]:
    for word in words:
        if not word.startswith("-"):
            yield Option("", word, "")
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        yield Option(name, None if name in WITHOUT_ARGUMENT else next(words, None), word)


_LOADER = re.compile(r"(ld|ld64|ld-[\w.-]+)\.so(\.\d+)*")
_LOADER_OPTION = re.compile(r"--(library-path|glibc-hwcaps-prepend|glibc-hwcaps-mask|inhibit-rpath|audit|preload|argv0)")
"""Those of the loader's options that take the next word."""


def split_launcher(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dynamic loader with its options where it was called by hand (else nothing), and the program's own argv."""
    if not argv or not _LOADER.fullmatch(_basename(argv[0])):
        return (), tuple(argv)
    at = 1
    while at < len(argv) and argv[at].startswith("--"):
        at += 2 if _LOADER_OPTION.fullmatch(argv[at]) else 1
    return tuple(argv[:at]), tuple(argv[at:])


def is_qemu(program: str) -> bool:
    """Whether a program of this name or path is QEMU's system emulator."""
    name = _basename(program).lstrip(".")  # NixOS wraps it as .qemu-system-x86_64-wrapped
    return name.startswith("qemu-system-") or name in {"qemu-kvm", "kvm"}


def _basename(path: str) -> str:
    return path.rpartition("/")[2]


# --- one option's argument --------------------------------------------------------------------------------------------


class Form(StrEnum):
    KEYVAL = "keyval"
    """`socket,id=mon0,path=/run/vm.sock`"""
    JSON = "json"
    SHORT = "short"
    """A character device in one word: `unix:/run/vm.sock,server=on`, `tcp::4444`, `file:/var/log/vm.log`"""


@dataclass(frozen=True, slots=True)
class Arguments:
    text: str
    form: Form
    pairs: tuple[tuple[str, str], ...]
    """In their order, keys may repeat (the last one wins). JSON is flattened: `{"file": {"filename": "x"}}` reads
    `file.filename=x`; true is `on`."""
    implied: bool = False
    """The first value stands without its key."""
    prefix: str = ""
    """Of the short form: `unix:`, `mon:tcp:`, `file:`"""

    def get(self, key: str, default: str = "") -> str:
        return next((value for name, value in reversed(self.pairs) if name == key), default)

    def leaf(self, name: str) -> str:
        """The full key whose last part is `name`: JSON hides a socket's path in `backend.data.addr.data.path`."""
        return next((key for key, _ in reversed(self.pairs) if key.rpartition(".")[2] == name), name)

    def on(self, key: str) -> bool:
        return self.get(key) in _TRUE

    def with_values(self, changes: Mapping[str, str]) -> str:
        """The argument's text with these keys set; untouched if nothing is to change."""
        if not changes:
            return self.text
        if self.form is Form.JSON:
            return _json_with(self.text, changes)
        pairs = [(key, changes.get(key, value)) for key, value in self.pairs]
        pairs += [(key, value) for key, value in changes.items() if key not in {name for name, _ in self.pairs}]
        if self.form is Form.KEYVAL:
            return to_keyval(pairs, implied=self.implied)
        return _short_text(self.prefix, pairs)


_TRUE = frozenset({"on", "yes", "true", "y"})
_IMPLIED_KEY = {
    "accel": "accel",
    "audiodev": "driver",
    "blockdev": "driver",
    "chardev": "backend",
    "device": "driver",
    "fsdev": "fsdriver",
    "m": "size",
    "machine": "type",
    "M": "type",
    "mon": "chardev",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "object": "qom-type",
    "tpmdev": "type",
    "trace": "enable",
    "virtfs": "fsdriver",
    "vnc": "vnc",
}
_SHORT_CHARDEV = frozenset(["serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb"])


def arguments(option: Option) -> Arguments:
    """An option's argument, taken apart in whichever form it is written."""
    text = option.value or ""
    if option.name in _SHORT_CHARDEV:
        return _short(text)
    if text.lstrip().startswith("{"):
        return Arguments(text, Form.JSON, _json_pairs(text))
    pairs, implied = keyval(text, _IMPLIED_KEY.get(option.name, ""))
    return Arguments(text, Form.KEYVAL, pairs, implied)


def keyval(text: str, implied_key: str = "") -> tuple[tuple[tuple[str, str], ...], bool]:
    """`key=value,...` taken apart, and whether the first value stood without its key.

    A comma in a value is written twice. A key alone is a flag: `server` is `server=on`, `nowait` is `wait=off`.
    """
    pieces = _pieces(text)
    implied = bool(implied_key) and bool(pieces) and "=" not in pieces[0].partition(",")[0]
    pairs = [_pair(piece) for piece in (pieces[1:] if implied else pieces)]
    if implied:
        pairs.insert(0, (implied_key, pieces[0].replace(",,", ",")))
    return tuple(pairs), implied


def to_keyval(pairs: Iterable[tuple[str, str]], *, implied: bool = False) -> str:
    """The inverse of `keyval`. A first value holding `=` would be taken for a key: it is written with its own."""
    words = [f"{key}={escape(value)}" for key, value in pairs]
    first = words[0].partition("=")[2] if words else ""
    if implied and first and "=" not in first:
        words[0] = first
    return ",".join(words)


def escape(value: str) -> str:
    """`value` for use in `key=value,...`."""
    return value.replace(",", ",,")


def _pieces(text: str) -> list[str]:
    """`text` cut at its single commas. Of `,,,` the first two are one comma and the third cuts."""
    return re.findall(r"(?:[^,]|,,)+", text)


def _pair(piece: str) -> tuple[str, str]:
    key, equals, value = piece.partition("=")
    if equals:
        return key, value.replace(",,", ",")
    return (key[2:], "off") if key.startswith("no") and len(key) > 2 else (key, "on")


def _parsed_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_pairs(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(_flattened(_parsed_json(text), ""))
    except RecursionError:
        return ()


def _flattened(value: Any, key: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for name, inner in value.items():
                yield from _flattened(inner, f"{key}.{name}" if key else name)
        case list():
            for index, inner in enumerate(value):
                yield from _flattened(inner, f"{key}.{index}")
        case bool():
            yield key, "on" if value else "off"
        case None:
            yield key, ""
        case _:
            yield key, str(value)


def _json_with(text: str, changes: Mapping[str, str]) -> str:
    document = _parsed_json(text)
    for key, value in changes.items():
        _set(document, key, {"on": True, "off": False}.get(value, value) if key.endswith("wait") else value)
    return json.dumps(document, ensure_ascii=False)  # bytes that are not UTF-8 must come out as they went in


def _set(document: Any, key: str, value: str | bool) -> None:
    """Set a flattened key; not by splitting it at its dots, for a name in JSON may hold some itself."""
    inside = document if isinstance(document, dict) else {str(at): inner for at, inner in enumerate(document)}
    for name, inner in inside.items():
        if isinstance(inner, dict | list) and key.startswith(f"{name}."):
            return _set(inner, key[len(name) + 1 :], value)
    if isinstance(document, dict):
        document[key] = value
    return None


# --- character devices ------------------------------------------------------------------------------------------------

_SHORT_KINDS = "unix|tcp|telnet|tn3270|websocket|udp|file|pipe|chardev"
_SHORT = re.compile(rf"(?P<prefix>(?:mon:)?(?P<kind>{_SHORT_KINDS}):)(?P<rest>.*)", re.DOTALL)
_ENCODINGS = frozenset({"telnet", "tn3270", "websocket"})
_TCP_KINDS = _ENCODINGS | {"tcp"}


def _short(text: str) -> Arguments:
    match = _SHORT.fullmatch(text)
    if match is None:  # stdio, pty, null, vc, /dev/ttyS0, or `s`, which has none
        backend = text.removeprefix("mon:").partition(":")[0]
        return Arguments(text, Form.SHORT, (("backend", backend),), prefix=text)
    prefix, kind, rest = match["prefix"], match["kind"], match["rest"]
    if kind == "unix":
        pairs = (("backend", "socket"), *keyval(rest, "path")[0])
    elif kind in _TCP_KINDS:
        pairs = (("backend", "socket"), *_host_and_port(rest), *(() if kind == "tcp" else ((kind, "on"),)))
    else:  # QEMU takes the whole rest as it is, commas too
        pairs = (("backend", kind), ("path", rest))
    return Arguments(text, Form.SHORT, pairs, prefix=prefix)


def _host_and_port(rest: str) -> tuple[tuple[str, str], ...]:
    where, _, more = rest.partition(",")
    host, _, port = where.rpartition(":")
    return (("host", host.strip("[]")), ("port", port), *keyval(more)[0])


def _short_text(prefix: str, pairs: Sequence[tuple[str, str]]) -> str:
    kind = prefix.removeprefix("mon:").removesuffix(":")
    known = dict(pairs)
    if kind == "unix":
        return prefix + to_keyval(pairs[1:], implied=True)
    if kind in _TCP_KINDS:
        more = to_keyval((key, value) for key, value in pairs if key not in {"backend", "host", "port", kind})
        host = f"[{known['host']}]" if ":" in known["host"] else known["host"]
        return f"{prefix}{host}:{known['port']}" + (f",{more}" if more else "")
    return prefix + known.get("path", "")


@dataclass(frozen=True, slots=True)
class Chardev:
    option: Option
    id: str
    backend: str
    """`socket`, `file`, `pty`, `stdio`, ...; `chardev` for the short form that names another one."""
    path: str
    host: str
    port: str
    fd: str
    """Not empty: the socket was handed to QEMU as an open file descriptor."""
    server: bool
    waits: bool
    """QEMU does not start before somebody connects."""
    abstract: bool
    padded: bool
    """An abstract socket whose name is filled up with NULs (`tight=off`)."""
    encoded: bool
    """telnet, websocket or TLS: not a plain stream of bytes."""
    arguments: Arguments

    @property
    def listens(self) -> bool:
        return self.backend == "socket" and self.server and not self.fd


def chardevs(argv: Sequence[str]) -> tuple[Chardev, ...]:
    """Every character device, from `-chardev` and from the short form of `-qmp`, `-serial`, `-monitor`, ..."""
    wanted = _SHORT_CHARDEV | {"chardev"}
    return tuple(_chardev(option) for option in options(argv) if option.name in wanted and option.value is not None)


def _chardev(option: Option) -> Chardev:
    given = arguments(option)
    value = {name: given.get(given.leaf(name)) for name in ("path", "host", "port", "fd", "tls-creds")}
    if given.form is Form.JSON:  # QAPI's names for a log file and a file descriptor
        value["path"] = value["path"] or given.get(given.leaf("out"))
        value["fd"] = value["fd"] or given.get(given.leaf("str"))
    server = given.get(given.leaf("server"), "on" if option.name == "gdb" and value["port"] else "off") in _TRUE
    return Chardev(
        option,
        id=given.get("id"),
        backend=given.get("backend.type") or given.get("backend"),
        path=value["path"],
        host=value["host"],
        port=value["port"],
        fd=value["fd"],
        server=server,
        waits=server and option.name != "gdb" and given.get(given.leaf("wait"), "on") in _TRUE,
        abstract=given.on(given.leaf("abstract")),
        padded=given.get(given.leaf("tight"), "on") not in _TRUE,
        encoded=bool(value["tls-creds"]) or any(given.on(given.leaf(name)) for name in _ENCODINGS),
        arguments=given,
    )


# --- what the command line says of the VM -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Monitor:
    """One QMP monitor: where it can be reached, or `why_not`."""

    kind: Literal["unix", "tcp", "other"]
    path: str = ""
    """As on the command line, so it may be relative to QEMU's directory. An abstract socket begins with NUL."""
    host: str = ""
    port: int = 0
    why_not: str | None = None


def qmp_monitors(argv: Sequence[str]) -> tuple[Monitor, ...]:
    """Every monitor that speaks QMP, in their order on the command line."""
    devices = chardevs(argv)
    by_id = {device.id: device for device in devices if device.option.name == "chardev"}
    by_option = {device.option: device for device in devices}
    libvirt = is_of_libvirt(argv)
    found = []
    for option in options(argv):
        if option.name in {"qmp", "qmp-pretty"} and option in by_option:
            own = by_option[option]
            device = by_id.get(own.path) if own.backend == "chardev" else own
        elif option.name == "mon" and arguments(option).get("mode") == "control":
            device = by_id.get(arguments(option).get("chardev"))
        else:
            continue
        found.append(_monitor(device, libvirt=libvirt))
    return tuple(found)


def _monitor(device: Chardev | None, *, libvirt: bool) -> Monitor:
    if device is None:
        return Monitor("other", why_not="its character device is not on the command line")
    why_not = _why_not(device, libvirt=libvirt)
    if device.backend == "socket" and device.path:
        return Monitor("unix", path=_socket_name(device), why_not=why_not)
    if device.backend == "socket" and _port(device):
        return Monitor("tcp", host=device.host or "localhost", port=_port(device), why_not=why_not)
    return Monitor("other", why_not=why_not)


def _port(device: Chardev) -> int:
    """0 for the name of a service, or nonsense."""
    return int(device.port) if re.fullmatch(r"[0-9]{1,5}", device.port) else 0


def _socket_name(device: Chardev) -> str:
    if not device.abstract:
        return device.path
    return "\0" + (device.path.ljust(MAX_SOCKET_PATH, "\0") if device.padded else device.path)


def _why_not(device: Chardev, *, libvirt: bool) -> str | None:
    if libvirt and (device.fd or "/libvirt/" in device.path):
        return "held by libvirt's daemon, which lets nobody else in"
    if device.fd:
        return f"its socket was handed to QEMU as file descriptor {printable(device.fd, 20)}, so it has no address"
    if device.backend != "socket":
        return f"it is on {printable(device.backend, 40) or 'a device that cannot be read'}, not on a socket"
    if not device.server:
        peer = device.path or f"{device.host}:{device.port}"
        return f"QEMU is the client there: it connects to {printable(peer, 200)}"
    if device.encoded:
        return "it speaks telnet, websocket or TLS"
    if device.path and not _is_a_path(device.path):
        return f"its path, {printable(device.path, 200)}, is none that a socket can have"
    if not device.path and not re.fullmatch(r"[A-Za-z0-9_.:%-]*", device.host):
        return f"its host, {printable(device.host, 200)}, is none that can be looked up"
    if not device.path and not _port(device):
        return f"its port, {printable(device.port, 40) or 'none'}, is not a number to connect to"
    return None


def _is_a_path(path: str) -> bool:
    """JSON can spell what no file name holds: NUL, and halves of characters."""
    return "\0" not in path and not re.search("[\ud800-\udc7f\udd00-\udfff]", path)


def is_of_libvirt(argv: Sequence[str]) -> bool:
    """Whether libvirt started this QEMU: its name is always `guest=`, and its monitor `charmonitor`."""
    named = any(option.name == "name" and (option.value or "").startswith("guest=") for option in options(argv))
    return named and any(device.id == "charmonitor" or "/libvirt/" in device.path for device in chardevs(argv))


def _last(argv: Sequence[str], names: frozenset[str], key: str) -> str:
    """QEMU merges repeated options: the last one that has the key wins."""
    found = [arguments(option).get(key) for option in options(argv) if option.name in names]
    return next((value for value in reversed(found) if value), "")


def name(argv: Sequence[str]) -> str | None:
    return _last(argv, frozenset({"name"}), "guest") or None


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def uuid(argv: Sequence[str]) -> str | None:
    """Of `-uuid`, or of `-smbios type=1,uuid=`, which sets the same (Proxmox writes only that); lower case."""
    plain = [option.value for option in options(argv) if option.name == "uuid" and option.value]
    found = (plain[-1] if plain else _last(argv, frozenset({"smbios"}), "uuid")).lower()
    return found if _UUID.fullmatch(found) else None


def machine(argv: Sequence[str]) -> str | None:
    """The machine type as it was written: `q35` is an alias that means something newer in a newer QEMU."""
    return _last(argv, frozenset({"machine", "M"}), "type") or None


_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bBkKmMgGtTpPeE]?)")


def memory(argv: Sequence[str]) -> int | None:
    """Bytes of `-m`, whose plain numbers are MiB; None where it is not said."""
    match = _SIZE.fullmatch(_last(argv, frozenset({"m"}), "size"))
    if match is None or len(match[1]) > 20:
        return None
    return int(float(match[1]) * 1024 ** "bkmgtpe".index(match[2].lower() or "m"))


def devices(argv: Sequence[str]) -> tuple[Arguments, ...]:
    """Every `-device`; its `driver` and `id` are among the pairs."""
    return tuple(arguments(option) for option in options(argv) if option.name == "device")


@dataclass(frozen=True, slots=True)
class FailoverPair:
    standby: str
    """The id; empty where only its primary is on the command line."""
    primary: str
    """The id; empty where the card was plugged later, or has none."""


def failover_pairs(argv: Sequence[str]) -> tuple[FailoverPair, ...]:
    """As far as they appear on the command line: cards can also come by `device_add`."""
    given = devices(argv)
    standbys = [device.get("id") for device in given if device.on("failover")]
    primaries = {device.get("failover_pair_id"): device.get("id") for device in given if device.get("failover_pair_id")}
    pairs = [FailoverPair(standby, primaries.get(standby, "")) for standby in standbys]
    return (*pairs, *(FailoverPair("", card) for standby, card in primaries.items() if standby not in standbys))
