"""Letters typed right behind the key that opens a line to type in: they come before the focus has moved."""

from textual import events

from tests.core.play import Play
from tests.ui.frozen import Frozen, Hands, fleet_of, settle, shown, state_in
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import CancelWish
from vmtui.backend.core.model import Phase


async def _slash_and_c_in_one_packet(app: VmtuiApp, _hands: Hands) -> None:
    for key, character in (("slash", "/"), ("c", "c")):
        app.post_message(events.Key(key, character))
    await settle(app)


def test_a_filter_that_is_typed_fast_cancels_no_save() -> None:
    source = Frozen(fleet_of(state_in(Play(), Phase.SAVE)))
    shown(source, _slash_and_c_in_one_packet)
    assert not [wish for wish in source.asked if isinstance(wish, CancelWish)]
