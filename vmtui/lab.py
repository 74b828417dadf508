"""`vmtui lab`: real tiny guests, shown as lines or as NDJSON."""

import argparse
import json
import sys
from typing import Any

from vmtui.backend import lab
from vmtui.backend.core.errors import UsageError
from vmtui.backend.lab import LabSpec, LabVm


def show_up(given: argparse.Namespace) -> int:
    if not 1 <= given.count <= 64:
        raise UsageError("--count takes 1 to 64")
    if not 64 <= given.memory <= 1 << 20:
        raise UsageError("--memory takes 64 to 1048576 MiB")
    names = given.name or [None]
    if len(names) > 1:
        raise UsageError("--name is for one: --count N boots NAME1, NAME2, ..., or run vmtui lab up once for each")
    spec = LabSpec(
        memory_mib=given.memory,
        failover=not given.no_failover,
        stubborn=given.stubborn,
        pvpanic=not given.no_pvpanic,
        qemu=given.qemu,
    )
    for vm in lab.up(spec, count=given.count, name=names[0], say=_say):
        _show(vm, as_json=given.json)
    return 0


def show_list(given: argparse.Namespace) -> int:
    guests = lab.list_guests()
    for vm in guests:
        _show(vm, as_json=given.json)
    if not guests:
        _say("no lab guest is up; vmtui lab up boots one")
    return 0


def show_down(given: argparse.Namespace) -> int:
    ended = lab.down(given.name or None)
    _say(f"ended {', '.join(ended)}" if ended else "no lab guest was up")
    return 0


def show_crash(given: argparse.Namespace) -> int:
    lab.crash(given.name)
    _say(f"{given.name}: its kernel panicked")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _show(vm: LabVm, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_values(vm)))
    else:
        print(f"{vm.name}  pid {vm.pid}  {vm.spec.memory_mib} MiB  unix:{vm.qmp}  serial log {vm.serial}")


def _values(vm: LabVm) -> dict[str, Any]:
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "pid": vm.pid,
        "qmp": str(vm.qmp),
        "monitor": str(vm.monitor),
        "serial": str(vm.serial),
        "memory_mib": vm.spec.memory_mib,
        "failover": vm.spec.failover,
        "stubborn": vm.spec.stubborn,
    }
