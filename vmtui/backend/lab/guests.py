"""The lab's guests as processes: start them, find them, end them.

A guest's directory is made first, its record written when QEMU runs, and both are removed last: a directory without a
record, or whose QEMU is gone, is stale. Who starts, lists or ends guests holds the lab's lock meanwhile, but nobody
holds it while a guest boots.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec

from vmtui.backend.lab import host, kernel, process
from vmtui.backend.lab.debian import alone
from vmtui.backend.lab.errors import LabError
from vmtui.backend.lab.guest import PANIC, READY, Boot, Heartbeat, LabSpec, Place, command, heartbeats

BOOT_SECONDS = 60.0
"""Ten times what a guest needs under TCG."""
START_SECONDS = 60.0
"""For QEMU itself, before the guest runs."""
POLL_SECONDS = 0.05
SOCKET_PATH_LIMIT = 108
RECORD = "guest.json"

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, slots=True)
class LabVm:
    """A guest that was started, and still ran when it was last seen."""

    name: str
    pid: int
    qmp: Path
    monitor: Path
    """A second QMP monitor, for a test to look through while vmtui holds the first."""
    serial: Path
    """The log of the serial port: heartbeats, and a panic's last words."""
    directory: Path
    spec: LabSpec
    started: int
    """When QEMU started, in clock ticks since the host's boot: tells it from a later process with that pid."""
    uuid: str

    @property
    def alive(self) -> bool:
        return process.started(self.pid) == self.started


class _Record(msgspec.Struct, frozen=True):
    name: str
    pid: int
    started: int
    uuid: str
    spec: LabSpec


# --- the commands


def up(
    spec: LabSpec, *, count: int = 1, name: str | None = None, say: Say = silent, seconds: float = BOOT_SECONDS
) -> tuple[LabVm, ...]:
    """Start guests; returns when all are ready: pinging, both cards in the failover device.

    `seconds` is the time that one may take to boot; with more at once, each adds half as much.

    None is left if one fails. Raises LabError.
    """
    new_names(name, count, frozenset())  # before anything is fetched for it
    found = _Ingredients.gather(spec, say)
    started: list[LabVm] = []
    try:
        with alone(lab_directory()):
            for chosen in new_names(name, count, {vm.name for vm in _alive()}):
                say(f"{chosen}: starting ({found.accelerator})")
                started.append(_start(chosen, spec, found))
        for vm in started:
            _await_ready(vm, seconds * (count + 1) / 2)
            say(f"{vm.name}: ready")
    except BaseException:
        _remove(started)
        raise
    return tuple(started)


def list_guests() -> tuple[LabVm, ...]:
    """The guests that are alive; what others left behind is removed."""
    with alone(lab_directory()):
        return _alive()


def down(names: Collection[str] | None = None) -> tuple[str, ...]:
    """End guests, all of them for None, and remove their files. Returns the names. Raises LabError."""
    with alone(lab_directory()):
        alive = {vm.name: vm for vm in _alive()}
        if unknown := sorted(set(names or ()) - set(alive)):
            raise LabError(f"no such guest: {', '.join(unknown)}. There is: {', '.join(alive) or 'none'}")
        ended = [vm for vm in alive.values() if names is None or vm.name in names]
        _remove(ended)
        return tuple(vm.name for vm in ended)


def crash(name: str, *, seconds: float = 20.0) -> None:
    """Have the guest panic, by an NMI that nobody asked for; returns when it did. Raises LabError."""
    vm = next((vm for vm in list_guests() if vm.name == name), None)
    if vm is None:
        raise LabError(f"no such guest: {name}. `vmtui lab list` tells which there are")
    _send_nmi(vm)
    if not _within(seconds, lambda: _panicked(vm)):
        raise LabError(f"{name}: got the NMI but did not panic; a stopped guest will, as soon as it runs.{_last_words(vm)}")


def _send_nmi(vm: LabVm) -> None:
    try:
        _human_monitor(vm, "nmi")
    except LabError:
        if vm.alive:  # else QEMU ended of the panic before it could answer
            raise


def _panicked(vm: LabVm) -> bool:
    """By its own words, or QEMU's: pvpanic stops the guest before those words are out, or ends QEMU."""
    if PANIC in _read(vm.serial) or not vm.alive:
        return True
    try:
        return "guest-panicked" in _human_monitor(vm, "info status")
    except LabError:
        return not vm.alive


def wait_for(vm: LabVm, fact: str | Callable[[str], bool], *, seconds: float = 30.0) -> str:
    """Wait until the serial log holds a text, or a condition on the whole log is true. Returns the log.

    Raises LabError, with the log's last lines, after so many seconds, or when QEMU is gone before.
    """
    holds = fact if callable(fact) else lambda text: fact in text
    _within(seconds, lambda: holds(_read(vm.serial)) or not vm.alive)
    if holds(text := _read(vm.serial)):  # once more: the last words of a QEMU that ended
        return text
    why = f"not within {seconds:g} s" if vm.alive else "its QEMU ended"
    raise LabError(f"{vm.name}: waited in vain for {fact!r}: {why}.{_last_words(vm)}")


def _within(seconds: float, fact: Callable[[], bool]) -> bool:
    """Whether it became true in time. The fact is looked at once more when time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(POLL_SECONDS)
    return fact()


def read_heartbeats(serial: Path) -> tuple[Heartbeat, ...]:
    """What the guest told so far; nothing if there is no log yet."""
    return heartbeats(_read(serial))


# --- where they are


def lab_directory() -> Path:
    """The directory of all guests, ours alone. Made if it is missing. Raises LabError."""
    path = lab_path(os.environ, os.geteuid())
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.geteuid() or path.is_symlink() or status.st_mode & 0o022:
        raise LabError(f"{path} is not a directory of ours alone; remove it or set VMTUI_LAB_DIR to another")
    return path


def lab_path(environment: Mapping[str, str], uid: int) -> Path:
    if chosen := environment.get("VMTUI_LAB_DIR"):
        return Path(chosen).absolute()
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "vmtui-lab"
    return Path("/run/vmtui-lab") if uid == 0 else Path(f"/tmp/vmtui-lab-{uid}")


def _alive() -> tuple[LabVm, ...]:
    """Those alive; removes the rest. Needs the lock: a guest that is being started has no record yet."""
    found = []
    for directory in sorted(path for path in lab_directory().iterdir() if path.is_dir()):
        vm = _recorded(directory)
        if vm and vm.alive:
            found.append(vm)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return tuple(found)


def _recorded(directory: Path) -> LabVm | None:
    try:
        record = msgspec.json.decode((directory / RECORD).read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return _vm(directory, record)


def _vm(directory: Path, record: _Record) -> LabVm:
    place = Place(directory)
    return LabVm(
        name=record.name,
        pid=record.pid,
        qmp=place.qmp,
        monitor=place.monitor,
        serial=place.serial,
        directory=directory,
        spec=record.spec,
        started=record.started,
        uuid=record.uuid,
    )


# --- starting and ending


@dataclass(frozen=True, slots=True)
class _Ingredients:
    """What all guests of one call share."""

    image: Path
    initramfs: Path
    accelerator: str

    @classmethod
    def gather(cls, spec: LabSpec, say: Say) -> "_Ingredients":
        if shutil.which(spec.qemu) is None:
            raise LabError(f"{spec.qemu} is not there or cannot be run: install qemu-system-x86 or name another QEMU")
        try:
            found = kernel.find_kernel(say)
            image, initramfs = host.boot_image(found.image), host.initramfs(found, kernel.find_busybox(say))
            return cls(image, initramfs, host.accelerator(spec.qemu, image, initramfs, say))
        except OSError as error:
            raise LabError(f"could not prepare the guest's kernel in {kernel.cache()}: {error}") from error


def new_names(name: str | None, count: int, taken: Set[str]) -> tuple[str, ...]:
    """The names of new guests: as wished, else the lowest numbers that are free. Raises LabError."""
    if name is None:
        free = (f"lab{number}" for number in range(1, len(taken) + count + 1))
        return tuple([candidate for candidate in free if candidate not in taken][:count])
    names = (name,) if count == 1 else tuple(f"{name}{number}" for number in range(1, count + 1))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", name):
        raise LabError(f"{name!r} is no name for a guest: up to 32 letters, digits, dots, dashes")
    if used := sorted(taken & set(names)):
        raise LabError(f"there is a guest {', '.join(used)} already: `vmtui lab down` ends it")
    return names


def _start(name: str, spec: LabSpec, found: _Ingredients) -> LabVm:
    """A running QEMU with its record. If that fails, nothing is left. Raises LabError."""
    place = Place(lab_directory() / name)
    if len(str(place.control)) >= SOCKET_PATH_LIMIT:
        raise LabError(f"{place.control} is too long for a socket's path: set VMTUI_LAB_DIR to a shorter directory")
    place.directory.mkdir()
    uuid = uuid4()
    try:
        with ExitStack() as files:
            fill = files.enter_context(host.random_file(spec.fill_mib)) if spec.fill_mib else None
            descriptors = (fill.fileno(),) if fill else ()
            boot = Boot(
                name, uuid, place, found.image, found.initramfs, found.accelerator,
                fill=f"/dev/fd/{fill.fileno()}" if fill else None,
            )  # fmt: skip
            if spec.disk:
                _make_disk(place.disk)
            _run_qemu(command(spec, boot), place, descriptors)
        pid = int(place.pidfile.read_text())
        began = process.started(pid)
        if began is None:
            raise LabError(f"{name}: QEMU ended as soon as it had started.{_said(place)}")
        record = _Record(name=name, pid=pid, started=began, uuid=str(uuid), spec=spec)
        beside = place.directory / f".{RECORD}"
        beside.write_bytes(msgspec.json.encode(record))
        beside.rename(place.directory / RECORD)
        return _vm(place.directory, record)
    except BaseException as error:
        _end_unrecorded(place)
        shutil.rmtree(place.directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise LabError(f"{name}: could not be started: {error}") from error
        raise


def _run_qemu(arguments: tuple[str, ...], place: Place, descriptors: tuple[int, ...]) -> None:
    """Returns when QEMU has made its machine and gone to the background, no child of ours. Raises LabError."""
    with place.errors.open("wb") as errors:
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=descriptors,
                check=False, timeout=START_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{arguments[0]} did not start within {START_SECONDS:g} s.{_said(place)}") from error
    if done.returncode:
        raise LabError(f"{arguments[0]} did not start (exit status {done.returncode}).{_said(place)}")


def _make_disk(path: Path) -> None:
    if shutil.which("qemu-img") is None:
        raise LabError("a guest with a disk needs qemu-img: install qemu-utils")
    made = subprocess.run(
        ("qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"), capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise LabError(f"qemu-img could not create {path}: {made.stderr.strip()}")


def _await_ready(vm: LabVm, seconds: float) -> None:
    if "-incoming" not in vm.spec.extra_args:
        wait_for(vm, READY, seconds=seconds)


def _end_unrecorded(place: Place) -> None:
    """End a QEMU that got as far as its pid file, and no further."""
    try:
        pid = int(place.pidfile.read_text())
    except (OSError, ValueError):
        return
    if began := process.started(pid):
        process.end(pid, began)


def _remove(guests: Collection[LabVm]) -> None:
    for vm in guests:
        if not process.end(vm.pid, vm.started):
            raise LabError(f"{vm.name}: QEMU, pid {vm.pid}, does not end, not even when killed; its files stay")
        shutil.rmtree(vm.directory, ignore_errors=True)


# --- looking at them


def _human_monitor(vm: LabVm, line: str) -> str:
    """What the guest's human monitor says to a command. Raises LabError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(Place(vm.directory).control))
            _until_prompt(connection)
            connection.sendall(line.encode() + b"\n")
            return _until_prompt(connection)
    except OSError as error:
        raise LabError(f"{vm.name}: its monitor does not answer: {error}") from error


def _until_prompt(connection: socket.socket) -> str:
    seen = b""
    while not seen.endswith(b"(qemu) "):
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("QEMU closed the connection")
        seen += data
    return seen.decode(errors="replace")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _last_words(vm: LabVm) -> str:
    place = Place(vm.directory)
    return _said(place) + _tail(place.serial)


def _said(place: Place) -> str:
    """What QEMU said: to stderr until it has read its options, to its log from then on."""
    return _tail(place.errors) + _tail(place.log)


def _tail(path: Path, lines: int = 12) -> str:
    kept = _read(path).splitlines()[-lines:]
    return f"\n{path.name}:\n" + "\n".join(f"  {line}" for line in kept) if kept else ""
