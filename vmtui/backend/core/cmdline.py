"""What does a QEMU command line say, and how must it read to start the VM again for a saved state?

QEMU takes `-opt` and `--opt`; an argument is a plain word, `key=value,...` (a comma in a value is written twice), JSON,
or a character device in its short form (`unix:PATH,server=on`). All four become `Arguments`, so that one rule serves
them all. Command lines are untrusted: whatever cannot be read is left as it is, and nothing here raises.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
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
        """The argument's text with these keys set."""
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
_SHORT_CHARDEV = frozenset({"serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb"})
_CHARDEV_OPTIONS = _SHORT_CHARDEV | {"chardev"}


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
    return re.findall(r"(?:[^,]+|,,)+", text)


def _pair(piece: str) -> tuple[str, str]:
    key, equals, value = piece.partition("=")
    if equals:
        return key, value.replace(",,", ",")
    return (key[2:], "off") if key.startswith("no") else (key, "on")


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
        _set(document, key, {"on": True, "off": False}.get(value, value))
    return json.dumps(document, ensure_ascii=False)  # bytes that are not UTF-8 must come out as they went in


def _set(document: Any, key: str, value: str | bool) -> None:
    """Set a flattened key; not by splitting it at its dots, for a name in JSON may hold some itself."""
    inside = document if isinstance(document, dict) else {str(at): inner for at, inner in enumerate(document)}
    for name, inner in inside.items():
        if isinstance(inner, dict | list) and key.startswith(f"{name}."):
            return _set(inner, key[len(name) + 1 :], value)
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
        pairs = (("backend", "socket"), *_host_and_port(rest), (kind, "on"))
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
        return f"{prefix}{host}:{known['port']},{more}"
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


def chardevs(argv: Sequence[str]) -> tuple[Chardev, ...]:
    """Every character device, from `-chardev` and from the short form of `-qmp`, `-serial`, `-monitor`, ..."""
    return tuple(_chardev(option) for option in options(argv) if option.name in _CHARDEV_OPTIONS)


def _chardev(option: Option) -> Chardev:
    given = arguments(option)
    value = {name: given.get(given.leaf(name)) for name in ("path", "host", "port", "fd", "tls-creds")}
    value["path"] = value["path"] or given.get(given.leaf("out"))  # QAPI's names for a log file and a file descriptor
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
    if not _is_a_path(device.path):
        return f"its path, {printable(device.path, 200)}, is none that a socket can have"
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]*", device.host):
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


def panic_action(argv: Sequence[str]) -> str:
    """`-action panic=`, or QEMU's default; empty where the command line is not known, or not all of it (-readconfig)."""
    if not argv or any(option.name == "readconfig" for option in options(argv)):
        return ""
    return _last(argv, frozenset({"action"}), "panic") or "shutdown"


def panic_ends(argv: Sequence[str]) -> bool:
    """Whether a panic ends QEMU: its panic action says so, and `-no-shutdown`, or `-action shutdown=pause`, does not."""
    action = panic_action(argv)
    return action == "exit-failure" or (action == "shutdown" and _shutdown_action(argv) != "pause")


def _shutdown_action(argv: Sequence[str]) -> str:
    given = (option for option in options(argv) if option.name in {"action", "no-shutdown"})
    said = ["pause" if option.name == "no-shutdown" else arguments(option).get("shutdown") for option in given]
    return next((value for value in reversed(said) if value), "poweroff")


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


# --- images and other files -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """One file, host device or network disk that a block option opens."""

    option: Option
    path: str
    """Empty where it is not a file of this host."""
    writable: bool


_IMAGE_OPTIONS = frozenset({"", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash", "cdrom"})
_CD_DRIVES = frozenset({"ide-cd", "scsi-cd"})


def images(argv: Sequence[str]) -> tuple[Image, ...]:
    """Every image, and whether the VM writes to it; with `snapshot=on` it writes to a temporary file instead."""
    given = options(argv)
    snapshot = any(option.name == "snapshot" for option in given)
    readers = _readers(given)
    found: list[Image] = []
    for option in given:
        if option.name in _IMAGE_OPTIONS and option.value:
            writable = option.name != "cdrom" and not snapshot
            found.append(Image(option, _host_path(option.value), writable))
        elif option.name == "drive":
            found += _drive_images(option, snapshot=snapshot)
        elif option.name == "blockdev":
            found += _blockdev_images(option, readers)
    return tuple(found)


def _drive_images(option: Option, *, snapshot: bool) -> Iterator[Image]:
    given = arguments(option)
    spared = given.on("snapshot") or (snapshot and not given.get("snapshot"))
    locked = given.get("media") == "cdrom" or given.on("readonly") or given.on("read-only")
    name = given.get("file")
    inner = Arguments(name, Form.JSON, _json_pairs(name.removeprefix("json:"))) if name.startswith("json:") else given
    paths = [_host_path(name), *_file_names(inner)]
    if name or _file_names(inner) or any(key.startswith("file.") for key, _ in given.pairs):
        writable = not spared and not locked and not _is_null(inner) and not name.startswith("null-")
        yield from _images_at(option, paths, writable=writable)


def _blockdev_images(option: Option, readers: Mapping[str, Sequence[bool]]) -> Iterator[Image]:
    """A node that only read-only ones look at takes no write lock, so it counts as read-only itself."""
    given = arguments(option)
    if "file" in dict(given.pairs):  # a node above another one, which opens nothing itself
        return
    above = readers.get(given.get("node-name"), ())
    locked = given.on("read-only") or (bool(above) and not any(above))
    yield from _images_at(option, _file_names(given), writable=not locked and not _is_null(given))


def _readers(given: Iterable[Option]) -> dict[str, list[bool]]:
    """For each block node's name, whether those that look at it may write."""
    found: dict[str, list[bool]] = {}
    for option in given:
        if option.name == "blockdev":
            values = dict(arguments(option).pairs)
            writes = values.get("read-only") not in _TRUE
            found.setdefault(values.get("file", ""), []).append(writes)
            found.setdefault(values.get("backing", ""), []).append(False)
        elif option.name == "device" and (values := dict(arguments(option).pairs)).get("drive"):
            found.setdefault(values["drive"], []).append(values.get("driver") not in _CD_DRIVES)
    return found


def _images_at(option: Option, paths: Iterable[str], *, writable: bool) -> Iterator[Image]:
    for at, path in enumerate(list(paths) or [""]):
        yield Image(option, path, writable and at == 0)  # the first is the image itself, others lie behind it


def _file_names(given: Arguments) -> list[str]:
    return [_host_path(value) for key, value in given.pairs if key.rpartition(".")[2] == "filename"]


def _is_null(given: Arguments) -> bool:
    return any(key.rpartition(".")[2] == "driver" and value.startswith("null-") for key, value in given.pairs)


def _host_path(name: str) -> str:
    """The path an image's name means, or nothing for `nbd://...` and other protocols."""
    bare = name.removeprefix("file:")
    return "" if re.match(r"[A-Za-z0-9_.+-]+:", bare) else bare


_NEEDED: dict[str, tuple[str, ...]] = {
    "kernel":     ("",),
    "initrd":     ("",),
    "dtb":        ("",),
    "readconfig": ("",),
    "mem-path":   ("",),
    "bios":       ("",),
    "option-rom": ("",),
    "machine":    ("kernel", "initrd", "dtb", "firmware"),
    "M":          ("kernel", "initrd", "dtb", "firmware"),
    "device":     ("file", "romfile"),
    "fw_cfg":     ("file",),
    "smbios":     ("file",),
    "acpitable":  ("file", "data"),
    "object":     ("mem-path", "file", "filename"),
}  # fmt: skip
"""Options and their keys that name a file; an empty key is the whole argument."""
_SEARCHED = frozenset({"bios", "option-rom", "firmware", "romfile"})
"""QEMU looks for these in its own directories, unless they are paths."""


def disks(argv: Sequence[str]) -> tuple[str, ...]:
    """Paths, as written, of what must be there to start the VM again: images, and a kernel, firmware, memory or secret
    given as a file."""
    needed = [image.path for image in images(argv)]
    for option in options(argv):
        needed += [path for key in _NEEDED.get(option.name, ()) for path in _needed(option, key)]
    return tuple(dict.fromkeys(path for path in needed if path))


def _needed(option: Option, key: str) -> Sequence[str]:
    given = arguments(option)
    path = given.get(key) if key else option.value or ""
    if (key or option.name) in _SEARCHED and "/" not in path:
        return ()
    if key == "file" and option.name == "object" and not given.get("qom-type").startswith("secret"):
        return ()  # filter-dump's is written, not read
    return path.split(":") if option.name == "acpitable" else (path,)


# --- the command line that starts it again ----------------------------------------------------------------------------

RESTORE_SOCKET = "restore-qmp.sock"


@dataclass(frozen=True, slots=True)
class RestoreCommand:
    argv: tuple[str, ...]
    qmp_path: str
    """Of the monitor added for whoever restores."""
    problems: tuple[str, ...]
    """Why it must not, or cannot, be started: ready to be shown, one line each."""
    notes: tuple[str, ...]
    """What differs from the original, or is needed besides."""


def for_restore(argv: Sequence[str], *, name: str, directory: str, original_alive: bool) -> RestoreCommand:
    """The command line that starts this VM once more, waiting for `migrate-incoming`.

    It is the original's, but for: `name` (unless empty); no -daemonize and -pidfile, for the caller owns the process;
    no -incoming, -loadvm and -preconfig of its own; no socket that makes QEMU wait for a client before it starts. Where
    the original still runs, the sockets it listens on and the files it writes get names in `directory` (absolute), and
    whatever both would share is a problem. `-S` stays: a VM that was started so waits for `cont`.
    """
    given = options(argv)
    own_socket = f"{directory}/{RESTORE_SOCKET}"
    renames = _renames(given, directory) if original_alive else {}
    kept = [_restarted(option, renames, name) for option in given if not _is_left_out(option)]
    named = any(option.name == "name" and arguments(option).get("guest") for option in kept)
    added = () if named or not name else ("-name", to_keyval([("guest", name)], implied=True))
    monitor = to_keyval([("path", own_socket), ("server", "on"), ("wait", "off")], implied=True)
    return RestoreCommand(
        argv=(*argv[:1], *_words(kept), *added, "-qmp", f"unix:{monitor}", "-incoming", "defer"),
        qmp_path=own_socket,
        problems=_problems(argv, [own_socket, *renames.values()], original_alive=original_alive),
        notes=_notes(given, renames, original_alive=original_alive),
    )


def _words(given: Iterable[Option]) -> Iterator[str]:
    for option in given:
        yield from option.words


_LEFT_OUT = frozenset({"incoming", "daemonize", "pidfile", "loadvm", "preconfig"})


def _is_left_out(option: Option) -> bool:
    """A restored VM may be saved and restored again: the monitor of the first time must not pile up."""
    own = option.name == "qmp" and _basename(arguments(option).get("path")) == RESTORE_SOCKET
    return own or option.name in _LEFT_OUT


def _restarted(option: Option, renames: Mapping[str, str], name: str) -> Option:
    changes = {own.key: own.before + renames[own.path] for own in _own_paths(option) if own.path in renames}
    given = arguments(option)
    if name and option.name == "name" and given.get("guest") not in {"", name}:
        changes["guest"] = name
    if option.name in _CHARDEV_OPTIONS and _chardev(option).waits:
        changes[given.leaf("server").removesuffix("server") + "wait"] = "off"
    return replace(option, value=changes[""] if "" in changes else given.with_values(changes)) if changes else option


@dataclass(frozen=True, slots=True)
class _OwnPath:
    """A socket QEMU creates, or a file it writes: two VMs cannot have the same."""

    key: str
    """Of the option's arguments; empty where the path is the whole argument."""
    path: str
    before: str = ""
    """What stands before the path in the value."""


def _own_paths(option: Option) -> tuple[_OwnPath, ...]:
    given = arguments(option)
    if option.name in _CHARDEV_OPTIONS:
        return tuple(_chardev_paths(_chardev(option)))
    if option.name in {"vnc", "display"} and given.get("vnc").startswith("unix:"):
        return (_OwnPath("vnc", given.get("vnc").removeprefix("unix:"), "unix:"),)
    if option.name == "spice" and given.on("unix"):
        return (_OwnPath("addr", given.get("addr")),)
    if option.name == "D" and option.value:
        return (_OwnPath("", option.value),)
    writes = {"trace": "file", "object": "file", "audiodev": "path"}.get(option.name, "")
    kind_fits = option.name == "trace" or "filter-dump" in dict(given.pairs).values() or given.get("driver") == "wav"
    return (_OwnPath(writes, given.get(writes)),) if writes and kind_fits and given.get(writes) else ()


def _chardev_paths(device: Chardev) -> Iterator[_OwnPath]:
    written = device.backend == "file" and not device.path.startswith("/dev/")
    if device.path and (device.server or written):
        key = next(key for key, value in reversed(device.arguments.pairs) if value == device.path)
        yield _OwnPath(key, device.path)
    log = device.arguments.leaf("logfile")
    if device.arguments.get(log):
        yield _OwnPath(log, device.arguments.get(log))


def _renames(given: Iterable[Option], directory: str) -> dict[str, str]:
    """Old path to new; two that end alike get different names."""
    found: dict[str, str] = {}
    taken = {RESTORE_SOCKET}
    for option in given:
        if _is_left_out(option):
            continue
        for own in _own_paths(option):
            if own.path in found:
                continue
            stem, dot, suffix = (_basename(own.path) or "unnamed").rpartition(".")
            fresh = (f"{stem or suffix}{'' if at == 1 else f'-{at}'}{dot + suffix if stem else ''}" for at in count(1))
            found[own.path] = next(name for name in fresh if name not in taken)
            taken.add(found[own.path])
    return {path: f"{directory}/{name}" for path, name in found.items()}


# --- what stands in the way of a second start -------------------------------------------------------------------------

_FD_OPTIONS = {"add-fd", "netdev", "net", "nic", "device", "object", "fsdev", "virtfs", "tpmdev", "blockdev", "drive"}
_MAY_HOLD_FDS = _CHARDEV_OPTIONS | _FD_OPTIONS
_FD_KEYS = frozenset({"fd", "fds", "vhostfd", "vhostfds", "sock_fd"})


def _problems(argv: Sequence[str], sockets: Iterable[str], *, original_alive: bool) -> tuple[str, ...]:
    given = options(argv)
    found = [
        f"the socket's path is longer than {MAX_SOCKET_PATH} bytes: {printable(path, 300)}"
        for path in sockets
        if len(_bytes(path)) > MAX_SOCKET_PATH
    ]
    if is_of_libvirt(argv):
        found.append(
            "libvirt started this VM, with sockets and files that only libvirt can hand over: restore it by"
            " `virsh restore`, or with a command line of your own"
        )
    found += [
        f"{option}: the file descriptor was handed over when the VM was started; a restart does not have it"
        for option in given
        if _needs_an_fd(option)
    ]
    if original_alive:
        found += [f"{option}: {why}" for option in given if (why := _clash(option))]
        found += [
            f"{image.option}: the original still runs and writes to this image; both together would destroy it"
            for image in images(argv)
            if image.writable
        ]
    return tuple(dict.fromkeys(found))


def _needs_an_fd(option: Option) -> bool:
    if option.name not in _MAY_HOLD_FDS:
        return False
    return option.name == "add-fd" or any(
        (key.rpartition(".")[2] in _FD_KEYS and value)
        or (key.rpartition(".")[2] == "type" and value == "fd")
        or value.startswith("/dev/fdset/")
        for key, value in arguments(option).pairs
    )


def _clash(option: Option) -> str | None:
    """Why the original and its copy cannot both have this."""
    given = arguments(option)
    if option.name == "s":
        return "the original listens on TCP port 1234 for a debugger"
    if option.name in _CHARDEV_OPTIONS:
        return _chardev_clash(_chardev(option))
    if option.name in {"netdev", "net", "nic"}:
        return next((why for key, why in _NETWORK_CLASHES.items() if _names_one(given, key)), None)
    if option.name == "device":
        return next((why for start, why in _DEVICE_CLASHES.items() if given.get("driver").startswith(start)), None)
    if option.name in {"vnc", "display"} and re.search(r":\d+$", given.get("vnc")) and not given.get("to"):
        return None if given.on("reverse") else "the original listens on the display's TCP port"
    if option.name == "spice" and not given.on("unix") and {given.get("port"), given.get("tls-port")} - {"", "0"}:
        return "the original listens on the display's TCP port"
    if option.name == "object" and given.get("qom-type") == "memory-backend-file" and given.on("share"):
        return "the copy would write into the memory of the original, if this is a file"
    return None


def _names_one(given: Arguments, key: str) -> bool:
    values = [value for name, value in given.pairs if name == key or name.startswith(f"{key}.")]
    return any(value not in {"", "off"} and "%" not in value for value in values)  # tap%d: the kernel finds a free one


_NETWORK_CLASHES = {
    "hostfwd":   "the original listens on the port that is forwarded",
    "listen":    "the original listens there",
    "localaddr": "the original receives there",
    "local":     "the original receives there",
    "server":    "the original listens there",
    "ifname":    "the original holds this network interface",
    "vhostdev":  "the original holds this device",
}  # fmt: skip
_DEVICE_CLASHES = {
    "vfio-":       "the original holds this device of the host",
    "usb-host":    "the original holds this device of the host",
    "vhost-vsock": "the original holds this guest-cid",
    "vhost-scsi":  "the original holds this target",
}  # fmt: skip
_HOST_DEVICES = frozenset({"serial", "tty", "parallel", "parport", "pipe"})


def _chardev_clash(device: Chardev) -> str | None:
    if device.server and not device.path and device.port not in {"", "0"} and not device.arguments.get("to"):
        return f"the original listens on TCP port {printable(device.port, 20)}"
    if device.backend in _HOST_DEVICES or device.backend.startswith("/dev/"):
        return "the original reads from this device"
    if device.backend in {"udp", "dgram"} and ("@" in device.path or device.arguments.get("localport")):
        return "the original receives on this port"
    return None


def _notes(given: Sequence[Option], renames: Mapping[str, str], *, original_alive: bool) -> tuple[str, ...]:
    found = [f"{printable(old, 300)} is {printable(new, 300)} in the copy" for old, new in renames.items()]
    found += [note for option in given for note in _notes_on(option, original_alive=original_alive)]
    if original_alive and any(_is_shared_network(option) for option in given):
        found.append("its network stays as it was told: on a shared one, two VMs will have the same MAC and IP addresses")
    return tuple(dict.fromkeys(found))


_OPTION_NOTES = {
    "S":          "-S stays: the VM waits for cont, also where it ran when it was saved",
    "loadvm":     "-loadvm is left out: the state comes from the file",
    "preconfig":  "-preconfig is left out: what was told over QMP before the start is not on the command line",
    "readconfig": "-readconfig: what is in that file was not looked at",
    "set":        "-set: what it changes was not looked at",
    "snapshot":   "-snapshot: what the VM wrote went to temporary files, which the saved state does not include",
    "nographic":  "-nographic: there will be no terminal for its console",
}  # fmt: skip


def _notes_on(option: Option, *, original_alive: bool) -> Iterator[str]:
    if option.name in _OPTION_NOTES:
        yield _OPTION_NOTES[option.name]
    if option.name == "drive" and arguments(option).on("snapshot"):
        yield f"{option}: what the VM wrote went to a temporary file, which the saved state does not include"
    if option.name not in _CHARDEV_OPTIONS or option.value is None or _is_left_out(option):
        return
    device = _chardev(option)
    if device.waits:
        yield f"{option}: does not wait for a client any more (wait=off)"
    if device.backend == "stdio":
        yield f"{option}: there will be no terminal for it"
    if device.backend == "socket" and not device.server and not device.fd:
        yield f"{option}: something must listen there" + (", and take a second client" if original_alive else "")
    if device.backend == "file" and not original_alive and not device.arguments.on("append"):
        yield f"{option}: the file is started anew"


def _is_shared_network(option: Option) -> bool:
    kind = arguments(option).get("type")
    return option.name in {"netdev", "net", "nic"} and kind not in {"user", "hubport", "nic", "none"}


# --- for a person's shell ---------------------------------------------------------------------------------------------


def shell_line(argv: Sequence[str], cwd: str = "") -> str:
    """The command for a shell, one option a line; `cwd` is where relative paths start."""
    words = [[argv[0]], *(option.words for option in options(argv))] if argv else []
    command = " \\\n    ".join(" ".join(_quoted(word) for word in line) for line in words)
    return f"cd {_quoted(cwd)} && \\\n{command}" if cwd else command


_ESCAPES = {"'": "\\'", "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\x1b": "\\e"}


def _quoted(word: str) -> str:
    """Quoted so that neither the shell nor the terminal takes anything in it for its own."""
    if printable(word, len(word)) == word:
        return shlex.quote(word)
    return "$'" + "".join(_ansi_c(character) for character in word) + "'"


def _ansi_c(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if printable(character) == character:
        return character
    return "".join(f"\\{byte:03o}" for byte in _bytes(character))  # octal ends after three digits, \x might go on


def _bytes(text: str) -> bytes:
    """As the kernel has it. Halves of characters come from JSON only, and no file can be called so."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
