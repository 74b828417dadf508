"""`vmtui list`: the VMs of this host, as a table or as NDJSON."""

import json
import sys
from collections.abc import Sequence

from vmtui.backend import discovery
from vmtui.backend.core.text import printable
from vmtui.backend.core.words import size
from vmtui.backend.discovery import FoundVm

NO_VMS = """\
no QEMU found on this host whose command line can be read.
Name a monitor (vmtui check /path/to/qmp.sock), run vmtui as the user that QEMU runs as, or try it: vmtui lab up
"""


def show(named: Sequence[str], *, as_json: bool) -> int:
    """Print what was found, and what was named besides. Raises UsageError for a name that means nothing."""
    survey = discovery.survey()
    extra = [discovery.resolve(spec, survey.vms) for spec in named]
    vms = tuple(extra) if named else survey.vms
    if as_json:
        for vm in vms:
            print(json.dumps(discovery.as_json(vm)))
        return 0
    _table(vms)
    if not vms:
        sys.stderr.write(NO_VMS)
    if survey.unreadable:
        sys.stderr.write(f"{survey.unreadable} processes of other users could not be looked at\n")
    return 0


def _table(vms: Sequence[FoundVm]) -> None:
    rows = [("NAME", "PID", "RAM", "MACHINE", "MONITOR"), *map(_row, vms)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows if vms else ():
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        print("  ".join([*cells, row[4]]))


def _row(vm: FoundVm) -> tuple[str, str, str, str, str]:
    monitor = str(vm.address) if vm.address else f"none: {vm.why_not}"
    memory = size(vm.memory) if vm.memory else "-"
    pid = str(vm.pid) if vm.pid else "-"
    return printable(vm.name, 60), pid, memory, printable(vm.machine or "-", 40), printable(monitor, 300)
