"""What is said of a guest that does not let go of its card, and when somebody is told."""

from typing import Any

from msgspec.structs import replace

from tests.ui.vm_states import NEVER, SAVE, Story, waited
from vmtui.backend.core import possible, verdict
from vmtui.backend.core.fleet import Snapshot, Standing
from vmtui.backend.core.model import OnStuck
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.snapshot import Host, Manifest, manifest
from vmtui.backend.core.state import State
from vmtui.backend.core.verdict import Kind, Usual

PAUSED = Scenario(paused_by_other="wait-unplug", unplug_delay=0.4)
PANICKED = Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=None)
WAITS = replace(SAVE, on_stuck=OnStuck.WAIT)


def state_after(seconds: float, **play: Any) -> State:
    return Story(**{"scenario": NEVER, **play}).until(waited(seconds)).view.state


def consequence(state: State, what: str) -> str:
    return next(each.consequence for each in verdict.choices(state) if each.what == what)


def saved_manifest(unplug_seconds: float | None, uuid: str = "") -> Manifest:
    story = Story().until(lambda play: play.done)
    made = manifest(story.view.state, Host("host", "1", "2026-01-01T00:00:00+00:00"))
    return replace(made, unplug_seconds=unplug_seconds, uuid=uuid or made.uuid)


def test_a_guest_is_waited_for_then_slow() -> None:
    kinds = [found.kind for seconds in (1, 6) if (found := verdict.verdict(state_after(seconds)))]
    assert kinds == [Kind.WAITING, Kind.SLOW]


def test_there_is_no_verdict_once_the_guest_was_given_up() -> None:
    story = Story(scenario=NEVER).until(waited(3)).cancel()
    assert verdict.verdict(story.view.state) is None


def test_a_guest_that_somebody_paused_cannot_answer_and_may_be_resumed() -> None:
    state = state_after(3, scenario=PAUSED)
    found = verdict.verdict(state)
    assert found is not None
    assert found.kind is Kind.PAUSED
    assert possible.resume(state) == ""
    assert "QEMU would delete its card" in consequence(state, "cancel")


def test_a_guest_that_runs_cannot_be_resumed() -> None:
    assert possible.resume(state_after(3)) != ""


def test_a_panicked_guest_is_dead_and_left_as_it_stands() -> None:
    state = state_after(3, scenario=PANICKED, options=WAITS)
    found = verdict.verdict(state)
    assert found is not None
    assert found.kind is Kind.DEAD
    assert any("cancel first, then dump" in line for line in found.known)
    assert "left as it stands" in consequence(state, "cancel")
    assert possible.resume(state) != ""


def test_without_a_panic_device_it_is_said_that_silence_may_be_a_crash() -> None:
    found = verdict.verdict(state_after(6, argv=("qemu",)))
    assert found is not None
    assert any("no panic device" in line for line in found.known)


def test_nobody_is_called_while_a_guest_takes_what_it_usually_takes() -> None:
    state = state_after(12)
    assert verdict.occasion(state, Usual(12.0, 3)) is None
    assert verdict.occasion(state) is not None


def test_a_deadline_that_is_near_is_an_occasion_of_its_own_and_more_time_makes_another() -> None:
    story = Story(scenario=NEVER).until(waited(21))
    first = verdict.occasion(story.view.state)
    story.wait(12).until(waited(25))
    second = verdict.occasion(story.view.state)
    assert first is not None
    assert second is not None
    assert first.deadline != second.deadline


def test_a_guest_paused_for_a_moment_only_calls_nobody() -> None:
    story = Story(scenario=PAUSED).until(lambda play: play.vm.runstate == "paused")
    assert verdict.occasion(story.view.state) is None


def test_what_a_guest_usually_takes_is_the_median_of_its_own_saves() -> None:
    vm = Story().begin().view.state.vm
    made = [saved_manifest(seconds) for seconds in (0.3, 9.0, 0.5, None)] + [saved_manifest(50.0, uuid="another")]
    shelf = [Snapshot(f"/{number}", 1, 1.0, Standing.WHOLE, manifest=each) for number, each in enumerate(made)]
    vm = replace(vm, uuid=made[0].uuid, name=made[0].name)
    assert verdict.usual(shelf, vm) == Usual(0.5, 3)
