"""One VM: what it is, what is being done to it, how long its guest stands still, and how the last save ended."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import plan, possible, verdict, words
from vmtui.backend.core.fleet import Begin, CancelWish, LetRunWish, VmView, WaitWish, WatchWish
from vmtui.backend.core.glance import Said, Tone, glance
from vmtui.backend.core.model import Goal, Options
from vmtui.backend.core.verdict import MORE_TIME, Occasion
from vmtui.messages import Ask, Open, Place, Redraw, Shown
from vmtui.screens.base import ShowingScreen
from vmtui.screens.dialogs import Confirm
from vmtui.screens.stuck import StuckScreen
from vmtui.widgets import vm_story
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.event_log import EventLog
from vmtui.widgets.failover_pair import FailoverPair
from vmtui.widgets.key_line import KeyLine
from vmtui.widgets.look import said
from vmtui.widgets.migration_progress import MigrationProgress
from vmtui.widgets.top_line import TopLine
from vmtui.widgets.workflow_steps import WorkflowSteps

BOTH = 150
"""Columns from which there is room for a VM and its QMP traffic side by side."""
BESIDE = 62
"""Columns of the QMP traffic beside the VM."""
MESSAGES = 12
"""How many of the last messages are shown where there is room for them."""


class VmScreen(ShowingScreen):
    TITLE = "VM"
    HELP = (
        "One VM: the phases of what is done to it, the pair of cards that its network goes over, how long its guest has "
        "been stopped, and at the end what was proved. Cancel works in every phase until the file is in its place, and "
        "counts only when the VM was looked at again."
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-middle"), (120, "-wide")]  # noqa: RUF012 - Textual says list
    VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-usual"), (32, "-tall")]  # noqa: RUF012
    DEFAULT_CSS = """
    VmScreen #stale { padding: 0 1; background: $warning-muted; display: none; }
    VmScreen #banner { padding: 0 1; background: $error-muted; display: none; }
    VmScreen.-stale #stale { display: block; }
    VmScreen.-asks #banner { display: block; }
    VmScreen #body { height: auto; padding: 0 1; }
    VmScreen.-stale #body { opacity: 55%; }
    VmScreen #left { width: 38; height: auto; padding-right: 1; }
    VmScreen #right { width: 1fr; height: auto; }
    VmScreen #aside { width: 50; height: auto; display: none; }
    VmScreen #words { height: 1fr; padding: 0 1; margin-top: 1; scrollbar-size-vertical: 1; }
    VmScreen #reasons { padding: 0 1; color: $text-muted; display: none; }
    VmScreen.-idle #left { display: none; }
    VmScreen.-idle #aside { display: block; width: 1fr; margin-top: 1; }
    VmScreen #progress { display: none; margin-top: 1; }
    VmScreen.-touched #progress, VmScreen.-foreign #progress { display: block; }
    VmScreen.-foreign #stopped { display: none; }

    VmScreen.-idle #body { layout: vertical; }
    VmScreen.-wide #left { width: 58; }
    VmScreen.-wide.-tall #aside { display: block; }
    VmScreen #messages { display: none; padding: 0 1; max-height: 14; color: $text-muted; border-top: solid $panel; }
    VmScreen.-wide.-tall.-talked #messages { display: block; }
    VmScreen.-tall #reasons { display: block; }
    VmScreen.-tall #left, VmScreen.-tall #right, VmScreen.-tall #aside {
        border: round $panel; padding: 0 1; border-title-color: $text-muted;
    }
    VmScreen.-narrow #left { width: 21; }
    VmScreen.-narrow.-ended #left { display: none; }
    VmScreen #vm { width: 1fr; }
    VmScreen #beside { width: 62; display: none; border-left: solid $panel; padding: 0 1; }
    VmScreen.-wide.-beside #beside { display: block; }
    VmScreen.-wide.-beside #left { width: 44; }
    VmScreen.-wide.-beside #aside, VmScreen.-wide.-tall.-talked.-beside #messages { display: none; }
    VmScreen.-wide.-beside.-idle #left { display: none; }
    VmScreen.-wide.-beside.-idle #aside { display: block; }
    VmScreen.-low #words, VmScreen.-low #progress { margin-top: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "save", "Save", id="vm.save"),
        Binding("c", "cancel", "Cancel", id="vm.cancel"),
        Binding("w", "wait", "Wait", id="vm.wait"),
        Binding("r", "resume", "Resume", id="vm.resume"),
        Binding("g", "guest", "Guest", id="vm.guest"),
        Binding("d", "dump", "Dump", id="vm.dump"),
        Binding("p", "parameters", "Params", id="vm.parameters"),
        Binding("t", "transcript", "QMP", id="vm.transcript"),
        Binding("T", "beside", "QMP beside", id="vm.beside"),
        Binding("S", "snapshots", "Snapshots", id="vm.snapshots"),
        Binding("escape", "back", "Back", id="vm.back"),
    ]

    def __init__(self, key: str) -> None:
        """`key` as in `Fleet.vms`."""
        super().__init__()
        self.key = self.calls_for = key
        self._why_not: dict[str, str] = {}
        self._busy = False
        self._shown: Shown | None = None
        self._beside = False
        """The QMP traffic is wanted beside the VM, where there is room."""

    @property
    def why_not(self) -> dict[str, str]:
        """Of each key that is dimmed, by the name of its action: why."""
        return {what: why for what, why in self._why_not.items() if why}

    def compose(self) -> ComposeResult:
        yield TopLine("VM")
        with Horizontal(id="whole"):
            with Vertical(id="vm"):
                yield Drawn(id="stale")
                with Horizontal(id="body"):
                    with Vertical(id="left") as left:
                        left.border_title = "phases"
                        yield WorkflowSteps(id="steps")
                    with Vertical(id="right") as right:
                        right.border_title = "failover card and guest"
                        yield FailoverPair(id="pair")
                        yield MigrationProgress(id="progress")
                    with Vertical(id="aside") as aside:
                        aside.border_title = "the VM"
                        yield Drawn(id="facts")
                yield Drawn(id="banner")
                with VerticalScroll(id="words"):
                    yield Drawn(id="told")
                yield Drawn(id="messages")
                yield Drawn(id="reasons")
            yield EventLog(id="beside")
        yield KeyLine()

    # --- drawing --------------------------------------------------------------------------------------------------

    def show(self, shown: Shown) -> None:
        if not self.drawable:
            return
        self._shown = shown
        view = shown.at_present(self.key)
        if view is None:
            self._show_gone()
            return
        self._show_kind(view)
        self._show_stale(view, shown.fleet.host.offset)
        usually = shown.usual(self.key)
        self.query_one(TopLine).draw(shown, vm_story.title(glance(view)))
        self.query_one("#facts", Drawn).draw(vm_story.facts(view))
        self.query_one(WorkflowSteps).show(view)
        self.query_one(FailoverPair).show(view, shown.fleet.host.offset)
        self.query_one(MigrationProgress).show(view)
        beside = self._beside and self.size.width >= BOTH
        self.set_class(beside, "-beside")
        if beside:
            self.query_one(EventLog).show(view, shown.fleet.host.offset)
        width = self.size.width - 3 - (BESIDE if beside else 0)
        self.query_one("#told", Drawn).draw(vm_story.told(view, usually, width))
        if self.has_class("-wide") and self.has_class("-tall"):
            messages = vm_story.messages(view, MESSAGES)
            self.set_class(bool(messages), "-talked")
            self.query_one("#messages", Drawn).draw(messages)
        self._show_possible(view, read_only=shown.read_only)
        self._call_for_help(verdict.occasion(view.state, usually))

    def on_resize(self) -> None:
        """Lines are as long as there is room for."""
        self.post_message(Redraw())

    def ticks(self, shown: Shown) -> bool:
        view = shown.vm(self.key)
        return view is not None and view.state.busy

    def _show_gone(self) -> None:
        """It is in the fleet no longer: what was drawn last stays, and is said to be old."""
        self.add_class("-stale")
        text = "This VM is not on the host any more. What is shown was known last."
        self.query_one("#stale", Drawn).draw(said(Said(text, Tone.WARN)))
        self._why_not = dict.fromkeys((*possible.WHY_NOT, "guest"), "the VM is not there any more")

    def _show_kind(self, view: VmView) -> None:
        work = view.state.work
        told_of = work is not None and (view.state.busy or work.options.goal is not Goal.CHECK)
        self.set_class(told_of, "-worked")
        self.set_class(work is not None and work.baseline is not None, "-touched")
        self._busy = view.state.busy
        self.set_class(not told_of, "-idle")
        self.set_class(told_of and not view.state.busy, "-ended")
        self.set_class(is_.somebody_else_migrates(view.state), "-foreign")

    def _show_stale(self, view: VmView, offset: float) -> None:
        line = words.standing_line(view.state)
        self.set_class(bool(line), "-stale")
        if line:
            heard = [record.at for record in view.log if record.kind == "qmp" and record.data.get("dir") == "recv"]
            as_of = f"As of {words.time_of_day(heard[-1] + offset)}, the last word of QEMU. " if heard else ""
            self.query_one("#stale", Drawn).draw(said(Said(f"{as_of}{line}", Tone.WARN)))

    def _show_possible(self, view: VmView, *, read_only: bool) -> None:
        now = {what: possible.why_not(view.state, what, read_only=read_only) for what in possible.WHY_NOT}
        now["guest"] = "" if verdict.waits_for_guest(view.state) else "no guest is waited for"
        if now != self._why_not:
            self._why_not = now
            reasons = [f"{what}: {why}" for what, why in now.items() if why and what != "guest"]
            self.query_one("#reasons", Drawn).draw(Content("not now  " + "   ".join(reasons) if reasons else ""))

    # --- the guest needs somebody ---------------------------------------------------------------------------------

    def _call_for_help(self, occasion: Occasion | None) -> None:
        """Say how to open the choices: the app opens them by itself, where no keys are being typed."""
        self.set_class(occasion is not None, "-asks")
        if occasion is None:
            return
        text = f"{occasion.kind}: press {self.key_for('guest')} to see what is known, and what can be done"
        self.query_one("#banner", Drawn).draw(said(Said(text, verdict.TONES[occasion.kind])))

    # --- keys -----------------------------------------------------------------------------------------------------

    def on_screen_resume(self) -> None:
        self.post_message(Ask(WatchWish(self.key, True)))

    def on_mount(self) -> None:
        self.post_message(Redraw())

    def on_unmount(self) -> None:
        self.app.post_message(Ask(WatchWish(self.key, False)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        why_not = self._why_not.get(action, "")
        if why_not and (action in ("guest", "wait", "resume") or (self._busy and action == "save")):
            return False  # there is no room for what can be of no use now
        if action == "dump" and self._busy:
            return False  # while a guest is waited for, it is one of the choices
        if action == "beside":
            return self.size.width >= BOTH
        return None if why_not else True

    def action_save(self) -> None:
        self.post_message(Open(Place.PREFLIGHT, self.key))

    def action_cancel(self) -> None:
        self.post_message(Ask(CancelWish(self.key)))

    def action_wait(self) -> None:
        self.post_message(Ask(WaitWish(self.key, MORE_TIME)))

    def action_resume(self) -> None:
        paused_in_unplug = not self._why_not.get("wait")
        wish = LetRunWish(self.key) if paused_in_unplug else Begin(self.key, Options(goal=Goal.RESUME))
        self.post_message(Ask(wish))

    def action_guest(self) -> None:
        self.app.push_screen(StuckScreen(self.key))

    def action_dump(self) -> None:
        view = self._shown.vm(self.key) if self._shown else None
        output = self._shown.new_file(view, "vmcore") if self._shown and view else ""
        if view is None or not output:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.post_message(Ask(Begin(self.key, Options(goal=Goal.DUMP, output=output))))

        self.app.push_screen(Confirm(*plan.dump_question(view.state, output), "Dump it", "Leave it"), answered)

    def action_parameters(self) -> None:
        self.post_message(Open(Place.PARAMETERS, self.key))

    def action_transcript(self) -> None:
        self.post_message(Open(Place.TRANSCRIPT, self.key))

    def action_beside(self) -> None:
        """What is pressed here, and what is sent then, side by side."""
        self._beside = not self._beside
        self.post_message(Redraw())

    def action_snapshots(self) -> None:
        self.post_message(Open(Place.SNAPSHOTS))

    def action_back(self) -> None:
        self.app.pop_screen()
