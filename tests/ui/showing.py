"""A terminal UI on one VM that changes when a test says so, with the clock that goes with it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from textual.screen import Screen

from tests.ui.frozen import Frozen, Hands, make_app, run_app, settle
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Fleet

T = TypeVar("T")


class Showing:
    """The app, the source that it shows, and a clock that a test moves."""

    def __init__(self, fleet: Fleet, *, now: float, read_only: bool = False) -> None:
        self.source = Frozen(fleet)
        self.now = now
        self.app: VmtuiApp = make_app(self.source, read_only=read_only, clock=lambda: self.now)

    async def draw(self, fleet: Fleet, now: float) -> None:
        self.now = now
        self.source.change(fleet)
        await settle(self.app)


def run(ui: Showing, size: tuple[int, int], story: Callable[[Hands], Awaitable[T]], *screens: Screen[None]) -> T:
    """Run `story` with these screens pushed one upon the other."""
    return run_app(ui.app, lambda _app, hands: story(hands), *screens, size=size)
