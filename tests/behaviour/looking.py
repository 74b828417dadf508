"""All that a test sees of a VM: asked of QEMU over a connection of the test's own, never through vmtui."""

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tests.behaviour.monitor import Monitor, Refused
from vmtui.backend import lab

NO_CARD = 0xFFFFFFFF
BUS_MASTER = 1 << 2
ENDED = {"none", "completed", "failed", "cancelled"}
POLL = 0.005
Line = dict[str, Any]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Look:
    """All of a VM that a save must leave as it was, asked of QEMU."""

    runstate: str
    migrating: bool
    card: str
    """plugged, out, or none: the PCI config space as the guest sees it."""
    driven: bool
    """Bus mastering is on: the guest's driver runs it."""
    parameters: Line
    capabilities: dict[str, bool]
    fdsets: int
    files: frozenset[str]
    """Snapshots, and parts of them, that QEMU's process has open."""


def look(qemu: Monitor, files: frozenset[str]) -> Look:
    """`files`: what its process has open."""
    card, driven = card_of(qemu)
    return Look(
        runstate=qemu("query-status")["status"],
        migrating=qemu("query-migrate").get("status", "none") not in ENDED,
        card=card,
        driven=driven,
        parameters=qemu("query-migrate-parameters"),
        capabilities={each["capability"]: each["state"] for each in qemu("query-migrate-capabilities")},
        fdsets=len(qemu("query-fdsets")),
        files=files,
    )


def differences(before: Look, now: Look) -> dict[str, tuple[Any, Any]]:
    """What is not as it was: name, then what it was and what it is."""
    pairs = {each.name: (getattr(before, each.name), getattr(now, each.name)) for each in fields(Look)}
    return {name: (was, is_) for name, (was, is_) in pairs.items() if was != is_}


def card_of(qemu: Monitor, device: str = lab.PRIMARY) -> tuple[str, bool]:
    """`plugged`, `out` or `none`, and whether a driver runs it: from the PCI config space, by `xp`."""
    address = config_address(qemu, device)
    if address is None:
        return "none", False
    said = human(qemu, f"xp /2xw {address:#x}")
    first, second = (int(word, 16) for word in re.findall(r"0x([0-9a-f]{8})\b", said.partition(":")[2]))
    return ("out", False) if first == NO_CARD else ("plugged", bool(second & BUS_MASTER))


def config_address(qemu: Monitor, device: str) -> int | None:
    """Where the guest finds the card's config space in its memory."""
    window = re.search(r"([0-9a-f]+)-[0-9a-f]+ \(prio [^)]*\): pcie-mmcfg", human(qemu, "info mtree"))
    found = next((each for each in _pci_devices(qemu("query-pci")) if each["qdev_id"] == device), None)
    if window is None or found is None:
        return None
    bus, slot, function = (int(found[part]) for part in ("bus", "slot", "function"))
    return int(window[1], 16) + (bus << 20 | slot << 15 | function << 12)


def _pci_devices(buses: list[Line]) -> Iterator[Line]:
    for bus in buses:
        for device in bus["devices"]:
            yield device
            if "pci_bridge" in device:
                yield from _pci_devices([{"devices": device["pci_bridge"].get("devices", [])}])


def human(qemu: Monitor, line: str) -> str:
    """What the human monitor says to a line."""
    return str(qemu("human-monitor-command", {"command-line": line}))


def open_snapshots(pid: int) -> frozenset[str]:
    names = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            names.add(str(link.readlink()))
    return frozenset(name for name in names if ".vmstate" in name or ".vmcore" in name)


def wait_until(fact: Callable[[], Found], what: str, seconds: float = 20.0) -> Found:
    """Poll until `fact()` is true; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL)
    return value


def refusal(qemu: Monitor, command: str, arguments: Line) -> str:
    """Why QEMU refuses a command; empty if it does not."""
    try:
        qemu(command, arguments)
    except Refused as error:
        return str(error)
    return ""


def ends(pid: int, seconds: float = 15.0) -> None:
    """Wait for the end of a process that is no child of ours."""
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([held], [], [], seconds)[0], f"process {pid} is still there after {seconds:g} s"
    finally:
        os.close(held)


# --- several at once ----------------------------------------------------------------------------------------------------


def together(*stories: Callable[[], None]) -> None:
    """Tell stories that mostly wait, at the same time. All are told to their ends; each failure has its story's name."""
    with ThreadPoolExecutor(len(stories)) as threads:
        told = {story.__name__: threads.submit(story) for story in stories}
    failed = [_named(error, name) for name, each in told.items() if isinstance(error := each.exception(), Exception)]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(stories)} stories ended badly", failed)


def _named(error: Exception, name: str) -> Exception:
    error.add_note(f"in the story {name}")
    return error
