"""What a user does before anything else: open the VM, begin a save."""

from pathlib import Path

from tests.behaviour.fixtures import AnyGuest
from tests.screen.terminal import Terminal


def terminal(guest: AnyGuest, monitor: Path | None = None) -> Terminal:
    """vmtui on this VM alone: what others test with meanwhile is left alone."""
    return Terminal(f"unix:{monitor or guest.qmp}", environment=guest.environment)


def open_the_vm(seen: Terminal) -> None:
    seen.until("1 VM", "running", "Save")
    seen.press("enter")
    seen.until("Nothing is under way", "esc Back")


def begin_a_save(seen: Terminal) -> None:
    """From the screen of the VM, by way of the pre-flight, which ends with that screen again."""
    seen.press("s")
    seen.until("it can be saved", "Start the save")
    seen.press("ctrl+s")
    seen.until_gone("Start the save")


def begin_a_slow_save(seen: Terminal, guest: AnyGuest) -> None:
    """Opened, begun, and braked while it writes: the guest stands still, and the screen says so."""
    open_the_vm(seen)
    begin_a_save(seen)
    guest.brake()
    seen.until("▶ save", "the guest is stopped")
