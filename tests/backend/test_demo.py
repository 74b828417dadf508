"""The demo lets every command work among simulated VMs, and leaves nothing, however it ends."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmtui.demo import FLEET

pytestmark = pytest.mark.slice  # each starts a fleet, and some a whole shell

VMTUI = (sys.executable, "-m", "vmtui")


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


def demo(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*VMTUI, "demo", *words), capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL
    )


def in_demo(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return demo(*options, "--", "sh", "-c", script)


def test_a_command_sees_the_fleet_and_nothing_else() -> None:
    done = demo("--", "vmtui", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert {json.loads(line)["name"] for line in done.stdout.splitlines()} == {each.name for each in FLEET}


def test_its_exit_code_is_the_commands() -> None:
    assert demo("--", "sh", "-c", "exit 7").returncode == 7
    assert demo("--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert demo("--", "/no/such/command").returncode == 1


def test_every_command_works_in_it() -> None:
    script = """
        vmtui save web1 --json | tail -1
        vmtui verify $VMTUI_SNAPSHOT_DIR/web1-*.vmstate >&2; echo verify $?
        vmtui replay --speed 1000 $XDG_STATE_HOME/vmtui/journal/*web1* >&2; echo replay $?
        vmtui check shop1 >&2; echo check $?
        vmtui restore $VMTUI_SNAPSHOT_DIR/web1-*.vmstate; echo restore $?
        vmtui save next1 --then stay-paused >&2; echo stay $?
        vmtui resume next1 >&2; echo resume $?
        vmtui save mail1 --then quit >&2; echo quit $?
        vmtui list | grep -c mail1
    """
    done = in_demo(script, "--speed", "30")
    first, *codes = done.stdout.splitlines()
    assert json.loads(first)["outcome"] == "saved", done.stderr
    assert codes == ["verify 0", "replay 0", "check 4", "restore 4", "stay 0", "resume 0", "quit 0", "0"], done.stderr
    assert "saved from a simulated VM" in done.stderr


def test_each_of_the_fleet_behaves_as_its_line_says() -> None:
    names = " ".join(each.name for each in FLEET)
    script = f"for vm in {names}; do vmtui save $vm --unplug-timeout 2 >/dev/null 2>&1; echo $vm $?; done"
    done = in_demo(script, "--speed", "100", "--file-limit", "1M")
    wanted = {"build1": "6", "backup1": "7", "shop1": "4"}
    assert dict(line.split() for line in done.stdout.splitlines()) == {
        each.name: wanted.get(each.name, "0") for each in FLEET
    }


def test_a_vm_with_the_scenarios_that_were_asked_for_is_there_too() -> None:
    done = in_demo("vmtui check yours1 --json", "--scenario", "blocked", "ram=1T")
    said = json.loads(done.stdout)
    assert (said["memory"], said["savable"]) == (1 << 40, False)


def test_a_wrong_scenario_is_refused_and_nothing_started() -> None:
    refused = demo("--scenario", "nonsense", "--", "true")
    assert refused.returncode == 2
    assert "there are:" in refused.stderr


def test_a_shell_is_told_what_to_try(tmp_path: Path) -> None:
    shell = subprocess.run(
        (*VMTUI, "demo", "--shell"), input="vmtui list; exit 3\n", capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "SHELL": "/bin/sh", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert shell.returncode == 3
    assert all(each.name in shell.stdout and each.line in shell.stderr for each in FLEET)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_when_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    words = (*VMTUI, "demo", "--", "sh", "-c", "vmtui list --json; exec sleep 100")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        pids = [json.loads(process.stdout.readline())["pid"] for _ in FLEET]
        bodies = [os.pidfd_open(pid) for pid in pids]
        process.send_signal(number)
        process.wait(20)
        for body in bodies:
            assert select.select([body], [], [], 20)[0], "a simulated VM is left"
            os.close(body)
        if number is signal.SIGKILL:
            os.killpg(process.pid, signal.SIGKILL)  # the command itself, which nobody was left to end
    gone_by = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < gone_by:
        select.select([], [], [], 0.02)  # until the fleet's own process has removed its files


# --- the tour ---------------------------------------------------------------------------------------------------------


def test_the_tour_goes_by_itself_through_the_hang_the_save_and_the_crash() -> None:
    done = demo("--tour", "--auto", "--speed", "100000")
    assert (done.returncode, done.stderr) == (0, "")
    hang, save, crash = done.stdout.split("ACT ")[1:]
    assert "60 minutes later" in hang
    assert '<- {"return": {"status": "wait-unplug"}}' in hang
    assert '"event": "DEVICE_DELETED"' in hang
    assert save.index('"status": "active"') < save.index('-> {"execute": "stop"}') < save.index('"status": "completed"')
    assert "0x10d38086" in save
    assert "the guest stands (paused); its card is out; migration: active" in save
    assert "the guest runs; its card is out; migration: completed" in save
    assert save.rstrip().split("==")[-1].startswith(" the guest runs; its card is plugged")
    assert '"class": "GenericError"' in crash
    assert '"event": "DUMP_COMPLETED"' in crash


@pytest.mark.parametrize("keys", [(b" ", b"q"), (b" q", b"")], ids=["one by one", "typed ahead"])
def test_a_key_goes_on_and_q_ends_the_tour(keys: tuple[bytes, bytes]) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        (*VMTUI, "demo", "--tour", "--speed", "1000"), stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        try:
            _read_until(master, b"ACT 1")
            os.write(master, keys[0])
            _read_until(master, b"The classic recipe")
            os.write(master, keys[1])
            assert process.wait(20) == 0
        finally:
            process.kill()
    os.close(master)


def _read_until(fd: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], 20)[0], seen
        seen += os.read(fd, 4096)
