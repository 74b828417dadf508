"""Guests to measure on, each with an observer on its second monitor; at most one of them runs at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tools.measure.qmp import BenchError, Qmp
from vmtui.backend.lab import LabSpec, LabVm, down, read_heartbeats, up

PAIR = frozenset({"virtio_net", "e1000e"})
AWAKE = 60.0
"""Seconds until a guest has both cards in its failover device again; usual is less than two."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the observer saw while something was done to a guest."""

    stopped: float
    """Seconds that the guest stood still, all pauses together, from QEMU's own STOP and RESUME."""
    ran_on: float | None
    """Seconds from the end of wait-unplug to STOP; None where nothing was unplugged before it."""
    lag: float | None
    """Seconds from QEMU's `completed` to RESUME; None where nobody asked for MIGRATION events."""


class Guest:
    """A guest and its observer. It stands still except `awake`."""

    def __init__(self, vm: LabVm) -> None:
        self.vm = vm
        self.observer = Qmp(vm.monitor)

    def rest(self) -> None:
        self.observer.execute("stop")

    def wake(self) -> None:
        """Let it run until it has told something new, with all its cards in use."""
        told = len(read_heartbeats(self.vm.serial))
        cards = PAIR if self.vm.spec.failover else frozenset()
        self.observer.execute("cont")
        deadline = time.monotonic() + AWAKE
        while time.monotonic() < deadline:
            if any(beat.slaves == cards for beat in read_heartbeats(self.vm.serial)[told + 1 :]):
                return
            time.sleep(0.02)
        raise BenchError(f"{self.vm.name} does not run with all its cards")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Not put to rest where something went wrong: it may be gone, and what went wrong is what to say."""
        self.wake()
        yield
        self.rest()

    def watch(self, act: Callable[[], object]) -> Window:
        """Do something to the running guest, which is to run again afterwards."""
        since = self.observer.catch_up()
        act()
        self.observer.catch_up()
        if self.observer.execute("query-status")["status"] != "running":
            raise BenchError(f"{self.vm.name} was left standing")
        return self._seen(since)

    def _seen(self, since: int) -> Window:
        stopped, stop, active, completed, ran_on, lag = 0.0, None, None, None, None, None
        for event in self.observer.events[since:]:
            match event.name, event.data.get("status"):
                case "MIGRATION", "active" if stop is None and completed is None:
                    active = event.at
                case "MIGRATION", "completed":
                    completed = event.at
                case "STOP", _:
                    stop = event.at
                    ran_on = stop - active if active is not None and ran_on is None else ran_on
                case "RESUME", _ if stop is not None:
                    stopped += event.at - stop
                    lag = event.at - completed if completed is not None else None
                    stop = None
        return Window(stopped, ran_on, lag)


@contextmanager
def guests(*specs: LabSpec, say: Callable[[str], None]) -> Iterator[list[Guest]]:
    """Booted one after another, each at rest; all are gone at the end."""
    started: list[Guest] = []
    try:
        for spec in specs:
            (vm,) = up(spec, say=say)
            started.append(Guest(vm))
            started[-1].rest()
        yield started
    finally:
        for guest in started:
            guest.observer.close()
        down()
