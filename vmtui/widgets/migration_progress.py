"""How long the guest stands still, in large; how much of its RAM is saved, how fast, and how long it will still take."""

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Digits

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import pace, words
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.model import Link, Outcome, Strategy, Workflow
from vmtui.backend.core.pace import Sample
from vmtui.backend.core.result import stopped_seconds
from vmtui.backend.core.state import State
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.look import COLOURS, ascii_only

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"


class MigrationProgress(Vertical):
    """Keeps its own samples of the copy: nobody else needs them."""

    DEFAULT_CSS = """
    MigrationProgress { height: auto; }
    MigrationProgress #stopped { height: 3; width: 1fr; }
    MigrationProgress Digits { width: auto; min-width: 10; padding-right: 1; }
    MigrationProgress #stopped.-plain { height: 1; }
    MigrationProgress Digits.-over { color: $text-success; text-style: bold; }
    MigrationProgress Digits.-still { color: $text-warning; text-style: bold; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._samples: tuple[Sample, ...] = ()
        self._view: VmView | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="stopped", classes="-plain" if ascii_only() else ""):
            yield Digits("", id="digits")
            yield Drawn(id="label")
        yield Drawn(id="copy")

    def show(self, view: VmView) -> None:
        """`view.state.now` is the present."""
        self._view, state = view, view.state
        self._samples = pace.sampled(self._samples, state)
        self._show_stopped(state)
        self.query_one("#copy", Drawn).draw(Content("\n").join(self._copy(state)))

    def on_resize(self) -> None:
        """A bar is as long as there is room for."""
        if self._view is not None:
            self.show(self._view)

    # --- how long the guest stands still --------------------------------------------------------------------------

    def _show_stopped(self, state: State) -> None:
        number, unit, words_for_it, tone = _stopped(state)
        digits, label = self.query_one("#digits", Digits), self.query_one("#label", Drawn)
        if digits.value != number:
            digits.update(number)
        plain = self.query_one("#stopped").has_class("-plain")
        digits.display = bool(number) and not plain
        digits.set_class(tone is Tone.WARN, "-still")
        digits.set_class(tone is Tone.GOOD, "-over")
        said = f"{unit}  {words_for_it}" if unit else words_for_it
        head = f"{number} {said}".lstrip() if plain else f"\n\n{said}"
        label.draw(Content.styled(head, f"{COLOURS[tone]} bold"))

    # --- the copy ---------------------------------------------------------------------------------------------------

    def _copy(self, state: State) -> list[Content]:
        work, migration, width = state.work, state.vm.migration, max(self.size.width, 20)
        if is_.somebody_else_migrates(state):
            return _foreign(state, width)
        if work is None or not (migration.total and work.done_share):
            return []
        tone = Tone.WARN if work.given_up else Tone.BUSY if state.busy and work.marks.completed is None else Tone.GOOD
        return [bar(work.done_share, width, tone), *(Content(line) for line in self._numbers(state, work, width))]

    def _numbers(self, state: State, work: Workflow, width: int) -> list[str]:
        total = words.size(state.vm.migration.total)
        if work.marks.completed is not None:
            return [f"{total} of RAM saved, {words.size(pace.average(state))}/s"]
        numbers = f"{words.size(pace.done(state))} of {total}"
        speed = pace.rate(state)
        left = pace.seconds_left(state, speed)
        if work.given_up or work.marks.lost is not None or left is None:
            return [numbers]
        first, last = f"{words.size(speed)}/s of RAM  ", f"  {' '.join(words.counting(left))} left"
        line = sparkline(pace.rates(self._samples, max(width - len(first) - len(last), 0)))
        return [numbers, f"{first}{line}{last}" if line else f"{first.rstrip()}{last}"]


def _stopped(state: State) -> tuple[str, str, str, Tone]:
    """Number, unit, what it says, and how serious it is."""
    work = state.work
    stood = stopped_seconds(state) if work is not None and work.baseline is not None else None
    if state.vm.link is Link.GONE and not state.busy and (work is None or work.outcome is not Outcome.SAVED):
        return ("", "", "the guest ended with its QEMU", Tone.BAD)
    if work is not None and work.marks.stopped is not None and stood is None:
        return ("", "", "the guest was stopped for good", Tone.GOOD)
    if work is None or stood is None:
        return ("0", "s", "the guest runs on" if state.busy else "the guest was not stopped", Tone.DIM)
    if work.marks.resumed is not None:
        return (*words.exact(stood), "the guest was stopped", Tone.GOOD)
    if not state.busy:
        return (*words.exact(stood), "the guest is stopped still", Tone.WARN)
    if work.marks.lost is not None:
        return (*words.counting(stood), "stopped, as last known", Tone.WARN)
    by_us = work.strategy is not Strategy.BACKGROUND
    return (*words.counting(stood), "the guest is stopped" if by_us else "the guest is stopped, not by vmtui", Tone.WARN)


def _foreign(state: State, width: int) -> list[Content]:
    migration = state.vm.migration
    if not migration.total:
        return []
    share = 1 - migration.remaining / migration.total
    numbers = f"{words.size(migration.transferred)} sent, {words.size(migration.remaining)} of RAM to go"
    return [bar(share, width, Tone.BUSY), Content(numbers)]


def bar(share: float, width: int, tone: Tone) -> Content:
    """A bar and its per cent, `width` cells in all."""
    full, empty = ("#", "-") if ascii_only() else ("█", "░")
    room = max(width - 5, 5)
    done = int(room * min(max(share, 0.0), 1.0))
    return Content.assemble((full * done, COLOURS[tone]), (empty * (room - done), COLOURS[Tone.DIM]), f" {share:4.0%}")


def sparkline(values: tuple[float, ...]) -> str:
    """One character for each value; the highest is the largest of them."""
    blocks = ASCII_BLOCKS if ascii_only() else BLOCKS
    most = max(values, default=0.0)
    return "".join(blocks[min(int(max(value, 0.0) / most * 7.99), 7)] for value in values) if most > 0 else ""
