"""The phases as a timeline: what was, what is, what will be, with the time spent and QEMU's own word beside ours."""

from textual.content import Content

from vmtui.backend.core import words
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.story import Step, steps, took
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.look import COLOURS, ascii_only, glyph

ROOM_FOR_MEANING = 60
"""Columns from which on each phase says what it means."""


class WorkflowSteps(Drawn):
    _view: VmView | None = None

    def show(self, view: VmView) -> None:
        """`view.state.now` is the present."""
        self._view = view
        work = view.state.work
        rows = [self._row(each) for each in steps(view.state, view.log)]
        if work is not None and work.outcome is not None:
            total = " ".join(words.exact(took(work, view.state.now)))
            rows.append(Content.styled(f"  {'all':<10}{total:>8}", COLOURS[Tone.DIM]))
        self.draw(Content("\n").join(rows))

    def on_resize(self) -> None:
        """How much is said depends on the room that there is."""
        if self._view is not None:
            self.show(self._view)

    def _row(self, step: Step) -> Content:
        time = "" if step.seconds is None else _time(step)
        word = f"{glyph(step.tone)} {step.phase:<10}"
        line = Content.assemble(
            (word, f"{COLOURS[step.tone]} bold" if step.now else COLOURS[step.tone]),
            (f"{time:>8}", "" if step.seconds is not None else COLOURS[Tone.DIM]),
        )
        return line + Content.styled(f"  {said}", COLOURS[Tone.DIM]) if (said := self._said(step)) else line

    def _said(self, step: Step) -> str:
        """QEMU's words, as many as there is room for; the last one matters most."""
        room = self.size.width - 22
        to = " > " if ascii_only() else " › "
        if step.made_to_fail and room < ROOM_FOR_MEANING - 22:
            return ""
        said = to.join(step.qemu)
        if len(said) > room and step.qemu:
            said = step.qemu[-1]
        meaning = "a migration made to fail: " if step.made_to_fail and said else ""
        if not said and room >= ROOM_FOR_MEANING - 22:
            return words.MEANING[step.phase] if step.now else ""
        return f"{meaning}{said}" if len(meaning + said) <= room else ""


def _time(step: Step) -> str:
    assert step.seconds is not None
    return " ".join(words.counting(step.seconds) if step.now else words.exact(step.seconds))
