"""What is to be done next? `step(state, event)` folds an event into the facts and applies the table of rules.

`RULES` holds for every phase its rules in order: *when all these conditions hold, do this and go there*. The first that
holds fires; then the table is read again, until no rule fires or an action is outstanding. At most one action is
outstanding for a VM. Conditions look at facts (level-triggered), so that a lost event, a new connection or another tool
at work are not special cases: `NEEDS` says which facts a phase relies on and how old each may be; what is older is asked
again first.

Giving up (`work.failure`) is no phase of its own. It makes the forward phases turn to CANCEL (where a migration runs) or
RESUME, and from there both ways share the same rules: run as before, card back, settings back, file published or gone,
then look at everything once more (PROVE) and judge (`core.result`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import effects as do
from vmtui.backend.core import facts, idle, tuning
from vmtui.backend.core.commands import Command, Publish
from vmtui.backend.core.events import (
    Answered,
    AnyEvent,
    Cancel,
    Connected,
    Disconnected,
    KeepWaiting,
    LetRun,
    Pinged,
    QmpEvent,
    Refused,
    Restarted,
    Tick,
    Tune,
    Unknown,
    Watch,
    Wish,
)
from vmtui.backend.core.model import (
    ENDED_STATES,
    Agent,
    Card,
    Fact,
    Goal,
    Link,
    Options,
    Phase,
    Sent,
    Trouble,
    Vm,
    Workflow,
)
from vmtui.backend.core.naming import core_name
from vmtui.backend.core.result import left_unanswered
from vmtui.backend.core.state import State, Watching, as_told, give_up, given_up_save, note, the_work

Condition = Callable[[State], bool]
Effect = Callable[[State], State]


class Rule(NamedTuple):
    """Read it aloud: in this phase, when all of `when` hold, do `do`, then go to `go`."""

    when: tuple[Condition, ...]
    do: Effect | None = None
    go: Phase | None = None


ANY = float("inf")
SINCE_ENTERED = -1.0
"""The fact must have been learned after this phase began."""
ASKED_BY_RULES = frozenset({Fact.FDSETS, Fact.YANK, Fact.DUMP, Fact.DUMP_FORMATS, Fact.CPUS, Fact.AGENT})
"""What only some workflows come to need."""
PROBE: dict[Fact, float] = {fact: ANY for fact in Fact if fact not in ASKED_BY_RULES}

NEEDS: dict[Phase, dict[Fact, float]] = {
    Phase.PREFLIGHT: PROBE,
    Phase.PREPARE:   {Fact.PARAMETERS: ANY, Fact.CAPABILITIES: ANY},
    Phase.UNPLUG:    {Fact.MIGRATION: 0.25, Fact.STATUS: 0.5},
    Phase.PAUSE:     {Fact.MIGRATION: ANY, Fact.STATUS: 0.25},
    Phase.SAVE:      {Fact.MIGRATION: 0.25, Fact.STATUS: 1.0},
    Phase.DUMP:      {Fact.DUMP: 0.25},
    Phase.CANCEL:    {Fact.MIGRATION: 0.25, Fact.STATUS: 0.5},
    Phase.FINISH:    {Fact.STATUS: 0.005},
    Phase.RESUME:    {Fact.STATUS: 0.05},
    Phase.REPLUG:    {Fact.DEVICES: ANY, Fact.CONFIG_WINDOW: ANY, Fact.PARAMETERS: ANY, Fact.CAPABILITIES: ANY,
                      Fact.MIGRATION: 0.05, Fact.STATUS: 0.5, Fact.CARDS: 0.02},
    Phase.SETTLE:    {Fact.MIGRATION: 0.25, Fact.PARAMETERS: ANY, Fact.CAPABILITIES: ANY, Fact.FDSETS: ANY},
    Phase.VERIFY:    {},
    Phase.QUIT:      {Fact.STATUS: 1.0},
    Phase.PROVE:     {Fact.DEVICES: ANY, Fact.CONFIG_WINDOW: ANY}
                     | dict.fromkeys((Fact.STATUS, Fact.MIGRATION, Fact.CARDS, Fact.PARAMETERS, Fact.CAPABILITIES),
                                     SINCE_ENTERED),
}  # fmt: skip

RULES: dict[Phase, tuple[Rule, ...]] = {
    Phase.PREFLIGHT: (
        Rule((is_.given_up,), go=Phase.DONE),
        Rule((is_.place_unknown,), do.survey),
        Rule((is_.dump_formats_unknown,), do.ask_dump_formats),
        Rule((is_.dump_unknown,), do.ask_dump),
        Rule((is_.undecided,), do.decide),
        Rule((is_.blocked,), do.refuse, Phase.DONE),
        Rule((is_.only_checking,), go=Phase.DONE),
        Rule((is_.only_resuming,), do.take_baseline, Phase.RESUME),
        Rule((is_.only_dumping,), do.take_baseline, Phase.DUMP),
        Rule((), do.take_baseline, Phase.PREPARE),
    ),
    Phase.PREPARE: (
        Rule((is_.nothing_touched,), go=Phase.DONE),
        Rule((is_.given_up,), go=Phase.RESUME),
        Rule((is_.file_not_reserved,), do.reserve),
        Rule((is_.panic_action_not_as_wanted, is_.may_try_panic_action), do.set_panic_action),
        Rule((is_.capabilities_not_as_wanted, is_.may_try_capabilities), do.set_capabilities),
        Rule((is_.parameters_not_as_wanted, is_.may_try_parameters), do.set_parameters),
        Rule((is_.file_not_handed_over,), do.hand_over_file),
        Rule((is_.to_be_stopped_first,), go=Phase.PAUSE),
        Rule((), do.migrate, Phase.UNPLUG),
    ),
    Phase.UNPLUG: (
        Rule((is_.given_up, is_.migrate_sent, is_.migration_running), go=Phase.CANCEL),
        Rule((is_.given_up,), go=Phase.RESUME),
        Rule((is_.migrate_never_arrived,), do.try_migrate_again, Phase.PREPARE),
        Rule((is_.migration_failed,), do.blame_qemu),
        Rule((is_.migration_cancelled,), do.blame_another),
        Rule((is_.unplugged, is_.in_background), go=Phase.SAVE),
        Rule((is_.unplugged,), go=Phase.PAUSE),
        Rule((is_.to_be_let_run,), do.let_run),
        Rule((is_.guest_panicked, is_.stuck_means_cancel), do.blame_crash),
        Rule((is_.unplug_time_is_up, is_.stuck_means_cancel), do.blame_guest),
        Rule((is_.guest_is_slow, is_.running, is_.sample_is_due), do.ask_cpus),
        Rule((is_.guest_is_slow, is_.running, is_.agent_look_is_due), do.look_at_agent),
        Rule((is_.agent_can_be_asked, is_.ping_is_due), do.ping),
    ),
    Phase.PAUSE: (
        Rule((is_.given_up, is_.migrate_sent, is_.migration_running), go=Phase.CANCEL),
        Rule((is_.given_up,), go=Phase.RESUME),
        Rule((is_.migration_failed_after_sending,), do.blame_qemu),
        Rule((is_.running, is_.pausing_by_itself), None),
        Rule((is_.running, is_.stop_tried_enough), do.blame_stop),
        Rule((is_.running,), do.stop),
        Rule((is_.file_not_handed_over,), go=Phase.PREPARE),
        Rule((is_.migrate_not_sent,), do.migrate, Phase.SAVE),
        Rule((), go=Phase.SAVE),
    ),
    Phase.SAVE: (
        Rule((is_.given_up, is_.migrate_sent, is_.migration_running), go=Phase.CANCEL),
        Rule((is_.given_up,), go=Phase.RESUME),
        Rule((is_.migrate_never_arrived,), do.try_migrate_again, Phase.PREPARE),
        Rule((is_.migration_failed,), do.blame_qemu),
        Rule((is_.migration_cancelled,), do.blame_another),
        Rule((is_.completed,), go=Phase.FINISH),
        Rule((is_.guest_is_asked_to_unplug,), do.blame_unseen_card),
        Rule((is_.early_bytes_unknown,), do.count_early_bytes),
        Rule((is_.parameters_not_as_wanted,), do.set_parameters),
    ),
    Phase.DUMP: (
        Rule((is_.nothing_touched,), go=Phase.DONE),
        Rule((is_.dump_sent, is_.dump_running), None),
        Rule((is_.given_up,), go=Phase.RESUME),
        Rule((is_.file_not_reserved,), do.reserve),
        Rule((is_.dump_never_arrived, is_.dump_tried_enough), do.blame_silent_dump),
        Rule((is_.dump_never_arrived,), do.try_dump_again),
        Rule((is_.file_not_handed_over,), do.hand_over_dump),
        Rule((is_.dump_not_sent,), do.dump),
        Rule((is_.dump_failed, is_.reason_may_come), None),
        Rule((is_.dump_failed,), do.blame_dump),
        Rule((), go=Phase.RESUME),
    ),
    Phase.CANCEL: (
        Rule((is_.migration_ended,), go=Phase.RESUME),
        Rule((is_.stopped_with_unplug_pending, is_.may_try_cont, is_.cont_is_due), do.cont),
        Rule((is_.cancel_not_sent,), do.cancel),
        Rule((is_.cancel_lasts_too_long,), do.note_endless_cancel, Phase.RESUME),
    ),
    Phase.FINISH: (
        Rule((is_.not_finalized, is_.just_begun), None),
        Rule((), go=Phase.RESUME),
    ),
    Phase.RESUME: (
        Rule((is_.should_stay_stopped,), go=Phase.SETTLE),
        Rule((is_.running, is_.only_dumping), go=Phase.SETTLE),
        Rule((is_.running,), go=Phase.REPLUG),
        Rule((is_.not_finalized, is_.just_begun), None),
        Rule((is_.cannot_run,), do.note_cannot_run, Phase.SETTLE),
        Rule((is_.may_try_cont, is_.cont_is_due), do.cont),
        Rule((is_.may_try_cont,), None),
        Rule((), do.note_does_not_run, Phase.SETTLE),
    ),
    Phase.REPLUG: (
        Rule((is_.no_card_to_bring_back,), go=Phase.SETTLE),
        Rule((is_.stopped,), go=Phase.SETTLE),
        Rule((is_.card_deleted, is_.may_add_card), do.add_card),
        Rule((is_.card_deleted,), do.note_deleted, Phase.SETTLE),
        Rule((is_.cards_are_back, is_.cards_are_driven), go=Phase.SETTLE),
        Rule((is_.cards_are_back, is_.driver_had_its_time), go=Phase.SETTLE),
        Rule((is_.cards_are_back,), None),
        Rule((is_.own_replug_running, is_.replug_must_be_cancelled), do.cancel_replug),
        Rule((is_.migration_running, is_.replug_has_time), None),
        Rule((is_.migration_running,), do.note_still_migrating, Phase.SETTLE),
        Rule((is_.qemu_may_plug_by_itself,), None),
        Rule((is_.card_is_new,), None),
        Rule((is_.replug_tried_enough,), do.note_card_out, Phase.SETTLE),
        Rule((is_.capabilities_not_as_wanted, is_.may_try_capabilities), do.set_capabilities),
        Rule((is_.parameters_not_as_wanted, is_.may_try_parameters), do.set_parameters),
        Rule((is_.fdset_left,), do.remove_fdset),
        Rule((is_.file_may_be_open,), do.ask_fdsets),
        Rule((is_.closing_is_recent,), None),
        Rule((is_.tidying_unknown,), do.ask_yank),
        Rule((is_.tidying, is_.just_begun), None),
        Rule((is_.tidying,), do.note_card_out, Phase.SETTLE),
        Rule((is_.pipe_not_handed_over,), do.hand_over_broken_pipe),
        Rule((), do.replug),
    ),
    Phase.SETTLE: (
        Rule((is_.panic_action_not_as_wanted, is_.may_try_panic_action), do.set_panic_action),
        Rule((is_.migration_running, is_.just_begun), None),
        Rule((is_.capabilities_not_as_wanted, is_.may_try_capabilities), do.set_capabilities),
        Rule((is_.parameters_not_as_wanted, is_.may_try_parameters), do.set_parameters),
        Rule((is_.fdset_left,), do.remove_fdset),
        Rule((is_.descriptor_left,), do.close_descriptor),
        Rule((), go=Phase.VERIFY),
    ),
    Phase.VERIFY: (
        Rule((is_.given_up, is_.partial_left, is_.only_copy), do.keep_only_copy, Phase.PROVE),
        Rule((is_.given_up, is_.partial_left), do.discard),
        Rule((is_.given_up, is_.should_run, is_.resume_not_tried), go=Phase.RESUME),
        Rule((is_.given_up,), go=Phase.PROVE),
        Rule((is_.file_not_reserved,), go=Phase.PROVE),
        Rule((is_.not_read_through,), do.verify),
        Rule((is_.file_not_whole,), do.blame_file),
        Rule((is_.not_published,), do.publish),
        Rule((is_.lost_too_long,), go=Phase.PROVE),
        Rule((is_.to_quit, is_.connected, is_.status_is_old), do.ask_status),
        Rule((is_.to_quit, is_.connected, is_.runs_or_panicked), do.refuse_to_quit, Phase.RESUME),
        Rule((is_.to_quit, is_.connected), go=Phase.QUIT),
        Rule((is_.may_come_back,), None),
        Rule((), go=Phase.PROVE),
    ),
    Phase.QUIT: (
        Rule((is_.gone,), go=Phase.PROVE),
        Rule((is_.lost_after_quit,), do.count_as_gone, Phase.PROVE),
        Rule((is_.quit_refused,), do.note_quit_refused, Phase.PROVE),
        Rule((is_.connected, is_.quit_is_due), do.quit_qemu),
    ),
    Phase.PROVE: (
        Rule((), go=Phase.DONE),
    ),
    Phase.DONE: (),
}  # fmt: skip

ALWAYS: tuple[Rule, ...] = (
    Rule((is_.nothing_touched, is_.disconnected), do.blame_unreachable, Phase.DONE),
    Rule((is_.qemu_is_needed, is_.state_was_complete), do.note_death, Phase.VERIFY),
    Rule((is_.qemu_is_needed, is_.state_may_be_complete), do.note_unseen_death, Phase.VERIFY),
    Rule((is_.qemu_is_needed, is_.gone), do.blame_death, Phase.VERIFY),
    Rule((is_.answers_are_needed, is_.lost_too_long), do.keep_partial, Phase.DONE),
)
"""Read before the rules of the phase, whether or not the monitor can be asked."""

ENDLESS = 200
"""More rules than this in one step mean that the table has a loop: a bug, found by the tests."""


def step(state: State, event: AnyEvent) -> State:
    """The state after `event`; `state.outstanding` is what is to be done now where `state.actions` has grown."""
    return advance(observe(replace(state, now=event.at), event))


# --- observe ------------------------------------------------------------------------------------------------------


def observe(state: State, event: AnyEvent) -> State:
    """Fold `event` into facts and intent; nothing is decided here."""
    match event:
        case Wish() | Cancel() | Tune() | KeepWaiting() | LetRun() | Watch():
            return _wished(state, event)
        case Restarted():
            return _restart(state, event) if state.busy else state
        case Connected() | QmpEvent() if state.busy and state.vm.link is Link.GONE:
            return state  # of another QEMU: what has ended does not come back
        case Connected():
            return _connect(state, event)
        case Disconnected():
            lost = do.hand_file_over_again(replace(state, vm=facts.disconnected(state.vm, event)))
            lost = tuning.given_up(lost, "the monitor's connection broke")
            cut_off = isinstance(state.outstanding, Command)
            return _mark(state, do.unknown(lost, event.why) if cut_off else lost)
        case QmpEvent():
            seen = replace(state, vm=facts.qmp_event(state.vm, event))
            return _mark(state, seen) if state.busy else idle.prompted(seen, event)
        case Pinged():
            asked = state.ping is not None and state.ping.id == event.id
            return replace(state, ping=None, vm=facts.pinged(state.vm, event)) if asked else state
        case Answered() | Refused() | Unknown():
            return _heard(state, event)
        case Tick():
            return state


def _heard(state: State, event: Answered | Refused | Unknown) -> State:
    """What became of the outstanding action."""
    if state.outstanding is None:
        return state
    if tuning.is_outstanding(state):
        return tuning.heard(state, event)
    match event:
        case Answered(_, learned):
            return _mark(state, do.answered(state, learned))
        case Refused(_, text, error_class):
            return _mark(state, do.refused(state, text, error_class))
        case Unknown(_, why):
            return _mark(state, do.unknown(state, why))


def _connect(state: State, event: Connected) -> State:
    if state.busy and facts.is_another(state.vm, event):
        return observe(state, Disconnected(event.at, Link.GONE, "another QEMU answers at its monitor now"))
    return _mark(state, replace(state, vm=facts.connected(state.vm, event)))


def _wished(state: State, event: Wish | Cancel | Tune | KeepWaiting | LetRun | Watch) -> State:
    """What a front end asks for."""
    match event:
        case Wish():
            return _begin(state, event)
        case Cancel(_, text, dump):
            return _cancel(state, text, dump=dump)
        case Tune():
            return tuning.wish(state, event)
        case KeepWaiting(_, seconds):
            return _keep_waiting(state, seconds)
        case LetRun():
            return replace(state, work=replace(state.work, let_run=True)) if state.busy and state.work else state
        case Watch(_, closely):
            return idle.watch(state, Watching.CLOSELY if closely else Watching.GLANCE)


def _begin(state: State, event: Wish) -> State:
    """A new workflow; one that is under way is not replaced."""
    if state.work is not None and state.work.phase is not Phase.DONE:
        return state
    work = Workflow(
        options=event.options,
        started=event.at,
        started_wall=event.wall,
        entered=event.at,
        timeline=((Phase.PREFLIGHT, event.at),),
    )
    # Pre-flight looks at the VM as it is now, not as it was when somebody last looked: also not at an answer under way.
    vm = facts.without(replace(state.vm, samples=(), agent=Agent()), *(fact for fact in Fact if fact is not Fact.FEATURES))
    kept = event.options.goal is Goal.CHECK or event.options == follow_up(state)
    last = as_told(state).work if kept else None
    return replace(state, work=work, last=last, vm=vm, outstanding=None, tunes=())


def follow_up(state: State) -> Options | None:
    """What is to be begun now that this is over: the dump of a guest that did not answer."""
    work = state.work
    if work is None or work.outcome is None or not work.dump_next or state.vm.link is not Link.UP:
        return None
    return Options(goal=Goal.DUMP, output=core_name(work.options.output))


def to_heal(state: State) -> Options | None:
    """What is to be begun where nothing is under way: a guest answered, long after, a request that a save of ours had left
    open, and QEMU deleted its card. Once: what is begun is no save."""
    saved = given_up_save(state) or as_told(state).work
    if state.busy or saved is None or saved.options.goal is not Goal.SAVE or not left_unanswered(saved):
        return None
    before = saved.baseline.cards if saved.baseline is not None else {}
    lost = [card for card in state.vm.primaries if card.card is Card.DELETED and before.get(card.device_id) is Card.PLUGGED]
    return Options(goal=Goal.RESUME) if lost and is_.running(state) else None


def _cancel(state: State, text: str, *, dump: bool) -> State:
    work = state.work
    if work is None or work.phase is Phase.DONE or work.published or isinstance(state.outstanding, Publish):
        return state
    if is_.only_copy(state):
        return note(state, "cancelled too late: QEMU has ended, and the state that it wrote is all that is left")
    if work.options.goal is Goal.RESUME and work.baseline is not None:
        return note(state, "a resume is not undone: it went on to its end")
    if is_.only_dumping(state) and is_.dump_sent(state) and is_.dump_running(state):
        state = note(state, "QEMU cannot break a dump off: the guest stood until its end, and the file was removed then")
    work = replace(the_work(state), interrupt=True, dump_next=dump and work.options.goal is Goal.SAVE)
    return give_up(replace(state, work=work), Trouble.USER, text)


def _restart(state: State, event: Restarted) -> State:
    """A new engine: it knows what is written down, has no connection, and every wait begins anew."""
    work = the_work(state)
    gone = event.rebooted or state.vm.link is Link.GONE
    why = "the host was started anew" if event.rebooted else "vmtui was ended"
    if not gone or event.rebooted:
        lost = Disconnected(event.at, Link.GONE if gone else Link.LOST, why)
        state = replace(state, vm=facts.disconnected(state.vm, lost))
    state = do.hand_file_over_again(
        replace(state, outstanding=None)
    )  # nobody knows whether it was done: the facts will tell
    # A journal may have lost its last lines; a snapshot is there only once QEMU had finished.
    saved = event.published and work.phase in BEFORE_IT_IS_SAVED
    return enter(do.take_over(state, event), Phase.FINISH if saved else work.phase)


def _keep_waiting(state: State, seconds: float) -> State:
    """The guest gets this long from now on to let go of its card."""
    work = state.work
    if work is None or not state.busy:
        return state
    waited = state.now - (work.marks.asked if work.marks.asked is not None else state.now)
    return replace(state, work=replace(work, options=replace(work.options, unplug_timeout=waited + seconds)))


def _mark(before: State, state: State) -> State:
    """Note the moments that the result is computed from, by comparing the facts before and after."""
    work, was, vm, at = state.work, before.vm, state.vm, state.now
    if work is None or work.phase in (Phase.DONE, Phase.PREFLIGHT):
        return state
    marks = work.marks
    if work.sent is Sent.UNKNOWN and marks.asked is not None and vm.migration.status not in ENDED_STATES:
        work = replace(work, sent=Sent.YES)  # whatever became of the reply
    changes: dict[str, Any] = {}
    in_motion = marks.asked is not None and work.sent is not Sent.NO and marks.completed is None
    in_motion = in_motion and not is_.only_dumping(state)
    in_motion = in_motion and (work.sent is Sent.YES or is_.completion_would_be_ours(state))
    if in_motion and marks.unplugged is None and vm.migration.status in facts.UNPLUGGED_STATES:
        changes["unplugged"] = at
    if in_motion and vm.migration.status == "completed" and work.phase in COPYING:
        changes["completed"] = at
    if work.phase is Phase.DUMP and marks.completed is None and is_.dump_is_complete(state):
        changes["completed"] = at
    if work.phase is Phase.DUMP and marks.failed is None and is_.dump_failed(state) and is_.dump_sent(state):
        changes["failed"] = at
    if marks.stopped is None and was.runstate == "running" and vm.runstate != "running":
        changes["stopped"] = at
    if marks.stopped is not None and marks.resumed is None and was.runstate != "running" and vm.runstate == "running":
        changes["resumed"] = at
    if marks.bytes_at_stop is None and marks.stopped is not None and is_.throttled(state) and vm.migration.transferred:
        changes["bytes_at_stop"] = vm.migration.transferred
    if vm.link is Link.LOST and marks.lost is None:
        changes["lost"] = at
    if vm.link is Link.UP and was.link is not Link.UP:
        changes["lost"] = None
    work = replace(work, marks=replace(marks, **changes)) if changes else work
    return _told_of_the_file(before, _told_of_the_cards(replace(state, work=work)))


def _told_of_the_cards(state: State) -> State:
    """Since when they are back."""
    work = the_work(state)
    if work.phase is not Phase.REPLUG or is_.cards_are_back(state) == (work.marks.back is not None):
        return state
    back = state.now if work.marks.back is None else None
    return replace(state, work=replace(work, marks=replace(work.marks, back=back)))


def _told_of_the_file(before: State, state: State) -> State:
    """How far the copy is, how fast it goes, and QEMU's word for it."""
    work, was, vm = the_work(state), before.vm, state.vm
    if work.sent is Sent.NO:
        return state
    if (share := _share(work, vm)) is not None:
        work = replace(work, done_share=max(work.done_share, min(share, 1.0)))
        fact = Fact.DUMP if work.phase is Phase.DUMP else Fact.MIGRATION
        if vm.seen.get(fact, state.now) != was.seen.get(fact):
            work = replace(work, copied=_copied(work, state.now))
    if work.phase in OF_THE_FILE and not is_.migrate_never_arrived(state):
        work = replace(work, status=vm.migration.status)
    return replace(state, work=work)


COPIED_WITHIN = 5.0
"""Seconds of a copy that its rate is measured over."""
COPIED_APART = 0.4
"""Seconds between those that are kept, but for the last."""


def _copied(work: Workflow, at: float) -> tuple[tuple[float, float], ...]:
    """With the present one, and without what is too old; where nobody looked for longer, only the last is left of it."""
    kept = tuple(each for each in work.copied if each[0] >= at - COPIED_WITHIN) or work.copied[-1:]
    if len(kept) > 1 and kept[-1][0] - kept[-2][0] < COPIED_APART:
        kept = kept[:-1]
    return (*kept, (at, work.done_share))


COPYING = frozenset({Phase.UNPLUG, Phase.PAUSE, Phase.SAVE, Phase.CANCEL})
"""Phases in which the migration that makes the file can come to its end."""


OF_THE_FILE = COPYING | {Phase.FINISH}
"""Phases in which QEMU's status is about that migration."""


BEFORE_IT_IS_SAVED = COPYING | {Phase.PREPARE, Phase.DUMP}


def _share(work: Workflow, vm: Vm) -> float | None:
    """How much of the file is written, 0 to 1; None where nobody knows, or it is not the time for it."""
    if work.phase is Phase.DUMP and vm.dump.status == "active" and vm.dump.total:
        return vm.dump.completed / vm.dump.total
    if work.phase in (Phase.SAVE, Phase.FINISH) and vm.migration.total:
        return 1.0 if vm.migration.status == "completed" else 1 - vm.migration.remaining / vm.migration.total
    return None


# --- advance ------------------------------------------------------------------------------------------------------


def advance(state: State) -> State:
    """Apply rules until none fires or an action is outstanding."""
    for _ in range(ENDLESS):
        if state.outstanding is not None:
            return state
        if state.tunes and state.vm.link is Link.UP:
            return do.send(state, state.tunes[0])
        if state.work is None or not state.busy:
            return idle.look(state)
        after = _advance_once(state, state.work)
        if after is None:
            return replace(state, read_at=state.now)
        state = after
    raise RuntimeError(f"the rules of phase {state.work and state.work.phase} never come to rest")


def _advance_once(state: State, work: Workflow) -> State | None:
    """The state after one question or one rule; None when there is nothing to ask and no rule fires."""
    if (after := _fire(state, ALWAYS)) is not None:
        return after
    if state.vm.link is Link.UP:
        if (asked := _ask_for_stale_fact(state, work)) is not None:
            return asked
    elif not _goes_on_alone(state, work):
        return None
    after = _fire(state, RULES[work.phase])
    return None if after is None else replace(after, read_at=state.now)


def _goes_on_alone(state: State, work: Workflow) -> bool:
    """A file can be read through without a monitor; how QEMU ended can be said once it is gone."""
    return work.phase in (Phase.VERIFY, Phase.QUIT) or (work.phase is Phase.PROVE and state.vm.link is Link.GONE)


def _fire(state: State, rules: tuple[Rule, ...]) -> State | None:
    for rule in rules:
        if _holds(state, rule.when):
            if rule.do is None and rule.go is None:
                return None  # a rule that says: wait
            after = rule.do(state) if rule.do else state
            return enter(after, rule.go) if rule.go else after
    return None


def _holds(state: State, conditions: tuple[Condition, ...]) -> bool:
    """All of them do. A loop, not `all`: this is read more often than anything else is."""
    for condition in conditions:  # noqa: SIM110
        if not condition(state):
            return False
    return True


def enter(state: State, phase: Phase) -> State:
    work = state.work
    assert work is not None
    timeline = (*work.timeline, (phase, state.now))
    # What is counted for each phase anew; the other counts are for the whole workflow.
    tries = {name: count for name, count in work.tries.items() if not name.startswith(("set-", "ask-"))}
    work = replace(work, phase=phase, entered=state.now, timeline=timeline, tries=tries)
    state = replace(state, work=work, ping=None)
    return do.conclude(state) if phase is Phase.DONE else state


def _ask_for_stale_fact(state: State, work: Workflow) -> State | None:
    """Send the query of the first fact that this phase relies on and that is too old, if there is one."""
    for fact, age in NEEDS[work.phase].items():
        if not _fresh(state, work, fact, age):
            return idle.asked(state, fact)
    return None


def _fresh(state: State, work: Workflow, fact: Fact, age: float) -> bool:
    seen = state.vm.seen.get(fact)
    if seen is None:
        return False
    if fact is Fact.CARDS and state.vm.config_window is not None and work.phase is not Phase.PREFLIGHT:
        # A proof from before this phase began says nothing about what the phase did.
        return seen >= work.entered and (age < 0 or state.now - seen < age or seen > state.read_at)
    return seen >= work.entered if age < 0 else state.now - seen < age or seen > state.read_at


def wake(state: State) -> float | None:
    """When `step` should be called with a Tick although nothing has happened; None = not at all."""
    work = state.work
    if state.outstanding is not None:
        return None
    if work is None or not state.busy:
        return idle.next_look(state)
    if state.vm.link is not Link.UP:
        return state.now + 0.25
    ages = [(fact, age) for fact, age in NEEDS[work.phase].items() if 0 < age < ANY]
    return min((state.vm.seen.get(fact, state.now) + age for fact, age in ages), default=None)
