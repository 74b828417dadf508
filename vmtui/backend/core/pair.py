"""Where is the failover card, which of the pair carries the guest's traffic, and how is that known?

QEMU lists a card the same whether it is plugged or not. Proof is the guest's PCI config space; between two proofs there is
QEMU's word that the guest let go.
"""

import msgspec

from vmtui.backend.core.glance import Said, Tone, card_word, has_left
from vmtui.backend.core.model import Card, Link, Primary
from vmtui.backend.core.state import State
from vmtui.backend.core.text import printable

PRIMARY, STANDBY, NOBODY, UNKNOWN = "primary", "standby", "nobody", "unknown"


class Pair(msgspec.Struct, frozen=True):
    """One failover pair, as a picture shows it. All texts are safe to show."""

    primary: str
    standby: str
    card: Said
    """Of the primary."""
    ready: Said
    """Of the standby."""
    carries: str
    """Who carries the traffic: `primary`, `standby`, `nobody` (the guest stands still) or `unknown`."""
    traffic: str
    """The same, in words."""
    proof: str
    """How it is known."""
    proved_at: float | None
    """When the guest's PCI config space was read; None = it is QEMU's word only, or nobody's."""


def pairs(state: State) -> tuple[Pair, ...]:
    return tuple(_pair(state, card) for card in state.vm.primaries)


def let_go(state: State, card: Primary) -> bool:
    """The guest let it go, by QEMU's word, and its config space was not read since."""
    unplugged = state.work.marks.unplugged if state.work is not None else None
    return has_left(state, card) and unplugged is not None and card.proved_at < unplugged


def _pair(state: State, card: Primary) -> Pair:
    there = card.standby_id in state.vm.standbys
    proof, proved_at = _proof(state, card)
    carries = NOBODY if state.vm.link is Link.GONE else _carries(state, card)
    now = state.vm.link is Link.UP and not state.vm.why_lost
    here = card_word(state, card)
    return Pair(
        primary=printable(card.device_id, 30),
        standby=printable(card.standby_id, 30),
        card=here if now else Said(here.word, Tone.DIM),
        ready=Said("ready", Tone.GOOD if now else Tone.DIM) if there else Said("missing", Tone.BAD),
        carries=carries,
        traffic=_traffic(state, carries, now=now),
        proof=proof,
        proved_at=proved_at,
    )


_TRAFFIC = {
    PRIMARY: "traffic goes over the primary",
    STANDBY: "traffic goes over the standby",
    NOBODY: "no traffic: the guest does not run",
    UNKNOWN: "traffic: nobody can say over which",
}


_LAST_KNOWN = {
    PRIMARY: "last known: over the primary",
    STANDBY: "last known: over the standby",
    NOBODY: "last known: no traffic",
    UNKNOWN: "traffic: nobody can say over which",
}


def _traffic(state: State, carries: str, *, now: bool) -> str:
    if state.vm.link is Link.GONE:
        return "no traffic: QEMU has ended"
    return (_TRAFFIC if now else _LAST_KNOWN)[carries]


def _carries(state: State, card: Primary) -> str:
    vm = state.vm
    if vm.runstate != "running":
        return NOBODY
    out = card.card in (Card.OUT, Card.DELETED) or let_go(state, card)
    if not out and card.card is Card.NOT_PROVED:
        return UNKNOWN
    if not out and card.driven:
        return PRIMARY
    return STANDBY if card.standby_id in vm.standbys else NOBODY


def _proof(state: State, card: Primary) -> tuple[str, float | None]:
    at = card.proved_at if card.proved_at >= 0 else None
    if card.card is Card.DELETED:
        return "QEMU said so: DEVICE_DELETED", None
    if let_go(state, card):
        return "QEMU's word: the guest let it go", None
    if card.asked and state.busy:
        return "asked (UNPLUG_PRIMARY), no answer yet", None
    if card.card is Card.NOT_PROVED:
        return "no proof: no PCI config window to look through", None
    if at is None:
        return "last known: to be looked at again", None
    return f"PCI config {'empty' if card.card is Card.OUT else card.pci_id}", at
