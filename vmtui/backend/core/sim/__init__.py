"""A QEMU made of values: how would the real one answer, and what would it do by itself?

For tests, the simulated server and the demo. Pure: it does no I/O and reads no clock.
"""

from vmtui.backend.core.sim.profile import PAUSE_VM_10_0, PROFILES, STOCK_7_2, STOCK_10_0, STOCK_11_1, Profile
from vmtui.backend.core.sim.scenario import CardState, Scenario
from vmtui.backend.core.sim.schema import CommandSchema
from vmtui.backend.core.sim.target import FdKind, Write
from vmtui.backend.core.sim.vm import SimulatedVm
from vmtui.backend.core.sim.wire import FaultKind, FaultyWire, WireFault

__all__ = [
    "PAUSE_VM_10_0",
    "PROFILES",
    "STOCK_7_2",
    "STOCK_10_0",
    "STOCK_11_1",
    "CardState",
    "CommandSchema",
    "FaultKind",
    "FaultyWire",
    "FdKind",
    "Profile",
    "Scenario",
    "SimulatedVm",
    "WireFault",
    "Write",
]
