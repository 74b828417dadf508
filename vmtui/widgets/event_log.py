"""What went over a VM's monitor, a line each: beside the picture of the VM, or as a screen of its own.

Only the lines that can be seen are drawn, and only records that are new are looked at: a flood costs a screenful.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from vmtui.backend.core import speak, words
from vmtui.backend.core.fleet import Record, VmView
from vmtui.backend.core.text import printable
from vmtui.widgets.look import ascii_only

ARROWS = {"send": "→", "recv": "←", "": "─"}
ASCII_ARROWS = {"send": ">", "recv": "<", "": "-"}


class EventLog(ScrollView, can_focus=True):
    """Call `show` with the latest view. It follows the end until somebody goes up."""

    DEFAULT_CSS = """
    EventLog { background: $background; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    EventLog .event-log--time { color: $foreground-muted; }
    EventLog .event-log--send { color: $text-accent; }
    EventLog .event-log--event { color: $text-success; }
    EventLog .event-log--reply { color: $foreground-muted; }
    EventLog .event-log--error { color: $text-error; text-style: bold; }
    EventLog .event-log--phase { color: $text-primary; text-style: bold; }
    EventLog .event-log--cursor { background: $block-cursor-blurred-background; }
    EventLog:focus .event-log--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "event-log--time", "event-log--send", "event-log--event", "event-log--reply", "event-log--error",
        "event-log--phase", "event-log--cursor",
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "go(-1)", "Up", id="log.up", show=False),
        Binding("down", "go(1)", "Down", id="log.down", show=False),
        Binding("pageup", "page(-1)", "Page up", id="log.page-up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="log.page-down", show=False),
        Binding("home", "ends(True)", "First", id="log.first", show=False),
        Binding("end", "ends(False)", "Last", id="log.last", show=False),
        Binding("f", "follow", "Follow", id="log.follow"),
    ]

    class Chosen(Message):
        """Another record is under the cursor, or none."""

        def __init__(self, record: Record | None) -> None:
            super().__init__()
            self.record = record

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.following = True
        self._log: tuple[Record, ...] = ()
        self._rows: Sequence[Record] = ()
        """Those of the log that match the filter."""
        self._wanted = ""
        self._offset = 0.0
        self._cursor: int | None = None
        """The number of the record under it."""
        self._sent: dict[str, str] = {}
        """The commands that have no reply yet, by id."""
        self._answers: dict[int, str] = {}
        """The command that a reply is to, by the reply's number."""

    # --- values in ------------------------------------------------------------------------------------------------

    def show(self, view: VmView, offset: float = 0.0) -> None:
        """Draw what is new. `offset`: seconds to add to a record's time to have seconds since 1970."""
        if view.log is self._log and offset == self._offset:
            return
        newest = self._log[-1].number if self._log else 0
        if view.log and view.log[-1].number < newest:  # another engine, which counts anew
            newest = 0
        new = view.log[-(view.log[-1].number - newest) :] if view.log and view.log[-1].number > newest else ()
        self._log, self._offset = view.log, offset
        for record in new:
            self._note_answer(record)
        self._answers = {number: name for number, name in self._answers.items() if number >= self._first}
        self._take(new)

    @property
    def _first(self) -> int:
        return self._log[0].number if self._log else 0

    def _note_answer(self, record: Record) -> None:
        message = record.data.get("msg")
        if not isinstance(message, dict) or "id" not in message:
            return
        if record.data.get("dir") == "send":
            self._sent[str(message["id"])] = speak.title(message)
            if len(self._sent) > len(self._log):
                del self._sent[next(iter(self._sent))]
        elif (name := self._sent.pop(str(message["id"]), None)) is not None:
            self._answers[record.number] = name

    def _take(self, new: Sequence[Record]) -> None:
        if self._wanted:
            kept = [record for record in self._rows if record.number >= self._first]
            self._rows = kept + [record for record in new if self._matches(record, self._wanted)]
        else:
            self._rows = self._log
        self._settle()

    def filter(self, text: str) -> None:
        """Show only what has `text` in it, in any case."""
        self._wanted = text.strip().lower()
        self._rows = [record for record in self._log if self._matches(record, self._wanted)] if self._wanted else self._log
        self._settle()

    def _matches(self, record: Record, wanted: str) -> bool:
        return wanted in self.text(record).lower()

    def _settle(self) -> None:
        """Size, cursor and scroll position for the rows as they are now."""
        self.virtual_size = Size(self.size.width, len(self._rows))
        last = self._rows[-1].number if self._rows else None
        index = self._index
        if self.following or index is None:
            self._put(last)
        elif self._rows[index].number != self._cursor:
            self._put(self._rows[index].number)
        self.refresh()

    # --- the cursor -----------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return len(self._rows)

    @property
    def chosen(self) -> Record | None:
        index = self._index
        return None if index is None else self._rows[index]

    @property
    def _index(self) -> int | None:
        """Where the cursor is; on the next record, where its own is gone or does not match."""
        if not self._rows or self._cursor is None:
            return None
        return min(bisect_left(self._rows, self._cursor, key=lambda record: record.number), len(self._rows) - 1)

    def _put(self, number: int | None) -> None:
        """The cursor goes there, and is seen."""
        moved, self._cursor = number != self._cursor, number
        index = self._index
        if index is not None:
            top = min(int(self.scroll_offset.y), index)
            height = max(self.size.height, 1)
            self.scroll_to(y=max(top, index - height + 1), animate=False, force=True, immediate=True)
        if moved:
            self.post_message(self.Chosen(self.chosen))
        self.refresh()

    def action_go(self, by: int) -> None:
        """Some rows up or down; at the last row it follows what comes."""
        index = self._index
        if index is not None:
            index = min(max(index + by, 0), len(self._rows) - 1)
            self.following = index == len(self._rows) - 1 and by > 0
            self._put(self._rows[index].number)

    def action_page(self, direction: int) -> None:
        self.action_go(direction * max(self.size.height - 1, 1))

    def action_ends(self, first: bool) -> None:
        self.action_go(-len(self._rows) if first else len(self._rows))

    def action_follow(self) -> None:
        self.following = not self.following
        if self.following and self._rows:
            self._put(self._rows[-1].number)
        self.post_message(self.Chosen(self.chosen))

    def search(self, text: str, *, backwards: bool = False) -> bool:
        """Go to the next record that has `text` in it, from the other end if need be; False where none has."""
        index, wanted = self._index, text.strip().lower()
        if index is None or not wanted:
            return False
        order = [*self._rows[index + 1 :], *self._rows[: index + 1]]
        if backwards:
            order = [*reversed(self._rows[:index]), *reversed(self._rows[index:])]
        found = next((record for record in order if self._matches(record, wanted)), None)
        if found is not None:
            self.following = False
            self._put(found.number)
        return found is not None

    def on_click(self, event: events.Click) -> None:
        index = int(self.scroll_offset.y) + event.y
        if index < len(self._rows):
            self.following = False
            self._put(self._rows[index].number)

    # --- drawing --------------------------------------------------------------------------------------------------

    def text(self, record: Record) -> str:
        """One line of it, safe to show."""
        message = record.data.get("msg")
        if isinstance(message, dict):
            return speak.summary(message, self._answers.get(record.number, ""))
        if record.kind == "phase":
            phase, status = str(record.data.get("phase", "")), str(record.data.get("status", "none"))
            return f"phase {printable(phase, 40)}{words.status_of(status, phase)}"
        return f"{printable(record.kind, 20)} {printable(str(record.data))}"

    def clock(self, record: Record) -> str:
        """The time of day, to the millisecond."""
        return datetime.fromtimestamp(record.at + self._offset).strftime("%H:%M:%S.%f")[:-3]

    def on_resize(self) -> None:
        self._settle()

    def render_line(self, y: int) -> Strip:
        index, width = int(self.scroll_offset.y) + y, self.size.width
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        record = self._rows[index]
        arrows = ASCII_ARROWS if ascii_only() else ARROWS
        base = self.rich_style
        over = self.get_component_rich_style("event-log--cursor") if record.number == self._cursor else Style()
        segments = [
            Segment(f"{self.clock(record)} ", base + self.get_component_rich_style("event-log--time", partial=True) + over),
            Segment(
                f"{arrows[str(record.data.get('dir', ''))] if record.kind == 'qmp' else arrows['']} {self.text(record)}",
                base + self.get_component_rich_style(f"event-log--{_look(record)}", partial=True) + over,
            ),
        ]
        return Strip(segments).adjust_cell_length(width, base + over)


def _look(record: Record) -> str:
    message = record.data.get("msg")
    if not isinstance(message, dict):
        return "phase"
    if record.data.get("dir") == "send":
        return "send"
    return "event" if "event" in message else "error" if "error" in message else "reply"
