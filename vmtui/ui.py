"""`vmtui` with no command: the terminal UI on the VMs of this host, or on those that are named."""

from collections.abc import Sequence
from pathlib import Path

from vmtui.app import VmtuiApp
from vmtui.backend import config, discovery
from vmtui.backend.service import Service


def show(names: Sequence[str], *, directory: str | None = None, read_only: bool = False) -> int:
    """Run it until the user ends it; returns the exit code. Raises UsageError for a name that means nothing."""
    vms = discovery.discover() if names else ()
    service = Service(Path(config.snapshot_dir(directory)), [discovery.resolve(name, vms) for name in names])
    return VmtuiApp(service, read_only=read_only).run() or 0
