"""The program run as a user runs it, and the VM looked at over a connection of the test's own, never through vmtui."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from tests.real import qemus
from tests.real.monitor import Monitor, Refused
from tests.real.qemus import Qemu
from vmtui.backend import lab
from vmtui.backend.lab import Heartbeat, LabSpec, LabVm, process

REPOSITORY = Path(__file__).resolve().parents[2]
FULL_BANDWIDTH = 1 << 43
"""What vmtui raises max-bandwidth to once the guest stands still."""
BRAKED = 64 << 10
"""Bytes a second at which the state of a lab guest takes a quarter of an hour."""
NO_CARD = 0xFFFFFFFF
BUS_MASTER = 1 << 2
ENDED = {"none", "completed", "failed", "cancelled"}
POLL = 0.005
Line = dict[str, Any]
Found = TypeVar("Found")

NONE_FOUND = pytest.param(None, id="no-qemu", marks=pytest.mark.skip(reason="no QEMU that runs: install one"))


def each_qemu(module: str) -> list[Any]:
    """The parameters of a module's fixture. What shares guests is one group, for `pytest --dist loadgroup`."""
    return [
        pytest.param(qemu, id=qemu.id, marks=pytest.mark.xdist_group(f"{module}-{qemu.id}")) for qemu in qemus.found()
    ] or [NONE_FOUND]


# --- the program --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run of vmtui left behind on its outputs."""

    code: int
    lines: tuple[Line, ...]
    errors: str
    seconds: float

    @property
    def result(self) -> Line:
        assert self.lines, self.errors
        assert self.lines[-1]["kind"] in {"result", "check"}, self.lines[-1]
        return self.lines[-1]

    @property
    def phases(self) -> list[str]:
        return [line["phase"] for line in self.lines if line["kind"] == "phase"]


class Program:
    """One running `vmtui ... --json`; its lines are taken as they come."""

    def __init__(self, *arguments: str, environment: Mapping[str, str]) -> None:
        self._lines: list[Line] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            (sys.executable, "-m", "vmtui", *arguments, "--json"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=REPOSITORY, env={**os.environ, **environment},
        )  # fmt: skip
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._take)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._errors.append)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            with self._news:
                take(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _take(self, line: str) -> None:
        self._lines.append(json.loads(line))

    def until(self, seconds: float = 30.0, **wanted: Any) -> Line:
        """The first line of NDJSON with these values, past ones included."""
        return self._await(lambda: next((line for line in self._lines if wanted.items() <= line.items()), None), seconds)

    def until_said(self, text: str, seconds: float = 30.0) -> str:
        """What is on stderr once `text` is."""
        return self._await(lambda: said if text in (said := "".join(self._errors)) else None, seconds)

    def _await(self, look: Callable[[], Found | None], seconds: float) -> Found:
        deadline = time.monotonic() + seconds
        with self._news:
            while (found := look()) is None:
                over = not any(reader.is_alive() for reader in self._readers) and self._process.poll() is not None
                left = deadline - time.monotonic()
                if over or left <= 0:
                    why = "vmtui ended" if over else f"not within {seconds:g} s"
                    raise AssertionError(f"waited in vain ({why}): {self._lines[-8:]} {''.join(self._errors)}")
                self._news.wait(min(left, 0.2))
        return found

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(number)

    def end(self, seconds: float = 60.0) -> Ended:
        """Wait for its end."""
        try:
            code = self._process.wait(max(seconds - (time.monotonic() - self._began), 1.0))
        except subprocess.TimeoutExpired as error:
            self.stop()
            raise AssertionError(f"vmtui did not end in {seconds:g} s: {self._lines[-8:]}") from error
        took = time.monotonic() - self._began
        for reader in self._readers:
            reader.join()
        self._close()
        return Ended(code, tuple(self._lines), "".join(self._errors), took)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


# --- the VM -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """All of a VM that a save must leave as it was, asked of QEMU."""

    runstate: str
    migrating: bool
    card: str
    """plugged, out, or none: the PCI config space as the guest sees it."""
    driven: bool
    """Bus mastering is on: the guest's driver runs it."""
    parameters: Line
    capabilities: dict[str, bool]
    fdsets: int
    files: frozenset[str]
    """Snapshots, and parts of them, that QEMU's process has open."""


def look(qemu: Monitor, vm: LabVm) -> Look:
    card, driven = card_of(qemu)
    return Look(
        runstate=qemu("query-status")["status"],
        migrating=qemu("query-migrate").get("status", "none") not in ENDED,
        card=card,
        driven=driven,
        parameters=qemu("query-migrate-parameters"),
        capabilities={each["capability"]: each["state"] for each in qemu("query-migrate-capabilities")},
        fdsets=len(qemu("query-fdsets")),
        files=open_snapshots(vm.pid),
    )


def differences(before: Look, now: Look) -> dict[str, tuple[Any, Any]]:
    """What is not as it was: name, then what it was and what it is."""
    pairs = {each.name: (getattr(before, each.name), getattr(now, each.name)) for each in fields(Look)}
    return {name: (was, is_) for name, (was, is_) in pairs.items() if was != is_}


def card_of(qemu: Monitor, device: str = lab.PRIMARY) -> tuple[str, bool]:
    """`plugged`, `out` or `none`, and whether a driver runs it: from the PCI config space, by `xp`."""
    address = config_address(qemu, device)
    if address is None:
        return "none", False
    said = human(qemu, f"xp /2xw {address:#x}")
    first, second = (int(word, 16) for word in re.findall(r"0x([0-9a-f]{8})\b", said.partition(":")[2]))
    return ("out", False) if first == NO_CARD else ("plugged", bool(second & BUS_MASTER))


def config_address(qemu: Monitor, device: str) -> int | None:
    """Where the guest finds the card's config space in its memory."""
    window = re.search(r"([0-9a-f]+)-[0-9a-f]+ \(prio [^)]*\): pcie-mmcfg", human(qemu, "info mtree"))
    found = next((each for each in _pci_devices(qemu("query-pci")) if each["qdev_id"] == device), None)
    if window is None or found is None:
        return None
    bus, slot, function = (int(found[part]) for part in ("bus", "slot", "function"))
    return int(window[1], 16) + (bus << 20 | slot << 15 | function << 12)


def _pci_devices(buses: list[Line]) -> Iterator[Line]:
    for bus in buses:
        for device in bus["devices"]:
            yield device
            if "pci_bridge" in device:
                yield from _pci_devices([{"devices": device["pci_bridge"].get("devices", [])}])


def human(qemu: Monitor, line: str) -> str:
    """What the human monitor says to a line."""
    return str(qemu("human-monitor-command", {"command-line": line}))


def open_snapshots(pid: int) -> frozenset[str]:
    names = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            names.add(str(link.readlink()))
    return frozenset(name for name in names if ".vmstate" in name)


def wait_until(fact: Callable[[], Found], what: str, seconds: float = 20.0) -> Found:
    """Poll until `fact()` is true; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL)
    return value


def refusal(qemu: Monitor, command: str, arguments: Line) -> str:
    """Why QEMU refuses a command; empty if it does not."""
    try:
        qemu(command, arguments)
    except Refused as error:
        return str(error)
    return ""


class Guest:
    """A lab guest, what it was like at first, and a directory for its snapshots."""

    def __init__(self, vm: LabVm, directory: Path) -> None:
        self.vm = vm
        self.directory = directory
        self.qemu = Monitor(vm.monitor).__enter__()
        """The test's own connection."""
        wait_until(lambda: card_of(self.qemu) in (("plugged", True), ("none", False)), "the guest's driver runs the card")
        self.first = self.look()
        self.slaves = self.heartbeats()[-1].slaves
        self._saves = 0
        self._programs: list[Program] = []

    def look(self) -> Look:
        return look(self.qemu, self.vm)

    @property
    def snapshots(self) -> Path:
        """Where a save puts its file: made by vmtui."""
        return self.directory / "snapshots"

    @property
    def environment(self) -> dict[str, str]:
        return {"VMTUI_SNAPSHOT_DIR": str(self.snapshots), "XDG_STATE_HOME": str(self.directory / "state")}

    def files(self) -> list[str]:
        """The names of all that saves have left."""
        return sorted(path.name for path in self.snapshots.rglob("*")) if self.snapshots.exists() else []

    # --- the program

    def start(self, command: str, *options: str, address: str | None = None) -> Program:
        started = Program(command, address or self.vm.uuid, *options, environment=self.environment)
        self._programs.append(started)
        return started

    def run(self, command: str, *options: str, address: str | None = None, seconds: float = 60.0) -> Ended:
        return self.start(command, *options, address=address).end(seconds)

    def brake(self) -> None:
        """Keep a save that has been started from ending: lower the bandwidth again as soon as vmtui has raised it."""
        while self.bandwidth() != FULL_BANDWIDTH:
            time.sleep(0.001)
        self.qemu("migrate-set-parameters", {"max-bandwidth": BRAKED})
        status = self.qemu("query-migrate")["status"]
        assert status == "active", f"the save was over before it could be slowed down: {status}"

    def bandwidth(self) -> int:
        return int(self.qemu("query-migrate-parameters")["max-bandwidth"])

    # --- the guest

    def heartbeats(self) -> tuple[Heartbeat, ...]:
        return lab.read_heartbeats(self.vm.serial)

    def goes_on(self) -> None:
        """A heartbeat that comes from now on is well: a ping, and each card in the failover device."""
        last = self.heartbeats()[-1].n
        lab.wait_for(self.vm, lambda _text: any(map(self._is_well, self._since(last))), seconds=20.0)
        numbers = [beat.n for beat in self.heartbeats()]
        assert numbers == list(range(1, len(numbers) + 1)), "the guest did not just go on: it lost its count"

    def _since(self, last: int) -> tuple[Heartbeat, ...]:
        return tuple(beat for beat in self.heartbeats() if beat.n > last)

    def _is_well(self, beat: Heartbeat) -> bool:
        return beat.ping and beat.slaves == self.slaves

    def is_as_before(self) -> None:
        changed = differences(self.first, self.look())
        assert not changed, f"not as before: {changed}"
        self.goes_on()

    def nothing_is_left(self) -> None:
        """The VM is as before, and there is no file, nor a part of one."""
        assert self.files() == []
        self.is_as_before()

    # --- the end

    def tidy_up(self) -> bool:
        """End what a test left running; whether the guest can be used again."""
        for program in self._programs:
            if program._process.returncode is None:
                program.stop()
        self._programs.clear()
        shutil.rmtree(self.snapshots, ignore_errors=True)
        with suppress(OSError, AssertionError):
            return self.look() == self.first
        return False

    def close(self) -> None:
        self.tidy_up()
        self.qemu.__exit__(None, None, None)
        if self.vm.alive:
            lab.down([self.vm.name])


class Pen:
    """The guests of one QEMU. Those that a test leaves as they were are used again by the next."""

    def __init__(self, qemu: Qemu) -> None:
        self.qemu = str(qemu.path)
        self.version = qemu.version
        self.directory = Path(tempfile.mkdtemp(prefix="vr-", dir="/tmp"))  # a socket's path must be short
        self._shared: dict[LabSpec, Guest] = {}
        self._own: list[Guest] = []
        self._lab = os.environ.get("VMTUI_LAB_DIR")

    def __enter__(self) -> Self:
        os.environ["VMTUI_LAB_DIR"] = str(self.directory / "lab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        for guest in (*self._own, *self._shared.values()):
            guest.close()
        lab.down()
        if self._lab is None:
            del os.environ["VMTUI_LAB_DIR"]
        else:
            os.environ["VMTUI_LAB_DIR"] = self._lab
        shutil.rmtree(self.directory)

    def guest(self, **spec: Any) -> Guest:
        """A guest that other tests use too."""
        wanted = LabSpec(qemu=self.qemu, **spec)
        if wanted not in self._shared:
            self._shared[wanted] = self._up(wanted)[0]
        return self._shared[wanted]

    def own(self, **spec: Any) -> Guest:
        """A guest for one test alone: it may be ended."""
        (guest,) = self._up(LabSpec(qemu=self.qemu, **spec))
        self._own.append(guest)
        return guest

    def several(self, *specs: Line) -> tuple[Guest, ...]:
        """As `own`, for each of these; they boot at the same time."""
        with ThreadPoolExecutor(len(specs)) as threads:
            return tuple(threads.map(lambda spec: self.own(**spec), specs))

    def _up(self, spec: LabSpec) -> list[Guest]:
        return [Guest(vm, self._place(vm)) for vm in lab.up(spec)]

    def _place(self, vm: LabVm) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{vm.name}-", dir=self.directory))

    def after_test(self) -> None:
        """End the guests that were one test's own, and those that are not as they were."""
        for guest in self._own:
            guest.close()
        self._own.clear()
        for spec, guest in list(self._shared.items()):
            if not guest.tidy_up():
                self._shared.pop(spec).close()


# --- a second QEMU ------------------------------------------------------------------------------------------------


def command_line(vm: LabVm) -> list[str]:
    """A guest's QEMU's, while it runs."""
    words = Path(f"/proc/{vm.pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    return [vm.spec.qemu, *words[words.index("-name") :]]  # before it may be a wrapper's words for a loader


@contextmanager
def second_qemu(guest: Guest, words: list[str]) -> Iterator[tuple[LabVm, Monitor]]:
    """A QEMU with these words for its command line, which may be the guest's, and with files of its own."""
    place = Path(tempfile.mkdtemp(prefix="second-", dir=guest.directory.parent))
    moved = [word.replace(str(guest.vm.directory), str(place)) for word in words]
    subprocess.run(moved, check=True, timeout=60)
    pid = int((place / "pid").read_text())
    began = process.started(pid)
    assert began is not None
    qmp, monitor, serial = (place / name for name in ("qmp.sock", "monitor.sock", "serial.log"))
    vm = replace(guest.vm, pid=pid, started=began, directory=place, qmp=qmp, monitor=monitor, serial=serial)
    try:
        with Monitor(vm.monitor) as qemu:
            yield vm, qemu
    finally:
        assert process.end(pid, began)
        shutil.rmtree(place)


# --- between vmtui and QEMU ---------------------------------------------------------------------------------------


class Proxy:
    """A socket that leads to a VM's monitor, open files and all, and breaks at chosen words of the client's, once at each.

    Either QEMU never gets the command that holds the word, or it does and the client never gets the reply.
    """

    def __init__(self, door: Path, monitor: Path, *words: str, command_lost: bool) -> None:
        self.left = list(words)
        """Those that it did not break at yet."""
        self._monitor = monitor
        self._command_lost = command_lost
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(door))
        self._server.listen()
        self._serving = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # ends accept
        self._serving.join()
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with client, socket.socket(socket.AF_UNIX) as qemu:
                    qemu.connect(str(self._monitor))
                    while self._carry(client, qemu):
                        pass

    def _carry(self, client: socket.socket, qemu: socket.socket) -> bool:
        """What comes next, to the other side; whether the connection is to go on."""
        for source, target in ((client, qemu), (qemu, client)):
            if source in select.select([client, qemu], [], [])[0]:
                data, files, _flags, _address = socket.recv_fds(source, 1 << 20, 4)
                breaks = source is client and self._is_due(data)
                if data and not (breaks and self._command_lost):
                    socket.send_fds(target, [data], files)
                for file in files:
                    os.close(file)
                if breaks and not self._command_lost:
                    self._await_reply(qemu)
                if breaks or not data:
                    return False
        return True

    def _is_due(self, data: bytes) -> bool:
        said = [word for word in self.left if f'"{word}"'.encode() in data]
        for word in said:
            self.left.remove(word)
        return bool(said)

    def _await_reply(self, qemu: socket.socket) -> None:
        said = b""
        while not re.search(rb'^\{"(return|error)"|"id": *"[^"]*"\}', said, re.MULTILINE):
            said += qemu.recv(1 << 16)


# --- several at once, and places that are full --------------------------------------------------------------------


def together(*stories: Callable[[], None]) -> None:
    """Tell stories that mostly wait, at the same time. All are told to their ends; each failure has its story's name."""
    with ThreadPoolExecutor(len(stories)) as threads:
        told = {story.__name__: threads.submit(story) for story in stories}
    failed = [_named(error, name) for name, each in told.items() if isinstance(error := each.exception(), Exception)]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(stories)} stories ended badly", failed)


def _named(error: Exception, name: str) -> Exception:
    error.add_note(f"in the story {name}")
    return error


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A tmpfs of the test's own; the test is skipped where nobody may mount one."""
    place.mkdir()
    done = subprocess.run(
        ("mount", "-t", "tmpfs", *options, "vmtui-test", str(place)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        place.rmdir()
        pytest.skip(f"a tmpfs cannot be mounted here (root can): {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(("umount", str(place)), check=True)
        place.rmdir()


def ends(pid: int, seconds: float = 15.0) -> None:
    """Wait for the end of a process that is no child of ours."""
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([held], [], [], seconds)[0], f"process {pid} is still there after {seconds:g} s"
    finally:
        os.close(held)
