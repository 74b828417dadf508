"""What can I press here, and what does it do? Asked with ? or F1, about the screen and the widget that has the focus."""

from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static


class Key(NamedTuple):
    """One line: what to press, what it does, the name to set it by, and why it is not possible now, if it is not."""

    keys: str
    does: str
    name: str
    why_not: str

    @property
    def rank(self) -> int:
        """What this screen is for comes first, then how to move in it, then what every screen and terminal has."""
        place, _, action = self.name.partition(".")
        return 3 if not place else 1 if place == "table" else 2 if not action or place == "quit" else 0


class HelpScreen(ModalScreen[None]):
    TITLE = "Keys"
    HELP = "What can be pressed on the screen below, and the name that a key is set by."
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll {
        width: 76; max-width: 100%; height: auto; max-height: 100%; border: round $primary; padding: 0 1;
        background: $surface;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close", id="help.close"),
    ]

    def __init__(self, title: str, text: str, keys: list[Key]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._keys = keys

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = f"{self._title}: keys"
            box.border_subtitle = "Escape closes"
            if self._text:
                yield Static(Content(self._text + "\n"), markup=False)
            yield Static(Content("\n").join([_line(key) for key in self._keys]), markup=False)
            yield Static(Content(HOW_TO_CHANGE), markup=False)


def _line(key: Key) -> Content:
    style = "$text-disabled" if key.why_not else ""
    not_now = f"  ({key.why_not})" if key.why_not else ""
    return Content.assemble((f"{key.keys:14} ", "bold"), (f"{key.does}{not_now}", style), (f"  {key.name}", "$text-muted"))


HOW_TO_CHANGE = "\nThe word at the end of a line is what a key is set by: [keys] in config.toml, see docs/tui.md."
