"""Faults that have a name: what was found once, and how each scenario ends. All faults at all points: tests/explore."""

import pytest
from msgspec.structs import replace

from tests.core.play import Fault, Play
from tests.explore.invariants import broken
from tests.explore.world import name_of as action_name
from vmtui.backend.core.commands import Action, Command
from vmtui.backend.core.conditions import TRIES
from vmtui.backend.core.events import AnyEvent, QmpEvent
from vmtui.backend.core.model import Options, Outcome, Strategy, Then
from vmtui.backend.core.sim import (
    PAUSE_VM_10_0,
    STOCK_7_2,
    STOCK_10_0,
    STOCK_11_1,
    Profile,
    Scenario,
)

PROFILES = (STOCK_7_2, STOCK_10_0, STOCK_11_1, PAUSE_VM_10_0)
SAVE = Options(output="/snap/vm.vmstate")
STRATEGIES = (Strategy.AUTO, Strategy.BACKGROUND)


def name_of(value: object) -> str:
    return getattr(value, "name", str(value))


@pytest.fixture(params=PROFILES, ids=name_of)
def profile(request: pytest.FixtureRequest) -> Profile:
    assert isinstance(request.param, Profile)
    return request.param


def check(play: Play) -> None:
    """The invariants of docs/architecture.md, asked of the twin."""
    assert not list(broken(play)), play.work.notes


def plan(profile: Profile, options: Options = SAVE, scenario: Scenario | None = None) -> Play:
    return Play(profile=profile, options=options, scenario=scenario or Scenario())


def refuse(name: str) -> Fault:
    """This command, or action of the store, is refused each time."""
    return lambda _play, action: "refuse" if action_name(action) == name else None


def test_a_partial_file_that_cannot_be_removed_is_told_loudly(profile: Profile) -> None:
    play = plan(profile, scenario=Scenario(write_fails_after=10_000_000))
    play.fault = refuse("discard")
    result = play.run()
    assert play.store.partial
    assert result.outcome is Outcome.ATTENTION
    assert any(".partial could not be removed" in note for note in result.notes)


@pytest.mark.parametrize("profile", [STOCK_10_0, STOCK_11_1], ids=name_of)
def test_a_file_that_qemu_does_not_let_go_of_is_told_loudly(profile: Profile) -> None:
    play = plan(profile)
    play.fault = refuse("remove-fd")
    result = play.run()
    assert play.vm.fdsets
    assert result.outcome is Outcome.ATTENTION
    assert any("remove-fd" in note for note in result.notes)


@pytest.mark.parametrize("how", ["refuse", "drop-before", "drop-after"])
def test_a_descriptor_whose_closing_went_wrong_is_closed_again(how: str) -> None:
    def once(play: Play, action: Action) -> str | None:
        first = len(play.commands(action_name(action))) == 1
        return {"migrate": "refuse", "closefd": how}.get(action_name(action)) if first else None

    play = plan(STOCK_7_2)
    play.fault = once
    assert play.run().outcome is Outcome.FAILED
    assert len(play.commands("closefd")) == 2
    assert not play.vm.fds


def test_a_descriptor_that_qemu_does_not_close_is_told_loudly() -> None:
    play = plan(STOCK_7_2)
    play.fault = lambda _play, action: "refuse" if action_name(action) in ("migrate", "closefd") else None
    result = play.run()
    assert play.vm.fds
    assert result.outcome is Outcome.ATTENTION
    assert any("closefd" in note for note in result.notes)


def test_a_file_that_was_closed_with_its_connection_is_handed_over_again(profile: Profile) -> None:
    def drop_before_stop(play: Play) -> None:
        if action_name(play.state.outstanding or Command("")) == "stop" and not play.drops:
            play.drop()

    play = plan(profile, replace(SAVE, strategy=Strategy.STOP_FIRST), Scenario(primaries=0))
    play.watch = drop_before_stop
    assert play.run().outcome is Outcome.SAVED
    assert play.drops == 1


@pytest.mark.parametrize("query", ["query-status", "query-migrate-parameters", "query-migrate-capabilities"])
def test_what_qemu_tells_after_all_is_no_alarm(query: str) -> None:
    asked: list[Action] = []

    def refused_at_first(play: Play, action: Action) -> str | None:
        if play.work.baseline is None or action_name(action) != query:
            return None
        asked.append(action)
        return "refuse" if len(asked) <= TRIES else None

    play = plan(STOCK_10_0)
    play.fault = refused_at_first
    assert play.run().outcome is Outcome.FAILED
    assert len(asked) > TRIES


def events_lost(_play: Play, _event: QmpEvent) -> list[AnyEvent]:
    return []


def events_doubled(_play: Play, event: QmpEvent) -> list[AnyEvent]:
    return [event, event]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("what", [events_lost, events_doubled])
def test_lost_and_doubled_events_change_nothing(profile: Profile, strategy: Strategy, what: object) -> None:
    play = plan(profile, replace(SAVE, strategy=strategy))
    play.on_event = what  # type: ignore[assignment]
    result = play.run()
    check(play)
    assert result.outcome is Outcome.SAVED


SCENARIOS = {
    "slow eject": (Scenario(unplug_delay=12.0), Outcome.SAVED),
    "never ejects": (Scenario(unplug_delay=None), Outcome.CANCELLED),
    "disk full": (Scenario(write_fails_after=10_000_000), Outcome.FAILED),
    "paused by another": (Scenario(paused_by_other="wait-unplug", unplug_delay=1.0), Outcome.CANCELLED),
    "panics silently": (Scenario(panics="wait-unplug", panic_device=False, unplug_delay=1.0), Outcome.CANCELLED),
    "panics, paused": (Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=1.0), Outcome.ATTENTION),
    "panics, QEMU exits": (Scenario(panics="wait-unplug", unplug_delay=1.0), Outcome.ATTENTION),
    "killed in wait-unplug": (Scenario(killed="wait-unplug"), Outcome.ATTENTION),
    "killed in active": (Scenario(killed="active"), Outcome.ATTENTION),
    "no q35": (Scenario(q35=False), Outcome.SAVED),
    "already migrating": (Scenario(migrating=True), Outcome.REFUSED),
    "blocked": (Scenario(blocked_reasons=("VFIO device",)), Outcome.REFUSED),
    "paused with its card": (Scenario(runstate="paused"), Outcome.REFUSED),
    "no failover": (Scenario(primaries=0), Outcome.SAVED),
    "two primaries": (Scenario(primaries=2), Outcome.SAVED),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_end_as_they_should(profile: Profile, name: str) -> None:
    scenario, outcome = SCENARIOS[name]
    play = plan(profile, scenario=scenario)
    result = play.run()
    check(play)
    assert result.outcome is outcome, result


def test_a_monitor_that_never_comes_back_is_said_and_the_partial_file_is_kept(profile: Profile) -> None:
    play = plan(profile)

    def drop_for_good(play: Play, action: Action) -> str | None:
        if isinstance(action, Command) and action.execute == "migrate":
            return "drop-after"
        return None

    play.fault, play.back_after = drop_for_good, 1e9
    result = play.run()
    assert result.outcome is Outcome.ATTENTION
    assert any(".partial" in note for note in result.notes)


def test_a_monitor_that_falls_silent_before_quit_is_not_asked_for_ever(profile: Profile) -> None:
    def silent_once_saved(play: Play, action: Action) -> str | None:
        return "lose-reply" if play.store.published and isinstance(action, Command) else None

    play = plan(profile, replace(SAVE, then=Then.QUIT))
    play.fault = silent_once_saved
    assert play.run().outcome is Outcome.ATTENTION
    assert play.store.published


def test_a_qemu_that_quits_after_the_save_leaves_a_snapshot(profile: Profile) -> None:
    play = plan(profile, replace(SAVE, then=Then.QUIT))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert play.store.published
    assert not play.vm.alive


def test_staying_paused_leaves_the_card_out_and_says_so_and_resume_brings_both_back(profile: Profile) -> None:
    play = plan(profile, replace(SAVE, then=Then.STAY_PAUSED))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert play.vm.runstate == "postmigrate"
    assert result.card == "out"
    assert result.restored
