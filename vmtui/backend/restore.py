"""How does a saved state run again? A QEMU from the manifest's command line, that takes the file as an open descriptor."""

import asyncio
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vmtui.backend import discovery
from vmtui.backend.config import private_directory, runtime_dir
from vmtui.backend.core import cmdline
from vmtui.backend.core.cmdline import RestoreCommand
from vmtui.backend.core.errors import RefusedError, StoreError, Unreachable, VmtuiError
from vmtui.backend.core.snapshot import SUFFIX, Kind, Manifest, ManifestError, read_manifest
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address
from vmtui.backend.qmp import Monitor
from vmtui.backend.shelf import MANIFEST_LIMIT, written_by_others
from vmtui.backend.simulated import PROGRAM
from vmtui.backend.stream import read_stream

START_LIMIT = 30.0
"""Seconds that QEMU gets to open its monitor."""
LOAD_STALL = 60.0
"""Seconds without a byte read after which loading counts as hung."""
ENVIRONMENT = frozenset({"QEMU_MODULE_DIR", "LD_LIBRARY_PATH"})
"""What a manifest may set: where QEMU finds its own parts."""
FD_NAME = "vmtui-restore"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is needed to restore, looked at and found to be there."""

    path: Path
    manifest: Manifest
    command: RestoreCommand
    directory: Path
    """Of the restored VM's sockets and logs."""


class Restored(msgspec.Struct, frozen=True):
    """The VM as it is once loaded, asked over its monitor."""

    name: str
    pid: int
    monitor: str
    runstate: str
    seconds: float


# --- the plan -----------------------------------------------------------------------------------------------------


def plan(path: Path) -> Plan:
    """Look at everything that restoring needs. Raises StoreError, RefusedError: nothing was started."""
    path = path.absolute()
    manifest = _manifest(path)
    if manifest.kind is not Kind.STATE:
        shown = printable(str(path), 300)
        raise RefusedError(f"{shown} is a core dump, which no QEMU can run on from: look at it with crash or drgn")
    _whole(path)
    if not manifest.argv:
        raise RefusedError(
            "its manifest has no command line (the VM was saved over tcp): start QEMU by hand with -incoming defer"
        )
    if manifest.argv[0] == PROGRAM:
        raise RefusedError("it was saved from a simulated VM: there is no guest in it that a QEMU could run")
    _present(manifest)
    alive = any(vm.argv == manifest.argv for vm in discovery.discover())
    name = f"{manifest.name or 'vm'}-restored" if alive else manifest.name
    directory = Path(tempfile.mkdtemp(prefix="vmtui-", dir=private_directory(runtime_dir())))
    command = cmdline.for_restore(manifest.argv, name=name, directory=str(directory), original_alive=alive)
    if manifest.background and "-S" not in command.argv:
        command = RestoreCommand((*command.argv, "-S"), command.qmp_path, command.problems, command.notes)
    made = Plan(path, manifest, command, directory)
    if command.problems:
        not_started(made)
        raise RefusedError("cannot be restored here: " + "; ".join(map(printable, command.problems)))
    return made


def not_started(plan: Plan) -> None:
    """The directory goes again."""
    plan.directory.rmdir()


def _manifest(path: Path) -> Manifest:
    name = path.with_name(path.name + SUFFIX)
    shown = printable(str(name), 300)
    try:
        with name.open("rb") as file:
            _trusted(os.fstat(file.fileno()), shown)
            return read_manifest(file.read(MANIFEST_LIMIT))
    except FileNotFoundError as error:
        if not path.exists():
            raise StoreError(f"no such file: {printable(str(path), 300)}") from error
        raise RefusedError(
            f"{printable(str(path), 300)} has no manifest ({shown}): it was not saved by vmtui, or not to its end. "
            "Look at it with vmtui verify, and start a QEMU with the same devices and -incoming defer by hand"
        ) from error
    except OSError as error:
        raise StoreError(f"cannot read {shown}: {os.strerror(error.errno or 0)}") from error
    except ManifestError as error:
        raise RefusedError(f"{shown} cannot be used: {error}") from error


def _trusted(found: os.stat_result, shown: str) -> None:
    """What a manifest names is run: nobody but its owner, you or root, may have written it."""
    if how := written_by_others(found):
        raise RefusedError(f"{shown} {how}, and what it names would be run: look at it, then chown and chmod 600 it")


def _whole(path: Path) -> None:
    try:
        report = read_stream(path)
    except OSError as error:
        raise StoreError(f"cannot read {printable(str(path), 300)}: {error.strerror}") from error
    if not report.whole:
        raise RefusedError(f"{printable(str(path), 300)} is not whole: {report.trouble}")


def _present(manifest: Manifest) -> None:
    cwd = Path(manifest.host.cwd or "/")
    program = manifest.host.executable or manifest.argv[0]
    missing = [disk for disk in cmdline.disks(manifest.argv) if not (cwd / disk).exists()]
    if not Path(program).exists():
        raise RefusedError(f"its QEMU is not there any more: {printable(program, 300)}")
    if missing:
        raise RefusedError(
            "what the VM was started from is missing: " + ", ".join(printable(each, 200) for each in missing)
        )
    machines = _output_of((*_program(manifest), "-machine", "help"), manifest)
    if manifest.machine and not any(line.split(" ")[0] == manifest.machine for line in machines.splitlines()):
        raise RefusedError(f"this QEMU has no machine type {printable(manifest.machine, 60)}")


def _program(manifest: Manifest) -> tuple[str, ...]:
    """What runs QEMU, without its options: argv[0] alone may be a mere name."""
    if manifest.host.launcher:
        return (*manifest.host.launcher, manifest.argv[0])
    return (manifest.host.executable or manifest.argv[0],)


def _output_of(argv: tuple[str, ...], manifest: Manifest) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=20, check=False, env=_environment(manifest)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"cannot start {printable(argv[0], 300)}: {error}") from error
    return done.stdout


def _environment(manifest: Manifest) -> dict[str, str]:
    wanted = {name: value for name, value in manifest.host.environment if name in ENVIRONMENT}
    return {**os.environ, **wanted}


# --- doing it -----------------------------------------------------------------------------------------------------


async def restore(plan: Plan, *, cont: bool) -> Restored:
    """Start QEMU, hand it the file, load, and say in which run state it is. A QEMU that cannot load is ended again."""
    began = asyncio.get_running_loop().time()
    process = _start(plan)
    try:
        runstate = await _load(plan, process, cont=cont)
    except BaseException:
        await asyncio.to_thread(_end, process, plan)
        raise
    name = plan.manifest.name or "vm"
    seconds = round(asyncio.get_running_loop().time() - began, 3)
    return Restored(cmdline.name(plan.command.argv) or name, process.pid, plan.command.qmp_path, runstate, seconds)


def _start(plan: Plan) -> "subprocess.Popen[bytes]":
    host = plan.manifest.host
    argv = (*host.launcher, *plan.command.argv)
    with (plan.directory / "qemu.log").open("wb") as log:
        return subprocess.Popen(
            argv,
            executable=None if host.launcher else host.executable or None,
            cwd=host.cwd or "/",
            env=_environment(plan.manifest),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _load(plan: Plan, process: "subprocess.Popen[bytes]", *, cont: bool) -> str:
    monitor = await _connected(plan, process)
    try:
        await _incoming(plan, monitor)
        await _loaded(plan, process, monitor)
        if cont:
            await monitor.ask("cont")
        status = await monitor.ask("query-status")
        return str(status.get("status", ""))
    finally:
        await monitor.close()


async def _connected(plan: Plan, process: "subprocess.Popen[bytes]") -> Monitor:
    """QEMU opens its monitor some time after it was started: try until it does, or is gone."""
    deadline = asyncio.get_running_loop().time() + START_LIMIT
    while True:
        if process.poll() is not None:
            raise VmtuiError(f"QEMU does not start: {_last_words(plan)}")
        monitor = Monitor(Address("unix", path=plan.command.qmp_path), lambda _direction, _message: None)
        try:
            await monitor.connect()
        except Unreachable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return monitor


async def _incoming(plan: Plan, monitor: Monitor) -> None:
    """Open the file here: QEMU's user and its confinement need not reach it."""
    fd = os.open(plan.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if monitor.version >= (9, 1, 0):
            added = await monitor.ask("add-fd", {"opaque": FD_NAME}, fd=fd)
            await monitor.ask("migrate-incoming", {"uri": f"file:/dev/fdset/{added['fdset-id']}"})
        else:
            await monitor.ask("getfd", {"fdname": FD_NAME}, fd=fd)
            await monitor.ask("migrate-incoming", {"uri": f"fd:{FD_NAME}"})
    finally:
        os.close(fd)


async def _loaded(plan: Plan, process: "subprocess.Popen[bytes]", monitor: Monitor) -> None:
    """Wait until QEMU says that the state is loaded. A stream that it cannot take makes it exit."""
    last, since = -1, asyncio.get_running_loop().time()
    while True:
        try:
            now: dict[str, Any] = await monitor.ask("query-migrate")
            status = await monitor.ask("query-status")
        except Unreachable as error:
            raise VmtuiError(f"QEMU ended while it loaded the state: {_last_words(plan)}") from error
        if now.get("status") == "completed" or (not now and status.get("status") != "inmigrate"):
            return
        if now.get("status") == "failed" or process.poll() is not None:
            raise VmtuiError(f"QEMU cannot load the state: {now.get('error-desc') or _last_words(plan)}")
        read = _bytes_read(process.pid)
        if read != last:
            last, since = read, asyncio.get_running_loop().time()
        if asyncio.get_running_loop().time() - since > LOAD_STALL:
            raise VmtuiError(f"QEMU has read nothing for {LOAD_STALL:g} s while loading the state")
        await asyncio.sleep(0.05)


def _bytes_read(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/io").read_text(encoding="ascii").split()
        return int(fields[1])
    except (OSError, ValueError, IndexError):
        return -1


def _last_words(plan: Plan) -> str:
    try:
        text = (plan.directory / "qemu.log").read_text(errors="replace").strip()
    except OSError:
        text = ""
    return printable(text.splitlines()[-1], 300) if text else "it said nothing"


def _end(process: "subprocess.Popen[bytes]", plan: Plan) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for leftover in plan.directory.iterdir():
        leftover.unlink()
    not_started(plan)
