"""How does one VM look from afar: in a line of a list, on a screen or as text?

Each fact is a word and a `Tone`; what draws it adds a glyph and a colour, never a meaning.
"""

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from vmtui.backend.core import conditions as is_
from vmtui.backend.core import pace, words
from vmtui.backend.core.fleet import Fleet, Host, Snapshot, VmView
from vmtui.backend.core.model import Card, Fact, Link, Outcome, Phase, Primary, Vm
from vmtui.backend.core.state import State, as_told
from vmtui.backend.core.text import printable


class Tone(StrEnum):
    """What kind of word it is."""

    GOOD = "good"
    BUSY = "busy"
    """Something is under way."""
    WARN = "warn"
    BAD = "bad"
    """Somebody must look at it."""
    DIM = "dim"
    """Nothing is known, or nothing is there."""


class Said(msgspec.Struct, frozen=True):
    word: str
    tone: Tone


class Glance(msgspec.Struct, frozen=True):
    """One line of the fleet. All texts are safe to show."""

    key: str
    name: str
    state: Said
    """The run state in QEMU's word, or how the monitor stands."""
    doing: Said
    """Phase, share and rate (of RAM) of what is under way; else how the last save ended."""
    card: Said
    memory: int
    """Bytes; 0 = not known."""
    qemu: str
    machine: str
    saved: float | None
    """When the latest snapshot was made, in seconds since 1970."""
    stale: bool
    """Its facts are the last known ones, for it does not answer now."""


def glances(fleet: Fleet) -> tuple[Glance, ...]:
    """Every VM, by name."""
    saved = latest(fleet)
    found = (glance(view, saved.get(view.state.vm.name or view.name)) for view in fleet.vms.values())
    return tuple(sorted(found, key=lambda each: (each.name, each.key)))


def latest(fleet: Fleet) -> dict[str, Snapshot]:
    """The latest whole snapshot of each VM, by the VM's name."""
    found: dict[str, Snapshot] = {}
    for each in fleet.shelf.snapshots:
        if each.whole and each.manifest is not None:
            found.setdefault(each.manifest.name, each)
    return found


def glance(view: VmView, saved: Snapshot | None = None) -> Glance:
    vm = view.state.vm
    stale = vm.link is not Link.UP or bool(vm.why_lost)
    card = card_of(view.state)
    return Glance(
        key=vm.key,
        name=printable(vm.name or view.name or vm.key, 60),
        state=state_of(vm),
        doing=doing(view.state),
        card=Said(card.word, Tone.DIM) if stale else card,
        memory=vm.memory,
        qemu=vm.qemu if vm.version != (0, 0, 0) else "",
        machine=printable(vm.machine, 40),
        saved=saved.changed if saved else None,
        stale=stale,
    )


def state_of(vm: Vm) -> Said:
    """The run state, or why there is none."""
    if vm.link is Link.CONNECTING:
        return Said("connecting", Tone.DIM)
    if vm.link is Link.GONE:
        return Said("ended", Tone.DIM)
    if vm.link is Link.LOST:
        return Said(_unreachable(vm.why_lost), Tone.WARN)
    if vm.why_lost:
        return Said("silent", Tone.WARN)
    if vm.panicked or vm.runstate == "guest-panicked":
        return Said("guest-panicked", Tone.BAD)
    tone = {"running": Tone.GOOD, "": Tone.DIM, "paused": Tone.WARN, "postmigrate": Tone.WARN}.get(vm.runstate, Tone.BAD)
    return Said(printable(vm.runstate, 20) or "connecting", tone)


_WHY_LOST = (
    ("another client holds", "busy monitor"),
    ("permission denied", "no permission"),
    ("no such socket", "no socket"),
    ("nobody listens", "nobody listens"),
    ("no monitor", "no monitor"),
)
"""The words of `backend.qmp` -> what a narrow column says."""


def _unreachable(why: str) -> str:
    return next((word for part, word in _WHY_LOST if part in why), "unreachable")


def known(state: State) -> bool:
    """Enough was learned, or it is clear that nothing can be: before that a line would only change again at once."""
    vm = state.vm
    return vm.link in (Link.LOST, Link.GONE) or bool(vm.why_lost) or Fact.CARDS in vm.seen or state.busy


def card_of(state: State) -> Said:
    """The failover card; where there are several, the one that needs most to be looked at."""
    vm = state.vm
    if not vm.primaries:
        return Said("none" if Fact.DEVICES in vm.seen else "", Tone.DIM)
    if Fact.CARDS not in vm.seen and all(card.proved_at < 0 for card in vm.primaries) and not state.busy:
        return Said("", Tone.DIM)
    said = [card_word(state, card) for card in vm.primaries]
    worst = max(said, key=lambda each: _WORST.index(each.tone))
    return Said(f"{worst.word} ({len(said)})", worst.tone) if len(said) > 1 else worst


_WORST = (Tone.GOOD, Tone.DIM, Tone.BUSY, Tone.WARN, Tone.BAD)


def card_word(state: State, card: Primary) -> Said:
    """Where one card is."""
    if card.card is Card.DELETED:
        return Said("lost", Tone.BAD)
    if card.asked:
        return Said("asked to leave", Tone.BUSY) if state.busy else Said("plugged, asked", Tone.WARN)
    if has_left(state, card):
        return Said("out", Tone.BUSY)
    if card.card is Card.OUT:
        return Said("out", Tone.WARN)
    if card.card is Card.NOT_PROVED:
        return Said("not proved", Tone.DIM)
    return Said("plugged", Tone.GOOD) if card.driven else Said("no driver", Tone.WARN)


def has_left(state: State, card: Primary) -> bool:
    """The guest let go of it for this save, and it was not looked at since: it comes back at the end."""
    work = state.work
    if work is None or not state.busy or work.marks.unplugged is None:
        return False
    return card.proved_at < work.marks.unplugged or (card.card is Card.OUT and work.marks.resumed is not None)


def doing(state: State) -> Said:
    """What vmtui does to the VM, or did last; or that somebody else migrates it."""
    state = as_told(state)
    work = state.work
    if work is not None and state.busy:
        return _under_way(state)
    if is_.somebody_else_migrates(state):
        return Said("another migrates it", Tone.BUSY)
    if work is None or work.outcome is None:
        return Said("", Tone.DIM)
    return Said(_ENDED[work.outcome], _TONE_OF_END[work.outcome])


def _under_way(state: State) -> Said:
    work = state.work
    assert work is not None
    if work.marks.lost is not None:
        return Said("no answer", Tone.WARN)
    if work.phase is Phase.SAVE:
        return Said(f"save {work.done_share:.0%}{_rate(state)}", Tone.BUSY)
    if work.phase is Phase.DUMP and not work.given_up:
        return Said(f"dump {work.done_share:.0%}", Tone.BUSY)
    if work.phase is Phase.UNPLUG:
        word = words.verdict_word(state)
        return Said(f"unplug, {word}", Tone.BUSY if word == "waiting" else Tone.WARN)
    undoing = work.given_up and work.phase is not Phase.CANCEL
    return Said(f"{work.phase} (undoing)" if undoing else str(work.phase), Tone.WARN if work.given_up else Tone.BUSY)


def _rate(state: State) -> str:
    rate = pace.rate(state)
    return f" {words.size(rate)}/s" if rate > 0 else ""


_ENDED = {
    Outcome.SAVED: "saved",
    Outcome.RESUMED: "resumed",
    Outcome.DUMPED: "dumped",
    Outcome.CHECKED: "",
    Outcome.REFUSED: "refused",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.ATTENTION: "NEEDS ATTENTION",
}
_TONE_OF_END = {
    Outcome.SAVED: Tone.GOOD,
    Outcome.RESUMED: Tone.GOOD,
    Outcome.DUMPED: Tone.GOOD,
    Outcome.CHECKED: Tone.DIM,
    Outcome.REFUSED: Tone.WARN,
    Outcome.FAILED: Tone.WARN,
    Outcome.CANCELLED: Tone.WARN,
    Outcome.ATTENTION: Tone.BAD,
}


def urgency(each: Glance) -> tuple[bool, bool, bool]:
    """What needs somebody first, then what is under way."""
    tones = (each.state.tone, each.doing.tone, each.card.tone)
    return Tone.BAD in tones, Tone.WARN in tones, Tone.BUSY in tones


NO_VMS = """\
No QEMU was found on this host whose command line can be read.

  vmtui /path/to/qmp.sock     name a monitor yourself
  sudo vmtui                  as the user that QEMU runs as, or as root
  vmtui demo                  try it on simulated VMs
  vmtui lab up                boot a tiny real one

Press r to look again."""


def nothing(host: Host, filtered: bool) -> str:
    """Why the list is empty, and what to do."""
    if not host.surveyed:
        return "Looking for VMs on this host ..."
    if filtered:
        return "No VM matches the filter. Press Escape to show all."
    unseen = f"\n\n{host.unreadable} processes of other users could not be looked at." if host.unreadable else ""
    return NO_VMS + unseen


def detail(view: VmView, fleet: Fleet, now: float) -> list[tuple[str, str, Tone | None]]:
    """What there is to know of one VM, in lines: a label, a text, and how it is meant."""
    state, vm = view.state, view.state.vm
    state_now = replace(state, now=now) if state.busy else state
    found: list[tuple[str, str, Tone | None]] = [(vm.name or view.name or "VM", *_said(state_of(vm)))]
    if vm.link is not Link.UP or vm.why_lost:
        found.append(("why", printable(vm.why_lost, 300) or "connecting to its monitor", Tone.WARN))
        found += _stale(state, fleet.host)
    if state.busy:
        found.append(("doing", words.phase_line(state_now), None))
        if stood := words.stopped_line(state_now):
            found.append(("guest", stood, Tone.WARN))
    elif doing(state).word:
        found += _last(as_told(state))
    cards = zip(vm.primaries, words.proof_of_cards(state), strict=True)
    found += [("card", _left(card) if has_left(state, card) else text, None) for card, (_label, text) in cards]
    if vm.machine or vm.memory:
        parts = [printable(vm.machine, 40), f"{words.size(vm.memory)} of RAM" if vm.memory else "", f"QEMU {vm.qemu}"]
        found.append(("machine", ", ".join(filter(None, parts)), None))
    found.append(("monitor", printable(vm.key, 300), None))
    return [(printable(label, 60), text, tone) for label, text, tone in found]


def _left(card: Primary) -> str:
    return f"{printable(card.device_id, 60)} out: the guest let it go for this; it is brought back at the end"


def _last(state: State) -> list[tuple[str, str, Tone | None]]:
    """How it ended, and what is to be done about it; or what somebody else does."""
    said, work = doing(state), state.work
    if work is None or work.outcome is None or is_.somebody_else_migrates(state):
        return [("now", *_said(said))]
    found: list[tuple[str, str, Tone | None]] = [("last", words.ending(state), said.tone)]
    if work.outcome is Outcome.ATTENTION:
        found += [("note", words.on_screen(printable(text)), None) for text in work.notes[:1]]
    return found


def _said(value: Said) -> tuple[str, Tone]:
    return value.word, value.tone


def _stale(state: State, host: Host) -> list[tuple[str, str, Tone | None]]:
    if not state.vm.runstate:
        return []
    return [
        ("then", f"{printable(state.vm.runstate, 40)} when it was last heard of, at {clock(state.now, host)}", Tone.DIM)
    ]


def clock(at: float, host: Host) -> str:
    """A time of the engine's clock as hours, minutes and seconds of the day."""
    return words.time_of_day(at + host.offset)
