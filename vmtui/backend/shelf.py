"""What lies in the snapshot directory: which files are snapshots, what is wrong with the others, and how is one removed?"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from vmtui.backend.config import sync_directory
from vmtui.backend.core.errors import StoreError
from vmtui.backend.core.fleet import Reading, Shelf, Snapshot
from vmtui.backend.core.snapshot import SUFFIX, ManifestError, read_manifest
from vmtui.backend.core.text import printable
from vmtui.backend.store import PARTIAL
from vmtui.backend.stream import read_stream

ENDINGS = (".vmstate", ".vmstate" + PARTIAL)


def look(directory: Path) -> Shelf:
    """Every state in `directory`, the latest first. Raises nothing: what is wrong is in the value."""
    now = time.time()
    try:
        paths = [path for path in directory.iterdir() if path.name.endswith(ENDINGS)]
    except FileNotFoundError:
        paths = []
    except OSError as error:
        return Shelf(str(directory), now, trouble=os.strerror(error.errno or 0))
    found = [snapshot for path in paths if (snapshot := _snapshot(path)) is not None]
    return Shelf(str(directory), now, tuple(sorted(found, key=lambda each: each.changed, reverse=True)))


def _snapshot(path: Path) -> Snapshot | None:
    try:
        status = path.stat()
    except OSError:
        return None  # it went while we looked
    if path.name.endswith(PARTIAL):
        return Snapshot(
            str(path), status.st_size, status.st_mtime, trouble="partial: it was never finished, or is being written"
        )
    try:
        manifest = read_manifest(path.with_name(path.name + SUFFIX).read_bytes())
    except FileNotFoundError:
        return Snapshot(str(path), status.st_size, status.st_mtime, trouble="no manifest beside it")
    except OSError as error:
        return Snapshot(str(path), status.st_size, status.st_mtime, trouble=os.strerror(error.errno or 0))
    except ManifestError as error:
        return Snapshot(str(path), status.st_size, status.st_mtime, trouble=str(error))
    return Snapshot(str(path), status.st_size, status.st_mtime, manifest)


def read(path: Path, progress: Callable[[Reading], None]) -> Reading:
    """Read a state through; `progress` is called now and then, from this thread."""
    progress(Reading(str(path)))
    try:
        report = read_stream(path)
    except OSError as error:
        return Reading(str(path), 0.0, True, f"cannot be read: {os.strerror(error.errno or 0)}")
    words = "whole" if report.whole else f"not whole: {report.trouble}"
    return Reading(str(path), 1.0, True, words, report.whole)


def delete(path: Path) -> None:
    """Remove a state and its manifest, durably; the manifest first, so a crash leaves no snapshot. Raises StoreError."""
    try:
        path.with_name(path.name + SUFFIX).unlink(missing_ok=True)
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"cannot delete {printable(str(path), 300)}: {os.strerror(error.errno or 0)}") from error
