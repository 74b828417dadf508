"""What becomes of migration settings that a front end asks for?

While no workflow runs they are sent as they are. During a save `max-bandwidth` is the user's word on how fast this copy may
be: it becomes part of the intent, and is put back at the end like everything else that a save changes. What a save relies
on is refused, with the reason.
"""

from typing import Any

from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import effects as do
from vmtui.backend.core import facts
from vmtui.backend.core.commands import Command
from vmtui.backend.core.events import Answered, Refused, Tune, Unknown
from vmtui.backend.core.model import Fact, Trouble
from vmtui.backend.core.state import State, Tuned, the_work

BANDWIDTH = "max-bandwidth"


def wish(state: State, event: Tune) -> State:
    """Take it up, or refuse it whole: half of what was asked for is worse than none."""
    why_not = refusal(state, tuple(event.parameters), tuple(event.capabilities))
    if why_not:
        return replace(state, tuned=Tuned(event.at, (*event.parameters, *event.capabilities), why_not, Trouble.REFUSED))
    commands = []
    parameters = dict(event.parameters)
    if state.busy and BANDWIDTH in parameters:
        state = _for_this_save(state, int(parameters.pop(BANDWIDTH)))
    if parameters:
        commands.append(Command("migrate-set-parameters", parameters))
    if event.capabilities:
        wanted = [{"capability": name, "state": value} for name, value in event.capabilities.items()]
        commands.append(Command("migrate-set-capabilities", {"capabilities": wanted}))
    return replace(state, tunes=(*state.tunes, *commands))


def refusal(state: State, parameters: tuple[str, ...], capabilities: tuple[str, ...] = ()) -> str:
    """Why these settings cannot be changed now; empty when they can."""
    if capabilities and (state.busy or is_.migration_running(state)):
        return "capabilities can change only while no migration runs"
    if not state.busy:
        return ""
    owned = [name for name in parameters if name in is_.MANAGED and name != BANDWIDTH]
    if owned:
        return f"vmtui sets {', '.join(owned)} itself while it saves, and puts it back afterwards"
    if BANDWIDTH in parameters and the_work(state).phase not in is_.SAVING:
        return f"the copy is over: {BANDWIDTH} is being put back to what it was"
    return ""


def _for_this_save(state: State, bandwidth: int) -> State:
    work = the_work(state)
    tries = {name: count for name, count in work.tries.items() if name != "set-parameters"}
    work = replace(work, bandwidth=bandwidth, tries=tries, copied=work.copied[-1:])
    return replace(state, work=work, tuned=Tuned(state.now, (BANDWIDTH,)))


def is_outstanding(state: State) -> bool:
    """The action under way is one that a front end asked for, not the workflow."""
    return bool(state.tunes) and state.outstanding is state.tunes[0]


def heard(state: State, event: Answered | Refused | Unknown) -> State:
    """What became of the one that is outstanding."""
    done, *others = state.tunes
    if isinstance(event, Answered):
        touched = {**_before(state, _names(done)), **state.touched}
        tuned = Tuned(state.now, _names(done))
        return do.answered(replace(state, tunes=tuple(others), tuned=tuned, touched=touched), event.learned)
    settled = replace(state, tunes=tuple(others), tuned=_not_set(state.now, _names(done), event))
    # Whatever was taken of it, QEMU tells it better.
    return replace(settled, vm=facts.without(state.vm, Fact.PARAMETERS, Fact.CAPABILITIES), outstanding=None)


def _before(state: State, names: tuple[str, ...]) -> dict[str, Any]:
    values = {**state.vm.parameters, **state.vm.capabilities}
    return {name: values[name] for name in names if name in values}


def _not_set(at: float, names: tuple[str, ...], event: Refused | Unknown) -> Tuned:
    if isinstance(event, Unknown):
        return Tuned(at, names, event.why, Trouble.UNREACHABLE)
    ours = event.error_class in ("RefusedError", "StoreError")
    return Tuned(at, names, event.text, Trouble.REFUSED if ours else Trouble.QEMU)


def given_up(state: State, why: str) -> State:
    """None of them can be sent any more."""
    if not state.tunes:
        return state
    names = tuple(name for command in state.tunes for name in _names(command))
    return replace(state, tunes=(), tuned=Tuned(state.now, names, why, Trouble.UNREACHABLE))


def _names(command: Command) -> tuple[str, ...]:
    if "capabilities" in command.arguments:
        return tuple(each["capability"] for each in command.arguments["capabilities"])
    return tuple(command.arguments)
