"""A VM that nothing is done to: what is asked of it, how often, and what a front end may change."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.core.recorded import schema
from vmtui.backend.core import commands, idle, workflow
from vmtui.backend.core.commands import Command
from vmtui.backend.core.events import (
    Answered,
    Connected,
    Disconnected,
    KeepWaiting,
    LetRun,
    QmpEvent,
    Refused,
    Tick,
    Tune,
    Unknown,
    Watch,
    Wish,
)
from vmtui.backend.core.model import Card, Fact, Features, Link, Options, Outcome, Phase, Vm
from vmtui.backend.core.sim import STOCK_10_0, CardState, Scenario, SimulatedVm
from vmtui.backend.core.state import State, Watching

LATENCY = 0.001


@dataclass
class Watched:
    """The core beside the twin, and no workflow."""

    scenario: Scenario = field(default_factory=Scenario)
    how: Watching = Watching.GLANCE

    def __post_init__(self) -> None:
        self.vm = SimulatedVm(STOCK_10_0, scenario=self.scenario, schema=schema("stock-10.0"))
        self.state = State(Vm("unix:/sim"), watching=self.how)
        self.now = 0.0
        self.asked: list[tuple[float, str]] = []
        self.vm.connect(0.0)
        self.vm.receive({"execute": "qmp_capabilities"}, 0.0)
        self.vm.output()
        self.step(Connected(0.0, (10, 0, 2), "sim", True, 1, ()))

    def step(self, event: Any) -> None:
        self.state = workflow.step(self.state, event)
        while (action := self.state.outstanding) is not None:
            assert isinstance(action, Command)
            self.state = workflow.step(self.state, self.answer(action))

    def answer(self, command: Command) -> Any:
        self.now += LATENCY
        self.asked.append((self.now, command.execute))
        message: dict[str, Any] = {"execute": command.execute}
        if command.arguments:
            message["arguments"] = command.arguments
        if command.execute == "query-qmp-schema":
            return Answered(self.now, commands.Offered(Features()))
        self.vm.receive(message, self.now)
        events, replies = self.messages()
        for event in events:
            self.state = workflow.step(self.state, event)
        (reply,) = replies
        if "error" in reply:
            return Refused(self.now, reply["error"]["desc"], reply["error"]["class"])
        return Answered(self.now, commands.understand(command, reply["return"]))

    def messages(self) -> tuple[list[QmpEvent], list[dict[str, Any]]]:
        said = self.vm.output()
        events = [QmpEvent(self.now, each["event"], each.get("data", {})) for each in said if "event" in each]
        return events, [each for each in said if "event" not in each]

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            due = [at for at in (self.vm.next_at(), workflow.wake(self.state)) if at is not None]
            self.now = max(min([*due, end]), self.now + 1e-6)
            self.vm.advance(self.now)
            for event in self.messages()[0]:
                self.step(event)
            self.step(Tick(self.now))


def test_a_vm_that_is_glanced_at_is_known_after_one_question_for_each_fact() -> None:
    watched = Watched()
    vm = watched.state.vm
    assert (vm.name, vm.runstate, vm.migration.status, vm.memory) == ("vm", "running", "none", 256 << 20)
    assert [(card.card, card.driven) for card in vm.primaries] == [(Card.PLUGGED, True)]
    assert len(watched.asked) == len(idle.GLANCE)


def test_an_idle_vm_is_asked_less_than_twice_a_minute() -> None:
    watched = Watched()
    watched.asked.clear()
    watched.pass_time(600)
    assert 0 < len(watched.asked) < 2 * 10


def test_nobody_is_asked_anything_where_nobody_watches() -> None:
    watched = Watched(how=Watching.NO)
    watched.pass_time(600)
    assert not watched.asked
    assert workflow.wake(watched.state) is None


def test_a_guest_that_somebody_pauses_is_seen_at_once_and_its_card_is_proved_anew() -> None:
    watched = Watched(Scenario(paused_by_other=5.0))
    before = watched.state.vm.primaries[0].proved_at
    watched.pass_time(6)
    vm = watched.state.vm
    assert vm.runstate == "paused"
    assert vm.primaries[0].proved_at > before
    assert vm.seen[Fact.MIGRATION] > 5


def test_a_migration_of_somebody_else_is_followed_each_second() -> None:
    watched = Watched(Scenario(migrating=True))
    watched.asked.clear()
    watched.pass_time(10)
    assert 8 <= sum(name == "query-migrate" for _at, name in watched.asked) <= 12
    assert watched.state.vm.migration.status != "none"


def test_looking_closely_asks_for_the_settings_too_and_anew_each_time() -> None:
    watched = Watched()
    watched.step(Watch(watched.now, True))
    assert watched.state.vm.parameters["max-bandwidth"] == 128 << 20
    assert "events" in watched.state.vm.capabilities
    first = watched.state.vm.seen[Fact.PARAMETERS]
    watched.step(Watch(watched.now, True))
    assert watched.state.vm.seen[Fact.PARAMETERS] > first


def test_a_question_that_qemu_refuses_is_not_asked_for_ever() -> None:
    watched = Watched()
    state = replace(watched.state, vm=replace(watched.state.vm, seen={}))
    asked = workflow.step(state, Tick(watched.now))
    for _ in range(len(idle.GLANCE) + 5):
        asked = workflow.step(asked, Refused(watched.now, "no"))
    assert asked.outstanding is None
    assert (due := workflow.wake(asked)) is not None
    assert due > watched.now + 1


def test_a_silent_monitor_is_said_to_be_silent_until_it_answers() -> None:
    state = replace(Watched().state, vm=replace(Watched().state.vm, seen={}))
    state = workflow.step(workflow.step(state, Tick(1.0)), Unknown(11.0, "no answer within 10 s"))
    assert state.vm.why_lost == "no answer within 10 s"
    assert isinstance(state.outstanding, Command)
    answered = workflow.step(state, Answered(12.0, commands.Text("vm")))
    assert not answered.vm.why_lost


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_that_are_asked_for_are_what_qemu_has_afterwards() -> None:
    watched = Watched()
    watched.step(Tune(watched.now, {"downtime-limit": 500}, {"xbzrle": True}))
    assert watched.vm.parameters["downtime-limit"] == 500
    assert "xbzrle" in watched.vm.capabilities
    tuned = watched.state.tuned
    assert tuned is not None
    assert (tuned.names, tuned.error) == (("xbzrle",), "")


def test_what_qemu_refuses_is_told_in_its_words() -> None:
    watched = Watched()
    watched.step(Tune(watched.now, {"max-cpu-throttle": 1000}))
    tuned = watched.state.tuned
    assert tuned is not None
    assert "max-cpu-throttle" in tuned.error or "max_cpu_throttle" in tuned.error
    assert watched.vm.parameters["max-cpu-throttle"] != 1000


def test_settings_that_could_not_be_sent_before_the_connection_broke_are_given_up_aloud() -> None:
    watched = Watched()
    busy = replace(watched.state, outstanding=Command("query-status", learns=Fact.STATUS))
    asked = workflow.step(busy, Tune(watched.now, {"downtime-limit": 500}))
    lost = workflow.step(asked, Disconnected(watched.now, Link.LOST, "broke"))
    assert not lost.tunes
    assert lost.tuned is not None
    assert "broke" in lost.tuned.error


def once(phase: Phase, make: Any) -> Any:
    done: list[bool] = []

    def watch(play: Play) -> None:
        if play.work.phase is phase and not done:
            done.append(True)
            play.step(make(play.now))

    return watch


def test_the_bandwidth_of_a_copy_can_be_changed_while_it_runs_and_is_put_back() -> None:
    play = Play(ram=1 << 30)
    seen: list[int] = []

    def watch(play: Play) -> None:
        tune(play)
        if play.work.phase is Phase.SAVE:
            seen.append(int(play.vm.parameters["max-bandwidth"]))

    tune = once(Phase.SAVE, lambda now: Tune(now, {"max-bandwidth": 100 << 20}))
    play.watch = watch
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert result.stopped_seconds is not None
    assert result.stopped_seconds > 1, "330 MB at 100 MiB/s"
    assert 100 << 20 in seen
    assert dict(play.vm.parameters) == play.before[0]


@pytest.mark.parametrize(
    ("tune", "reason"),
    [
        (Tune(0.0, {"mode": "normal"}), "itself while it saves"),
        (Tune(0.0, {}, {"xbzrle": True}), "only while no migration runs"),
    ],
)
def test_what_a_save_relies_on_cannot_be_changed_during_it(tune: Tune, reason: str) -> None:
    play = Play(ram=1 << 30)
    play.watch = once(Phase.SAVE, lambda now: replace(tune, at=now))
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert play.state.tuned is not None
    assert reason in play.state.tuned.error
    assert "xbzrle" not in play.vm.capabilities


def test_other_settings_can_be_changed_during_a_save_and_stay_so() -> None:
    play = Play(ram=1 << 30)
    play.watch = once(Phase.SAVE, lambda now: Tune(now, {"downtime-limit": 777}))
    assert play.run().outcome is Outcome.SAVED
    assert play.vm.parameters["downtime-limit"] == 777


# --- a guest that takes its time --------------------------------------------------------------------------------------


def test_a_guest_that_is_given_more_time_uses_it() -> None:
    hasty = Options(output="/snap/vm.vmstate", unplug_timeout=2.0)
    play = Play(scenario=Scenario(unplug_delay=6.0), options=hasty)
    play.watch = once(Phase.UNPLUG, lambda now: KeepWaiting(now, 10.0))
    assert play.run().outcome is Outcome.SAVED


def test_a_guest_that_somebody_paused_is_resumed_on_demand_and_saved() -> None:
    play = Play(scenario=Scenario(paused_by_other="wait-unplug", unplug_delay=1.0))
    play.watch = once(Phase.UNPLUG, LetRun)
    result = play.run()
    assert result.outcome is Outcome.SAVED
    assert (play.vm.runstate, play.vm.card) == ("running", {"primary0": "plugged"})


def test_a_guest_that_runs_is_not_resumed_on_demand() -> None:
    play = Play(scenario=Scenario(unplug_delay=1.0))
    play.watch = once(Phase.UNPLUG, LetRun)
    assert play.run().outcome is Outcome.SAVED
    assert len(play.commands("cont")) == 1, "that after the copy"


def test_a_guest_that_panicked_is_not_resumed_on_demand_over_the_evidence() -> None:
    play = Play(scenario=Scenario(panics="wait-unplug", unplug_delay=None))

    def let_run(play: Play) -> None:
        if play.vm.runstate == "guest-panicked":
            play.step(LetRun(play.now))

    play.watch = let_run
    play.run()
    assert (play.vm.runstate, play.commands("cont")) == ("guest-panicked", [])


def test_a_wish_while_a_question_is_under_way_does_not_take_its_answer_for_another() -> None:
    watched = Watched(Scenario(card=CardState.PLUGGED))
    busy = replace(watched.state, vm=replace(watched.state.vm, seen={}))
    asked = workflow.step(busy, Tick(watched.now))
    begun = workflow.step(asked, Wish(watched.now, Options(output="/snap/x")))
    assert begun.outstanding is not asked.outstanding
    assert begun.actions == asked.actions + 1
