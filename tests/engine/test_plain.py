"""The flat text mode is told to end while it saves: nothing is left half done, whoever the engine ends with."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.backend.fake_qmp import FakeQemu
from tests.cli.test_process import line_with, started
from tests.engine.test_process import STUBBORN, vmtui
from vmtui.backend.core.sim.scenarios import world
from vmtui.backend.stream import read_stream

pytestmark = pytest.mark.slice


def test_with_the_engine_inside_the_save_goes_on_to_its_end_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMTUI_ENGINE", "inside")
    with (
        FakeQemu(path, scenario=world(("slow-eject=20",)).scenario) as qemu,
        started("ui", "--plain", qemu.address, stdin=subprocess.PIPE) as screen,
    ):
        begin(screen, qemu)
        screen.send_signal(signal.SIGINT)
        out, err = screen.communicate()
        assert (screen.returncode, err) == (0, "")
        assert "goes on to its end first" in out
        assert "vm: saved" in out
        assert qemu.as_before
        (state,) = (path.parent / "snapshots").glob("*.vmstate")
        assert read_stream(state).whole


def test_a_second_one_cancels_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMTUI_ENGINE", "inside")
    with FakeQemu(path, scenario=STUBBORN) as qemu, started("ui", "--plain", qemu.address, stdin=subprocess.PIPE) as screen:
        begin(screen, qemu)
        screen.send_signal(signal.SIGINT)
        line_with(screen.stdout, "goes on to its end first")
        screen.send_signal(signal.SIGTERM)
        assert "cancelled" in screen.communicate()[0]
        assert qemu.as_before


def test_with_an_engine_of_its_own_it_ends_at_once_and_the_save_goes_on(path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started("ui", "--plain", qemu.address, stdin=subprocess.PIPE) as screen:
        begin(screen, qemu)
        screen.send_signal(signal.SIGTERM)
        assert "vmtui attach shows it" in screen.communicate()[0]
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "running"
        assert vmtui("cancel", qemu.address)[0] == 0
        assert qemu.as_before


def test_a_second_save_has_a_name_of_its_own(path: Path) -> None:
    with FakeQemu(path) as qemu, started("ui", "--plain", qemu.address, stdin=subprocess.PIPE) as screen:
        line_with(screen.stdout, "running")
        for _ in range(2):
            ask(screen)
            line_with(screen.stdout, "vm: saved")
        assert qemu.as_before
    states = list((path.parent / "snapshots").glob("vm-2*.vmstate"))
    assert len(states) == 2
    assert all(read_stream(each).whole for each in states)


def begin(screen: "subprocess.Popen[str]", qemu: FakeQemu) -> None:
    """Save the VM, and return once its guest is waited for."""
    line_with(screen.stdout, "running")
    ask(screen)
    line_with(screen.stdout, "unplug")


def ask(screen: "subprocess.Popen[str]") -> None:
    assert screen.stdin is not None
    screen.stdin.write("save vm\n")
    screen.stdin.flush()
