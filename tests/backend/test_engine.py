"""The engine saves over a real socket, whatever becomes of the connection, and leaves nothing behind."""

import asyncio
import io
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.backend.fake_qmp import FakeQemu, Message
from tests.backend.saving import CHANGING, Front, at, left, options_for, phases, result_of, save
from tests.core.play import Play
from vmtui import headless
from vmtui.backend.core import workflow
from vmtui.backend.core.commands import Action, Reserve
from vmtui.backend.core.errors import Exit
from vmtui.backend.core.events import AnyEvent
from vmtui.backend.core.fleet import Begin, CancelWish, TuneWish, VmView
from vmtui.backend.core.model import Goal, Options, Outcome, Phase, Strategy, Then
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.state import State
from vmtui.backend.engine import LARGE_MESSAGE, Engine, finished
from vmtui.backend.journal import BaselineLine, Head, read_journal
from vmtui.backend.store import VmLock
from vmtui.backend.unfinished import unfinished_journals

pytestmark = pytest.mark.usefixtures("state_home", "no_descriptor_is_left")


# --- a good day -------------------------------------------------------------------------------------------------------


def test_several_vms_of_one_name_are_saved_at_the_same_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        qemus = [stack.enter_context(FakeQemu(tmp_path / f"q{number}.sock")) for number in range(4)]
        views = save(*qemus)
        assert all(qemu.as_before for qemu in qemus)
    assert [result_of(view).outcome for view in views] == ["saved"] * 4
    assert len({view.journal for view in views}) == 4


def test_a_check_makes_nothing_and_changes_nothing(path: Path, state_home: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu, goal=Goal.CHECK)
        assert not qemu.commands(*CHANGING)
    assert result_of(view).outcome is Outcome.CHECKED
    assert left(qemu) == []
    assert not state_home.exists()


def test_a_wish_for_a_vm_that_is_busy_or_not_known_changes_nothing(path: Path) -> None:
    async def use(engine: Engine, front: Front, key: str) -> None:
        engine.request(Begin(key, Options(output="/elsewhere")))
        engine.request(Begin("unix:/nowhere", Options()))
        engine.request(CancelWish("unix:/nowhere"))
        assert engine.watch(qemu.address) == key

    with FakeQemu(path) as qemu:
        (view,) = save(qemu, use=use)
        assert qemu.connections == 1
    assert result_of(view).file == str(path.with_suffix(".vmstate"))


def test_the_log_shows_every_message_and_only_the_length_of_a_long_one(path: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu)
    messages = [record.data["msg"] for record in view.log if record.kind == "qmp"]
    sent = [each for each in messages if "execute" in each]
    assert [each["execute"] for each in sent] == [each["execute"] for each in qemu.received]
    (number,) = {each["id"] for each in sent if each["execute"] == "query-qmp-schema"}
    (reply,) = [each for each in messages if each.get("id") == number and "return" in each]
    assert reply["return"].endswith("bytes")
    assert all(len(json.dumps(each)) < LARGE_MESSAGE * 2 for each in messages)
    assert [record.number for record in view.log] == list(range(1, len(view.log) + 1))


def test_an_event_of_a_megabyte_is_not_kept_in_the_log(path: Path) -> None:
    bulk = json.dumps({"event": "BULK", "data": {"a": "x" * (1 << 20)}}).encode() + b"\r\n"
    with FakeQemu(path, hook=at("query-name", bulk)) as qemu:
        (view,) = save(qemu)
    (event,) = [record.data["msg"] for record in view.log if record.data.get("msg", {}).get("event") == "BULK"]
    assert event == {"event": "BULK", "data": f"... {(1 << 20) + 8} bytes"}


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_left_in_the_middle_leaves_no_task_and_no_open_file(path: Path) -> None:
    async def run() -> None:
        front = Front()
        async with Engine(front.take) as engine:
            key = engine.watch(qemu.address)
            engine.request(Begin(key, options_for(qemu)))
            await front.until(lambda views: key in views and Phase.UNPLUG in _phases(views[key]))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def _phases(view: VmView) -> list[Phase]:
        return phases(view) if view.state.work else []

    with FakeQemu(path, scenario=Scenario(unplug_delay=None)) as qemu:
        asyncio.run(run())
    assert left(qemu) == ["qmp.vmstate.partial"]


def test_a_session_with_an_error_of_our_own_says_so_ends_no_other_and_is_gone_on_with(path: Path, tmp_path: Path) -> None:
    """No QEMU is known that makes the rules fail: a defect is put into them."""
    ailing, defects, sound = FakeQemu(path), ["a defect\x1b[31m"], workflow.step

    def step(state: State, event: AnyEvent) -> State:
        if defects and state.vm.key == str(ailing.address) and state.vm.migration.status == "wait-unplug":
            raise KeyError(defects.pop())
        return sound(state, event)

    async def run() -> None:
        front = Front()
        async with Engine(front.take) as engine:
            for qemu in (ailing, other):
                engine.request(Begin(engine.watch(qemu.address), options_for(qemu)))
            await front.until(lambda views: len(views) == 2 and all(map(finished, views.values())))
            told, saved = (result_of(front.views[str(qemu.address)]) for qemu in (ailing, other))
            assert (saved.outcome, saved.exit_code) == (Outcome.SAVED, Exit.OK)
            assert (told.outcome, told.exit_code) == (Outcome.ATTENTION, Exit.ATTENTION)
            words = " ".join(told.notes)
            assert "an error of vmtui's own: KeyError" in words
            assert "vmtui recover" in words
            assert words.isprintable()
            (unfinished,) = unfinished_journals()
            key = engine.resume(unfinished.path)
            await front.until(lambda views: finished(views[key]) and result_of(views[key]).outcome is not Outcome.ATTENTION)
            assert ailing.as_before
            defects.append("another")
            engine.request(Begin(key, replace(options_for(ailing), output=f"{path}.second")))
            await front.until(lambda views: finished(views[key]) and result_of(views[key]).outcome is Outcome.ATTENTION)
            engine.request(TuneWish(key, {"downtime-limit": 400}))
            await front.until(lambda views: views[key].state.tuned is not None)
            assert ailing.vm.parameters["downtime-limit"] == 400

    with ailing, FakeQemu(tmp_path / "other.sock") as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "step", step)
        asyncio.run(run())
        assert other.as_before
    assert left(other) == ["other.vmstate", "other.vmstate.json"]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_state_that_is_not_whole_is_not_kept(path: Path) -> None:
    with FakeQemu(path, cut_short=100) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert (result_of(view).outcome, result_of(view).exit_code) == (Outcome.FAILED, Exit.STORE)
    assert "is not whole" in (result_of(view).error or "")
    assert left(qemu) == []


def test_a_manifest_that_cannot_be_written_leaves_no_file_and_a_vm_as_before(path: Path) -> None:
    async def use(_engine: Engine, front: Front, key: str) -> None:
        await front.until(lambda views: Phase.UNPLUG in phases(views[key]))
        path.with_suffix(".vmstate.json").write_text("somebody else's")

    with FakeQemu(path) as qemu:
        (view,) = save(qemu, use=use)
        assert qemu.as_before
    assert (result_of(view).outcome, result_of(view).exit_code) == (Outcome.FAILED, Exit.STORE)
    assert left(qemu) == ["qmp.vmstate.json"]
    assert path.with_suffix(".vmstate.json").read_text() == "somebody else's"


# --- the journal and the lock -----------------------------------------------------------------------------------------


def test_the_intent_is_on_the_disk_before_the_first_command_that_changes_anything(path: Path, state_home: Path) -> None:
    seen: list[BaselineLine] = []

    def hook(qemu: FakeQemu, message: Message) -> None:
        if message["execute"] in CHANGING and not seen:
            (journal,) = (state_home / "journal").iterdir()
            head, *lines = read_journal(journal)
            assert isinstance(head, Head)
            seen.extend(line for line in lines if isinstance(line, BaselineLine))

    with FakeQemu(path, hook=hook) as qemu:
        save(qemu)
    (intent,) = seen
    assert intent.options["output"] == str(path.with_suffix(".vmstate"))
    assert intent.baseline["runstate"] == "running"
    assert intent.baseline["cards"] == {"primary0": "plugged"}
    assert intent.baseline["parameters"] == qemu.before[0]
    assert {name for name, on in intent.baseline["capabilities"].items() if on} == set(qemu.before[1])


def test_a_journal_that_cannot_be_written_stops_the_save_before_anything_is_changed(path: Path, state_home: Path) -> None:
    state_home.mkdir(parents=True)
    (state_home / "journal").write_text("")
    with FakeQemu(path) as qemu:
        (view,) = save(qemu)
        assert not qemu.commands(*CHANGING)
    assert result_of(view).exit_code == Exit.STORE
    assert "cannot write the journal" in (result_of(view).error or "")
    assert left(qemu) == []


def test_a_vm_that_another_vmtui_holds_is_left_alone(path: Path) -> None:
    with FakeQemu(path) as qemu:
        lock = VmLock(str(qemu.address))
        (view,) = save(qemu)
        lock.release()
        assert not qemu.commands(*CHANGING)
        result = result_of(view)
        assert (result.outcome, result.exit_code) == (Outcome.REFUSED, Exit.REFUSED)
        assert "another vmtui is at work" in (result.error or "")
        assert left(qemu) == []
        assert result_of(save(qemu)[0]).outcome is Outcome.SAVED, "it is free again"


def test_a_vm_that_another_vmtui_pauses_meanwhile_is_not_resumed() -> None:
    def refuse_the_lock(play: Play, action: Action) -> str | None:
        if not isinstance(action, Reserve):
            return None
        play.vm.receive({"execute": "stop"}, play.now)  # the other one saves
        return "refuse"

    play = Play(fault=refuse_the_lock)
    assert play.run().outcome is Outcome.REFUSED
    assert play.vm.runstate == "paused"
    assert isinstance(play.sent[-1], Reserve), "nothing is done after it"


def test_a_resume_runs_a_vm_that_was_left_paused_and_brings_its_card_back(path: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu, then=Then.STAY_PAUSED)
        assert (result_of(view).outcome, qemu.vm.runstate) == (Outcome.SAVED, "postmigrate")
        (view,) = save(qemu, goal=Goal.RESUME)
        assert qemu.as_before
    assert result_of(view).outcome is Outcome.RESUMED
    assert view.journal, "what is changed is written down"


def test_run_is_the_same_for_a_printer(path: Path) -> None:
    from vmtui.backend.discovery import FoundVm

    out = io.StringIO()
    with FakeQemu(path) as qemu:
        vm = FoundVm("vm", None, None, qemu.address)
        result = headless.run(vm, options_for(qemu, strategy=Strategy.AUTO), headless.JsonPrinter(out))
    assert json.loads(out.getvalue().splitlines()[-1])["outcome"] == result.outcome == "saved"


@pytest.mark.slice
def test_a_card_that_a_late_answer_costs_is_brought_back_while_the_engine_watches(path: Path) -> None:
    """Half a minute: QEMU waits that long for the guest, and only then is an answer late."""

    async def run() -> VmView:
        front = Front()
        async with Engine(front.take) as engine:
            key = engine.watch(qemu.address, qemu.body())
            engine.request(Begin(key, options_for(qemu, unplug_timeout=1.0)))
            await front.until(lambda views: _is_healed(views.get(key)), 60)
            return front.views[key]

    with FakeQemu(path, scenario=Scenario(unplug_delay=34.0), speed=1.15) as qemu:
        view = asyncio.run(run())
        assert qemu.as_before
        assert len(qemu.commands("device_add")) == 1
    assert result_of(view).outcome is Outcome.RESUMED


def _is_healed(view: VmView | None) -> bool:
    work = view.state.work if view is not None else None
    return work is not None and work.options.goal is Goal.RESUME and work.outcome is not None
