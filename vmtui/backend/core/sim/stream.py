"""How far is the copy of the RAM, at what rate, and when does this pass end?

The copy is piecewise linear: between two changes (the rate, the guest running or not) everything moves evenly, so that
nothing needs to tick.
"""

from dataclasses import dataclass, replace
from math import inf

HEADER = 234
"""Bytes QEMU has written before the first page."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A copy as it was at `at`."""

    size: float
    """Bytes the first pass takes, zero pages being almost free."""
    left: float
    """Bytes still to send in this pass."""
    sent: float = 0.0
    dirty: float = 0.0
    """Bytes to send again in the next pass."""
    rate: float = 0.0
    """Bytes a second now."""
    dirtying: float = 0.0
    """Bytes a second that the guest makes dirty now; 0 when it stands."""
    at: float = 0.0

    def settled(self, now: float) -> "Stream":
        """The same copy at `now`."""
        passed = now - self.at
        if passed <= 0:
            return self
        moved = min(self.left, self.rate * passed)
        dirty = min(self.size, self.dirty + self.dirtying * passed)
        return replace(self, left=self.left - moved, sent=self.sent + moved, dirty=dirty, at=now)

    def retimed(self, now: float, rate: float, dirtying: float) -> "Stream":
        return replace(self.settled(now), rate=rate, dirtying=dirtying)

    def synced(self, now: float) -> "Stream":
        """The next pass: what the guest has made dirty is to be sent too."""
        settled = self.settled(now)
        return replace(settled, left=settled.left + settled.dirty, dirty=0.0)

    def drained(self, now: float) -> "Stream":
        """Everything was written while nobody changed anything."""
        settled = self.settled(now)
        return replace(settled, sent=settled.sent + settled.left, left=0.0, dirty=0.0, rate=0.0)

    def falls_to(self, left: float) -> float:
        """When no more than `left` bytes will be left in this pass."""
        return self.sends_at(self.sent + max(0.0, self.left - left))

    def sends_at(self, total: float) -> float:
        """When `total` bytes will have been sent; never, when they do not move."""
        missing = total - self.sent
        if missing <= 0:
            return self.at
        return self.at + missing / self.rate if self.rate > 0 else inf
