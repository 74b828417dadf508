"""On the console, and on terminals that are as old: nothing is drawn that their fonts have not."""

import pytest

from tests.core.play import Play
from tests.ui.frozen import Frozen, Hands, Use, fleet_of, shown, state_in
from vmtui.app import VmtuiApp
from vmtui.backend.core.model import Phase


def _pressing(*keys: str) -> Use:
    async def press(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press(*keys)

    return press


@pytest.mark.parametrize(
    "keys",
    [pytest.param((), id="fleet"), pytest.param(("q",), id="question"),
     pytest.param(("enter",), id="vm", marks=pytest.mark.slice),
     pytest.param(("enter", "t"), id="transcript", marks=pytest.mark.slice)],
)  # fmt: skip
@pytest.mark.parametrize("size", [(80, 24), pytest.param((160, 50), marks=pytest.mark.slice)], ids=str)
def test_a_console_is_drawn_ascii_only(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...], size: tuple[int, int]
) -> None:
    monkeypatch.setenv("TERM", "linux")
    text = shown(Frozen(fleet_of(state_in(Play(), Phase.SAVE))), _pressing(*keys), size)
    assert [line for line in text.splitlines() if not line.isascii()] == []
