"""Where does the state go, and in which order is it written, so that a file under its final name is always whole?

1. `FILE.partial` is made (O_EXCL, 0600), and its directory synced: nothing that exists is ever overwritten.
2. QEMU writes it. It is read through, then fsynced.
3. It gets its final name by link + unlink, which cannot overwrite either, and the directory is synced.
4. The manifest is written beside, under another name, fsynced, renamed; the directory is synced once more.

A crash leaves a `.partial`, or a whole file without a manifest; a snapshot exists once its manifest does. What fails
without a crash leaves nothing: `discard` goes the same way back. After a crash the file is known by its inode, which the
journal holds (`Partial(path, adopted=inode)`): each step looks first at what was done of it already, so that both ways can
be gone again.
"""

import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from vmtui.backend.config import lock_dir, missing_directory, private_directory, sync_directory
from vmtui.backend.core.errors import RefusedError, StoreError
from vmtui.backend.core.model import FileReport, Place
from vmtui.backend.core.snapshot import SUFFIX, Manifest, ManifestError, read_manifest
from vmtui.backend.core.text import printable
from vmtui.backend.corefile import read_dump
from vmtui.backend.stream import read_stream

PARTIAL = ".partial"
STANDS_STILL = 1.0
"""Seconds without a write after which nobody writes to a file any more."""
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without them answers to link."""
NAME_LIMIT = 255 - len(PARTIAL + SUFFIX)


def survey(path: Path, resident: int = 0, *, makes_directory: bool = True) -> Place:
    """What keeps a state from being written to `path`, and how much room there is; nothing is changed.

    `makes_directory`: one that is missing is no problem.
    """
    try:
        missing = "" if makes_directory or path.parent.exists() else missing_directory(path.parent)
        return Place(str(path), _problem(path) or missing, _free(path.parent), resident)
    except OSError as error:
        return Place(str(path), f"cannot look at {_shown(path)}: {os.strerror(error.errno or 0)}", 0, resident)


def _problem(path: Path) -> str:
    if len(os.fsencode(path.name)) > NAME_LIMIT:
        return f"the file name {_shown(path)} is too long"
    if path.is_dir():
        return f"{_shown(path)} is a directory: name a file in it"
    for taken in (path, _partial(path), _manifest(path)):
        if os.path.lexists(taken):
            return f"{_shown(taken)} exists already: it is never overwritten"
    parent = _existing(path.parent)
    if not parent.is_dir():
        return f"{_shown(parent)} is no directory"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"the directory {_shown(parent)} is not writable"
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        return f"the file system of {_shown(parent)} is read-only"
    return ""


def _existing(path: Path) -> Path:
    """The nearest directory above that is there: default directories are made when they are needed."""
    return path if path.exists() else _existing(path.parent)


def _free(directory: Path) -> int:
    room = os.statvfs(_existing(directory))
    return room.f_bavail * room.f_frsize


def _shown(path: Path) -> str:
    return printable(str(path), 300)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _manifest(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _give_name(beside: Path, final: Path) -> None:
    """By link and unlink: a rename would overwrite a file that appeared meanwhile."""
    try:
        os.link(beside, final)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS or os.path.lexists(final):
            raise
        beside.rename(final)
        return
    beside.unlink()


def _manifest_begun(path: Path) -> set[int]:
    """The inodes of a manifest that a crash left beside a state that had got its name: whole, or not yet named so."""
    final, mine = _manifest(path), os.geteuid()
    found = set()
    with suppress(OSError):
        status = _partial(final).lstat()
        found |= {status.st_ino} if stat.S_ISREG(status.st_mode) and status.st_uid == mine else set()
    with suppress(OSError, ManifestError):
        read_manifest(final.read_bytes())
        found.add(final.lstat().st_ino)
    return found


Reader = Callable[[Path, "StopFlag"], FileReport]


def _read_state(path: Path, stop: "StopFlag") -> FileReport:
    report = read_stream(path, stop=stop)
    return FileReport(
        size=report.size,
        whole=report.whole,
        trouble=report.trouble or "",
        machine=report.machine or "",
        runstate=report.runstate or "",
        devices=len(report.devices),
        ram_blocks=len(report.ram_blocks),
    )


class Partial:
    """A state that is being written: it becomes a snapshot by `publish`, or it is gone after `discard`."""

    def __init__(self, path: Path, *, adopted: int | None = None) -> None:
        """Make `path`.partial and open it for writing; or find the one that has this inode again. Raises StoreError."""
        self.path = path
        self.partial = _partial(path)
        self.fd = -1
        self._inodes: set[int] = set()
        """What we made, whatever it is called by now: a file of another under the same name is left alone."""
        if adopted is None:
            self._make()
        else:
            self._adopt(adopted)

    def _make(self) -> None:
        try:
            private_directory(self.path.parent)
            self.fd = os.open(self.partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._inodes.add(os.fstat(self.fd).st_ino)
            os.fchmod(self.fd, 0o600)
            _lock(self.fd)
            sync_directory(self.path.parent)
        except OSError as error:
            with suppress(StoreError):
                self.discard()
            raise StoreError(f"cannot make {_shown(self.partial)}: {os.strerror(error.errno or 0)}") from error

    def _adopt(self, inode: int) -> None:
        """What a vmtui made that was ended, under any of its names; where it is gone, `is_there` says so."""
        self._inodes.add(inode)
        try:
            found = next((path for path in (self.partial, self.path) if self._is_ours(path)), None)
            if found is not None:
                self.fd = os.open(found, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                _lock(self.fd)
            if self._is_ours(self.path):
                self._inodes |= _manifest_begun(self.path)
        except OSError as error:
            self.close()
            raise StoreError(f"cannot open {_shown(self.partial)} again: {os.strerror(error.errno or 0)}") from error

    @property
    def is_there(self) -> bool:
        return self.fd >= 0

    @property
    def is_published(self) -> bool:
        """Its manifest got its name, which is the last thing that is done."""
        return self._is_ours(self.path) and self._is_ours(_manifest(self.path))

    @property
    def inode(self) -> int:
        """What it is known by, whatever it is called."""
        return os.fstat(self.fd).st_ino

    def emptied(self) -> int:
        """Its descriptor, for QEMU to write from the beginning: an earlier migration may have left something in it."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        return self.fd

    def verify(self, stop: "StopFlag", *, dump: bool = False) -> FileReport:
        """Read the stream, or the dump, through and sync it to the disk. Raises StoreError, StreamInterrupted."""
        try:
            report = self._read_until_it_stands_still(read_dump if dump else _read_state, stop)
            if report.whole:
                os.fsync(self.fd)
        except OSError as error:
            raise StoreError(f"cannot read back {_shown(self.partial)}: {os.strerror(error.errno or 0)}") from error
        return report

    def _read_until_it_stands_still(self, read: Reader, stop: "StopFlag") -> FileReport:
        """`exec:` says completed before its program has written the last of it: what still grows is read again."""
        name = self.path if self._is_ours(self.path) else self.partial
        while True:
            report = read(name, stop)
            age = time.time() - name.stat().st_mtime
            if report.whole or not 0 <= age < STANDS_STILL:
                return report
            time.sleep(0.1)

    def publish(self, manifest: Manifest) -> None:
        """Final name, then the manifest: the order of this module's docstring. Raises StoreError."""
        try:
            self._give_final_name()
            sync_directory(self.path.parent)
            self._write_manifest(manifest)
            sync_directory(self.path.parent)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StoreError(f"cannot finish {_shown(self.path)}: {reason}") from error
        self.close()

    def _give_final_name(self) -> None:
        if not self._is_ours(self.path):
            if not self._is_ours(self.partial):
                raise StoreError(f"{_shown(self.partial)} is no longer the file that was written")
            _give_name(self.partial, self.path)
        elif self._is_ours(self.partial):
            self.partial.unlink()  # a crash between link and unlink

    def _write_manifest(self, manifest: Manifest) -> None:
        final = _manifest(self.path)
        beside = _partial(final)
        if self._is_ours(beside):
            beside.unlink()
        if self._is_ours(final):
            return  # it was whole before it got this name
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            self._inodes.add(os.fstat(fd).st_ino)
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            file.flush()
            os.fsync(fd)
        _give_name(beside, final)

    def discard(self) -> None:
        """Remove what is there of it under any of its names, if it is still ours. Raises StoreError."""
        final = _manifest(self.path)
        try:
            ours = [path for path in (final, _partial(final), self.path, self.partial) if self._is_ours(path)]
            for path in ours:
                path.unlink()
            if ours:
                sync_directory(self.path.parent)
        except OSError as error:
            raise StoreError(f"cannot remove {_shown(self.partial)}: {os.strerror(error.errno or 0)}") from error
        finally:
            self.close()  # not before: as long as it is open, nobody else's file gets its inode

    def _is_ours(self, path: Path) -> bool:
        try:
            return path.lstat().st_ino in self._inodes
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_WHOLE_FILE = "hhqqi0q"
"""struct flock: type, whence, start, length (0 = to the end), pid."""


def _lock(fd: int) -> None:
    """Mark a file as being written. The lock belongs to the open file, not to a process: QEMU, who gets that same open file
    handed over, holds it too, so it lasts until both have closed it, also when vmtui is killed. A file system without locks
    goes without."""
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_WHOLE_FILE, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def being_written(path: Path) -> bool:
    """Whether somebody holds the lock that `_lock` takes. Asking takes none, so it is never in a save's way."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        asked = struct.pack(_WHOLE_FILE, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        return bool(struct.unpack(_WHOLE_FILE, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)


class StopFlag:
    """Set from the event loop, read by the thread that reads a file through."""

    def __init__(self) -> None:
        self.set = False

    def __call__(self) -> bool:
        return self.set


class VmLock:
    """Only one vmtui changes a VM: with two monitors, a second one would take our settings for the VM's own."""

    def __init__(self, key: str) -> None:
        """Raises RefusedError where another vmtui holds it, StoreError where no lock can be made."""
        try:
            private_directory(lock_dir())
            self.fd = os.open(_lock_path(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"cannot make a lock in {lock_dir()}: {os.strerror(error.errno or 0)}") from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.fd)
            raise RefusedError("another vmtui is at work on this VM; wait for it, or cancel it there") from error
        _lock(self.fd)  # flock keeps others out, but only this kind can be asked for: see `is_locked`

    def release(self) -> None:
        os.close(self.fd)


def is_locked(key: str) -> bool:
    """Whether a vmtui holds this VM's lock. It is not taken for that: a save that begins just then is not refused."""
    return being_written(_lock_path(key))


def _lock_path(key: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9.-]", "_", key)[-200:]
    return lock_dir() / f"{safe}.lock"
