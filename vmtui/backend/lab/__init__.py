"""The lab: real, tiny Linux guests with a failover pair, for the demo and the tests.

    (vm,) = up(LabSpec())        a guest that pings through its failover device
    read_heartbeats(vm.serial)   what it saw, some five times a second
    crash(vm.name)               it panics
    down()                       all are gone, and their files

Each guest is a QEMU process that lives on without us, with a directory of its own.
"""

from vmtui.backend.lab.errors import LabError
from vmtui.backend.lab.guest import DISK, PANIC, PRIMARY, READY, STANDBY, Heartbeat, LabSpec
from vmtui.backend.lab.guests import LabVm, crash, down, list_guests, read_heartbeats, up, wait_for

__all__ = [
    "DISK",
    "PANIC",
    "PRIMARY",
    "READY",
    "STANDBY",
    "Heartbeat",
    "LabError",
    "LabSpec",
    "LabVm",
    "crash",
    "down",
    "list_guests",
    "read_heartbeats",
    "up",
    "wait_for",
]
