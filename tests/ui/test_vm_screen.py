"""What a person reads on the screen of one VM, and what its keys ask for."""

from typing import Any

import pytest
from msgspec.structs import replace
from textual.widgets import Digits

from tests.ui.frozen import SIZES, Hands, settle, text_of
from tests.ui.showing import Showing, run
from tests.ui.vm_states import KEY, NEVER, SLOW_DISK, Story, copied, fleet, in_phase, over, waited
from vmtui.backend.core.fleet import Begin, CancelWish, LetRunWish, Request, VmView, WaitWish, WatchWish
from vmtui.backend.core.model import Goal, Phase
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.sim.scenario import CardState
from vmtui.screens.vm import VmScreen
from vmtui.widgets.migration_progress import BLOCKS

ARGV = ("qemu", "-device", "e1000e,id=primary0,bus=root1,failover_pair_id=ua-standby0")
PAUSED = Scenario(paused_by_other="wait-unplug", unplug_delay=0.4)


def typed_at(ui: Showing) -> Showing:
    """Somebody has pressed a key just now: no dialog opens by itself."""
    ui.app._typed = ui.now
    return ui


def read(view: VmView, size: tuple[int, int] = (80, 24)) -> str:
    ui = typed_at(Showing(fleet(view), now=view.state.now))

    async def look(_hands: Hands) -> str:
        return text_of(ui.app)

    return str(run(ui, size, look, VmScreen(KEY)))


def pressed(view: VmView, *keys: str, read_only: bool = False) -> list[Request]:
    """What is asked for, apart from looking closely at the VM."""
    ui = typed_at(Showing(fleet(view), now=view.state.now, read_only=read_only))

    async def press(hands: Hands) -> Any:
        await hands.press(*keys)
        await settle(ui.app)

    run(ui, (80, 24), press, VmScreen(KEY))
    return [each for each in ui.source.asked if not isinstance(each, WatchWish)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_save_shows_its_phase_its_share_and_how_long_the_guest_stands_still(size: tuple[int, int]) -> None:
    view = Story(scenario=SLOW_DISK).until(copied(0.8)).view
    seen = read(view, size)
    assert "▶ save" in seen
    assert "85%" in seen
    assert "the guest is stopped" in seen
    assert "no traffic: the guest does not run" in seen


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_end_is_a_card_of_proved_facts(size: tuple[int, int]) -> None:
    seen = read(Story().until(over).view, size)
    assert "● vm: saved" in seen
    assert "all parameters and capabilities as they were" in seen
    assert "traffic goes over the primary" in seen


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_unplug_has_a_verdict_and_says_what_happens_when_the_time_is_up(size: tuple[int, int]) -> None:
    seen = read(Story(scenario=NEVER).until(waited(7)).view, size)
    assert "slow: the guest was asked 7 s ago" in seen
    assert "In 23 s the save is cancelled by itself" in seen
    assert "Cancel" in seen.splitlines()[-1]


def test_the_time_that_the_guest_stands_still_is_large() -> None:
    ui = Showing(fleet(Story(scenario=SLOW_DISK).until(copied(0.8)).view), now=3.0)

    async def look(_hands: Hands) -> str:
        return ui.app.screen.query_one(Digits).value

    assert run(ui, (80, 24), look, VmScreen(KEY)) == "3.5"


@pytest.mark.slice
def test_the_rate_is_drawn_as_a_line_of_what_the_screen_saw() -> None:
    story = Story(scenario=SLOW_DISK).until(copied(0.4))
    ui = Showing(fleet(story.view), now=story.view.state.now)

    async def look(_hands: Hands) -> str:
        for share in (0.5, 0.6, 0.7):
            view = story.until(copied(share)).view
            await ui.draw(fleet(view), view.state.now)
        return text_of(ui.app)

    seen = str(run(ui, (80, 24), look, VmScreen(KEY)))
    (line,) = [each for each in seen.splitlines() if "MiB/s" in each and "left" in each]
    assert set(line) & set(BLOCKS)


def test_a_vm_that_rests_is_described() -> None:
    seen = read(Story().rest().view)
    assert "5bce98f7-3f3e-40c8-87f2-729ed9509b38" in seen
    assert "Nothing is under way" in seen


def test_a_monitor_that_broke_leaves_the_last_known_values_and_says_so() -> None:
    story = Story().rest()
    story.play.drop()
    seen = read(story.view)
    assert "QEMU does not answer: the monitor's connection broke" in seen
    assert "pc-q35-10.0" in seen


def test_somebody_else_s_migration_is_shown_and_left_alone() -> None:
    seen = read(Story(scenario=Scenario(migrating=True)).rest().view)
    assert "somebody else migrates this VM" in seen


def test_a_vm_that_has_left_the_fleet_stays_as_it_was_last() -> None:
    view = Story().rest().view
    ui = Showing(fleet(view), now=view.state.now)

    async def leave(_hands: Hands) -> str:
        await ui.draw(replace(fleet(view), vms={}), ui.now)
        return text_of(ui.app)

    seen = run(ui, (80, 24), leave, VmScreen(KEY))
    assert "not on the host any more" in seen
    assert "pc-q35-10.0" in seen


def test_hostile_names_are_inert() -> None:
    view = Story().rest().view
    named = replace(view, state=replace(view.state, vm=replace(view.state.vm, name="[red]\x1b[31m")))
    assert "[red]\\x1b[31m" in read(named)


def test_cancel_is_one_key_away() -> None:
    views = [in_phase(name) for name in (Phase.PREPARE, Phase.UNPLUG, Phase.SAVE, Phase.REPLUG, Phase.VERIFY)]
    ui = Showing(fleet(views[0]), now=0.0)

    async def press(hands: Hands) -> None:
        for view in views:
            await ui.draw(fleet(view), view.state.now)
            await hands.press("c")

    run(ui, (80, 24), press, VmScreen(KEY))
    assert [each for each in ui.source.asked if not isinstance(each, WatchWish)] == [CancelWish(KEY)] * len(views)


def test_cancel_asks_for_nothing_where_nothing_is_under_way() -> None:
    assert pressed(Story().rest().view, "c") == []


@pytest.mark.slice
def test_more_time_is_given_from_now_on() -> None:
    assert pressed(Story(scenario=NEVER).until(waited(3)).view, "w") == [WaitWish(KEY, 60.0)]


def test_a_guest_that_somebody_paused_is_resumed_so_that_it_can_answer() -> None:
    assert pressed(Story(scenario=PAUSED).until(waited(3)).view, "r") == [LetRunWish(KEY)]


@pytest.mark.slice
def test_a_vm_that_was_left_paused_is_resumed_by_a_workflow() -> None:
    (asked,) = pressed(Story(scenario=Scenario(runstate="paused")).rest().view, "r")
    assert isinstance(asked, Begin)
    assert asked.options.goal is Goal.RESUME


def test_the_guest_s_memory_is_dumped_when_that_was_asked_and_answered() -> None:
    idle = Story().rest().view
    (begin,) = pressed(idle, "d", "y")
    assert isinstance(begin, Begin)
    assert begin.options.goal is Goal.DUMP
    assert begin.options.output.endswith(".vmcore")
    assert pressed(idle, "d", "escape") == []
    assert pressed(idle, "d", "enter") == [], "the answer that has the focus changes nothing"
    assert pressed(Story(scenario=SLOW_DISK).until(copied(0.2)).view, "d", "y") == [], "a save is under way"
    assert pressed(Story(scenario=NEVER).until(waited(3)).view, "d", "y") == []


def test_a_dump_says_before_how_long_the_guest_stands_still() -> None:
    ui = typed_at(Showing(fleet(Story().rest().view), now=0.0))

    async def ask(hands: Hands) -> str:
        await hands.press("d")
        return " ".join(text_of(ui.app).replace("│", "").split())

    said = run(ui, (80, 24), ask, VmScreen(KEY))
    assert "The guest runs: it stands still for it" in said
    assert "0.50 s at the most, and runs on" in said


def test_a_card_that_qemu_deleted_is_brought_back_by_the_key_for_it() -> None:
    (begin,) = pressed(Story(scenario=Scenario(card=CardState.DELETED), argv=ARGV).rest().view, "r")
    assert isinstance(begin, Begin)
    assert begin.options.goal is Goal.RESUME


def test_read_only_changes_nothing() -> None:
    assert pressed(Story(scenario=NEVER).until(waited(3)).view, "c", "w", read_only=True) == []


def test_the_vm_is_looked_at_closely_while_its_screen_is_open() -> None:
    view = Story().rest().view
    ui = Showing(fleet(view), now=view.state.now)

    async def leave(hands: Hands) -> None:
        await hands.press("escape")
        await settle(ui.app)

    run(ui, (80, 24), leave, VmScreen(KEY))
    assert ui.source.asked[0] == WatchWish(KEY, True)
    assert ui.source.asked[-1] == WatchWish(KEY, False)


def test_the_qmp_traffic_can_stand_beside_the_vm_where_there_is_room() -> None:
    view = Story().until(over).view
    ui = typed_at(Showing(fleet(view), now=view.state.now))

    async def toggle(hands: Hands) -> list[bool]:
        seen = []
        for size in ((160, 50), (80, 24)):
            await hands.resize(*size)
            await hands.press("T")
            seen.append("← UNPLUG_PRIMARY device-id=primary0" in text_of(ui.app))
        return seen

    assert run(ui, (160, 50), toggle, VmScreen(KEY)) == [True, False]
