"""What crosses between the engine and a front end: one value out (`Fleet`), one wish in (`Request`), nothing else."""

from typing import Any

import msgspec

from vmtui.backend.core.model import Options
from vmtui.backend.core.state import State


class Record(msgspec.Struct, frozen=True):
    """One line of what happened to a VM: a QMP message, a phase, a warning."""

    number: int
    """Counts up by one for each VM; a gap means that a front end was too slow for the last records."""
    at: float
    kind: str
    """`qmp`, `phase`, `link`."""
    data: dict[str, Any]


class VmView(msgspec.Struct, frozen=True):
    """One VM, as the engine knows it now."""

    state: State
    log: tuple[Record, ...] = ()
    """The latest records, oldest first."""
    journal: str = ""
    """Path of the running workflow's journal, once there is one."""


class Fleet(msgspec.Struct, frozen=True):
    """Everything that a front end shows. Per VM the latest wins."""

    vms: dict[str, VmView]
    """By the monitor's address."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Start a workflow on a VM."""

    key: str
    options: Options


class CancelWish(msgspec.Struct, frozen=True, tag="cancel"):
    """Undo the workflow of a VM."""

    key: str
    text: str = "cancelled by the user"


Request = Begin | CancelWish
