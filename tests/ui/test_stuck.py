"""The choices for a guest that does not answer: when they open, what they say, what they ask for."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.ui.frozen import Hands, settle, text_of
from tests.ui.showing import Showing, run
from tests.ui.vm_states import KEY, NEVER, Story, fleet, phase, waited
from vmtui.app import QUIET
from vmtui.backend.core.fleet import CancelWish, LetRunWish, Request, VmView, WaitWish, WatchWish
from vmtui.backend.core.model import Phase
from vmtui.backend.core.sim import Scenario
from vmtui.screens.stuck import StuckScreen
from vmtui.screens.vm import VmScreen

PAUSED = Scenario(paused_by_other="wait-unplug", unplug_delay=0.4)


def stuck() -> VmView:
    return Story(scenario=NEVER).until(waited(12)).view


def with_screen(view: VmView, use: Callable[[Showing, Hands], Awaitable[Any]], *, quiet: bool = True) -> Any:
    """On the VM's screen, which a key has just opened; `quiet`: that was some time ago."""
    ui = Showing(fleet(view), now=view.state.now)
    ui.app._typed = ui.now

    async def use_it(hands: Hands) -> Any:
        if quiet:
            ui.app._typed = -QUIET
            await ui.draw(ui.source.fleet, ui.now)
        return await use(ui, hands)

    return run(ui, (80, 24), use_it, VmScreen(KEY))


def elsewhere(use: Callable[[Showing, Hands], Awaitable[Any]], *, quiet: bool = True) -> Any:
    """On the list of VMs, while a guest is stuck."""
    view = stuck()
    ui = Showing(fleet(view), now=view.state.now)
    ui.app._typed = -QUIET if quiet else ui.now
    return run(ui, (80, 24), lambda hands: use(ui, hands))


async def read(ui: Showing) -> str:
    return f"{type(ui.app.screen).__name__} {' '.join(text_of(ui.app).split())}"


async def is_open(ui: Showing, _hands: Hands) -> bool:
    return isinstance(ui.app.screen, StuckScreen)


def asked(view: VmView, key: str) -> list[Request]:
    async def press(ui: Showing, hands: Hands) -> list[Request]:
        await hands.press(key)
        await settle(ui.app)
        assert not isinstance(ui.app.screen, StuckScreen)
        return [each for each in ui.source.asked if not isinstance(each, WatchWish)]

    return list(with_screen(view, press))


def test_the_choices_open_by_themselves_for_a_guest_that_is_stuck() -> None:
    assert with_screen(stuck(), is_open)


def test_they_open_also_over_another_screen_than_the_vm_s() -> None:
    assert elsewhere(lambda ui, _hands: read(ui)).startswith("StuckScreen")


def test_they_do_not_take_what_is_being_typed_and_a_line_says_that_they_will_come() -> None:
    async def type_on(ui: Showing, hands: Hands) -> str:
        await hands.press("slash", "w", "c", "r")
        ui.now += 5
        await ui.draw(ui.source.fleet, ui.now)
        assert (await read(ui)).startswith("FleetScreen")
        return " ".join(each.message for each in ui.app._notifications)

    assert "What can be done comes up as soon as nothing is typed" in elsewhere(type_on, quiet=False)


def test_they_wait_until_another_dialog_is_answered() -> None:
    async def ask(ui: Showing, hands: Hands) -> list[str]:
        seen = []
        await hands.press("q")
        ui.app._typed = -QUIET
        for key in ("", "n"):
            await hands.press(*filter(None, (key,)))
            ui.app._typed = -QUIET
            await ui.draw(ui.source.fleet, ui.now)
            seen.append(type(ui.app.screen).__name__)
        return seen

    assert elsewhere(ask, quiet=False) == ["QuitDialog", "StuckScreen"]


@pytest.mark.slice
def test_they_do_not_open_for_a_guest_that_is_waited_for_only_a_little() -> None:
    assert not with_screen(Story(scenario=NEVER).until(waited(3)).view, is_open)


def test_a_key_pressed_just_now_is_not_taken_and_a_line_says_how_to_open_them() -> None:
    async def look(ui: Showing, hands: Hands) -> str:
        assert not await is_open(ui, hands)
        banner = text_of(ui.app)
        await hands.press("g")
        await settle(ui.app)
        assert await is_open(ui, hands)
        return banner

    assert "press g to see what is known" in with_screen(stuck(), look, quiet=False)


def test_the_line_names_the_key_of_the_user_s_own_keymap() -> None:
    async def look(ui: Showing, _hands: Hands) -> str:
        ui.app.set_keymap({"vm.guest": "f6"})
        await ui.draw(ui.source.fleet, ui.now)
        return text_of(ui.app)

    assert "press f6 to see what is known" in with_screen(stuck(), look, quiet=False)


@pytest.mark.slice
def test_each_choice_says_what_follows() -> None:
    async def look(ui: Showing, _hands: Hands) -> str:
        return text_of(ui.app)

    seen = with_screen(stuck(), look)
    assert "Keep waiting: 60 s more" in seen
    assert "Up to 30 s" in seen
    assert "dump the guest's memory" in seen


@pytest.mark.slice
def test_the_choice_that_changes_least_has_the_focus() -> None:
    async def look(ui: Showing, _hands: Hands) -> str | None:
        return ui.app.focused.id if ui.app.focused else None

    assert with_screen(stuck(), look) == "wait"


def test_keep_waiting_and_cancel_are_asked_for() -> None:
    assert asked(stuck(), "enter") == [WaitWish(KEY, 60.0)]
    assert asked(stuck(), "c") == [CancelWish(KEY)]
    assert asked(stuck(), "d") == [CancelWish(KEY, dump=True)]


@pytest.mark.slice
def test_each_has_its_key_and_a_paused_guest_can_be_resumed() -> None:
    assert asked(stuck(), "w") == [WaitWish(KEY, 60.0)]
    assert asked(Story(scenario=PAUSED).until(waited(3)).view, "r") == [LetRunWish(KEY)]


@pytest.mark.slice
def test_escape_asks_for_nothing_and_they_do_not_open_again_for_the_same_reason() -> None:
    assert asked(stuck(), "escape") == []


@pytest.mark.slice
def test_they_go_away_when_the_guest_lets_go() -> None:
    story = Story(scenario=Scenario(unplug_delay=13.0)).until(waited(12))

    async def let_go(ui: Showing, hands: Hands) -> bool:
        assert await is_open(ui, hands)
        await ui.draw(fleet(story.until(phase(Phase.DONE)).view), story.play.now)
        return await is_open(ui, hands)

    assert not with_screen(story.view, let_go)
