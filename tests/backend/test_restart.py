"""A `vmtui save` is killed; a new engine, given its journal, brings file, guest, card and settings to a good end."""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Message, stream
from tests.backend.saving import Front, left, result_of
from tests.backend.test_sim_server import Server
from tests.cli.test_process import line_with, started
from vmtui import replay
from vmtui.backend.core.errors import Exit, RefusedError, UsageError
from vmtui.backend.core.events import Restarted
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.model import Link, Outcome
from vmtui.backend.core.sim import STOCK_7_2, STOCK_10_0
from vmtui.backend.core.sim.scenarios import world
from vmtui.backend.engine import Engine, finished
from vmtui.backend.journal import EndLine, EventLine, Head, read_journal
from vmtui.backend.store import VmLock
from vmtui.backend.stream import read_stream
from vmtui.backend.unfinished import read_unfinished, unfinished_journals

pytestmark = [pytest.mark.slice, pytest.mark.usefixtures("state_home", "no_descriptor_is_left")]


def resume(*journals: Path) -> list[VmView]:
    """Go on with these, each to its end. No task may be left."""

    async def run() -> list[VmView]:
        front = Front()
        async with Engine(front.take) as engine:
            keys = [engine.resume(journal) for journal in journals]
            await front.until(lambda views: all(finished(views.get(key)) for key in keys))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [front.views[key] for key in keys]

    return asyncio.run(run())


class Killer:
    """Ends the vmtui that sends the nth such command: before QEMU has done it, or when it has."""

    def __init__(self, command: str, *, done: bool, nth: int = 1) -> None:
        self.command, self.done, self.nth = command, done, nth
        self.process: subprocess.Popen[str] | None = None
        self.started = threading.Event()

    def __call__(self, qemu: FakeQemu, message: Message) -> Do | None:
        self.started.wait()
        if message["execute"] != self.command or len(qemu.commands(self.command)) != self.nth or self.process is None:
            return None
        self.process.kill()
        self.process.wait()
        self.process = None
        return Do.CUT_AFTER if self.done else Do.CUT_BEFORE


def arguments(qemu: FakeQemu, *more: object) -> tuple[object, ...]:
    return ("save", qemu.address, "--output", qemu.path.with_suffix(".vmstate"), "--json", *more)


def killed_saves(*victims: tuple[FakeQemu, Killer], more: tuple[object, ...] = ()) -> None:
    """A save from each, ended by its killer."""
    with ExitStack() as stack:
        saves = []
        for qemu, killer in victims:
            killer.process = stack.enter_context(started(*arguments(qemu, *more)))
            killer.started.set()
            saves.append(killer.process)
        for saving in saves:
            assert saving.communicate()[1] == ""
            assert saving.returncode == -signal.SIGKILL


POINTS = [
    (STOCK_7_2,  "migrate-set-capabilities", False),
    (STOCK_10_0, "migrate-set-parameters",   True),
    (STOCK_10_0, "migrate",                  False),
    (STOCK_7_2,  "migrate",                  True),
    (STOCK_10_0, "stop",                     False),
    (STOCK_7_2,  "stop",                     True),
    (STOCK_10_0, "cont",                     True),
]  # fmt: skip


def test_a_save_whose_vmtui_was_killed_is_saved_by_the_next(tmp_path: Path) -> None:
    with ExitStack() as stack:
        killers = [Killer(name, done=done) for _, name, done in POINTS]
        qemus = [
            stack.enter_context(FakeQemu(tmp_path / f"q{number}.sock", profile=profile, hook=killer))
            for number, (killer, (profile, *_)) in enumerate(zip(killers, POINTS, strict=True))
        ]
        killed_saves(*zip(qemus, killers, strict=True))
        unfinished = {str(each.address): each.path for each in unfinished_journals()}
        journals = [unfinished[str(qemu.address)] for qemu in qemus]
        views = resume(*journals)
        assert unfinished_journals() == ()
        for qemu, view, journal, point in zip(qemus, views, journals, POINTS, strict=True):
            assert qemu.as_before, f"{point}: {result_of(view)}"
            assert not qemu.vm.fds, point
            assert not qemu.vm.fdsets, point
            assert result_of(view).outcome is Outcome.SAVED, f"{point}: {result_of(view)}"
            assert left(qemu) == [f"{qemu.path.stem}.vmstate", f"{qemu.path.stem}.vmstate.json"]
            assert read_stream(qemu.path.with_suffix(".vmstate")).whole
            assert replay.show(journal, speed=1e9, as_json=True) == Exit.OK, "the journal tells the whole story"
            head, *lines = read_journal(journal)
            assert isinstance(head, Head)
            assert sum(isinstance(line, EventLine) and isinstance(line.event, Restarted) for line in lines) == 1
            assert isinstance(lines[-1], EndLine)


@pytest.fixture
def one(path: Path) -> Iterator[tuple[FakeQemu, Path]]:
    """A VM whose save was killed once the guest stood still, and its journal."""
    killer = Killer("stop", done=True)
    with FakeQemu(path, hook=killer) as qemu:
        killed_saves((qemu, killer))
        (found,) = unfinished_journals()
        yield qemu, found.path


def test_half_a_line_at_the_end_of_a_journal_is_cut_off_and_the_rest_gone_on_with(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one
    with journal.open("ab") as file:
        file.write(b'{"kind":"event","t":1')
    (view,) = resume(journal)
    assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED
    assert isinstance(list(read_journal(journal))[-1], EndLine)


def test_an_engine_that_is_ended_in_turn_is_gone_on_with_too(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one

    async def run() -> None:
        front = Front()
        engine = Engine(front.take)
        await engine.__aenter__()
        key = engine.resume(journal)
        await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
        await engine.__aexit__(None, None, None)

    asyncio.run(run())
    assert qemu.vm.runstate != "running"
    (view,) = resume(journal)
    assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED
    assert sum(isinstance(line, EventLine) and isinstance(line.event, Restarted) for line in read_journal(journal)) == 2


def test_a_monitor_that_is_watched_already_is_gone_on_with_over_the_same_connection(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one

    async def run() -> VmView:
        front = Front()
        async with Engine(front.take) as engine:
            key = engine.watch(qemu.address)
            await front.until(lambda views: key in views and views[key].state.vm.link is Link.UP)
            assert engine.resume(journal) == key
            with pytest.raises(RefusedError, match="another vmtui is at work"):
                engine.resume(journal)
            await front.until(lambda views: finished(views[key]))
        return front.views[key]

    assert result_of(asyncio.run(run())).outcome is Outcome.SAVED
    assert qemu.as_before
    assert qemu.connections == 2


def test_what_another_vmtui_is_at_work_on_is_not_unfinished(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one
    lock = VmLock(str(qemu.address))
    assert unfinished_journals() == ()
    with pytest.raises(RefusedError, match="another vmtui is at work"):
        Engine(Front().take).resume(journal)
    lock.release()
    assert [each.path for each in unfinished_journals()] == [journal]


def test_a_journal_that_came_to_its_end_has_nothing_to_go_on_with(one: tuple[FakeQemu, Path]) -> None:
    _qemu, journal = one
    resume(journal)
    for size in (None, -1):  # with half of its last line, too
        journal.write_bytes(journal.read_bytes()[:size])
        with pytest.raises(UsageError, match="nothing to go on with"):
            Engine(Front().take).resume(journal)
        assert unfinished_journals() == ()


def test_a_journal_of_other_rules_is_not_played(one: tuple[FakeQemu, Path]) -> None:
    _qemu, journal = one
    journal.write_bytes(journal.read_bytes().replace(b'"execute":"query-uuid"', b'"execute":"query-kvm"'))
    with pytest.raises(UsageError, match=r"written by vmtui .*, which went other ways"):
        read_unfinished(journal)


def test_a_file_that_was_removed_meanwhile_is_not_said_to_be_saved(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one
    qemu.path.with_suffix(".vmstate.partial").unlink()
    (view,) = resume(journal)
    assert qemu.as_before
    assert result_of(view).exit_code == Exit.STORE
    assert left(qemu) == []


def rebooted(journal: Path) -> None:
    """The host was started anew since this was written."""
    head, *_ = read_journal(journal)
    assert isinstance(head, Head)
    assert head.boot
    journal.write_bytes(journal.read_bytes().replace(head.boot.encode(), b"another"))


def test_after_a_reboot_a_state_that_is_whole_is_kept(path: Path) -> None:
    killer = Killer("cont", done=False)
    with FakeQemu(path, hook=killer) as qemu:
        killed_saves((qemu, killer))
        (found,) = unfinished_journals()
        rebooted(found.path)
        (view,) = resume(found.path)
        assert not qemu.commands("cont")[1:], "another QEMU is at its monitor now: it is left alone"
    assert (result_of(view).outcome, result_of(view).runstate) == (Outcome.ATTENTION, "gone")
    assert left(qemu) == ["qmp.vmstate", "qmp.vmstate.json"]
    assert read_stream(path.with_suffix(".vmstate")).whole


@pytest.mark.slice
def test_after_a_reboot_a_state_that_breaks_off_is_removed(one: tuple[FakeQemu, Path]) -> None:
    qemu, journal = one
    qemu.path.with_suffix(".vmstate.partial").write_bytes(stream()[:5000])
    rebooted(journal)
    (view,) = resume(journal)
    assert (result_of(view).outcome, result_of(view).runstate) == (Outcome.ATTENTION, "gone")
    assert left(qemu) == []


def test_a_qemu_that_ended_while_no_vmtui_looked_is_known_to_be_gone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMTUI_DEMO_DIR", str(tmp_path))
    output = tmp_path / "x.vmstate"
    made = world(["never-ejects"])
    with Server(tmp_path, made) as server, started("save", "vm1", "--json", "--output", output) as saving:
        line_with(saving.stdout, '"UNPLUG_PRIMARY"')
        saving.kill()
        saving.communicate()
        os.kill(server.records[0].pid, signal.SIGKILL)
        (found,) = unfinished_journals()
        (view,) = resume(found.path)
    assert (result_of(view).outcome, result_of(view).runstate) == (Outcome.ATTENTION, "gone")
    assert not output.with_name("x.vmstate.partial").exists()
