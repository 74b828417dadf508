"""The engine's process that a measured vmtui starts: it is measured too, and ended afterwards."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from vmtui.backend import server


def engine_pid(runtime: Path) -> int:
    """Of the engine whose VMTUI_RUNTIME_DIR this is; 0 where none runs."""
    return server.pid_of_engine(runtime / "vmtui") or 0


def end_engine(runtime: Path) -> None:
    """Returns when there is none."""
    while pid := engine_pid(runtime):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
