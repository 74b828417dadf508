"""How fast does the copy go, how much of it is done, and how long will it still take?

The engine keeps the last seconds of a copy (`Workflow.copied`), so that all front ends show the same rate; one that draws a
line of it keeps its own samples.
"""

from itertools import pairwise
from typing import NamedTuple

from vmtui.backend.core.model import Fact, Goal, Phase
from vmtui.backend.core.state import State

SAMPLES = 240
"""How many samples a front end keeps: a minute of them at four a second."""
APART = 0.2
"""Seconds between two samples, at the least: QEMU is asked every quarter of a second."""


class Sample(NamedTuple):
    at: float
    done: float


COPYING = frozenset({Phase.SAVE, Phase.DUMP})


def total(state: State) -> int:
    """Bytes of RAM that are copied in all."""
    return state.vm.dump.total if _dumps(state) else state.vm.migration.total


def _dumps(state: State) -> bool:
    return state.work is not None and state.work.options.goal is Goal.DUMP


def done(state: State) -> float:
    """Bytes of RAM that are copied. Never runs backwards, for `done_share` does not."""
    return state.work.done_share * total(state) if state.work else 0.0


def rate(state: State) -> float:
    """Bytes of RAM a second, over the last seconds (`workflow.COPIED_WITHIN`); 0 = not known."""
    work = state.work
    if work is None or work.phase not in COPYING or len(work.copied) < 2:
        return 0.0
    (began, had), (at, has) = work.copied[0], work.copied[-1]
    return (has - had) * total(state) / (at - began) if at > began else 0.0


def seconds_left(state: State, bytes_a_second: float) -> float | None:
    return (total(state) - done(state)) / bytes_a_second if bytes_a_second > 0 else None


def average(state: State) -> float:
    """Bytes of RAM a second over a copy that is complete; 0 = it is not."""
    work = state.work
    if work is None or work.marks.completed is None:
        return 0.0
    began = next((at for phase, at in work.timeline if phase in COPYING), None)
    took = work.marks.completed - began if began is not None else 0.0
    return total(state) / took if took > 0 else 0.0


def _asked(state: State) -> float:
    """When QEMU told the numbers."""
    return state.vm.seen.get(Fact.DUMP if _dumps(state) else Fact.MIGRATION, state.now)


def sampled(samples: tuple[Sample, ...], state: State) -> tuple[Sample, ...]:
    """`samples` with the present one, where it is time for one; none of an earlier workflow."""
    work = state.work
    if work is None:
        return ()
    kept = tuple(each for each in samples if each.at >= work.started)[-SAMPLES:]
    at = _asked(state)
    if work.phase not in COPYING or (kept and at - kept[-1].at < APART):
        return kept
    return (*kept, Sample(at, done(state)))


def rates(samples: tuple[Sample, ...], count: int) -> tuple[float, ...]:
    """Bytes a second between the last samples, the oldest first; `count` at the most."""
    pairs = list(pairwise(samples))[-count:] if count > 0 else []
    return tuple((after.done - before.done) / (after.at - before.at) for before, after in pairs)
