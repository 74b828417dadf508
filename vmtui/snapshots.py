"""`vmtui snapshots` and `vmtui delete`: which saved states are there, and one goes."""

import json
import sys
from pathlib import Path
from typing import Any

from vmtui.backend import config, shelf
from vmtui.backend.core import catalogue
from vmtui.backend.core.errors import Exit, StoreError, UsageError
from vmtui.backend.core.fleet import Fleet, Snapshot
from vmtui.backend.core.text import printable
from vmtui.backend.core.words import seconds, size

HEAD = ("VM", "SAVED", "SIZE", "STOPPED", "HOW", "QEMU", "MACHINE", "STATE", "FILE")


def show(directory: str | None, *, as_json: bool) -> int:
    """Print what is in the snapshot directory. Raises StoreError for one that cannot be read."""
    found = shelf.look(config.named_directory(directory))
    if found.trouble:
        raise StoreError(f"cannot read {printable(found.directory, 300)}: {found.trouble}")
    if as_json:
        for each in found.snapshots:
            print(json.dumps(_as_json(each)))
        return Exit.OK
    lines = catalogue.lines(Fleet(shelf=found))
    _table([_row(each) for each in lines])
    if not lines:
        sys.stderr.write(catalogue.nothing(found) + "\n")
    troubles = {each.path: each.trouble for each in found.snapshots if each.trouble}
    for path, trouble in troubles.items():
        sys.stderr.write(f"{printable(path, 300)}: {trouble}\n")
    return Exit.OK


def _table(rows: list[tuple[str, ...]]) -> None:
    everything = [HEAD, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(HEAD) - 1)]
    for row in everything if rows else ():
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))


def _row(line: catalogue.Line) -> tuple[str, ...]:
    stopped = seconds(line.stopped) if line.stopped is not None else ""
    told = (line.vm, line.when, size(line.size), stopped, line.how, line.qemu, line.machine, line.standing.word)
    return (*(word or catalogue.UNKNOWN for word in told), printable(line.path, 300))


def _as_json(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    told: dict[str, Any] = dict.fromkeys(
        ("vm", "uuid", "made", "host", "qemu", "machine", "memory", "strategy", "then", "stopped_seconds", "unplug_seconds",
         "devices", "ram_blocks", "runstate")
    )  # fmt: skip
    if manifest is not None:
        told |= {
            "vm": manifest.name, "uuid": manifest.uuid or None, "made": manifest.host.created,
            "host": manifest.host.hostname, "qemu": manifest.qemu, "machine": manifest.machine, "memory": manifest.memory,
            "strategy": manifest.strategy, "then": manifest.then, "stopped_seconds": manifest.stopped_seconds,
            "unplug_seconds": manifest.unplug_seconds, "devices": manifest.file.devices,
            "ram_blocks": manifest.file.ram_blocks, "runstate": manifest.file.runstate or None,
        }  # fmt: skip
    return {
        "file": snapshot.path,
        "size": snapshot.size,
        "standing": snapshot.standing,
        "trouble": snapshot.trouble or None,
        **told,
        "restore": catalogue.restore_command(snapshot.path) if snapshot.whole else None,
    }


def delete(path: Path, *, yes: bool) -> int:
    """Delete a saved state once somebody said yes. UsageError where nobody can be asked; RefusedError, StoreError."""
    path = path.absolute()
    shelf.refuse_to_delete(path)
    if not yes and not _agreed(path):
        sys.stderr.write("nothing was deleted\n")
        return Exit.CANCELLED
    shelf.delete(path)
    print(f"deleted {printable(str(path), 300)}")
    return Exit.OK


def _agreed(path: Path) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("there is no terminal to ask on: --yes deletes without asking")
    sys.stderr.write(f"{catalogue.deleting(shelf.one(path))} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
