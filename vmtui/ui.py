"""`vmtui` with no command: the terminal UI on the VMs of this host, or on those that are named."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from vmtui import settings
from vmtui.app import Leave, VmtuiApp
from vmtui.backend import config, discovery, remote
from vmtui.backend.core import words
from vmtui.backend.core.errors import Exit, StoreError
from vmtui.backend.core.fleet import CancelWish, Fleet
from vmtui.backend.service import Service

COPIED = "copied.txt"


class Lasting:
    """A terminal that may go away: Textual's writing thread ends with its first error, and the screen then waits for it."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self.fileno, self.isatty = terminal.fileno, terminal.isatty

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._terminal.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._terminal.flush()


def show(names: Sequence[str], *, directory: str | None = None, read_only: bool = False) -> int:
    """Run it until the user ends it; returns the exit code. Raises UsageError for a name that means nothing."""
    chosen = settings.read()
    vms = discovery.discover() if names else ()
    remote.ensure()
    service = Service(config.named_directory(directory), [discovery.resolve(name, vms) for name in names])
    outlives = not remote.is_inside()
    app = VmtuiApp(service, read_only=read_only, outlives=outlives, settings=chosen, keep=keep)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: app.leave_from_outside())
    if sys.__stderr__ is not None:
        sys.__stderr__ = Lasting(sys.__stderr__)  # type: ignore[assignment, misc]  # what Textual draws on
    try:
        left = app.run()
        if left == Leave.WHEN_DONE and not outlives:
            _wait(service)
        elif left == Leave.WHEN_DONE and any(view.state.busy for view in service.fleet.vms.values()):
            _say("vmtui's engine goes on with what is under way; vmtui, or vmtui attach, shows it")
    finally:
        service.stop()
    if service.error is not None:
        raise service.error
    return app.return_code or Exit.OK


def keep(text: str) -> str:
    """Store what was copied, for terminals without a clipboard, readable by its owner alone; where, or nothing."""
    place = config.state_home() / COPIED
    try:
        config.private_directory(place.parent)
        with suppress(FileNotFoundError):
            place.unlink()
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    except (OSError, StoreError):
        return ""
    return str(place)


def _wait(service: Service) -> None:
    """Until nothing is under way any more, saying how each ended. The terminal may be gone by now: that ends nothing.

    Ctrl-C and SIGTERM cancel what is under way, as they do for `vmtui save`: left alone, a guest would stay paused.
    """
    told: set[str] = set()
    asked = threading.Event()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: asked.set())
    if _tell(service.fleet, told):
        _say("the screen is closed; what is under way goes on to its checked end (Ctrl-C cancels it)")
    while _tell(service.fleet, told):
        if asked.is_set():
            asked.clear()
            _cancel(service)
        service.wait(0.25)


def _cancel(service: Service) -> None:
    _say("cancelling; it is done when the VM was looked at")
    for key, view in service.fleet.vms.items():
        if view.state.busy:
            service.request(CancelWish(key))


def _tell(fleet: Fleet, told: set[str]) -> bool:
    """Say what has ended since; whether anything is still under way."""
    for key, view in fleet.vms.items():
        work = view.state.work
        if view.state.busy:
            told.discard(key)
        elif work is not None and work.outcome is not None and key not in told:
            told.add(key)
            _say(words.headline(view.state))
    return any(view.state.busy for view in fleet.vms.values())


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
