"""The terminal UI: which screen is shown, with which values; the wishes of the screens go to the engine.

The app holds the latest `Fleet` and nothing else that could become stale. It hands it to the screen on top, at most four
times a second, and keeps a timer only while times on that screen count up.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from typing import ClassVar, Protocol

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Event
from textual.events import Key as KeyPressed
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input, TextArea

from vmtui.backend.core import verdict
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, ReadWish, Request, SurveyWish, WatchWish
from vmtui.backend.core.model import Goal
from vmtui.backend.core.verdict import Occasion
from vmtui.messages import Ask, Copy, Open, Place, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.screens.fleet import FleetScreen
from vmtui.screens.help import HelpScreen, Key
from vmtui.settings import Settings
from vmtui.themes import ALL
from vmtui.throttle import Throttle
from vmtui.widgets.look import ascii_only

QUIET = 1.0
"""Seconds without a key after which a dialog may open by itself: what is typed is not meant for it."""
CALL = 8.0
"""Seconds that a line about a guest that needs somebody is shown."""
UPDATES = 4
"""Pictures a second, at the most, that changed values cause. What the user does is drawn at once."""


ASCII_KEYS = str.maketrans({"⏎": "enter", "↑": "up", "↓": "down", "←": "left", "→": "right"})
"""How keys are called where only ASCII is drawn."""


class Source(Protocol):
    """Where the fleet comes from: an engine in this process or in another, or a frozen picture."""

    @property
    def fleet(self) -> Fleet: ...
    def start(self, publish: Callable[[Fleet], None]) -> None: ...
    def request(self, request: Request) -> None: ...


TROUBLE_SHOWN = 3600.0
"""Seconds: until somebody has read it, as good as."""


class Leave:
    """How the user left: the app's exit code says what is still to be done."""

    NOW = 0
    WHEN_DONE = 1
    """A save is under way: wait for its end, without a screen."""


class VmtuiApp(App[int]):
    """`source` is started when the app is. `clock` is the engine's, in seconds; `keep` stores a text and says where."""

    CSS_PATH = "app.tcss"
    TITLE = "vmtui"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "help", "Help", id="help"),
        Binding("q", "leave", "Quit", id="quit"),
        Binding("ctrl+q,ctrl+c", "leave", "Quit", show=False, id="quit.always", priority=True),
    ]

    def __init__(
        self,
        source: Source,
        *,
        read_only: bool = False,
        outlives: bool = True,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[str], str] = lambda _text: "",
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        self.source = source
        self.read_only = read_only
        self.outlives = outlives
        """What is under way goes on when this app ends."""
        self._trouble = ""
        self.settings = settings or Settings()
        self.clock = clock
        self._keep = keep
        self._throttle = Throttle(UPDATES)
        self._of_this_app: Context | None = None
        """In which this app's own callbacks run: a timer that is set in the engine's thread's would never fire."""
        self._woken = False
        self._redraw_due: Timer | None = None
        self._ticking: Timer | None = None
        self._typed = -QUIET
        """When the last key was pressed, by `clock`."""
        self._told: set[Occasion] = set()
        """The choices were opened for these."""
        self._warned: set[Occasion] = set()
        """A line was shown for these: the choices could not open at once."""
        self._possible: tuple[ShowingScreen | None, tuple[tuple[str, bool], ...]] = None, ()
        self.set_class(ascii_only(), "-ascii")
        for theme in ALL:
            self.register_theme(theme)
        self.theme = self.settings.theme or ("mono" if os.environ.get("NO_COLOR") else "dark")
        self.set_keymap(self.settings.keys)

    @property
    def shown(self) -> Shown:
        return Shown(self.source.fleet, self.clock(), self.read_only, self.settings.host_colour)

    def get_default_screen(self) -> Screen[None]:
        return FleetScreen()

    def on_mount(self) -> None:
        self._of_this_app = copy_context()
        self.source.start(self._published)

    # --- values in ------------------------------------------------------------------------------------------------

    def _published(self, _fleet: Fleet) -> None:
        """In the engine's thread. However many values come before this loop turns, it is woken once."""
        if not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake, context=self._of_this_app)

    def _wake(self) -> None:
        self._woken = False
        trouble = self.source.fleet.host.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            self.notify(trouble, severity="error", timeout=TROUBLE_SHOWN, markup=False)
        if self._redraw_due is None and self.is_running:
            self._draw_when_due()

    def _draw_when_due(self) -> None:
        self._redraw_due = None
        delay = self._throttle.delay(time.monotonic())
        if delay == 0:
            self._draw()
        else:
            self._redraw_due = self.set_timer(delay, self._draw_when_due)

    @on(Redraw)
    def _draw_all(self) -> None:
        """The user did something, or the window has another size."""
        self._draw_beneath()
        self._draw()

    def _draw(self) -> None:
        """Hand the latest values to the screen on top; whatever is there, a guest may need somebody."""
        screen, shown = self.screen, self.shown
        showing = isinstance(screen, ShowingScreen) and screen.is_mounted
        if isinstance(screen, ShowingScreen) and showing:
            with self.batch_update():
                screen.show(shown)
            self._refresh_footer(screen)
        waiting = [key for key, view in shown.fleet.vms.items() if verdict.waits_for_guest(view.state)]
        self._tick(bool(waiting) or (isinstance(screen, ShowingScreen) and showing and screen.ticks(shown)))
        for key in waiting:
            self._call_for_help(key, shown)

    # --- a guest needs somebody -----------------------------------------------------------------------------------

    def _call_for_help(self, key: str, shown: Shown) -> None:
        """Open the choices by itself, once for each occasion, where that takes no key from what is being typed."""
        view = shown.at_present(key)
        occasion = verdict.occasion(view.state, shown.usual(key)) if view is not None else None
        if view is None or occasion is None or occasion in self._told:
            return
        if not (shown.read_only or self._taken):
            if self.clock() - self._typed >= QUIET:
                self._told.add(occasion)
                self.call_later(self._open_choices, key)
        elif occasion not in self._warned and not (isinstance(self.screen, ShowingScreen) and self.screen.calls_for == key):
            self._warned.add(occasion)
            call = verdict.call(view.state, opens=not shown.read_only)
            self.notify(call, severity="warning", timeout=CALL, markup=False)

    @property
    def _taken(self) -> bool:
        """What is pressed has its meaning: a text is written, or a dialog answered."""
        return isinstance(self.focused, Input | TextArea) or self.screen.is_modal

    def _open_choices(self, key: str) -> None:
        from vmtui.screens.stuck import StuckScreen  # noqa: PLC0415 - seldom needed

        if not self.screen.is_modal:
            self.clear_notifications()
            self.push_screen(StuckScreen(key))

    async def on_event(self, event: Event) -> None:
        if isinstance(event, KeyPressed):
            self._typed = self.clock()
        await super().on_event(event)

    def _draw_beneath(self) -> None:
        """What a dialog leaves to be seen; other values alone do not draw it."""
        shown = self.shown
        for above, screen in zip(reversed(self.screen_stack), reversed(self.screen_stack[:-1]), strict=False):
            if not above.is_modal:
                break
            if isinstance(screen, ShowingScreen) and screen.is_mounted:
                screen.show(shown)

    def _refresh_footer(self, screen: ShowingScreen) -> None:
        """Draw the keys anew only where one has become possible, or impossible."""
        possible = tuple((key, active.enabled) for key, active in screen.active_bindings.items())
        if (screen, possible) != self._possible:
            self._possible = screen, possible
            screen.refresh_bindings()

    def _tick(self, needed: bool) -> None:
        if needed and self._ticking is None:
            self._ticking = self.set_interval(1 / UPDATES, self._wake)
        elif not needed and self._ticking is not None:
            self._ticking.stop()
            self._ticking = None

    # --- wishes out -----------------------------------------------------------------------------------------------

    @on(Ask)
    def _ask(self, message: Ask) -> None:
        if self.read_only and not _only_looks(message.request):
            self.notify("read-only: nothing is changed (started with --read-only)", severity="warning", markup=False)
        else:
            self.source.request(message.request)

    @on(Copy)
    def _copy(self, message: Copy) -> None:
        self.copy_to_clipboard(message.text)
        place = self._keep(message.text)
        beside = f"; where the terminal has no clipboard: {place}" if place else ""
        self.notify(f"copied {message.what}{beside}", markup=False)

    # --- screens --------------------------------------------------------------------------------------------------

    @on(Open)
    def _open(self, message: Open) -> None:
        """Once: what is on top already, as the VM's screen is when its pre-flight was opened there, only stays."""
        wanted = message.place, message.key
        if isinstance(self.screen, ShowingScreen) and self.screen.opened == wanted:
            return
        screen = _SCREENS[message.place](message.key)
        screen.opened = wanted
        self.push_screen(screen)

    def action_help(self) -> None:
        if isinstance(self.screen, HelpScreen):
            return
        title = str(getattr(self.screen, "TITLE", None) or "vmtui")
        focused = self.focused.HELP if self.focused is not None and self.focused.HELP else ""
        self.push_screen(HelpScreen(title, focused or self.screen.HELP or "", self._keys()))

    def _keys(self) -> list[Key]:
        """What this screen is for first; then how to move in it, and what is Textual's."""
        found: dict[str, Key] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.description and not binding.system:
                name = binding.id or ""
                keys = self.get_key_display(binding)
                before = found.get(binding.action)
                shown = f"{before.keys} {keys}" if before and keys not in before.keys.split() else keys
                found[binding.action] = Key(shown, binding.description, name, self._why_not(binding.action, active.enabled))
        return sorted(found.values(), key=lambda key: key.rank)

    def get_key_display(self, binding: Binding) -> str:
        shown = super().get_key_display(binding)
        return shown.translate(ASCII_KEYS) if ascii_only() else shown

    def _why_not(self, action: str, enabled: bool) -> str:
        reasons = self.screen.why_not if isinstance(self.screen, ShowingScreen) else {}
        return "" if enabled else reasons.get(action, "not now")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette lists what is possible now: the keys of this screen, and the looks."""
        told = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            if active.enabled and binding.description and binding.show and binding.action not in told:
                told.add(binding.action)
                key = self.get_key_display(binding)
                yield SystemCommand(binding.description, f"key {key}", self._doing(active.node, binding.action))
        for theme in ALL:
            if theme.name != self.theme:
                yield SystemCommand(
                    f"Theme: {theme.name}", "until vmtui ends; config.toml keeps it", self._themed(theme.name)
                )

    def _doing(self, node: object, action: str) -> Callable[[], None]:
        def run() -> None:
            self.call_later(self.run_action, action, node)

        return run

    def _themed(self, name: str) -> Callable[[], None]:
        def choose() -> None:
            self.theme = name
            self.post_message(Redraw())

        return choose

    # --- leaving --------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> list[str]:
        """The names of the VMs that something is done to."""
        return [view.state.vm.shown for view in self.source.fleet.vms.values() if view.state.busy]

    def leave_from_outside(self) -> None:
        """For a signal, which alone does not wake the loop: no question, and what is under way goes on to its end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.exit, Leave.WHEN_DONE, context=self._of_this_app)

    def action_leave(self) -> None:
        if not self.busy:
            self.exit(Leave.NOW)
            return
        from vmtui.screens.dialogs import Quit, QuitDialog  # noqa: PLC0415 - seldom needed

        def answered(answer: Quit | None) -> None:
            if answer is Quit.CANCEL:
                for key, view in self.source.fleet.vms.items():
                    if view.state.busy:
                        self.source.request(CancelWish(key))
            if answer in (Quit.CANCEL, Quit.GO_ON):
                self.exit(Leave.WHEN_DONE)

        self.push_screen(QuitDialog(self.busy, outlives=self.outlives), answered)


def _only_looks(request: Request) -> bool:
    match request:
        case Begin(_, options):
            return options.goal is Goal.CHECK
        case _:
            return isinstance(request, ReadWish | SurveyWish | WatchWish)


def _vm(key: str) -> ShowingScreen:
    from vmtui.screens.vm import VmScreen  # noqa: PLC0415 - each screen is loaded when it is first opened

    return VmScreen(key)


def _preflight(key: str) -> ShowingScreen:
    from vmtui.screens.preflight import PreflightScreen  # noqa: PLC0415

    return PreflightScreen(key)


def _parameters(key: str) -> ShowingScreen:
    from vmtui.screens.parameters import ParametersScreen  # noqa: PLC0415

    return ParametersScreen(key)


def _transcript(key: str) -> ShowingScreen:
    from vmtui.screens.transcript import TranscriptScreen  # noqa: PLC0415

    return TranscriptScreen(key)


def _snapshots(_key: str) -> ShowingScreen:
    from vmtui.screens.snapshots import SnapshotsScreen  # noqa: PLC0415

    return SnapshotsScreen()


_SCREENS: dict[Place, Callable[[str], ShowingScreen]] = {
    Place.VM: _vm,
    Place.PREFLIGHT: _preflight,
    Place.PARAMETERS: _parameters,
    Place.TRANSCRIPT: _transcript,
    Place.SNAPSHOTS: _snapshots,
}
