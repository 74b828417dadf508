"""All migration parameters and capabilities of one VM's QEMU: looked at, filtered, changed in place."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Resize
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from vmtui.backend.core import parameters
from vmtui.backend.core.fleet import TuneWish, WatchWish
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.parameters import BadValue, Entry
from vmtui.backend.core.state import State, Tuned
from vmtui.backend.core.text import printable
from vmtui.messages import Ask, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import COLOURS, lines, toned
from vmtui.widgets.top_line import TopLine

COLUMNS = (
    ("NAME", 27, 0),
    ("VALUE", 18, 0),
    ("NOTE", 10, 0),
    ("DEFAULT", 15, 76),
    ("TYPE", 10, 100),
    ("MEANING", 0, 130),
)
"""Each with its width (0 = what is left), and the width of the screen from which on it is shown."""
MARGIN = 3
"""Of each line: padding and scroll bar."""
MUTED = COLOURS[Tone.DIM]
CAPABILITIES = "capabilities: what a migration may do"


class Settings(OptionList):
    """The table. What Enter does is the screen's to say."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.edit", "Change", id="parameters.change")]


class ParametersScreen(ShowingScreen):
    """`key` is the VM's. It posts `TuneWish` for what was typed, once that is a value that QEMU can take."""

    TITLE = "Migration settings"
    HELP = (
        "Every migration parameter and capability that this QEMU has, by its own names. Enter changes the one under the "
        "cursor: a value is judged while it is typed, and sent with Enter. What a save needs otherwise vmtui sets "
        "itself, and puts it back; the bandwidth can be changed also while a save runs."
    )
    DEFAULT_CSS = """
    ParametersScreen {
        #pause { height: auto; max-height: 2; padding: 0 1; }
        #filter { display: none; height: 1; border: none; padding: 0 1; }
        #heads { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap; }
        #list { height: 1fr; border: none; padding: 0 1; background: $background; scrollbar-size-vertical: 1; }
        #list > .option-list--option-disabled { color: $text-accent; }
        #detail { height: auto; max-height: 6; min-height: 3; padding: 0 1; border-top: solid $primary; }
        #value { display: none; height: 1; border: none; padding: 0 1; background: $boost; }
        #said { height: auto; max-height: 3; padding: 0 1; }
        &.filtering #filter { display: block; }
        &.editing #value { display: block; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On/off", id="parameters.switch"),
        Binding("slash", "filter", "Filter", id="parameters.filter"),
        Binding("escape", "back", "Back", id="parameters.back"),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self._state: State | None = None
        self._entries: tuple[Entry, ...] = ()
        self._listed: tuple[Entry | None, ...] = ()
        """The rows, as they are drawn; None is the line above the capabilities."""
        self._drawn: dict[str, Content] = {}
        self._width = 0
        self._read_only = False
        self._edited: Entry | None = None
        self._told: Tuned | None = None
        """What became of earlier settings: told before this screen was opened."""
        self._complaint = ""
        self._detailed: Entry | None = None

    def compose(self) -> ComposeResult:
        yield TopLine("Settings")
        yield Static(id="pause", markup=False)
        yield Input(id="filter", placeholder="part of a name or of a meaning", compact=True)
        yield Static(id="heads", markup=False)
        yield Settings(id="list", markup=False)
        yield Static(id="detail", markup=False)
        yield Input(id="value", compact=True)
        yield Static(id="said", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#list").focus()
        self.post_message(Ask(WatchWish(self.key, True)))

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        view = shown.vm(self.key)
        if view is None:
            gone = Content(f"{printable(self.key, 60)} is not here any more")
            self.query_one(TopLine).draw(shown, gone)
            return
        if self._state is None:
            self._told = view.state.tuned
        self._read_only = shown.read_only
        self._state = view.state
        self._entries = parameters.entries(view.state)
        self._draw_list()
        self._draw_around(shown, printable(view.state.vm.name or view.name or self.key, 40))

    def ticks(self, shown: Shown) -> bool:
        return False

    def on_resize(self, event: Resize) -> None:
        if event.size.width != self._width:
            self._width = event.size.width
            self._listed = ()
            self.post_message(Redraw())

    def _draw(self, where: str, content: Content) -> None:
        if self._drawn.get(where) != content:
            self._drawn[where] = content
            self.query_one(f"#{where}", Static).update(content)

    def _draw_around(self, shown: Shown, name: str) -> None:
        assert self._state is not None
        vm, filtered = self._state.vm, self.query_one("#filter", Input).value.strip()
        rows = sum(each is not None for each in self._listed)
        count = f"{rows} of {len(self._entries)} match {printable(filtered, 30)!r}" if filtered else f"{rows} settings"
        asking = "asking QEMU what it offers"
        about = Content.assemble((name, "bold"), f"  QEMU {vm.qemu}  {count if self._entries else asking}")
        self.query_one(TopLine).draw(shown, about)
        tone = Tone.GOOD if vm.features.pause_vm else Tone.DIM
        self._draw("pause", toned(parameters.pause_vm_line(self._state), tone))
        self._draw("heads", _cells([head for head, _width, _from in COLUMNS], self._width))
        self._draw_detail()
        self._draw_said()

    def _draw_list(self) -> None:
        listed = self._filtered()
        box = self.query_one("#list", OptionList)
        if [each and each.name for each in listed] != [each and each.name for each in self._listed]:
            chosen = self._chosen()
            self._listed = listed
            box.set_options(self._option(each) for each in listed)
            names = [each.name if each else "" for each in listed]
            box.highlighted = names.index(chosen.name) if chosen and chosen.name in names else 0 if listed else None
            return
        before, self._listed = self._listed, listed
        for index, (old, new) in enumerate(zip(before, listed, strict=True)):
            if old != new and new is not None:
                box.replace_option_prompt_at_index(index, _row(new, self._width))

    def _filtered(self) -> tuple[Entry | None, ...]:
        wanted = self.query_one("#filter", Input).value.strip().lower()
        found = [each for each in self._entries if wanted in f"{each.name} {each.meaning} {each.marks}".lower()]
        first = next((index for index, each in enumerate(found) if each.capability), None)
        return tuple(found) if first is None else (*found[:first], None, *found[first:])

    def _option(self, entry: Entry | None) -> Option:
        if entry is None:
            return Option(Content(CAPABILITIES), disabled=True)
        return Option(_row(entry, self._width), id=entry.name)

    def _chosen(self) -> Entry | None:
        index = self.query_one("#list", OptionList).highlighted
        return self._listed[index] if index is not None and index < len(self._listed) else None

    def _draw_detail(self) -> None:
        entry = self._edited or self._chosen()
        if entry != self._detailed:
            self._detailed = entry
            self._draw("detail", _detail(entry) if entry is not None else Content(""))
            self.refresh_bindings()

    def _draw_said(self) -> None:
        assert self._state is not None
        if self._edited is not None:
            self._draw("said", self._judged(self._edited, self.query_one("#value", Input).value))
        elif self._complaint:
            self._draw("said", toned(self._complaint, Tone.WARN))
        elif self._state.tunes or self._state.tuned is not self._told:
            failed = not self._state.tunes and self._state.tuned is not None and self._state.tuned.error
            tone = Tone.BUSY if self._state.tunes else Tone.BAD if failed else Tone.GOOD
            self._draw("said", toned(parameters.tuned_line(self._state), tone))
        else:
            self._draw("said", toned("read-only: nothing is changed" if self._read_only else "", Tone.DIM))

    def _judged(self, entry: Entry, text: str) -> Content:
        """What would become of what is typed now."""
        try:
            value = parameters.parsed(entry.setting, text)
        except BadValue as error:
            return toned(str(error), Tone.WARN)
        exact = parameters.exactly(entry.name, value)
        return toned(f"Enter sets {parameters.shown(entry.name, value)}{f' = {exact}' if exact else ''}", Tone.GOOD)

    # --- changing -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.typing:
            return True if action == "back" else None
        if action not in ("edit", "switch"):
            return True
        entry = self._chosen() if self.is_mounted else None
        switch = entry is not None and entry.setting.kind == "bool"
        if action == "switch" and not switch:
            return False
        return True if entry is not None and not entry.refusal and not self._read_only else None

    def action_edit(self) -> None:
        """Enter: turn a switch, or open the line to type in."""
        entry = self._chosen()
        if entry is None or self._edited is not None or not self._may_change(entry):
            return
        if entry.setting.kind == "bool":
            self._wish(entry, not entry.value)
            return
        self._edited = entry
        self.add_class("editing")
        line = self.query_one("#value", Input)
        line.value = parameters.typed(entry.name, entry.value)
        line.placeholder = parameters.accepted(entry.setting)
        self.set_focus(line)
        self._draw_said()
        self._draw_detail()

    def action_switch(self) -> None:
        entry = self._chosen()
        if entry is not None and entry.setting.kind == "bool":
            self.action_edit()

    def _may_change(self, entry: Entry) -> bool:
        why_not = "read-only: nothing is changed" if self._read_only else entry.refusal
        self._complaint = f"{printable(entry.name, 60)}: {why_not}" if why_not else ""
        self._draw_said()
        return not why_not

    def _wish(self, entry: Entry, value: object) -> None:
        values = {entry.name: value}
        capabilities = {entry.name: bool(value)}
        wish = TuneWish(self.key, capabilities=capabilities) if entry.capability else TuneWish(self.key, values)
        self._complaint = ""
        self.post_message(Ask(wish))

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.action_edit()

    @on(OptionList.OptionHighlighted)
    def _highlighted(self) -> None:
        self._complaint = ""
        if self._state is not None:
            self._draw_detail()
            self._draw_said()

    @on(Input.Changed, "#value")
    def _typed(self) -> None:
        if self._state is not None:
            self._draw_said()

    @on(Input.Submitted, "#value")
    def _submitted(self, event: Input.Submitted) -> None:
        if self._edited is None:
            return
        try:
            value = parameters.parsed(self._edited.setting, event.value)
        except BadValue:
            return  # the line below says why, as long as it is typed
        entry = self._edited
        self._end_edit()
        now = next((each for each in self._entries if each.name == entry.name), entry)
        if self._may_change(now) and value != now.value:
            self._wish(now, value)

    def _end_edit(self) -> None:
        self._edited = None
        self.remove_class("editing")
        self.query_one("#list").focus()
        self.post_message(Redraw())

    # --- filter ---------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        if self._edited is None:
            self.add_class("filtering")
            self.set_focus(self.query_one("#filter"))

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self.post_message(Redraw())

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.set_class(bool(self.query_one("#filter", Input).value), "filtering")
        self.query_one("#list").focus()

    def action_back(self) -> None:
        """Leave what was opened last: the line to type in, the filter, the screen."""
        if self._edited is not None:
            self._end_edit()
        elif self.has_class("filtering"):
            self.query_one("#filter", Input).value = ""
            self.remove_class("filtering")
            self.query_one("#list").focus()
        else:
            self.dismiss()


def _cells(texts: list[str | Content], width: int) -> Content:
    """One line of the table; the columns that have no room are left out."""
    parts: list[Content] = []
    for text, (_head, wide, least) in zip(texts, COLUMNS, strict=True):
        if width >= least:
            room = wide or width - MARGIN - sum(part.cell_length + 1 for part in parts)
            cell = text if isinstance(text, Content) else Content(text)
            parts.append(cell.truncate(room, ellipsis=True, pad=True))
    return Content(" ").join(parts)


def _row(entry: Entry, width: int) -> Content:
    style = MUTED if entry.refusal else ""
    name = "bold $text-accent" if entry.name == parameters.PAUSE_VM else style
    value = style or ("" if entry.standing else "bold")
    return _cells(
        [
            Content.styled(printable(entry.name, 60), name),
            Content.styled(entry.shown, value),
            _note(entry),
            Content.styled(entry.default or "?", MUTED),
            Content.styled(entry.kind, style),
            Content.styled(entry.meaning, style),
        ],
        width,
    )


def _note(entry: Entry) -> Content:
    if entry.changed:
        return Content.styled("changed", "$text-warning")
    if entry.marks:
        return Content.styled(entry.marks, MUTED)
    return Content("" if entry.standing else "set")


def _detail(entry: Entry) -> Content:
    """Everything about one setting, whatever the width."""
    exact = parameters.exactly(entry.name, entry.value)
    value = f"{entry.shown} = {exact}" if exact else entry.shown
    about = [
        f"{value}",
        f"default {entry.default or 'not known'}",
        entry.kind,
        parameters.accepted(entry.setting),
        entry.marks,
    ]
    said = [
        Content.assemble((printable(entry.name, 60), "bold"), f"  {entry.meaning}"),
        toned("; ".join(filter(None, about)), Tone.DIM),
    ]
    if entry.changed:
        said.append(toned(f"changed {entry.changed}", Tone.WARN))
    if entry.refusal:
        said.append(toned(f"cannot be changed now: {entry.refusal}", Tone.WARN))
    return lines(said)
