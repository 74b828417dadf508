"""The named conditions of the rule table: each looks at facts and intent, and its name is the label in the diagram."""

from typing import Any

from vmtui.backend.core import facts, preflight
from vmtui.backend.core.model import (
    DUMP_STANDS,
    ENDED_STATES,
    Card,
    Fact,
    Goal,
    Link,
    OnStuck,
    Phase,
    Primary,
    Sent,
    Strategy,
    Then,
    Workflow,
)
from vmtui.backend.core.state import State, the_work

LOW_BANDWIDTH = 64 << 10
"""Bytes a second while the guest still runs: little is written before the pause."""
FULL_BANDWIDTH = 1 << 43
"""Bytes a second once it stands still: no limit in practice."""

INCOMPATIBLE = ("block", "compress", "dirty-bitmaps", "mapped-ram", "multifd", "pause-before-switchover",
                "postcopy-blocktime", "postcopy-preempt", "postcopy-ram", "return-path", "switchover-ack", "x-colo",
                "x-ignore-shared", "xbzrle", "zero-copy-send")  # fmt: skip
"""Capabilities that change what is in the stream or when it ends: off for the time of a save."""

INCOMPATIBLE_WITH_BACKGROUND = ("auto-converge", "late-block-activate", "rdma-pin-all", "release-ram", "validate-uuid",
                                "zero-blocks")  # fmt: skip
"""Capabilities that QEMU refuses beside background-snapshot."""
MANAGED = ("max-bandwidth", "mode", "pause-vm", "tls-creds")
"""The parameters that vmtui changes, where they are there."""
SAVING = frozenset({Phase.PREPARE, Phase.UNPLUG, Phase.PAUSE, Phase.SAVE})
MIGRATING = SAVING | {Phase.REPLUG}
"""Phases that start a migration of vmtui's own."""
GUARDED = SAVING | {Phase.CANCEL, Phase.FINISH, Phase.RESUME, Phase.REPLUG}
"""Phases in which a panic must not end QEMU: until the guest runs on, and its card is back."""

SLOW_AFTER = 5.0
"""Seconds after which a guest that has not unplugged is called slow; a quick one takes a quarter of a second."""
SAMPLE_EVERY = 0.5
"""Seconds between two looks at the vCPUs of a slow one."""
PING_EVERY = 3.0
"""Seconds between two questions to its guest agent, each of which is given up before the next."""

REASON_TIME = 1.0
"""Seconds within which QEMU says why a dump has failed that it said has failed."""
TRIES = 3
CONT_TRIES = 20
PAUSE_BETWEEN_TRIES = 0.5
"""Seconds: an image lock that somebody holds for a moment is no reason to leave a guest stopped."""
CLOSING = 2.0
TIDYING_POLL = 0.02
CLOSES_UNSEEN = 0.25
SELF_PLUG = 1.0
"""Seconds that QEMU gets to plug a card back by itself, where it does so."""
REPLUG_SETTLES = 1.0
DRIVER_TIME = 3.0
REPLUG_LIMIT = 45.0
CANCEL_LIMIT = 60.0
"""QEMU waits 30 s for the guest before a cancel ends; twice that is no longer normal."""
ENDING = frozenset({Phase.VERIFY, Phase.QUIT, Phase.PROVE})
LOST_LIMIT = 120.0
QUIT_LIMIT = 15.0
PATIENCE = 10.0


# --- giving up, and the monitor -----------------------------------------------------------------------------------


def given_up(state: State) -> bool:
    return the_work(state).given_up


def connected(state: State) -> bool:
    return state.vm.link is Link.UP


def gone(state: State) -> bool:
    return state.vm.link is Link.GONE


def disconnected(state: State) -> bool:
    return state.vm.link in (Link.LOST, Link.GONE)


def qemu_is_needed(state: State) -> bool:
    """Not to read a file through, to see QEMU quit, or to say how it ended."""
    return the_work(state).phase not in ENDING


def answers_are_needed(state: State) -> bool:
    return the_work(state).phase is not Phase.VERIFY


def lost_after_quit(state: State) -> bool:
    """Over tcp nobody knows QEMU's process: a monitor that is gone after `quit`, which QUIT begins with, must do."""
    return state.vm.link is Link.LOST and not state.vm.pid and state.now - the_work(state).entered > SELF_PLUG


def state_was_complete(state: State) -> bool:
    return only_copy(state) and not given_up(state)


def state_may_be_complete(state: State) -> bool:
    """QEMU ended while no vmtui looked: whether it had written the whole state, only the file can tell."""
    work = the_work(state)
    return gone(state) and work.restarts > 0 and work.reserved and not work.given_up


def nothing_touched(state: State) -> bool:
    return the_work(state).baseline is None


def lost_too_long(state: State) -> bool:
    lost = the_work(state).marks.lost
    return lost is not None and state.now - lost > LOST_LIMIT


def may_come_back(state: State) -> bool:
    return state.vm.link is Link.LOST


# --- pre-flight ---------------------------------------------------------------------------------------------------


def place_unknown(state: State) -> bool:
    work = the_work(state)
    return work.place is None and work.options.goal is not Goal.RESUME


def undecided(state: State) -> bool:
    return the_work(state).strategy is Strategy.AUTO


def blocked(state: State) -> bool:
    work = the_work(state)
    return work.options.goal is not Goal.CHECK and work.blocked


def only_checking(state: State) -> bool:
    return the_work(state).options.goal is Goal.CHECK


def only_resuming(state: State) -> bool:
    return the_work(state).options.goal is Goal.RESUME


def only_dumping(state: State) -> bool:
    return the_work(state).options.goal is Goal.DUMP


def dump_formats_unknown(state: State) -> bool:
    return only_dumping(state) and Fact.DUMP_FORMATS not in state.vm.seen


def dump_unknown(state: State) -> bool:
    """Whether somebody dumps it already."""
    return only_dumping(state) and Fact.DUMP not in state.vm.seen


# --- settings -----------------------------------------------------------------------------------------------------


def wanted_parameters(state: State) -> dict[str, Any]:
    """The migration parameters that this phase wants, of those that vmtui changes."""
    work = the_work(state)
    if work.baseline is None or only_dumping(state):
        return {}
    before = work.baseline.parameters
    wanted: dict[str, Any] = {name: before[name] for name in MANAGED if name in before}
    if work.phase in MIGRATING and wanted.get("tls-creds"):
        wanted["tls-creds"] = ""  # a file has nobody to speak TLS with
    if work.phase in MIGRATING and "mode" in wanted:
        wanted["mode"] = "normal"
    if work.phase in SAVING:
        wanted["max-bandwidth"] = _bandwidth(work)
        wanted |= {"pause-vm": work.strategy is Strategy.PAUSE_VM} if "pause-vm" in before else {}
    elif work.phase is Phase.REPLUG and replug_method(state) == "throttle":
        wanted["max-bandwidth"] = LOW_BANDWIDTH
    return wanted


def _bandwidth(work: Workflow) -> int:
    """Low only while a guest still runs that vmtui will pause."""
    still_runs = work.strategy is Strategy.PAUSE_AFTER_UNPLUG and work.phase is not Phase.SAVE
    return LOW_BANDWIDTH if still_runs else work.bandwidth or FULL_BANDWIDTH


def wanted_capabilities(state: State) -> dict[str, bool]:
    """The migration capabilities that this phase wants, of those that vmtui changes and this QEMU has."""
    work = the_work(state)
    if work.baseline is None or only_dumping(state):
        return {}
    before = work.baseline.capabilities
    unfit = (*INCOMPATIBLE, *(INCOMPATIBLE_WITH_BACKGROUND if work.strategy is Strategy.BACKGROUND else ()))
    wanted = {name: before.get(name, False) for name in (*unfit, "events", "background-snapshot")}
    if work.phase in MIGRATING:
        background = work.phase in SAVING and work.strategy is Strategy.BACKGROUND
        wanted = dict.fromkeys(unfit, False) | {"events": True, "background-snapshot": background}
    return {name: value for name, value in wanted.items() if name in before}


def differing(wanted: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if now.get(name) != value}


def parameters_not_as_wanted(state: State) -> bool:
    return bool(differing(wanted_parameters(state), state.vm.parameters))


def capabilities_not_as_wanted(state: State) -> bool:
    return bool(differing(wanted_capabilities(state), state.vm.capabilities))


def wanted_panic_action(state: State) -> str:
    """What QEMU is to do on a panic in this phase; empty where that is none of our business."""
    work = the_work(state)
    before = work.baseline.panic_action if work.baseline is not None else ""
    return "pause" if before and work.phase in GUARDED else before


def panic_action_not_as_wanted(state: State) -> bool:
    """Also where nobody knows it: what cannot be asked is said once more."""
    wanted = wanted_panic_action(state)
    return bool(wanted) and state.vm.panic_action != wanted


def may_try_panic_action(state: State) -> bool:
    return the_work(state).tries.get("set-panic-action", 0) < TRIES


def may_try_parameters(state: State) -> bool:
    return the_work(state).tries.get("set-parameters", 0) < TRIES


def may_try_capabilities(state: State) -> bool:
    return the_work(state).tries.get("set-capabilities", 0) < TRIES


# --- the VM -------------------------------------------------------------------------------------------------------


def running(state: State) -> bool:
    return state.vm.runstate == "running"


def stopped(state: State) -> bool:
    return not running(state)


def guest_panicked(state: State) -> bool:
    return state.vm.panicked


def not_finalized(state: State) -> bool:
    """The migration or the dump has completed, and QEMU has not tidied up behind it: it would refuse `cont` for a moment,
    or lets the guest run on by itself."""
    return state.vm.runstate in {"finish-migrate", DUMP_STANDS}


def should_run(state: State) -> bool:
    work = the_work(state)
    if work.options.goal is Goal.RESUME:
        return True
    ran = work.baseline is not None and work.baseline.runstate == "running"
    return ran and (work.options.then is Then.RESUME or work.given_up)


def should_stay_stopped(state: State) -> bool:
    return not should_run(state)


def cannot_run(state: State) -> bool:
    """QEMU would let a panicked guest run on, over the evidence: it is left as it stands."""
    return state.vm.panicked or state.vm.runstate in {
        "guest-panicked",
        "internal-error",
        "shutdown",
        "inmigrate",
        "watchdog",
        "colo",
    }


def may_try_cont(state: State) -> bool:
    return the_work(state).tries.get("cont", 0) < CONT_TRIES


def cont_is_due(state: State) -> bool:
    return _due(state, "cont")


def _due(state: State, what: str) -> bool:
    """It was not tried just now."""
    return state.now - the_work(state).tried_at.get(what, -1e9) >= PAUSE_BETWEEN_TRIES


def resume_not_tried(state: State) -> bool:
    """The guest was to stay stopped or to end, and now it is to run on after all."""
    return stopped(state) and "cont" not in the_work(state).tries and not cannot_run(state) and not gone(state)


def just_begun(state: State) -> bool:
    """What QEMU needs a moment for is still within that moment."""
    return state.now - the_work(state).entered < PATIENCE


# --- the migration ------------------------------------------------------------------------------------------------


def migration_ended(state: State) -> bool:
    return state.vm.migration.status in ENDED_STATES


def migration_running(state: State) -> bool:
    """A status that is not known to be final is not final."""
    return not migration_ended(state)


def somebody_else_migrates(state: State) -> bool:
    """A QEMU that has ended, or does not answer, may have been in the middle of one of ours: nothing is known then."""
    return not state.busy and state.vm.link is Link.UP and migration_running(state)


def migrate_not_sent(state: State) -> bool:
    return the_work(state).sent is Sent.NO


def migrate_sent(state: State) -> bool:
    """A migration that runs without this is somebody else's, and not ours to cancel."""
    return the_work(state).sent is not Sent.NO


def migrate_never_arrived(state: State) -> bool:
    """Nobody knows whether `migrate` was taken, and the facts say that it was not: one that runs or has ended was noted."""
    work = the_work(state)
    return work.sent is Sent.UNKNOWN and work.marks.unplugged is None


def completion_would_be_ours(state: State) -> bool:
    """Else `completed` is the end of an earlier migration: ours leaves the VM standing, and not merely paused."""
    return state.vm.runstate in {"finish-migrate", "postmigrate"} or in_background(state)


def migration_failed(state: State) -> bool:
    return state.vm.migration.status == "failed"


def migration_failed_after_sending(state: State) -> bool:
    return the_work(state).sent is not Sent.NO and migration_failed(state)


def migration_cancelled(state: State) -> bool:
    return state.vm.migration.status in {"cancelled", "none"}


def completed(state: State) -> bool:
    return state.vm.migration.status == "completed"


def to_be_stopped_first(state: State) -> bool:
    return the_work(state).strategy is Strategy.STOP_FIRST


def in_background(state: State) -> bool:
    return the_work(state).strategy is Strategy.BACKGROUND


def pausing_by_itself(state: State) -> bool:
    work = the_work(state)
    return work.strategy is Strategy.PAUSE_VM and state.now - work.entered < SELF_PLUG


def stop_tried_enough(state: State) -> bool:
    return the_work(state).tries.get("stop", 0) >= TRIES


# --- the unplug ---------------------------------------------------------------------------------------------------


def throttled(state: State) -> bool:
    return state.vm.parameters.get("max-bandwidth") == LOW_BANDWIDTH


def early_bytes_unknown(state: State) -> bool:
    """How much was written before the pause can be asked only until the bandwidth is raised."""
    work = the_work(state)
    return throttled(state) and work.marks.bytes_at_stop is None and "count" not in work.tries


def unplugged(state: State) -> bool:
    return state.vm.migration.status in facts.UNPLUGGED_STATES


def guest_is_asked_to_unplug(state: State) -> bool:
    """A card came into play that pre-flight did not see: with a stopped guest this would last for ever."""
    return state.vm.migration.status == "wait-unplug"


def to_be_let_run(state: State) -> bool:
    """Somebody paused the guest while it is waited for, and the user wants it resumed so that it can answer."""
    return the_work(state).let_run and stopped(state) and not cannot_run(state)


def unplug_time_is_up(state: State) -> bool:
    work = the_work(state)
    return work.marks.asked is not None and state.now - work.marks.asked >= work.options.unplug_timeout


def guest_is_slow(state: State) -> bool:
    asked = the_work(state).marks.asked
    return asked is not None and state.now - asked > SLOW_AFTER


def sample_is_due(state: State) -> bool:
    """What QEMU did not tell once is not asked again."""
    asked = state.vm.seen.get(Fact.CPUS)
    return asked is None or (bool(state.vm.samples) and state.now - asked >= SAMPLE_EVERY)


def agent_look_is_due(state: State) -> bool:
    """Its channel is on this host: a monitor of another tells no pid."""
    vm = state.vm
    asked = vm.seen.get(Fact.AGENT)
    there = bool(vm.agent_port and vm.pid) and not vm.agent.why_not
    return there and (asked is None or state.now - asked >= PING_EVERY)


def agent_can_be_asked(state: State) -> bool:
    return bool(state.vm.agent.path)


def ping_is_due(state: State) -> bool:
    """Its channel was looked at since: only that of a slow guest that runs is."""
    agent = state.vm.agent
    return agent.asked is None or agent.asked < state.vm.seen[Fact.AGENT]


def stuck_means_cancel(state: State) -> bool:
    return the_work(state).options.on_stuck is not OnStuck.WAIT


# --- the dump -----------------------------------------------------------------------------------------------------


def dump_sent(state: State) -> bool:
    """A dump that runs without this is somebody else's."""
    return the_work(state).sent is not Sent.NO


def dump_not_sent(state: State) -> bool:
    return the_work(state).sent is Sent.NO


def dump_running(state: State) -> bool:
    return state.vm.dump.status == "active"


def dump_failed(state: State) -> bool:
    return state.vm.dump.status == "failed"


def reason_may_come(state: State) -> bool:
    """QEMU says that a dump has failed, and why only with the next word, an event."""
    failed = the_work(state).marks.failed
    return not state.vm.dump.error and failed is not None and state.now - failed < REASON_TIME


def dump_never_arrived(state: State) -> bool:
    """Nobody knows whether it was taken, and the last one is what it was. Once more does no harm."""
    work = the_work(state)
    return work.sent is Sent.UNKNOWN and state.vm.dump.status == work.dump_before


def dump_is_complete(state: State) -> bool:
    """Ours is, not the one before it."""
    return dump_sent(state) and state.vm.dump.status == "completed" and not dump_never_arrived(state)


def dump_tried_enough(state: State) -> bool:
    return the_work(state).tries.get("dump", 0) >= TRIES


# --- cancelling ---------------------------------------------------------------------------------------------------


def cancel_not_sent(state: State) -> bool:
    ending = state.vm.migration.status in {"cancelling", "failing"}
    return not ending and the_work(state).tries.get("cancel", 0) < CONT_TRIES and _due(state, "cancel")


def stopped_with_unplug_pending(state: State) -> bool:
    """A stopped guest cannot answer; if it runs again only after QEMU stopped waiting, its card is deleted."""
    work = the_work(state)
    pending = work.marks.unplugged is None and state.vm.migration.status == "cancelling"
    return pending and stopped(state) and should_run(state) and not cannot_run(state)


def cancel_lasts_too_long(state: State) -> bool:
    return state.now - the_work(state).entered > CANCEL_LIMIT


# --- the card -----------------------------------------------------------------------------------------------------


def expected_cards(state: State) -> tuple[Primary, ...]:
    """The cards that should be plugged at the end."""
    work = the_work(state)
    if work.baseline is None:
        return ()
    wanted = {Card.PLUGGED, Card.NOT_PROVED}
    if work.options.goal is Goal.RESUME:
        wanted |= {Card.OUT, Card.DELETED}
    return tuple(card for card in state.vm.primaries if work.baseline.cards.get(card.device_id) in wanted)


def provable(state: State) -> tuple[Primary, ...]:
    """The expected cards that could be proved before: what could be then, must be at the end."""
    cards = the_work(state).baseline
    before = cards.cards if cards else {}
    return tuple(card for card in expected_cards(state) if before[card.device_id] is not Card.NOT_PROVED)


def no_card_to_bring_back(state: State) -> bool:
    """None was there; or none can be proved, and what can be done was done."""
    if not expected_cards(state):
        return True
    return not provable(state) and migration_ended(state) and not replug_is_fresh(state) and replug_was_possible(state)


def replug_was_possible(state: State) -> bool:
    """QEMU plugged the card back by itself, or took a migration of ours that makes it do so."""
    return plugs_by_itself(state) or the_work(state).replug_accepted


def card_deleted(state: State) -> bool:
    return any(card.card is Card.DELETED for card in expected_cards(state))


def may_add_card(state: State) -> bool:
    """QEMU adds nothing during a migration; a 7.2 refuses a card of its command line until the guest reboots."""
    return migration_ended(state) and the_work(state).tries.get("add-card", 0) < TRIES


def card_is_new(state: State) -> bool:
    """It was added just now, and the guest needs a moment to find it."""
    added = the_work(state).tried_at.get("add-card")
    return added is not None and state.now - added < SELF_PLUG


def cards_are_back(state: State) -> bool:
    return bool(provable(state)) and all(card.card is Card.PLUGGED for card in provable(state))


def cards_are_driven(state: State) -> bool:
    return all(card.driven for card in provable(state))


def driver_had_its_time(state: State) -> bool:
    """QEMU may take half a minute to plug a card back that the guest has forgotten: that is not its driver's time."""
    work = the_work(state)
    return state.now - max(work.entered, work.marks.back or 0.0) > DRIVER_TIME


def plugs_by_itself(state: State) -> bool:
    """QEMU plugs back on `cont` with pause-vm, and after every migration that failed or was cancelled."""
    work = the_work(state)
    return work.strategy is Strategy.PAUSE_VM or (work.given_up and work.marks.completed is None)


def qemu_may_plug_by_itself(state: State) -> bool:
    return replug_is_fresh(state) or (plugs_by_itself(state) and state.now - the_work(state).entered < SELF_PLUG)


def replug_methods(state: State) -> tuple[str, ...]:
    """Ways to start a migration that reaches `active` and then fails, the least intrusive first.

    `exec:` KILLS a QEMU that may not start programs: it is used only where the command line is known to allow it.
    """
    pipes = ("pipe", "pipe") if state.vm.fd_passing else ()
    return pipes + (("false", "throttle") if preflight.may_spawn(state.vm) else ())


def replug_method(state: State) -> str:
    """The way to be tried next; the last one stays for a try that is under way."""
    methods = replug_methods(state) or ("none",)
    tries = the_work(state).tries.get("replug", 0)
    under_way = migration_running(state) and tries > 0
    return methods[min(tries - 1 if under_way else tries, len(methods) - 1)]


def replug_is_fresh(state: State) -> bool:
    sent = the_work(state).tried_at.get("replug")
    return sent is not None and state.now - sent < REPLUG_SETTLES


def replug_tried_enough(state: State) -> bool:
    return the_work(state).tries.get("replug", 0) >= len(replug_methods(state))


def own_replug_running(state: State) -> bool:
    return the_work(state).tries.get("replug", 0) > 0 and migration_running(state)


def replug_must_be_cancelled(state: State) -> bool:
    """The throttled way does not fail by itself; the others are given time to."""
    status = state.vm.migration.status
    if status in {"cancelling", "failing"} or the_work(state).tries.get("cancel-replug", 0) >= TRIES:
        return False
    return (replug_method(state) == "throttle" and status == "active") or not replug_is_fresh(state)


def replug_has_time(state: State) -> bool:
    """A card that the guest has forgotten is waited for by QEMU until the cancel's 30 s are over."""
    work = the_work(state)
    return state.now - max(work.entered, work.tried_at.get("replug", 0.0)) < REPLUG_LIMIT


def file_may_be_open(state: State) -> bool:
    """QEMU says `completed` before it closes the file: a migration in between gets stuck, and the file stays open."""
    work = the_work(state)
    known = Fact.FDSETS in state.vm.seen and work.fdset not in state.vm.fdsets_in_use
    return work.fdset is not None and not known and state.now - work.entered < CLOSING


def tidying_unknown(state: State) -> bool:
    """While QEMU tidies up behind a migration, another one would be its end (7.2) or be refused for ever (10.0)."""
    asked = state.vm.seen.get(Fact.YANK, -1.0)
    return asked < the_work(state).entered or (state.vm.tidying and state.now - asked >= TIDYING_POLL)


def tidying(state: State) -> bool:
    return state.vm.tidying


def closing_is_recent(state: State) -> bool:
    """Where no fd set tells, and no `postmigrate` either, because the guest runs on."""
    work = the_work(state)
    completed = work.marks.completed
    return in_background(state) and work.fdset is None and completed is not None and state.now - completed < CLOSES_UNSEEN


def pipe_not_handed_over(state: State) -> bool:
    return replug_method(state) == "pipe" and not the_work(state).replug_fd


# --- the file -----------------------------------------------------------------------------------------------------


def file_not_reserved(state: State) -> bool:
    return not the_work(state).reserved


def file_not_handed_over(state: State) -> bool:
    return state.vm.fd_passing and not the_work(state).fd_passed


def partial_left(state: State) -> bool:
    work = the_work(state)
    return work.has_partial and work.tries.get("discard", 0) < TRIES


def only_copy(state: State) -> bool:
    """QEMU has ended after it wrote the whole state: nothing is worth more than this file now."""
    return gone(state) and the_work(state).marks.completed is not None


def not_read_through(state: State) -> bool:
    return the_work(state).file is None


def file_not_whole(state: State) -> bool:
    report = the_work(state).file
    return report is not None and not report.whole


def not_published(state: State) -> bool:
    return not the_work(state).published


# --- settling and the end -----------------------------------------------------------------------------------------


def fdset_left(state: State) -> bool:
    """QEMU would keep the file open as long as any client is at any of its monitors."""
    tries = the_work(state).tries
    return bool(state.vm.fdsets) and tries.get("set-free", 0) < TRIES + tries.get("migrate", 0)  # each may have left one


def descriptor_left(state: State) -> bool:
    """Nothing in QEMU lists what came by getfd; it stays until it is used or closed, whatever becomes of the connection."""
    work = the_work(state)
    return bool(work.names) and work.tries.get("set-closed", 0) < TRIES + len(work.names)


def to_quit(state: State) -> bool:
    work = the_work(state)
    return work.options.then is Then.QUIT and not work.given_up


def status_is_old(state: State) -> bool:
    """Reading a large file takes a while: somebody may have resumed the guest meanwhile (see `effects._stored`)."""
    return Fact.STATUS not in state.vm.seen


def runs_or_panicked(state: State) -> bool:
    return running(state) or state.vm.panicked


def quit_is_due(state: State) -> bool:
    return _due(state, "quit")


def quit_refused(state: State) -> bool:
    return state.now - the_work(state).entered > QUIT_LIMIT
