"""The engine outlives front ends, and what it was doing outlives the engine: asked of the VM and the file."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Message
from tests.backend.saving import CHANGING, Front, at, is_new, result_of
from tests.behaviour.looking import wait_until
from tests.cli.test_process import ROOT, line_with, started
from tests.engine.conftest import engine_is_gone, kill_engine
from vmtui import params
from vmtui.backend import config, server, wire
from vmtui.backend.core.errors import Exit
from vmtui.backend.core.fleet import Begin, CancelWish, VmView
from vmtui.backend.core.model import Link, Options, Outcome, Phase
from vmtui.backend.core.sim import STOCK_7_2, STOCK_10_0, Scenario
from vmtui.backend.core.sim.scenarios import world
from vmtui.backend.engine import finished
from vmtui.backend.remote import Remote
from vmtui.backend.stream import read_stream

pytestmark = pytest.mark.slice
SLOW = world(("slow-eject=100",)).scenario
"""Ten seconds of the test's: time for others to look on, also on a busy host."""
COPYING = world(("slow-disk=100K",)).scenario
STUBBORN = world(("never-ejects",)).scenario
"""It lets go when it is cancelled."""
Vmtui = tuple[int, str, str]


def vmtui(*arguments: object) -> Vmtui:
    """Run a command to its end: exit code, stdout, stderr."""
    with started(*arguments) as process:
        out, err = process.communicate()
        return process.returncode, out, err


def file_of(qemu: FakeQemu) -> Path:
    return qemu.path.with_suffix(".vmstate")


def save(qemu: FakeQemu, *more: object) -> tuple[object, ...]:
    return ("save", qemu.address, "--output", file_of(qemu), *more)


def saved_as_it_should(qemu: FakeQemu) -> None:
    assert qemu.as_before
    assert read_stream(file_of(qemu)).whole
    assert sorted(each.name for each in qemu.path.parent.glob("qmp.vmstate*")) == ["qmp.vmstate", "qmp.vmstate.json"]


def result(out: str) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert last["kind"] == "result"
    return last


class At:
    """Does something once the nth such command comes, before QEMU does it."""

    def __init__(self, command: str, do: Callable[[], None]) -> None:
        self.command, self.do = command, do
        self.happened = threading.Event()

    def __call__(self, qemu: FakeQemu, message: Message) -> Do | bytes | None:
        if message["execute"] == self.command and not self.happened.is_set():
            self.do()
            self.happened.set()
        return None


# --- it comes and goes --------------------------------------------------------------------------------------------


def test_a_save_starts_it_and_it_ends_by_itself_when_nobody_needs_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMTUI_ENGINE_LINGER", "0.5")
    with FakeQemu(path) as qemu:
        code, out, err = vmtui(*save(qemu, "--json"))
        assert (code, err) == (0, "")
        assert result(out)["outcome"] == "saved"
        lines = [json.loads(line) for line in out.splitlines()]
        findings = [line["code"] for line in lines if line["kind"] in ("note", "warning")]
        assert len(findings) == len(set(findings)) > 0, "each is told once, however often the engine tells of the VM"
        assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
        saved_as_it_should(qemu)
        engine_is_gone()
        assert not server.socket_path().exists()


def test_what_it_keeps_is_its_users_alone(path: Path) -> None:
    with FakeQemu(path) as qemu:
        assert vmtui(*save(qemu))[0] == 0
        for place in (server.socket_path(), server.log_path(), config.runtime_dir(), file_of(qemu), *jobs_of()):
            assert place.stat().st_mode & 0o077 == 0, place


def jobs_of() -> list[Path]:
    return sorted(config.journal_dir().glob("*.ndjson"))


def test_status_and_stop_tell_the_truth(path: Path) -> None:
    assert vmtui("engine", "status")[:2] == (1, "not running; it is started when it is needed\n")
    assert vmtui("engine", "stop")[1] == "vmtui's engine does not run\n"
    with FakeQemu(path) as qemu:
        vmtui(*save(qemu))
    code, out, _err = vmtui("engine", "status", "--json")
    assert code == 0
    assert json.loads(out)["pid"] == server.pid_of_engine()
    assert json.loads(out)["busy"] == []
    assert vmtui("engine", "stop")[:2] == (0, "vmtui's engine has ended\n")
    assert server.pid_of_engine() is None
    assert "save of" in vmtui("engine", "log")[1]


def test_an_engine_that_is_told_to_stop_begins_nothing_and_finishes_what_it_does(path: Path, tmp_path: Path) -> None:
    with (
        FakeQemu(path, scenario=SLOW) as qemu,
        FakeQemu(tmp_path / "other.sock") as other,
        started(*save(qemu, "--json")) as saving,
    ):
        line_with(saving.stdout, '"unplug"')
        with started("engine", "stop") as stopping:
            (job,) = jobs_of()
            line_with(stopping.stderr, f"vmtui cancel {job.stem} undoes it")
            code, _out, err = vmtui("save", other.address)
            assert code == Exit.REFUSED
            assert "told to stop" in err
            assert f"vmtui attach {job.stem} shows it" in err
            assert (
                stopping.communicate()[0] == "vmtui's engine has ended; a front end that is still open starts another one\n"
            )
            assert stopping.returncode == 0
        assert result(saving.communicate()[0])["outcome"] == "saved"
        saved_as_it_should(qemu)
        assert not [name for name in CHANGING if other.commands(name)]


def test_what_an_engine_that_is_told_to_stop_does_can_be_looked_at_tuned_and_cancelled(path: Path, tmp_path: Path) -> None:
    with (
        FakeQemu(path, scenario=STUBBORN) as qemu,
        FakeQemu(tmp_path / "other.sock") as other,
        started(*save(qemu, "--json")) as saving,
    ):
        line_with(saving.stdout, '"unplug"')
        (job,) = jobs_of()
        with started("engine", "stop") as stopping:
            line_with(stopping.stderr, "It ends once")
            assert json.loads(vmtui("engine", "status", "--json")[1])["ending"]
            assert f"vmtui cancel {job.stem} undoes it" in vmtui("engine")[1]
            assert vmtui("check", other.address)[0] == 0
            assert vmtui("params", qemu.address, "max-bandwidth=1M")[0] == 0
            assert vmtui("params", other.address, "max-bandwidth=512M")[0] == Exit.REFUSED
            with started("attach", qemu.address) as looking:
                line_with(looking.stdout, "unplug")
                assert vmtui("cancel", job.stem)[0] == 0
            assert result(saving.communicate()[0])["outcome"] == "cancelled"
            assert stopping.wait() == 0
        assert qemu.as_before
        assert other.as_before


@pytest.mark.parametrize("phase", ["unplug", "save"])
def test_how_fast_a_save_may_be_is_shown_and_set_while_it_runs(path: Path, phase: str) -> None:
    scenario = STUBBORN if phase == "unplug" else Scenario(disk_speed=100.0)
    with FakeQemu(path, scenario=scenario) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, f'"phase": "{phase}"')
        began = time.monotonic()
        assert vmtui("params", qemu.address, "max-bandwidth")[0] == 0
        code, _out, err = vmtui("params", qemu.address, "max-bandwidth=512K")
        assert (code, err) == (0, "")
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "running"
        assert vmtui("params", qemu.address, "multifd=on")[0] == Exit.REFUSED
        assert time.monotonic() - began < params.LIMIT / 2
        if phase == "save":
            wait_until(lambda: qemu.vm.parameters["max-bandwidth"] == 512 << 10, "QEMU is told")
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "running"
        assert vmtui("cancel", qemu.address)[0] == 0
        assert qemu.as_before


def test_stop_cancel_puts_the_vm_back_first(path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, '"unplug"')
        assert vmtui("engine", "stop", "--cancel")[0] == 0
        assert result(saving.communicate()[0])["outcome"] == "cancelled"
        assert qemu.as_before
        assert not list(path.parent.glob("qmp.vmstate*"))


# --- front ends end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["migrate-set-capabilities", "migrate", "stop", "cont", "query-yank"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda each: each.name)
def test_a_front_end_that_is_ended_ends_no_save(path: Path, command: str, number: signal.Signals) -> None:
    victim: list[subprocess.Popen[str]] = []
    at = At(command, lambda: victim[0].send_signal(number))
    with FakeQemu(path) as qemu, started(*save(qemu)) as saving:
        victim.append(saving)
        qemu.hook = at
        assert at.happened.wait(20)
        if number is signal.SIGKILL:
            saving.wait()
        (job,) = jobs_of()
        assert vmtui("wait", job.stem)[0] == 0
        saved_as_it_should(qemu)


def test_a_session_that_is_ended_ends_no_save(path: Path) -> None:
    """systemd sends SIGTERM, and SIGHUP right behind it."""
    with FakeQemu(path, scenario=SLOW) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, '"unplug"')
        saving.send_signal(signal.SIGTERM)
        saving.send_signal(signal.SIGHUP)
        assert saving.wait() == 128 + signal.SIGTERM
        (job,) = jobs_of()
        assert vmtui("wait", job.stem)[0] == 0
        saved_as_it_should(qemu)


def test_a_save_that_is_told_to_end_in_a_terminal_that_is_there_is_cancelled(path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, '"unplug"')
        saving.send_signal(signal.SIGTERM)
        assert result(saving.communicate()[0])["outcome"] == "cancelled"
        assert qemu.as_before


def test_under_nohup_a_closed_terminal_does_not_change_what_sigterm_means(path: Path) -> None:
    ignored = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json"), preexec_fn=ignored) as saving:
        line_with(saving.stdout, '"unplug"')
        saving.send_signal(signal.SIGHUP)
        saving.send_signal(signal.SIGTERM)
        assert result(saving.communicate()[0])["outcome"] == "cancelled"
        assert qemu.as_before


def test_another_terminal_sees_all_of_it(path: Path) -> None:
    with FakeQemu(path, scenario=SLOW) as qemu, started(*save(qemu)) as saving:
        line_with(saving.stdout, "unplug")
        saving.kill()
        code, out, err = vmtui("attach")
        assert (code, err) == (0, "")
        phases = re.findall(r"^ *[0-9.]+ s  (\w+)", out, re.MULTILINE)
        assert phases[:3] == ["preflight", "prepare", "unplug"]
        assert phases[-2:] == ["verify", "prove"]
        saved_as_it_should(qemu)


def test_two_terminals_watch_the_same_save_and_each_may_cancel_it(path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json")) as first:
        line_with(first.stdout, '"unplug"')
        with started("attach", qemu.address, "--json") as second:
            line_with(second.stdout, '"unplug"')
            assert vmtui("cancel", qemu.address)[0] == 0
            ends = [result(each.communicate()[0]) for each in (first, second)]
        assert [end["outcome"] for end in ends] == ["cancelled", "cancelled"]
        assert qemu.as_before


def test_who_only_looks_on_may_go_and_the_save_goes_on(path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, '"unplug"')
        (job,) = jobs_of()
        for number in (signal.SIGINT, signal.SIGTERM):
            with started("attach", qemu.address) as looking:
                line_with(looking.stdout, "unplug")
                looking.send_signal(number)
                assert f"vmtui cancel {job.stem} cancels it" in looking.communicate()[0]
                assert looking.returncode == 128 + number
        assert qemu.commands("migrate_cancel") == []
        assert vmtui("cancel", job.stem)[0] == 0
        assert qemu.as_before


@pytest.mark.parametrize(("scenario", "phase"), [(SLOW, "unplug"), (COPYING, "save")])
def test_the_bandwidth_of_a_save_is_changed_while_it_goes_on(path: Path, scenario: Scenario, phase: str) -> None:
    with FakeQemu(path, scenario=scenario) as qemu, started(*save(qemu, "--json")) as saving:
        line_with(saving.stdout, f'"{phase}"')
        code, _out, err = vmtui("params", qemu.address, "max-bandwidth=1G")
        assert (code, err) == (0, "")
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "running", "nobody waited for its end"
        assert result(saving.communicate()[0])["outcome"] == "saved"
        assert 1 << 30 in [each["arguments"].get("max-bandwidth") for each in qemu.commands("migrate-set-parameters")]
        saved_as_it_should(qemu)


def test_a_second_save_of_a_vm_is_refused_with_what_to_do(path: Path, tmp_path: Path) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu, started(*save(qemu, "--json")) as first:
        line_with(first.stdout, '"unplug"')
        code, _out, err = vmtui("save", qemu.address, "--output", tmp_path / "second")
        assert code == Exit.REFUSED
        assert "vmtui attach" in err
        assert vmtui("cancel", qemu.address)[0] == 0
        assert result(first.communicate()[0])["outcome"] == "cancelled"
        assert qemu.as_before
        assert not (tmp_path / "second").exists()


def test_a_job_that_is_detached_is_listed_waited_for_and_told_of_afterwards(path: Path) -> None:
    with FakeQemu(path, scenario=SLOW) as qemu:
        code, out, err = vmtui(*save(qemu, "--detach"))
        assert (code, err) == (0, "")
        name = out.strip()
        (line,) = vmtui("jobs", "--json")[1].splitlines()
        assert json.loads(line) | {"id": name, "state": "running", "output": str(file_of(qemu))} == json.loads(line)
        assert vmtui("wait", name)[0] == 0
        saved_as_it_should(qemu)
        kill_engine()
        code, out, _err = vmtui("wait", name, "--json")
        assert (code, result(out)["outcome"]) == (0, "saved")
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "saved"
        code, out, _err = vmtui("wait", qemu.address, "--json")
        assert (code, result(out)["outcome"]) == (0, "saved"), "its VM does as well"
    code, out, _err = vmtui("wait", "vm", "--json")
    assert (code, result(out)["outcome"]) == (0, "saved"), "and its name, when the VM has gone"


def test_a_save_that_cannot_begin_says_so_also_when_detached(path: Path) -> None:
    with FakeQemu(path, scenario=world(("paused",)).scenario) as qemu:
        code, out, _err = vmtui(*save(qemu, "--detach"))
        assert code == Exit.REFUSED
        assert "refused" in out
        assert jobs_of() == []


def test_a_cancel_when_nothing_is_under_way_spoils_no_later_save(path: Path) -> None:
    with FakeQemu(path) as qemu:
        asyncio.run(_cancel_then_save(qemu))
        saved_as_it_should(qemu)


async def _cancel_then_save(qemu: FakeQemu) -> None:
    front = Front()
    async with Remote(front.take) as engine:
        key = engine.watch(qemu.address)
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
        engine.request(CancelWish(key))
        engine.request(Begin(key, Options(output=str(file_of(qemu)))))
        await front.until(lambda views: finished(views.get(key)))
        assert result_of(front.views[key]).outcome is Outcome.SAVED


def test_what_was_refused_is_not_done_by_the_next_engine(path: Path, tmp_path: Path) -> None:
    with (
        FakeQemu(path, scenario=STUBBORN) as busy,
        FakeQemu(tmp_path / "other.sock") as other,
        started(*save(busy)) as saving,
    ):
        line_with(saving.stdout, "unplug")
        asyncio.run(_ask_an_engine_that_ends(other, busy))
        assert other.commands("migrate") == []
        assert other.as_before
        assert busy.as_before


def test_a_setting_that_the_engine_takes_no_more_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    def end_the_engine() -> None:
        os.kill(the_engine(), signal.SIGTERM)
        wait_until(lambda: "is asked to end" in server.log_path().read_text(), "it was told")

    with (
        FakeQemu(path, scenario=STUBBORN) as busy,
        FakeQemu(tmp_path / "other.sock", hook=At("query-migrate-parameters", end_the_engine)) as other,
        started(*save(busy)) as saving,
    ):
        line_with(saving.stdout, "unplug")
        began = time.monotonic()
        code, out, err = vmtui("params", other.address, "max-bandwidth=1G")
        assert (code, out) == (Exit.REFUSED, "")
        assert "told to stop" in err
        assert time.monotonic() - began < params.LIMIT / 2
        assert other.as_before


def test_settings_are_not_waited_for_where_there_is_no_engine_any_more(path: Path) -> None:
    def end_all_engines() -> None:
        config.runtime_dir().chmod(0o755)
        os.kill(the_engine(), signal.SIGKILL)

    with FakeQemu(path, hook=At("query-migrate-parameters", end_all_engines)) as qemu:
        began = time.monotonic()
        code, out, err = vmtui("params", qemu.address)
        assert (code, out) == (Exit.STORE, "")
        assert "not this user's alone" in err
        assert time.monotonic() - began < params.LIMIT / 2


async def _ask_an_engine_that_ends(other: FakeQemu, busy: FakeQemu) -> None:
    front = Front()
    async with Remote(front.take) as engine:
        key = engine.watch(other.address)
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
        first = server.pid_of_engine()
        assert first is not None
        os.kill(first, signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: "is asked to end" in server.log_path().read_text(), "it was told")
        engine.request(Begin(key, Options(output=str(other.path.with_suffix(".vmstate")))))
        await front.until(lambda _views: engine.trouble is not None)
        engine.request(CancelWish(str(busy.address)))
        await front.until(lambda views: finished(views.get(str(busy.address))))
        await asyncio.to_thread(wait_until, lambda: server.pid_of_engine() not in (first, None), "this one starts another")
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)


def test_a_save_after_a_release_takes_the_monitor_again_whoever_held_it(path: Path) -> None:
    with FakeQemu(path) as qemu:
        assert vmtui("params", qemu.address, "max-bandwidth")[0] == 0
        asyncio.run(_release_between_two_connections(qemu))
        saved_as_it_should(qemu)


async def _release_between_two_connections(qemu: FakeQemu) -> None:
    front = Front()
    with socket.socket(socket.AF_UNIX) as holder:
        while not await asyncio.to_thread(holds, holder, qemu.path):
            pass
        async with Remote(front.take) as engine:
            key = engine.watch(qemu.address)
            await front.until(lambda views: key in views and views[key].state.vm.link is Link.LOST)
            engine.release(key)
            holder.close()
            engine.request(Begin(key, Options(output=str(file_of(qemu)))))
            await front.until(lambda views: finished(views.get(key)))


def holds(sock: socket.socket, path: Path) -> bool:
    sock.settimeout(10)
    sock.connect(str(path))
    return b"QMP" in sock.recv(1 << 16)


# --- the engine ends ----------------------------------------------------------------------------------------------

POINTS = [
    (STOCK_10_0, "migrate-set-parameters"), (STOCK_10_0, "add-fd"), (STOCK_7_2, "migrate"), (STOCK_10_0, "stop"),
    (STOCK_7_2, "cont"), (STOCK_10_0, "query-yank"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "command"), POINTS, ids=lambda each: getattr(each, "name", each))
def test_an_engine_that_is_killed_is_started_again_and_the_front_end_sees_the_save_through(
    path: Path, profile: Any, command: str
) -> None:
    with FakeQemu(path, profile=profile, hook=At(command, lambda: os.kill(the_engine(), signal.SIGKILL))) as qemu:
        code, out, err = vmtui(*save(qemu, "--json"))
        assert (code, err) == (0, "")
        assert result(out)["outcome"] == "saved"
        saved_as_it_should(qemu)


def test_what_an_engine_was_asked_for_in_the_moment_in_which_it_was_killed_is_done_by_the_next(path: Path) -> None:
    with FakeQemu(path) as qemu:
        assert asyncio.run(_ask_engines_that_die(qemu, "begin")) is Outcome.SAVED
        saved_as_it_should(qemu)


@pytest.mark.parametrize("moments", [("begin, cancel",), ("begin", "cancel"), ("cancel",)])
def test_a_cancel_that_an_engine_took_with_it_is_asked_of_the_next(path: Path, moments: tuple[str, ...]) -> None:
    with FakeQemu(path, scenario=STUBBORN) as qemu:
        assert asyncio.run(_ask_engines_that_die(qemu, *moments)) is Outcome.CANCELLED
        assert qemu.as_before
        assert not list(path.parent.glob("qmp.vmstate*"))


async def _ask_engines_that_die(qemu: FakeQemu, *moments: str) -> Outcome:
    """In each moment an engine dies before it reads what it is asked for then. A cancel alone is asked in the unplug."""
    front = Front()
    async with Remote(front.take) as engine:
        key = engine.watch(qemu.address)
        begin, cancel = Begin(key, Options(output=str(file_of(qemu)))), CancelWish(key)
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
        if "begin" not in moments[0]:
            engine.request(begin)
        for moment in moments:
            if "begin" not in moment:
                await front.until(lambda views: key in views and is_in(views[key], Phase.UNPLUG))
            pid = the_engine()
            os.kill(pid, signal.SIGSTOP)
            for wish in ([begin] if "begin" in moment else []) + ([cancel] if "cancel" in moment else []):
                engine.request(wish)
            os.kill(pid, signal.SIGKILL)
        await front.until(lambda views: finished(views.get(key)))
        return result_of(front.views[key]).outcome


def is_in(view: VmView, phase: Phase) -> bool:
    return view.state.work is not None and view.state.work.phase is phase


def the_engine() -> int:
    pid = server.pid_of_engine()
    assert pid is not None
    return pid


def test_a_cancel_that_was_done_cancels_no_save_that_comes_after_it(path: Path) -> None:
    with FakeQemu(path) as qemu:
        assert asyncio.run(_cancel_one_and_kill_the_next(qemu)) == [Outcome.CANCELLED, Outcome.SAVED]
        saved_as_it_should(qemu)


async def _cancel_one_and_kill_the_next(qemu: FakeQemu) -> list[Outcome]:
    """How each ended."""
    front, outcomes, before = Front(), list[Outcome](), None
    async with Remote(front.take) as engine:
        key = engine.watch(qemu.address)
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
        for cancels in (True, False):
            engine.request(Begin(key, Options(output=str(file_of(qemu)))))
            if cancels:
                engine.request(CancelWish(key))
            else:
                qemu.hook = At("stop", lambda: os.kill(the_engine(), signal.SIGKILL))
            await front.until(lambda views, last=before: is_new(views.get(key), last) and finished(views[key]))  # type: ignore[misc]
            work = front.views[key].state.work
            assert work is not None
            before = work.started
            outcomes.append(result_of(front.views[key]).outcome)
    return outcomes


def test_what_an_engine_left_is_told_and_recovered_by_hand(path: Path) -> None:
    def kill() -> None:
        saving.kill()
        os.kill(the_engine(), signal.SIGKILL)

    killed = At("stop", kill)
    with FakeQemu(path) as qemu, started(*save(qemu)) as saving:
        qemu.hook = killed
        assert killed.happened.wait(20)
        engine_is_gone()
        qemu.hook = None
        assert json.loads(vmtui("jobs", "--json")[1])["state"] == "unfinished"
        code, out, _err = vmtui("engine")
        assert code == 1
        assert "a save is unfinished, broken off in the phase pause, and its guest may stand paused until then" in out
        assert json.loads(vmtui("engine", "status", "--json")[1])["unfinished"] == [each.stem for each in jobs_of()]
        assert "vmtui recover finishes or undoes it" in vmtui("recover", "--dry-run")[1]
        code, out, _err = vmtui("recover", "--dry-run", "--json")
        assert (code, json.loads(out)["goal"]) == (0, "save")
        assert server.pid_of_engine() is None, "a look starts nothing"
        code, out, err = vmtui("recover", "--json")
        assert (code, err) == (0, "")
        assert result(out)["outcome"] in ("saved", "cancelled")
        assert qemu.as_before
        assert vmtui("recover")[1] == "nothing was left unfinished\n"


def test_a_qemu_that_says_what_no_message_can_hold_costs_nobody_the_engine(path: Path) -> None:
    event = b'{"event": "X", "data": {"number": 123456789012345678901234567890}}\r\n'
    with FakeQemu(path, hook=at("migrate", event)) as qemu:
        code, _out, err = vmtui(*save(qemu))
        assert (code, err) == (0, "")
        saved_as_it_should(qemu)


# --- who else is there --------------------------------------------------------------------------------------------


@contextmanager
def engine() -> Iterator[int]:
    """One that runs; its pid."""
    assert (
        subprocess.run(
            [sys.executable, "-m", "vmtui", "engine", "run", "--detach"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        ).stdout
        == server.READY
    )
    pid = server.pid_of_engine()
    assert pid is not None
    yield pid


def connected() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(server.socket_path()))
    return sock


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("said", [
    b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff" + b"x" * 100, b"\0\0\0\x05hello", b"\0\0\0\0", b"\0\0\0\x03\x81\xa1x",
    wire.packed(wire.hello()) + b"\0\0\0\x04evil",
    wire.packed(wire.hello()) + wire.packed(wire.Follow("no address")),
    wire.packed(wire.Follow("unix:/x")),
])  # fmt: skip
def test_a_front_end_that_speaks_nonsense_is_let_go(said: bytes) -> None:
    with engine() as pid, connected() as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        until_closed(sock)
        assert server.pid_of_engine() == pid
        assert vmtui("engine", "status")[0] == 0


def test_a_thousand_connections_cost_nothing() -> None:
    with engine() as pid, ExitStack() as stack:
        before = resident(pid)
        socks = []
        for _ in range(1000):
            socks.append(sock := stack.enter_context(connected()))
            sock.sendall(wire.packed(wire.hello()))
        answers = [sock.recv(1 << 16) for sock in socks]
        assert sum(b"welcome" in answer for answer in answers) == server.FRONT_ENDS
        assert all(b"connected to vmtui's engine already" in answer for answer in answers if b"welcome" not in answer)
        stack.close()
        deadline = time.monotonic() + 20
        while vmtui("engine", "status")[0] != 0:
            assert time.monotonic() < deadline, "closed connections keep their places"
        assert resident(pid) - before < 16 << 20


def test_a_front_end_that_never_says_what_it_is_keeps_no_place() -> None:
    with engine(), connected() as sock:
        began = time.monotonic()
        assert until_closed(sock) == b""
        assert time.monotonic() - began < server.HELLO_LIMIT + 5


@pytest.mark.parametrize(("hello", "words"), [
    (wire.Hello("vmtui 9.9, wire 7", ""), b"vmtui engine stop"),
    (wire.Hello(wire.SPEAKS, "/elsewhere"), b"keeps its journals in"),
])  # fmt: skip
def test_a_front_end_of_another_kind_is_refused_in_words(hello: wire.Hello, words: bytes) -> None:
    with engine(), connected() as sock:
        sock.sendall(wire.packed(hello))
        assert words in until_closed(sock)


def test_a_directory_that_others_can_enter_is_refused() -> None:
    config.private_directory(config.runtime_dir()).chmod(0o755)
    code, _out, err = vmtui("engine", "run")
    assert code == Exit.STORE
    assert "not this user's alone" in err


def test_a_directory_with_too_long_a_name_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("VMTUI_RUNTIME_DIR", str(long))
    code, _out, err = vmtui("attach")
    assert code == Exit.STORE
    assert "too long" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be played by root")
def test_another_user_is_let_in_by_nothing(path: Path) -> None:
    script = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.settimeout(10); s.connect(sys.argv[1]); s.sendall(bytes.fromhex(sys.argv[2])); print(s.recv(1 << 16))"
    )
    with engine():
        command = [sys.executable, "-c", script, str(server.socket_path()), wire.packed(wire.hello()).hex()]
        closed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "PermissionError" in closed.stderr
        for place in (server.socket_path(), *server.socket_path().parents):
            if place.is_relative_to("/tmp") and place != Path("/tmp"):  # as if every mode were wrong
                place.chmod(0o777)
        opened = subprocess.run(command, capture_output=True, text=True, check=False)
        assert opened.stdout.strip() in ("b''", "") and "welcome" not in opened.stdout, opened
        config.runtime_dir().chmod(0o700)


# --- monitors -----------------------------------------------------------------------------------------------------


def greeted(path: Path) -> bool:
    """Whether the monitor takes another client at once."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(str(path))
        try:
            return b"QMP" in sock.recv(1 << 16)
        except TimeoutError:
            return False


def test_a_monitor_is_held_only_while_somebody_needs_it(path: Path) -> None:
    with FakeQemu(path) as qemu:
        assert vmtui(*save(qemu))[0] == 0
        deadline = time.monotonic() + 10
        while not greeted(path):
            assert time.monotonic() < deadline, "the engine keeps the monitor"


def test_release_gives_a_monitor_back_while_a_screen_shows_the_vm(path: Path) -> None:
    with FakeQemu(path) as qemu, started("ui", "--plain", qemu.address, stdin=subprocess.PIPE) as screen:
        line_with(screen.stdout, "running")
        assert not greeted(path)
        assert vmtui("release", qemu.address)[0] == 0
        line_with(screen.stdout, "given back")
        assert greeted(path)
        assert vmtui(*save(qemu))[0] == 0
        saved_as_it_should(qemu)
        screen.communicate("quit\n")


def test_a_path_is_a_path_whatever_is_in_it(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    names = ["a\nb.vmstate", "x,offset=4.vmstate", "$(touch pwned);`id`.vmstate", "\x1b[2J.vmstate", "-rf.vmstate"]
    with FakeQemu(path) as qemu:
        for name in (*names, "../place/up.vmstate"):
            code, out, err = vmtui("save", qemu.address, "--output", f"{place}/{name}")
            assert (code, err) == (0, ""), name
            assert "\x1b" not in out
            assert qemu.as_before
    wanted = {*names, "up.vmstate"}
    assert {each.name for each in place.iterdir()} == wanted | {f"{name}.json" for name in wanted}
    assert not list(tmp_path.rglob("pwned"))


def test_jobs_of_odd_names_find_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "x.ndjson").write_text("{}\n", encoding="utf-8")
    for name in ("../x", str(tmp_path / "x"), "..", "a\nb", "$(id)", "x,offset=1"):
        code, out, _err = vmtui("wait", name)
        assert code in (Exit.USAGE, Exit.REFUSED)
        assert out == ""
