"""The table of VMs: one line each, and of those only what changed is drawn again.

Not a DataTable: that draws every line in view again when one cell changes, 35 ms of it at 80x24, and keys wait meanwhile.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from vmtui.backend.core.glance import Glance, Said, Tone
from vmtui.backend.core.words import size, stamp
from vmtui.messages import Open, Place, Redraw
from vmtui.widgets.look import ascii_only, css, glyph


class Column(NamedTuple):
    """`from_width`: the table has it when it is at least that wide. `width` is without the blank at each side."""

    label: str
    width: int
    from_width: int
    says: Callable[[Glance], Said | str]
    right: bool = False


COLUMNS = (
    Column("VM",            14, 0,   lambda each: each.name),
    Column("State",         16, 0,   lambda each: each.state),
    Column("Doing",         24, 0,   lambda each: each.doing),
    Column("Failover card", 16, 79,  lambda each: each.card),
    Column("RAM",           9,  88,  lambda each: size(each.memory) if each.memory else "", right=True),
    Column("QEMU",          8,  98,  lambda each: each.qemu),
    Column("Last saved",    12, 112, lambda each: "" if each.saved is None else stamp(each.saved)),
)  # fmt: skip


class VmTable(ScrollView, can_focus=True):
    """`draw` takes the lines in order; the cursor stays on its VM, wherever that moves.

    `moved` is called when a key or a click has put it on another one: not a message, for what that draws would be a
    picture of its own, two turns of Textual's timer later.
    """

    DEFAULT_CSS = f"""
    VmTable {{
        background: $surface; color: $foreground; overflow-x: hidden; scrollbar-size-vertical: 1;
        &:focus {{ background-tint: $foreground 5%; }}
        & > .vm-table--header {{ background: $panel; color: $foreground; text-style: bold; }}
        & > .vm-table--cursor {{
            background: $block-cursor-blurred-background;
            color: $block-cursor-blurred-foreground;
            text-style: $block-cursor-blurred-text-style;
        }}
        {"".join(f"& > .vm-table--{tone} {{ {css(tone)} }}" for tone in Tone)}
        &:focus > .vm-table--header {{ background-tint: $foreground 5%; }}
        &:focus > .vm-table--cursor {{
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: $block-cursor-text-style;
        }}
    }}
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "vm-table--header",
        "vm-table--cursor",
        *(f"vm-table--{tone}" for tone in Tone),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "cursor_down", "Down", show=False, id="table.arrow-down"),
        Binding("up", "cursor_up", "Up", show=False, id="table.arrow-up"),
        Binding("j", "cursor_down", "Down", show=False, id="table.down"),
        Binding("k", "cursor_up", "Up", show=False, id="table.up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="table.page-down"),
        Binding("pageup", "page_up", "Page up", show=False, id="table.page-up"),
        Binding("g,home,ctrl+home", "scroll_top", "First", show=False, id="table.first"),
        Binding("G,end,ctrl+end", "scroll_bottom", "Last", show=False, id="table.last"),
    ]

    def __init__(self, moved: Callable[[], None]) -> None:
        super().__init__()
        self._moved = moved
        self._lines: tuple[Glance, ...] = ()
        self._row = 0
        self._columns: tuple[Column, ...] = ()

    @property
    def selected(self) -> str | None:
        """The key of the VM under the cursor."""
        return self._lines[self._row].key if self._row < len(self._lines) else None

    # --- drawing --------------------------------------------------------------------------------------------------

    def draw(self, lines: tuple[Glance, ...]) -> None:
        columns = tuple(each for each in COLUMNS if self.size.width >= each.from_width)
        before, selected = self._lines, self.selected
        self._lines = lines
        if columns != self._columns or [each.key for each in lines] != [each.key for each in before]:
            self._columns = columns
            self._rebuilt(selected)
            return
        for row, (old, new) in enumerate(zip(before, lines, strict=True)):
            if old != new:
                self._refresh_line(row, old, new)

    def render_line(self, y: int) -> Strip:
        if y == 0:
            style = self.get_component_rich_style("vm-table--header")
            return self._strip([_cell(column, column.label, style) for column in self._columns], style)
        row = y - 1 + self.scroll_offset.y
        if row >= len(self._lines):
            return self._strip([], self.rich_style)
        cursor = self.get_component_rich_style("vm-table--cursor") if row == self._row else None
        base, cells = cursor or self.rich_style, []
        for column in self._columns:
            said = column.says(self._lines[row])
            if isinstance(said, str) or not said.word:
                cells.append(_cell(column, said if isinstance(said, str) else "", base))
            else:
                style = cursor or self.get_component_rich_style(f"vm-table--{said.tone}")
                cells.append(_cell(column, f"{glyph(said.tone)} {said.word}", style))
        return self._strip(cells, base)

    def _strip(self, cells: list[Segment], rest: Style) -> Strip:
        return Strip(cells).adjust_cell_length(self.size.width, rest).simplify()

    def _refresh_line(self, row: int, old: Glance, new: Glance) -> None:
        """What of it is in view, up to the last cell that says something else: Textual sends a line from its start."""
        y, end, changed = row + 1 - self.scroll_offset.y, 0, 0
        for column in self._columns:
            end += column.width + 2
            changed = end if column.says(old) != column.says(new) else changed
        if changed and 0 < y < self.size.height:
            self.refresh(Region(0, y, changed, 1))

    def _rebuilt(self, selected: str | None) -> None:
        """Other lines or columns: the cursor goes where its VM went, or stays where it was."""
        keys = [each.key for each in self._lines]
        self._row = keys.index(selected) if selected in keys else max(min(self._row, len(keys) - 1), 0)
        self.virtual_size = Size(1, len(keys) + 1)
        self._into_view()
        self.refresh()

    def on_resize(self) -> None:
        self._into_view()
        self.post_message(Redraw())

    # --- the cursor -----------------------------------------------------------------------------------------------

    @property
    def _page(self) -> int:
        """Lines in view, below the header."""
        return max(self.size.height - 1, 1)

    def _go(self, row: int) -> None:
        row = max(min(row, len(self._lines) - 1), 0)
        if row == self._row:
            return
        self.refresh_line(self._row + 1)
        self._row = row
        self.refresh_line(self._row + 1)
        self._into_view()
        self._moved()

    def _into_view(self) -> None:
        top = self.scroll_offset.y
        wanted = min(max(top, self._row - self._page + 1), self._row)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, force=True)

    def action_cursor_down(self) -> None:
        self._go(self._row + 1)

    def action_cursor_up(self) -> None:
        self._go(self._row - 1)

    def action_page_down(self) -> None:
        self._go(self._row + self._page)

    def action_page_up(self) -> None:
        self._go(self._row - self._page)

    def action_scroll_top(self) -> None:
        self._go(0)

    def action_scroll_bottom(self) -> None:
        self._go(len(self._lines) - 1)

    def on_click(self, event: Click) -> None:
        """The first one chooses a VM, the next one opens it."""
        row = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or row >= len(self._lines):
            return
        if row == self._row:
            self.screen.post_message(Open(Place.VM, self._lines[row].key))
        self._go(row)


def _cell(column: Column, text: str, style: Style) -> Segment:
    """As wide as its column, with a blank at each side; what is too long ends in a dot that says so."""
    length = cell_len(text)
    if length > column.width:
        text = set_cell_size(text, column.width - 1) + ("~" if ascii_only() else "…")
    elif column.right:
        text = " " * (column.width - length) + text
    return Segment(f" {set_cell_size(text, column.width)} ", style)
