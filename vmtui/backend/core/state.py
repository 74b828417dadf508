"""One VM's whole state: facts, intent, and the one action that may be outstanding."""

from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from vmtui.backend.core.commands import Action, Command, Ping
from vmtui.backend.core.model import Failure, Goal, Trouble, Vm, Workflow
from vmtui.backend.core.naming import addressed


class Watching(StrEnum):
    """How closely a VM is looked at while no workflow runs."""

    NO = "no"
    GLANCE = "glance"
    """Run state, migration and cards: what a list of VMs shows."""
    CLOSELY = "closely"
    """And the settings, and what its QEMU offers."""


class Tuned(msgspec.Struct, frozen=True):
    """What became of the last settings that a front end asked for."""

    at: float
    names: tuple[str, ...]
    error: str = ""
    """Why not, in QEMU's words or ours; empty when they were set."""
    trouble: Trouble | None = None
    """Who said no: QEMU, vmtui (refused), or nobody (unreachable)."""


class State(msgspec.Struct, frozen=True):
    """What `workflow.step` takes and returns."""

    vm: Vm
    work: Workflow | None = None
    last: Workflow | None = None
    """The one before `work`, whose end is not forgotten: while `work` is a mere look (Goal.CHECK), or the dump of a guest
    that was stuck."""
    outstanding: Action | None = None
    sent_at: float = 0.0
    """When the outstanding action was sent."""
    actions: int = 0
    """How many actions were sent in all: it grows exactly when there is one to perform."""
    ping: Ping | None = None
    """The question to the guest's agent that is under way, beside the outstanding action."""
    now: float = 0.0
    read_at: float = -1.0
    """When the rules were last read: a fact that was asked since then is fresh, however slow the monitor."""
    watching: Watching = Watching.NO
    tunes: tuple[Command, ...] = ()
    """Settings that a front end asked for and that are not set yet; the first of them may be outstanding."""
    tuned: Tuned | None = None
    touched: dict[str, Any] = {}
    """Settings that a front end changed while no workflow ran, by name: what each was before the first change."""

    @property
    def busy(self) -> bool:
        """A workflow is under way."""
        return self.work is not None and self.work.outcome is None


def as_told(state: State) -> State:
    """The state as it is to be shown: a look that is over hides no save before it."""
    looked = state.work is not None and state.work.options.goal is Goal.CHECK and not state.busy
    return replace(state, work=state.last) if looked else state


def given_up_save(state: State) -> Workflow | None:
    """The save that the dump, which is under way or over, follows."""
    dumps = state.work is not None and state.work.options.goal is Goal.DUMP
    return state.last if dumps else None


def the_work(state: State) -> Workflow:
    """The workflow under way: rules are read only where there is one."""
    assert state.work is not None
    return state.work


def give_up(state: State, trouble: Trouble, text: str) -> State:
    """Turn to putting things back. The first reason stands; later ones are consequences."""
    work = the_work(state)
    if work.failure is not None:
        return state
    return replace(state, work=replace(work, failure=Failure(trouble, text)))


def alarm(state: State, text: str) -> State:
    """Something that somebody must look at: the outcome will be `attention`."""
    work = the_work(state)
    return state if text in work.alarms else replace(state, work=replace(work, alarms=(*work.alarms, text)))


def note(state: State, text: str) -> State:
    """Add a sentence that a person should read at the end, once."""
    work, text = the_work(state), addressed(text, state.vm.shown)
    return state if text in work.notes else replace(state, work=replace(work, notes=(*work.notes, text)))
