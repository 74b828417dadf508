"""What may go wrong with a simulated VM, all of it independent and combinable?"""

from dataclasses import dataclass
from enum import StrEnum

When = float | str
"""Seconds after the start, or a word: a migration status ("wait-unplug") or a run state ("paused") just entered."""


class CardState(StrEnum):
    """Where is a primary card, as the guest sees it?"""

    PLUGGED = "plugged"
    OUT = "out"
    """The guest let it go; QEMU still holds it."""
    DELETED = "deleted"
    """The guest let it go when QEMU no longer expected it: QEMU has forgotten it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The world around one VM. The default is a good day."""

    primaries: int = 1
    """Failover pairs; 0 for a VM without."""
    card: CardState = CardState.PLUGGED
    """Where the primaries are at the start."""
    guest_forgot_card: bool = False
    """The guest was rebooted since the card went out: QEMU will ask again for a card that the guest cannot see."""
    runstate: str = "running"
    """The run state at the start."""

    unplug_delay: float | None = 0.02
    """Seconds a running guest takes to let the card go; None for a guest that never does."""
    drive_delay: float = 0.015
    """Seconds a running guest takes to drive a card that came back."""
    boot_time: float = 4.5
    """Seconds from a reset until the guest's drivers run."""

    panics: When | None = None
    panic_device: bool = True
    """Without it QEMU sees nothing of a panic."""
    panic_action: str = "shutdown"
    """As given on QEMU's command line; QMP set-action changes it."""
    agent: str = ""
    """The guest has a channel for a guest agent, and one in it that answers, is silent (its port open), or none."""
    agent_in_use: bool = False
    """Somebody else is connected to it."""
    paused_by_other: When | None = None
    continued_by_other: When | None = None
    resets: When | None = None
    killed: When | None = None
    """QEMU dies, right after the event that says so."""
    other_delay: float = 0.005
    """Seconds from the word to what it triggers (not for `killed`)."""

    write_fails_after: int | None = None
    """Bytes of a stream or dump after which writing fails."""
    write_error: str = "No space left on device"
    disk_speed: float = 2e9
    """Bytes a second."""
    dump_speed: float = 400e6
    """Bytes a second."""
    touched: float = 0.33
    """The share of the RAM that is not zero pages."""
    dirty_rate: float = 20e6
    """Bytes of RAM a running guest changes in a second."""

    option_rom: bool = False
    """The primary has an option ROM in a RAM block: the file cannot be restored."""
    q35: bool = True
    """Without it there is no pcie-mmcfg to prove anything by."""
    blocked_reasons: tuple[str, ...] = ()
    migrating: bool = False
    """Somebody else's migration runs already, to a file of theirs, at 64 KiB/s."""
    addable: bool = True
    """device_add brings a deleted card back, on a QEMU that can."""

    def agent_words(self, path: str) -> tuple[str, ...]:
        """What QEMU's command line says of the guest agent's channel, whose socket is at `path`."""
        if not self.agent:
            return ()
        port = "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0"
        return (
            "-device",
            "virtio-serial-pci",
            "-chardev",
            f"socket,id=agent0,path={path},server=on,wait=off",
            "-device",
            port,
        )

    @property
    def panic_words(self) -> tuple[str, ...]:
        """What QEMU's command line says of a panic."""
        device = ("-device", "pvpanic") if self.panic_device else ()
        return device if self.panic_action == "shutdown" else (*device, "-action", f"panic={self.panic_action}")
