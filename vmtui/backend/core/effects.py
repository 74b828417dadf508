"""What the rules do: send one action, or change what is intended. Also what an action's outcome means to the intent."""

from typing import Any

from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import facts, life, preflight, result, samples
from vmtui.backend.core.commands import (
    QUERIES,
    STATE_FD,
    Action,
    Command,
    Discard,
    Fd,
    Learned,
    Number,
    Ping,
    Publish,
    Read,
    Reserve,
    Survey,
    Surveyed,
    Verify,
)
from vmtui.backend.core.events import Restarted
from vmtui.backend.core.model import (
    Baseline,
    Card,
    Fact,
    Link,
    Migration,
    OnStuck,
    Phase,
    Sent,
    Strategy,
    Then,
    Trouble,
    Vm,
    Workflow,
)
from vmtui.backend.core.samples import Life
from vmtui.backend.core.state import State, alarm, give_up, note, the_work

PIPE_FD = "vmtui-replug"
REPLUG_URIS = {"pipe": f"fd:{PIPE_FD}", "false": "exec:false", "throttle": "exec:cat > /dev/null"}
ESSENTIAL = frozenset(
    {
        Fact.STATUS,
        Fact.MIGRATION,
        Fact.PARAMETERS,
        Fact.CAPABILITIES,
        Fact.DEVICES,
        Fact.FEATURES,
        Fact.CARDS,
        Fact.FDSETS,
        Fact.DUMP,
    }
)
"""Facts without which nothing can be promised."""
FORWARD = frozenset({Phase.PREFLIGHT, Phase.PREPARE, Phase.UNPLUG, Phase.PAUSE, Phase.SAVE, Phase.DUMP})
"""Phases in which a refusal means: give up. In the others it is noted, and tried again a counted number of times."""


NOT_WRITTEN = ("failed to write", "failed to save memory")
"""What QEMU says of a dump whose file takes no more: of elf with the system's reason, of kdump without."""


def send(state: State, action: Action) -> State:
    return replace(state, outstanding=action, sent_at=state.now, actions=state.actions + 1)


def _ask(state: State, fact: Fact) -> State:
    """The query of a fact that always has one."""
    query = QUERIES[fact](state.vm)
    assert query is not None
    return send(state, query)


def tried(state: State, what: str) -> State:
    work = the_work(state)
    counts = {**work.tries, what: work.tries.get(what, 0) + 1}
    return _with(state, tries=counts, tried_at={**work.tried_at, what: state.now})


def _with(state: State, **changes: Any) -> State:
    return replace(state, work=replace(the_work(state), **changes))


def _mark(state: State, **marks: Any) -> State:
    return _with(state, marks=replace(the_work(state).marks, **marks))


def _forget(state: State, *stale: Fact) -> State:
    return replace(state, vm=facts.without(state.vm, *stale))


# --- pre-flight ---------------------------------------------------------------------------------------------------


def survey(state: State) -> State:
    options = the_work(state).options
    return send(state, Survey(options.output, options.makes_directory))


def ask_dump_formats(state: State) -> State:
    return _ask(state, Fact.DUMP_FORMATS)


def ask_dump(state: State) -> State:
    return _ask(state, Fact.DUMP)


def decide(state: State) -> State:
    work = the_work(state)
    if is_.only_dumping(state):
        chosen, why = preflight.choose_format(state.vm, work.options, work.place)
        found = preflight.findings(state.vm, work.options, Strategy.DUMP, work.place)
        return _with(state, strategy=Strategy.DUMP, dump_format=chosen, why=why, findings=found)
    strategy, why = preflight.choose(state.vm, work.options.strategy)
    found = preflight.findings(state.vm, work.options, strategy, work.place)
    return _with(state, strategy=strategy, why=why, findings=found)


def refuse(state: State) -> State:
    work = the_work(state)
    worst = work.findings[0]
    remedy = f"; {worst.remedy}" if worst.remedy else ""
    trouble = Trouble.STORE if worst.code in {"place", "disk-full"} else Trouble.REFUSED
    return give_up(state, trouble, f"{worst.text}{remedy}")


def take_baseline(state: State) -> State:
    if is_.only_resuming(state):
        lost = preflight.lost_cards(state.vm)
        state = replace(state, vm=replace(state.vm, primaries=(*state.vm.primaries, *lost)))
    vm = state.vm
    cards = {card.device_id: card.card for card in vm.primaries}
    panic_action = vm.panic_action if preflight.guards(vm, the_work(state).options) else ""
    baseline = Baseline(vm.runstate, dict(vm.parameters), dict(vm.capabilities), cards, panic_action)
    return _with(state, baseline=baseline)


# --- forward ------------------------------------------------------------------------------------------------------


def reserve(state: State) -> State:
    return send(state, Reserve(the_work(state).options.output))


def set_capabilities(state: State) -> State:
    changes = is_.differing(is_.wanted_capabilities(state), state.vm.capabilities)
    settings = [{"capability": name, "state": value} for name, value in changes.items()]
    return tried(send(state, Command("migrate-set-capabilities", {"capabilities": settings})), "set-capabilities")


def set_parameters(state: State) -> State:
    changes = is_.differing(is_.wanted_parameters(state), state.vm.parameters)
    return tried(send(state, Command("migrate-set-parameters", changes)), "set-parameters")


def set_panic_action(state: State) -> State:
    return tried(send(state, Command("set-action", {"panic": is_.wanted_panic_action(state)})), "set-panic-action")


def _panic_action_is(state: State, action: str) -> State:
    return replace(state, vm=replace(state.vm, panic_action=action))


def uses_fdset(vm: Vm) -> bool:
    """From 9.1 a regular file behind `fd:` is deprecated, and 11.1 refuses it."""
    return vm.features.channels and vm.version >= (9, 1, 0)


def hand_over_file(state: State) -> State:
    if uses_fdset(state.vm):
        return send(state, Command("add-fd", {"opaque": STATE_FD}, fd=Fd.STATE))
    return _hand_over(state, STATE_FD, Fd.STATE)


def migrate(state: State) -> State:
    work, vm = the_work(state), state.vm
    sent = send(state, Command("migrate", destination(vm, work)))
    # The numbers of an earlier migration say nothing about this one.
    sent = replace(sent, vm=facts.without(replace(vm, migration=Migration()), Fact.MIGRATION))
    return _mark(_with(sent, sent=Sent.UNKNOWN), asked=state.now)


def destination(vm: Vm, work: Workflow) -> dict[str, Any]:
    """The arguments of `migrate`. Where no file can be handed over, QEMU opens the partial file by its name."""
    partial = f"{work.options.output}.partial"
    if vm.fd_passing and work.fdset is not None:
        return {"uri": f"file:/dev/fdset/{work.fdset}"}
    if vm.fd_passing:
        return {"uri": f"fd:{STATE_FD}"}
    if vm.features.channels:
        return _channel({"transport": "file", "filename": partial, "offset": 0})
    return {"uri": f"exec:cat > {_shell_quoted(partial)}"}


def _channel(address: dict[str, Any]) -> dict[str, Any]:
    """`migrate` with the address in parts: nothing in a file's name can be taken for an option."""
    return {"channels": [{"channel-type": "main", "addr": address}]}


def _shell_quoted(path: str) -> str:
    return "'" + path.replace("'", "'\"'\"'") + "'"


def try_migrate_again(state: State) -> State:
    if the_work(state).tries.get("migrate", 0) >= is_.TRIES:
        return give_up(state, Trouble.QEMU, "QEMU did not answer to migrate, and did not begin it")
    return tried(_with(state, sent=Sent.NO, fd_passed=False), "migrate")


def stop(state: State) -> State:
    return tried(send(state, Command("stop")), "stop")


def let_run(state: State) -> State:
    return _with(cont(state), let_run=False)


def count_early_bytes(state: State) -> State:
    return tried(_ask(state, Fact.MIGRATION), "count")


def blame_qemu(state: State) -> State:
    reason = state.vm.migration.error or "QEMU gives no reason"
    full = "No space left" in reason
    state = _tell_room(state) if full else state
    return give_up(state, Trouble.STORE if full else Trouble.QEMU, f"the migration failed: {reason}")


def _tell_room(state: State) -> State:
    work, place = the_work(state), the_work(state).place
    return state if place is None else note(state, preflight.room(state.vm, work.options, place))


def blame_another(state: State) -> State:
    return give_up(state, Trouble.QEMU, "somebody else cancelled the migration")


def blame_guest(state: State) -> State:
    waited = the_work(state).options.unplug_timeout
    if state.vm.migration.status != "wait-unplug":
        return give_up(state, Trouble.QEMU, f"QEMU did not get past {state.vm.migration.status!r} within {waited:g} s")
    if state.vm.runstate != "running":
        return _stuck(state, f"the guest is {state.vm.runstate}: it cannot let go of its card")
    return _stuck(state, f"the guest did not let go of its network card within {waited:g} s; {_how_it_is(state)}")


def _how_it_is(state: State) -> str:
    vm = state.vm
    if life.agent_shows(vm, state.now):
        return f"it lives: {life.agents_answer(vm, state.now)}"
    found = samples.life(vm)
    if found.life is Life.UNKNOWN:
        return "it may have crashed"
    return "it lives, as its vCPUs show" if found.life is Life.LIVES else f"it is {found.life}: {found.why}"


def blame_crash(state: State) -> State:
    return _stuck(state, "the guest panicked: it can no longer let go of its card")


def _stuck(state: State, text: str) -> State:
    dumps = the_work(state).options.on_stuck is OnStuck.DUMP
    return give_up(_with(state, dump_next=dumps), Trouble.STUCK, text)


def blame_unseen_card(state: State) -> State:
    return give_up(state, Trouble.QEMU, "QEMU waits for the guest to unplug a card that was not there before the save")


def blame_stop(state: State) -> State:
    return give_up(state, Trouble.QEMU, "QEMU does not stop the guest")


# --- the dump -----------------------------------------------------------------------------------------------------


def hand_over_dump(state: State) -> State:
    """By name: of a dump every QEMU takes a regular file so."""
    return _hand_over(state, STATE_FD, Fd.STATE)


def dump(state: State) -> State:
    """dump-guest-memory, beside which the monitor can be used: QEMU stops the guest, and lets it run on, by itself."""
    work, vm = the_work(state), state.vm
    where = f"fd:{STATE_FD}" if vm.fd_passing else f"file:{work.options.output}.partial"
    arguments = {"paging": False, "protocol": where, "detach": True, "format": work.dump_format}
    state = replace(state, vm=replace(vm, dump=replace(vm.dump, error="")))
    sent = _forget(send(state, Command("dump-guest-memory", arguments)), Fact.DUMP)
    return _mark(_with(tried(sent, "dump"), sent=Sent.UNKNOWN, dump_before=vm.dump.status), asked=state.now)


def try_dump_again(state: State) -> State:
    return _with(state, sent=Sent.NO, fd_passed=False)


def blame_silent_dump(state: State) -> State:
    return give_up(
        _with(state, sent=Sent.NO), Trouble.QEMU, "QEMU did not answer to dump-guest-memory, and did not begin it"
    )


def blame_dump(state: State) -> State:
    reason = state.vm.dump.error or "QEMU gives no reason"
    could_not_write = any(words in reason for words in NOT_WRITTEN)
    text = f"the dump failed: {reason}" + ("; is there room enough?" if could_not_write else "")
    state = _tell_room(state) if could_not_write else state
    return give_up(state, Trouble.STORE if could_not_write else Trouble.QEMU, text)


# --- back ---------------------------------------------------------------------------------------------------------


def cancel(state: State) -> State:
    return _mark(tried(send(state, Command("migrate_cancel")), "cancel"), cancel_sent=state.now)


def note_endless_cancel(state: State) -> State:
    return note(state, f"QEMU has been cancelling the migration for {is_.CANCEL_LIMIT:g} s and has not ended it")


def cont(state: State) -> State:
    return tried(send(state, Command("cont")), "cont")


def note_cannot_run(state: State) -> State:
    return note(state, f"the guest cannot run on: its run state is {state.vm.runstate!r}")


def note_does_not_run(state: State) -> State:
    return note(state, f"the guest does not run: its run state is {state.vm.runstate!r} after {is_.CONT_TRIES} times cont")


def hand_over_broken_pipe(state: State) -> State:
    return tried(_hand_over(state, PIPE_FD, Fd.BROKEN_PIPE), "pipe")


def replug(state: State) -> State:
    """A migration that gets as far as `active` and then fails: QEMU plugs the card back, the guest never stops."""
    uri = REPLUG_URIS[is_.replug_method(state)]
    sent = _forget(tried(send(state, Command("migrate", {"uri": uri})), "replug"), Fact.MIGRATION, Fact.YANK)
    return _with(sent, replug_fd=False)


def cancel_replug(state: State) -> State:
    return tried(send(state, Command("migrate_cancel")), "cancel-replug")


def note_still_migrating(state: State) -> State:
    return note(state, f"a migration that was to bring the card back has not ended (status {state.vm.migration.status!r})")


def note_card_out(state: State) -> State:
    names = ", ".join(card.device_id for card in is_.provable(state) if card.card is not Card.PLUGGED)
    return note(state, f"card {names} could not be proved to be back; try again: vmtui resume VM")


def add_card(state: State) -> State:
    """A card that QEMU deleted, as it was: what is there then is listed and proved anew."""
    card = next(each for each in is_.expected_cards(state) if each.card is Card.DELETED)
    sent = tried(send(state, Command("device_add", dict(result.device_arguments(card)))), "add-card")
    return _forget(sent, Fact.DEVICES, Fact.CARDS)


def note_deleted(state: State) -> State:
    for card in is_.expected_cards(state):
        if card.card is Card.DELETED:
            state = note(state, f"QEMU deleted card {card.device_id}; add it again over QMP: {result.device_add(card)}")
    return state


def remove_fdset(state: State) -> State:
    """One of them; what is left is asked again."""
    command = Command("remove-fd", {"fdset-id": state.vm.fdsets[0]})
    return _forget(tried(send(state, command), "set-free"), Fact.FDSETS)


def ask_yank(state: State) -> State:
    return _ask(state, Fact.YANK)


def ask_cpus(state: State) -> State:
    return _ask(state, Fact.CPUS)


def look_at_agent(state: State) -> State:
    return _ask(state, Fact.AGENT)


def ping(state: State) -> State:
    """Beside what is outstanding. The number is of no other question of this boot: a late answer is known as one."""
    agent = replace(state.vm.agent, asked=state.now)
    return replace(state, vm=replace(state.vm, agent=agent), ping=Ping(round(state.now * 1e6), agent.path))


def ask_fdsets(state: State) -> State:
    return _ask(state, Fact.FDSETS)


def close_descriptor(state: State) -> State:
    """It may be gone already, taken by a migrate whose answer was lost: QEMU then says so. Each has its turn."""
    work = the_work(state)
    name = work.names[work.tries.get("set-closed", 0) % len(work.names)]
    return tried(send(state, Command("closefd", {"fdname": name})), "set-closed")


def _hand_over(state: State, name: str, fd: Fd) -> State:
    names = dict.fromkeys((*the_work(state).names, name))
    return _with(send(state, Command("getfd", {"fdname": name}, fd=fd)), names=tuple(names))


def verify(state: State) -> State:
    return send(state, Verify(dump=is_.only_dumping(state)))


def publish(state: State) -> State:
    return send(state, Publish())


def discard(state: State) -> State:
    return send(state, Discard())


def blame_file(state: State) -> State:
    report = the_work(state).file
    what = "dump" if is_.only_dumping(state) else "state"
    return give_up(state, Trouble.STORE, f"the {what} that QEMU wrote is not whole: {report.trouble if report else ''}")


def keep_only_copy(state: State) -> State:
    work = the_work(state)
    kept = f"QEMU has ended, so the state that it wrote is kept: {work.options.output} or {work.options.output}.partial"
    return note(state, f"{kept}; look at it with vmtui verify")


def ask_status(state: State) -> State:
    return _ask(state, Fact.STATUS)


def refuse_to_quit(state: State) -> State:
    """What the guest did since would be lost: it is resumed for good instead."""
    state = alarm(state, "somebody let the guest run, or it panicked, after its state was saved: QEMU was not ended")
    return _with(state, options=replace(the_work(state).options, then=Then.RESUME))


def quit_qemu(state: State) -> State:
    return tried(send(state, Command("quit")), "quit")


def count_as_gone(state: State) -> State:
    return replace(state, vm=replace(state.vm, link=Link.GONE, why_lost="it was told to quit"))


def note_quit_refused(state: State) -> State:
    return note(state, "QEMU was told to quit and is still there; the state is safe")


# --- without a monitor --------------------------------------------------------------------------------------------


def blame_unreachable(state: State) -> State:
    return give_up(state, Trouble.UNREACHABLE, state.vm.why_lost or "QEMU does not answer its monitor")


def note_death(state: State) -> State:
    return note(state, "QEMU ended after the file was written whole; the file is kept")


def note_unseen_death(state: State) -> State:
    return note(state, "QEMU ended while no vmtui looked: its file was read through, and is kept if it is whole")


def blame_death(state: State) -> State:
    return give_up(state, Trouble.QEMU, f"QEMU ended in phase {the_work(state).phase}: {state.vm.why_lost}")


def keep_partial(state: State) -> State:
    work = the_work(state)
    if work.has_partial:
        text = f"{work.options.output}.partial is kept: QEMU may still be writing to it"
        state = note(state, text)
    return give_up(state, Trouble.UNREACHABLE, f"QEMU has not answered for {is_.LOST_LIMIT:g} s: {state.vm.why_lost}")


def conclude(state: State) -> State:
    """The end is a claim about the VM, made from what was last seen of it."""
    outcome, problems = result.judge(state)
    noted, state = the_work(state).notes, _with(state, notes=())
    for text in (*problems, *noted, *result.warnings(state)):
        state = note(state, text)
    return _with(state, outcome=outcome)


def take_over(state: State, event: Restarted) -> State:
    """What a new engine relies on: on what it finds, not on a file that QEMU may have closed with the connection."""
    work = the_work(state)
    state = note(state, f"vmtui was ended in phase {work.phase} and went on from its journal")
    state = _mark(state, lost=None if is_.gone(state) else state.now)
    if event.published and work.marks.completed is None:
        state = _mark(state, completed=state.now)
    if work.phase not in is_.ENDING:
        state = _panic_action_is(state, "")  # the journal may have lost the line that tells of the last change
    return _with(
        state,
        restarts=work.restarts + 1,
        reserved=work.reserved or event.file,
        published=work.published or event.published,
    )


def hand_file_over_again(state: State) -> State:
    """The connection broke: while the guest runs, QEMU has closed the fd set that came by it.

    A descriptor that is handed over twice does no harm: QEMU closes the first one of the same name (getfd), or it is taken
    back in the end (remove-fd).
    """
    work = state.work
    return state if work is None or work.sent is not Sent.NO else _with(state, fd_passed=False)


# --- outcomes of actions ------------------------------------------------------------------------------------------


def answered(state: State, learned: Learned | None) -> State:
    """The outstanding action was done."""
    action, state = state.outstanding, _heard(replace(state, outstanding=None))
    if isinstance(action, Command):
        if action.learns is not None:
            return _told(state, action, action.learns, learned) if learned else state
        return _done(state, action, learned)
    return _stored(state, action, learned)


def _told(state: State, query: Command, fact: Fact, learned: Learned) -> State:
    state = replace(state, vm=facts.learn(state.vm, query, learned, state.now))
    if state.work is None or fact not in state.work.untold:
        return state
    return _with(state, untold=tuple(each for each in state.work.untold if each is not fact))  # told after all


def _heard(state: State) -> State:
    """QEMU answers (again)."""
    if state.vm.link is not Link.UP:
        return state
    heard = replace(state, vm=replace(state.vm, why_lost="")) if state.vm.why_lost else state
    return _mark(heard, lost=None) if heard.work is not None and heard.work.marks.lost is not None else heard


def _done(state: State, command: Command, learned: Learned | None) -> State:
    match command.execute:
        case "dump-guest-memory":
            return _with(_forget_unless_seen(_without_descriptor(state, STATE_FD), Fact.DUMP), sent=Sent.YES)
        case "closefd":
            return _without_descriptor(state, command.arguments["fdname"])
        case "migrate":
            return _migrate_taken(state, str(command.arguments.get("uri", "")).removeprefix("fd:"))
        case "migrate_cancel":
            return _forget_unless_seen(state, Fact.MIGRATION)
        case "stop" | "cont":
            return _forget_unless_seen(state, Fact.STATUS)
        case "migrate-set-parameters":
            vm = replace(state.vm, parameters={**state.vm.parameters, **command.arguments})
            return _forget(replace(state, vm=vm), Fact.PARAMETERS)
        case "migrate-set-capabilities":
            wanted = {each["capability"]: each["state"] for each in command.arguments["capabilities"]}
            vm = replace(state.vm, capabilities={**state.vm.capabilities, **wanted})
            return _forget(replace(state, vm=vm), Fact.CAPABILITIES)
        case "device_add":
            name = command.arguments["id"]
            return note(state, f"QEMU had deleted card {name}, as a late answer to an old request; it was added again")
        case "set-action":
            action = command.arguments["panic"]
            return _with(_panic_action_is(state, action), guarded=the_work(state).guarded or action == "pause")
        case "getfd" if command.fd is Fd.BROKEN_PIPE:
            return _with(state, replug_fd=True)
        case "getfd":
            return _with(state, fd_passed=True)
        case "add-fd":
            number = learned.value if isinstance(learned, Number) else None
            return _with(state, fd_passed=True, fdset=number)
    return state


def _migrate_taken(state: State, descriptor: str) -> State:
    taken = _forget_unless_seen(_without_descriptor(state, descriptor), Fact.MIGRATION)
    return _with(taken, replug_accepted=True) if the_work(state).phase is Phase.REPLUG else _with(taken, sent=Sent.YES)


def _without_descriptor(state: State, name: str) -> State:
    """QEMU holds none of this name any more."""
    return _with(state, names=tuple(each for each in the_work(state).names if each != name))


def _forget_unless_seen(state: State, fact: Fact) -> State:
    """An event that came between the command and its reply is news enough; what made us send the command is none."""
    return state if state.vm.seen.get(fact, -1.0) > state.sent_at else _forget(state, fact)


def _stored(state: State, action: Action | None, learned: Learned | None) -> State:
    match action, learned:
        case Survey(), Surveyed(place):
            return _with(state, place=place)
        case Verify(), Read(report):
            return _note_runstate(_with(state, file=report))
        case Reserve(), _:
            return _with(state, reserved=True)
        case Publish(), _:
            return _forget(_with(state, published=True), Fact.STATUS)  # it is as old as the reading took
        case Discard(), _:
            return _with(state, discarded=True)
    return state


def _note_runstate(state: State) -> State:
    report = the_work(state).file
    expected = "running" if is_.in_background(state) else "paused"
    if report is None or not report.whole or report.runstate == expected or is_.only_dumping(state):
        return state
    return note(state, f"the saved state says {report.runstate or 'nothing'!r} where {expected!r} was expected")


def refused(state: State, text: str, error_class: str) -> State:
    """QEMU or the store said no to the outstanding action; `error_class` is QEMU's, or the name of the store's error."""
    action, state = state.outstanding, replace(state, outstanding=None)
    if not state.busy:
        # Nobody needs it: what QEMU does not tell stays unknown until somebody looks again.
        fact = action.learns if isinstance(action, Command) else None
        return replace(state, vm=facts.with_fact(state.vm, fact, state.now)) if fact else state
    if isinstance(action, Command):
        return _command_refused(_heard(state), action, text)
    match action:
        case Discard():
            return note(tried(state, "discard"), text)
        case Verify() if the_work(state).interrupt:
            return state
        case Reserve():
            # Nothing was touched, and must not be: it may be another vmtui that is at work on this VM.
            trouble = Trouble.REFUSED if error_class == "RefusedError" else Trouble.STORE
            return give_up(_with(state, baseline=None), trouble, text)
    return give_up(state, Trouble.STORE, text)


def _command_refused(state: State, action: Command, text: str) -> State:
    work = the_work(state)
    match action:
        case Command(learns=fact) if fact is not None:
            return _not_told(state, fact, text)
        case Command(execute="set-action"):
            return note(state, f"QEMU refused set-action: {text}")  # no reason not to save; the end says what it is then
        case Command(execute="migrate") if work.phase in FORWARD:
            # Another one under way is somebody else's, or one that a journal has lost; whatever else runs counts as ours.
            foreign = "migration process in progress" in text and not work.restarts
            sent = Sent.NO if foreign else Sent.UNKNOWN
            return give_up(_with(state, sent=sent), Trouble.QEMU, f"QEMU refused migrate: {text}")
        case Command(execute="dump-guest-memory"):
            return give_up(_with(state, sent=Sent.NO), Trouble.QEMU, f"QEMU refused dump-guest-memory: {text}")
        case Command() if work.phase in FORWARD:
            return give_up(state, Trouble.QEMU, f"QEMU refused {action.execute}: {text}")
        case Command("closefd", arguments) if "not found" in text:
            return _without_descriptor(state, arguments["fdname"])
        case Command(execute="remove-fd" | "closefd"):
            return state  # fd sets are asked for again; a descriptor that is not closed is tried again, and told
        case Command(execute="getfd"):
            return tried(_with(state, replug_fd=False), "replug")
    return _forget(note(state, f"QEMU refused {action.execute}: {text}"), Fact.STATUS, Fact.MIGRATION)


def _not_told(state: State, fact: Fact, text: str) -> State:
    """A query was refused. What nobody needs stays unknown; what everything rests on is asked again, a few times."""
    told = replace(state, vm=facts.with_fact(state.vm, fact, state.now))
    if fact not in ESSENTIAL:
        return told
    name = f"ask-{fact}"
    state = tried(state, name)
    if the_work(state).tries[name] < is_.TRIES:
        return state
    told = _with(replace(state, vm=told.vm), untold=tuple(dict.fromkeys((*the_work(state).untold, fact))))
    forward = the_work(state).phase in FORWARD
    return give_up(told, Trouble.QEMU, f"QEMU does not tell its {fact}: {text}") if forward else told


def unknown(state: State, why: str) -> State:
    """Nobody knows whether the outstanding action was done: forget what it may have changed, and look."""
    action, state = state.outstanding, replace(state, outstanding=None)
    work = state.work
    state = replace(state, vm=replace(state.vm, why_lost=state.vm.why_lost or why))
    if work is None or not state.busy:
        return state
    if work.marks.lost is None:
        state = _mark(state, lost=state.now)
    if work.baseline is None:
        return give_up(state, Trouble.UNREACHABLE, why)
    match action:
        case Command(fd=Fd.STATE):
            state = _with(state, fd_passed=False)
        case Command(fd=Fd.BROKEN_PIPE):
            state = _with(state, replug_fd=False)
        case Command(execute="set-action"):
            state = _panic_action_is(state, "")
    return _forget(state, Fact.STATUS, Fact.MIGRATION, Fact.PARAMETERS, Fact.CAPABILITIES, Fact.DUMP)
