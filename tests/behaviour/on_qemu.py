"""Real guests: tiny Linuxes of the lab, in a real QEMU."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.behaviour.guests import Doomed, Guest, Kind, Pen
from tests.behaviour.looking import card_of, open_snapshots, wait_until
from tests.behaviour.monitor import Monitor
from tests.behaviour.program import Program, interpreter
from tests.behaviour.qemus import Qemu
from vmtui.backend import lab
from vmtui.backend.lab import Heartbeat, LabSpec, LabVm, process

BOTH_CARDS = frozenset({"virtio_net", "e1000e"})


class LabGuest(Guest):
    def __init__(self, vm: LabVm, directory: Path) -> None:
        self.vm = vm
        self.name, self.uuid, self.pid, self.qmp = vm.name, vm.uuid, vm.pid, vm.qmp
        super().__init__(vm.monitor, directory, interpreter)

    def open_snapshots(self) -> frozenset[str]:
        return open_snapshots(self.pid)

    def interrupted(self, command: str, **line: Any) -> Program:
        program = self.start(command)
        program.until(**line)
        program.interrupt()
        return program

    # --- the guest

    def heartbeats(self) -> tuple[Heartbeat, ...]:
        return lab.read_heartbeats(self.vm.serial)

    def is_well(self) -> None:
        last = self.heartbeats()[-1]
        assert last.ping
        assert last.slaves == self._slaves

    def goes_on(self) -> None:
        """A heartbeat that comes from now on is well: a ping, and each card in the failover device."""
        last = self.heartbeats()[-1].n
        lab.wait_for(self.vm, lambda _text: any(map(self._is_well, self._since(last))), seconds=20.0)
        numbers = [beat.n for beat in self.heartbeats()]
        assert numbers == list(range(1, len(numbers) + 1)), "the guest did not just go on: it lost its count"

    def _since(self, last: int) -> tuple[Heartbeat, ...]:
        return tuple(beat for beat in self.heartbeats() if beat.n > last)

    def _is_well(self, beat: Heartbeat) -> bool:
        return beat.ping and beat.slaves == self._slaves

    @property
    def _slaves(self) -> frozenset[str]:
        return BOTH_CARDS if self.vm.spec.failover else frozenset()

    def crash(self) -> None:
        lab.crash(self.vm.name)

    def _end(self) -> None:
        if self.vm.alive:
            lab.down([self.vm.name])


class LabPen(Pen[LabGuest, LabSpec]):
    def __init__(self, qemu: Qemu) -> None:
        super().__init__()
        self.version = qemu.version
        self._qemu = str(qemu.path)
        self._lab = os.environ.get("VMTUI_LAB_DIR")
        os.environ["VMTUI_LAB_DIR"] = str(self.directory / "lab")

    def _close(self) -> None:
        lab.down()
        if self._lab is None:
            del os.environ["VMTUI_LAB_DIR"]
        else:
            os.environ["VMTUI_LAB_DIR"] = self._lab

    def _made_from(self, kind: Kind) -> LabSpec:
        return LabSpec(
            qemu=self._qemu, failover=kind.failover, stubborn=kind.stubborn, pvpanic=kind.pvpanic,
            panic_action=kind.panic_action, agent=kind.agent,
        )  # fmt: skip

    def _up(self, wanted: LabSpec) -> LabGuest:
        (vm,) = lab.up(wanted)
        return LabGuest(vm, self._place(vm.name))

    @contextmanager
    def with_an_option_rom(self) -> Iterator[str]:
        guest = self.guest()
        words = command_line(guest.vm)
        with_rom = [word.removesuffix(",rombar=0,romfile=") if word.startswith("e1000e,") else word for word in words]
        assert with_rom != words
        with second_qemu(guest, with_rom) as (vm, qemu):
            wait_until(lambda: card_of(qemu) == ("plugged", True), "the guest's driver runs its card", 60)
            yield f"unix:{vm.qmp}"

    @contextmanager
    def one_to_kill(self) -> Iterator[Doomed]:
        guest = self.guest()
        with second_qemu(guest, [*command_line(guest.vm), "-S"]) as (vm, _qemu):
            yield Doomed(f"unix:{vm.qmp}", vm.pid, "prelaunch")


# --- a second QEMU ------------------------------------------------------------------------------------------------


def command_line(vm: LabVm) -> list[str]:
    """A guest's QEMU's, while it runs."""
    words = Path(f"/proc/{vm.pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    return [vm.spec.qemu, *words[words.index("-name") :]]  # before it may be a wrapper's words for a loader


@contextmanager
def second_qemu(guest: LabGuest, words: list[str]) -> Iterator[tuple[LabVm, Monitor]]:
    """A QEMU with these words for its command line, which may be the guest's, and with files of its own."""
    place = Path(tempfile.mkdtemp(prefix="second-", dir=guest.directory.parent))
    moved = [word.replace(str(guest.vm.directory), str(place)) for word in words]
    subprocess.run(moved, check=True, timeout=60)
    pid = int((place / "pid").read_text())
    began = process.started(pid)
    assert began is not None
    qmp, monitor, serial = (place / name for name in ("qmp.sock", "monitor.sock", "serial.log"))
    vm = replace(guest.vm, pid=pid, started=began, directory=place, qmp=qmp, monitor=monitor, serial=serial)
    try:
        with Monitor(vm.monitor) as qemu:
            yield vm, qemu
    finally:
        assert process.end(pid, began)
        shutil.rmtree(place)
