"""Which workflows were left unfinished by a vmtui that was ended, and what does a new one need to go on with them?

The journal, and nothing else: the state at its end (`core/recovery`), the monitor's address, the inode of the file.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmtui.backend.config import journal_dir
from vmtui.backend.core.commands import Action
from vmtui.backend.core.errors import StoreError, UsageError
from vmtui.backend.core.events import AnyEvent
from vmtui.backend.core.model import Phase, Vm
from vmtui.backend.core.recovery import OtherRules, recovered
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address, Peer, process, process_alive
from vmtui.backend.journal import (
    ActionLine,
    BaselineLine,
    EndLine,
    EventLine,
    FactsLine,
    Head,
    Line,
    has_ended,
    read_journal,
)
from vmtui.backend.store import is_locked

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MISFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the reducer and the printers may raise when an answer is played to them that belongs to another question."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A workflow that changed something and did not come to its end."""

    path: Path
    """Its journal."""
    head: Head
    state: State
    """As it was at the end of the journal."""
    inode: int | None
    """Of the file; None where none was made."""

    @property
    def address(self) -> Address:
        return Address.parse(self.head.key)

    @property
    def rebooted(self) -> bool:
        """The host was started anew since. A journal without a boot's name is too old to tell."""
        return self.head.boot not in ("", boot_id())

    @property
    def lock_key(self) -> str:
        return lock_key(self.state.vm.pid, self.head.key)

    @property
    def told(self) -> str:
        """What is unfinished, how the guest is, and what to do."""
        work, vm = the_work(self.state), self.state.vm
        what = f"{printable(vm.shown, 60)}: a {work.options.goal} is unfinished"
        if self.rebooted:
            return f"{what} from before this host was started anew: vmtui recover keeps its file if whole, or removes it"
        stands = vm.runstate != "running" or work.phase is Phase.PAUSE
        guest = "its guest may stand paused until then" if stands else "its guest ran when it was last heard of"
        return f"{what}, broken off in the phase {work.phase}, and {guest}: vmtui recover finishes or undoes it"

    def peer(self) -> Peer | None:
        """QEMU's process, also if it has ended; None where the journal does not name it for good."""
        vm = self.state.vm
        if not vm.pid or not vm.start_time:
            return None
        alive = not self.rebooted and process_alive(vm.pid, vm.start_time)
        return (process(vm.pid) if alive else None) or Peer(vm.pid, vm.argv, "", "", vm.start_time)


def boot_id() -> str:
    with suppress(OSError):
        return BOOT_ID.read_text(encoding="ascii").strip()
    return ""


def lock_key(pid: int, key: str) -> str:
    """What a VM is locked by: its process, for it may have several monitors; else its monitor."""
    return f"pid-{pid}" if pid else key


def read_unfinished(path: Path) -> Unfinished:
    """Raises UsageError, with a clear line, for a journal that there is nothing to go on with."""
    shown = printable(str(path), 300)
    lines = list(read_journal(path))
    if not lines or not isinstance(lines[0], Head):
        raise UsageError(f"{shown} is no journal of vmtui")
    head, intents = lines[0], [line for line in lines if isinstance(line, BaselineLine)]
    try:
        state = recovered(_first(lines), _told(lines)) if intents and not isinstance(lines[-1], EndLine) else None
    except OtherRules as error:
        raise UsageError(f"{shown} was written by vmtui {head.vmtui}, which went other ways: {error}") from error
    except MISFIT as error:
        raise UsageError(f"the lines of {shown} do not fit together") from error
    if state is None:
        raise UsageError(f"{shown}: what it tells came to its end; there is nothing to go on with")
    inodes = [line.inode for line in intents if line.inode is not None]
    return Unfinished(path, head, state, inodes[-1] if inodes else None)


def _first(lines: list[Line]) -> Vm:
    return next((line.vm for line in lines if isinstance(line, FactsLine)), Vm(""))


def _told(lines: list[Line]) -> Iterator[AnyEvent | Action]:
    for line in lines:
        match line:
            case EventLine(event=event):
                yield event
            case ActionLine(action=action):
                yield action


def unfinished_journals() -> tuple[Unfinished, ...]:
    """Those that no vmtui is at work on, the oldest first. What cannot be read is none of them. Raises nothing."""
    found = []
    for path in sorted(journal_dir().glob("*.ndjson")):
        with suppress(OSError, UsageError, StoreError):
            if not has_ended(path) and not is_locked((left := read_unfinished(path)).lock_key):
                found.append(left)
    return tuple(found)
