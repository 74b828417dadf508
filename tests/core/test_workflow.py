"""What a workflow does with a VM, told as facts about the VM."""

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.explore.world import Point, Store
from vmtui.backend.core import workflow
from vmtui.backend.core.commands import Action, Command
from vmtui.backend.core.events import Answered, QmpEvent, Tick, Wish
from vmtui.backend.core.model import Goal, OnStuck, Options, Outcome, Phase, Strategy, Then
from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_7_2, STOCK_10_0, STOCK_11_1, CardState, Profile, Scenario
from vmtui.backend.core.workflow import NEEDS, RULES, wake

STOCK = (STOCK_7_2, STOCK_10_0, STOCK_11_1)
SAVE = Options(output="/snap/vm.vmstate")
RESUME = Options(goal=Goal.RESUME)


@pytest.fixture(params=STOCK, ids=lambda profile: profile.name)
def stock(request: pytest.FixtureRequest) -> Profile:
    assert isinstance(request.param, Profile)
    return request.param


def test_a_good_save_goes_through_the_phases_in_order(stock: Profile) -> None:
    play = Play(profile=stock)
    result = play.run()
    order = "preflight prepare unplug pause save finish resume replug settle verify prove done"
    assert " ".join(play.phases()) == order
    assert (result.outcome, result.card, result.driven, result.restored) == (Outcome.SAVED, "plugged", True, True)


def test_nothing_is_changed_before_the_intent_is_written_down(stock: Profile) -> None:
    play = Play(profile=stock)
    play.run()
    changes = [each for each in play.sent if isinstance(each, Command) and each.learns is None]
    assert [type(each).__name__ for each in play.sent].index("Reserve") < play.sent.index(changes[0])


def test_the_guest_runs_until_its_card_has_left_and_stands_still_for_the_copy_only(stock: Profile) -> None:
    play = Play(profile=stock)
    result = play.run()
    ((begun, ended),) = play.vm.intervals()
    assert result.stopped_seconds == pytest.approx(ended - begun, abs=0.002)
    assert result.unplug_seconds is not None
    assert result.unplug_seconds >= 0.25
    assert result.run_on_seconds is not None
    assert result.run_on_seconds < 0.002


def test_the_bandwidth_is_low_until_the_pause_and_full_for_the_copy(stock: Profile) -> None:
    play = Play(profile=stock)
    play.run()
    limits = [each.arguments["max-bandwidth"] for each in play.commands("migrate-set-parameters")]
    assert limits == [64 << 10, 1 << 43, 128 << 20]


def test_a_capability_that_would_change_the_stream_is_off_for_the_save_and_on_again_after_it() -> None:
    play = Play(profile=STOCK_10_0)
    play.vm.capabilities = frozenset({"mapped-ram", "multifd"})
    play.before = dict(play.vm.parameters), play.vm.capabilities
    assert play.run().outcome is Outcome.SAVED
    off = play.commands("migrate-set-capabilities")[0].arguments["capabilities"]
    assert {"capability": "mapped-ram", "state": False} in off
    assert play.vm.capabilities == {"mapped-ram", "multifd"}


def test_pause_vm_is_used_where_it_is_offered_and_put_back() -> None:
    play = Play(profile=PAUSE_VM_10_0)
    result = play.run()
    assert result.strategy == "pause-vm"
    assert not play.commands("stop")
    assert not play.vm.parameters["pause-vm"]
    assert len(play.commands("migrate")) == 1, "QEMU plugs the card back by itself"


def test_from_9_1_on_the_file_goes_by_an_fd_set_and_before_by_getfd() -> None:
    assert {profile.name: _uri(profile) for profile in STOCK} == {
        "stock-7.2": "fd:vmtui-state",
        "stock-10.0": "file:/dev/fdset/0",
        "stock-11.1": "file:/dev/fdset/0",
    }


def _uri(profile: Profile) -> str:
    play = Play(profile=profile)
    play.run()
    assert not play.vm.fdsets, "the fd set is removed again"
    return str(play.commands("migrate")[0].arguments["uri"])


def test_the_card_comes_back_by_a_migration_that_cannot_be_written(stock: Profile) -> None:
    play = Play(profile=stock)
    play.run()
    assert play.commands("migrate")[1].arguments == {"uri": "fd:vmtui-replug"}
    assert play.vm.card == {"primary0": "plugged"}


@pytest.mark.parametrize("refused", ["fd:vmtui-replug", "exec:false"])
def test_where_one_way_to_replug_is_refused_the_next_is_tried(stock: Profile, refused: str) -> None:
    def refuse(_play: Play, action: Action) -> str | None:
        broken = isinstance(action, Command) and str(action.arguments.get("uri", "")) in {"fd:vmtui-replug", refused}
        return "refuse" if broken else None

    play = Play(profile=stock, fault=refuse)
    result = play.run()
    assert (result.outcome, play.vm.card) == (Outcome.SAVED, {"primary0": "plugged"})
    assert play.vm.parameters["max-bandwidth"] == 128 << 20


def test_a_card_that_no_way_brings_back_is_told_loudly(stock: Profile) -> None:
    def refuse(play: Play, action: Action) -> str | None:
        replug = isinstance(action, Command) and action.execute == "migrate" and play.work.phase is Phase.REPLUG
        return "refuse" if replug else None

    result = Play(profile=stock, fault=refuse).run()
    assert result.outcome is Outcome.ATTENTION
    assert result.exit_code == 10
    assert any("primary0" in note for note in result.notes)
    assert result.file is not None, "the state itself was saved"


def test_a_guest_that_does_not_let_go_is_left_as_it_was(stock: Profile) -> None:
    play = Play(profile=stock, scenario=Scenario(unplug_delay=None), options=replace(SAVE, unplug_timeout=2.0))
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, 6)
    assert (play.vm.runstate, play.vm.card, play.store.partial) == ("running", {"primary0": "plugged"}, False)


def test_on_stuck_wait_goes_on_waiting_and_saves_in_the_end(stock: Profile) -> None:
    options = replace(SAVE, unplug_timeout=2.0, on_stuck=OnStuck.WAIT)
    assert Play(profile=stock, scenario=Scenario(unplug_delay=12.0), options=options).run().outcome is Outcome.SAVED


def test_a_guest_paused_by_another_is_resumed_inside_the_cancel_window_and_keeps_its_card(stock: Profile) -> None:
    scenario = Scenario(paused_by_other="wait-unplug", unplug_delay=1.0)
    play = Play(profile=stock, scenario=scenario, options=replace(SAVE, unplug_timeout=3.0))
    result = play.run()
    assert result.outcome is Outcome.CANCELLED
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def test_a_panicked_guest_is_left_as_it_stands(stock: Profile) -> None:
    scenario = Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=1.0)
    play = Play(profile=stock, scenario=scenario)
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert play.vm.runstate == "guest-panicked"
    assert not play.commands("cont")


def test_a_state_that_was_complete_when_qemu_died_is_kept(stock: Profile) -> None:
    play = Play(profile=stock, scenario=Scenario(killed="completed"))
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert play.store.published
    assert result.file == SAVE.output


@pytest.mark.parametrize("moment", ["active", "paused"])
def test_a_qemu_that_dies_half_way_leaves_no_file(stock: Profile, moment: str) -> None:
    play = Play(profile=stock, scenario=Scenario(killed=moment))
    assert play.run().outcome is Outcome.ATTENTION
    assert (play.store.partial, play.store.published) == (False, False)


def test_a_file_that_is_not_whole_is_removed_and_the_guest_runs(stock: Profile) -> None:
    play = Play(profile=stock)
    play.store = Store(refuse="verify")
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 7)
    assert (play.store.partial, play.vm.runstate, play.vm.card) == (False, "running", {"primary0": "plugged"})


def test_a_guest_that_was_to_quit_runs_on_if_its_file_is_not_whole(stock: Profile) -> None:
    play = Play(profile=stock, options=replace(SAVE, then=Then.QUIT))
    play.store = Store(refuse="verify")
    result = play.run()
    assert result.outcome is Outcome.FAILED
    assert (play.vm.alive, play.vm.runstate, play.vm.card) == (True, "running", {"primary0": "plugged"})


def test_resume_brings_a_paused_vm_and_its_card_back(stock: Profile) -> None:
    first = Play(profile=stock, options=replace(SAVE, then=Then.STAY_PAUSED))
    first.run()
    assert first.vm.card == {"primary0": "out"}
    second = Play(profile=stock, options=RESUME)
    second.vm, second.now = first.vm, first.now
    second.vm.disconnect(second.now)
    result = second.run()
    assert result.outcome is Outcome.RESUMED
    assert (second.vm.runstate, second.vm.card) == ("running", {"primary0": "plugged"})


def test_resume_brings_back_a_card_that_the_guest_forgot(stock: Profile) -> None:
    scenario = Scenario(card=CardState.OUT, guest_forgot_card=True)
    play = Play(profile=stock, scenario=scenario, options=RESUME)
    result = play.run()
    assert (result.outcome, play.vm.card) == (Outcome.RESUMED, {"primary0": "plugged"}), result


def test_a_card_that_is_out_already_is_refused_before_anything_is_touched(stock: Profile) -> None:
    play = Play(profile=stock, scenario=Scenario(card=CardState.OUT))
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.REFUSED, 4)
    assert not [each for each in play.sent if isinstance(each, Command) and each.learns is None]


def test_a_card_that_cannot_be_proved_is_never_said_to_be_back(stock: Profile) -> None:
    result = Play(profile=stock, scenario=Scenario(q35=False)).run()
    assert (result.outcome, result.card) == (Outcome.SAVED, "not-proved")


def test_a_check_changes_nothing(stock: Profile) -> None:
    play = Play(profile=stock, options=replace(SAVE, goal=Goal.CHECK))
    assert play.run().outcome is Outcome.CHECKED
    assert not [each for each in play.sent if isinstance(each, Command) and each.learns is None]


def test_a_background_save_stops_the_guest_for_milliseconds_and_brings_the_card_back(stock: Profile) -> None:
    play = Play(profile=stock, options=replace(SAVE, strategy=Strategy.BACKGROUND))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert result.stopped_seconds is not None
    assert result.stopped_seconds < 0.01
    assert play.vm.card == {"primary0": "plugged"}
    assert not play.vm.capabilities


def test_progress_never_runs_backwards() -> None:
    shares: list[float] = []
    play = Play(ram=4 << 30)
    play.watch = lambda play: shares.append(play.work.done_share)
    play.run()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) > 3


def test_a_sleeping_engine_is_woken_for_every_fact_that_grows_old() -> None:
    play = Play(scenario=Scenario(unplug_delay=None))
    play.start()
    while play.work.phase is not Phase.UNPLUG or play.point() is not Point.WAIT:
        play.turn()
    due = wake(play.state)
    assert due is not None
    assert due - play.now <= min(NEEDS[Phase.UNPLUG].values())


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    play = Play()
    play.run()
    before = play.state
    after = workflow.step(before, Answered(before.now))
    assert after == before


def test_events_of_others_are_facts_even_without_a_workflow() -> None:
    play = Play()
    play.connect()
    state = workflow.step(play.state, QmpEvent(1.0, "STOP", {}))
    assert (state.vm.runstate, state.work) == ("paused", None)
    assert workflow.step(state, Tick(2.0)).vm == state.vm


def test_every_phase_but_the_last_has_rules_and_every_rule_does_something_or_waits() -> None:
    assert set(RULES) == set(Phase)
    assert [phase for phase, rules in RULES.items() if not rules] == [Phase.DONE]


# --- what others do meanwhile, and what breaks at odd moments ---------------------------------------------------------


def lose_reply_of_migrate(play: Play, action: Action) -> str | None:
    first = isinstance(action, Command) and action.execute == "migrate" and len(play.commands("migrate")) == 1
    return "drop-after" if first else None


def test_a_migrate_whose_reply_was_lost_is_never_sent_again_once_it_ran(stock: Profile) -> None:
    play = Play(profile=stock, scenario=Scenario(write_fails_after=10_000_000), fault=lose_reply_of_migrate)
    result = play.run()
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 7)
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})
    assert result.stopped_seconds is not None
    assert result.stopped_seconds < 2


@pytest.mark.parametrize("how", ["drop-before", "drop-after"])
@pytest.mark.parametrize(
    ("profile", "cards"),
    [(STOCK_7_2, 0), (STOCK_10_0, 0), (STOCK_11_1, 0), (PAUSE_VM_10_0, 1)],
    ids=["7.2", "10.0", "11.1", "pause-vm"],
)
def test_the_end_of_an_earlier_migration_is_not_taken_for_the_end_of_one_that_never_arrived(
    profile: Profile, cards: int, how: str
) -> None:
    play = Play(profile=profile, scenario=Scenario(primaries=cards))
    assert play.run().outcome is Outcome.SAVED
    before = len(play.commands("migrate"))

    def break_at_migrate(play: Play, action: Action) -> str | None:
        first = isinstance(action, Command) and action.execute == "migrate" and len(play.commands("migrate")) == before + 1
        return how if first else None

    play.fault = break_at_migrate
    play.store = Store()  # the second save has a name of its own
    play.step(Wish(play.now, SAVE))
    while not play.done:
        play.turn()
    assert play.work.outcome is Outcome.SAVED, play.work.failure
    assert len(play.commands("migrate")) == before + (2 if how == "drop-before" else 1)


def test_a_qemu_that_may_not_start_programs_is_never_asked_to(stock: Profile) -> None:
    def refuse_pipes(_play: Play, action: Action) -> str | None:
        return "refuse" if isinstance(action, Command) and action.fd == "broken-pipe" else None

    play = Play(profile=stock, fault=refuse_pipes, argv=("qemu-system-x86_64", "-sandbox", "on,spawn=deny"))
    result = play.run()
    assert not any("exec:" in str(each.arguments.get("uri")) for each in play.commands("migrate"))
    assert result.outcome is Outcome.ATTENTION


@pytest.mark.parametrize("word", ["0x00000000", "0x29c08086"])
def test_another_device_in_the_cards_place_proves_nothing(stock: Profile, word: str) -> None:
    def other(command: Command, value: object) -> object:
        shows = command.learns == "cards" and "migrate" in {each.execute for each in play.sent if isinstance(each, Command)}
        return f"b0200000: {word} 0x00000006\r\n" if shows else value

    play = Play(profile=stock, reply=other)
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert result.card == "not-proved"


def test_a_card_nobody_can_prove_is_not_counted_as_brought_back_by_a_refused_attempt(stock: Profile) -> None:
    def refuse(play: Play, action: Action) -> str | None:
        replug = isinstance(action, Command) and action.execute in ("migrate", "getfd")
        return "refuse" if replug and play.work.phase is Phase.REPLUG else None

    result = Play(profile=stock, scenario=Scenario(q35=False), fault=refuse).run()
    assert result.outcome is Outcome.ATTENTION


def test_a_guest_that_may_still_answer_is_told_with_the_command_that_adds_its_card_again(stock: Profile) -> None:
    result = Play(profile=stock, scenario=Scenario(unplug_delay=None), options=replace(SAVE, unplug_timeout=2.0)).run()
    assert result.exit_code == 6
    assert any("QEMU would then delete card primary0; vmtui heal vm adds it again" in note for note in result.notes)


@pytest.mark.parametrize("latency", [0.06, 0.3, 1.0])
def test_a_slow_monitor_only_slows_a_save_down(stock: Profile, latency: float) -> None:
    play = Play(profile=stock, latency=latency, scenario=Scenario(primaries=2))
    result = play.run()
    assert (result.outcome, set(play.vm.card.values())) == (Outcome.SAVED, {"plugged"})


def test_a_monitor_lost_for_good_while_the_file_is_read_ends_with_the_snapshot_and_attention(stock: Profile) -> None:
    def drop(play: Play) -> None:
        if play.work.phase is Phase.VERIFY and not play.drops:
            play.drop()

    play = Play(profile=stock, back_after=1e9, watch=drop)
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert play.store.published


def test_another_qemu_at_the_same_socket_is_not_taken_for_the_one_that_was_saved(stock: Profile) -> None:
    def restart(play: Play) -> None:
        if play.work.phase is Phase.VERIFY and not play.drops:
            play.pid = 2
            play.drop()

    play = Play(profile=stock, watch=restart)
    assert play.run().outcome is Outcome.ATTENTION


def test_a_guest_that_somebody_let_run_meanwhile_is_not_ended(stock: Profile) -> None:
    def let_run(play: Play) -> None:
        if play.work.phase is Phase.VERIFY and play.vm.runstate == "postmigrate":
            play.vm.cont()

    play = Play(profile=stock, options=replace(SAVE, then=Then.QUIT), watch=let_run)
    result = play.run()
    assert (play.vm.alive, play.vm.runstate, play.vm.card) == (True, "running", {"primary0": "plugged"})
    assert result.outcome is Outcome.ATTENTION


def test_a_migration_of_somebody_else_is_not_cancelled() -> None:
    def refuse(_play: Play, action: Action) -> str | None:
        return "refuse-foreign" if isinstance(action, Command) and action.execute == "migrate" else None

    play = Play(fault=refuse)
    play.run()
    assert not play.commands("migrate_cancel")


@pytest.mark.parametrize("then", [Then.STAY_PAUSED, Then.QUIT])
def test_a_cancel_after_the_copy_lets_a_guest_run_that_was_to_stay_stopped(stock: Profile, then: Then) -> None:
    def cancel(play: Play) -> None:
        if play.work.phase is Phase.VERIFY and not play.work.given_up:
            play.cancel()

    play = Play(profile=stock, options=replace(SAVE, then=then), watch=cancel)
    result = play.run()
    assert (result.outcome, play.vm.runstate, play.vm.card) == (Outcome.CANCELLED, "running", {"primary0": "plugged"})
    assert not play.store.published


def test_an_image_lock_that_is_held_for_a_moment_does_not_leave_the_guest_stopped(stock: Profile) -> None:
    def locked(play: Play, action: Action) -> str | None:
        conts = len(play.commands("cont"))
        return "refuse" if isinstance(action, Command) and action.execute == "cont" and conts < 6 else None

    play = Play(profile=stock, fault=locked)
    assert play.run().outcome is Outcome.SAVED
    assert play.vm.runstate == "running"


def test_a_state_that_is_all_that_is_left_of_a_vm_is_not_thrown_away(stock: Profile) -> None:
    play = Play(profile=stock, scenario=Scenario(killed="completed"))
    play.store = Store(refuse="publish")
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert play.store.partial


def test_a_resume_that_is_cancelled_says_that_it_went_on(stock: Profile) -> None:
    def cancel(play: Play) -> None:
        if play.work.phase is Phase.REPLUG:
            play.cancel()

    play = Play(profile=stock, options=RESUME, watch=cancel, scenario=Scenario(card=CardState.OUT))
    result = play.run()
    assert result.outcome is Outcome.RESUMED
    assert result.notes


def test_the_card_is_brought_back_only_after_qemu_let_go_of_the_file(stock: Profile) -> None:
    """A replug between `completed` and the closing of the file gets stuck, and the file stays open in QEMU."""
    asked: list[float] = []

    def still_open(command: Command, value: object) -> object:
        if command.execute == "query-fdsets" and play.work.phase is Phase.REPLUG and play.commands("remove-fd"):
            asked.append(play.now)
            return [{"fdset-id": 0, "fds": []}] if len(asked) < 10 else []
        return value

    play = Play(profile=stock, options=replace(SAVE, strategy=Strategy.BACKGROUND), reply=still_open)
    result = play.run()
    assert result.outcome is Outcome.SAVED
    names = [each.execute for each in play.sent if isinstance(each, Command)]
    if stock is STOCK_7_2:
        replug = next(at for phase, at in play.work.timeline if phase is Phase.SETTLE)
        assert play.work.marks.completed is not None
        assert replug - play.work.marks.completed >= 0.25
    else:
        assert len(asked) == 10
        assert names.index("remove-fd") < [n for n, name in enumerate(names) if name == "migrate"][1]


def test_no_migration_is_started_while_qemu_tidies_up_behind_one() -> None:
    """A `migrate` sent in that moment ends a QEMU 7.2 (segmentation fault), and the guest with it."""
    play = Play(profile=STOCK_10_0, options=replace(SAVE, strategy=Strategy.BACKGROUND))
    assert play.run().outcome is Outcome.SAVED
    names = [each.execute for each in play.sent if isinstance(each, Command)]
    second = [number for number, name in enumerate(names) if name == "migrate"][1]
    assert "query-yank" in names[:second]


def test_a_qemu_that_never_tidies_up_keeps_its_guest_and_the_card_is_told() -> None:
    def never(command: Command, value: list[object]) -> list[object]:
        return [*value, {"type": "migration"}] if command.execute == "query-yank" else value

    play = Play(profile=STOCK_10_0, reply=never)
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert len(play.commands("migrate")) == 1
    assert play.vm.runstate == "running"
