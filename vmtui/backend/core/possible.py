"""What can be asked for now, and if it cannot, why not? An empty reason means that it can.

A front end dims what has a reason, and says the reason; the engine would say the same, later.
"""

from collections.abc import Callable

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import preflight
from vmtui.backend.core.commands import Publish
from vmtui.backend.core.model import Card, Goal, Link, Phase
from vmtui.backend.core.state import State

PAUSED_STATES = frozenset({"paused", "postmigrate"})


def save(state: State) -> str:
    if state.busy:
        return "something is under way already"
    if state.vm.link is not Link.UP:
        return "QEMU does not answer"
    return "somebody else migrates it" if is_.migration_running(state) else ""


def cancel(state: State) -> str:
    work = state.work
    if work is None or not state.busy:
        return "that migration is not vmtui's: who started it can cancel it" if _foreign(state) else "nothing is under way"
    if work.published or isinstance(state.outstanding, Publish):
        return "the file is whole and in its place"
    if work.given_up:
        return "it is being undone already"
    if work.options.goal is Goal.RESUME and work.baseline is not None:
        return "a resume is not undone"
    return "QEMU has ended: the file is all that is left" if is_.only_copy(state) else ""


def dump(state: State) -> str:
    """The guest's memory: now, or once the save that waits for the guest is cancelled."""
    if state.busy:
        return cancel(state) if _waiting(state) else "something is under way already"
    if state.vm.link is not Link.UP:
        return "QEMU does not answer"
    return "QEMU dumps nothing while a migration runs" if is_.migration_running(state) else ""


def wait(state: State) -> str:
    return "" if _waiting(state) else "only while the guest is to let go of its card"


def resume(state: State) -> str:
    """The guest, so that it can answer; or a VM that was left paused, or with its card out."""
    work, vm = state.work, state.vm
    if state.busy:
        if not _waiting(state) or is_.running(state):
            return "only for a guest that somebody paused while it is to let go of its card"
        if is_.cannot_run(state):
            return "it cannot run on: it is left as it stands"
        return "it is being resumed" if work is not None and work.let_run else ""
    if vm.link is not Link.UP:
        return "QEMU does not answer"
    if _foreign(state):
        return "somebody else migrates it"
    if is_.cannot_run(state):
        return "it cannot run on: reset it"
    if vm.runstate in PAUSED_STATES or needs_resume(state):
        return ""
    return "it runs, and its card is plugged"


def needs_resume(state: State) -> bool:
    """A card of it is out, or QEMU has deleted it."""
    vm = state.vm
    return any(card.card in (Card.OUT, Card.DELETED) for card in vm.primaries) or bool(preflight.lost_cards(vm))


def parameters(state: State) -> str:
    return "" if state.vm.link is Link.UP or state.vm.parameters else "QEMU does not answer"


def _waiting(state: State) -> bool:
    work = state.work
    return state.busy and work is not None and work.phase is Phase.UNPLUG and not work.given_up


def _foreign(state: State) -> bool:
    return is_.somebody_else_migrates(state)


WHY_NOT: dict[str, Callable[[State], str]] = {
    "save": save,
    "cancel": cancel,
    "dump": dump,
    "wait": wait,
    "resume": resume,
    "parameters": parameters,
}
"""By the word that the footer has for it."""
CHANGING = frozenset({"save", "cancel", "dump", "wait", "resume"})
"""What a read-only front end does not ask for."""
READ_ONLY = "read-only: started with --read-only"


def why_not(state: State, what: str, *, read_only: bool = False) -> str:
    if read_only and what in CHANGING:
        return READ_ONLY
    return WHY_NOT[what](state) if what in WHY_NOT else ""
