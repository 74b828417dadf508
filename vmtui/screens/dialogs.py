"""Questions that need an answer before anything is done. The safe answer is the first, focused, and what escape says."""

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from vmtui.backend.core.text import printable

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """One button. `key` presses it too."""

    value: T
    key: str
    label: str
    consequence: str = ""
    dangerous: bool = False


_VARIANT: dict[bool, Literal["default", "error"]] = {False: "default", True: "error"}


class Question(ModalScreen[T]):
    """Ends with the value of the chosen answer; with that of the first one on escape."""

    TITLE = "A question"
    HELP = "The first answer changes nothing; Escape says it too. The letter before an answer gives it."
    DEFAULT_CSS = """
    Question { align: center middle; }
    Question #dialog {
        width: 72; max-width: 96%; height: auto; max-height: 96%; padding: 0 1;
        border: round $primary; background: $surface;
    }
    Question #question { text-style: bold; width: 1fr; height: auto; }
    Question .consequence { width: 1fr; height: auto; padding-left: 4; color: $text-muted; }
    Question Button { width: auto; min-width: 0; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stay", "Stay", id="question.stay", show=False),
        Binding("down", "app.focus_next", "Next", id="question.next", show=False),
        Binding("up", "app.focus_previous", "Previous", id="question.previous", show=False),
    ]

    def __init__(self, question: str, answers: tuple[Answer[T], ...]) -> None:
        super().__init__()
        self.question = question
        self.answers = answers
        self._by_id = {f"answer-{answer.key}": answer.value for answer in answers}

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog", can_focus=False):
            yield Static(Content(printable(self.question)), id="question")
            for answer in self.answers:
                label = Content(f"{answer.key}  {answer.label}")
                yield Button(label, variant=_VARIANT[answer.dangerous], id=f"answer-{answer.key}", compact=True)
                if answer.consequence:
                    yield Static(Content(answer.consequence), classes="consequence")

    def on_mount(self) -> None:
        self.query_one(f"#answer-{self.answers[0].key}", Button).focus()

    def action_stay(self) -> None:
        self.dismiss(self.answers[0].value)

    def on_key(self, event: Key) -> None:
        for answer in self.answers:
            if event.key == answer.key:
                event.stop()
                self.dismiss(answer.value)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(self._by_id[event.button.id or ""])


class Confirm(Question[bool]):
    """Yes or no: ends with True or False."""

    def __init__(self, question: str, consequence: str, do: str = "Yes", leave: str = "No") -> None:
        super().__init__(question, (Answer(False, "n", leave), Answer(True, "y", do, consequence, dangerous=True)))


class Quit(StrEnum):
    """What the user wants of a save that is under way when they quit."""

    STAY = "stay"
    GO_ON = "go-on"
    CANCEL = "cancel"


_GOES_ON = {
    True: "vmtui's engine goes on with it, to its checked end. vmtui, or vmtui attach, shows it again, in any terminal.",
    False: "It goes on in this terminal without the screen, until its checked end. Do not close the terminal.",
}
"""By whether the engine outlives this terminal."""


class QuitDialog(Question[Quit]):
    def __init__(self, busy: Iterable[str], *, outlives: bool) -> None:
        """`busy` are the VMs that something is done to; `outlives`: the engine does not end with the screen."""
        names = [printable(name, 40) for name in busy]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        them, each = ("it", "The VM") if len(names) == 1 else ("them", "Each VM")
        super().__init__(
            f"Something is being done to {shown}. Quit all the same?",
            (
                Answer(Quit.STAY, "n", "Stay", "Nothing changes."),
                Answer(Quit.GO_ON, "g", "Quit, and let it go on", _GOES_ON[outlives]),
                Answer(Quit.CANCEL, "c", f"Cancel {them}, then quit",
                       f"{each} is put back as it was, and looked at. Where a guest does not let go of its card, this "
                       "takes up to 30 s.", dangerous=True),
            ),
        )  # fmt: skip
