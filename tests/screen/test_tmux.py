"""A part of the tmux that vmtui runs in is killed in mid-save: the save goes on, and another terminal sees it all."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import ends
from tests.screen.gate import Gate
from tests.screen.hands import begin_a_save, open_the_vm
from tests.screen.terminal import ANY_PROGRAM, Terminal
from tests.screen.test_terminal import HELD_IN, the_whole_file
from vmtui.backend import server

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
WIDE = (160, 60)
"""So large that nothing of a save's history scrolls away."""


@pytest.fixture
def environment(pen: AnyPen, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """With an engine of the test's own, in a process of its own."""
    runtime = pen.directory / "run"
    runtime.mkdir(mode=0o700)
    yield {"VMTUI_ENGINE": "process", "VMTUI_RUNTIME_DIR": str(runtime)}
    if (pid := server.pid_of_engine(runtime / "vmtui")) is not None:
        os.kill(pid, signal.SIGKILL)
        ends(pid)
    shutil.rmtree(runtime)


class Tmux:
    """A tmux server of the test's own, with a shell in its one pane, and vmtui in that."""

    def __init__(self, place: Path, address: str, environment: Mapping[str, str]) -> None:
        self._tmux = ("tmux", "-S", str(place / "tmux"), "-f", "/dev/null")
        self._environment = environment
        self._shell = f"{sys.executable} -m vmtui {address}; :"  # what follows keeps the shell from becoming vmtui

    def opened(self) -> Terminal:
        """A terminal with a client, and vmtui on its screen."""
        return self._client("new-session", self._shell)

    def attached(self) -> Terminal:
        return self._client("attach-session")

    def _client(self, *command: str) -> Terminal:
        return Terminal(*self._tmux, *command, environment=self._environment, size=WIDE, program=ANY_PROGRAM)

    def pid(self, what: str) -> int:
        """Of `client_pid`, `pid` (the server) or `pane_pid` (the shell)."""
        form = "list-clients" if what == "client_pid" else "list-panes"
        return int(self._said(form, "-F", f"#{{{what}}}"))

    def vmtui(self) -> int:
        shell = self.pid("pane_pid")
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(child)

    def _said(self, *command: str) -> str:
        return subprocess.run((*self._tmux, *command), capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._said("kill-server")


@pytest.mark.parametrize("phase", ["unplug", "save"])
@pytest.mark.parametrize("killed", ["client_pid", "pid", "pane_pid"], ids=["client", "server", "shell"])
def test_a_part_of_tmux_is_killed_and_the_save_goes_on_to_its_end(
    pen: AnyPen, environment: Mapping[str, str], tmp_path: Path, killed: str, phase: str
) -> None:
    if pen.native_pause:
        pytest.skip("how QEMU pauses is nothing to tmux: the other twin stands for both")
    guest = pen.guest(slow=True)
    door = guest.directory / "gate.sock"
    tmux = Tmux(tmp_path, f"unix:{door}", {**guest.environment, **environment})
    with Gate(door, guest.qmp) as gate:
        try:
            with tmux.opened() as seen:
                open_the_vm(seen)
                hold(phase, gate, guest, seen)
                vmtui = tmux.vmtui()
                os.kill(tmux.pid(killed), signal.SIGKILL)
                seen.end()
            if killed == "client_pid":
                with tmux.attached() as again:
                    again.until(f"▶ {phase} ")
            else:
                ends(vmtui)  # the terminal is gone for good
            with Terminal("attach", f"unix:{door}", environment={**guest.environment, **environment}, size=WIDE) as other:
                other.until("preflight", "prepare", phase)
                assert not [name for name in guest.files() if not name.endswith(".partial")], "it is under way"
                release(phase, gate, guest)
                other.until(f"{guest.name}: saved", "read through and whole", "plugged, proved", "as they were")
                assert other.end() == 0
        finally:
            tmux.close()
        ends(vmtui)
    guest.is_as_before()
    the_whole_file(guest)


def hold(phase: str, gate: Gate, guest: AnyGuest, seen: Terminal) -> None:
    """Begin a save, which then stays in this phase until the gate is opened, or the bandwidth raised."""
    if phase == "unplug":
        gate.close(HELD_IN["unplug"])
        begin_a_save(seen)
        gate.await_held()
    else:
        begin_a_save(seen)
        guest.brake()
    seen.until(f"▶ {phase} ")


def release(phase: str, gate: Gate, guest: AnyGuest) -> None:
    if phase == "unplug":
        gate.open()
    else:
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
