"""The engine saves over a real socket, whatever becomes of the connection, and leaves nothing behind."""

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Hook, Message, stream
from tests.core.play import Play
from tests.core.test_faults import PROFILES, name_of
from vmtui import headless, replay
from vmtui.backend.core.commands import Action, Reserve
from vmtui.backend.core.errors import Exit, UsageError
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, VmView
from vmtui.backend.core.model import Goal, Options, Outcome, Phase, Strategy, Then
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import STOCK_7_2, STOCK_11_1, FaultKind, Profile, Scenario, WireFault
from vmtui.backend.core.snapshot import read_manifest
from vmtui.backend.discovery import Peer
from vmtui.backend.engine import LARGE_MESSAGE, Engine, finished
from vmtui.backend.journal import BaselineLine, EndLine, Head, read_journal
from vmtui.backend.store import VmLock

CHANGING = ("migrate-set-capabilities", "migrate-set-parameters", "migrate", "getfd", "add-fd", "stop", "cont", "quit",
            "migrate_cancel", "remove-fd")  # fmt: skip


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vmtui"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are what is compared
    yield
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


class Front:
    """A front end: it keeps the latest values."""

    def __init__(self) -> None:
        self.views: dict[str, VmView] = {}
        self._changed = asyncio.Event()

    def take(self, fleet: Fleet) -> None:
        self.views = fleet.vms
        self._changed.set()

    async def until(self, condition: Callable[[dict[str, VmView]], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition(self.views):
                self._changed.clear()
                await self._changed.wait()


Use = Callable[[Engine, Front, str], Any]


def options_for(qemu: FakeQemu, **more: Any) -> Options:
    return Options(output=str(qemu.path.with_suffix(".vmstate")), **more)


def save(
    *qemus: FakeQemu, use: Use | None = None, process: Peer | None = None, repeat: int = 1, **more: Any
) -> list[VmView]:
    """Save from all of these at the same time, `use` being told of each once it is asked for. No task may be left."""

    async def run() -> list[VmView]:
        front = Front()
        async with Engine(front.take) as engine:
            keys = [engine.watch(qemu.address, process) for qemu in qemus]
            for number in range(repeat):
                for key, qemu in zip(keys, qemus, strict=True):
                    options = options_for(qemu, **more)
                    output = options.output + ("" if number == 0 else f".{number}")
                    engine.request(Begin(key, Options(**{**_members(options), "output": output})))
                started = front.views.get(keys[0])
                began = started.state.work.started if started and started.state.work else None
                await front.until(lambda views, began=began: _is_new(views.get(keys[0]), began))  # type: ignore[misc]
                if use is not None:
                    await use(engine, front, keys[0])
                await front.until(lambda views: all(finished(views.get(key)) for key in keys))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [front.views[key] for key in keys]

    return asyncio.run(run())


def _members(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


def _is_new(view: VmView | None, began: float | None) -> bool:
    return view is not None and view.state.work is not None and view.state.work.started != began


def result_of(view: VmView) -> Result:
    return report(view.state)


def phases(view: VmView) -> list[Phase]:
    assert view.state.work is not None
    return [phase for phase, _at in view.state.work.timeline]


def left(qemu: FakeQemu) -> list[str]:
    """What lies on the disk of a save from this twin."""
    return sorted(each.name for each in qemu.path.parent.glob(f"{qemu.path.stem}.vmstate*"))


def at(command: str, what: Do | bytes, nth: int = 1) -> Hook:
    """This happens to the nth such command, once."""

    def hook(qemu: FakeQemu, message: Message) -> Do | bytes | None:
        return what if message["execute"] == command and len(qemu.commands(command)) == nth else None

    return hook


# --- a good day -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_a_save_ends_with_a_whole_file_and_a_vm_as_before(path: Path, profile: Profile) -> None:
    with FakeQemu(path, profile=profile) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
        assert not qemu.vm.fdsets, "no descriptor is left with QEMU"
    result = result_of(view)
    assert (result.outcome, result.exit_code, result.card, result.restored) == (Outcome.SAVED, Exit.OK, "plugged", True)
    assert result.bytes == len(stream())
    assert left(qemu) == ["qmp.vmstate", "qmp.vmstate.json"]
    assert path.with_suffix(".vmstate").read_bytes() == stream()
    manifest = read_manifest(path.with_suffix(".vmstate.json").read_bytes())
    assert (manifest.name, manifest.proved["card"], manifest.file.whole) == ("vm", "plugged", True)


def test_several_vms_of_one_name_are_saved_at_the_same_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        qemus = [stack.enter_context(FakeQemu(tmp_path / f"q{number}.sock")) for number in range(4)]
        views = save(*qemus)
        assert all(qemu.as_before for qemu in qemus)
    assert [result_of(view).outcome for view in views] == ["saved"] * 4
    assert len({view.journal for view in views}) == 4


def test_qemu_that_is_to_quit_has_ended_and_the_file_is_whole(path: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu, process=qemu.body(), then=Then.QUIT)
        assert not qemu.vm.alive
    assert (result_of(view).outcome, result_of(view).exit_code) == (Outcome.SAVED, Exit.OK)
    assert result_of(view).runstate == "gone"
    assert left(qemu) == ["qmp.vmstate", "qmp.vmstate.json"]


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


# --- the connection ---------------------------------------------------------------------------------------------------


def asked_of(path: Path, profile: Profile) -> list[str]:
    """The commands of a save, each once."""
    with FakeQemu(path, profile=profile) as qemu:
        save(qemu)
        return list(dict.fromkeys(each["execute"] for each in qemu.received))


@pytest.mark.parametrize("how", [Do.CUT_BEFORE, Do.CUT_AFTER], ids=name_of)
@pytest.mark.parametrize("profile", [STOCK_7_2, STOCK_11_1], ids=name_of)
def test_a_connection_that_breaks_at_any_command_is_made_again(tmp_path: Path, profile: Profile, how: Do) -> None:
    commands = asked_of(tmp_path / "first.sock", profile)
    assert {"migrate", "stop", "cont", "getfd", "query-migrate"} <= set(commands)
    with ExitStack() as stack:
        qemus = [
            stack.enter_context(FakeQemu(tmp_path / f"{name}.sock", profile=profile, hook=at(name, how), name=name))
            for name in commands
        ]
        views = save(*qemus)
        for name, qemu, view in zip(commands, qemus, views, strict=True):
            result = result_of(view)
            assert qemu.as_before, f"{name}: {result}"
            touched = bool(qemu.commands(*CHANGING))
            if touched:
                assert result.outcome is Outcome.SAVED, f"{name}: {result}"
                assert qemu.connections == 2, name
                assert left(qemu) == [f"{name}.vmstate", f"{name}.vmstate.json"]
            else:
                assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.UNREACHABLE), f"{name}: {result}"
                assert left(qemu) == []


@pytest.mark.parametrize(
    "said",
    [
        b'{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}\r\n',
        b"garbage\r\n",
        b"[" * 100_000 + b"\r\n",
        b'{"event": "X", "data": {"name": "\\ud800"}}\r\n',
        b'{"id": "stranger", "return": {}}\r\n',
        b'{"event": 5, "data": [1]}\r\n{"event": "MIGRATION", "data": {"status": {}}}\r\n{"event": "X", "data": null}\r\n',
        b'{"event": "X", "data": {"number": 123456789012345678901234567890, "other": 1e999}}\r\n',
    ],
    ids=["error without id", "garbage", "nested", "half a surrogate pair", "unknown id", "odd events", "numbers"],
)
def test_nonsense_in_the_middle_of_a_save_does_not_harm_it(path: Path, said: bytes) -> None:
    with FakeQemu(path, hook=at("migrate", said)) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED, result_of(view)


@pytest.mark.parametrize("kind", [FaultKind.LOSE, FaultKind.DOUBLE], ids=name_of)
def test_a_save_needs_no_event(path: Path, kind: FaultKind) -> None:
    faults = tuple(WireFault(kind, "event", number) for number in range(1, 100))
    with FakeQemu(path, faults=faults) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED


def test_a_reply_that_makes_no_sense_is_no_stack_trace(path: Path) -> None:
    def hook(_qemu: FakeQemu, message: Message) -> Do | bytes | None:
        nonsense = json.dumps({"id": message.get("id"), "return": {"ram": {"total": float("inf")}}}).encode() + b"\r\n"
        return nonsense if message["execute"] == "query-migrate" else None

    with FakeQemu(path, hook=hook) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).exit_code == Exit.FAILED
    assert "QEMU does not tell its migration: a reply that makes no sense" in (result_of(view).error or "")
    assert not qemu.commands(*CHANGING)


def test_a_monitor_that_is_not_there_is_said_to_be_unreachable(path: Path) -> None:
    (view,) = save(FakeQemu(path))
    assert result_of(view).exit_code == Exit.UNREACHABLE
    assert "no such socket" in (result_of(view).error or "")


def test_qemu_that_dies_while_it_writes_is_said_to_be_gone(path: Path) -> None:
    with FakeQemu(path, scenario=Scenario(killed="active")) as qemu:
        (view,) = save(qemu, process=qemu.body())
    result = result_of(view)
    assert (result.exit_code, result.runstate, result.file) == (Exit.ATTENTION, "gone", None)
    assert left(qemu) == []


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.PREFLIGHT, Phase.UNPLUG, Phase.SAVE, Phase.REPLUG, Phase.VERIFY])
def test_a_save_that_is_cancelled_in_a_phase_leaves_the_vm_as_before(path: Path, phase: Phase) -> None:
    async def use(engine: Engine, front: Front, key: str) -> None:
        await front.until(lambda views: phase in phases(views[key]))
        engine.request(CancelWish(key))

    with FakeQemu(path, scenario=Scenario(disk_speed=100e6), speed=3) as qemu:
        (view,) = save(qemu, use=use)
        assert qemu.as_before
    result = result_of(view)
    assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, Exit.CANCELLED) or phase is Phase.VERIFY
    assert left(qemu) == ([] if result.outcome is Outcome.CANCELLED else ["qmp.vmstate", "qmp.vmstate.json"])


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


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_state_that_is_not_whole_is_not_kept(path: Path) -> None:
    with FakeQemu(path, saved=stream()[:-100]) as qemu:
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


def replayed(journal: str) -> tuple[int, list[Any], dict[str, Any]]:
    """Exit code, phases and result of a journal that is played again."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        code = replay.show(Path(journal), speed=1e5, as_json=True)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return code, [line["phase"] for line in lines if line["kind"] == "phase"], lines[-1]


@pytest.mark.parametrize(
    ("scenario", "hook"),
    [
        (Scenario(), None),
        (Scenario(), at("migrate", Do.CUT_AFTER)),
        (Scenario(write_fails_after=100), None),
        (Scenario(primaries=0), None),
        (Scenario(unplug_delay=None), at("query-migrate", b'{"event": "GUEST_PANICKED"}\r\n', nth=3)),
    ],
    ids=["saved", "reconnected", "disk full", "no card", "panicked"],
)
def test_a_journal_played_again_gives_the_same_phases_and_the_same_result(
    path: Path, scenario: Scenario, hook: Hook | None
) -> None:
    with FakeQemu(path, scenario=scenario, hook=hook, speed=100) as qemu:
        (view,) = save(qemu)
    result = result_of(view)
    code, again, last = replayed(view.journal)
    assert code == result.exit_code
    assert again == phases(view)
    assert {name: last[name] for name in ("outcome", "stopped_seconds", "bytes", "card", "error", "notes")} == {
        "outcome": result.outcome, "stopped_seconds": result.stopped_seconds, "bytes": result.bytes,
        "card": result.card, "error": result.error, "notes": list(result.notes),
    }  # fmt: skip
    *_, end = read_journal(Path(view.journal))
    assert end == EndLine(end.t if isinstance(end, EndLine) else 0, result.outcome)


def test_the_journal_of_a_second_save_over_the_same_connection_can_be_played_again(path: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu, repeat=2)
    code, again, last = replayed(view.journal)
    assert (code, again, last["outcome"]) == (0, phases(view), "saved")
    assert last["file"].endswith(".1")


@pytest.fixture
def journal(path: Path) -> Path:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu)
    return Path(view.journal)


def test_a_journal_that_ends_early_says_in_which_phase(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:20])
    assert replay.show(journal, speed=1e5, as_json=False) == 1
    assert "the journal ends in phase" in capsys.readouterr().out


def test_a_journal_without_a_workflow_says_so(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="holds no workflow"):
        replay.show(journal, speed=1e5, as_json=False)


def test_a_journal_whose_lines_do_not_fit_together_is_no_stack_trace(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines), 5):
        journal.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", io.StringIO())
            try:
                assert replay.show(journal, speed=1e9, as_json=True) in set(Exit)
            except UsageError as error:
                assert str(error).isprintable()


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
