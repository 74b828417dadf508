"""What is in the snapshot directory: every saved state in a table, and the one under the cursor in full."""

import textwrap
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import Button, DataTable, Input, Static

from vmtui.backend.core import catalogue
from vmtui.backend.core.catalogue import Line
from vmtui.backend.core.fleet import DeleteWish, Reading, ReadWish, Snapshot, SurveyWish
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.words import seconds, size
from vmtui.messages import Ask, Copy, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import cell, lines, said, toned
from vmtui.widgets.top_line import TopLine


class SnapshotsScreen(ShowingScreen):
    TITLE = "Snapshots"
    HELP = (
        "Every saved state of the snapshot directory. 'whole' is what its manifest and its size say; v reads the file "
        "through. Nothing is started here: R copies the command that restores it, for a shell."
    )
    DEFAULT_CSS = """
    SnapshotsScreen #where { height: 1; padding: 0 1; color: $text-muted; }
    SnapshotsScreen #filter { display: none; height: 1; }
    SnapshotsScreen #filter.-open { display: block; }
    SnapshotsScreen #hint { padding: 1 2; height: auto; display: none; }
    SnapshotsScreen #hint.-open { display: block; }
    SnapshotsScreen StateTable { height: 1fr; }
    SnapshotsScreen #detail { height: 10; scrollbar-size-vertical: 1; border-top: solid $panel; padding: 0 1; }
    SnapshotsScreen #said { height: 1; padding: 0 1; }
    SnapshotsScreen.-low #detail { height: 7; }
    SnapshotsScreen.-roomy #detail { height: auto; max-height: 60%; }
    SnapshotsScreen.-empty #detail { display: none; }
    SnapshotsScreen.-empty StateTable { height: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "Verify", id="snapshots.verify"),
        Binding("v", "stop_reading", "Stop verifying", id="snapshots.stop"),
        Binding("R", "copy_restore", "Copy restore", id="snapshots.restore"),
        Binding("y", "copy_path", "Copy path", id="snapshots.copy"),
        Binding("d", "delete", "Delete", id="snapshots.delete"),
        Binding("slash", "filter", "Filter", id="snapshots.filter"),
        Binding("o", "order", "Sort", id="snapshots.order", show=False),
        Binding("r", "survey", "Look again", id="snapshots.survey", show=False),
        Binding("ctrl+d", "page(1)", "Details down", id="snapshots.down", show=False),
        Binding("ctrl+u", "page(-1)", "Details up", id="snapshots.up", show=False),
        Binding("escape", "back", "Back", id="snapshots.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shown: Shown | None = None
        self._sort = next(iter(catalogue.SORTS))
        self._where = self._told = ""
        self._detail: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield TopLine("Snapshots")
        yield Static(id="where", markup=False)
        yield Input(placeholder="a VM, a date, a state, part of a path; Escape shows all", id="filter", compact=True)
        yield Static(id="hint", markup=False)
        yield StateTable()
        with VerticalScroll(id="detail", can_focus=False):
            yield Static(id="full", markup=False)
        yield Static(id="said", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(StateTable).focus()

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        self._shown = shown
        shelf = shown.fleet.shelf
        found = catalogue.lines(shown.fleet)
        text = self.query_one("#filter", Input).value
        listed = catalogue.chosen(found, text, self._sort)
        self.query_one(TopLine).draw(shown, _counts(found))
        self.query_one(StateTable).draw(listed)
        self._hint("" if listed else catalogue.nothing(shelf, text))
        self._where = self._update("#where", self._where, catalogue.headline(shelf, len(listed)))
        self._told = self._update("#said", self._told, shelf.said)
        self._draw_detail()

    def ticks(self, shown: Shown) -> bool:
        return False

    def _update(self, which: str, before: str, now: str) -> str:
        if now != before:
            self.query_one(which, Static).update(Content(now))
        return now

    def _hint(self, text: str) -> None:
        hint = self.query_one("#hint", Static)
        hint.set_class(bool(text), "-open")
        self.set_class(bool(text), "-empty")
        if text:
            hint.update(Content(text))

    def _draw_detail(self) -> None:
        snapshot, width = self.selected, max(self.size.width - 4, 40)
        reading = self._reading(snapshot)
        drawn = (snapshot, reading, width, self.app.theme)
        if drawn == self._detail:
            return
        if snapshot != (self._detail[0] if self._detail else None):
            self.query_one("#detail", VerticalScroll).scroll_home(animate=False)
        self._detail = drawn
        self.query_one("#full", Static).update(_in_full(snapshot, reading, width) if snapshot else Content(""))

    def _reading(self, snapshot: Snapshot | None) -> Reading | None:
        return self._shown.fleet.shelf.readings.get(snapshot.path) if self._shown and snapshot else None

    # --- keys -----------------------------------------------------------------------------------------------------

    @property
    def selected(self) -> Snapshot | None:
        path = self.query_one(StateTable).selected
        snapshots = self._shown.fleet.shelf.snapshots if self._shown else ()
        return next((each for each in snapshots if each.path == path), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.typing:
            return True if action == "back" else None
        snapshot = self.selected if self.is_mounted else None
        reading = self._reading(snapshot)
        under_way = reading is not None and not reading.over
        match action:
            case "verify":
                return False if under_way else (None if catalogue.why_not_read(snapshot) else True)
            case "stop_reading":
                return under_way
            case "copy_restore":
                return True if snapshot is not None and snapshot.whole else None
            case "copy_path":
                return True if snapshot is not None else None
            case "delete":
                return None if catalogue.why_not_delete(snapshot, read_only=self._read_only) else True
            case _:
                return True

    @property
    def _read_only(self) -> bool:
        return self._shown is not None and self._shown.read_only

    def action_verify(self) -> None:
        if (snapshot := self.selected) is not None:
            self.post_message(Ask(ReadWish(snapshot.path)))

    def action_stop_reading(self) -> None:
        if (snapshot := self.selected) is not None:
            self.post_message(Ask(ReadWish(snapshot.path, stop=True)))

    def action_copy_path(self) -> None:
        if (snapshot := self.selected) is not None:
            self.post_message(Copy(snapshot.path, "the path"))

    def action_copy_restore(self) -> None:
        if (snapshot := self.selected) is not None:
            self.post_message(Copy(catalogue.restore_command(snapshot.path), "the command that restores it"))

    def action_delete(self) -> None:
        """What is asked about is what is deleted, whatever the cursor or the directory does meanwhile."""
        if (snapshot := self.selected) is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.post_message(Ask(DeleteWish(snapshot.path)))

        self.app.push_screen(Confirm(catalogue.deleting(snapshot), "Delete it", "Keep it"), answered)

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("-open")
        self.set_focus(box)

    def action_order(self) -> None:
        names = list(catalogue.SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self.notify(f"sorted by {self._sort}", timeout=2)
        self.post_message(Redraw())

    def action_survey(self) -> None:
        self.post_message(Ask(SurveyWish()))

    def action_page(self, pages: int) -> None:
        box = self.query_one("#detail", VerticalScroll)
        box.scroll_relative(y=pages * max(box.size.height - 1, 1), animate=False)

    def action_back(self) -> None:
        """First out of the filter, then out of the screen."""
        box = self.query_one("#filter", Input)
        if not box.has_class("-open"):
            self.app.pop_screen()
            return
        box.value = ""
        box.remove_class("-open")
        self.query_one(StateTable).focus()

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self.post_message(Redraw())

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        self.query_one(StateTable).focus()

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        self._draw_detail()
        self.refresh_bindings()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.height < 24, "-low")
        self.set_class(event.size.height >= 36, "-roomy")
        self.post_message(Redraw())


LABEL = 9
"""Columns of a label."""


def _in_full(snapshot: Snapshot, reading: Reading | None, width: int) -> Content:
    tones = {"state": catalogue.standing(snapshot, reading).tone}
    return lines(_line(label, text, tones.get(label), width) for label, text in catalogue.details(snapshot, reading))


def _line(label: str, text: str, tone: Tone | None, width: int) -> Content:
    """What is too long for a line goes on below the text, not below the label."""
    wrapped = f"\n{' ' * LABEL}".join(textwrap.wrap(text, width - LABEL, break_on_hyphens=False) or [""])
    value = Content(wrapped) if tone is None else said(Said(wrapped, tone))
    return Content.assemble(toned(f"{label:{LABEL}}", Tone.DIM), value)


def _counts(found: tuple[Line, ...]) -> Content:
    bad = sum(each.standing.tone in (Tone.WARN, Tone.BAD) for each in found)
    return toned(f"{bad} not whole", Tone.WARN) if bad else Content("")


# --- the table ----------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """`from_width`: the table has it when it is at least that wide."""

    label: str
    width: int
    from_width: int
    drawn: Callable[[Line, dict[str, str]], Text]


def _text(text: str, *, right: bool = False) -> Text:
    return Text(text, justify="right" if right else "left", no_wrap=True)


COLUMNS = (
    Column("VM",      14, 0,   lambda each, _: _text(each.vm)),
    Column("State",   15, 0,   lambda each, theme: cell(each.standing, theme)),
    Column("Saved",   19, 0,   lambda each, _: _text(each.when)),
    Column("Size",    9,  66,  lambda each, _: _text(size(each.size), right=True)),
    Column("Stopped", 9,  77,  lambda each, _: _text("" if each.stopped is None else seconds(each.stopped), right=True)),
    Column("How",     18, 97,  lambda each, _: _text(each.how)),
    Column("QEMU",    8,  107, lambda each, _: _text(each.qemu)),
    Column("Machine", 18, 127, lambda each, _: _text(each.machine)),
)  # fmt: skip


class StateTable(DataTable[Text]):
    """`draw` takes the lines in order; the cursor stays on its file, wherever that moves."""

    DEFAULT_CSS = """
    StateTable { overflow-x: hidden; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="table.down"),
        Binding("k", "cursor_up", "Up", show=False, id="table.up"),
        Binding("g,home", "scroll_top", "First", show=False, id="table.first"),
        Binding("G,end", "scroll_bottom", "Last", show=False, id="table.last"),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", show_row_labels=False)
        self._lines: dict[str, Line] = {}
        self._columns: tuple[Column, ...] = ()
        self._theme = ""

    @property
    def selected(self) -> str | None:
        """The path under the cursor."""
        paths = list(self._lines)
        return paths[self.cursor_row] if 0 <= self.cursor_row < len(paths) else None

    def draw(self, found: tuple[Line, ...]) -> None:
        columns = tuple(each for each in COLUMNS if self.app.size.width >= each.from_width)
        now = {each.path: each for each in found}
        if columns != self._columns or self.app.theme != self._theme or list(now) != list(self._lines):
            self._rebuild(columns, now)
            return
        for path, line in now.items():
            if line != self._lines[path]:
                for column in columns:
                    self.update_cell(path, column.label, column.drawn(line, self.app.theme_variables))
        self._lines = now

    def _rebuild(self, columns: tuple[Column, ...], now: dict[str, Line]) -> None:
        row, selected = self.cursor_row, self.selected
        self.clear(columns=True)
        for column in columns:
            self.add_column(column.label, key=column.label, width=column.width)
        for path, line in now.items():
            self.add_row(*(column.drawn(line, self.app.theme_variables) for column in columns), key=path)
        self._lines, self._columns, self._theme = now, columns, self.app.theme
        if now:
            self.move_cursor(row=list(now).index(selected) if selected in now else min(row, len(now) - 1), animate=False)


# --- asking -------------------------------------------------------------------------------------------------------


class Confirm(ModalScreen[bool]):
    """A question whose harmless answer has the focus, and is what Escape says."""

    TITLE = "A question"
    HELP = "Nothing is deleted unless its button is pressed; Escape keeps the file."
    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Vertical {
        width: 70; max-width: 100%; height: auto; max-height: 100%; border: round $warning; padding: 1 2;
        background: $surface;
    }
    Confirm #question { height: auto; }
    Confirm Horizontal { height: 1; margin: 1 0 0 0; }
    Confirm Button { margin: 0 2 0 0; }
    Confirm Button:focus { text-style: bold reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "no", "No", id="confirm.no"),
        Binding("left,right", "other", "Other answer", id="confirm.other", show=False),
    ]

    def __init__(self, question: str, yes: str, no: str) -> None:
        super().__init__()
        self._question = question
        self._answers = yes, no

    def compose(self) -> ComposeResult:
        yes, no = self._answers
        with Vertical():
            yield Static(Content(self._question), id="question", markup=False)
            with Horizontal():
                yield Button(no, compact=True, id="no")
                yield Button(yes, compact=True, id="yes")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    @on(Button.Pressed, "#no")
    def action_no(self) -> None:
        self.dismiss(False)

    @on(Button.Pressed, "#yes")
    def _yes(self) -> None:
        self.dismiss(True)

    def action_other(self) -> None:
        self.focus_next()
