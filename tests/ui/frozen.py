"""A fleet that stands still, and what a user reads of it on a screen of a given size."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from textual.pilot import Pilot

from tests.core.play import Play
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Fleet, Host, Request, VmView
from vmtui.backend.core.model import Phase
from vmtui.backend.core.state import State
from vmtui.settings import Settings

HOST = Host("hyper1", surveyed=True, offset=1_795_572_000.0)
NOW = 100.0


@dataclass
class Frozen:
    """A source whose fleet only a test changes, and that keeps what was asked of it."""

    fleet: Fleet = field(default_factory=lambda: Fleet(host=HOST))
    asked: list[Request] = field(default_factory=list)
    publish: Callable[[Fleet], None] = lambda _fleet: None

    def start(self, publish: Callable[[Fleet], None]) -> None:
        self.publish = publish

    def request(self, request: Request) -> None:
        self.asked.append(request)

    def change(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.publish(fleet)


def fleet_of(*states: State, host: Host = HOST) -> Fleet:
    return Fleet({state.vm.key: VmView(state) for state in states}, host)


def state_in(play: Play, phase: Phase) -> State:
    """The state of a workflow when it had just entered a phase; the end's where it never does."""
    seen: list[State] = []

    def watch(play: Play) -> None:
        if play.work.phase is phase:
            seen.append(play.state)

    play.watch = watch
    play.run()
    return seen[0] if seen else play.state


def text_of(app: VmtuiApp) -> str:
    """The whole screen, as a user reads it."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


QUIET = 20
"""Turns of the event loop without anything to do, after which nothing more will happen by itself."""


async def settle(app: VmtuiApp) -> None:
    """Until every message was handled and everything is laid out: by looking at the queues, not by waiting."""
    quiet = 0
    while quiet < QUIET:
        await asyncio.sleep(0)
        quiet = 0 if _at_work(app) else quiet + 1


def _at_work(app: VmtuiApp) -> bool:
    screen = app.screen
    nodes = [app, *app.screen_stack, *screen.walk_children()]
    waiting = [not node._message_queue.empty() or bool(node._next_callbacks) for node in nodes]
    return any((*waiting, screen._layout_required, len(screen._dirty_widgets) > 0))


Use = Callable[[VmtuiApp, "Pilot[int]"], Awaitable[None]]


def shown(
    source: Frozen, use: Use | None = None, size: tuple[int, int] = (80, 24), *, read_only: bool = False,
    settings: Settings | None = None,
) -> str:  # fmt: skip
    """Run the app on `source`, `use` it, and return what is on the screen then."""

    async def run() -> str:
        app = VmtuiApp(source, read_only=read_only, settings=settings, clock=lambda: NOW)
        async with app.run_test(size=size) as pilot:
            await settle(app)
            if use is not None:
                await use(app, pilot)
                await settle(app)
            return text_of(app)

    return asyncio.run(run())
