"""A fleet that stands still, and what a user reads of it on a screen of a given size."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from textual.app import App
from textual.events import Key
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.screen import Screen

from tests.core.play import Play
from vmtui.app import UPDATES, VmtuiApp
from vmtui.backend.core.fleet import Fleet, Host, Request, VmView
from vmtui.backend.core.model import Phase
from vmtui.backend.core.state import State
from vmtui.settings import Settings
from vmtui.throttle import Throttle

A = TypeVar("A", bound=App[Any])
T = TypeVar("T")

HOST = Host("hyper1", surveyed=True, offset=1_795_572_000.0)
NOW = 100.0
SIZES = (
    (60, 20),
    pytest.param((80, 24), marks=pytest.mark.slice),
    pytest.param((160, 50), marks=pytest.mark.slice),
)
"""Columns and lines. `make check` looks at the narrowest, the first to have no room; 80x24 is every other test's."""


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
PICTURE = 0.001
"""Seconds between looks at whether Textual's timer has drawn what is due: the least that lets other programs run."""


async def settle(app: App[Any]) -> None:
    """Until every message was handled and everything is laid out: by looking at the queues, not by waiting."""
    quiet = 0
    while quiet < QUIET:
        due = _picture_due(app)
        await asyncio.sleep(PICTURE if due else 0)
        quiet = 0 if due or _at_work(app) else quiet + 1


def _at_work(app: App[Any]) -> bool:
    nodes = (app, *app.screen_stack, *app.screen.walk_children())
    return any(node.message_queue_size + len(node._next_callbacks) for node in nodes)


def _picture_due(app: App[Any]) -> bool:
    screen: Any = app.screen
    return bool(screen._layout_required or screen._dirty_widgets or screen._callbacks)


NAMED = {"slash": "/", "space": " ", "question_mark": "?"}
"""Keys that have a name and also write something."""


class Hands:
    """What somebody in front of the screen does. Everything that a key causes has happened when `press` returns."""

    def __init__(self, app: App[Any]) -> None:
        self.app = app

    async def press(self, *keys: str) -> None:
        for key in keys:
            name = key if len(key) > 1 or key.isalnum() else _character_to_key(key)
            self.app.post_message(Key(name, key if len(key) == 1 else NAMED.get(key)))
            await settle(self.app)

    async def click(self, x: int, y: int) -> None:
        await Pilot(self.app).click(offset=(x, y))
        await settle(self.app)

    async def resize(self, width: int, height: int) -> None:
        """The window, while the program runs."""
        if self.app.size != (width, height):
            await Pilot(self.app).resize_terminal(width, height)
            await settle(self.app)

    async def settle(self) -> None:
        await settle(self.app)


class Unhurried(Throttle):
    """Draws every value at once: a test needs not wait for a picture."""

    def delay(self, now: float) -> float:
        return 0.0


def make_app(source: Frozen, **how: Any) -> VmtuiApp:
    app = VmtuiApp(source, **how)
    app._throttle = Unhurried(UPDATES)
    return app


def run_app(
    app: A,
    use: Callable[[A, Hands], Awaitable[T]],
    *screens: Screen[Any],
    size: tuple[int, int] = (80, 24),
    lines: bool = False,
) -> T:
    """What comes of using the app, with these screens pushed one upon the other. `lines`: what it says aside is drawn."""

    async def run() -> T:
        async with app.run_test(size=size, notifications=lines):
            for screen in screens:
                await app.push_screen(screen)
            await settle(app)
            return await use(app, Hands(app))

    return asyncio.run(run())


Use = Callable[[VmtuiApp, Hands], Awaitable[None]]


def shown(
    source: Frozen, use: Use | None = None, size: tuple[int, int] = (80, 24), *, read_only: bool = False,
    settings: Settings | None = None,
) -> str:  # fmt: skip
    """Run the app on `source`, `use` it, and return what is on the screen then."""

    async def read(app: VmtuiApp, hands: Hands) -> str:
        if use is not None:
            await use(app, hands)
            await settle(app)
        return text_of(app)

    return run_app(make_app(source, read_only=read_only, settings=settings, clock=lambda: NOW), read, size=size)
