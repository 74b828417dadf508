"""How are facts and phases said? One wording for every front end: screen, lines and JSON.

All text that comes from outside is made printable here.
"""

import re
import shlex
from collections.abc import Iterator
from datetime import datetime

import humanize

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import life, pace, preflight, samples
from vmtui.backend.core.fleet import Record
from vmtui.backend.core.model import (
    Card,
    Fact,
    Goal,
    Level,
    Link,
    OnStuck,
    Outcome,
    Phase,
    Primary,
    Then,
    Trouble,
    Vm,
    Workflow,
)
from vmtui.backend.core.naming import addressed
from vmtui.backend.core.result import settings_restored, stopped_seconds
from vmtui.backend.core.samples import Judgement, Life
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.text import printable

MEANING = {
    Phase.PREFLIGHT: "looking at the VM",
    Phase.PREPARE:   "writing down what will be changed",
    Phase.UNPLUG:    "waiting for the guest to let go of its card",
    Phase.PAUSE:     "pausing the guest",
    Phase.SAVE:      "saving its state",
    Phase.DUMP:      "dumping the guest's memory",
    Phase.CANCEL:    "cancelling the migration",
    Phase.FINISH:    "QEMU is finishing",
    Phase.RESUME:    "resuming the guest",
    Phase.REPLUG:    "bringing the card back, and proving it",
    Phase.SETTLE:    "putting settings back",
    Phase.VERIFY:    "reading the file through",
    Phase.QUIT:      "ending QEMU",
    Phase.PROVE:     "looking at everything once more",
    Phase.DONE:      "done",
}  # fmt: skip


CANCEL_WAIT = 30.0
"""Seconds that QEMU waits for the guest after migrate_cancel, at the most: 120 looks, one every 250 ms."""


def size(count: float) -> str:
    return humanize.naturalsize(count, binary=True)


def seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s" if value < 60 else about(value)


def about(value: float) -> str:
    """A duration to the second, or to the minute where it lasts for hours."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def time_of_day(at: float) -> str:
    """Seconds since 1970 as the host's HH:MM:SS."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def stamp(at: float) -> str:
    """Seconds since 1970 as the host's day and minute."""
    return datetime.fromtimestamp(at).strftime("%m-%d %H:%M")


def counting(value: float) -> tuple[str, str]:
    """A duration that counts up, as a number and its unit: in steps that an eye can follow, and a slow line can carry."""
    if value < 10:
        return f"{int(value * 2) / 2:.1f}", "s"
    return (f"{value:.0f}", "s") if value < 100 else (f"{int(value) // 60}:{int(value) % 60:02}", "min")


def exact(value: float) -> tuple[str, str]:
    """A duration that is over, as a number and its unit."""
    if value < 0.1:
        return f"{value * 1000:.1f}", "ms"
    return (f"{value:.2f}", "s") if value < 60 else counting(value)


def phase_line(state: State) -> str:
    """What is going on in this phase, with what matters about it."""
    work = the_work(state)
    if work.marks.lost is not None:
        return f"QEMU has not answered for {state.now - work.marks.lost:.0f} s; vmtui goes on as soon as it does"
    if work.phase is Phase.UNPLUG:
        return verdict(state)
    if work.phase is Phase.DUMP and work.given_up:
        return "QEMU cannot break a dump off: the guest stands until its end, then the file is removed"
    if work.phase is Phase.CANCEL and work.marks.unplugged is None:
        left = CANCEL_WAIT - (state.now - work.entered)
        then = "dumped (QEMU dumps nothing while a migration is under way)" if work.dump_next else "cancelled"
        return f"QEMU waits up to {left:.0f} s more for the guest, then it is {then}" if left > 0 else MEANING[work.phase]
    if work.phase is Phase.REPLUG and "cancel-replug" in work.tried_at and is_.own_replug_running(state):
        left = CANCEL_WAIT - (state.now - work.tried_at["cancel-replug"])
        return f"the guest does not see its card; QEMU waits up to {max(left, 0):.0f} s more for it, then plugs it back"
    return meaning(work, work.phase)


def meaning(work: Workflow, phase: Phase) -> str:
    """What is done in a phase of this work; empty where nothing is."""
    if phase in _BRINGING_BACK and nothing_to_do(work):
        return ""
    if (
        phase is Phase.RESUME
        and work.options.goal is Goal.SAVE
        and work.options.then is not Then.RESUME
        and not work.given_up
    ):
        return ""
    if phase is Phase.VERIFY and (work.given_up or not work.reserved):
        return "removing the partial file" if work.reserved else ""
    return MEANING[phase]


_BRINGING_BACK = (Phase.RESUME, Phase.REPLUG, Phase.SETTLE)


def nothing_to_do(work: Workflow) -> bool:
    """It was to be made to run with its card, and it does so already."""
    before = work.baseline
    resumes = work.options.goal is Goal.RESUME and before is not None and before.runstate == "running"
    return resumes and before is not None and all(card is Card.PLUGGED for card in before.cards.values())


def status_word(state: State, log: tuple[Record, ...], phase: Phase, at: float) -> str:
    """QEMU's own word of this save's migration when the phase began, as far as the log goes back."""
    told = (each.data.get("status") for each in reversed(log) if each.kind == "phase" and each.at == at)
    return status_of(str(next(told, the_work(state).status)), phase)


def status_of(status: str, phase: str) -> str:
    """QEMU's own word, in the phases in which it tells something new."""
    ours = phase in (Phase.UNPLUG, Phase.PAUSE, Phase.SAVE, Phase.CANCEL, Phase.FINISH)
    return f" (migration {printable(status, 40)})" if ours and status != "none" else ""


def verdict(state: State) -> str:
    """Why the guest has not unplugged its card yet, in one word and what follows from it."""
    work, vm = the_work(state), state.vm
    waited = state.now - (work.marks.asked if work.marks.asked is not None else state.now)
    left = max(work.options.unplug_timeout - waited, 0)
    names = ", ".join(printable(card.device_id, 60) for card in vm.primaries) or "none"
    word = verdict_word(state)
    if vm.panicked:
        return "dead: the guest panicked and will not answer"
    if word == "paused":
        return f"paused: the guest is {printable(vm.runstate, 40)} and cannot answer until it runs"
    dumps = work.options.on_stuck is OnStuck.DUMP
    then = "cancels, and dumps it," if dumps else "cancels" if is_.stuck_means_cancel(state) else "goes on waiting"
    found = by_samples(state)
    if word in DEATHS:
        return f"{word}: {found.why}; {then} in {left:.0f} s"
    return f"{word} for the guest to unplug {names}; {then} in {left:.0f} s"


DEATHS = frozenset({Life.DEAD, Life.PROBABLY_DEAD})


def by_samples(state: State) -> Judgement:
    """What its vCPUs tell of a guest that runs and does not answer."""
    return samples.life(state.vm) if is_.running(state) and is_.guest_is_slow(state) else Judgement()


def verdict_word(state: State) -> str:
    """waiting, slow, paused, probably dead or dead: how the guest takes the request to unplug its card."""
    vm = state.vm
    if vm.panicked:
        return "dead"
    if vm.runstate != "running":
        return "paused"
    if not is_.guest_is_slow(state):
        return "waiting"
    found = life.life(vm, state.now).life
    return str(found) if found in DEATHS else "slow"


def progress_line(state: State) -> str:
    """Share, bytes, rate (of RAM) and time left of a copy, in 55 characters at the most."""
    work, total = the_work(state), pace.total(state)
    line = f"{work.done_share:4.0%} of {size(total)}"
    left = pace.seconds_left(state, rate := pace.rate(state))
    return line if left is None else f"{line}  {size(rate)}/s  {about(left)} left"


def stopped_line(state: State) -> str:
    value = stopped_seconds(state)
    return "" if value is None or the_work(state).marks.resumed is not None else f"guest stopped {about(value)}"


def vm_facts(vm: Vm) -> Iterator[tuple[str, str]]:
    """What the VM is: a word and a text each, of what is known."""
    known = (
        ("name", printable(vm.name, 60)),
        ("uuid", printable(vm.uuid, 40)),
        ("machine", printable(vm.machine, 40)),
        ("QEMU", f"{vm.qemu} {printable(vm.package, 40)}".strip() if vm.version != (0, 0, 0) else ""),
        ("RAM", size(vm.memory) if vm.memory else ""),
        ("pid", str(vm.pid) if vm.pid else ""),
        ("monitor", printable(vm.key, 200)),
        ("pause-vm", "" if not vm.features.parameters else "offered" if vm.features.pause_vm else "not offered"),
    )
    yield from ((word, text) for word, text in known if text)


def message_line(record: Record) -> str:
    """A QMP message on one line, if it is an event, an error or a command that changes something; else nothing."""
    message = record.data.get("msg") if record.kind == "qmp" else None
    if not isinstance(message, dict):
        return ""
    match message:
        case {"event": str(name)}:
            return f"<  {printable(name, 60)}  {_values(message.get('data'))}".rstrip()
        case {"execute": str(name)} if not name.startswith(("query-", "qmp_", "human-monitor-command")):
            return f">  {printable(name, 60)}  {_values(message.get('arguments'))}".rstrip()
        case {"error": {"desc": str(text)}}:
            return f"<  error: {printable(text, 160)}"
        case _:
            return ""


def _values(data: object) -> str:
    values = data.items() if isinstance(data, dict) else ()
    return printable(" ".join(f"{name}={value}" for name, value in values), 160)


def standing_line(state: State) -> str:
    """Why QEMU does not answer, and what to do; empty where it does."""
    vm, work = state.vm, state.work
    why = printable(vm.why_lost, 300)
    if vm.link is Link.GONE and work is not None and work.outcome is Outcome.SAVED and work.options.then is Then.QUIT:
        return "QEMU has ended, as it was to after the save. Restore the file, and the VM goes on from there."
    if vm.link is Link.GONE:
        return f"QEMU has ended ({why}). Its log tells why; start the VM again, or restore a snapshot of it."
    if vm.link is Link.CONNECTING:
        return "Connecting to its monitor."
    if vm.link is Link.UP and not why:
        return ""
    if state.busy:
        return (f"QEMU does not answer: {why}. A migration goes on without its monitor; vmtui tries all the time, and "
                f"gives up after {is_.LOST_LIMIT:.0f} s.")  # fmt: skip
    return f"QEMU does not answer: {why}. vmtui tries again by itself, every {TRIES_EVERY:.0f} s at the latest."


TRIES_EVERY = 15.0
"""Seconds: the engine's RECONNECT_SELDOM."""


def finding_line(level: Level, text: str, remedy: str) -> str:
    tail = f"  -> {printable(remedy)}" if remedy else ""
    return f"{level:8}  {printable(text)}{tail}"


# --- the end ------------------------------------------------------------------------------------------------------


def headline(state: State) -> str:
    """The end in one line: what happened, to which VM, and the state it is in now."""
    return ending(state) if _never_reached(state) else f"{printable(state.vm.shown, 120)}: {ending(state)}"


def _never_reached(state: State) -> bool:
    work = the_work(state)
    return work.baseline is None and work.failure is not None and work.failure.trouble is Trouble.UNREACHABLE


def ending(state: State) -> str:
    """The same, where it is clear of which VM it is told."""
    work = the_work(state)
    assert work.outcome is not None
    if work.failure is not None and _never_reached(state):
        return f"{printable(work.failure.text)}; nothing was touched"
    why = f": {printable(work.failure.text)}" if work.failure else ""
    if work.failure is not None and work.failure.trouble is Trouble.USER:
        why = " by the user"
    same = work.baseline is None or work.baseline.runstate == state.vm.runstate
    if work.outcome is Outcome.RESUMED and nothing_to_do(work):
        return "runs, and nothing of it was missing: there was nothing to do"
    tail = "; the VM is as before" if work.outcome in (Outcome.FAILED, Outcome.CANCELLED) and same else ""
    return f"{_ENDINGS[work.outcome]}{why}{tail}"


_ENDINGS = {
    Outcome.SAVED: "saved",
    Outcome.RESUMED: "runs",
    Outcome.DUMPED: "dumped",
    Outcome.CHECKED: "checked",
    Outcome.REFUSED: "refused, nothing was touched",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.ATTENTION: "NEEDS ATTENTION",
}


_ON_SCREEN = {
    re.compile(r"\bvmtui (resume|heal) ('[^']*'|[^\s;,]+)+"): "Resume on the VM's screen",
    re.compile(r"\bvmtui dump ('[^']*'|[^\s;,)]+)+"): "Dump on the VM's screen",
    re.compile(r"\bvmtui verify"): "Verify among the snapshots",
}
"""What a remedy is called on a command line -> on a screen."""


def on_screen(text: str) -> str:
    """A remedy, for somebody who has keys and no command line."""
    for command, key in _ON_SCREEN.items():
        text = command.sub(key, text)
    return text


def proof(state: State) -> Iterator[tuple[str, str]]:
    """The card of proved facts: a word and what was found. What somebody must see to comes first."""
    work = the_work(state)
    if work.baseline is None:
        return
    notes = [("note", printable(text)) for text in work.notes]
    facts = list(_proved(state))
    yield from (*notes, *facts) if work.outcome is Outcome.ATTENTION else (*facts, *notes)


def _proved(state: State) -> Iterator[tuple[str, str]]:
    work = the_work(state)
    if work.options.goal is Goal.SAVE:
        yield "file", _file(state)
    if work.options.goal is Goal.DUMP:
        yield "dump", _dump(state)
        yield from _how_to_open(work)
    yield "guest", _guest(state)
    if has_quit(state):
        return
    yield from proof_of_cards(state)
    if work.options.goal is not Goal.DUMP:
        yield "settings", _settings(state)
    if work.guarded:
        yield "panic", _panic(state)


def has_quit(state: State) -> bool:
    """QEMU has ended, as it was to: of its card and its settings there is nothing to be said."""
    return state.vm.link is Link.GONE and is_.to_quit(state)


def proof_of_cards(state: State) -> Iterator[tuple[str, str]]:
    for card in state.vm.primaries:
        yield "card", _card(card, state.vm)


def expected_bytes(state: State) -> int:
    """The most that saving this VM will write."""
    return preflight.expected_bytes(state.vm, the_work(state).place)


def _file(state: State) -> str:
    work = the_work(state)
    path = printable(work.options.output, 300)
    if work.published and work.file:
        report = work.file
        return (
            f"{path}  {size(report.size)}, {report.devices} devices, run state {printable(report.runstate, 30)!r}, "
            f"read through and whole"
        )
    return "none is left" if work.discarded or not work.reserved else f"{path}.partial (not whole)"


def _dump(state: State) -> str:
    work = the_work(state)
    path = printable(work.options.output, 300)
    if work.published and work.file:
        return f"{path}  {size(work.file.size)}, {printable(work.file.format, 40)}, read through and whole"
    return "none is left" if work.discarded or not work.reserved else f"{path}.partial (not whole)"


def _how_to_open(work: Workflow) -> Iterator[tuple[str, str]]:
    """With what a dump can be looked at, and what that needs."""
    if not work.published:
        return
    path = shlex.quote(printable(work.options.output, 300))
    if work.dump_format == "win-dmp":
        yield "open", f"windbg -z {path}"
        return
    kernel = printable(work.file.kernel, 64) if work.file else ""
    drgn = ""
    if work.dump_format == preflight.QUICK:  # what reads kdumps for drgn does not find the machine in those of QEMU
        drgn = f", or drgn -c {path} -s vmlinux" if kernel else "  (drgn needs a VM with -device vmcoreinfo)"
    yield "open", f"crash vmlinux {path}{drgn}"
    yield "vmlinux", f"the guest's own kernel{kernel and f', {kernel},'} with debug information"


def _guest(state: State) -> str:
    vm, stood = state.vm, stopped_seconds(state)
    if has_quit(state):
        return "QEMU has ended, as it was to after the save"
    if vm.link is not Link.UP:
        return "QEMU has ended" if vm.link is Link.GONE else "QEMU cannot be asked"
    if vm.runstate == "postmigrate":
        return printable(addressed("paused (QEMU calls it postmigrate); vmtui resume VM lets it run", vm.shown))
    past = "" if stood is None else f", was stopped for {seconds(stood)}"
    if stood is not None and the_work(state).marks.resumed is None:
        past = f", stopped since {_what_stopped_it(state)}"
    return f"{printable(vm.runstate, 40)}{past}"


def _what_stopped_it(state: State) -> str:
    work = the_work(state)
    if state.vm.panicked:
        return "it panicked"
    if work.options.goal is Goal.DUMP:
        return "it was dumped"
    return "the state was saved" if work.published else "the save"


def _card(card: Primary, vm: Vm) -> str:
    name = printable(card.device_id, 60)
    if vm.link is not Link.UP:
        return f"{name}: cannot be looked at"
    if card.card is Card.PLUGGED:
        driver = ", the guest's driver runs it" if card.driven else ", no guest driver runs it"
        driver = "" if vm.panicked else driver
        return f"{name} plugged, proved: {card.pci_id} in the guest's PCI config space{driver}"
    if card.card is Card.OUT:
        return f"{name} out, proved: the guest's PCI config space is empty there"
    if card.card is Card.DELETED:
        return f"{name} deleted by QEMU"
    if Fact.CONFIG_WINDOW not in vm.seen:
        return f"{name}: not looked at yet"
    return f"{name} not proved: this machine has no PCI config window to look through"


def _settings(state: State) -> str:
    if state.vm.link is not Link.UP:
        return "cannot be looked at"
    return "all parameters and capabilities as they were" if settings_restored(state) else "NOT all as they were"


def _panic(state: State) -> str:
    """What was done against a panic that ends QEMU, and what it does on one now."""
    if state.vm.link is not Link.UP:
        return "would only have stopped the guest during the save"
    action = printable(state.vm.panic_action or "not known", 20)
    return f"would only have stopped the guest during the save; QEMU's panic action now: {action}"


def strategy_line(strategy: str, why: str) -> str:
    return f"{printable(strategy, 30)}: {printable(why)}"
