"""What was done to the VM, what is being done, what is still to come? The phases, each with its time and QEMU's word."""

import msgspec

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import words
from vmtui.backend.core.fleet import Record
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.model import Goal, Link, Outcome, Phase, Strategy, Then, Workflow
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.text import printable

P = Phase
_START = (P.PREFLIGHT, P.PREPARE)
_COPY = {
    Strategy.PAUSE_VM:   (P.UNPLUG, P.PAUSE, P.SAVE, P.FINISH),
    Strategy.STOP_FIRST: (P.PAUSE, P.SAVE, P.FINISH),
    Strategy.BACKGROUND: (P.UNPLUG, P.SAVE, P.FINISH),
}  # fmt: skip
"""The others are as PAUSE_VM."""
_END = {
    Then.RESUME:      (P.RESUME, P.REPLUG, P.SETTLE, P.VERIFY, P.PROVE),
    Then.STAY_PAUSED: (P.RESUME, P.SETTLE, P.VERIFY, P.PROVE),
    Then.QUIT:        (P.RESUME, P.SETTLE, P.VERIFY, P.QUIT, P.PROVE),
}  # fmt: skip
_UNDO = (P.CANCEL, P.RESUME, P.REPLUG, P.SETTLE, P.VERIFY, P.PROVE)
_DUMP = (P.PREFLIGHT, P.DUMP, P.RESUME, P.SETTLE, P.VERIFY, P.PROVE)
_RESUME = (P.PREFLIGHT, P.RESUME, P.REPLUG, P.SETTLE, P.VERIFY, P.PROVE)


class Step(msgspec.Struct, frozen=True):
    """One phase. All texts are safe to show."""

    phase: Phase
    tone: Tone
    """GOOD = it is over, BUSY or WARN = it is now (WARN: undoing), DIM = it is still to come, or nothing was done in it."""
    now: bool = False
    seconds: float | None = None
    """Time spent in it; None = still to come, or nothing was done."""
    qemu: tuple[str, ...] = ()
    """QEMU's own words for its migration in this phase, in order."""
    made_to_fail: bool = False
    """Those words are about a migration that must fail: it brings the card back."""


def steps(state: State, log: tuple[Record, ...] = ()) -> tuple[Step, ...]:
    """The phases that were, the one that is, and those to come; none where nothing was ever done."""
    work = state.work
    if work is None:
        return ()
    ends = [at for _phase, at in work.timeline[1:]] + [state.now]
    said = _statuses(log, work.started)
    past = [
        _step(state, phase, (began, ended), said)
        for (phase, began), ended in zip(work.timeline, ends, strict=True)
        if phase is not Phase.DONE
    ]
    return (*past, *(Step(phase, Tone.DIM) for phase in to_come(work)))


def _step(state: State, phase: Phase, between: tuple[float, float], said: tuple[tuple[float, str], ...]) -> Step:
    work, (began, ended) = the_work(state), between
    now = work.outcome is None and (phase, began) == work.timeline[-1]
    if phase is Phase.VERIFY and not now and work.file is None:
        return Step(phase, Tone.DIM)  # there was nothing to read through
    heard = [word for at, word in said if began <= at and (now or at < ended)]
    if phase in _OURS - {Phase.UNPLUG} and not any(at == began for at, _word in said):
        heard = [*[word for at, word in said if at < began][-1:], *heard]  # no word began it: the last one still holds
    live = printable(state.vm.migration.status, 20)
    if now and phase in _OURS and live != "none" and state.vm.link is Link.UP and live not in heard:
        heard.append(live)
    shown = tuple(word for index, word in enumerate(heard) if index == 0 or heard[index - 1] != word)
    return Step(phase, _tone(work, phase, now=now), now, max(ended - began, 0.0), shown if phase in _TELLING else (),
                phase is Phase.REPLUG)  # fmt: skip


_OURS = frozenset({P.UNPLUG, P.PAUSE, P.SAVE, P.CANCEL, P.FINISH})
"""Phases in which QEMU's status is about the migration that makes the file."""
_TELLING = _OURS | {P.REPLUG}


def _tone(work: Workflow, phase: Phase, *, now: bool) -> Tone:
    undoing = phase is Phase.CANCEL or (now and work.given_up)
    if now:
        return Tone.WARN if undoing or work.marks.lost is not None else Tone.BUSY
    if work.outcome is Outcome.ATTENTION and phase is work.timeline[-2][0]:
        return Tone.BAD
    return Tone.WARN if undoing else Tone.GOOD


def _statuses(log: tuple[Record, ...], since: float) -> tuple[tuple[float, str], ...]:
    """What QEMU's MIGRATION events said, and when."""
    found = []
    for record in log:
        if record.kind != "qmp" or record.at < since:
            continue
        message = record.data.get("msg")
        if isinstance(message, dict) and message.get("event") == "MIGRATION":
            data = message.get("data")
            word = data.get("status") if isinstance(data, dict) else None
            found.append((record.at, printable(str(word), 20)))
    return tuple(found)


def to_come(work: Workflow) -> tuple[Phase, ...]:
    """The phases that will follow the present one, if nothing else happens."""
    if work.outcome is not None or work.phase is Phase.DONE:
        return ()
    plan = _plan(work)
    if work.phase not in plan:
        return _UNDO[1:] if work.given_up else ()
    return plan[plan.index(work.phase) + 1 :]


def _plan(work: Workflow) -> tuple[Phase, ...]:
    if work.options.goal is Goal.CHECK:
        return (Phase.PREFLIGHT,)
    if work.options.goal is Goal.RESUME:
        return _RESUME
    if work.options.goal is Goal.DUMP:
        return _DUMP
    if work.given_up and work.baseline is None:
        return (Phase.PREFLIGHT, Phase.PREPARE)
    if work.given_up:
        # While a migration of ours runs it is cancelled first; where none does, the guest is resumed at once.
        return _UNDO if work.phase in _UNDO else (*_START, *_COPY[Strategy.PAUSE_VM], *_UNDO)
    return (*_START, *_COPY.get(work.strategy, _COPY[Strategy.PAUSE_VM]), *_END[work.options.then])


def took(work: Workflow, now: float) -> float:
    """Seconds from the beginning to the end, or until now."""
    return max((work.timeline[-1][1] if work.outcome is not None else now) - work.started, 0.0)


def happening(state: State) -> str:
    """What goes on, in a line: for a workflow of ours, for somebody else's migration, and for neither."""
    if state.busy:
        return words.phase_line(state)
    if is_.somebody_else_migrates(state):
        return f"somebody else migrates this VM (migration {printable(state.vm.migration.status, 30)})"
    return ""
