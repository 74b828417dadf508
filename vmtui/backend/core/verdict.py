"""Why does the guest not let go of its card, what is known of it, and what can be done, with which consequences?

QEMU waits for ever, and says nothing while it does. Times are those of the engine's clock; `state.now` is the present.
"""

from collections.abc import Iterable
from enum import StrEnum
from statistics import median

import msgspec

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import life, possible, preflight, words
from vmtui.backend.core.fleet import Snapshot
from vmtui.backend.core.glance import Tone
from vmtui.backend.core.model import OnStuck, Phase, Vm
from vmtui.backend.core.samples import Life
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.text import printable

SLOW = 10.0
"""Seconds without an answer after which somebody should look, where the guest is not known to take longer."""
NEARLY_UP = 10.0
"""Seconds before the time is up at which somebody should know."""
SETTLED = 1.0
"""Seconds that a guest stood still before it counts as paused by somebody: QEMU's own pause comes with its next word."""
MORE_TIME = 60.0
"""Seconds that `keep waiting` gives the guest from now on."""


class Kind(StrEnum):
    WAITING = "waiting"
    SLOW = "slow"
    PAUSED = "paused"
    PROBABLY_DEAD = "probably dead"
    DEAD = "dead"


TONES = {
    Kind.WAITING: Tone.BUSY,
    Kind.SLOW: Tone.WARN,
    Kind.PAUSED: Tone.WARN,
    Kind.PROBABLY_DEAD: Tone.BAD,
    Kind.DEAD: Tone.BAD,
}
GONE = (Kind.PROBABLY_DEAD, Kind.DEAD)
"""Of a guest that is not expected to answer."""


class Usual(msgspec.Struct, frozen=True):
    """How long this VM's guest took so far to let go of its card."""

    seconds: float | None = None
    """The median; None = it was never saved."""
    times: int = 0


NEVER_SAVED = Usual()


class Verdict(msgspec.Struct, frozen=True):
    """All texts are safe to show."""

    kind: Kind
    waited: float
    """Seconds since the guest was asked."""
    left: float
    """Seconds until the time is up."""
    line: str
    known: tuple[str, ...]
    """What is known of the guest, each a sentence."""
    agent: str
    """What its guest agent does: answers or silent; empty where neither is known."""
    usual: str
    """Empty where it does not matter: a guest that cannot answer takes for ever."""
    then: str
    """What happens when the time is up."""


class Choice(msgspec.Struct, frozen=True):
    """Something that can be done about it."""

    what: str
    """wait, cancel or resume: as in `possible`."""
    label: str
    consequence: str
    why_not: str = ""


def usual(snapshots: Iterable[Snapshot], vm: Vm) -> Usual:
    """From the manifests of this VM's snapshots."""
    took = [each.manifest.unplug_seconds for each in snapshots if each.manifest is not None and _of(each, vm)]
    known = [seconds for seconds in took if seconds is not None]
    return Usual(median(known), len(known)) if known else Usual()


def _of(snapshot: Snapshot, vm: Vm) -> bool:
    made = snapshot.manifest
    if made is None:
        return False
    return made.uuid == vm.uuid if made.uuid and vm.uuid else bool(vm.name) and made.name == vm.name


def waits_for_guest(state: State) -> bool:
    """The guest was asked to let go of its card, and nobody has given up on it."""
    work = state.work
    return state.busy and work is not None and work.phase is Phase.UNPLUG and not work.given_up


def verdict(state: State, usually: Usual = NEVER_SAVED) -> Verdict | None:
    """None where no guest is waited for."""
    if not waits_for_guest(state):
        return None
    work = the_work(state)
    waited = max(state.now - (work.marks.asked if work.marks.asked is not None else state.now), 0.0)
    left = max(work.options.unplug_timeout - waited, 0.0)
    kind = Kind(words.verdict_word(state))
    return Verdict(kind, waited, left, _line(kind, state, waited), _known(kind, state, waited),
                   life.agent_word(state.vm, state.now), _usual(kind, usually), _then(state, kind, left))  # fmt: skip


def _cards(state: State) -> str:
    return ", ".join(printable(card.device_id, 60) for card in state.vm.primaries) or "its card"


def _line(kind: Kind, state: State, waited: float) -> str:
    if state.vm.panicked:
        return "dead: the guest panicked and will not answer"
    if kind in GONE:
        return f"{kind}: {words.by_samples(state).why}"
    if kind is Kind.PAUSED:
        return (
            f"paused: somebody else paused the guest ({printable(state.vm.runstate, 40)}); it cannot answer until it runs"
        )
    return f"{kind}: the guest was asked {waited:.0f} s ago to let go of {_cards(state)}"


def _known(kind: Kind, state: State, waited: float) -> tuple[str, ...]:
    vm, work = state.vm, the_work(state)
    known = []
    if vm.panicked:
        known.append("It panicked: its panic device said so (GUEST_PANICKED).")
    elif vm.runstate != "running":
        since = f" for {state.now - work.marks.stopped:.0f} s" if work.marks.stopped is not None else ""
        known.append(f"It is {printable(vm.runstate, 40)}{since}. Not by vmtui: by another tool, or a person.")
    seen, answers = words.by_samples(state), life.agent_shows(vm, state.now)
    tells = "" if seen.why or answers else " A guest that refuses sends nothing: only silence tells."
    known.append(f"{waited:.0f} s of silence since UNPLUG_PRIMARY.{tells}")
    if told := life.of_agent(vm, state.now):
        known.append(told)
    if kind is Kind.SLOW and seen.why:
        known.append(f"{_BY_SAMPLES[seen.life]}: {seen.why}.")
    elif kind in (Kind.WAITING, Kind.SLOW) and not answers:
        known.append("QEMU says that it runs." if _has_panic_device(vm) else
                     "QEMU says that it runs; it has no panic device, so a crashed guest looks like this too.")  # fmt: skip
    if kind is Kind.PROBABLY_DEAD:
        known.append("A kernel goes round after a panic. Not for sure: one that polls while it is idle may look like that.")
    if kind in GONE:
        known.append("A core dump (dump-guest-memory) is refused while a migration runs: cancel first, then dump.")
    return tuple(known)


_BY_SAMPLES = {
    Life.UNKNOWN: "Its vCPUs do not tell whether it lives",
    Life.LIVES: "It lives",
    Life.PROBABLY_DEAD: "Its vCPUs alone look dead",
    Life.DEAD: "Its vCPUs alone look dead",
}
"""Of a guest that is not taken for dead: its agent answers, whatever they look like."""


def _has_panic_device(vm: Vm) -> bool:
    return not vm.argv or preflight.has_panic_device(vm)


def _usual(kind: Kind, usually: Usual) -> str:
    if kind in (Kind.PAUSED, *GONE):
        return ""
    if usually.seconds is None:
        return "A guest usually lets go in 0.3 s to 1 s; this VM was not saved before."
    times = "once" if usually.times == 1 else f"{usually.times} times"
    return f"This guest usually takes {words.seconds(usually.seconds)} (saved {times})."


def _then(state: State, kind: Kind, left: float) -> str:
    if kind in GONE and not is_.stuck_means_cancel(state):
        return "The save goes on waiting, as you asked, and nobody is expected to answer it."
    if not is_.stuck_means_cancel(state):
        return "The save goes on waiting, as you asked, until the guest answers or you cancel."
    if state.vm.panicked:
        return "The save is being cancelled."
    dumped = ", and the guest's memory dumped" if the_work(state).options.on_stuck is OnStuck.DUMP else ""
    return f"In {left:.0f} s the save is cancelled by itself, the card plugged back, the partial file removed{dumped}."


# --- when somebody must look ----------------------------------------------------------------------------------------


class Occasion(msgspec.Struct, frozen=True):
    """A reason for showing the choices without being asked; each is shown once."""

    work: float
    kind: Kind
    deadline: float | None
    """Set when the time is nearly up: another deadline is another occasion."""


def occasion(state: State, usually: Usual = NEVER_SAVED) -> Occasion | None:
    """Why somebody should look at the guest now; None = no need yet."""
    found = verdict(state, usually)
    if found is None:
        return None
    work = the_work(state)
    if found.kind in GONE or (found.kind is Kind.PAUSED and _stands(state)):
        return Occasion(work.started, found.kind, None)
    ends = is_.stuck_means_cancel(state)
    if ends and found.left <= min(NEARLY_UP, work.options.unplug_timeout / 3):
        return Occasion(work.started, found.kind, work.options.unplug_timeout)
    patience = max(SLOW, 2 * (usually.seconds or 0.0))
    return Occasion(work.started, found.kind, None) if found.waited >= patience else None


def call(state: State, *, opens: bool) -> str:
    """The occasion in a line, for somebody who looks at something else; `opens`: the choices come up by themselves."""
    found = verdict(state)
    line = f"{printable(state.vm.shown, 40)}: {found.line if found else ''}"
    return f"{line}. What can be done comes up as soon as nothing is typed and no dialog is open." if opens else line


def _stands(state: State) -> bool:
    stopped = the_work(state).marks.stopped
    return stopped is None or state.now - stopped >= SETTLED


# --- what can be done -----------------------------------------------------------------------------------------------


def choices(state: State) -> tuple[Choice, ...]:
    """Keep waiting, cancel, resume: what each does, and how long it takes. The first changes least."""
    return (
        Choice("wait", f"Keep waiting: {MORE_TIME:.0f} s more", _if_waited(state), possible.wait(state)),
        Choice("cancel", "Cancel the save", _if_cancelled(state), possible.cancel(state)),
        Choice("dump", "Cancel the save, and dump the guest's memory", _if_dumped(state), possible.cancel(state)),
        Choice("resume", "Resume the guest so that it can answer", _if_resumed(state), possible.resume(state)),
    )


def _if_waited(state: State) -> str:
    if state.vm.panicked:
        return "It panicked: it will never answer."
    if words.verdict_word(state) in GONE:
        return "Nothing is changed; but it is not expected ever to answer."
    if is_.stopped(state):
        return "It stays paused, and cannot answer until somebody resumes it."
    return "It runs on meanwhile, and the save goes on as soon as it lets go."


def _if_cancelled(state: State) -> str:
    takes = f"Up to {words.CANCEL_WAIT:.0f} s: QEMU goes on waiting for the guest that long, looking every 0.25 s."
    if is_.cannot_run(state):
        return f"{takes} The guest is left as it stands, so that its memory can be dumped."
    if is_.stopped(state) and is_.should_run(state):
        return (f"{takes} vmtui resumes the guest within them: if it ran again later, it would answer the old request, "
                "and QEMU would delete its card.")  # fmt: skip
    return f"{takes} It runs on meanwhile; then its card and settings are checked, and the partial file is removed."


def _if_dumped(state: State) -> str:
    begins = f"It begins once QEMU lets go, after {words.CANCEL_WAIT:.0f} s at the most: it dumps nothing meanwhile."
    if is_.stopped(state):
        return f"{begins} The guest is left as it is then."
    stop = preflight.dump_stop(state.vm, preflight.QUICK)
    return f"{begins} The guest stands still for it, about {stop:.1f} s, and is left as it is."


def _if_resumed(state: State) -> str:
    if is_.running(state):
        return "It runs already."
    return "cont, now: it answers within a second, and the save goes on. Who paused it had a reason: know it first."
