"""How is a save said before it begins: may it be, how, for how long will the guest stand still, and why not?"""

import msgspec

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import glance, preflight, words
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.model import Finding, Goal, Level, OnStuck, Options, Strategy, Then, Workflow
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.text import printable

STRATEGIES = {
    Strategy.AUTO:               "auto: vmtui chooses",
    Strategy.PAUSE_VM:           "pause-vm: QEMU itself pauses after the unplug",
    Strategy.PAUSE_AFTER_UNPLUG: "pause-after-unplug: vmtui pauses after it",
    Strategy.STOP_FIRST:         "stop-first: for a VM without failover card",
    Strategy.BACKGROUND:         "background: the guest runs on meanwhile",
}  # fmt: skip
THENS = {
    Then.RESUME:      "resume: the guest runs on as before",
    Then.STAY_PAUSED: "stay-paused: it stands still, any card out",
    Then.QUIT:        "quit: QEMU ends",
}  # fmt: skip
ON_STUCKS = {
    OnStuck.CANCEL: "cancel it",
    OnStuck.WAIT:   "go on waiting",
    OnStuck.DUMP:   "cancel it, and dump the guest's memory",
}  # fmt: skip
"""What can be chosen, and what it means."""

TONES = {Level.BLOCKING: Tone.BAD, Level.WARNING: Tone.WARN, Level.NOTE: Tone.DIM}


class Plan(msgspec.Struct, frozen=True):
    """All that is shown before a save. All texts are safe to show."""

    verdict: Said
    findings: tuple[tuple[Said, str, str], ...] = ()
    """Level, what was found, and what helps."""
    strategy: str = ""
    """The strategy that was chosen, and why."""
    facts: tuple[tuple[str, str], ...] = ()
    """A word and what is expected."""
    why_not: str = ""
    """Why it cannot be started; empty when it can."""
    unplugs: bool = True
    """The guest is to let go of a card, as far as is known."""
    warns: bool = False
    """Somebody should read before starting."""


def check_of(options: Options) -> Options:
    """The look that answers whether a save with these options may be begun."""
    return Options(
        goal=Goal.CHECK,
        output=options.output,
        strategy=options.strategy,
        then=options.then,
        panic_guard=options.panic_guard,
        makes_directory=options.makes_directory,
    )


def checked(state: State, options: Options) -> Workflow | None:
    """The look at the VM for just these options, once it is over."""
    work = state.work
    return work if work is not None and not state.busy and work.options == check_of(options) else None


def others_work(state: State) -> bool:
    """Something else than a look is under way."""
    return state.busy and the_work(state).options.goal is not Goal.CHECK


def plan(view: VmView | None, options: Options, problem: str = "", *, read_only: bool = False) -> Plan:
    """`problem`: what is wrong with the options before anybody need look at the VM."""
    if view is None:
        return _not_now("this VM is not there any more", Tone.BAD)
    if others_work(view.state):
        doing = printable(glance.doing(view.state).word, 80)
        return _not_now(f"busy already: {the_work(view.state).options.goal}, {doing}", Tone.BUSY)
    if problem:
        return _not_now(problem, Tone.BAD)
    work = checked(view.state, options)
    if work is None:
        return _not_now("looking at the VM", Tone.BUSY)
    if work.failure is not None:
        return _not_now(f"it cannot be looked at: {printable(work.failure.text, 300)}", Tone.BAD)
    return _found(view.state, work, read_only=read_only)


def _not_now(why: str, tone: Tone) -> Plan:
    return Plan(Said(why, tone), why_not=why, warns=True)


def _found(state: State, work: Workflow, *, read_only: bool) -> Plan:
    warnings = sum(each.level is Level.WARNING for each in work.findings)
    blocking = sum(each.level is Level.BLOCKING for each in work.findings)
    why_not = f"{_counted(blocking, 'thing')} in the way" if blocking else ""
    if read_only:
        why_not = why_not or "read-only: nothing is changed (started with --read-only)"
    return Plan(
        verdict=_verdict(blocking, warnings),
        findings=tuple(_finding(each) for each in work.findings if each.code != "size"),
        strategy=words.strategy_line(work.strategy, work.why),
        facts=tuple(_facts(state, work)),
        why_not=why_not,
        unplugs=bool(state.vm.primaries),
        warns=bool(blocking or warnings),
    )


def _verdict(blocking: int, warnings: int) -> Said:
    if blocking:
        also = f", {_counted(warnings, 'warning')}" if warnings else ""
        return Said(f"it cannot be saved like this: {_counted(blocking, 'thing')} in the way{also}", Tone.BAD)
    if warnings:
        return Said(f"it can be saved; first read {_counted(warnings, 'warning')}", Tone.WARN)
    return Said("it can be saved", Tone.GOOD)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _finding(each: Finding) -> tuple[Said, str, str]:
    text, remedy = (words.on_screen(printable(said)) for said in (each.text, each.remedy))
    return Said(each.level, TONES[each.level]), text, remedy


def _facts(state: State, work: Workflow) -> list[tuple[str, str]]:
    need = preflight.expected_bytes(state.vm, work.place)
    free = work.place.free if work.place and not work.place.problem else 0
    return [
        ("stopped", _stopped(state, work)),
        ("size", f"up to {words.size(need)}" if need else "not known"),
        ("free", words.size(free) if free else "not known"),
    ]


def _stopped(state: State, work: Workflow) -> str:
    """How long the guest will stand still."""
    if work.strategy is Strategy.BACKGROUND:
        return "some milliseconds, whatever its size"
    if work.options.then is Then.QUIT:
        return "for good: QEMU ends"
    if not state.vm.memory:
        return "not known"
    about = f"about {preflight.expected_stop(state.vm, work.place):.1f} s at full bandwidth"
    return f"{about}, then until somebody resumes it" if work.options.then is Then.STAY_PAUSED else about


def dump_question(state: State, output: str) -> tuple[str, str]:
    """What is asked before the guest's memory is dumped to `output`, and what follows from a yes."""
    vm = state.vm
    stands = f"The guest stands still ({printable(vm.runstate, 40)}), and is left so."
    if is_.running(state):
        stop = preflight.dump_stop(vm, preflight.QUICK)
        stands = f"The guest runs: it stands still for it, for about {words.seconds(stop)} at the most, and runs on."
    return (
        f"Dump the memory of {printable(vm.shown, 40)} to a core file?",
        f"To {printable(output, 300)}: up to {words.size(vm.memory)}, readable by you alone. {stands} QEMU cannot break "
        "it off.",
    )


def described(view: VmView | None) -> str:
    """The VM in a line."""
    if view is None:
        return ""
    vm = view.state.vm
    parts = [printable(vm.runstate, 30), f"QEMU {vm.qemu}" if vm.version != (0, 0, 0) else "", printable(vm.machine, 40)]
    parts += [f"{words.size(vm.memory)} of RAM"] if vm.memory else []
    return ", ".join(filter(None, parts))


def seconds(text: str) -> float | None:
    """An unplug timeout as somebody typed it; None for what is no number of seconds."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None
