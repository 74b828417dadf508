"""Where do saved states, journals and locks live?"""

import os
import shlex
import tempfile
import time
from pathlib import Path

from vmtui.backend.core.errors import StoreError
from vmtui.backend.core.naming import default_name
from vmtui.backend.core.text import printable
from vmtui.backend.simulated import DIRECTORY


def state_home() -> Path:
    """root: /var/lib/vmtui; else vmtui below the XDG state directory."""
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib/vmtui")
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "vmtui"


def snapshot_dir(given: str | None = None) -> Path:
    """`--dir`, else VMTUI_SNAPSHOT_DIR, else the default."""
    chosen = given or os.environ.get("VMTUI_SNAPSHOT_DIR")
    return Path(chosen).absolute() if chosen else state_home() / "snapshots"


def named_directory(given: str | None) -> Path:
    """As `snapshot_dir`. Raises StoreError where somebody named a directory that is not there."""
    directory = snapshot_dir(given)
    if given and not directory.exists():
        raise StoreError(f"{missing_directory(directory)}, or name another")
    return directory


def missing_directory(directory: Path) -> str:
    """Only the default directory is made by itself: any other that is missing was mistyped, or is not mounted."""
    shown = printable(str(directory), 300)
    return f"there is no directory {shown}: make it first (mkdir -p {printable(shlex.quote(str(directory)), 300)})"


def default_output(directory: Path, vm: str, ending: str = "vmstate") -> Path:
    """A free name in the snapshot directory, with the VM's name and the time of day."""
    try:
        taken = [each.name for each in directory.iterdir()]
    except OSError:
        taken = []  # the pre-flight says what is wrong with it
    return directory / default_name(vm, time.strftime("%Y%m%dT%H%M%S"), taken, ending)


def journal_dir() -> Path:
    return state_home() / "journal"


def lock_dir() -> Path:
    return state_home() / "locks"


def runtime_dir() -> Path:
    """Where the engine's socket is: of this boot, and of this user alone.

    root's is not XDG_RUNTIME_DIR: that goes with the last login, and a cron job has none.
    """
    if given := os.environ.get("VMTUI_RUNTIME_DIR"):
        return Path(given) / "vmtui"
    if os.geteuid() == 0:
        return Path("/run/vmtui")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_ours(runtime):  # su may hand on the one of somebody else
        return Path(runtime) / "vmtui"
    return Path(tempfile.gettempdir()) / f"vmtui-{os.geteuid()}"


def _is_ours(directory: str) -> bool:
    try:
        return Path(directory).stat().st_uid == os.geteuid()
    except OSError:
        return False


def demo_dir() -> str:
    """The directory of simulated VMs that this process is confined to, or nothing."""
    return os.environ.get(DIRECTORY, "")


def private_directory(path: Path) -> Path:
    """Make `path` and what is missing above it, for the owner alone: what is kept there is guests' memory."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
    return path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
