"""No ending is bad: faults at every command, the invariants checked by asking the twin, not vmtui."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from vmtui.backend.core.commands import Action, Command
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
    outcome, vm = play.work.outcome, play.vm
    told = outcome is Outcome.ATTENTION
    touched = play.work.baseline is not None
    if vm.alive and touched and play.work.options.then is Then.RESUME:
        assert vm.runstate == "running" or told, f"left {vm.runstate}, said {outcome}"
        assert vm.card.get("primary0", "plugged") == "plugged" or told, f"card {vm.card}, said {outcome}"
    if vm.alive:
        assert (dict(vm.parameters), vm.capabilities) == play.before or told, f"settings changed, said {outcome}"
        assert told or (not vm.fdsets and not vm.fds), f"QEMU still holds {vm.fdsets} {vm.fds}, said {outcome}"
    assert not (play.store.published and play.store.partial)
    if outcome is not Outcome.ATTENTION:
        assert not play.store.partial, f"a partial file is left, said {outcome}"
    if outcome is Outcome.SAVED:
        assert play.store.published
    if outcome in (Outcome.FAILED, Outcome.CANCELLED):
        assert not play.store.published


def plan(profile: Profile, options: Options = SAVE, scenario: Scenario | None = None) -> Play:
    return Play(profile=profile, options=options, scenario=scenario or Scenario())


def nth(number: int, how: str, *, for_ever: bool = False) -> "Fault":
    return Fault(number, how, for_ever)


class Fault:
    """The n-th action fails, once or from then on."""

    def __init__(self, number: int, how: str, for_ever: bool) -> None:
        self.number, self.how, self.for_ever = number, how, for_ever

    def __call__(self, play: Play, _action: Action) -> str | None:
        count = len(play.sent)
        return self.how if count == self.number or (self.for_ever and count > self.number) else None


def actions_of_a_good_save(profile: Profile, options: Options) -> int:
    play = plan(profile, options)
    assert play.run().outcome is Outcome.SAVED
    return len(play.sent)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize(
    ("how", "for_ever"),
    [("refuse", False), ("refuse", True), ("drop-before", False), ("drop-after", False), ("lose-reply", False)],
)
def test_every_action_may_fail_in_every_way(profile: Profile, strategy: Strategy, how: str, for_ever: bool) -> None:
    options = replace(SAVE, strategy=strategy)
    for number in range(1, actions_of_a_good_save(profile, options) + 1):
        play = plan(profile, options)
        play.fault = nth(number, how, for_ever=for_ever)
        play.run()
        check(play)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_cancel_at_every_step_ends_as_before(profile: Profile, strategy: Strategy) -> None:
    options = replace(SAVE, strategy=strategy)
    good = plan(profile, options)
    good.run()
    for number in range(1, good.steps + 1):
        play = plan(profile, options)

        def watch(play: Play, number: int = number) -> None:
            if play.steps == number:
                play.cancel()

        play.watch = watch
        result = play.run()
        check(play)
        assert result.outcome in (Outcome.CANCELLED, Outcome.SAVED), (number, result)


def test_cancel_during_a_broken_step_still_ends_as_before(profile: Profile) -> None:
    for number in range(1, actions_of_a_good_save(profile, SAVE) + 1):
        for how in ("refuse", "drop-after"):
            play = plan(profile)
            play.fault = nth(number, how)

            def watch(play: Play, number: int = number) -> None:
                if len(play.sent) == number + 1:
                    play.cancel()

            play.watch = watch
            play.run()
            check(play)


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


def test_each_single_event_may_be_lost(profile: Profile) -> None:
    for lost in range(1, 12):
        play, seen = plan(profile), iter(range(1, 1000))

        def drop_one(_play: Play, event: QmpEvent, lost: int = lost, seen: Iterator[int] = seen) -> list[AnyEvent]:
            return [] if next(seen) == lost else [event]

        play.on_event = drop_one
        assert play.run().outcome is Outcome.SAVED
        check(play)


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


@pytest.mark.parametrize("name", SCENARIOS)
def test_cancel_in_every_scenario(profile: Profile, name: str) -> None:
    scenario, _ = SCENARIOS[name]
    hasty = replace(SAVE, unplug_timeout=2.0)
    good = plan(profile, hasty, scenario)
    good.run()
    for number in range(1, good.steps + 1, max(3, good.steps // 25)):
        play = plan(profile, hasty, scenario)

        def watch(play: Play, number: int = number) -> None:
            if play.steps == number:
                play.cancel()

        play.watch = watch
        play.run()
        check(play)


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
