"""What was a vmtui doing that was ended? The state at the end of its journal, from which a new engine goes on.

The journal holds the very events that the reducer got, so playing them gives the very state. What comes next is one more
event, `Restarted`, written into the same journal: the connection is lost, the outcome of what was under way unknown, no
descriptor is relied on, and the phase is entered anew. Then the rules go on from the facts: a save that goes well goes on
to its end, anything else is undone. There is no other way back, and a journal that tells of several restarts is played like
any other.

Time: `at` is CLOCK_MONOTONIC, one clock for all processes of a boot. So a time limit that counts from something that
happened (the unplug's) goes on counting while no vmtui runs; one that counts from the beginning of a phase (how long QEMU
may take to cancel) begins anew. After a reboot the clock is another one, but then QEMU is gone, and nothing waits any more.
"""

from collections.abc import Iterable

from vmtui.backend.core import workflow
from vmtui.backend.core.commands import Action
from vmtui.backend.core.events import AnyEvent, Event
from vmtui.backend.core.model import Vm
from vmtui.backend.core.state import State


class OtherRules(ValueError):
    """The journal tells of steps that these rules would not take: another version of vmtui wrote it."""


def recovered(vm: Vm, told: Iterable[AnyEvent | Action]) -> State | None:
    """The state at the end of a journal: `vm` is what was known first, `told` its events and actions in their order.

    None where there is nothing to recover: it came to its end, or changed nothing. Raises OtherRules.
    """
    state = State(vm)
    for each in told:
        if isinstance(each, Event):
            state = workflow.step(state, each)
        elif state.outstanding != each:
            raise OtherRules(f"{state.outstanding} was to be done where the journal has {each}")
    touched = state.work is not None and state.work.baseline is not None
    return state if state.busy and touched else None
