"""What lies in the snapshot directory: which files are snapshots, what is wrong with the others, and how is one removed?"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from vmtui.backend.config import sync_directory
from vmtui.backend.core.errors import RefusedError, StoreError
from vmtui.backend.core.fleet import Reading, Shelf, Snapshot, Standing
from vmtui.backend.core.snapshot import SUFFIX, Kind, Manifest, ManifestError, read_manifest
from vmtui.backend.core.text import printable
from vmtui.backend.store import PARTIAL, being_written
from vmtui.backend.stream import StreamReport, read_stream

ENDING = ".vmstate"
ENDINGS = (ENDING, ENDING + PARTIAL)
MANIFEST_LIMIT = 64 << 20
"""Bytes of a manifest that are read at the most."""
TELL_EVERY = 0.25
"""Seconds between two words on how far reading a file through has come."""


# --- looking ------------------------------------------------------------------------------------------------------


def look(directory: Path) -> Shelf:
    """Every state in `directory`, the latest first. Raises nothing: what is wrong is in the value. Follows no link."""
    now = time.time()
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        names = set()
    except OSError as error:
        return Shelf(str(directory), now, trouble=_reason(error))
    found = [snapshot for name in names if (snapshot := _snapshot(directory / name, names)) is not None]
    return Shelf(str(directory), now, tuple(sorted(found, key=lambda each: (-each.changed, each.path))))


def one(path: Path) -> Snapshot:
    """A state anywhere. Raises OSError where there is no such file."""
    found = path.lstat()
    standing, trouble, manifest = _judged(path, found)
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return Snapshot(str(path), size, found.st_mtime, standing, trouble, manifest)


def _snapshot(path: Path, names: set[str]) -> Snapshot | None:
    """A state goes by its ending; one that was saved under another name (--output) goes by its manifest."""
    named = path.name.endswith(ENDINGS)
    if not named and path.name + SUFFIX not in names:
        return None
    try:
        snapshot = one(path)
    except OSError:
        return None  # it went while we looked
    if snapshot.manifest is not None:
        return snapshot if snapshot.manifest.kind is Kind.STATE else None
    return snapshot if named else None


Judgement = tuple[Standing, str, Manifest | None]


def _judged(path: Path, found: os.stat_result) -> Judgement:
    if not stat.S_ISREG(found.st_mode):
        what = "a symbolic link, which is not followed" if stat.S_ISLNK(found.st_mode) else "not a file"
        return Standing.NO_FILE, f"it is {what}", None
    if path.name.endswith(PARTIAL):
        if being_written(path):
            return Standing.WRITING, "a save is writing it now", None
        return Standing.PARTIAL, "partial: the save that wrote it never finished it", None
    try:
        manifest, foreign = _manifest(path)
    except FileNotFoundError:
        return Standing.NO_MANIFEST, "it has no manifest: it was not saved by vmtui, or not to its end", None
    except OSError as error:
        return Standing.BAD_MANIFEST, f"its manifest cannot be read: {_reason(error)}", None
    except ManifestError as error:
        return Standing.BAD_MANIFEST, f"its manifest cannot be used: {printable(str(error), 300)}", None
    missing = manifest.file.size - found.st_size
    if missing > 0:
        return Standing.CUT_OFF, f"not whole: {missing} bytes are missing", manifest
    if missing < 0:
        return Standing.TOO_LONG, f"not as it was saved: it has {-missing} bytes too many", manifest
    return (Standing.FOREIGN, foreign, manifest) if foreign else (Standing.WHOLE, "", manifest)


def _manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest, and why it is not to be trusted. Raises OSError and ManifestError."""
    beside = path.with_name(path.name + SUFFIX)
    found = beside.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ManifestError("it is a symbolic link" if stat.S_ISLNK(found.st_mode) else "it is not a file")
    manifest = _read(beside, (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size))
    return manifest, f"its manifest {written_by_others(found)}" if written_by_others(found) else ""


@lru_cache(maxsize=4096)
def _read(path: Path, _signature: tuple[int, ...]) -> Manifest:
    """A manifest is read again only when the file is another one: the directory is looked at often."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return read_manifest(file.read(MANIFEST_LIMIT))


def written_by_others(found: os.stat_result) -> str:
    """How somebody else could have written a file, in words; empty when only its owner, you or root, could."""
    if found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022:
        return ""
    return f"can be written by others (owner {found.st_uid}, mode {found.st_mode & 0o777:o})"


# --- reading through ----------------------------------------------------------------------------------------------


def read(path: Path, progress: Callable[[Reading], None], stop: Callable[[], bool] = lambda: False) -> Reading:
    """Read a state through. `progress` is called now and then, from this thread. Raises StreamInterrupted when `stop()`."""
    progress(Reading(str(path)))
    try:
        found = path.stat()
        report = read_stream(path, progress=_telling(path, found.st_size, progress), stop=stop)
    except OSError as error:
        return Reading(str(path), 0.0, True, f"cannot be read: {_reason(error)}", at=time.time())
    return _reading(path, found.st_mtime, report)


def _telling(path: Path, size: int, progress: Callable[[Reading], None]) -> Callable[[int], None]:
    """Called about once a MiB with the offset reached; tells the share that is done, four times a second at the most."""
    told = time.monotonic()

    def tell(offset: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= TELL_EVERY:
            told = now
            progress(Reading(str(path), min(offset / max(size, 1), 1.0)))

    return tell


def _reading(path: Path, changed: float, report: StreamReport) -> Reading:
    return Reading(
        path=str(path),
        share=1.0,
        over=True,
        verdict="read through and whole" if report.whole else f"not whole: {report.trouble}",
        whole=report.whole,
        at=time.time(),
        changed=changed,
        machine=report.machine or "",
        runstate=report.runstate or "",
        ram_blocks=tuple((block.name, block.size) for block in report.ram_blocks),
        devices=tuple((device.name, device.size) for device in report.devices),
    )


# --- deleting -----------------------------------------------------------------------------------------------------


def delete(path: Path) -> None:
    """Remove a state and its manifest, durably. Nobody is asked: that is for the front end.

    The manifest goes first, and its going is synced, so that a crash leaves a file that is no snapshot, never a manifest
    without its file. Removes only names, of files, and only what is a state by its ending or by its manifest. Raises
    RefusedError where nothing was touched, and StoreError.
    """
    refuse_to_delete(path)
    gone = []
    try:
        for part in (*_besides(path), path):
            part.unlink()
            gone.append(part)
            sync_directory(part.parent)
    except OSError as error:
        half = ". Its manifest is gone, so it is no snapshot any more: remove the file by hand" if gone else ""
        raise StoreError(f"cannot delete {_shown(path)}: {_reason(error)}{half}") from error


def refuse_to_delete(path: Path) -> None:
    """Whatever keeps a file from being deleted. Raises RefusedError, and StoreError for a file that is not there."""
    try:
        found = path.lstat()
    except OSError as error:
        raise StoreError(f"cannot delete {_shown(path)}: {_reason(error)}") from error
    if stat.S_ISLNK(found.st_mode):
        raise RefusedError(f"{_shown(path)} is a symbolic link: name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{_shown(path)} is not a file")
    if not path.name.endswith(ENDINGS) and not _has_manifest(path):
        raise RefusedError(f"{_shown(path)} is no saved state: it is not called *{ENDING} and has no manifest of vmtui")
    if path.name.endswith(PARTIAL) and being_written(path):
        raise RefusedError(f"{_shown(path)} is being written by a save: wait for its end, or cancel it")


def _besides(path: Path) -> Iterator[Path]:
    """What belongs to a state and is there: its manifest, and what a crash left of writing that."""
    if not path.name.endswith(PARTIAL):
        manifest = path.with_name(path.name + SUFFIX)
        yield from (each for each in (manifest, manifest.with_name(manifest.name + PARTIAL)) if os.path.lexists(each))


def _has_manifest(path: Path) -> bool:
    try:
        _manifest(path)
    except (OSError, ManifestError):
        return False
    return True


def _shown(path: Path) -> str:
    return printable(str(path), 300)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0)
