"""Keys that are typed right behind another one: they come before what that one does is on the screen."""

from textual import events

from tests.core.play import Play
from tests.ui.frozen import Frozen, Hands, fleet_of, settle, shown, state_in
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import CancelWish
from vmtui.backend.core.model import Phase
from vmtui.screens.preflight import PreflightScreen
from vmtui.screens.vm import VmScreen


def _in_one_packet(app: VmtuiApp, *keys: tuple[str, str | None]) -> None:
    for key, character in keys:
        app.post_message(events.Key(key, character))


async def _slash_and_c(app: VmtuiApp, _hands: Hands) -> None:
    _in_one_packet(app, ("slash", "/"), ("c", "c"))
    await settle(app)


def test_a_filter_that_is_typed_fast_cancels_no_save() -> None:
    source = Frozen(fleet_of(state_in(Play(), Phase.SAVE)))
    shown(source, _slash_and_c)
    assert not [wish for wish in source.asked if isinstance(wish, CancelWish)]


def test_a_vm_that_is_opened_and_its_save_that_is_asked_for_come_in_that_order() -> None:
    tops: list[type] = []

    async def enter_and_s(app: VmtuiApp, _hands: Hands) -> None:
        _in_one_packet(app, ("enter", "\r"), ("s", "s"))
        await settle(app)
        tops.extend(type(each) for each in app.screen_stack[-2:])

    shown(Frozen(fleet_of(state_in(Play(), Phase.PREFLIGHT))), enter_and_s)
    assert tops == [VmScreen, PreflightScreen]
