"""The phases, the pair and the pace of a save, as every front end tells them."""

import io
import re
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.ui.vm_states import NEVER, SAVE, SLOW_DISK, Story, When, copied, fleet, in_phase, over, phase
from vmtui import headless
from vmtui.backend.core import conditions as is_
from vmtui.backend.core import pace, pair, possible, words
from vmtui.backend.core.events import Tune
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import Tone, card_of, detail, doing
from vmtui.backend.core.model import Card, Goal, Options, Phase, Strategy, Then
from vmtui.backend.core.pace import Sample
from vmtui.backend.core.result import report
from vmtui.backend.core.sim import PAUSE_VM_10_0, CardState, Scenario
from vmtui.backend.core.state import State
from vmtui.backend.core.story import happening, steps, to_come

WAYS: dict[str, dict[str, Any]] = {
    "stock": {},
    "pause-vm": {"profile": PAUSE_VM_10_0},
    "background": {"options": Options(output="/snap/x", strategy=Strategy.BACKGROUND)},
    "no card": {"scenario": Scenario(primaries=0)},
    "stay paused": {"options": replace(SAVE, then=Then.STAY_PAUSED)},
    "quit": {"options": replace(SAVE, then=Then.QUIT)},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_phases_that_are_to_come_are_those_that_come(way: str) -> None:
    story = Story(**WAYS[way]).until(phase(Phase.SAVE))
    foretold = to_come(story.play.work)
    story.until(over)
    came = story.play.phases()
    after = came[came.index(Phase.SAVE) + 1 : -1]
    passing = [each for each in after if each not in foretold]
    assert tuple(each for each in after if each in foretold) == foretold
    assert passing in ([], [Phase.REPLUG])


def test_a_cancelled_save_foretells_what_is_undone() -> None:
    story = Story(scenario=SLOW_DISK).until(copied(0.3)).cancel()
    assert to_come(story.play.work) == (Phase.RESUME, Phase.REPLUG, Phase.SETTLE, Phase.VERIFY, Phase.PROVE)


def test_qemu_s_own_words_stand_beside_the_phases() -> None:
    story = Story().until(over)
    told = {step.phase: step.qemu for step in steps(story.view.state, story.view.log)}
    assert told[Phase.UNPLUG] == ("setup", "wait-unplug")
    assert told[Phase.SAVE][-1] == "device"
    assert told[Phase.FINISH] == ("completed",)


def test_the_phase_that_failed_to_prove_the_vm_stands_out() -> None:
    story = Story(scenario=Scenario(panics="running", panic_action="pause")).until(over)
    assert steps(story.view.state)[-1].tone is Tone.BAD


def carrying(state: State) -> str:
    return pair.pairs(state)[0].carries


def test_the_traffic_goes_over_the_primary_until_the_guest_lets_it_go_and_nowhere_while_the_guest_is_stopped() -> None:
    assert carrying(in_phase(Phase.UNPLUG).state) == pair.PRIMARY
    assert carrying(in_phase(Phase.SAVE).state) == pair.NOBODY
    background = Options(output="/snap/x", strategy=Strategy.BACKGROUND)
    assert carrying(in_phase(Phase.SAVE, options=background).state) == pair.STANDBY
    assert carrying(Story().until(over).view.state) == pair.PRIMARY


def test_a_card_that_was_let_go_is_not_called_plugged_and_has_no_proof_yet() -> None:
    (found,) = pair.pairs(in_phase(Phase.SAVE).state)
    assert found.card.word == "out"
    assert found.proved_at is None


def test_the_details_of_a_list_do_not_call_a_card_plugged_that_was_let_go() -> None:
    view = in_phase(Phase.SAVE)
    (told,) = [text for label, text, _tone in detail(view, fleet(view), view.state.now) if label == "card"]
    assert told.startswith("primary0 out")
    assert "plugged" not in told


def test_a_proof_has_its_time() -> None:
    story = Story().until(over)
    (found,) = pair.pairs(story.view.state)
    assert found.proved_at == story.view.state.vm.primaries[0].proved_at


def test_the_rate_and_the_time_left_are_those_of_the_last_seconds_not_of_the_whole_copy() -> None:
    """Pages that hold nothing go by in no time: what they took says nothing about the others."""
    story = Story(scenario=Scenario(disk_speed=40e6)).until(copied(0.7))
    fast = pace.rate(story.view.state)
    story.play.vm.parameters["max-bandwidth"] = 1_000_000  # by another monitor: the save is not told
    story.play.vm.parameters_changed()
    now = story.play.now
    story.until(lambda play: play.now > now + 6)
    state = story.view.state
    assert pace.rate(state) == pytest.approx(fast / 40, rel=0.1)


def test_the_time_left_follows_a_change_of_the_bandwidth_at_once() -> None:
    story = Story(scenario=Scenario(disk_speed=40e6)).until(copied(0.7))
    fast = pace.rate(story.view.state)
    story.play.step(Tune(story.play.now, {"max-bandwidth": 1 << 20}))
    now = story.play.now
    story.until(lambda play: play.now > now + 1.5)
    assert 0 < pace.rate(story.view.state) < fast / 4


def test_every_front_end_shows_the_same_rate() -> None:
    state = Story(scenario=SLOW_DISK).until(copied(0.5)).view.state
    shown = f"{words.size(pace.rate(state))}/s"
    assert shown in doing(state).word
    assert shown in words.progress_line(state)


def test_samples_are_of_this_copy_only_and_apart() -> None:
    story = Story(scenario=SLOW_DISK).until(copied(0.5))
    kept = pace.sampled((Sample(-5.0, 1.0),), story.view.state)
    assert len(kept) == 1
    assert pace.sampled(kept, story.view.state) == kept


def test_a_rate_between_samples() -> None:
    assert pace.rates((Sample(0, 0), Sample(1, 100), Sample(3, 200)), 5) == (100.0, 50.0)


def test_cancel_is_possible_in_every_phase_until_the_file_is_in_its_place() -> None:
    reasons: dict[Phase, str] = {}
    story = Story()

    def look(play: Play) -> None:
        reasons.setdefault(play.work.phase, possible.cancel(play.state))

    story.play.watch = look
    story.until(over)
    after = {Phase.PROVE}
    assert {name for name, why in reasons.items() if why} == after
    assert possible.cancel(story.view.state) == "nothing is under way"


def test_somebody_else_s_migration_is_not_ours_to_cancel_and_nothing_is_saved_beside_it() -> None:
    state = Story(scenario=Scenario(migrating=True)).rest().view.state
    assert "not vmtui's" in possible.cancel(state)
    assert possible.save(state) == "somebody else migrates it"


def test_the_copy_of_a_save_is_nobody_else_s_migration() -> None:
    state = Story(scenario=SLOW_DISK).until(copied(0.3)).view.state
    assert is_.migration_running(state)
    assert not is_.somebody_else_migrates(state), "the screens ask it of any VM"


def test_a_save_that_qemu_did_not_survive_is_not_somebody_else_s_migration() -> None:
    state = Story(scenario=Scenario(killed="active")).until(over).view.state
    assert is_.migration_running(state)
    assert doing(state).word == "NEEDS ATTENTION"
    assert happening(state) == ""
    assert possible.cancel(state) == "nothing is under way"


def test_a_qemu_that_ended_as_it_was_to_is_told_of_without_alarm() -> None:
    state = Story(options=replace(SAVE, then=Then.QUIT)).until(over).view.state
    assert words.standing_line(state).startswith("QEMU has ended, as it was to")


def test_a_card_that_was_asked_for_in_vain_is_plugged_and_may_still_leave() -> None:
    state = Story(scenario=NEVER).until(over).view.state
    assert (card_of(state).word, card_of(state).tone) == ("plugged, asked", Tone.WARN)
    assert pair.pairs(state)[0].proof.startswith("PCI config")


def test_of_a_qemu_that_ended_nothing_is_said_as_if_it_were_so_now() -> None:
    (shown,) = pair.pairs(Story(scenario=Scenario(killed="active")).until(over).view.state)
    assert shown.carries == pair.NOBODY
    assert shown.traffic == "no traffic: QEMU has ended"
    assert shown.card.tone is Tone.DIM


def test_of_a_qemu_that_does_not_answer_the_traffic_is_what_was_known_last() -> None:
    story = Story().rest()
    story.play.drop()
    (shown,) = pair.pairs(story.view.state)
    assert shown.traffic == "last known: over the primary"


def test_a_remedy_on_a_screen_is_a_key_and_no_command() -> None:
    assert words.on_screen("; vmtui resume VM tries once more") == "; Resume on the VM's screen tries once more"
    assert words.on_screen("take a core dump (vmtui dump web1), then") == "take a core dump (Dump on the VM's screen), then"
    assert words.on_screen("x; vmtui heal 'web 1' adds it") == "x; Resume on the VM's screen adds it"


def proved(state: State) -> list[tuple[str, str]]:
    return list(words.proof(state))


def test_of_a_guest_that_panicked_the_remedy_comes_first_and_no_driver_is_said_to_run() -> None:
    state = Story(scenario=Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=None)).until(over).view.state
    first, *others = proved(state)
    assert first == ("note", "the guest has panicked; take a core dump (vmtui dump vm), then reset it")
    told = dict(others)
    assert told["guest"] == "guest-panicked, stopped since it panicked"
    assert told["card"].startswith("primary0 plugged, proved")
    assert "driver" not in told["card"]
    assert not any("may still answer" in text for _word, text in others)


def test_of_a_guest_that_may_still_answer_the_command_that_helps_then_is_told_by_its_name() -> None:
    state = Story(scenario=NEVER).until(over).view.state
    (told,) = [text for word, text in proved(state) if word == "note" and "may still answer" in text]
    assert told.endswith("vmtui heal vm adds it again")


def test_a_guest_that_stays_paused_is_said_to_be_paused_with_what_lets_it_run() -> None:
    state = Story(options=replace(SAVE, then=Then.STAY_PAUSED)).until(over).view.state
    assert dict(proved(state))["guest"] == "paused (QEMU calls it postmigrate); vmtui resume vm lets it run"


def test_of_a_qemu_that_was_to_end_nothing_is_said_that_reads_like_a_failure() -> None:
    state = Story(options=replace(SAVE, then=Then.QUIT)).until(over).view.state
    assert [word for word, _text in proved(state)] == ["file", "guest"]
    assert dict(proved(state))["guest"] == "QEMU has ended, as it was to after the save"


def test_the_reason_for_a_strategy_does_not_contradict_the_findings() -> None:
    state = Story(scenario=Scenario(card=CardState.OUT), options=replace(SAVE, goal=Goal.CHECK)).until(over).view.state
    assert state.work is not None
    assert state.work.why == "its failover card is not plugged: the guest has nothing to unplug"


def test_a_vm_that_is_paused_can_be_resumed_and_one_that_runs_with_its_card_needs_it_not() -> None:
    assert possible.resume(Story(scenario=Scenario(runstate="paused")).rest().view.state) == ""
    assert possible.resume(Story().rest().view.state) != ""


def test_a_vm_whose_card_is_out_or_was_deleted_can_be_resumed() -> None:
    state = Story().rest().view.state
    for where in (Card.OUT, Card.DELETED):
        cards = tuple(replace(card, card=where) for card in state.vm.primaries)
        assert possible.resume(replace(state, vm=replace(state.vm, primaries=cards))) == ""


def test_a_read_only_front_end_has_one_reason_for_all_that_changes() -> None:
    state = Story().rest().view.state
    assert possible.why_not(state, "save", read_only=True) == possible.READ_ONLY
    assert possible.why_not(state, "parameters", read_only=True) == ""


def test_a_resume_is_not_undone() -> None:
    view = in_phase(Phase.RESUME, scenario=Scenario(runstate="paused"), options=Options(goal=Goal.RESUME))
    assert possible.cancel(view.state) == "a resume is not undone"


def told_as_lines(story: Story, when: When = over) -> list[str]:
    """What a pipe gets, to which every step is shown."""
    out = io.StringIO()
    printer = headless.LinePrinter(out)

    def look(play: Play) -> None:
        printer.show(VmView(play.state))

    story.play.watch = look
    story.until(when)
    if when is over:
        printer.end(story.view, report(story.view.state))
    return out.getvalue().splitlines()


def test_the_line_that_moves_has_room_on_80_columns_for_the_time_that_is_left() -> None:
    view = Story(scenario=Scenario(disk_speed=20e6), ram=16 << 30).until(copied(0.3)).view
    line = headless.live_line(view)
    assert re.fullmatch(r"save +\d+% of 16\.0 GiB  [\d.]+ MiB/s  \d+ min \d+ s left  stopped \d+ min \d+ s", line)
    assert len(line) < 80


@pytest.mark.parametrize(("value", "text"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (275.6, "4 min 36 s"), (7260, "2 h 1 min")])
def test_a_duration_to_the_second(value: float, text: str) -> None:
    assert words.about(value) == text


def test_into_a_pipe_a_save_tells_that_it_goes_on() -> None:
    lines = told_as_lines(Story(scenario=Scenario(disk_speed=20e6), ram=16 << 30))
    copying = [line for line in lines if " s  save " in line]
    times = [float(line.split(" s ")[0]) for line in copying]
    assert max(after - before for before, after in pairwise(times)) < 31
    assert all("left  stopped" in line for line in copying[1:])
    assert [f" {tenth}% of" in "".join(copying) for tenth in (10, 20, 30)] == [True] * 3


def test_a_short_save_tells_each_phase_once() -> None:
    lines = [line for line in told_as_lines(Story()) if " s  " in line]
    assert len(lines) == len({line.split()[2] for line in lines})


def test_of_a_cancelled_save_nothing_is_said_to_have_been_read_through() -> None:
    story = Story(scenario=SLOW_DISK).until(copied(0.3)).cancel()
    lines = told_as_lines(story)
    (told,) = [line for line in lines if " verify " in line]
    assert told.endswith("removing the partial file")
    (step,) = [step for step in steps(story.view.state) if step.phase is Phase.VERIFY]
    assert (step.tone, step.seconds) == (Tone.DIM, None)


@pytest.mark.parametrize("then", [Then.STAY_PAUSED, Then.QUIT])
def test_a_guest_that_is_to_stay_stopped_is_not_said_to_be_resumed(then: Then) -> None:
    assert not any("resuming" in line for line in told_as_lines(Story(options=replace(SAVE, then=then))))


def test_a_resume_of_a_vm_that_needs_none_says_so_and_names_nothing_that_it_does_not_do() -> None:
    lines = told_as_lines(Story(options=Options(goal=Goal.RESUME)))
    assert "vm: runs, and nothing of it was missing: there was nothing to do" in lines
    assert [line.split()[2] for line in lines if " s  " in line] == ["preflight", "prove"]
    paused = told_as_lines(Story(scenario=Scenario(runstate="paused"), options=Options(goal=Goal.RESUME)))
    assert "vm: runs" in paused
    assert not any("reading the file" in line for line in paused)


def test_while_qemu_waits_for_a_guest_that_has_forgotten_its_card_that_is_told() -> None:
    forgotten = Scenario(card=CardState.OUT, guest_forgot_card=True)
    lines = told_as_lines(Story(scenario=forgotten, options=Options(goal=Goal.RESUME)))
    assert any("the guest does not see its card; QEMU waits up to" in line for line in lines)
