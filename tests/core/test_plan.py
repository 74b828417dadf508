"""Looking at a VM before a save answers for just these options, and hides nothing that happened before."""

import pytest

from tests.core.play import Play
from vmtui.backend.core import plan
from vmtui.backend.core.events import Wish
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import doing
from vmtui.backend.core.model import Goal, OnStuck, Options, Outcome, Strategy, Then
from vmtui.backend.core.naming import default_name
from vmtui.backend.core.state import as_told

SAVE = Options(output="/snap/vm.vmstate")


def looked_after(*goals: Goal) -> Play:
    """A save, then these, each to its end."""
    play = Play(options=SAVE)
    play.run()
    for goal in goals:
        play.step(Wish(play.now, Options(goal=goal, output="/snap/other.vmstate")))
        while not play.done:
            play.turn()
    return play


def test_looking_at_a_vm_does_not_hide_how_its_last_save_ended() -> None:
    state = looked_after(Goal.CHECK, Goal.CHECK).state
    told = as_told(state).work
    assert state.work is not None
    assert state.work.outcome is Outcome.CHECKED
    assert told is not None
    assert (told.outcome, told.options) == (Outcome.SAVED, SAVE)
    assert doing(state).word == "saved"


def test_what_is_done_after_a_look_is_the_last_that_was_done() -> None:
    state = looked_after(Goal.CHECK, Goal.RESUME).state
    told = as_told(state).work
    assert told is not None
    assert told is state.work
    assert told.outcome is Outcome.RESUMED


def test_a_vm_that_was_only_looked_at_has_nothing_to_tell() -> None:
    play = Play(options=Options(goal=Goal.CHECK))
    play.run()
    assert as_told(play.state).work is None
    assert doing(play.state).word == ""


def test_a_look_for_other_options_is_no_answer() -> None:
    play = Play(options=plan.check_of(SAVE))
    play.run()
    assert plan.plan(VmView(play.state), SAVE).verdict.word == "it can be saved"
    for other in (
        Options(output="/snap/other"), Options(output=SAVE.output, strategy=Strategy.BACKGROUND),
        Options(output=SAVE.output, then=Then.QUIT),
    ):  # fmt: skip
        assert plan.plan(VmView(play.state), other).why_not == "looking at the VM"
    patient = Options(output=SAVE.output, unplug_timeout=99, on_stuck=OnStuck.WAIT)
    assert plan.plan(VmView(play.state), patient).why_not == ""


@pytest.mark.parametrize(
    ("vm", "taken", "name"),
    [
        ("web1", (), "web1-S.vmstate"),
        ("web1", ("web1-S.vmstate.partial",), "web1-S-2.vmstate"),
        ("web1", ("web1-S.vmstate", "web1-S-2.vmstate.json"), "web1-S-3.vmstate"),
        ("../../etc/x y", (), "_.._etc_x_y-S.vmstate"),
        ("\x1b[31m", (), "__31m-S.vmstate"),
        ("...", (), "vm-S.vmstate"),
    ],
)
def test_a_state_is_called_after_its_vm_and_no_name_leads_anywhere(vm: str, taken: tuple[str, ...], name: str) -> None:
    assert default_name(vm, "S", taken) == name
