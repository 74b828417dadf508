"""Each rule of the table matters: without it, one of these facts about a VM or its file is none any more."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from tests.core.play import Fault, Play
from tests.core.test_restart import Kill, Mortal, line_with
from tests.explore.world import Mode, Point, Store
from tools.mutate import EQUIVALENT, mutants
from vmtui.backend.core import effects, facts, workflow
from vmtui.backend.core.commands import QUERIES, Action, Command, Dumping, Publish, Reserve, Survey, Verify
from vmtui.backend.core.errors import Exit
from vmtui.backend.core.events import AnyEvent, Cancel, Connected, QmpEvent, Tick, Wish
from vmtui.backend.core.model import Dump, Fact, Goal, Link, OnStuck, Options, Outcome, Phase, Strategy, Then
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_7_2, STOCK_10_0, STOCK_11_1, CardState, FdKind, Profile, Scenario
from vmtui.backend.core.sim.target import Fd, Target

SAVE = Options(output="/snap/vm.vmstate")


@pytest.fixture(params=(STOCK_7_2, STOCK_10_0, STOCK_11_1), ids=lambda profile: profile.name)
def stock(request: pytest.FixtureRequest) -> Profile:
    assert isinstance(request.param, Profile)
    return request.param


def test_the_mutants_that_change_nothing_are_mutants_of_the_table() -> None:
    assert set(EQUIVALENT) <= {mutant.name for mutant in mutants()}


def test_each_mutant_has_a_name_of_its_own() -> None:
    names = [mutant.name for mutant in mutants()]
    assert len(names) == len(set(names))


def settings(play: Play, name: str) -> list[dict[str, Any]]:
    return [each.arguments for each in play.commands(f"migrate-set-{name}")]


# --- prepare ----------------------------------------------------------------------------------------------------------


def test_where_the_file_cannot_be_reserved_the_open_file_of_another_vmtui_is_left_alone() -> None:
    play = Play()
    play.store = Store(refuse="reserve")
    play.vm.fdsets = {3: ((Fd(9, FdKind.FILE), 17, "vmtui-state"),)}
    play.run()
    assert list(play.vm.fdsets) == [3]


def test_what_is_as_wanted_is_not_set_again() -> None:
    play = Play()
    play.vm.capabilities = frozenset({"events"})
    play.vm.parameters["max-bandwidth"] = 64 << 10
    play.run()
    assert settings(play, "capabilities") == []
    assert settings(play, "parameters") == [{"max-bandwidth": 1 << 43}, {"max-bandwidth": 64 << 10}]


@pytest.mark.parametrize("kind", ["parameters", "capabilities"])
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.SAVE, Phase.REPLUG, Phase.SETTLE])
def test_a_setting_that_qemu_takes_and_does_not_keep_holds_nothing_up(phase: Phase, kind: str) -> None:
    def lie(command: Command, value: Any) -> Any:
        if command.execute != f"query-migrate-{kind}" or phase not in play.phases():
            return value
        if kind == "parameters":
            return value | {"max-bandwidth": 4711}
        return [each | {"state": each["capability"] == "xbzrle"} for each in value]

    play = Play(reply=lie)
    play.run()
    assert len(settings(play, kind)) <= 4 * 3, "four phases set something, and each tries three times"
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def stop_first(**changes: Any) -> Play:
    return Play(scenario=Scenario(primaries=0, **changes))


def test_a_guest_without_a_card_stands_before_its_copy_begins() -> None:
    play = stop_first()
    assert play.run().outcome is Outcome.SAVED
    names = names_sent(play)
    assert names.index("stop") < names.index("migrate")
    assert play.vm.runstate == "running"


def test_a_paused_guest_without_a_card_is_saved_and_stands_still_as_before() -> None:
    play = stop_first(runstate="paused")
    assert play.run().outcome is Outcome.SAVED
    assert not play.commands("stop")
    assert play.vm.intervals() == ((0.0, play.vm.now),)


# --- unplug and save --------------------------------------------------------------------------------------------------


def lose_migrate(count: int) -> Fault:
    """The connection breaks before the first `count` commands to migrate reach QEMU."""

    def lose(play: Play, action: Action) -> str | None:
        migrate = isinstance(action, Command) and action.execute == "migrate"
        return "drop-before" if migrate and len(play.commands("migrate")) <= count else None

    return lose


@pytest.mark.parametrize("primaries", [0, 1])
def test_a_migrate_that_never_reached_qemu_is_sent_again(primaries: int) -> None:
    play = Play(scenario=Scenario(primaries=primaries), fault=lose_migrate(2))
    assert play.run().outcome is Outcome.SAVED


@pytest.mark.parametrize("primaries", [0, 1])
def test_a_migrate_that_never_reaches_qemu_is_not_sent_for_ever(primaries: int) -> None:
    play = Play(scenario=Scenario(primaries=primaries), fault=lose_migrate(99))
    result = play.run()
    assert (result.outcome, play.vm.runstate, play.store.partial) == (Outcome.FAILED, "running", False)


def test_a_guest_does_not_stand_still_for_a_slow_copy_because_its_speed_was_set_in_vain_a_few_times() -> None:
    def lose(play: Play, action: Action) -> str | None:
        sets = isinstance(action, Command) and action.execute == "migrate-set-parameters" and play.work.phase is Phase.SAVE
        return "drop-before" if sets and play.drops < 4 else None

    result = Play(fault=lose).run()
    assert result.outcome is Outcome.SAVED
    assert result.stopped_seconds is not None
    assert result.stopped_seconds < 5


# --- in every phase ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outstanding", [Survey, Command])
def test_a_monitor_that_breaks_before_anything_was_touched_ends_it_at_once(outstanding: type[Action]) -> None:
    def drop(play: Play) -> None:
        if isinstance(play.state.outstanding, outstanding) and not play.drops:
            play.drop()

    play = Play(watch=drop)
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.UNREACHABLE)
    assert play.now < 0.1
    assert result.error


def test_a_qemu_that_ends_behind_a_complete_state_is_told_beside_the_file() -> None:
    result = Play(scenario=Scenario(killed="completed")).run()
    assert any("the file is kept" in note for note in result.notes)


def test_a_qemu_that_ends_half_way_is_told_as_the_reason() -> None:
    result = Play(scenario=Scenario(killed="active")).run()
    assert result.error is not None
    assert "QEMU ended in phase" in result.error


def test_a_file_that_takes_long_to_read_is_published_though_the_monitor_is_lost() -> None:
    def drop(play: Play) -> None:
        if play.work.phase is Phase.VERIFY and not play.drops:
            play.drop()
            play.now += 130.0

    play = Play(back_after=1e9, watch=drop)
    result = play.run()
    assert (play.store.published, result.outcome) == (True, Outcome.ATTENTION)


def names_sent(play: Play) -> list[str]:
    return [each.execute for each in play.sent if isinstance(each, Command)]


def events_lost(_play: Play, _event: QmpEvent) -> list[AnyEvent]:
    return []


def once(when: Callable[[Play], bool], then: Callable[[Play], object]) -> Callable[[Play], None]:
    """What a test does to the world the first time that something is so."""
    done: list[bool] = []

    def watch(play: Play) -> None:
        if not done and when(play):
            done.append(True)
            then(play)

    return watch


def in_phase(phase: Phase) -> Callable[[Play], bool]:
    return lambda play: play.work.phase is phase


def foreign_migration(play: Play) -> None:
    """Somebody else starts one, which takes for ever."""
    play.vm.parameters["max-bandwidth"] = 1
    play.vm.migrate(lambda _: Target("file", "/dev/null"))


def slow_migration(play: Play) -> None:
    """The same, without a parameter that tells of it."""
    limit = play.vm.parameters["max-bandwidth"]
    foreign_migration(play)
    play.vm.parameters["max-bandwidth"] = limit
    play.vm.scenario = dataclasses.replace(play.vm.scenario, disk_speed=1.0)
    play.vm.parameters_changed()


def answers(play: Play, command: str, phase: Phase, change: Callable[[Any], Any], count: int = 1 << 30) -> None:
    """From `phase` on, the first `count` replies to `command` are not what the twin says."""
    left = [count]

    def reply(sent: Command, value: Any) -> Any:
        if sent.execute != command or phase not in play.phases() or not left[0]:
            return value
        left[0] -= 1
        return change(value)

    play.reply = reply


def refusing(name: str, phase: Phase | None = None, until: float = 1e9) -> Fault:
    def refuse(play: Play, action: Action) -> str | None:
        fits = isinstance(action, Command) and action.execute == name and phase in (None, play.work.phase)
        return "refuse" if fits and play.now < until else None

    return refuse


# --- preflight --------------------------------------------------------------------------------------------------------


def test_a_place_where_no_file_can_be_made_is_refused_before_anything_is_touched() -> None:
    play = Play()
    play.store = Store(problem="it is there already")
    assert play.run().outcome is Outcome.REFUSED
    assert Reserve not in {type(each) for each in play.sent}


def test_a_cancel_in_the_preflight_is_the_end_of_it() -> None:
    play = Play(watch=once(lambda play: isinstance(play.state.outstanding, Survey), Play.cancel))
    assert play.run().outcome is Outcome.CANCELLED
    assert isinstance(play.sent[-1], Survey)


# --- unplug -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.UNPLUG, Phase.SAVE])
def test_a_migration_that_somebody_else_began_a_moment_earlier_is_left_to_them(phase: Phase) -> None:
    def migrating(play: Play) -> bool:
        return isinstance(play.state.outstanding, Command) and play.state.outstanding.execute == "migrate"

    play = Play(scenario=Scenario(primaries=int(phase is Phase.UNPLUG)), watch=once(migrating, foreign_migration))
    result = play.run()
    assert phase in play.phases()
    assert not play.commands("migrate_cancel")
    assert (result.outcome, play.vm.migrating) == (Outcome.ATTENTION, True)


def test_a_migration_that_somebody_else_began_before_ours_is_left_to_them_when_we_cancel() -> None:
    def both(play: Play) -> None:
        foreign_migration(play)
        play.cancel()

    play = Play(scenario=Scenario(primaries=0), watch=once(in_phase(Phase.PAUSE), both))
    play.run()
    assert play.vm.migrating
    assert not play.commands("migrate_cancel")


@pytest.mark.parametrize("lost", [True, False])
def test_a_migration_that_fails_before_its_first_byte_is_told_with_qemus_reason_at_once(lost: bool) -> None:
    play = Play(scenario=Scenario(write_fails_after=0), on_event=events_lost if lost else None)
    result = play.run()
    assert result.outcome is Outcome.FAILED
    assert "ram_save_setup failed" in str(result.error)
    assert play.now < 5
    assert Phase.CANCEL not in play.phases(), "there is nothing left to cancel"


@pytest.mark.parametrize("phase", [Phase.UNPLUG, Phase.PAUSE, Phase.SAVE])
def test_a_save_that_somebody_else_cancels_is_told_as_that(phase: Phase) -> None:
    def reached(play: Play) -> bool:
        return play.work.phase is phase and play.vm.migrating

    play = Play(ram=4 << 30, scenario=Scenario(unplug_delay=1.0), watch=once(reached, lambda play: play.vm.cancel()))
    result = play.run()
    assert (result.outcome, play.vm.runstate, play.vm.card) == (Outcome.FAILED, "running", {"primary0": "plugged"})
    assert result.error == "somebody else cancelled the migration"
    assert play.now < 5


@pytest.mark.parametrize("on_stuck", OnStuck)
def test_a_guest_that_panics_is_waited_for_only_where_that_is_wanted(on_stuck: OnStuck) -> None:
    scenario = Scenario(panics="wait-unplug", panic_action="none", unplug_delay=1.0)
    play = Play(scenario=scenario, options=replace(SAVE, on_stuck=on_stuck))
    play.watch = once(lambda play: play.now > 100, Play.cancel)
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert ("panicked" in str(result.error)) == (on_stuck is not OnStuck.WAIT)


def test_a_background_save_leaves_the_short_pause_to_qemu(stock: Profile) -> None:
    play = Play(profile=stock, options=replace(SAVE, strategy=Strategy.BACKGROUND))
    assert play.run().outcome is Outcome.SAVED
    assert not play.commands("stop")
    assert Phase.PAUSE not in play.phases()


def test_a_background_save_waits_no_longer_than_asked_for_a_guest_that_does_not_let_go() -> None:
    options = replace(SAVE, strategy=Strategy.BACKGROUND, unplug_timeout=2.0)
    play = Play(scenario=Scenario(unplug_delay=None), options=options)
    assert play.run().exit_code == Exit.STUCK
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


# --- pause ------------------------------------------------------------------------------------------------------------


def test_a_migration_that_fails_while_the_run_state_is_asked_stops_no_guest_and_tells_why() -> None:
    scenario = Scenario(write_fails_after=0, unplug_delay=0.6, panic_action="pause")
    play = Play(profile=STOCK_11_1, latency=0.02, scenario=scenario)
    result = play.run()
    assert Phase.PAUSE in play.phases()
    assert Phase.CANCEL not in play.phases(), "there is nothing left to cancel"
    assert not play.commands("stop")
    assert "ram_save_setup failed" in str(result.error)


@pytest.mark.parametrize("delay", [0.02, 0.3, 0.6, 0.8, 1.1])
def test_a_qemu_that_pauses_by_itself_is_waited_for_and_not_longer(delay: float) -> None:
    play = Play(profile=PAUSE_VM_10_0, scenario=Scenario(unplug_delay=delay))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert not play.commands("stop")
    assert result.stopped_seconds is not None
    assert result.stopped_seconds < 0.2


def hides_the_pause(_play: Play, event: QmpEvent) -> list[AnyEvent]:
    return [] if event.name == "STOP" else [event]


def test_a_stop_that_works_at_the_third_time_is_enough() -> None:
    play = Play(on_event=hides_the_pause)
    answers(play, "query-status", Phase.PAUSE, lambda value: value | {"status": "running"}, 3)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("stop")) == 3


def test_a_qemu_that_says_yes_to_stop_and_does_not_is_given_up() -> None:
    play = Play(on_event=hides_the_pause)
    answers(play, "query-status", Phase.PAUSE, lambda value: value | {"status": "running"}, 6)
    result = play.run()
    assert len(play.commands("stop")) == 3
    assert result.error == "QEMU does not stop the guest"
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


# --- save -------------------------------------------------------------------------------------------------------------


def test_a_card_that_comes_into_play_after_the_preflight_does_not_leave_the_guest_stopped() -> None:
    play = Play(scenario=Scenario(primaries=0))
    other = Play()
    play.watch = once(in_phase(Phase.PAUSE), lambda play: setattr(play.vm, "cards", other.vm.cards))
    result = play.run()
    assert (result.outcome, play.vm.runstate) == (Outcome.FAILED, "running")
    assert result.stopped_seconds is not None
    assert result.stopped_seconds < 5


def test_how_little_was_written_before_the_pause_is_known(stock: Profile) -> None:
    written = Play(profile=stock, on_event=events_lost).run().bytes_before_pause
    assert written is not None
    assert 0 < written < 1 << 20


# --- cancel -----------------------------------------------------------------------------------------------------------


def paused_in_unplug(**more: Any) -> Play:
    scenario = Scenario(paused_by_other="wait-unplug", unplug_delay=1.0)
    return Play(scenario=scenario, options=replace(SAVE, unplug_timeout=3.0), **more)


def test_a_guest_that_cannot_be_resumed_at_once_is_tried_again_inside_the_cancel_window() -> None:
    play = paused_in_unplug(fault=refusing("cont", until=8.0))
    assert play.run().outcome is Outcome.CANCELLED
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def test_cont_is_not_tried_for_ever_in_the_cancel_window() -> None:
    play = paused_in_unplug(fault=refusing("cont"))
    assert play.run().outcome is Outcome.ATTENTION
    assert len(play.commands("cont")) == 20


def test_a_cancel_that_never_ends_is_told_and_the_guest_runs() -> None:
    play = Play(on_event=events_lost, watch=once(in_phase(Phase.SAVE), Play.cancel))
    answers(play, "query-migrate", Phase.CANCEL, lambda value: {"status": "cancelling"})
    result = play.run()
    assert (result.outcome, play.vm.runstate) == (Outcome.ATTENTION, "running")
    assert any("cancelling the migration for 60 s" in note for note in result.notes)


# --- finish and resume ------------------------------------------------------------------------------------------------

NOT_FINALIZED = "finish-migrate"


def test_a_guest_is_resumed_within_milliseconds_once_qemu_has_tidied_up() -> None:
    play = Play()
    answers(play, "query-status", Phase.FINISH, lambda value: value | {"status": NOT_FINALIZED}, 3)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("cont")) == 1
    marks = play.work.marks
    assert marks.resumed is not None
    assert marks.completed is not None
    assert marks.resumed - marks.completed < 0.025


def test_a_cont_that_qemu_would_refuse_is_not_sent_after_a_save_that_failed() -> None:
    play = Play(ram=4 << 30, scenario=Scenario(write_fails_after=1_000_000_000))
    answers(play, "query-status", Phase.RESUME, lambda value: value | {"status": NOT_FINALIZED}, 3)
    play.run()
    sent = names_sent(play)
    before = sent.index("cont")
    assert sent[before - 4 : before] == ["query-status"] * 4
    assert play.vm.runstate == "running"
    assert play.now < 2


@pytest.mark.parametrize("phase", [Phase.FINISH, Phase.RESUME])
def test_a_qemu_that_never_tidies_up_is_told_as_a_guest_that_does_not_run(phase: Phase) -> None:
    play = Play(on_event=events_lost, fault=refusing("cont"))
    answers(play, "query-status", phase, lambda value: value | {"status": NOT_FINALIZED})
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert any("does not run: its run state is 'finish-migrate'" in note for note in result.notes)


def test_an_image_lock_that_is_held_for_seconds_does_not_leave_the_guest_stopped() -> None:
    play = Play(fault=refusing("cont", until=5.0))
    assert play.run().outcome is Outcome.SAVED
    assert play.vm.runstate == "running"


def test_why_a_panicked_guest_does_not_run_on_is_told() -> None:
    result = Play(scenario=Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=1.0)).run()
    assert any("cannot run on: its run state is 'guest-panicked'" in note for note in result.notes)


# --- replug -----------------------------------------------------------------------------------------------------------


def pause(play: Play) -> None:
    play.vm.stop_vm("paused")


def test_a_vm_that_somebody_paused_before_its_card_was_back_is_left_to_them() -> None:
    play = Play(watch=once(in_phase(Phase.REPLUG), pause))
    assert play.run().outcome is Outcome.ATTENTION
    assert len(play.commands("migrate")) == 1


def delete(play: Play) -> None:
    """The guest answers a request that QEMU has given up."""
    play.vm.cards = tuple(dataclasses.replace(card, state=CardState.DELETED) for card in play.vm.cards)
    play.vm.emit("DEVICE_DELETED", {"device": "primary0", "path": "/machine/peripheral/primary0"})


@pytest.mark.parametrize("profile", [STOCK_10_0, STOCK_11_1], ids=lambda profile: profile.name)
def test_a_card_that_qemu_deleted_is_added_again_as_it_was_and_proved(profile: Profile) -> None:
    play = Play(profile, watch=once(in_phase(Phase.REPLUG), delete))
    result = play.run()
    assert (result.outcome, result.card, result.driven) == (Outcome.SAVED, "plugged", True)
    (added,) = play.commands("device_add")
    assert added.arguments == {
        "driver": "e1000e", "id": "primary0", "bus": "root1", "mac": "52:54:00:11:11:11", "netdev": "hs1", "rombar": 0,
        "romfile": "", "failover_pair_id": "ua-standby0",
    }  # fmt: skip
    assert any("QEMU had deleted card primary0" in note for note in result.notes)
    assert len(play.commands("migrate")) == 1, "no migration is needed for it"


def test_a_card_is_not_added_while_a_migration_runs() -> None:
    def late(play: Play) -> None:
        slow_migration(play)
        delete(play)

    play = Play(watch=once(in_phase(Phase.REPLUG), late))
    assert play.run().outcome is Outcome.ATTENTION
    assert play.commands("device_add") == []


@pytest.mark.parametrize(("seconds", "migrations"), [(0.5, 1), (1000.0, 5)])
def test_a_card_that_was_added_is_waited_for_until_the_guest_has_found_it_and_no_longer(
    seconds: float, migrations: int
) -> None:
    def not_found_yet(command: Command, value: Any) -> Any:
        added = play.work.tried_at.get("add-card")
        hidden = command.learns is Fact.CARDS and added is not None and play.now - added < seconds
        return "b0200000: 0xffffffff 0xffffffff\r\n" if hidden else value

    play = Play(watch=once(in_phase(Phase.REPLUG), delete), reply=not_found_yet)
    assert play.run().outcome is (Outcome.SAVED if seconds < 1 else Outcome.ATTENTION)
    assert len(play.commands("migrate")) == migrations
    assert play.now < 60


@pytest.mark.parametrize("how", ["drop-before", "drop-after", "lose-reply", "refuse"])
def test_a_card_whose_adding_nobody_heard_of_is_looked_for_and_added_once(how: str) -> None:
    done: list[bool] = []

    def lose(_play: Play, action: Action) -> str | None:
        if done or not (isinstance(action, Command) and action.execute == "device_add"):
            return None
        done.append(True)
        return how

    play = Play(watch=once(in_phase(Phase.REPLUG), delete), fault=lose)
    assert play.run().outcome is Outcome.SAVED
    assert play.vm.card == {"primary0": "plugged"}


def test_on_7_2_a_card_that_qemu_deleted_is_told_with_the_command_that_adds_it() -> None:
    play = Play(STOCK_7_2, watch=once(in_phase(Phase.REPLUG), delete))
    result = play.run()
    assert (result.outcome, result.card) == (Outcome.ATTENTION, "out")
    assert len(play.commands("device_add")) == 3
    assert any(
        'QEMU deleted card primary0; add it again over QMP: {"execute": "device_add"' in note for note in result.notes
    )
    assert len(play.commands("migrate")) == 1, "no migration brings back what QEMU has forgotten"


@pytest.mark.parametrize(("delay", "driven"), [(1.0, True), (100.0, False)])
def test_a_driver_gets_its_time_to_take_the_card_and_no_more(delay: float, driven: bool) -> None:
    play = Play(scenario=Scenario(drive_delay=delay))
    result = play.run()
    assert (result.outcome, result.driven) == (Outcome.SAVED, driven)
    assert any("driver had not taken it" in note for note in result.notes) != driven
    assert play.now < 10


def test_a_driver_has_its_time_from_when_the_card_is_back_not_from_when_it_was_asked_for() -> None:
    """Of a card that the guest has forgotten that is half a minute later."""
    forgotten = Scenario(card=CardState.OUT, guest_forgot_card=True, drive_delay=1.0)
    play = Play(scenario=forgotten, options=Options(goal=Goal.RESUME))
    result = play.run()
    assert play.now > 30
    assert (result.outcome, result.driven) == (Outcome.RESUMED, True)
    assert not any("driver had not taken it" in note for note in result.notes)


@pytest.mark.parametrize("lost", [True, False])
def test_a_migration_that_somebody_else_began_before_the_card_was_back_is_left_to_them(lost: bool) -> None:
    play = Play(watch=once(in_phase(Phase.REPLUG), slow_migration), on_event=events_lost if lost else None)
    result = play.run()
    assert len(play.commands("migrate")) == 1
    assert (result.outcome, play.vm.migrating) == (Outcome.ATTENTION, True)
    assert not play.commands("migrate_cancel")
    assert any("has not ended" in note for note in result.notes)


def test_a_card_that_qemu_plugs_back_by_itself_is_waited_for() -> None:
    play = Play(watch=once(in_phase(Phase.SAVE), Play.cancel))
    answers(play, "human-monitor-command", Phase.REPLUG, lambda value: "b0200000: 0xffffffff 0xffffffff\r\n", 5)
    assert play.run().outcome is Outcome.CANCELLED
    assert len(play.commands("migrate")) == 1


def test_a_qemu_that_tidies_up_for_a_while_is_waited_for_before_the_card_is_brought_back() -> None:
    play = Play()
    answers(play, "query-yank", Phase.REPLUG, lambda value: [*value, {"type": "migration"}], 5)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("query-yank")) == 6
    assert names_sent(play).index("query-yank") < names_sent(play).index("getfd", names_sent(play).index("cont"))
    assert 0.08 < play.now < 1.0


def test_a_card_that_could_not_be_brought_back_is_told_with_the_way_to_try_again() -> None:
    refused = Play(fault=refusing("migrate", Phase.REPLUG))
    tidying = Play(reply=lambda command, value: [{"type": "migration"}] if command.execute == "query-yank" else value)
    for play in (refused, tidying):
        notes = play.run().notes
        assert "card primary0 could not be proved to be back; try again: vmtui resume vm" in notes


# --- settle -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "outcome"), [(5.0, Outcome.SAVED), (1e9, Outcome.ATTENTION)])
def test_settings_that_cannot_be_put_back_while_somebody_migrates_are_put_back_after_it(
    seconds: float, outcome: Outcome
) -> None:
    play = Play(scenario=Scenario(primaries=0))
    begun: list[float] = []

    def watch(play: Play) -> None:
        if play.work.phase is Phase.SETTLE and not begun:
            begun.append(play.now)
            slow_migration(play)
        if begun and play.now > begun[0] + seconds and play.vm.migration_status == "active":
            play.vm.cancel()

    play.watch = watch
    assert play.run().outcome is outcome
    assert play.now < 60


def test_a_good_save_waits_for_nothing_that_does_not_come(stock: Profile) -> None:
    play = Play(profile=stock)
    play.run()
    assert play.now < 1.0


# --- verify and quit --------------------------------------------------------------------------------------------------

QUIT = replace(SAVE, then=Then.QUIT)


def test_where_the_only_copy_is_kept_is_told() -> None:
    play = Play(scenario=Scenario(killed="completed"))
    play.store = Store(refuse="publish")
    assert any("/snap/vm.vmstate.partial; look at it with vmtui verify" in note for note in play.run().notes)


def test_a_guest_that_runs_again_is_not_ended_though_no_event_told_it() -> None:
    def verifying(play: Play) -> bool:
        return isinstance(play.state.outstanding, Verify)

    play = Play(options=QUIT, on_event=events_lost, watch=once(verifying, lambda play: play.vm.cont()))
    assert play.run().outcome is Outcome.ATTENTION
    assert (play.vm.alive, play.vm.runstate) == (True, "running")


def test_a_qemu_that_was_never_told_to_quit_is_not_said_to_have_been() -> None:
    play = Play(options=QUIT, back_after=1e9, watch=once(in_phase(Phase.VERIFY), Play.drop))
    result = play.run()
    assert (result.outcome, play.store.published) == (Outcome.ATTENTION, True)
    assert not [note for note in result.notes if "told to quit" in note]
    assert isinstance(play.sent[-1], Publish), "nobody is asked anything without a connection"


def test_a_qemu_that_does_not_quit_is_told_and_was_asked_more_than_once_but_not_for_ever() -> None:
    play = Play(options=QUIT, fault=refusing("quit"))
    result = play.run()
    assert any("told to quit and is still there" in note for note in result.notes)
    assert 2 < len(play.commands("quit")) < 40


class OverTcp(Play):
    """Nobody knows QEMU's process: its end looks like a lost connection."""

    def settle(self) -> None:
        if self.vm.alive or self.done:
            return
        if self.linked:
            self.drop(for_good=True)

    def _wait(self) -> None:
        if self.vm.alive:
            super()._wait()
            return
        self.now = workflow.wake(self.state) or self.now + 1
        self.step(Tick(self.now))


def test_a_qemu_at_a_tcp_port_that_is_gone_after_quit_has_quit() -> None:
    play = OverTcp(options=QUIT, pid=0)
    assert play.run().outcome is Outcome.SAVED
    assert play.now < 10


# --- what each phase relies on is asked anew --------------------------------------------------------------------------


def test_all_that_is_told_of_a_vm_was_asked() -> None:
    play = Play(options=replace(SAVE, goal=Goal.CHECK))
    play.run()
    vm = play.state.vm
    assert (vm.name, vm.machine.startswith("pc-q35"), vm.memory) == ("vm", True, 256 << 20)
    assert vm.uuid
    assert vm.features.parameters


@pytest.mark.parametrize(
    ("phase", "primaries", "wanted", "sets"),
    [(Phase.PREPARE, 1, 64 << 10, 4), (Phase.REPLUG, 1, 128 << 20, 4), (Phase.SETTLE, 0, 128 << 20, 3)],
)
def test_a_parameter_that_qemu_was_told_to_set_is_looked_at_and_set_again(
    phase: Phase, primaries: int, wanted: int, sets: int
) -> None:
    def is_set(play: Play) -> bool:
        return play.work.phase is phase and play.vm.parameters["max-bandwidth"] == wanted

    play = Play(scenario=Scenario(primaries=primaries))
    play.watch = once(is_set, lambda play: play.vm.parameters.update({"max-bandwidth": 4711}))
    result = play.run()
    assert (result.outcome, result.restored, play.vm.parameters["max-bandwidth"]) == (Outcome.SAVED, True, 128 << 20)
    assert len(settings(play, "parameters")) == sets


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.REPLUG, Phase.SETTLE])
def test_a_capability_that_qemu_was_told_to_set_is_looked_at_and_set_again(phase: Phase) -> None:
    mine = frozenset({"events", "background-snapshot"})
    wanted = {Phase.PREPARE: mine, Phase.REPLUG: frozenset({"events"}), Phase.SETTLE: frozenset[str]()}[phase]

    def is_set(play: Play) -> bool:
        return play.work.phase is phase and play.vm.capabilities == wanted

    def change(play: Play) -> None:
        play.vm.capabilities = frozenset({"xbzrle"})

    play = Play(options=replace(SAVE, strategy=Strategy.BACKGROUND), watch=once(is_set, change))
    result = play.run()
    assert (result.outcome, result.restored, play.vm.capabilities) == (Outcome.SAVED, True, frozenset())
    assert len(settings(play, "capabilities")) == 4


def test_a_guest_that_panics_is_found_though_no_event_told_it() -> None:
    scenario = Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=1.0)
    result = Play(scenario=scenario, on_event=events_lost).run()
    assert "panicked" in str(result.error)


def test_a_guest_paused_by_another_keeps_its_card_though_no_event_told_it() -> None:
    play = paused_in_unplug(on_event=events_lost)
    assert play.run().outcome is Outcome.CANCELLED
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def test_how_long_a_guest_stood_is_known_though_no_event_told_that_somebody_let_it_run() -> None:
    play = Play(ram=16 << 30, on_event=events_lost, scenario=Scenario(disk_speed=5e8))
    play.watch = once(lambda play: play.work.phase is Phase.SAVE and play.now > 2, lambda play: play.vm.cont())
    result = play.run()
    stood = sum(end - begin for begin, end in play.vm.intervals()[:1])
    assert result.stopped_seconds == pytest.approx(stood, abs=1.1)


def test_a_guest_paused_by_another_before_its_card_was_back_is_seen_though_no_event_told_it() -> None:
    play = Play(on_event=events_lost, scenario=Scenario(drive_delay=2.0))
    play.watch = once(lambda play: play.work.phase is Phase.REPLUG and play.vm.card == {"primary0": "plugged"}, pause)
    assert play.run().outcome is Outcome.ATTENTION
    assert next(at for phase, at in play.work.timeline if phase is Phase.SETTLE) < 2.0


@pytest.mark.parametrize("phase", [Phase.REPLUG, Phase.VERIFY])
def test_a_card_that_was_deleted_while_the_connection_was_lost_is_seen(phase: Phase) -> None:
    def lose(play: Play) -> None:
        play.drop()
        play.vm.cards = tuple(dataclasses.replace(card, state=CardState.DELETED) for card in play.vm.cards)

    play = Play(watch=once(in_phase(phase), lose), scenario=Scenario(addable=False))
    result = play.run()
    assert (result.outcome, result.card) == (Outcome.ATTENTION, "out")
    assert any("is deleted now" in note for note in result.notes)


class BrokenFile(Play):
    """The disk loses the end of what was written to it."""

    def _collect(self) -> None:
        super()._collect()
        self.store = dataclasses.replace(self.store, whole=False)


OTHERS: dict[str, Callable[[Play], object]] = {
    "it is paused": pause,
    "a migration runs": slow_migration,
    "a parameter is changed": lambda play: play.vm.parameters.update({"max-bandwidth": 1}),
    "a capability is changed": lambda play: setattr(play.vm, "capabilities", frozenset({"xbzrle"})),
    "its card is out": lambda play: setattr(
        play.vm, "cards", tuple(dataclasses.replace(card, state=CardState.OUT) for card in play.vm.cards)
    ),
}


@pytest.mark.parametrize("kind", [Play, BrokenFile])
@pytest.mark.parametrize("what", OTHERS)
def test_what_somebody_did_while_the_file_was_read_is_seen_at_the_end(what: str, kind: type[Play]) -> None:
    def verifying(play: Play) -> bool:
        return isinstance(play.state.outstanding, Verify)

    play = kind(on_event=events_lost, watch=once(verifying, OTHERS[what]))
    assert play.run().outcome is Outcome.ATTENTION


@pytest.mark.parametrize("phase", [Phase.REPLUG, Phase.VERIFY])
def test_a_config_window_that_moved_while_the_guest_booted_is_found_again(phase: Phase) -> None:
    moved = 0xE0000000
    shown: list[str] = []

    def reply(command: Command, value: Any) -> Any:
        line = command.arguments.get("command-line", "")
        begun = phase in play.phases()
        if line.startswith("xp"):
            shown[:] = shown or [value]
            inside = int(line.split()[-1], 16) >= moved
            return shown[0] if not begun or inside else "b0200000: 0xffffffff 0xffffffff\r\n"
        return value.replace("00000000b0000000", f"{moved:016x}") if line == "info mtree" and begun else value

    play = Play(reply=reply)
    play.watch = once(in_phase(phase), lambda play: play.step(QmpEvent(play.now, "RESET", {"guest": True})))
    result = play.run()
    assert (result.card, result.notes) == ("plugged", ())


def test_a_qemu_whose_monitor_is_lost_for_a_moment_when_it_is_to_quit_quits_all_the_same() -> None:
    play = Play(options=QUIT, back_after=2.0, watch=once(in_phase(Phase.VERIFY), Play.drop))
    assert play.run().outcome is Outcome.SAVED
    assert not play.vm.alive


@pytest.mark.parametrize("then", Then)
def test_a_file_that_breaks_off_is_no_snapshot(then: Then) -> None:
    play = BrokenFile(options=replace(SAVE, then=then))
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.STORE)
    assert "it breaks off" in str(result.error)
    assert (play.store.published, play.store.partial) == (False, False)
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def test_a_paused_guest_whose_save_failed_stands_still_as_before() -> None:
    play = stop_first(runstate="paused")
    play.store = Store(refuse="verify")
    assert play.run().outcome is Outcome.FAILED
    assert not play.commands("cont")


def test_a_quit_that_worked_leaves_nothing_to_say() -> None:
    play = Play(options=QUIT)
    assert play.run().notes == ()
    assert play.now < 2


def test_a_quit_that_never_reached_qemu_is_sent_again_once_it_can_be_heard() -> None:
    def lose(play: Play, action: Action) -> str | None:
        quits = isinstance(action, Command) and action.execute == "quit"
        return "drop-before" if quits and not play.drops else None

    unheard: list[Action] = []

    def listen(play: Play) -> None:
        action = play.state.outstanding
        if isinstance(action, Command) and play.state.vm.link is not Link.UP:
            unheard.append(action)

    play = Play(options=QUIT, fault=lose, back_after=3.0, watch=listen)
    assert play.run().outcome is Outcome.SAVED
    assert (play.vm.alive, unheard) == (False, [])


def test_a_file_that_was_removed_is_not_said_to_be_kept_when_qemu_ends() -> None:
    play = BrokenFile(options=QUIT, scenario=Scenario(killed="running"))
    result = play.run()
    assert (result.outcome, play.store.partial) == (Outcome.ATTENTION, False)
    assert not [note for note in result.notes if "is kept" in note]


def test_a_guest_that_others_let_run_and_paused_again_is_left_to_them() -> None:
    def others(play: Play) -> None:
        if play.work.phase is Phase.FINISH and play.vm.runstate == "postmigrate":
            play.vm.cont()
        if play.work.phase is Phase.SETTLE:
            pause(play)

    play = Play(watch=others)
    assert play.run().outcome is Outcome.ATTENTION
    assert not play.commands("cont")


@pytest.mark.parametrize("scenario", [Scenario(migrating=True), Scenario(blocked_reasons=("VFIO device",))])
def test_a_vm_that_cannot_be_migrated_now_is_refused_before_anything_is_touched(scenario: Scenario) -> None:
    play = Play(scenario=scenario)
    assert play.run().outcome is Outcome.REFUSED
    assert Reserve not in {type(each) for each in play.sent}


def test_what_is_known_at_the_end_was_asked_once() -> None:
    play = Play()
    play.run()
    begun = [type(each) for each in play.sent].index(Publish)
    asked = [each.learns for each in play.sent[begun:] if isinstance(each, Command)]
    assert len(asked) == len(set(asked))


def test_a_guest_that_runs_no_more_once_the_monitor_is_back_does_not_keep_qemu_from_being_ended() -> None:
    def briefly(play: Play) -> None:
        play.step(QmpEvent(play.now, "RESUME", {}))
        play.drop()

    play = Play(options=QUIT, watch=once(in_phase(Phase.VERIFY), briefly))
    assert play.run().outcome is Outcome.SAVED
    assert not play.vm.alive


def test_a_file_that_was_handed_over_in_vain_is_not_kept_open_by_qemu() -> None:
    play = Play(profile=STOCK_7_2, fault=refusing("migrate"))
    play.run()
    assert not play.vm.fds


@pytest.mark.parametrize(("until", "whole"), [("completed", True), ("active", False)])
def test_only_the_file_tells_whether_a_qemu_that_ended_unseen_had_written_all_of_it(until: str, whole: bool) -> None:
    play = Mortal(kills=(Kill(line_with(f'"status":"{until}"'), after=False),), rebooted=True)
    result = play.run()
    assert (result.outcome, play.store.published, play.store.partial) == (Outcome.ATTENTION, whole, False)
    assert any("while no vmtui looked" in note for note in result.notes)


def test_nothing_is_said_to_be_written_before_the_pause_of_a_guest_that_stood_already() -> None:
    assert stop_first().run().bytes_before_pause is None


def test_a_qemu_at_a_tcp_port_that_refuses_to_quit_is_still_there() -> None:
    result = OverTcp(options=QUIT, pid=0, fault=refusing("quit")).run()
    assert result.outcome is Outcome.SAVED
    assert result.runstate == "postmigrate"


def test_a_qemu_at_a_tcp_port_whose_monitor_broke_before_it_heard_of_quit_is_told_again() -> None:
    def lose(play: Play, action: Action) -> str | None:
        quits = isinstance(action, Command) and action.execute == "quit"
        return "drop-before" if quits and not play.drops else None

    play = OverTcp(options=QUIT, pid=0, fault=lose)
    assert play.run().outcome is Outcome.SAVED
    assert not play.vm.alive


def test_a_save_goes_on_behind_a_restart_where_qemu_is_still_there() -> None:
    play = Mortal(kills=(Kill(line_with('"status":"active"')),))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert not any("QEMU ended" in note for note in result.notes)


class Unsynced(Mortal):
    """What the store did last never reached the disk."""

    def restart(self) -> None:
        self.store = Store()
        super().restart()


def test_of_a_file_that_was_never_made_nobody_says_that_it_was_read() -> None:
    play = Unsynced(kills=(Kill(line_with('"reserve"') + 1),), rebooted=True)
    result = play.run()
    assert "QEMU ended in phase prepare" in str(result.error)
    assert not any("was read through" in note for note in result.notes)


def test_of_a_file_that_was_given_up_before_qemu_ended_nobody_says_that_it_was_read() -> None:
    full = Scenario(write_fails_after=10_000_000)
    play = Mortal(scenario=full, kills=(Kill(line_with('"cont"', scenario=full)),), rebooted=True)
    result = play.run()
    assert (result.outcome, play.store.partial) == (Outcome.ATTENTION, False)
    assert not any("was read through" in note for note in result.notes)


def test_a_resume_asks_for_no_place_to_save_to() -> None:
    play = Play(scenario=Scenario(card=CardState.OUT), options=Options(goal=Goal.RESUME))
    assert play.run().outcome is Outcome.RESUMED
    assert all(isinstance(each, Command) for each in play.sent)


def test_a_check_that_finds_a_reason_not_to_save_is_no_refusal() -> None:
    play = Play(scenario=Scenario(card=CardState.OUT), options=replace(SAVE, goal=Goal.CHECK))
    assert play.run().outcome is Outcome.CHECKED
    assert play.work.blocked


# --- what is no news, and what needs time -----------------------------------------------------------------------------


def test_a_migration_that_failed_before_this_save_is_not_blamed() -> None:
    first = stop_first(write_fails_after=0)
    assert first.run().outcome is Outcome.FAILED
    second = stop_first()
    second.vm, second.now = first.vm, first.now
    second.vm.scenario = Scenario(primaries=0)
    second.vm.disconnect(second.now)
    assert second.run().outcome is Outcome.SAVED


def test_a_qemu_that_does_not_pause_by_itself_as_it_said_is_told_to() -> None:
    play = Play(profile=PAUSE_VM_10_0, on_event=hides_the_pause)
    answers(play, "query-status", Phase.PAUSE, lambda value: value | {"status": "running"}, 6)
    assert play.run().outcome is Outcome.SAVED
    assert play.commands("stop")


def test_what_was_written_before_the_pause_is_asked_where_it_is_to_be_known_and_is_not() -> None:
    plays = [Play(), Play(on_event=events_lost), stop_first()]
    for play in plays:
        play.run()
    assert ["count" in play.work.tries for play in plays] == [False, True, False]


def test_a_qemu_that_does_not_tell_how_much_it_wrote_is_not_asked_for_ever() -> None:
    play = Play(on_event=events_lost)
    answers(play, "query-migrate", Phase.UNPLUG, lambda value: {"status": value["status"]}, 5000)
    stopped = play.run().stopped_seconds
    assert stopped is not None
    assert stopped < 1


@pytest.mark.parametrize("profile", [STOCK_7_2, STOCK_10_0])
@pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.BACKGROUND])
def test_a_card_that_qemu_should_have_plugged_back_by_itself_is_brought_back(profile: Profile, strategy: Strategy) -> None:
    play = Play(profile=profile, options=replace(SAVE, strategy=strategy), watch=once(in_phase(Phase.SAVE), Play.cancel))
    answers(play, "human-monitor-command", Phase.REPLUG, lambda value: "b0200000: 0xffffffff 0xffffffff\r\n", 80)
    assert play.run().outcome is Outcome.CANCELLED
    assert len(play.commands("migrate")) == 2


def test_a_card_that_a_qemu_with_pause_vm_plugs_back_is_waited_for() -> None:
    play = Play(profile=PAUSE_VM_10_0)
    answers(play, "human-monitor-command", Phase.REPLUG, lambda value: "b0200000: 0xffffffff 0xffffffff\r\n", 5)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("migrate")) == 1


def test_a_cancel_that_is_refused_is_tried_again_for_some_seconds() -> None:
    def slow(**more: Any) -> Play:
        return Play(ram=4 << 30, scenario=Scenario(disk_speed=1e7), watch=once(in_phase(Phase.SAVE), Play.cancel), **more)

    assert slow(fault=refusing("migrate_cancel", until=4.0)).run().outcome is Outcome.CANCELLED
    never = slow(fault=refusing("migrate_cancel"))
    assert never.run().outcome is Outcome.ATTENTION
    assert len(never.commands("migrate_cancel")) == 20


def test_a_stopped_guest_runs_on_only_once_its_migration_has_ended() -> None:
    migrating: list[bool] = []

    def watch(play: Play) -> None:
        action = play.state.outstanding
        if isinstance(action, Command) and action.execute == "cont":
            migrating.append(play.vm.migrating)
        cancel(play)

    cancel = once(in_phase(Phase.SAVE), Play.cancel)
    play = Play(ram=4 << 30, watch=watch)
    assert play.run().outcome is Outcome.CANCELLED
    assert set(migrating) == {False}


def test_a_guest_that_cannot_let_go_runs_on_only_once_qemu_was_told_to_cancel() -> None:
    play = paused_in_unplug()
    play.run()
    assert names_sent(play).index("migrate_cancel") < names_sent(play).index("cont")


def test_a_guest_that_runs_is_not_told_to_run() -> None:
    play = Play(scenario=Scenario(unplug_delay=None), options=replace(SAVE, unplug_timeout=2.0))
    play.run()
    assert not play.commands("cont")


def test_a_paused_guest_into_which_a_card_came_is_not_let_run() -> None:
    play = stop_first(runstate="paused")
    other = Play()
    play.watch = once(in_phase(Phase.SAVE), lambda play: setattr(play.vm, "cards", other.vm.cards))
    assert "was not there before" in str(play.run().error)
    assert not play.commands("cont")


def test_a_card_that_nobody_can_prove_gets_a_second_to_come_back() -> None:
    play = Play(scenario=Scenario(q35=False))
    play.run()
    assert play.now > 1


def test_a_card_that_nobody_can_prove_is_left_to_qemu_where_the_save_was_cancelled() -> None:
    play = Play(scenario=Scenario(q35=False), watch=once(in_phase(Phase.SAVE), Play.cancel))
    assert play.run().outcome is Outcome.CANCELLED
    assert len(play.commands("migrate")) == 1


def test_a_migration_for_a_card_that_the_guest_forgot_has_ended_at_the_end_though_nobody_can_prove_it() -> None:
    scenario = Scenario(card=CardState.OUT, guest_forgot_card=True, q35=False)
    play = Play(scenario=scenario, options=Options(goal=Goal.RESUME))
    play.run()
    assert not play.vm.migrating


def test_a_card_that_qemu_does_not_plug_back_by_itself_is_brought_back_at_once() -> None:
    resume = Play(scenario=Scenario(card=CardState.OUT), options=Options(goal=Goal.RESUME))
    broken = Play(options=QUIT, store=Store(refuse="verify"))
    for play in (resume, broken):
        play.run()
        assert play.vm.card == {"primary0": "plugged"}
        assert play.now < 1


# --- the ways to bring the card back ----------------------------------------------------------------------------------


def throttled(play: Play, action: Action) -> str | None:
    """Of the ways to bring the card back, only the last one works."""
    uri = action.arguments.get("uri") if isinstance(action, Command) else None
    return "refuse" if uri in {"fd:vmtui-replug", "exec:false"} else None


def cancels(play: Play) -> Iterator[str]:
    """What vmtui knew of the migration whenever it told QEMU to cancel it; plays to the end."""
    play.start()
    while not play.done:
        action = play.state.outstanding
        if play.point() is Point.ACTION and isinstance(action, Command) and action.execute == "migrate_cancel":
            yield play.state.vm.migration.status
        play.turn()


def test_the_last_way_to_bring_a_card_back_is_cancelled_once_and_at_once() -> None:
    play = Play(fault=throttled)
    assert list(cancels(play)) == ["active"]
    assert play.vm.card == {"primary0": "plugged"}
    assert len([each for each in play.commands("getfd") if each.arguments == {"fdname": "vmtui-replug"}]) == 2
    assert play.now < 4, "a second for each of the three ways that were refused"


def test_the_last_way_to_bring_a_card_back_is_not_cancelled_before_it_has_got_so_far() -> None:
    play = Play(fault=throttled, on_event=events_lost)
    left = [3]

    def setting_up(command: Command, value: Any) -> Any:
        if command.execute != "query-migrate" or value.get("status") != "active" or Phase.REPLUG not in play.phases():
            return value
        left[0] -= 1
        return {"status": "setup"} if left[0] >= 0 else value

    play.reply = setting_up
    assert list(cancels(play)) == ["active"]


def test_a_cancel_for_the_card_that_qemu_refuses_is_not_tried_for_ever() -> None:
    def fault(play: Play, action: Action) -> str | None:
        return throttled(play, action) or refusing("migrate_cancel")(play, action)

    assert len(list(cancels(Play(fault=fault)))) == 3


def test_a_migration_that_will_fail_by_itself_is_not_cancelled() -> None:
    play = Play(on_event=events_lost)
    answers(play, "query-migrate", Phase.REPLUG, lambda _: {"status": "active"}, 3)
    assert not list(cancels(play))


def test_a_cancel_that_waits_for_a_guest_that_forgot_its_card_is_not_repeated() -> None:
    play = Play(scenario=Scenario(card=CardState.OUT, guest_forgot_card=True), options=Options(goal=Goal.RESUME))
    assert list(cancels(play)) == ["wait-unplug"]


def test_a_qemu_without_fd_sets_is_asked_for_them_only_at_the_end() -> None:
    play = Play(profile=STOCK_7_2)
    play.run()
    last = len(names_sent(play)) - names_sent(play)[::-1].index("migrate")
    assert "query-fdsets" not in names_sent(play)[:last]


def test_a_file_that_qemu_never_closes_does_not_keep_the_card_out() -> None:
    play = Play()
    answers(play, "query-fdsets", Phase.REPLUG, lambda value: [*value, {"fdset-id": 0, "fds": []}])
    play.run()
    assert play.vm.card == {"primary0": "plugged"}
    assert play.now < 5


@pytest.mark.parametrize(("profile", "strategy"), [(STOCK_7_2, Strategy.AUTO), (STOCK_10_0, Strategy.BACKGROUND)])
def test_a_card_does_not_wait_for_a_file_that_is_known_to_be_closed(profile: Profile, strategy: Strategy) -> None:
    play = Play(profile=profile, options=replace(SAVE, strategy=strategy))
    play.run()
    settled = next(at for phase, at in play.work.timeline if phase is Phase.SETTLE)
    assert play.work.marks.completed is not None
    assert settled - play.work.marks.completed < 0.2


class OverTheNetwork(Play):
    """No descriptor can be handed over."""

    def step(self, event: AnyEvent) -> None:
        super().step(replace(event, fd_passing=False) if isinstance(event, Connected) else event)


@pytest.mark.parametrize("primaries", [0, 1])
def test_where_no_file_can_be_handed_over_none_is_tried_to(primaries: int, stock: Profile) -> None:
    play = OverTheNetwork(profile=stock, scenario=Scenario(primaries=primaries))
    play.run()
    assert not play.commands("getfd") + play.commands("add-fd")
    assert play.vm.card == dict.fromkeys(play.vm.card, "plugged")


def test_a_qemu_whose_guest_panicked_behind_its_copy_is_not_ended() -> None:
    def panic(play: Play) -> None:
        play.step(QmpEvent(play.now, "GUEST_PANICKED", {"action": "pause"}))

    play = Play(options=QUIT, watch=once(in_phase(Phase.VERIFY), panic))
    assert play.run().outcome is Outcome.ATTENTION
    assert play.vm.alive


def test_where_qemu_stays_nothing_is_asked_between_the_file_in_its_place_and_the_proof() -> None:
    asked: list[Action | None] = []

    def note(play: Play) -> None:
        if play.work.phase is Phase.VERIFY:
            asked.append(play.state.outstanding)

    Play(watch=note).run()
    assert any(isinstance(each, Publish) for each in asked)
    assert not any(isinstance(each, Command) for each in asked)


# --- a cancel of which no event tells ---------------------------------------------------------------------------------


def test_a_cancel_ends_though_no_event_told_it() -> None:
    play = Play(scenario=Scenario(unplug_delay=None), options=replace(SAVE, unplug_timeout=2.0), on_event=events_lost)
    assert play.run().outcome is Outcome.CANCELLED
    assert play.now < 40


def test_a_guest_that_is_paused_during_a_cancel_keeps_its_card_though_no_event_told_it() -> None:
    play = Play(scenario=Scenario(unplug_delay=20.0), options=replace(SAVE, unplug_timeout=2.0), on_event=events_lost)
    play.watch = once(lambda play: play.work.phase is Phase.CANCEL and play.now > 5, pause)
    assert play.run().outcome is Outcome.CANCELLED
    play.vm.advance(play.now + 60)
    assert play.vm.card == {"primary0": "plugged"}


def test_a_save_that_is_cancelled_while_it_is_prepared_is_not_begun() -> None:
    play = Play(watch=once(in_phase(Phase.PREPARE), Play.cancel))
    assert play.run().outcome is Outcome.CANCELLED
    assert not play.commands("migrate")


def test_a_file_that_qemu_closed_with_the_connection_is_handed_over_again_to_a_guest_that_stands_already() -> None:
    no_card = Scenario(primaries=0)
    play = Mortal(scenario=no_card, kills=(Kill(line_with('"stop"', scenario=no_card) + 1),))
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("add-fd")) == 2


@pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.BACKGROUND])
def test_a_migrate_whose_reply_was_lost_is_not_sent_again_where_it_has_come_to_its_end_meanwhile(
    strategy: Strategy,
) -> None:
    def lose(play: Play, action: Action) -> str | None:
        return "drop-after" if isinstance(action, Command) and action.execute == "migrate" else None

    play = Play(scenario=Scenario(primaries=0), options=replace(SAVE, strategy=strategy), fault=lose, back_after=5.0)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("migrate")) == 1


def test_a_guest_that_kvm_could_not_run_on_is_left_as_it_stands() -> None:
    play = Play(on_event=events_lost)
    answers(play, "query-status", Phase.FINISH, lambda value: value | {"status": "internal-error"})
    assert play.run().outcome is Outcome.ATTENTION
    assert not play.commands("cont")


def test_a_parameter_is_as_it_should_be_before_the_card_is_brought_back() -> None:
    def is_set(play: Play) -> bool:
        return play.work.phase is Phase.REPLUG and play.vm.parameters["max-bandwidth"] == 128 << 20

    play = Play(watch=once(is_set, lambda play: play.vm.parameters.update({"max-bandwidth": 4711})))
    play.run()
    last = len(names_sent(play)) - names_sent(play)[::-1].index("migrate")
    assert names_sent(play)[:last].count("migrate-set-parameters") == 4


def test_a_migration_that_somebody_began_while_the_file_was_read_is_told_at_the_end() -> None:
    def verifying(play: Play) -> bool:
        return isinstance(play.state.outstanding, Verify)

    play = Play(scenario=Scenario(primaries=0), on_event=events_lost, watch=once(verifying, slow_migration))
    assert any("a migration is still under way" in note for note in play.run().notes)


def test_a_save_ends_though_qemu_answers_no_more_once_its_file_is_there() -> None:
    play = Play(watch=once(lambda play: play.store.published, lambda play: setattr(play, "mode", Mode(mute=True))))
    assert play.run().outcome is Outcome.ATTENTION


def test_a_guest_that_panicked_and_was_paused_by_somebody_is_not_made_to_run_over_the_evidence() -> None:
    scenario = Scenario(panics="wait-unplug", panic_action="none", unplug_delay=1.0)
    play = Play(scenario=scenario, watch=once(in_phase(Phase.CANCEL), lambda play: play.vm.stop_vm("paused")))
    assert play.run().outcome is Outcome.ATTENTION
    assert (play.commands("cont"), play.vm.runstate) == ([], "paused")


# --- the panic guard --------------------------------------------------------------------------------------------------


def panic_actions(play: Play) -> list[str]:
    return [each.arguments["panic"] for each in play.commands("set-action")]


def test_a_panic_stops_the_guest_while_it_is_saved_and_ends_qemu_again_afterwards(stock: Profile) -> None:
    play = Play(stock)
    result = play.run()
    assert panic_actions(play) == ["pause", "shutdown"]
    assert names_sent(play).index("set-action") < names_sent(play).index("migrate")
    assert (play.vm.panic_action, result.panic_guard, result.restored) == ("shutdown", True, True)


@pytest.mark.parametrize("when", ["wait-unplug", "active", "running"])
def test_a_panic_during_a_save_leaves_a_guest_to_take_a_dump_of(when: str) -> None:
    play = Play(scenario=Scenario(panics=when, unplug_delay=None if when == "wait-unplug" else 0.02))
    result = play.run()
    assert (play.vm.alive, play.vm.panic_action) == (True, "shutdown")
    assert result.outcome is Outcome.ATTENTION
    assert play.vm.runstate == "guest-panicked"


def test_a_guard_that_was_declined_is_not_set() -> None:
    play = Play(options=replace(SAVE, panic_guard=False), scenario=Scenario(panics="wait-unplug", unplug_delay=None))
    result = play.run()
    assert (panic_actions(play), play.vm.alive, result.panic_guard) == ([], False, False)


@pytest.mark.parametrize("action", ["pause", "none"])
def test_a_panic_that_does_not_end_qemu_is_left_as_it_is(action: str) -> None:
    play = Play(scenario=Scenario(panic_action=action))
    assert play.run().outcome is Outcome.SAVED
    assert panic_actions(play) == []


def test_a_qemu_that_takes_no_panic_action_is_saved_all_the_same_and_that_is_told() -> None:
    play = Play(fault=refused_in("set-action", Phase.PREPARE))
    result = play.run()
    assert (result.outcome, result.panic_guard, result.restored) == (Outcome.SAVED, False, True)
    assert len(play.commands("set-action")) == 3
    assert any("refused set-action" in note for note in result.notes)


def test_a_panic_action_that_cannot_be_put_back_is_told_loudly_with_the_command() -> None:
    play = Play(fault=refused_in("set-action", Phase.SETTLE))
    result = play.run()
    assert (result.outcome, result.restored, play.vm.panic_action) == (Outcome.ATTENTION, False, "pause")
    assert len(play.commands("set-action")) == 1 + 3
    assert any('{"execute": "set-action", "arguments": {"panic":"shutdown"}}' in note for note in result.notes)


def refused_in(name: str, phase: Phase) -> Fault:
    def refuse(play: Play, action: Action) -> str | None:
        return "refuse" if isinstance(action, Command) and action.execute == name and play.work.phase is phase else None

    return refuse


@pytest.mark.parametrize("how", ["drop-before", "drop-after", "lose-reply"])
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.SETTLE])
def test_what_became_of_a_panic_action_nobody_heard_of_is_not_guessed_but_said_again(phase: Phase, how: str) -> None:
    done: list[bool] = []

    def lose(play: Play, action: Action) -> str | None:
        if not done and isinstance(action, Command) and action.execute == "set-action" and play.work.phase is phase:
            done.append(True)
            return how
        return None

    play = Play(fault=lose)
    assert play.run().outcome is Outcome.SAVED
    assert panic_actions(play) == sorted(["pause", "shutdown", "pause" if phase is Phase.PREPARE else "shutdown"])
    assert play.vm.panic_action == "shutdown"


def test_a_monitor_that_comes_back_does_not_make_the_guard_forgotten() -> None:
    play = Play(watch=once(in_phase(Phase.SAVE), Play.drop))
    assert play.run().outcome is Outcome.SAVED
    assert (panic_actions(play), play.vm.panic_action) == (["pause", "shutdown"], "shutdown")


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.SAVE, Phase.SETTLE, Phase.VERIFY])
def test_a_new_vmtui_puts_the_panic_action_back(phase: Phase) -> None:
    play = Play(watch=once(lambda play: in_phase(phase)(play) and "set-action" in names_sent(play), Play.restart))
    result = play.run()
    assert (play.vm.panic_action, result.restored) == ("shutdown", True)


def test_a_new_vmtui_does_not_touch_a_panic_action_that_none_ever_changed() -> None:
    play = Play(options=replace(SAVE, panic_guard=False), watch=once(in_phase(Phase.SAVE), Play.restart))
    assert play.run().outcome is Outcome.SAVED
    assert panic_actions(play) == []


# --- the dump ---------------------------------------------------------------------------------------------------------

DUMP = Options(goal=Goal.DUMP, output="/snap/vm.vmcore")


def dump_of(scenario: Scenario | None = None, **more: Any) -> Play:
    return Play(options=more.pop("options", DUMP), scenario=scenario, **more)


def test_a_running_guest_is_dumped_stands_still_for_that_only_and_its_card_is_left_alone(stock: Profile) -> None:
    play = dump_of(profile=stock)
    result = play.run()
    assert (result.outcome, result.format, result.file) == (Outcome.DUMPED, "elf", "/snap/vm.vmcore")
    ((begun, ended),) = play.vm.intervals()
    assert result.stopped_seconds == pytest.approx(ended - begun, abs=0.002)
    changing = [each.execute for each in play.sent if isinstance(each, Command) and each.learns is None]
    assert changing == ["getfd", "dump-guest-memory"]
    assert Phase.REPLUG not in play.phases()
    (dump,) = play.commands("dump-guest-memory")
    assert dump.arguments == {"paging": False, "protocol": "fd:vmtui-state", "detach": True, "format": "elf"}


@pytest.mark.parametrize(("scenario", "runstate"), [
    (Scenario(runstate="paused"),                  "paused"),
    (Scenario(panics=0.0, panic_action="pause"),   "guest-panicked"),
])  # fmt: skip
def test_a_guest_that_stands_is_dumped_small_and_stands_on(scenario: Scenario, runstate: str) -> None:
    play = dump_of(scenario)
    result = play.run()
    assert (result.outcome, result.format, result.runstate) == (Outcome.DUMPED, "kdump-zlib", runstate)
    assert (play.vm.runstate, play.commands("cont")) == (runstate, [])


def test_a_card_that_is_out_stays_out_for_a_dump() -> None:
    play = dump_of(Scenario(card=CardState.OUT))
    assert play.run().outcome is Outcome.DUMPED
    assert (play.commands("migrate"), play.vm.card) == ([], {"primary0": "out"})


def test_where_there_is_no_room_for_the_quick_format_the_small_one_is_taken() -> None:
    assert dump_of(store=Store(free=200 << 20)).run().format == "kdump-zlib"


FAILS = Scenario(write_fails_after=1_000_000)


def test_why_a_dump_failed_is_waited_for_where_that_it_failed_is_known_first() -> None:
    held: list[QmpEvent] = []

    def hold(_play: Play, event: QmpEvent) -> list[AnyEvent]:
        held.extend([event] if event.name == "DUMP_COMPLETED" else [])
        return [] if event.name == "DUMP_COMPLETED" else [event]

    def let_go(play: Play) -> None:
        if held and play.state.vm.dump.status == "failed":
            play.step(held.pop())

    play = Play(scenario=FAILS, options=DUMP, on_event=hold, watch=let_go)
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.STORE)
    assert "failed to save memory" in str(result.error)


def test_a_dump_whose_failure_is_never_explained_ends_all_the_same() -> None:
    def drop(_play: Play, event: QmpEvent) -> list[AnyEvent]:
        return [] if event.name == "DUMP_COMPLETED" else [event]

    result = Play(scenario=FAILS, options=DUMP, on_event=drop).run()
    assert (result.outcome, result.error) == (Outcome.FAILED, "the dump failed: QEMU gives no reason")
    assert result.runstate == "running"


def test_why_a_dump_failed_is_not_forgotten_with_the_next_look_at_it() -> None:
    seen: list[str] = []

    def look_again(play: Play) -> None:
        known = play.state.vm
        if known.dump.error:
            vm = facts.learn(known, QUERIES[Fact.DUMP](known), Dumping(Dump("failed")), play.now)  # type: ignore[arg-type]
            seen.append(vm.dump.error)

    Play(scenario=FAILS, options=DUMP, watch=look_again).run()
    assert seen
    assert all("failed to save memory" in each for each in seen)


def test_a_dump_that_fails_leaves_no_file_and_a_guest_that_runs(stock: Profile) -> None:
    for name in ("elf", "kdump-zlib"):
        play = dump_of(Scenario(write_fails_after=1_000_000), profile=stock, options=replace(DUMP, dump_format=name))
        result = play.run()
        assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.STORE), result.error
        assert str(result.error).startswith("the dump failed: ") and "is there room enough?" in str(result.error)
        assert (play.vm.runstate, play.store.partial, play.store.published) == ("running", False, False)


@pytest.mark.parametrize(("scenario", "options", "said"), [
    (Scenario(migrating=True),            DUMP,                                   "a migration is under way"),
    (Scenario(runstate="inmigrate"),      DUMP,                                   "still being loaded"),
    (Scenario(runstate="save-vm"),        DUMP,                                   "under way already"),
    (Scenario(),                          replace(DUMP, dump_format="kdump-lzo"), "it offers: elf, kdump-zlib"),
])  # fmt: skip
def test_what_cannot_be_dumped_now_is_refused_before_anything_is_touched(
    scenario: Scenario, options: Options, said: str
) -> None:
    play = dump_of(scenario, options=options)
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.REFUSED, Exit.REFUSED)
    assert said in str(result.error)
    assert not [each for each in play.sent if isinstance(each, Command) and each.learns is None]


def test_a_dump_of_somebody_else_is_not_waited_for_and_refused() -> None:
    play = dump_of()
    play.vm.start_dump(Target("file", "/core"), "elf")
    assert play.run().outcome is Outcome.REFUSED
    assert play.vm.dumping


def test_a_dump_that_somebody_began_in_the_last_moment_costs_ours_its_file_only() -> None:
    began = once(lambda play: play.store.partial, lambda play: play.vm.start_dump(Target("file", "/core"), "elf"))
    play = dump_of(Scenario(dump_speed=50e6), watch=began)
    result = play.run()
    assert next(at for phase, at in play.work.timeline if phase is Phase.RESUME) < 1.0, "that one is not waited for"
    assert (result.outcome, play.store.partial) == (Outcome.FAILED, False)
    assert "There is a dump in process" in str(result.error)
    assert play.vm.runstate == "running"


def test_a_dump_that_is_cancelled_stands_until_its_end_and_leaves_no_file() -> None:
    slow = Scenario(dump_speed=10e6)
    play = dump_of(slow, watch=once(lambda play: play.vm.dumping and play.state.vm.dump.status == "active", Play.cancel))
    result = play.run()
    assert play.commands("cont") == []
    assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, Exit.CANCELLED)
    assert not play.vm.dumping
    assert (play.vm.runstate, play.store.partial, play.store.published) == ("running", False, False)
    assert any("QEMU cannot break a dump off" in note for note in result.notes)


def test_a_dump_that_is_cancelled_before_it_began_is_never_begun() -> None:
    play = dump_of(watch=once(lambda play: play.store.partial, Play.cancel))
    assert play.run().outcome is Outcome.CANCELLED
    assert play.commands("dump-guest-memory") == []
    assert not play.vm.fds


@pytest.mark.parametrize("earlier", ["none", "completed"])
@pytest.mark.parametrize("how", ["drop-before", "drop-after", "lose-reply"])
def test_a_dump_of_which_nobody_heard_is_neither_taken_for_done_nor_lost(earlier: str, how: str) -> None:
    done: list[bool] = []

    def lose(_play: Play, action: Action) -> str | None:
        if done or not (isinstance(action, Command) and action.execute == "dump-guest-memory"):
            return None
        done.append(True)
        return how

    play = dump_of(fault=lose)
    play.vm.dump = dataclasses.replace(play.vm.dump, status=earlier)
    assert play.run().outcome is Outcome.DUMPED
    assert play.store.whole
    assert play.vm.runstate == "running"


def test_a_dump_that_was_complete_before_the_monitor_was_back_is_not_made_again() -> None:
    def lose(_play: Play, action: Action) -> str | None:
        return "drop-after" if isinstance(action, Command) and action.execute == "dump-guest-memory" else None

    play = dump_of(Scenario(dump_speed=100e9), fault=lose)
    assert play.run().outcome is Outcome.DUMPED
    assert len(play.commands("dump-guest-memory")) == 1


def test_a_dump_that_arrives_at_the_third_time_is_a_dump() -> None:
    def lose(play: Play, action: Action) -> str | None:
        dumps = isinstance(action, Command) and action.execute == "dump-guest-memory"
        return "drop-before" if dumps and play.drops < 2 else None

    assert dump_of(fault=lose).run().outcome is Outcome.DUMPED


def test_a_paused_guest_that_somebody_dumps_is_not_dumped_too() -> None:
    play = dump_of(Scenario(runstate="paused"))
    play.vm.start_dump(Target("file", "/core"), "elf")
    assert play.run().outcome is Outcome.REFUSED


def test_where_no_file_can_be_made_for_a_dump_nothing_more_is_done() -> None:
    play = dump_of(store=Store(refuse="reserve"))
    play.run()
    assert play.phases() == [Phase.PREFLIGHT, Phase.DUMP, Phase.DONE]


def test_a_qemu_that_dies_in_the_middle_of_a_dump_is_the_reason() -> None:
    play = dump_of(Scenario(killed="save-vm"))
    assert str(play.run().error).startswith("QEMU ended in phase dump")
    assert not play.store.partial


def test_a_qemu_that_dies_while_it_is_seen_to_dump_is_the_reason() -> None:
    play = dump_of(Scenario(dump_speed=10e6, killed=5.0))
    assert str(play.run().error).startswith("QEMU ended in phase dump")
    assert play.work.done_share > 0
    assert not play.store.partial


@pytest.mark.parametrize("sent", [0, 1])
def test_a_dump_before_ours_is_not_taken_for_ours_when_qemu_dies(sent: int) -> None:
    def lose(_play: Play, action: Action) -> str | None:
        return "drop-before" if isinstance(action, Command) and action.execute == "dump-guest-memory" else None

    def handing_over(play: Play) -> bool:
        return len(play.commands("getfd")) > len(play.commands("dump-guest-memory")) == sent

    play = dump_of(fault=lose, watch=once(handing_over, lambda play: play.vm.die()))
    play.vm.dump = dataclasses.replace(play.vm.dump, status="completed")
    assert str(play.run().error).startswith("QEMU ended in phase dump")
    assert not play.store.partial


def test_a_dump_that_never_arrives_is_not_sent_for_ever() -> None:
    def lose(_play: Play, action: Action) -> str | None:
        return "drop-before" if isinstance(action, Command) and action.execute == "dump-guest-memory" else None

    play = dump_of(fault=lose)
    result = play.run()
    assert (result.outcome, play.store.partial, play.vm.fds) == (Outcome.FAILED, False, {})
    assert len(play.commands("dump-guest-memory")) == 3
    assert "did not answer to dump-guest-memory" in str(result.error)


def test_a_dump_ends_well_though_no_event_tells_of_its_end() -> None:
    assert Play(options=DUMP, on_event=events_lost).run().outcome is Outcome.DUMPED


def test_a_new_vmtui_goes_on_with_a_dump_that_runs(stock: Profile) -> None:
    play = dump_of(profile=stock, watch=once(lambda play: play.vm.dumping, Play.restart))
    assert play.run().outcome is Outcome.DUMPED
    assert play.vm.runstate == "running"


def test_a_dump_that_was_complete_before_its_qemu_died_is_kept() -> None:
    play = dump_of(Scenario(killed="running"))
    result = play.run()
    assert (play.store.published, result.outcome) == (True, Outcome.ATTENTION)


def test_over_tcp_qemu_opens_the_file_by_its_name() -> None:
    play = dump_of()
    play.start()
    work = play.work
    assert play.state.vm.fd_passing
    state = replace(play.state, vm=replace(play.state.vm, fd_passing=False), work=replace(work, dump_format="elf"))
    sent = effects.dump(state).outstanding
    assert isinstance(sent, Command)
    assert sent.arguments["protocol"] == "file:/snap/vm.vmcore.partial"


# --- a guest that is stuck is dumped ----------------------------------------------------------------------------------

STUCK_DUMP = replace(SAVE, on_stuck=OnStuck.DUMP, unplug_timeout=2.0)


def saved_then_dumped(scenario: Scenario, options: Options = STUCK_DUMP, **more: Any) -> tuple[Play, Result]:
    """The save, and what the engine then begins by itself."""
    play = Play(options=options, scenario=scenario, **more)
    play.run()
    follows = workflow.follow_up(play.state)
    if follows is not None:
        play.options, play.store = follows, Store()
        play.step(Wish(play.now, follows))
        while not play.done:
            play.turn()
    return play, report(play.state)


def test_a_guest_that_does_not_answer_is_dumped_once_qemu_has_let_go(stock: Profile) -> None:
    play, result = saved_then_dumped(Scenario(unplug_delay=None), profile=stock)
    assert (result.outcome, result.exit_code, result.file) == (Outcome.CANCELLED, Exit.STUCK, None)
    assert (result.dump, play.store.published) == ("/snap/vm.vmcore", True)
    assert play.vm.runstate == "running"
    assert play.vm.dump.status == "completed"


def test_a_guest_that_panics_while_it_is_waited_for_is_dumped_and_left_as_it_stands() -> None:
    _play, result = saved_then_dumped(Scenario(panics="wait-unplug", unplug_delay=None))
    assert (result.outcome, result.exit_code) == (Outcome.ATTENTION, Exit.ATTENTION)
    assert (result.dump, result.runstate) == ("/snap/vm.vmcore", "guest-panicked")
    assert not any("take a core dump" in note for note in result.notes)


@pytest.mark.parametrize("scenario", [Scenario(), Scenario(write_fails_after=1_000_000), Scenario(killed="wait-unplug")])
def test_a_save_that_ends_otherwise_is_followed_by_no_dump(scenario: Scenario) -> None:
    play, result = saved_then_dumped(scenario)
    assert (result.dump, play.work.options.goal) == (None, Goal.SAVE)


def test_why_a_stuck_guest_could_not_be_dumped_is_told_beside_why_it_was_not_saved() -> None:
    refused = refused_in("dump-guest-memory", Phase.DUMP)
    _play, result = saved_then_dumped(Scenario(unplug_delay=None), fault=refused)
    assert (result.outcome, result.dump) == (Outcome.CANCELLED, None)
    assert "did not let go" in str(result.error)
    assert any(note.startswith("the guest was not dumped: QEMU refused") for note in result.notes)


def test_who_cancels_while_qemu_is_waited_for_gets_no_dump() -> None:
    _play, result = saved_then_dumped(Scenario(unplug_delay=None), watch=once(in_phase(Phase.CANCEL), Play.cancel))
    assert (result.outcome, result.dump) == (Outcome.CANCELLED, None)


def test_a_cancel_may_ask_for_a_dump() -> None:
    def give_up(play: Play) -> None:
        play.step(Cancel(play.now, dump=True))

    play, result = saved_then_dumped(Scenario(unplug_delay=None), SAVE, watch=once(in_phase(Phase.UNPLUG), give_up))
    assert (result.exit_code, result.dump) == (Exit.CANCELLED, "/snap/vm.vmcore")
    assert play.vm.runstate == "running"


# --- a card that was lost before --------------------------------------------------------------------------------------

HEAL = Options(goal=Goal.RESUME)
WITH_CARD = ("qemu-system-x86_64", "-device", "virtio-net-pci,id=ua-standby0,failover=on,netdev=hs0", "-device",
             "e1000e,id=primary0,bus=root1,mac=52:54:00:11:11:11,netdev=hs1,rombar=0,romfile=,acpi-index=3,"
             "failover_pair_id=ua-standby0")  # fmt: skip


@pytest.mark.parametrize("profile", [STOCK_10_0, STOCK_11_1], ids=lambda profile: profile.name)
def test_a_card_that_qemu_deleted_before_vmtui_came_is_added_as_the_command_line_has_it(profile: Profile) -> None:
    play = Play(profile, Scenario(card=CardState.DELETED), HEAL, argv=WITH_CARD)
    result = play.run()
    assert (result.outcome, result.card, play.vm.card) == (Outcome.RESUMED, "plugged", {"primary0": "plugged"})
    (added,) = play.commands("device_add")
    assert added.arguments == {
        "driver": "e1000e", "id": "primary0", "bus": "root1", "mac": "52:54:00:11:11:11", "netdev": "hs1", "rombar": 0,
        "romfile": "", "acpi-index": 3, "failover_pair_id": "ua-standby0",
    }  # fmt: skip


def test_a_card_that_a_7_2_does_not_take_back_is_told_with_its_command() -> None:
    play = Play(STOCK_7_2, Scenario(card=CardState.DELETED), HEAL, argv=WITH_CARD)
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.ATTENTION, Exit.ATTENTION)
    assert any('{"execute": "device_add"' in note for note in result.notes)


def test_a_card_of_which_no_command_line_tells_is_not_made_up() -> None:
    play = Play(scenario=Scenario(card=CardState.DELETED), options=HEAL)
    assert play.run().outcome is Outcome.RESUMED
    assert play.commands("device_add") == []


def test_a_card_that_a_late_answer_to_a_save_of_ours_costs_is_brought_back_by_itself() -> None:
    play = Play(STOCK_10_0, Scenario(unplug_delay=None), replace(SAVE, unplug_timeout=2.0))
    assert play.run().outcome is Outcome.CANCELLED
    assert workflow.to_heal(play.state) is None, "as long as nothing is lost"
    delete(play)
    for each in play.vm.output():
        play.step(QmpEvent(play.now, each["event"], each["data"]))
    wish = workflow.to_heal(play.state)
    assert wish == Options(goal=Goal.RESUME)
    play.options = wish
    play.step(Wish(play.now, wish))
    assert workflow.to_heal(play.state) is None, "it is under way"
    while not play.done:
        play.turn()
    assert (report(play.state).outcome, play.vm.card) == (Outcome.RESUMED, {"primary0": "plugged"})
    assert workflow.to_heal(play.state) is None


def test_a_card_that_somebody_else_removes_after_a_good_save_is_their_business() -> None:
    play = Play()
    play.run()
    delete(play)
    for each in play.vm.output():
        play.step(QmpEvent(play.now, each["event"], each["data"]))
    assert workflow.to_heal(play.state) is None
