"""The terminal UI: which screen is shown, with which values; the wishes of the screens go to the engine.

The app holds the latest `Fleet` and nothing else that could become stale. It hands it to the screen on top, at most four
times a second, and keeps a timer only while times on that screen count up.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Protocol

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.timer import Timer

from vmtui.backend.core.fleet import Fleet, ReadWish, Request, SurveyWish, WatchWish
from vmtui.messages import Ask, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.screens.fleet import FleetScreen
from vmtui.throttle import Throttle

UPDATES = 4
"""Pictures a second, at the most, that changed values cause. What the user does is drawn at once."""


class Source(Protocol):
    """Where the fleet comes from: an engine in this process or in another, or a frozen picture."""

    @property
    def fleet(self) -> Fleet: ...
    def start(self, publish: Callable[[Fleet], None]) -> None: ...
    def request(self, request: Request) -> None: ...
    def stop(self) -> None: ...


class VmtuiApp(App[int]):
    """`source` is started when the app is, and stopped when it ends. `clock` is the engine's, in seconds."""

    CSS_PATH = "app.tcss"
    TITLE = "vmtui"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit_app", "Quit"),
        Binding("ctrl+q", "quit_app", "Quit", show=False),
    ]

    def __init__(self, source: Source, *, read_only: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.animation_level = "none"
        self.source = source
        self.read_only = read_only
        self.clock = clock
        self._throttle = Throttle(UPDATES)
        self._woken = False
        self._redraw_due: Timer | None = None
        self._ticking: Timer | None = None

    @property
    def shown(self) -> Shown:
        return Shown(self.source.fleet, self.clock(), self.read_only)

    def on_mount(self) -> None:
        self.push_screen(FleetScreen())
        self.source.start(self._published)

    def on_unmount(self) -> None:
        self.source.stop()

    # --- values in ------------------------------------------------------------------------------------------------

    def _published(self, _fleet: Fleet) -> None:
        """In the engine's thread. However many values come before this loop turns, it is woken once."""
        if not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = False
        if self._redraw_due is None:
            self._draw_when_due()

    def _draw_when_due(self) -> None:
        self._redraw_due = None
        delay = self._throttle.delay(self.clock())
        if delay == 0:
            self._draw()
        else:
            self._redraw_due = self.set_timer(delay, self._draw_when_due)

    @on(Redraw)
    def _draw(self) -> None:
        """Hand the latest values to the screen on top."""
        screen = self.screen
        if isinstance(screen, ShowingScreen) and screen.is_attached:
            shown = self.shown
            with self.batch_update():
                screen.show(shown)
            self._tick(screen.ticks(shown))

    def _tick(self, needed: bool) -> None:
        if needed and self._ticking is None:
            self._ticking = self.set_interval(1 / UPDATES, self._wake)
        elif not needed and self._ticking is not None:
            self._ticking.stop()
            self._ticking = None

    # --- wishes out -----------------------------------------------------------------------------------------------

    @on(Ask)
    def _ask(self, message: Ask) -> None:
        if self.read_only and not harmless(message.request):
            self.notify("read-only: nothing is changed (started with --read-only)", severity="warning")
        else:
            self.source.request(message.request)

    def action_quit_app(self) -> None:
        self.exit(0)


def harmless(request: Request) -> bool:
    """It only looks."""
    return isinstance(request, ReadWish | SurveyWish | WatchWish)
