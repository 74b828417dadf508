"""Every QMP message of one VM, both ways: followed, filtered, searched, and copied in the words of other tools."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from vmtui.backend.core import speak
from vmtui.backend.core.fleet import Record, VmView
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.model import Phase
from vmtui.backend.core.speak import Saying, Tongue
from vmtui.backend.core.text import printable
from vmtui.backend.core.words import MEANING
from vmtui.messages import Copy, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.event_log import EventLog
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import COLOURS, lines, toned
from vmtui.widgets.top_line import TopLine


class TranscriptScreen(ShowingScreen):
    """`key` is the VM's. What is to be copied is posted as `Copy`."""

    TITLE = "QMP transcript"
    HELP = (
        "Every message between vmtui and QEMU, both ways, and the phase each belongs to. The one under the cursor is "
        "shown whole. The list follows what comes until the cursor goes up. Nothing that is copied from here is sent to "
        "QEMU."
    )
    DEFAULT_CSS = """
    TranscriptScreen {
        #line { display: none; height: 1; border: none; padding: 0 1; background: $boost; }
        #both { layout: vertical; height: 1fr; }
        #log { height: 2fr; padding: 0 1; }
        #message { height: 1fr; min-height: 4; padding: 0 1; border-top: solid $primary; scrollbar-size-vertical: 1; }
        &.asking #line { display: block; }
        &.-wide #both { layout: horizontal; }
        &.-wide #log { width: 3fr; height: 1fr; }
        &.-wide #message { width: 2fr; height: 1fr; border-top: none; border-left: solid $primary; }
    }
    """
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-narrow"), (120, "-wide")]  # type: ignore[misc]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "ask('filter')", "Filter", id="transcript.filter"),
        Binding("s", "ask('search')", "Search", id="transcript.search"),
        Binding("n", "search(False)", "Next", id="transcript.next", show=False),
        Binding("N", "search(True)", "Previous", id="transcript.previous", show=False),
        Binding("y", "copy_json", "Copy", id="transcript.copy"),
        Binding("c", "copy_as", "Copy as", id="transcript.copy-as"),
        Binding("p", "pretty", "Raw", id="transcript.raw"),
        Binding("escape", "back", "Back", id="transcript.back"),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self._view: VmView | None = None
        self._pretty = True
        self._asked = ""
        """What is being typed: a filter or a search."""
        self._filter = ""
        self._search = ""
        self._said = ""
        self._shown: Shown | None = None
        self._drawn: tuple[Record | None, bool] | None = None

    def compose(self) -> ComposeResult:
        yield TopLine("QMP")
        yield Input(id="line", compact=True)
        with Container(id="both"):
            yield EventLog(id="log")
            with VerticalScroll(id="message"):
                yield Static(id="body", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.log_list.focus()

    @property
    def log_list(self) -> EventLog:
        return self.query_one("#log", EventLog)

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        self._shown, self._view = shown, shown.vm(self.key)
        if self._view is not None:
            self.log_list.show(self._view, shown.fleet.host.offset)
        self._draw_title()
        self._draw_message()

    def ticks(self, shown: Shown) -> bool:
        return False

    def _draw_title(self) -> None:
        name, parts = printable(self.key, 60), ["is not here any more"]
        if self._view is not None:
            vm, log = self._view.state.vm, self._view.log
            count = f"{self.log_list.count} of {len(log)} match {self._filter!r}" if self._filter else f"{len(log)} lines"
            name, parts = printable(vm.name or self._view.name or vm.key, 40), [count]
            parts += ["following"] if self.log_list.following else ["standing still, f follows"]
            parts += [self._said] if self._said else [_earlier(self._view)]
        if self._shown is not None:
            about = Content.assemble((name, "bold"), "  ", "  ".join(filter(None, parts)))
            self.query_one(TopLine).draw(self._shown, about)

    def _draw_message(self) -> None:
        record = self.log_list.chosen
        if (record, self._pretty) != self._drawn:
            before, self._drawn = self._drawn, (record, self._pretty)
            if before is None or _has_message(before[0]) != _has_message(record):
                self.refresh_bindings()
            self.query_one("#body", Static).update(_body(record, pretty=self._pretty, filtered=bool(self._filter)))
            self.query_one("#message").scroll_home(animate=False)

    @on(EventLog.Chosen)
    def _chosen(self) -> None:
        self._draw_title()
        self._draw_message()

    # --- keys -----------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.typing:
            return True if action == "back" else None
        if action in ("copy_json", "copy_as") and (not self.is_mounted or self._message() is None):
            return None
        return True

    def _message(self) -> speak.Message | None:
        """The QMP message under the cursor; a phase is none."""
        record = self.log_list.chosen
        return record.data["msg"] if record is not None and _has_message(record) else None

    def action_pretty(self) -> None:
        self._pretty = not self._pretty
        self._draw_message()

    def action_copy_json(self) -> None:
        message = self._message()
        if message is not None:
            self.post_message(Copy(speak.as_json(message), "the message as JSON"))

    def action_copy_as(self) -> None:
        message = self._message()
        if message is None or self._view is None:
            return
        vm = self._view.state.vm
        self.app.push_screen(CopyMenu(speak.sayings(message, vm.name or self._view.name)), self._copy)

    def _copy(self, saying: Saying | None) -> None:
        if saying is not None:
            self.post_message(
                Copy(saying.text, f"the message {'as' if saying.tongue is Tongue.JSON else 'for'} {saying.tongue}")
            )

    def action_ask(self, what: str) -> None:
        self._asked = what
        self.add_class("asking")
        line = self.query_one("#line", Input)
        line.placeholder = f"{what}: part of a message"
        line.value = self._filter if what == "filter" else self._search
        self.set_focus(line)

    @on(Input.Changed, "#line")
    def _typed(self, event: Input.Changed) -> None:
        if self._asked == "filter":
            self._set_filter(event.value)

    @on(Input.Submitted, "#line")
    def _submitted(self, event: Input.Submitted) -> None:
        asked = self._asked
        self._end_asking()
        if asked == "search":
            self._search = event.value
            self.action_search(False)

    def action_search(self, backwards: bool) -> None:
        if not self._search.strip():
            self.action_ask("search")
            return
        found = self.log_list.search(self._search, backwards=backwards)
        self._said = "" if found else f"nothing has {printable(self._search, 30)!r} in it"
        self._draw_title()

    def _set_filter(self, text: str) -> None:
        self._filter = printable(text.strip(), 40)
        self.log_list.filter(text)
        self._draw_title()
        self._draw_message()

    def _end_asking(self) -> None:
        self._asked = ""
        self.remove_class("asking")
        self.log_list.focus()

    def action_back(self) -> None:
        """Leave what was opened last: the line to type in, the filter, the screen."""
        if self._asked:
            self._end_asking()
        elif self._filter:
            self._set_filter("")
            self.post_message(Redraw())
        else:
            self.dismiss()


class CopyMenu(ModalScreen[Saying | None]):
    """In which words? Dismissed with what is to be copied, or None."""

    TITLE = "Copy as"
    HELP = "The same message in the words of other tools. One that a tool has no words for cannot be chosen, and says why."
    DEFAULT_CSS = """
    CopyMenu {
        align: center middle;
        #menu { width: 90%; max-width: 110; height: auto; max-height: 90%; border: round $primary; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Back", id="copy-as.back"),
        *(
            Binding(key, f"say('{tongue}')", tongue, id=f"copy-as.{tongue.name.lower()}", show=False)
            for key, tongue in zip("jqhv", Tongue, strict=True)
        ),
    ]

    def __init__(self, sayings: tuple[Saying, ...]) -> None:
        super().__init__()
        self._sayings = sayings

    def compose(self) -> ComposeResult:
        menu = OptionList(*map(_option, "jqhv", self._sayings), id="menu", markup=False)
        menu.border_title = "copy as"
        yield menu

    def action_say(self, tongue: str) -> None:
        saying = next(each for each in self._sayings if each.tongue == tongue)
        if saying.text:
            self.dismiss(saying)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._sayings[event.option_index])


def _option(key: str, saying: Saying) -> Option:
    head = Content.assemble((f"{key}  {saying.tongue}", "bold"))
    shown = lines(Content(printable(line, 300)) for line in saying.text.split("\n")[:4])
    body = shown if saying.text else toned(f"not possible: {saying.why_not}", Tone.DIM)
    return Option(lines([head, body]), disabled=not saying.text)


def _has_message(record: Record | None) -> bool:
    return record is not None and isinstance(record.data.get("msg"), dict)


def _earlier(view: VmView) -> str:
    """Where the lines are that this list has no room for."""
    gone = view.log[0].number - 1 if view.log else 0
    if not gone:
        return ""
    return f"{gone} earlier ones in {printable(view.journal, 200)}" if view.journal else f"{gone} earlier ones are gone"


def _body(record: Record | None, *, pretty: bool, filtered: bool) -> Content:
    if record is None:
        why = "nothing matches the filter: / and Escape show all again" if filtered else "nothing was sent or heard yet"
        return Content.styled(why, COLOURS[Tone.DIM])
    message = record.data.get("msg")
    if (phase := record.data.get("phase")) in set(Phase):
        return Content(f"a phase of vmtui: {MEANING[Phase(phase)]}")
    return Content(speak.readable(message if isinstance(message, dict) else record.data, pretty=pretty))
