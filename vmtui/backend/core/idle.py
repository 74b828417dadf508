"""What is kept of a VM while no workflow runs on it?

Little is asked: what every list of VMs shows, now and then, and more of the one that somebody looks at. An event that says
that somebody did something makes the rest be asked at once.
"""

from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import effects as do
from vmtui.backend.core import facts
from vmtui.backend.core.commands import QUERIES
from vmtui.backend.core.events import QmpEvent
from vmtui.backend.core.model import Fact, Link
from vmtui.backend.core.state import State, Watching

ANY = float("inf")

NOW_AND_THEN = 90.0
"""Seconds between two looks at what no event need tell: somebody else's migration."""
SELDOM = 300.0
"""Seconds between two looks at what an event tells: the run state."""
FOLLOWED = 1.0
"""Seconds between two looks at a migration of somebody else's."""
GLANCE: dict[Fact, float] = {
    Fact.NAME: ANY, Fact.MACHINE: ANY, Fact.STATUS: SELDOM, Fact.MIGRATION: NOW_AND_THEN, Fact.MEMORY: ANY,
    Fact.DEVICES: ANY, Fact.CONFIG_WINDOW: ANY, Fact.CARDS: ANY,
}  # fmt: skip
SETTINGS = dict.fromkeys((Fact.UUID, Fact.FEATURES, Fact.PARAMETERS, Fact.CAPABILITIES), ANY)
WATCHED: dict[Watching, dict[Fact, float]] = {
    Watching.NO:      {},
    Watching.GLANCE:  GLANCE,
    Watching.CLOSELY: GLANCE | SETTINGS,
}  # fmt: skip
"""The facts that are kept of a VM that nothing is done to, and how old each may be."""
PROMPTING = frozenset({"STOP", "RESUME", "MIGRATION", "DEVICE_DELETED", "RESET"})
"""Events that say that somebody did something: the migration and the cards are looked at again."""


def look(state: State) -> State:
    """Ask the first of the watched facts that is too old, if there is one."""
    if state.vm.link is not Link.UP:
        return state
    for fact in WATCHED[state.watching]:
        if state.now >= _due(state, fact):
            state = asked(state, fact)
            if state.outstanding is not None:
                return state
    return state


def next_look(state: State) -> float | None:
    if state.vm.link is not Link.UP:
        return None
    next_look = min((_due(state, fact) for fact in WATCHED[state.watching]), default=ANY)
    return None if next_look == ANY else next_look


def _due(state: State, fact: Fact) -> float:
    seen = state.vm.seen.get(fact)
    if seen is None:
        return state.now
    followed = fact is Fact.MIGRATION and is_.migration_running(state)
    return seen + (FOLLOWED if followed else WATCHED[state.watching][fact])


def watch(state: State, how: Watching) -> State:
    """A look at the VM as it is now; what is asked already need not be asked twice."""
    stale = (Fact.STATUS, Fact.MIGRATION, Fact.CARDS, Fact.PARAMETERS, Fact.CAPABILITIES)
    vm = state.vm if state.busy or how is not Watching.CLOSELY else facts.without(state.vm, *stale)
    return replace(state, watching=how, vm=vm)


def prompted(state: State, event: QmpEvent) -> State:
    if event.name not in PROMPTING:
        return state
    stale = (Fact.CARDS,) if event.name == "MIGRATION" else (Fact.CARDS, Fact.MIGRATION)
    return replace(state, vm=facts.without(state.vm, *stale))


def asked(state: State, fact: Fact) -> State:
    """Its query is sent; where there is none, nothing is what there is to know."""
    query = QUERIES[fact](state.vm)
    return do.send(state, query) if query else replace(state, vm=facts.with_fact(state.vm, fact, state.now))
