"""How did it end? A claim about the VM and the file, made only from facts that were looked at."""

import msgspec
from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core.errors import EXIT_OF, Exit
from vmtui.backend.core.model import (
    Card,
    Goal,
    Link,
    Outcome,
    Phase,
    Primary,
    Then,
    Trouble,
    Workflow,
)
from vmtui.backend.core.state import State, given_up_save, the_work

UNPLUG_WAIT = 25.0
"""Seconds: a cancel in wait-unplug ends when the guest lets go, or after 120 looks of 250 ms."""
PROPERTIES = ("mac", "netdev", "host", "addr", "rombar", "romfile", "failover_pair_id")
"""What of a card's properties device_add needs, where it has them."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of `--json`; documented in docs/headless.md."""

    outcome: Outcome
    exit_code: int
    vm: str
    uuid: str | None
    strategy: str
    format: str | None
    dump: str | None
    file: str | None
    bytes: int | None
    stopped_seconds: float | None
    unplug_seconds: float | None
    run_on_seconds: float | None
    bytes_before_pause: int | None
    runstate: str
    card: str
    driven: bool | None
    restored: bool | None
    panic_guard: bool
    error: str | None
    notes: tuple[str, ...]


def judge(state: State) -> tuple[Outcome, tuple[str, ...]]:
    """The outcome, and what is not as it should be: any of that means that somebody must look at the VM."""
    work = the_work(state)
    if work.baseline is None:
        return _without_change(state), ()
    problems = tuple(_problems(state))
    if problems:
        return Outcome.ATTENTION, problems
    if work.failure is not None:
        cancelled = work.failure.trouble in (Trouble.USER, Trouble.STUCK)
        return (Outcome.CANCELLED if cancelled else Outcome.FAILED), ()
    return ENDS_WELL[work.options.goal], ()


ENDS_WELL = {Goal.SAVE: Outcome.SAVED, Goal.RESUME: Outcome.RESUMED, Goal.DUMP: Outcome.DUMPED, Goal.CHECK: Outcome.CHECKED}


def _without_change(state: State) -> Outcome:
    work = the_work(state)
    if work.failure is None:
        return Outcome.CHECKED
    refused = work.failure.trouble in (Trouble.REFUSED, Trouble.STORE)
    cancelled = work.failure.trouble is Trouble.USER
    return Outcome.REFUSED if refused else Outcome.CANCELLED if cancelled else Outcome.FAILED


def _problems(state: State) -> list[str]:
    work, vm = the_work(state), state.vm
    quits = is_.to_quit(state)
    if vm.link is Link.GONE:
        return [] if quits else [f"QEMU has ended ({vm.why_lost}): the VM is gone"]
    if vm.link is not Link.UP or is_.lost_too_long(state):
        return ["QEMU could not be asked how the VM is"]
    problems = list(work.alarms)
    if vm.panicked and not is_.only_dumping(state):
        then = "its core dump follows" if work.dump_next else "take a core dump (vmtui dump VM)"
        problems.append(f"the guest has panicked; {then}, then reset it")
    elif is_.should_run(state) and not is_.running(state):
        problems.append(f"the guest ran before and is {vm.runstate!r} now; resume it with cont, or reset it")
    if work.given_up and work.has_partial:
        problems.append(f"{work.options.output}.partial could not be removed")
    problems += [f"QEMU keeps the file open (fd set {number}); take it back: QMP remove-fd" for number in vm.fdsets]
    problems += [f"QEMU may keep descriptor {name} open; close it: QMP closefd" for name in work.names]
    if is_.migration_running(state) and not is_.only_dumping(state):
        problems.append(f"a migration is still under way (status {vm.migration.status!r})")
    if not is_.should_stay_stopped(state):
        problems += [
            f"card {card.device_id} was plugged and is {card.card} now; vmtui resume VM tries once more"
            for card in is_.provable(state)
            if card.card is not Card.PLUGGED
        ]
        problems += _lost_unseen(state)
    problems += [f"QEMU does not tell its {fact}" for fact in sorted(set(work.untold))]
    if not settings_restored(state):
        problems.append("migration parameters or capabilities are not as they were")
    if is_.panic_action_not_as_wanted(state):
        problems.append(f"what QEMU does on a panic may not be as it was; set it back over QMP: {set_action(state)}")
    return problems


def _lost_unseen(state: State) -> list[str]:
    """Cards that nobody can prove, after a save in which nothing could be done to bring them back."""
    unseen = [card.device_id for card in is_.expected_cards(state) if card not in is_.provable(state)]
    left_out = the_work(state).marks.completed is not None and not is_.replug_was_possible(state)
    return [f"card {name} may be out: no way to bring it back was taken by QEMU" for name in unseen if left_out]


def warnings(state: State) -> list[str]:
    """What is true at the end, is no fault, and must be known all the same."""
    work, vm = the_work(state), state.vm
    if work.baseline is None or vm.link is not Link.UP:
        return []
    told = []
    if left_unanswered(work) and not vm.panicked:
        told = [
            f"the guest may still answer the old request: QEMU would then delete card {card.device_id}; "
            "vmtui heal VM adds it again"
            for card in vm.primaries
            if card.card is Card.PLUGGED
        ]
    if Phase.REPLUG in dict(work.timeline) and is_.running(state):
        told += [
            f"card {card.device_id} is plugged, and the guest's driver had not taken it {is_.DRIVER_TIME:g} s later"
            for card in is_.provable(state)
            if card.card is Card.PLUGGED and not card.driven
        ]
    if work.baseline.runstate == "paused" and vm.runstate == "postmigrate":
        told.append(
            "it was paused and stands still as before; QEMU calls that 'postmigrate' now: vmtui resume VM lets it run"
        )
    return told


def left_unanswered(work: Workflow) -> bool:
    """Whether QEMU gave up waiting for the guest: a cancel that the guest answered ends at once."""
    sent = work.marks.cancel_sent
    if sent is None or work.marks.unplugged is not None:
        return False
    ended = next((at for phase, at in work.timeline if phase is Phase.RESUME and at >= sent), sent)
    return ended - sent > UNPLUG_WAIT


def restored(state: State) -> bool:
    """Whether all that vmtui changes of QEMU's settings is as it was."""
    return settings_restored(state) and not is_.panic_action_not_as_wanted(state)


def settings_restored(state: State) -> bool:
    """Every migration parameter and capability is."""
    return not is_.parameters_not_as_wanted(state) and not is_.capabilities_not_as_wanted(state)


def card_word(state: State) -> str:
    """plugged, out, not-proved or none, over all cards that were there before."""
    if state.vm.link is not Link.UP:
        return "none" if not state.vm.primaries else "not-proved"
    cards = [card.card for card in state.vm.primaries]
    if not cards:
        return "none"
    if any(card in (Card.OUT, Card.DELETED) for card in cards):
        return "out"
    return "not-proved" if Card.NOT_PROVED in cards else "plugged"


def exit_code(state: State) -> Exit:
    work = the_work(state)
    if work.outcome is Outcome.ATTENTION:
        return Exit.ATTENTION
    return EXIT_OF[work.failure.trouble] if work.failure else Exit.OK


def report(state: State) -> Result:
    """The result of a workflow that has ended; of a save that gave up and was followed by a dump, of both."""
    saved, own = given_up_save(state), _report(state)
    if saved is None:
        return own
    told = () if own.error is None else (f"the guest was not dumped: {own.error}",)
    result = _report(replace(state, work=saved, last=None))
    notes = tuple(dict.fromkeys((*result.notes, *told, *own.notes)))
    if own.outcome is Outcome.ATTENTION:
        result = replace(result, outcome=own.outcome, exit_code=own.exit_code)
    return replace(result, dump=own.file, notes=notes)


def _report(state: State) -> Result:
    work, vm, marks = the_work(state), state.vm, the_work(state).marks
    assert work.outcome is not None
    saved = work.published and work.file is not None
    up = vm.link is Link.UP
    return Result(
        outcome=work.outcome,
        exit_code=exit_code(state),
        vm=vm.shown,
        uuid=vm.uuid or None,
        strategy=work.strategy,
        format=work.dump_format or None,
        dump=None,
        file=work.options.output if saved else None,
        bytes=work.file.size if saved and work.file else None,
        stopped_seconds=stopped_seconds(state),
        unplug_seconds=_between(marks.asked, marks.unplugged),
        run_on_seconds=_between(marks.unplugged, marks.stopped),
        bytes_before_pause=marks.bytes_at_stop,
        runstate=vm.runstate if up else vm.link,
        card=card_word(state),
        driven=all(card.driven for card in vm.primaries) if up and vm.primaries else None,
        restored=restored(state) if up and work.baseline else None,
        panic_guard=work.guarded,
        error=work.failure.text if work.failure else None,
        notes=work.notes,
    )


def stopped_seconds(state: State) -> float | None:
    """How long the guest stood still; still counting while it does."""
    marks = the_work(state).marks
    if marks.stopped is None:
        return None
    quits = the_work(state).options.then is not Then.RESUME and marks.resumed is None
    return _between(marks.stopped, marks.resumed if marks.resumed is not None else None if quits else state.now)


def _between(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else round(max(second - first, 0.0), 6)


def _plain(word: str) -> str | int:
    return int(word) if word.lstrip("-").isdigit() else word


def _typed(text: str) -> str | int:
    """A command line has only text, and QMP wants numbers and truths where they are meant."""
    return {"on": True, "off": False}.get(text, _plain(text))


def set_action(state: State) -> str:
    """The QMP command that makes QEMU do again on a panic what it did before."""
    arguments = {"panic": is_.wanted_panic_action(state)}
    return '{"execute": "set-action", "arguments": ' + msgspec.json.encode(arguments).decode() + "}"


def device_add(card: Primary) -> str:
    """The QMP command that adds a deleted primary again."""
    return '{"execute": "device_add", "arguments": ' + msgspec.json.encode(device_arguments(card)).decode() + "}"


def device_arguments(card: Primary) -> dict[str, str | int]:
    """What device_add takes for a card like this one."""
    values = dict(card.properties)
    if "driver" in values:
        return {name: _typed(text) for name, text in card.properties}  # as the command line has it
    words: dict[str, str | int] = {"driver": card.driver, "id": card.device_id, "bus": card.bus}
    for name in PROPERTIES:
        if name in values:
            text = values[name]
            words[name] = text.strip('"') if text.startswith('"') else _plain(text.split(" ")[0])
    return words
