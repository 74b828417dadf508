"""Before a save: what was found, how it will be done, what it will cost; and only then the key that starts it."""

from pathlib import PurePosixPath
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.events import Key, Resize
from textual.widgets import Button, Input, Label, Select, Static

from vmtui.backend.core import plan as core
from vmtui.backend.core.fleet import Begin
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.model import OnStuck, Options, Strategy, Then
from vmtui.backend.core.plan import Plan
from vmtui.backend.core.text import printable
from vmtui.messages import Ask, Open, Place, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import lines, said, toned
from vmtui.widgets.top_line import TopLine


class PreflightScreen(ShowingScreen):
    """The form is the intent; each change of it is looked at again before it can be started."""

    TITLE = "Before a save"
    HELP = (
        "What vmtui found out about this VM, and how it would save it. Nothing has been changed yet. A choice or a file "
        "(Enter) is looked at at once. What blocks must be mended first; what warns should be read."
    )
    DEFAULT_CSS = """
    PreflightScreen #verdict { height: auto; padding: 0 1; text-style: bold; }
    PreflightScreen #findings { height: auto; max-height: 9; padding: 0 1; }
    PreflightScreen #form { height: auto; padding: 0 1; }
    PreflightScreen #form Horizontal { height: 1; }
    PreflightScreen Label { width: 10; color: $text-muted; }
    PreflightScreen #form Select { width: 1fr; max-width: 56; }
    PreflightScreen #path { width: 1fr; }
    PreflightScreen #timeout { width: 8; }
    PreflightScreen #stuck-label { width: auto; padding: 0 1; }
    PreflightScreen #strategy-why { height: auto; padding: 0 1 0 10; color: $text-muted; }
    PreflightScreen #facts { height: auto; padding: 0 1; }
    PreflightScreen #rest { height: 1fr; }
    PreflightScreen #buttons { height: 1; padding: 0 1; }
    PreflightScreen #buttons Button { margin: 0 2 0 0; }
    PreflightScreen #buttons Button:focus { text-style: bold reverse; }
    PreflightScreen #why-not { width: 1fr; height: 1; }
    PreflightScreen.-low #findings { max-height: 5; }
    PreflightScreen.-roomy #findings { max-height: 24; padding: 1; }
    PreflightScreen.-roomy #form, PreflightScreen.-roomy #facts { padding: 1 1 0 1; }
    PreflightScreen.-roomy #rest { height: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="preflight.back"),
        Binding("ctrl+s", "start", "Start the save", id="preflight.start"),
        Binding("r,f5", "check", "Look again", id="preflight.check"),
        Binding("w", "watch", "Watch it", id="preflight.watch"),
        Binding("pagedown,ctrl+d", "page(1)", "Findings down", id="preflight.down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "Findings up", id="preflight.up", show=False),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self._shown: Shown | None = None
        self.plan: Plan | None = None
        """What is on the screen."""
        self._described: str | None = None
        self._asked: Options | None = None
        self._touched = False
        """The user pressed a key: from now on the focus is theirs."""

    def compose(self) -> ComposeResult:
        yield TopLine("Before a save")
        yield Static(id="verdict", markup=False)
        with VerticalScroll(id="findings", can_focus=False):
            yield Static(id="found", markup=False)
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal():
                yield Label("strategy")
                yield Select(_choices(core.STRATEGIES), allow_blank=False, compact=True, id="strategy")
            yield Static(id="strategy-why", markup=False)
            with Horizontal():
                yield Label("then")
                yield Select(_choices(core.THENS), allow_blank=False, compact=True, id="then")
            with Horizontal():
                yield Label("file")
                yield Input(compact=True, id="path", select_on_focus=False)
            with Horizontal(id="unplug"):
                yield Label("unplug")
                yield Input("30", compact=True, id="timeout", select_on_focus=False)
                yield Label("s at most, then", id="stuck-label")
                yield Select(_choices(core.ON_STUCKS), allow_blank=False, compact=True, id="stuck")
        yield Static(id="facts", markup=False)
        yield Static(id="rest")
        with Horizontal(id="buttons"):
            yield Button("Back", compact=True, id="back")
            yield Button("Start the save", compact=True, id="start", disabled=True)
            yield Static(id="why-not", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#back").focus()

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        self._shown = shown
        self._name_file(shown)
        self._look(shown)
        view = shown.vm(self._key)
        described = core.described(view)
        name = printable(view.state.vm.name or view.name or self._key, 60) if view else self._key
        self.query_one(TopLine).draw(shown, toned(described, Tone.DIM), f"Save {name}?")
        self._draw(core.plan(view, self.options, self.problem, read_only=shown.read_only))

    def ticks(self, shown: Shown) -> bool:
        return False

    def _name_file(self, shown: Shown) -> None:
        """A free name in the snapshot directory, once that is known; what somebody typed stays."""
        box, view = self.query_one("#path", Input), shown.vm(self._key)
        if box.value or box.has_focus or self._touched or view is None:
            return
        box.value = self._path = shown.new_file(view)

    _path = ""
    """The file that was taken over: what is typed is none before Enter."""

    def _look(self, shown: Shown) -> None:
        """Have the VM looked at for the options as they are now, unless that was asked for already."""
        view, wanted = shown.vm(self._key), core.check_of(self.options)
        if view is None or self.problem:
            return
        if core.others_work(view.state):
            self._asked = None  # once that is over
        elif self._asked != wanted and not view.state.busy:
            self._asked = wanted
            self.post_message(Ask(Begin(self._key, wanted)))

    def _draw(self, plan: Plan) -> None:
        if plan == self.plan:
            return
        self.plan = plan
        self._guard_focus(plan)
        self.query_one("#verdict", Static).update(said(plan.verdict))
        self.query_one("#findings").display = bool(plan.findings)
        self.query_one("#found", Static).update(lines(_finding(*each) for each in plan.findings))
        self.query_one("#strategy-why", Static).update(Content(plan.strategy))
        self.query_one("#unplug").display = plan.unplugs
        self.query_one("#facts", Static).update(lines(_fact(*each) for each in plan.facts))
        self.query_one("#why-not", Static).update(toned(plan.why_not if plan.findings else "", Tone.DIM))
        self.refresh_bindings()

    def _guard_focus(self, plan: Plan) -> None:
        """Start gets the focus where nothing warns and nobody has pressed a key yet; it loses it where something does.

        It never takes the focus from the form: somebody may have gone there with the mouse, and be typing.
        """
        start = self.query_one("#start", Button)
        if start.has_focus and (plan.warns or plan.why_not):
            self.query_one("#back").focus()
        start.disabled = bool(plan.why_not)
        if self.query_one("#back").has_focus and not (self._touched or plan.warns or plan.why_not):
            start.focus()

    # --- the form -------------------------------------------------------------------------------------------------

    @property
    def options(self) -> Options:
        """What would be begun now."""
        timeout = core.seconds(self.query_one("#timeout", Input).value)
        return Options(
            output=self._path,
            strategy=Strategy(self._chosen("#strategy")),
            then=Then(self._chosen("#then")),
            unplug_timeout=timeout if timeout is not None else 30.0,
            on_stuck=OnStuck(self._chosen("#stuck")),
            makes_directory=self._is_in_the_snapshot_directory,
        )

    @property
    def _is_in_the_snapshot_directory(self) -> bool:
        """Any other directory was typed."""
        directory = self._shown.fleet.shelf.directory if self._shown else ""
        return PurePosixPath(self._path).parent == PurePosixPath(directory)

    def _chosen(self, which: str) -> str:
        return str(self.query_one(which, Select).value)

    @property
    def problem(self) -> str:
        """What is wrong with the form itself; empty when the VM can be looked at."""
        if not self._path:
            return "name the file that is to hold the state"
        if self.query_one("#path", Input).value != self._path:
            return "press Enter to take this file"
        return "" if core.seconds(self.query_one("#timeout", Input).value) else "the unplug needs a number of seconds"

    @on(Select.Changed)
    @on(Input.Changed)
    def _changed(self) -> None:
        self.post_message(Redraw())

    @on(Input.Submitted, "#path")
    @on(Input.Blurred, "#path")
    def _take_file(self) -> None:
        """A name without a directory is one in the snapshot directory."""
        box = self.query_one("#path", Input)
        directory = self._shown.fleet.shelf.directory if self._shown else ""
        self._path = str(PurePosixPath(directory) / box.value.strip()) if box.value.strip() else ""
        box.value = self._path
        self.post_message(Redraw())

    # --- keys -----------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        plan = self.plan
        if action == "start":
            return True if plan is not None and not plan.why_not else None
        if action == "watch":
            view = self._shown.vm(self._key) if self._shown else None
            return view is not None and core.others_work(view.state)
        return True

    @on(Button.Pressed, "#back")
    def action_back(self) -> None:
        self.app.pop_screen()

    def action_check(self) -> None:
        self._asked = None
        self.plan = None
        self.post_message(Redraw())

    def action_watch(self) -> None:
        self._go_to_vm()

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        """What is begun is what was looked at: the engine looks once more before it changes anything."""
        shown = self._shown
        view = shown.vm(self._key) if shown else None
        if shown and not core.plan(view, self.options, self.problem, read_only=shown.read_only).why_not:
            self.app.post_message(Ask(Begin(self._key, self.options)))
            self._go_to_vm()

    def action_page(self, pages: int) -> None:
        box = self.query_one("#findings", VerticalScroll)
        box.scroll_relative(y=pages * max(box.size.height - 1, 1), animate=False)

    def _go_to_vm(self) -> None:
        """This screen goes, and the VM's own comes."""
        app, key = self.app, self._key
        app.pop_screen()
        app.post_message(Open(Place.VM, key))

    def on_key(self, _event: Key) -> None:
        self._touched = True

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.height < 24, "-low")
        self.set_class(event.size.height >= 36, "-roomy")


def _choices(table: dict[Strategy, str] | dict[Then, str] | dict[OnStuck, str]) -> list[tuple[str, str]]:
    return [(text, str(value)) for value, text in table.items()]


def _finding(level: Said, text: str, remedy: str) -> Content:
    help_for_it = toned(f"\n  → {remedy}" if remedy else "", Tone.DIM)
    return Content.assemble(said(level), "  ", Content(text), help_for_it)


def _fact(word: str, text: str) -> Content:
    return Content.assemble(toned(f"{word:10}", Tone.DIM), Content(text))
