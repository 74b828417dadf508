"""Which VMs does this host have, where are their monitors, and which of them does a user mean?

Everything is read from /proc; no monitor is opened, for a monitor serves one client and looking must not be in anybody's
way. Other people's processes come and go while we read: one that is gone is no error, only no VM.
"""

import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, Self

from vmtui.backend import simulated
from vmtui.backend.core import cmdline
from vmtui.backend.core.errors import Unreachable, UsageError
from vmtui.backend.core.text import printable

PROC = Path("/proc")
SHORTEST_UUID_PREFIX = 8


class BadAddress(UsageError, ValueError):
    pass


class UnknownVm(UsageError):
    pass


class AmbiguousVm(UsageError):
    pass


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where a QMP monitor listens."""

    kind: Literal["unix", "tcp"]
    path: str = ""
    """An abstract socket's begins with NUL, as `connect` wants it."""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return "unix:" + (f"@{self.path[1:].rstrip(chr(0))}" if self.path.startswith("\0") else self.path)
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    @classmethod
    def parse(cls, spec: str) -> Self:
        """`unix:PATH`, `unix:@ABSTRACT`, `tcp:HOST:PORT`, `tcp:[::1]:PORT`, or a path. Raises BadAddress."""
        kind, _, rest = spec.partition(":")
        if kind == "tcp":
            return cls._tcp(rest)
        path = rest if kind == "unix" else spec
        if not path or "\0" in path:
            raise BadAddress(f"{printable(spec, 200)!r} is no address: unix:PATH or tcp:HOST:PORT")
        return cls("unix", path=f"\0{path[1:]}" if path.startswith("@") and kind == "unix" else path)

    @classmethod
    def _tcp(cls, rest: str) -> Self:
        match = re.fullmatch(r"(?:\[([^]\[]+)\]|([^:]*)):([0-9]{1,5})", rest)
        if match is None or not 0 < int(match[3]) < 65536:
            raise BadAddress(f"tcp:{printable(rest, 200)} is no address: tcp:HOST:PORT, with a port of 1 to 65535")
        return cls("tcp", host=match[1] or match[2] or "localhost", port=int(match[3]))


@dataclass(frozen=True, slots=True)
class FoundVm:
    name: str
    """As QEMU was told; `qemu-PID` for one without a name, the socket's name where no process was found."""
    uuid: str | None
    pid: int | None
    address: Address | None
    """None: there is no monitor that could be used; `why_not` says why."""
    other_addresses: tuple[Address, ...] = ()
    argv: tuple[str, ...] = ()
    """QEMU's own: a dynamic loader called by hand is in `launcher`."""
    cwd: str = ""
    """Where its relative paths start: where it was started, which -daemonize hides. Empty where that is not known."""
    why_not: str | None = None
    launcher: tuple[str, ...] = ()
    machine: str | None = None
    memory: int | None = None
    """Bytes."""
    start_time: int | None = None
    """Clock ticks since boot: with the pid it names the process for good."""

    @property
    def monitor(self) -> Address:
        """Raises Unreachable where there is none that could be used."""
        if self.address is None:
            raise Unreachable(f"{printable(self.name)} has no QMP monitor that can be used: {self.why_not}")
        return self.address

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self.address, *self.other_addresses) if self.address else self.other_addresses


@dataclass(frozen=True, slots=True)
class Survey:
    vms: tuple[FoundVm, ...]
    unreadable: int
    """Processes that did not show their command line: other users', where /proc is mounted with hidepid."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket."""

    pid: int
    argv: tuple[str, ...]
    cwd: str
    """Where its relative paths start, as in `FoundVm`."""
    exe: str
    """The file that runs: the loader where QEMU was started through one. Empty where it could not be read."""
    start_time: int
    launcher: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    """Only what QEMU finds its own parts by: QEMU_MODULE_DIR, LD_LIBRARY_PATH."""

    @property
    def is_qemu(self) -> bool:
        """False for libvirt's daemon or systemd, which may have opened the socket that QEMU listens on."""
        return bool(self.argv) and cmdline.is_qemu(self.argv[0])


# --- looking around ---------------------------------------------------------------------------------------------------


def discover(proc: Path = PROC) -> tuple[FoundVm, ...]:
    """Every QEMU of this host whose command line can be read, sorted by name. Raises nothing."""
    return survey(proc).vms


def survey(proc: Path = PROC) -> Survey:
    """`discover`, and how many processes could not be looked at. Raises nothing.

    Where VMTUI_DEMO_DIR names a directory, only the simulated VMs that are served there: a demo touches no real VM.
    """
    if demo := os.environ.get(simulated.DIRECTORY):
        return Survey(tuple(_simulated_vms(Path(demo))), 0)
    found: list[_Process] = []
    unreadable = 0
    for pid in _pids(proc):
        try:
            process = _qemu_process(proc, pid)
        except PermissionError:
            unreadable += 1
        except OSError:
            continue  # gone since we listed it
        else:
            found += [process] if process else []
    vms = [_found_vm(process) for process in _without_copies(found)]
    return Survey(tuple(sorted(vms, key=lambda vm: (vm.name, vm.pid or 0))), unreadable)


def _simulated_vms(directory: Path) -> Iterator[FoundVm]:
    for record in simulated.records(directory):
        if process_alive(record.pid, record.start_time):
            address = Address("unix", path=record.path)
            known = (record.name, record.uuid, record.pid, address)
            yield FoundVm(*known, machine=record.machine, memory=record.memory, start_time=record.start_time)


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    start_time: int

    @property
    def gone(self) -> bool:
        return self.state in {"Z", "X", "x"}


@dataclass(frozen=True, slots=True)
class _Process:
    folder: Path
    pid: int
    words: tuple[str, ...]
    stat: _Stat


def _pids(proc: Path) -> Iterator[str]:
    with suppress(OSError), os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield entry.name


_MAY_BE_QEMU = re.compile(rb"[^\0]*(?:qemu|kvm)|(?:[^\0]*/)?ld[^\0/]*\.so[^\0/]*\0")
"""The cheap test, for thousands of processes: the first word names QEMU, or a loader that may run it."""


def _qemu_process(proc: Path, pid: str) -> _Process | None:
    raw = _command_line(f"{proc}/{pid}/cmdline")
    if raw is None:
        return None
    words = tuple(os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0"))
    _, argv = cmdline.split_launcher(words)
    if not argv or not cmdline.is_qemu(argv[0]):
        return None
    status = _stat(proc / pid)
    return None if status.gone else _Process(proc / pid, int(pid), words, status)


def _command_line(path: str) -> bytes | None:
    """Unbuffered, and no further than its first bytes where those show that it is not QEMU's: this runs per process."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(handle, 4096)
        if not _MAY_BE_QEMU.match(raw):
            return None
        while more := os.read(handle, 1 << 20):
            raw += more
        return raw
    finally:
        os.close(handle)


def _stat(folder: Path) -> _Stat:
    """Raises OSError where the process is gone."""
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything, `)` too
    if len(fields) < 20 or not (fields[1].isdigit() and fields[19].isdigit()):
        raise ProcessLookupError(f"{folder}/stat is not a process's")
    return _Stat(fields[0].decode("ascii", "replace"), int(fields[1]), int(fields[19]))


def _without_copies(found: Sequence[_Process]) -> Iterator[_Process]:
    """Not the forks that still carry QEMU's command line: async-teardown keeps one for as long as the VM lives."""
    by_pid = {process.pid: process for process in found}
    for process in found:
        parent = by_pid.get(process.stat.parent)
        if parent is None or parent.words != process.words:
            yield process


def _found_vm(process: _Process) -> FoundVm:
    launcher, argv = cmdline.split_launcher(process.words)
    cwd = _start_directory(process.folder, argv)
    monitors = [_reachable(monitor, process.folder, cwd, argv) for monitor in cmdline.qmp_monitors(argv)]
    usable = [address for address, _ in monitors if address is not None]
    refusals = [why_not for _, why_not in monitors if why_not is not None]
    return FoundVm(
        name=cmdline.name(argv) or f"qemu-{process.pid}",
        uuid=cmdline.uuid(argv),
        pid=process.pid,
        address=usable[0] if usable else None,
        other_addresses=tuple(usable[1:]),
        argv=argv,
        cwd=cwd,
        why_not=None if usable else "; ".join(dict.fromkeys(refusals)) or _no_monitor(argv),
        launcher=launcher,
        machine=cmdline.machine(argv),
        memory=cmdline.memory(argv),
        start_time=process.stat.start_time,
    )


def _no_monitor(argv: Sequence[str]) -> str:
    if any(option.name == "readconfig" for option in cmdline.options(argv)):
        return "no QMP monitor on its command line; one may be in its -readconfig file: name its socket"
    return "it was started without a QMP monitor (-qmp unix:PATH,server=on,wait=off)"


def _reachable(monitor: cmdline.Monitor, folder: Path, cwd: str, argv: Sequence[str]) -> tuple[Address | None, str | None]:
    """The monitor's address as seen from here, or why there is none."""
    if monitor.why_not is not None:
        return None, monitor.why_not
    if monitor.kind == "tcp":
        return Address("tcp", host=monitor.host, port=monitor.port), None
    if monitor.path.startswith("\0"):
        return Address("unix", path=monitor.path), None
    if not cwd and not monitor.path.startswith("/"):
        where = printable(monitor.path, 200)
        return None, f"its socket {where!r} lies where it was started, which is not known: name it by its full path"
    path = os.path.normpath(Path(cwd) / monitor.path)
    return Address("unix", path=_seen_from_here(path, folder, argv)), None


def _start_directory(folder: Path, argv: Sequence[str]) -> str:
    """The directory QEMU's relative paths start from.

    That is its own, unless it daemonized or was put into a chroot: then it went to / and the directory it was started
    in is inferred from its environment and its open files. Empty where that says nothing.
    """
    if not any(option.name in {"daemonize", "chroot", "run-with"} for option in cmdline.options(argv)):
        return _link(folder / "cwd")
    candidates = [dict(_environ(folder)).get("PWD", "")]
    relative = [path for path in _paths(argv) if path and not path.startswith("/")]
    for opened in _open_files(folder) if relative else ():
        candidates += [opened.removesuffix(f"/{path}") or "/" for path in relative if opened.endswith(f"/{path}")]
    known = [candidate for candidate in candidates if candidate.startswith("/")]
    if not relative:
        return next(iter(known), "")
    return next((there for there in known if any(_exists(f"{there}/{path}") for path in relative)), "")


def _paths(argv: Sequence[str]) -> list[str]:
    """Of files that can bear witness: they are there, or QEMU has them open."""
    written = [option.value or "" for option in cmdline.options(argv) if option.name in {"pidfile", "D"}]
    devices = [device.path for device in cmdline.chardevs(argv) if device.server or device.backend == "file"]
    return [*written, *devices, *cmdline.disks(argv)]


def _open_files(folder: Path) -> list[str]:
    try:
        return [_link(entry) for entry in (folder / "fd").iterdir()]
    except OSError:
        return []


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _seen_from_here(path: str, folder: Path, argv: Sequence[str]) -> str:
    """Through /proc/PID/root where QEMU lives in another root: a container's.

    Not where it was told to `-chroot`: its sockets were opened before.
    """
    inside = f"{folder}/root{path}"
    with suppress(OSError):
        elsewhere = not (folder / "root").samefile("/")
        chrooted = any(option.name in {"chroot", "run-with"} for option in cmdline.options(argv))
        if elsewhere and not chrooted and Path(inside).exists():
            return inside
    return path


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


# --- which one is meant -----------------------------------------------------------------------------------------------


def resolve(spec: str, vms: Sequence[FoundVm]) -> FoundVm:
    """The VM a user means by a name, a uuid (or 8 digits of it, or more), an address, or a socket's path.

    A socket that belongs to none of `vms` is a VM as well: one with only an address. Raises UnknownVm, AmbiguousVm or
    BadAddress, whose texts list what there is.
    """
    if spec.startswith(("unix:", "tcp:")) or "/" in spec:
        return _at(_absolute(Address.parse(spec)), vms)
    matches = [vm for vm in vms if vm.name == spec] or [vm for vm in vms if _is_uuid(spec, vm.uuid)]
    if len(matches) > 1:
        raise AmbiguousVm(f"{printable(spec, 200)!r} may be any of these; name one by its address:\n{_listed(matches)}")
    if matches:
        return matches[0]
    if _is_socket(spec):
        return _at(_absolute(Address("unix", path=spec)), vms)
    there_is = f"There are:\n{_listed(vms)}" if vms else "No VM was found on this host; name its QMP socket: unix:PATH"
    raise UnknownVm(f"No VM is called {printable(spec, 200)!r}. {there_is}")


def _at(address: Address, vms: Sequence[FoundVm]) -> FoundVm:
    owner = next((vm for vm in vms if any(_same(address, other) for other in vm.addresses)), None)
    if owner is None:
        return FoundVm(name=_name_of(address), uuid=None, pid=None, address=address)
    mine = next(other for other in owner.addresses if _same(address, other))
    return replace(owner, address=mine, other_addresses=tuple(other for other in owner.addresses if other != mine))


def _same(one: Address, other: Address) -> bool:
    if one == other or one.kind == "tcp" or other.kind == "tcp" or "\0" in one.path + other.path:
        return str(one) == str(other)
    try:
        return Path(one.path).samefile(other.path)
    except (OSError, ValueError):
        return False


def _absolute(address: Address) -> Address:
    if address.kind == "tcp" or address.path.startswith("\0"):
        return address
    return replace(address, path=os.path.normpath(Path.cwd() / address.path))


def _name_of(address: Address) -> str:
    """Of a VM whose process was not found: something short that can be part of a file's name."""
    if address.kind == "tcp":
        return f"{address.host}-{address.port}".replace(":", "-")
    return Path(address.path.replace("\0", "")).stem or "vm"


def _is_uuid(spec: str, uuid: str | None) -> bool:
    digits = _digits(spec)
    return uuid is not None and len(digits) >= SHORTEST_UUID_PREFIX and _digits(uuid).startswith(digits)


def _digits(uuid: str) -> str:
    """`{6B2C...}`, `urn:uuid:` and a uuid without dashes mean the same."""
    return uuid.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")


def _is_socket(path: str) -> bool:
    try:
        return Path(path).is_socket()
    except (OSError, ValueError):  # too long for a path, or holding a NUL
        return False


def _listed(vms: Sequence[FoundVm]) -> str:
    return "\n".join(f"  {printable(vm.name, 80)}  {vm.uuid or '-'}  {printable(_where(vm), 300)}" for vm in vms)


def _where(vm: FoundVm) -> str:
    return str(vm.address) if vm.address else f"(not reachable: {vm.why_not})"


def as_json(vm: FoundVm) -> dict[str, object]:
    """For `list --json`. Bytes that are no UTF-8 are shown as `\\udc80`: they would not pass an encoder."""
    return {
        "name": _encodable(vm.name),
        "uuid": _encodable(vm.uuid),
        "pid": vm.pid,
        "address": _encodable(vm.address),
        "other_addresses": [_encodable(address) for address in vm.other_addresses],
        "why_not": _encodable(vm.why_not),
        "machine": _encodable(vm.machine),
        "memory": vm.memory,
        "cwd": _encodable(vm.cwd),
        "argv": [_encodable(word) for word in (*vm.launcher, *vm.argv)],
    }


def _encodable(value: str | Address | None) -> str | None:
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


# --- processes and sockets --------------------------------------------------------------------------------------------


class Socket(Protocol):
    """A connected socket, or asyncio's stand-in for one (`get_extra_info("socket")`)."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def credentials(sock: Socket) -> tuple[int, int]:
    """pid and uid at the other end of a unix socket, as the kernel knows them."""
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def peer_of(sock: Socket, proc: Path = PROC) -> Peer | None:
    """The process that opened the listening end, by SO_PEERCRED. None: TCP, another pid namespace, or gone."""
    pid, _uid = credentials(sock)
    return process(pid, proc)  # 0 where there is none to tell, and /proc/0 is never there


def process(pid: int, proc: Path = PROC) -> Peer | None:
    """What /proc tells of a process; None if it is gone or tells nothing."""
    folder = proc / str(pid)
    try:
        status = _stat(folder)
        words = tuple(os.fsdecode(word) for word in (folder / "cmdline").read_bytes().removesuffix(b"\0").split(b"\0"))
    except OSError:
        return None
    launcher, argv = cmdline.split_launcher(words)
    return Peer(
        pid,
        argv,
        cwd=_start_directory(folder, argv),
        exe=_link(folder / "exe"),
        start_time=status.start_time,
        launcher=launcher,
        environment=_environment(folder),
    )


def _environment(folder: Path) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in _environ(folder) if name in {"QEMU_MODULE_DIR", "LD_LIBRARY_PATH"})


def _environ(folder: Path) -> tuple[tuple[str, str], ...]:
    """As the process got it; nothing where that is not for us to read."""
    try:
        entries = os.fsdecode((folder / "environ").read_bytes()).split("\0")
    except OSError:
        return ()
    return tuple((name, value) for name, _, value in (entry.partition("=") for entry in entries))


def process_alive(pid: int, start_time: int, proc: Path = PROC) -> bool:
    """Whether this very process still runs: a zombie does not, nor does another one that got its pid."""
    try:
        status = _stat(proc / str(pid))
    except OSError:
        return False
    return status.start_time == start_time and not status.gone


@contextmanager
def connectable_path(path: str) -> Iterator[str]:
    """A name for this unix socket that fits the 107 bytes a socket address holds; good inside the `with` block.

    A longer path is reached through its directory's file descriptor, without changing this process's own directory.
    Raises OSError where that directory cannot be opened.
    """
    if path.startswith("\0") or len(os.fsencode(path)) <= cmdline.MAX_SOCKET_PATH:
        yield path
        return
    folder, name = os.path.split(path)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)
