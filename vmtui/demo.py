"""`vmtui demo`: a fleet of simulated VMs; the terminal UI, or a shell, works on them, and on nothing else.

The fleet is served by a child that ends, and removes everything, once the pipe from here breaks: so nothing is left even
if this process is killed.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from vmtui.backend import server
from vmtui.backend.core.errors import StoreError, VmtuiError
from vmtui.backend.core.sim.scenarios import world
from vmtui.backend.remote import INSIDE
from vmtui.backend.sim_server import Settings, Spec, serve
from vmtui.backend.simulated import DIRECTORY
from vmtui.simulate import profile_of, settings_of, varied, world_of


class Member(NamedTuple):
    """A VM of the fleet."""

    name: str
    profile: str
    scenarios: tuple[str, ...]
    line: str
    """What there is to see in it."""


FLEET = (
    Member("web1", "stock-10.0", ("ram=4G", "touched=0.2", "slow-eject=0.3"), "saves as it should"),
    Member("mail1", "stock-7.2", ("ram=8G", "touched=0.1", "slow-eject=0.8"), "the same on an old QEMU"),
    Member("next1", "pause-vm-10.0", ("ram=2G", "slow-eject=0.2"), "its QEMU has pause-vm, which no release has"),
    Member("db1", "stock-11.1", ("ram=64G", "slow-eject=12"), "large, and takes 12 s to let its card go"),
    Member("build1", "stock-10.0", ("ram=8G", "crashes"), "crashes in the unplug; only silence tells (give up after 30 s)"),
    Member("backup1", "stock-10.0", ("ram=16G", "disk-full=2G", "slow-eject=0.4"), "its disk is full after 2 GiB"),
    Member("plain1", "stock-11.1", ("ram=1G", "no-failover"), "has no failover pair: nothing to unplug"),
    Member("shop1", "stock-10.0", ("ram=4G", "paused"), "is paused with its card plugged: refused, with the reason"),
)
YOURS = "yours1"
"""What a VM with the scenarios of the command line is called."""

TRY = """\
Simulated VMs, each with something to see; your real ones are out of reach in here.

{fleet}

  vmtui list              vmtui check shop1         vmtui save web1
  vmtui save db1 --json   vmtui save build1 --unplug-timeout 5
  vmtui verify FILE       vmtui replay JOURNAL      kill -9 PID (of vmtui list) kills one's QEMU

States go to {snapshots}, journals to {journals}. exit ends the demo, and removes it all.
"""


def show(given: argparse.Namespace) -> int:
    """The tour; or one command, or a shell, among simulated VMs. Returns its exit code."""
    if given.tour:
        from vmtui import tour  # noqa: PLC0415 - the shell needs none of it

        return tour.show(auto=given.auto, speed=given.speed)
    settings = settings_of(given)
    extra = world_of(given.scenario) if given.scenario else None
    directory = Path(tempfile.mkdtemp(prefix="vmtui-demo-"))
    try:
        specs = [
            Spec(
                each.name,
                profile_of(each.profile),
                varied(world(each.scenarios), 1, each.name),
                _socket(directory, each.name),
            )
            for each in FLEET
        ]
        if extra is not None:
            specs.append(Spec(YOURS, profile_of(given.profile), extra, _socket(directory, YOURS)))
        with _served(directory, specs, settings):
            if given.command or given.shell:
                return _run(directory, given.command or _shell(directory, extra is not None))
            return _run(directory, [sys.executable, "-m", "vmtui", "ui"], inside=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _socket(directory: Path, name: str) -> Path:
    return directory / "vms" / f"{name}.qmp"


# --- the fleet ----------------------------------------------------------------------------------------------------


@contextmanager
def _served(directory: Path, specs: Sequence[Spec], settings: Settings) -> Iterator[None]:
    """Raises StoreError where the fleet cannot be served."""
    (directory / "vms").mkdir(mode=0o700)
    lifeline, held = os.pipe()
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        os.close(heard)
        _serve_and_exit(directory, specs, settings, lifeline, told)
    os.close(lifeline)
    os.close(told)
    try:
        with os.fdopen(heard, "rb") as messages:
            if (said := messages.read()) != b"ready":
                raise StoreError(said.decode(errors="replace") or "the fleet could not be served")
        yield
    finally:
        os.close(held)
        os.waitpid(pid, 0)


def _serve_and_exit(directory: Path, specs: Sequence[Spec], settings: Settings, lifeline: int, told: int) -> NoReturn:
    """The child's life. It is in a session of its own: Ctrl-C in the terminal is not for it."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        asyncio.run(_serve(specs, settings, lifeline, told))
    except VmtuiError as error:
        with suppress(OSError):
            os.write(told, str(error).encode())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


async def _serve(specs: Sequence[Spec], settings: Settings, lifeline: int, told: int) -> None:
    """Until nobody holds the other end of `lifeline`."""
    stop, waiting = asyncio.Event(), {spec.name for spec in specs}
    loop = asyncio.get_running_loop()
    loop.add_reader(lifeline, stop.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def ready(name: str) -> None:
        waiting.discard(name)
        if not waiting:
            os.write(told, b"ready")
            os.close(told)

    await serve(specs, settings, lambda record: ready(record.name), stop, ends_with_last=False)


# --- what runs among them -----------------------------------------------------------------------------------------


def _shell(directory: Path, yours: bool) -> list[str]:
    lines = [f"  {each.name:8} {each.line}" for each in FLEET]
    lines += [f"  {YOURS:8} has the scenarios that you named"] if yours else []
    places = {"snapshots": directory / "snapshots", "journals": directory / "state" / "vmtui" / "journal"}
    sys.stderr.write(TRY.format(fleet="\n".join(lines), **places))
    return [os.environ.get("SHELL") or "/bin/sh"]


def _run(directory: Path, command: Sequence[str], *, inside: bool = False) -> int:
    """Run it to its end. Ctrl-C is for the command; who ends this process ends the command.

    `inside`: with the engine inside, so that what goes on when it is closed goes on in this terminal.
    """
    (directory / "run").mkdir(mode=0o700, exist_ok=True)
    environment = {
        **os.environ,
        DIRECTORY: str(directory / "vms"),
        "VMTUI_SNAPSHOT_DIR": str(directory / "snapshots"),
        "XDG_STATE_HOME": str(directory / "state"),
        "VMTUI_RUNTIME_DIR": str(directory / "run"),
        "PATH": f"{_beside()}:{os.environ.get('PATH', '')}",
        "PS1": "vmtui demo $ ",
        **({INSIDE: "inside"} if inside else {}),
    }
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda _number, _frame: None)  # not SIG_IGN, which the command would inherit
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise VmtuiError(f"cannot run {command[0]}: {os.strerror(error.errno or 0)}") from error
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    _end_engine(directory / "run" / "vmtui")
    return code if code >= 0 else 128 - code


def _end_engine(directory: Path) -> None:
    """What it works on ends with the demo: there is nothing to be put back."""
    if (pid := server.pid_of_engine(directory)) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _beside() -> Path:
    """Where this vmtui's own command is, so that `vmtui` in the demo is this one."""
    started_as = Path(sys.argv[0]).absolute()
    return started_as.parent if started_as.name == "vmtui" else Path(sys.executable).parent
