"""Ways to save a guest: vmtui, the same steps by hand over a plain socket, and the classic recipe."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tools.measure.engines import engine_pid
from tools.measure.guests import Guest
from tools.measure.qmp import BenchError, Qmp, migration
from tools.measure.terminal import cpu_seconds

LOW, FULL = 64 << 10, 1 << 43
"""Bytes a second."""


# --- programs and what they cost


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended."""

    status: int
    seconds: float
    """From before it was started to its end."""
    cpu: float
    """Seconds of one core, in user and kernel mode; those of vmtui's engine meanwhile are counted in."""
    rss: int
    """Peak, in bytes. The kernel counts in what the process that started it had."""
    out: str

    def good(self) -> "Ran":
        if self.status:
            raise BenchError(f"exit status {self.status}: {self.out[-2000:]}")
        return self


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes]
    began: float
    out: IO[bytes]
    engine: tuple[int, float]
    """Its pid and the seconds that it had taken by then; 0 and 0 where none ran."""

    def end(self) -> Ran:
        _, status, usage = os.wait4(self.process.pid, 0)
        seconds = time.monotonic() - self.began
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.out.seek(0)
        text = self.out.read().decode(errors="replace")
        self.out.close()
        pid, taken = _engine()
        taken -= self.engine[1] if pid == self.engine[0] else 0.0
        return Ran(self.process.returncode, seconds, usage.ru_utime + usage.ru_stime + taken, usage.ru_maxrss << 10, text)


def start(*arguments: str) -> Running:
    out = tempfile.TemporaryFile()  # noqa: SIM115 (Running.end closes it)
    engine, began = _engine(), time.monotonic()
    return Running(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out), began, out, engine)


def _engine() -> tuple[int, float]:
    pid = engine_pid(Path(os.environ["VMTUI_RUNTIME_DIR"]))
    try:
        return pid, cpu_seconds(pid) if pid else 0.0
    except FileNotFoundError:
        return 0, 0.0


def run(*arguments: str) -> Ran:
    return start(*arguments).end()


# --- vmtui


def vmtui(*arguments: str) -> tuple[str, ...]:
    """The command line of the vmtui that belongs to this Python."""
    script = Path(sys.executable).with_name("vmtui")
    return (str(script), *arguments) if script.exists() else (sys.executable, "-m", "vmtui", *arguments)


def save_command(guest: Guest, file: Path, *options: str) -> tuple[str, ...]:
    return vmtui("save", f"unix:{guest.vm.qmp}", "--output", str(file), "--json", *options)


def save(guest: Guest, file: Path, *options: str) -> Ran:
    return run(*save_command(guest, file, *options)).good()


def result(ran: Ran) -> dict[str, Any]:
    """The last line of `save --json`."""
    found: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
    return found


def remove(file: Path) -> None:
    """A state and its manifest."""
    for each in (file, file.with_name(file.name + ".json")):
        each.unlink(missing_ok=True)


# --- by hand


def by_hand(guest: Guest, file: Path) -> None:
    """The least that saves it, resumes it and brings its card back, each step at the first moment that QEMU allows."""
    qmp = Qmp(guest.vm.qmp)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        before = qmp.execute("query-migrate-parameters")["max-bandwidth"]
        _events(qmp, True)
        _bandwidth(qmp, LOW)
        qmp.execute("migrate", {"uri": _hand_over(qmp, fd)})
        qmp.wait(migration("active"))
        qmp.execute("stop")
        _bandwidth(qmp, FULL)
        qmp.wait(migration("completed"))
        while not qmp.accepts("cont"):
            pass  # for some milliseconds QEMU says that the migration is not finalized yet
        _replug(qmp)
        _bandwidth(qmp, before)
        _events(qmp, False)
    finally:
        os.close(fd)
        qmp.close()


def _hand_over(qmp: Qmp, fd: int) -> str:
    """A descriptor by fd set where QEMU has `file:`, since it is then the only way to a regular file."""
    version = qmp.execute("query-version")["qemu"]
    if (version["major"], version["minor"]) < (8, 2):
        qmp.execute("getfd", {"fdname": "state"}, fd)
        return "fd:state"
    number = qmp.execute("add-fd", {"opaque": "state"}, fd)["fdset-id"]
    return f"file:/dev/fdset/{number}"


def _replug(qmp: Qmp) -> None:
    """A migration into a broken pipe: it fails, and QEMU plugs the card back."""
    reading, writing = os.pipe()
    os.close(reading)
    since = len(qmp.events)
    qmp.execute("getfd", {"fdname": "replug"}, writing)
    os.close(writing)
    qmp.execute("migrate", {"uri": "fd:replug"})
    qmp.wait(migration("failed"), since)
    for each in qmp.execute("query-fdsets"):
        qmp.execute("remove-fd", {"fdset-id": each["fdset-id"]})


def _bandwidth(qmp: Qmp, value: int) -> None:
    qmp.execute("migrate-set-parameters", {"max-bandwidth": value})


def _events(qmp: Qmp, state: bool) -> None:
    qmp.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": state}]})


# --- the classic recipe


def recipe(guest: Guest, file: Path) -> None:
    """stop; migrate "exec:cat > FILE"; cont, at QEMU's defaults. Only for a guest without failover."""
    qmp = Qmp(guest.vm.qmp)
    try:
        qmp.execute("stop")
        qmp.execute("migrate", {"uri": f"exec:cat > {file}"})
        while (status := qmp.execute("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise BenchError(f"the recipe: migration {status}")
            time.sleep(0.005)
        while not qmp.accepts("cont"):
            pass
    finally:
        qmp.close()
