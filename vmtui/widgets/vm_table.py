"""The table of VMs: one line each, and only the cells that changed are drawn again."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from vmtui.backend.core.glance import Glance
from vmtui.backend.core.words import size, stamp
from vmtui.messages import Open, Place, Redraw
from vmtui.widgets.look import cell


class Column(NamedTuple):
    """`from_width`: the table has it when it is at least that wide."""

    key: str
    label: str
    width: int
    from_width: int
    drawn: Callable[[Glance, dict[str, str]], Text]


def _number(count: int) -> Text:
    return Text(size(count) if count else "", justify="right", no_wrap=True)


def _stamp(at: float | None) -> Text:
    return Text("" if at is None else stamp(at))


COLUMNS = (
    Column("name",  "VM",            14, 0,   lambda each, _: Text(each.name, no_wrap=True)),
    Column("state", "State",         16, 0,   lambda each, theme: cell(each.state, theme)),
    Column("doing", "Doing",         24, 0,   lambda each, theme: cell(each.doing, theme)),
    Column("card",  "Failover card", 16, 79,  lambda each, theme: cell(each.card, theme)),
    Column("ram",   "RAM",           9,  88,  lambda each, _: _number(each.memory)),
    Column("qemu",  "QEMU",          8,  98,  lambda each, _: Text(each.qemu)),
    Column("saved", "Last saved",    12, 112, lambda each, _: _stamp(each.saved)),
)  # fmt: skip


class VmTable(DataTable[Text]):
    """`draw` takes the lines in order; the cursor stays on its VM, wherever that moves."""

    DEFAULT_CSS = """
    VmTable { overflow-x: hidden; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="table.down"),
        Binding("k", "cursor_up", "Up", show=False, id="table.up"),
        Binding("g,home", "scroll_top", "First", show=False, id="table.first"),
        Binding("G,end", "scroll_bottom", "Last", show=False, id="table.last"),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", show_row_labels=False, zebra_stripes=False)
        self._lines: dict[str, Glance] = {}
        self._shown: tuple[Column, ...] = ()
        self._theme = ""

    @property
    def selected(self) -> str | None:
        """The key of the VM under the cursor."""
        keys = list(self._lines)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else None

    def draw(self, glances: tuple[Glance, ...]) -> None:
        theme = self.app.theme_variables
        columns = tuple(each for each in COLUMNS if self.size.width >= each.from_width)
        lines = {each.key: each for each in glances}
        if columns != self._shown or self.app.theme != self._theme or list(lines) != list(self._lines):
            self._rebuild(columns, lines, theme)
            return
        for key, line in lines.items():
            if line != (before := self._lines[key]):
                self._redraw(before, line, theme)
        self._lines = lines

    def action_select_cursor(self) -> None:
        """Enter opens the VM by the way that every other key of the screen goes: what is typed next comes behind it."""
        if (key := self.selected) is not None:
            self.screen.post_message(Open(Place.VM, key))

    def on_resize(self) -> None:
        self.post_message(Redraw())

    def _redraw(self, before: Glance, line: Glance, theme: dict[str, str]) -> None:
        for column in self._shown:
            drawn = column.drawn(line, theme)
            if drawn != column.drawn(before, theme):
                self.update_cell(line.key, column.key, drawn)

    def _rebuild(self, columns: tuple[Column, ...], lines: dict[str, Glance], theme: dict[str, str]) -> None:
        selected = self.selected
        self.clear(columns=columns != self._shown)
        if columns != self._shown:
            for column in columns:
                self.add_column(column.label, key=column.key, width=column.width)
        for key, line in lines.items():
            self.add_row(*(column.drawn(line, theme) for column in columns), key=key)
        self._lines, self._shown, self._theme = lines, columns, self.app.theme
        if selected in lines:
            self.move_cursor(row=list(lines).index(selected), animate=False)
