"""The guest does not let go of its card, or cannot: what is known of it, and what can be done, with the consequences."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button

from vmtui.backend.core import possible, verdict
from vmtui.backend.core.fleet import CancelWish, LetRunWish, Request, WaitWish
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.text import printable
from vmtui.backend.core.verdict import MORE_TIME, TONES, Choice, Verdict
from vmtui.messages import Ask, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.look import COLOURS, said

KEYS = {"wait": "w", "cancel": "c", "dump": "d", "resume": "r"}


class StuckScreen(ShowingScreen, ModalScreen[None]):
    """Follows what happens, and goes away by itself when the guest lets go, or somebody gave up on it."""

    TITLE = "A guest that does not let go of its card"
    HELP = (
        "The guest was asked to let go of its network card, and has not. Each choice says what follows from it; the "
        "first one changes nothing but how long it is waited for. This goes away by itself when the guest lets go."
    )
    VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-usual")]  # noqa: RUF012 - Textual says list
    DEFAULT_CSS = """
    StuckScreen { align: center middle; background: $background 60%; }
    StuckScreen #stuck {
        width: 76; max-width: 98%; height: auto; max-height: 98%; padding: 0 1;
        border: round $warning; background: $surface;
    }
    StuckScreen Button { width: auto; min-width: 0; }
    StuckScreen .consequence { padding-left: 4; color: $text-muted; }
    StuckScreen #known { margin-bottom: 1; }
    StuckScreen #known-below { display: none; }
    StuckScreen.-low #known { display: none; }
    StuckScreen.-low #known-below { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "choose('wait')", "Wait", id="stuck.wait", show=False),
        Binding("c", "choose('cancel')", "Cancel", id="stuck.cancel", show=False),
        Binding("d", "choose('dump')", "Dump", id="stuck.dump", show=False),
        Binding("r", "choose('resume')", "Resume", id="stuck.resume", show=False),
        Binding("escape", "close", "Look on", id="stuck.close", show=False),
        Binding("down", "app.focus_next", "Next", id="stuck.next", show=False),
        Binding("up", "app.focus_previous", "Previous", id="stuck.previous", show=False),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = self.calls_for = key
        self._choices: tuple[Choice, ...] = ()
        self._over = False

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="stuck", can_focus=False):
            yield Drawn(id="line")
            yield Drawn(id="known", classes="known")
            for what, key in KEYS.items():
                yield Button(Content(key), id=what, compact=True)
                yield Drawn(id=f"{what}-consequence", classes="consequence")
            yield Drawn(id="leave")
            yield Drawn(id="known-below", classes="known")

    def on_mount(self) -> None:
        self.query_one("#wait", Button).focus()
        self.post_message(Redraw())
        self.query_one("#leave", Drawn).draw(Content.styled("esc  look on: nothing is changed", COLOURS[Tone.DIM]))

    def show(self, shown: Shown) -> None:
        if not self.drawable:
            return
        view = shown.at_present(self.key)
        found = verdict.verdict(view.state, shown.usual(self.key)) if view is not None else None
        if view is None or found is None:
            self._close()
            return
        self.query_one("#line", Drawn).draw(_head(printable(view.state.vm.shown, 40), found))
        for known in self.query(".known").results(Drawn):
            known.draw(_known(found))
        self._choices = verdict.choices(view.state)
        for choice in self._choices:
            self._draw(choice, possible.why_not(view.state, choice.what, read_only=shown.read_only))

    def _draw(self, choice: Choice, why_not: str) -> None:
        button = self.query_one(f"#{choice.what}", Button)
        button.label = Content(f"{KEYS[choice.what]}  {choice.label}")
        if button.disabled != bool(why_not):
            button.disabled = bool(why_not)
        self.query_one(f"#{choice.what}-consequence", Drawn).draw(Content(why_not or choice.consequence))

    def ticks(self, shown: Shown) -> bool:
        view = shown.vm(self.key)
        return view is not None and view.state.busy

    def _close(self) -> None:
        """Once: what comes after the guest let go is drawn by the screen below."""
        if not self._over:
            self._over = True
            self.dismiss()

    def action_close(self) -> None:
        self._close()

    def action_choose(self, what: str) -> None:
        if not self.query_one(f"#{what}", Button).disabled:
            self.post_message(Ask(self._wish(what)))
            self._close()

    def _wish(self, what: str) -> Request:
        if what == "wait":
            return WaitWish(self.key, MORE_TIME)
        return LetRunWish(self.key) if what == "resume" else CancelWish(self.key, dump=what == "dump")

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.action_choose(event.button.id or "")


def _head(name: str, found: Verdict) -> Content:
    return Content.assemble((f"{name}: ", "bold"), said(Said(found.line, TONES[found.kind])))


def _known(found: Verdict) -> Content:
    return Content("\n".join(line for line in (*found.known, found.then, found.usual) if line))
