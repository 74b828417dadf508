"""Simulated guests, behind sockets of their own, in a thread of this process."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.behaviour.guests import Doomed, Guest, Kind, Pen
from tests.behaviour.looking import card_of, open_snapshots
from tests.behaviour.nursery import Nursery
from tests.behaviour.program import Program
from tests.twins import Twins
from vmtui.backend.core.sim import Profile, Scenario
from vmtui.backend.core.sim.scenarios import World
from vmtui.backend.sim_server import Qemu, Settings, Spec
from vmtui.backend.simulated import Record

MEMORY = "/dev/shm"
"""A file system that syncs at once: most of the time of a small save is a disk's."""
SPEED = 40.0
"""Seconds of the VM's clock for each of ours."""
HURRIED = 100.0
"""The same where a guest does not answer: QEMU then takes 30 s to cancel."""
SAMPLE = 1 << 20
"""Bytes written of a state, about."""
SLOW_DISK = 4e6
"""Bytes a second of the VM's clock: an unhindered save then takes half a second."""


class TwinGuest(Guest):
    def __init__(self, twins: Twins, qemu: Qemu, record: Record, directory: Path, nursery: Nursery) -> None:
        self._twins, self._served, self._nursery = twins, qemu, nursery
        self.name, self.uuid, self.pid, self.qmp = record.name, record.uuid, record.pid, Path(record.path)
        super().__init__(Path(record.monitor), directory, nursery.start)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "VMTUI_DEMO_DIR": str(self.qmp.parent)}

    def open_snapshots(self) -> frozenset[str]:
        """Of this process, which has the files of its brothers open too."""
        brothers, own = f"{self.directory.parent}/", f"{self.directory}/"
        names = open_snapshots(os.getpid())
        return frozenset(name for name in names if name.startswith(own) or not name.startswith(brothers))

    def interrupted(self, command: str, **line: Any) -> Program:
        return self._started(partial(self._nursery.start, interrupt_at=line), command, self.uuid)

    # --- the guest

    def is_well(self) -> None:
        self.qemu("query-status")  # and it is up to date
        vm = self._served.vm
        state = self._twins.call(
            lambda: (vm.guest, vm.boots, vm.runstate, [(card.state, card.driven) for card in vm.cards])
        )
        assert state == ("up", False, "running", [("plugged", True)] * len(vm.cards))

    def goes_on(self) -> None:
        self.is_well()
        assert not [event for event in self.qemu.events if event["event"] == "RESET"], "the guest did not just go on"

    def crash(self) -> None:
        said = self.qemu("human-monitor-command", {"command-line": "nmi"})
        assert said == ""

    def _end(self) -> None:
        self._twins.close(self._served)


class TwinPen(Pen[TwinGuest, Kind]):
    patience = 0.3
    place = MEMORY if os.access(MEMORY, os.W_OK) else Pen.place

    def __init__(self, profile: Profile, nursery: Nursery, *, stands_for_others: bool) -> None:
        super().__init__()
        self.version = profile.version
        self.native_pause = profile.native_pause
        self.stands_for_others = stands_for_others
        self._profile = profile
        self._nursery = nursery
        self._twins = Twins().__enter__()
        self._numbers = itertools.count(1)
        (self.directory / "sockets").mkdir()

    def _close(self) -> None:
        self._twins.__exit__()

    def _made_from(self, kind: Kind) -> Kind:
        return kind

    def _up(self, wanted: Kind) -> TwinGuest:
        return self._served(f"twin{next(self._numbers)}", wanted, _scenario(wanted))

    def _served(self, name: str, kind: Kind, scenario: Scenario) -> TwinGuest:
        path = self.directory / "sockets" / f"{name}.qmp"
        spec = Spec(name, self._profile, World(scenario), path, monitor=path.with_suffix(".second"))
        speed = HURRIED if kind.stubborn or not kind.pvpanic else SPEED
        limit = 1 << 30 if kind.whole else SAMPLE
        qemu, record = self._twins.serve(spec, Settings(speed, limit))
        return TwinGuest(self._twins, qemu, record, self._place(name), self._nursery)

    @contextmanager
    def with_an_option_rom(self) -> Iterator[str]:
        guest = self._served("with-rom", Kind(), Scenario(option_rom=True))
        self._own.append(guest)
        assert card_of(guest.qemu) == ("plugged", True)
        yield f"unix:{guest.qmp}"

    @contextmanager
    def one_to_kill(self) -> Iterator[Doomed]:
        guest = self.own()
        yield Doomed(f"unix:{guest.qmp}", guest.pid, "running")


def _scenario(kind: Kind) -> Scenario:
    usual = Scenario()
    return Scenario(
        primaries=int(kind.failover),
        unplug_delay=None if kind.stubborn else usual.unplug_delay,
        panic_device=kind.pvpanic,
        agent=kind.agent,
        panic_action=kind.panic_action or usual.panic_action,
        disk_speed=SLOW_DISK if kind.slow else usual.disk_speed,
    )
