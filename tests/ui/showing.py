"""A terminal UI on a fleet that stands still, or changes when a test says so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from textual.pilot import Pilot
from textual.screen import Screen

from tests.ui.frozen import Frozen, settle
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Fleet
from vmtui.messages import Redraw
from vmtui.widgets.drawn import Drawn


class Showing:
    """The app, the source that it shows, and a clock that a test moves."""

    def __init__(self, fleet: Fleet, *, now: float, read_only: bool = False) -> None:
        self.source = Frozen(fleet)
        self.now = now
        self.app = VmtuiApp(self.source, read_only=read_only, clock=lambda: self.now)

    async def draw(self, fleet: Fleet, now: float) -> None:
        """What is new is on the screen, at once: no picture is waited for."""
        self.source.fleet, self.now = fleet, now
        self.app.post_message(Redraw())
        await settle(self.app)


def run(ui: Showing, size: tuple[int, int], story: Callable[[Pilot[int]], Awaitable[Any]], *screens: Screen[Any]) -> Any:
    """Run `story` with these screens pushed one upon the other."""

    async def play() -> Any:
        async with ui.app.run_test(size=size) as pilot:
            for screen in screens:
                await ui.app.push_screen(screen)
            await settle(ui.app)
            return await story(pilot)

    return asyncio.run(play())


def text(screen: Screen[Any]) -> str:
    """What stands in the texts that can be seen."""
    return "\n".join(each.content.plain for each in screen.query(Drawn) if each.is_on_screen and each.size.area)
