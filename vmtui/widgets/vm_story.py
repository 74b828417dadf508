"""What is to be said about a VM in sentences: what goes on and what follows, or how it ended and what was proved."""

import textwrap
from collections.abc import Iterator

from textual.content import Content

from vmtui.backend.core import verdict as verdicts
from vmtui.backend.core import words
from vmtui.backend.core.fleet import Record, VmView
from vmtui.backend.core.glance import Glance, Said, Tone
from vmtui.backend.core.model import Goal, Level, Link, Outcome, Phase, Workflow
from vmtui.backend.core.state import State
from vmtui.backend.core.story import happening
from vmtui.backend.core.text import printable
from vmtui.backend.core.verdict import TONES, Usual, Verdict
from vmtui.widgets.look import COLOURS, said

DIM = COLOURS[Tone.DIM]
OF_FINDING = {Level.BLOCKING: Tone.BAD, Level.WARNING: Tone.WARN, Level.NOTE: Tone.DIM}
OF_END = {
    Outcome.SAVED: Tone.GOOD,
    Outcome.RESUMED: Tone.GOOD,
    Outcome.DUMPED: Tone.GOOD,
    Outcome.CHECKED: Tone.DIM,
    Outcome.REFUSED: Tone.WARN,
    Outcome.FAILED: Tone.WARN,
    Outcome.CANCELLED: Tone.WARN,
    Outcome.ATTENTION: Tone.BAD,
}


def title(glance: Glance) -> Content:
    """Which VM, how it stands, what is done to it: one line."""
    parts = [Content.styled(glance.name, "bold"), said(glance.state)]
    parts += [said(glance.doing)] if glance.doing.word else []
    return Content("  ").join(parts)


def facts(view: VmView) -> Content:
    return Content("\n").join([_pair(word, text) for word, text in words.vm_facts(view.state.vm)])


def told(view: VmView, usually: Usual, width: int) -> Content:
    """`view.state.now` is the present; `width` is how many cells there are."""
    return Content("\n").join(list(_told(view.state, usually, width)))


def messages(view: VmView, count: int) -> Content:
    """The last of what was sent that changes something, and of what QEMU said by itself."""
    lines = [line for record in view.log if (line := words.message_line(record) or _phase_line(record))]
    return Content("\n").join([Content(line) for line in lines[-count:]])


def _phase_line(record: Record) -> str:
    """Why a migration fails that is to fail: it brings the card back."""
    phase = record.data.get("phase") if record.kind == "phase" else None
    return f"--  {words.MEANING[Phase(phase)]}" if phase in set(Phase) else ""


def _told(state: State, usually: Usual, width: int) -> Iterator[Content]:
    work, vm = state.work, state.vm
    if work is not None and state.busy:
        yield from _under_way(state, work, verdicts.verdict(state, usually), width)
        return
    if line := happening(state):
        yield said(Said(line, Tone.BUSY))
        yield Content.styled("vmtui leaves it alone: who started it can cancel it. A save has to wait for its end.", DIM)
    if work is not None and work.outcome is not None and work.options.goal is not Goal.CHECK:
        yield from _ended(state, work, work.outcome, width)
    elif vm.link is Link.UP and not line:
        yield Content.styled("Nothing is under way. Save it: the pre-flight comes first, and touches nothing.", DIM)


def _under_way(state: State, work: Workflow, verdict: Verdict | None, width: int) -> Iterator[Content]:
    if verdict is not None and work.marks.lost is None:
        yield said(Said(verdict.line, TONES[verdict.kind]))
        yield Content(verdict.then)
        if verdict.usual:
            yield Content.styled(verdict.usual, DIM)
    else:
        yield said(Said(happening(state), Tone.WARN if work.given_up or work.marks.lost is not None else Tone.BUSY))
    if work.failure is not None:
        yield Content.styled(f"undoing: {printable(work.failure.text, 300)}", COLOURS[Tone.WARN])
    if work.options.goal is Goal.SAVE and work.phase is not Phase.PREFLIGHT:
        yield _pair("file", f"{printable(work.options.output, 300)}{'.partial' if work.has_partial else ''}", width)
        yield _pair("how", words.strategy_line(work.strategy, work.why), width)
    for each in work.findings:
        if each.level is Level.WARNING:
            yield said(Said(printable(each.text), Tone.WARN))


def _ended(state: State, work: Workflow, outcome: Outcome, width: int) -> Iterator[Content]:
    yield Content.assemble(said(Said(words.headline(state), OF_END[outcome]))).stylize("bold")
    for word, text in words.proof(state):
        yield _pair(word, words.on_screen(text), width)
    if work.baseline is None:
        told = work.failure.text if work.failure else ""
        for each in work.findings:
            if each.level is not Level.NOTE and each.text not in told:
                yield said(Said(printable(each.text), OF_FINDING[each.level]))
                yield Content.styled(f"  what to do: {words.on_screen(printable(each.remedy))}", DIM)


LABEL = 9
"""Cells of a label."""


def _pair(word: str, text: str, width: int = 0) -> Content:
    """What is too long for a line goes on below the text, not below the label."""
    room = max(width - LABEL, 20)
    lines = (
        textwrap.wrap(text, room, break_on_hyphens=False, drop_whitespace=True) if len(text) > room and width else [text]
    )
    return Content.assemble((f"{word:{LABEL}}", DIM), f"\n{' ' * LABEL}".join(lines))
