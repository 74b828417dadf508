"""The first screen: every VM of the host in a table, and what there is to know of the one under the cursor."""

import textwrap
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.events import Resize
from textual.widgets import Input, Static

from vmtui.backend.core import glance, possible
from vmtui.backend.core.fleet import CancelWish, Fleet, Snapshot, SurveyWish, VmView
from vmtui.backend.core.glance import Glance, Tone
from vmtui.messages import Ask, Open, Place, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import lines, said, toned
from vmtui.widgets.top_line import TopLine, counts
from vmtui.widgets.vm_table import VmTable

WIDE = 150
"""Columns from which the details stand beside the table, not below."""

ORDERS = ("name", "attention", "RAM")
"""By what the table is sorted, in the order in which a key changes it."""


class FleetScreen(ShowingScreen):
    TITLE = "VMs"
    HELP = (
        "Every VM of this host that vmtui can ask: whether it runs, what is being done to it, and where its failover "
        "card is. Beside or below the table is what is known of the one under the cursor, and what to do about it. No save "
        "starts from here that was not looked at first."
    )
    DEFAULT_CSS = """
    FleetScreen #filter { display: none; height: 1; }
    FleetScreen #filter.-open { display: block; }
    FleetScreen VmTable { height: 1fr; width: 1fr; }
    FleetScreen #detail { height: auto; max-height: 9; padding: 0 1; border-top: solid $panel; }
    FleetScreen.-wide #detail { height: 1fr; max-height: 100%; width: 44; border-top: none; border-left: solid $panel; }
    FleetScreen #body { layout: vertical; height: 1fr; }
    FleetScreen.-wide #body { layout: horizontal; }
    FleetScreen #hint { padding: 1 2; height: auto; display: none; }
    FleetScreen #hint.-open { display: block; }
    FleetScreen.-empty #body { height: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open('vm')", "Open", id="fleet.open"),
        Binding("s", "open('preflight')", "Save", id="fleet.save"),
        Binding("c", "cancel", "Cancel", id="fleet.cancel"),
        Binding("p", "open('parameters')", "Params", id="fleet.parameters"),
        Binding("t", "open('transcript')", "Transcript", id="fleet.transcript", show=False),
        Binding("S", "open('snapshots')", "Snapshots", id="fleet.snapshots"),
        Binding("slash", "filter", "Filter", id="fleet.filter"),
        Binding("o", "order", "Sort", id="fleet.order", show=False),
        Binding("r", "survey", "Look again", id="fleet.survey", show=False),
        Binding("escape", "no_filter", "Show all", id="fleet.no-filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._order = 0
        self._known: dict[str, tuple[VmView, Snapshot | None, Glance]] = {}
        self._drawn: object = None
        """What the table shows: nothing of it is drawn again while that is the same."""
        self._shown: Shown | None = None

    def compose(self) -> ComposeResult:
        yield TopLine("VMs")
        yield Input(placeholder="part of a name or a state; Enter keeps it, Escape shows all", id="filter", compact=True)
        yield Static(id="hint", markup=False)
        with Horizontal(id="body"):
            yield VmTable(self._moved)
            yield Drawn(id="detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(VmTable).focus()

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        self._shown = shown
        found, table = self._glances(shown.fleet), self.query_one(VmTable)
        drawn = (tuple(map(id, found)), self.query_one("#filter", Input).value, self._order, self.app.theme, table.size)
        if drawn != self._drawn or not found:
            self._drawn = drawn
            words = self.query_one("#filter", Input).value.lower().split()
            listed = tuple(each for each in found if _matches(each, words))
            table.draw(self._sorted(listed))
            self._hint(shown, found, listed)
        self.query_one(TopLine).draw(shown, counts(found))
        self._draw_detail(shown)

    def _glances(self, fleet: Fleet) -> tuple[Glance, ...]:
        """A VM of which nothing changed is not looked at again; a line that says the same is the same object."""
        saved = glance.latest(fleet)
        known = {}
        for key, view in fleet.vms.items():
            latest = saved.get(view.state.vm.name or view.name)
            before = self._known.get(key)
            if before is not None and before[0] is view and before[1] is latest:
                known[key] = before
                continue
            line = glance.glance(view, latest)
            known[key] = (view, latest, before[2] if before is not None and before[2] == line else line)
        self._known = known
        return tuple(line for _view, _latest, line in known.values())

    def _sorted(self, found: tuple[Glance, ...]) -> tuple[Glance, ...]:
        by_name = sorted(found, key=lambda each: (each.name, each.key))
        if ORDERS[self._order] == "attention":
            by_name.sort(key=glance.urgency, reverse=True)
        elif ORDERS[self._order] == "RAM":
            by_name.sort(key=lambda each: each.memory, reverse=True)
        return tuple(by_name)

    def _hint(self, shown: Shown, found: tuple[Glance, ...], listed: tuple[Glance, ...]) -> None:
        hint = self.query_one("#hint", Static)
        hint.set_class(not listed, "-open")
        self.set_class(not listed, "-empty")
        if not listed:
            hint.update(Content(glance.nothing(shown.fleet.host, bool(found))))

    def _draw_detail(self, shown: Shown) -> None:
        view = shown.vm(self.query_one(VmTable).selected or "")
        pane = self.query_one("#detail", Drawn)
        found = [] if view is None else glance.detail(view, shown.fleet, shown.now)
        pane.draw(lines(_line(*each, max(pane.size.width, 40)) for each in found))

    # --- keys -----------------------------------------------------------------------------------------------------

    @property
    def selected(self) -> VmView | None:
        key = self.query_one(VmTable).selected
        return self._shown.vm(key) if self._shown and key else None

    @property
    def why_not(self) -> dict[str, str]:
        view = self.selected
        read_only = self._shown is not None and self._shown.read_only
        return {"cancel": possible.why_not(view.state, "cancel", read_only=read_only) if view else "no VM is there"}

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.typing:
            return True if action == "no_filter" else None
        view = self.selected if self.is_mounted else None
        if action == "open" and parameters != ("snapshots",):
            return view is not None
        if action == "cancel":
            return view is not None and (view.state.busy or None)
        return True

    def action_open(self, place: str) -> None:
        view = self.selected
        self.post_message(Open(Place(place), view.state.vm.key if view else ""))

    def action_cancel(self) -> None:
        if (view := self.selected) is not None:
            self.post_message(Ask(CancelWish(view.state.vm.key)))

    def action_survey(self) -> None:
        self.post_message(Ask(SurveyWish()))
        self.notify("looking for VMs and snapshots", timeout=2)

    def action_order(self) -> None:
        self._order = (self._order + 1) % len(ORDERS)
        self.notify(f"sorted by {ORDERS[self._order]}", timeout=2)
        self.post_message(Redraw())

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("-open")
        self.set_focus(box)

    def action_no_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("-open")
        self.query_one(VmTable).focus()

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self.post_message(Redraw())

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        self.query_one(VmTable).focus()

    def _moved(self) -> None:
        if self._shown is not None:
            self._draw_detail(self._shown)
        self.refresh_bindings()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= WIDE, "-wide")


def _matches(each: Glance, words: list[str]) -> bool:
    text = " ".join((each.name, each.state.word, each.doing.word, each.card.word, each.qemu, each.machine)).lower()
    return all(word in text for word in words)


LABEL = 10
"""Columns of a label; what is too long for a line goes on below the text, not below the label."""


def _line(label: str, text: str, tone: Tone | None, width: int) -> Content:
    wrapped = f"\n{' ' * LABEL}".join(textwrap.wrap(text, width - LABEL - 2) or [""])
    value = Content(wrapped) if tone is None else said(glance.Said(wrapped, tone))
    return Content.assemble(toned(f"{label:{LABEL - 1}} ", Tone.DIM), value)
