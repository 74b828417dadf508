"""What becomes of a failover primary when QEMU asks for it, when the guest lets go, and when QEMU plugs it back?

This follows QEMU's own flags (`partially_hotplugged`, `pending_deleted_event`, `failover_primary_hidden`), for the
surprises come from their combinations: a card whose unplug was asked for, given up and answered late is deleted.
"""

from dataclasses import dataclass, replace

from vmtui.backend.core.sim.scenario import CardState


@dataclass(frozen=True, slots=True)
class Card:
    """One failover primary."""

    id: str
    standby: str
    mac: str
    bus: str
    netdev: str
    state: CardState = CardState.PLUGGED
    driven: bool = True
    """The guest's driver runs it: bus master is on."""
    pending: bool = False
    """The guest was asked to let go and has not answered."""
    kept: bool = False
    """QEMU means to keep the card when the guest lets it go (`partially_hotplugged`)."""
    hidden: bool = False
    """QEMU holds the card for out, and does not ask again (`failover_primary_hidden`)."""
    properties: tuple[tuple[str, str | int | bool], ...] = ()
    """What the command line or device_add said besides."""

    def asked(self) -> "Card":
        """A migration asked the guest to let go."""
        return replace(self, pending=True, kept=True, hidden=True)

    def let_go(self) -> "Card":
        """The guest answered."""
        state = CardState.OUT if self.kept else CardState.DELETED
        return replace(self, pending=False, state=state, driven=False)

    def plugged_back(self) -> "Card":
        """The migration failed. A request the guest has not answered stays open while the card is in its slot."""
        if not self.kept:
            return self
        if self.state is CardState.PLUGGED:
            return replace(self, kept=False, hidden=False)
        return self.added()

    def rebooted(self) -> "Card":
        """The guest's driver has started anew: the card that is out stays out, but QEMU will ask for it again."""
        if self.state is CardState.DELETED:
            return replace(self, state=CardState.PLUGGED, kept=False, hidden=False, pending=False)
        return replace(self, hidden=False)

    def added(self) -> "Card":
        """device_add brought it back."""
        return replace(self, state=CardState.PLUGGED, kept=False, hidden=False, pending=False, driven=False)
