"""Which worlds have the same future? Those whose keys are equal.

Times count from now, and no further back than anybody looks: of the moment when a query was answered only the first
second matters, of the moment when the file was complete only the first quarter. What is only told (texts, the timeline,
numbers for a progress bar) is left out, and so is what never changes on the way from one root. `test_explore.py` holds this
to account: with and without it, the same ends are found, by the same number of paths.
"""

from collections.abc import Hashable

from tests.explore.world import Message, Reply, Stored, World
from vmtui.backend.core import conditions as is_
from vmtui.backend.core.commands import Action, Command
from vmtui.backend.core.events import AnyEvent, QmpEvent
from vmtui.backend.core.model import Baseline, Fact, Phase, Primary, Strategy, Then, Vm, Workflow
from vmtui.backend.core.state import State
from vmtui.backend.core.workflow import ANY, NEEDS

LOOKED_BACK = {
    fact: max([age for needs in NEEDS.values() if 0 < (age := needs.get(fact, 0.0)) < ANY], default=0.0) for fact in Fact
} | {Fact.YANK: is_.TIDYING_POLL, Fact.CPUS: is_.SAMPLE_EVERY, Fact.AGENT: is_.PING_EVERY}
"""Seconds after which a fact is simply old."""
AFTER_PREFLIGHT = {fact for phase, needs in NEEDS.items() for fact in needs if phase is not Phase.PREFLIGHT} | {
    Fact.YANK,
    Fact.CPUS,
    Fact.AGENT,
}
"""Facts that are looked at once more after the pre-flight."""
TRIED = {
    "add-card": is_.SELF_PLUG,
    "cancel": is_.PAUSE_BETWEEN_TRIES,
    "cont":   is_.PAUSE_BETWEEN_TRIES,
    "quit":   is_.PAUSE_BETWEEN_TRIES,
    "replug": is_.REPLUG_LIMIT,
}  # fmt: skip
"""Seconds after which it does not matter any more when something was tried last."""
ENTERED = {
    Phase.CANCEL: is_.CANCEL_LIMIT,
    Phase.FINISH: is_.PATIENCE,
    Phase.RESUME: is_.PATIENCE,
    Phase.REPLUG: is_.REPLUG_LIMIT,
    Phase.SETTLE: is_.PATIENCE,
    Phase.PAUSE:  is_.SELF_PLUG,
    Phase.QUIT:   is_.QUIT_LIMIT,
}  # fmt: skip
"""Seconds after which it does not matter any more when a phase began."""
NEVER = -1


def key(world: World) -> int:
    """A number that is the same for worlds with the same future (64 bits: that two others share it is not to be feared)."""
    now, vm = world.now, world.vm
    vm.advance(now)
    return hash(
        (
            vm.key(),
            _facts(world.state, now),
            _work(world.state, now),
            _outstanding(world, now),
            tuple(_message(each, world) for each in world.queue) if world.queue else None,
            None if world.held is None else _message(world.held, world),
            None if world.reconnect_at is None else _micros(world.reconnect_at - now),
            None if world.ping_ends is None else _micros(world.ping_ends - now),
            (world.store, world.mode, world.back_after, world.intent_kept),
        )
    )


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _age(at: float | None, now: float, limit: float) -> int:
    """Microseconds, at most `limit` and a little: an age beyond the limit is like any other beyond it."""
    if at is None:
        return NEVER
    return _micros(min(now - at, limit + 0.001)) if limit else 0


def _facts(state: State, now: float) -> Hashable:
    vm, work = state.vm, state.work
    entered = work.entered if work else 0.0
    beginning = work is None or work.phase is Phase.PREFLIGHT
    sent = state.sent_at if state.outstanding is not None else now
    return (
        vm.link,
        vm.runstate,
        (vm.dump.status, vm.dump.error, vm.dump_formats),
        (vm.migration.status, vm.migration.error, bool(vm.migration.transferred), vm.migration.blocked),
        tuple(vm.parameters.get(name) for name in is_.MANAGED),
        frozenset(name for name, value in vm.capabilities.items() if value),
        tuple(_card(card, now, entered, state.read_at) for card in vm.primaries),
        _order(vm),
        (
            vm.config_window,
            vm.panicked,
            vm.panic_action,
            vm.fdsets,
            vm.fdsets_in_use,
            vm.tidying,
            vm.standbys,
            bool(vm.samples),
            (vm.agent_port, vm.agent.path, bool(vm.agent.why_not)),
            vm.agent.asked is None or vm.agent.asked < vm.seen.get(Fact.AGENT, 0.0),
            bool(vm.features.parameters),
        ),
        frozenset(
            (fact, _age(at, now, LOOKED_BACK[fact]), at > state.read_at, at >= entered, at >= sent, at == now)
            for fact, at in vm.seen.items()
            if beginning or fact in AFTER_PREFLIGHT
        ),
        state.read_at == now,
    )


def _card(card: Primary, now: float, entered: float, read_at: float) -> Hashable:
    age = _age(card.proved_at, now, LOOKED_BACK[Fact.CARDS])
    proved = (card.proved_at < 0, age, card.proved_at >= entered, card.proved_at > read_at, card.proved_at == now)
    return card.device_id, card.card, card.driven, card.slot, proved


def _order(vm: Vm) -> Hashable:
    """The card whose proof is oldest is looked at next."""
    if len(vm.primaries) < 2:
        return None
    return tuple(card.device_id for card in sorted(vm.primaries, key=lambda card: card.proved_at))


def _work(state: State, now: float) -> Hashable:
    work = state.work
    if work is None:
        return None
    return (
        (work.phase, work.strategy, work.options.then, work.sent, work.outcome),
        _age(work.entered, now, ENTERED.get(work.phase, 0.0)),
        None if work.failure is None else work.failure.trouble,
        _baseline(work.baseline),
        _marks(work, now),
        frozenset(work.tries.items()),
        tuple(_age(work.tried_at.get(what), now, TRIED[what]) for what in _looked_at_again(work)),
        (work.fd_passed, work.fdset, work.names, work.reserved, work.replug_fd, work.replug_accepted),
        (work.published, work.discarded, work.interrupt, work.untold, bool(work.alarms), work.restarts > 0),
        None if work.file is None else work.file.whole,
        work.dump_before,
        None if work.place is None else work.place.problem,
        tuple(finding.code for finding in work.findings),
    )


def _looked_at_again(work: Workflow) -> tuple[str, ...]:
    """Of what was tried: when it was may still matter for these. RESUME is entered again only before `cont` was tried, or
    where QEMU was to be ended."""
    match work.phase:
        case Phase.CANCEL:
            return "cancel", "cont", "replug"
        case Phase.RESUME:
            return "cont", "replug"
        case Phase.QUIT:
            return ("quit",)
        case Phase.PROVE:
            return ()
        case _ if "cont" not in work.tries or work.options.then is Then.QUIT:
            return tuple(TRIED)
        case Phase.REPLUG:
            return "replug", "add-card"
        case _:
            return ()


def _baseline(baseline: Baseline | None) -> Hashable:
    if baseline is None:
        return None
    parameters = tuple(baseline.parameters.get(name) for name in is_.MANAGED)
    capabilities = frozenset(name for name, value in baseline.capabilities.items() if value)
    return baseline.runstate, parameters, capabilities, tuple(baseline.cards.items()), baseline.panic_action


def _marks(work: Workflow, now: float) -> Hashable:
    marks = work.marks
    waits = max(work.options.unplug_timeout, is_.SLOW_AFTER) if work.phase in (Phase.PREPARE, Phase.UNPLUG) else 0.0
    return (
        _age(marks.asked, now, waits),
        _age(marks.completed, now, is_.CLOSES_UNSEEN if work.strategy is Strategy.BACKGROUND else 0.0),
        _age(marks.lost, now, is_.LOST_LIMIT),
        (marks.unplugged is None, marks.stopped is None, marks.resumed is None, marks.bytes_at_stop is None),
        (marks.cancel_sent is None),
        _age(marks.failed, now, is_.REASON_TIME if work.phase is Phase.DUMP else 0.0),
        _age(marks.back, now, is_.DRIVER_TIME if work.phase is Phase.REPLUG else 0.0),
    )


def _outstanding(world: World, now: float) -> Hashable:
    state = world.state
    if state.outstanding is None:
        return None
    deadline = None if world.deadline is None else _micros(world.deadline - now)
    return _action(state.outstanding), world.performed == state.actions, deadline


def _action(action: Action) -> Hashable:
    if isinstance(action, Command):
        return action.execute, action.learns, action.about, action.fd, repr(action.arguments)
    return type(action).__name__


def _message(message: Message, world: World) -> Hashable:
    match message:
        case QmpEvent(_, name, data):
            return name, repr(data)
        case Stored(event):
            return _event(event)
        case Reply(_, event) if event is not None:
            return _event(event)
        case Reply(reply, _):
            # No time passes until a reply that has come is delivered: what it tells is what the twin is now.
            action = world.state.outstanding
            asked = isinstance(action, Command) and action.learns is not None and "return" in reply
            return "told" if asked else repr(reply)


def _event(event: AnyEvent) -> Hashable:
    """Of Surveyed and Read only one answer is possible: the store's."""
    return type(event).__name__
