"""What does QEMU remember of a migration and of a memory dump?"""

from dataclasses import dataclass

from vmtui.backend.core.sim.stream import Stream
from vmtui.backend.core.sim.target import Target

NOWHERE = Target("file", "")
FINAL = frozenset({"", "completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Migration:
    """The last migration, or the one that runs."""

    status: str
    target: Target
    started: float
    stream: Stream
    background: bool = False
    incoming: bool = False
    error: str = ""
    passes: int = 0
    """Dirty bitmap syncs."""
    polls_left: int | None = None
    """While cancelling: looks at the unplug before QEMU gives up on it."""
    stopped_it: bool = False
    """The migration, not a client, stopped the VM: QEMU starts it again should this fail."""
    old_state: str = ""
    """The run state of a VM that stood already when the last stage began."""
    active_at: float | None = None
    switched_at: float | None = None
    ended_at: float | None = None
    written: int = 0
    """Bytes already handed out as `Write`."""

    @property
    def runs(self) -> bool:
        return self.status not in FINAL

    @property
    def copies(self) -> bool:
        """Is RAM being sent at the rate the parameters allow?"""
        return self.status == "active" and self.switched_at is None and not self.incoming


@dataclass(frozen=True, slots=True)
class Dump:
    """The last memory dump, or the one that runs."""

    status: str = "none"
    total: int = 0
    started: float = 0.0
    target: Target = NOWHERE
    was_running: bool = False
    completed: int = 0
    written: int = 0
    format: str = "elf"
