"""Is a core dump whole, and what is it, and of which kernel? The headers and tables are read, not the guest's memory.

QEMU's dump-guest-memory writes three kinds of file:

* ELF: program headers say where each piece of memory lies, and how long it is; behind them come the sections' names.
* kdump, flattened (`kdump-zlib` and its like): a makedumpfile header, then pieces, each with the offset that it belongs to,
  and an end mark. The pieces hold the kdump file.
* kdump, raw (`kdump-raw-zlib`) and Windows' own (`win-dmp`): a header, bitmaps, and a table of pages.

The notes of the first three hold a VMCOREINFO where the VM has a `-device vmcoreinfo` and its Linux has filled it.
"""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vmtui.backend.core.model import FileReport
from vmtui.backend.stream import StreamInterrupted

FLAT_HEADER = 4096
_PIECE = struct.Struct(">qq")
"""Offset and length of a piece of a flattened file; -1, -1 at the end."""
_KDUMP = struct.Struct("<8sI412x4sIIII")
"""Signature, version, (names and a time,) status, block size, blocks of the sub-header, of the bitmaps, pages."""
_PAGE = struct.Struct("<QIIQ")
_LAST_PAGES = 4096
"""Descriptors at the end of the table that are looked at: pages lie in the file in their order."""
_WINDOWS_SIZE = 0xFA0
"""Where a Windows dump's header says how long the file must be (RequiredDumpSpace)."""
CHUNK = 1 << 20
_NOTES = 16 << 20
"""Bytes of notes that are looked at: a vCPU's are some 800."""
_RELEASE = re.compile(rb"VMCOREINFO\0\0OSRELEASE=([!-~]{1,64})\n")
"""VMCOREINFO's name, padded to four bytes, and its first line."""


class _NotWhole(ValueError):
    """Something is missing, or is not what it should be; the text says what."""


def read_dump(path: Path, stop: Callable[[], bool] = lambda: False) -> FileReport:
    """What kind of dump it is, and whether it is whole. Raises OSError, and StreamInterrupted when `stop()`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        name, check = _kind(file.read(16))
        try:
            found = check(file, size, stop)
        except _NotWhole as error:
            return FileReport(size, False, str(error), format=name)
        except struct.error:
            return FileReport(size, False, "it breaks off in a header", format=name)
    return FileReport(size, True, ram_blocks=found.pieces, format=name, kernel=_release(found.notes))


def is_dump(path: Path) -> bool:
    """Whether it begins as a core dump does. Raises OSError."""
    with path.open("rb") as file:
        return bool(_kind(file.read(16))[0])


class _Found(NamedTuple):
    pieces: int
    """Of memory."""
    notes: bytes = b""


Check = Callable[[BinaryIO, int, Callable[[], bool]], _Found]
"""Raises _NotWhole."""


def _kind(magic: bytes) -> tuple[str, Check]:
    kinds: tuple[tuple[bytes, str, Check], ...] = (
        (b"\x7fELF", "ELF core", _check_elf),
        (b"makedumpfile", "kdump, flattened", _check_flattened),
        (b"KDUMP   ", "kdump", _check_kdump),
        (b"PAGEDU64", "Windows dump", _check_windows),
    )
    return next(((name, check) for start, name, check in kinds if magic.startswith(start)), ("", _check_unknown))


def _check_unknown(_file: BinaryIO, size: int, _stop: Callable[[], bool]) -> _Found:
    raise _NotWhole("it is no core dump" if size else "it is empty")


def _release(notes: bytes) -> str:
    """The guest's kernel, as its `uname -r` says it; empty where the notes do not tell."""
    found = _RELEASE.search(notes)
    return found[1].decode("ascii") if found else ""


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise _NotWhole("it breaks off in a header")
    return data


# --- ELF ----------------------------------------------------------------------------------------------------------

_CORE, _NOTE = 4, 4
_MANY = 0xFFFF
"""So many program headers do not fit the field: the first section's header then says how many."""


def _check_elf(file: BinaryIO, size: int, stop: Callable[[], bool]) -> _Found:
    identity = _at(file, 0, 16)
    order, wide = "<" if identity[5] == 1 else ">", identity[4] == 2
    head = struct.unpack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), _at(file, 16, 48 if wide else 36))
    kind, programs, sections, each, count, named = head[0], head[4], head[5], head[8], head[9], head[11]
    if kind != _CORE:
        raise _NotWhole("it is an ELF file, but no core dump")
    if count == _MANY:
        info = struct.unpack(order + ("44xI16x" if wide else "28xI8x"), _at(file, sections, 64 if wide else 40))
        count = info[0]
    if not count:
        raise _NotWhole("it has no memory in it")
    program = struct.Struct(order + ("I4xQ16xQ16x" if wide else "II8xI12x"))
    section = struct.Struct(order + ("I20xQQ24x" if wide else "I12xII16x"))
    if each != program.size:
        raise _NotWhole("its program headers have an unknown size")
    notes = b""
    for header, at, number in ((program, programs, count), (section, sections, named)):
        for index in range(number):
            if stop():
                raise StreamInterrupted
            sort, offset, length = header.unpack(_at(file, at + index * header.size, header.size))
            if offset + length > size:
                raise _NotWhole(f"it breaks off: {offset + length - size} bytes are missing")
            if header is program and sort == _NOTE:
                notes = _at(file, offset, min(length, _NOTES))
    return _Found(int(count), notes)


# --- kdump --------------------------------------------------------------------------------------------------------


def _check_flattened(file: BinaryIO, size: int, stop: Callable[[], bool]) -> _Found:
    """Each piece must be there, and the end mark behind the last; the first is the kdump header.

    The notes are in one of the pieces behind it, before the bitmaps.
    """
    at, pieces, notes_end, notes = FLAT_HEADER, 0, 0, b""
    while True:
        offset, length = _PIECE.unpack(_at(file, at, _PIECE.size))
        if (offset, length) == (-1, -1):
            break
        at += _PIECE.size
        if pieces == 0 and not _is_kdump(file, at, offset):
            raise _NotWhole("it does not begin with a kdump header")
        if offset < 0 or length <= 0 or at + length > size:
            raise _NotWhole("it breaks off in a piece of memory")
        if pieces == 0 and length >= _KDUMP.size:
            notes_end = _notes_end(_at(file, at, _KDUMP.size))
        if offset < notes_end and len(notes) < _NOTES:
            notes += _at(file, at, min(length, _NOTES))
        at, pieces = at + length, pieces + 1
        if pieces % 1000 == 0 and stop():
            raise StreamInterrupted
    if not pieces:
        raise _NotWhole("it has no memory in it")
    return _Found(pieces, notes)


def _notes_end(header: bytes) -> int:
    """Where, in a kdump file with this header, the bitmaps begin."""
    _sign, _version, _status, block, sub, _bitmaps, _pages = _KDUMP.unpack(header)
    return int((1 + sub) * block)


def _is_kdump(file: BinaryIO, at: int, offset: int) -> bool:
    return offset == 0 and _at(file, at, 8) == b"KDUMP   "


def _check_kdump(file: BinaryIO, size: int, stop: Callable[[], bool]) -> _Found:
    """The table of pages must be there, and what its last entries point to."""
    header = _at(file, 0, _KDUMP.size)
    _sign, _version, _status, block, sub, bitmaps, _pages = _KDUMP.unpack(header)
    if not block or block % 512 or not bitmaps:
        raise _NotWhole("its header makes no sense")
    count = _bits(file, (1 + sub + bitmaps // 2) * block, bitmaps // 2 * block, stop)
    table = (1 + sub + bitmaps) * block
    if not count:
        raise _NotWhole("it has no memory in it")
    looked_at = min(count, _LAST_PAGES)
    entries = _at(file, table + (count - looked_at) * _PAGE.size, looked_at * _PAGE.size)
    end = max(offset + length for offset, length, _flags, _more in _PAGE.iter_unpack(entries))
    if end > size:
        raise _NotWhole(f"it breaks off: {end - size} bytes are missing")
    return _Found(count, _at(file, block, min(_notes_end(header) - block, _NOTES)))


def _bits(file: BinaryIO, offset: int, length: int, stop: Callable[[], bool]) -> int:
    """How many pages the second bitmap says are in the file."""
    count = 0
    for start in range(0, length, CHUNK):
        if stop():
            raise StreamInterrupted
        count += int.from_bytes(_at(file, offset + start, min(CHUNK, length - start)), "little").bit_count()
    return count


def _check_windows(file: BinaryIO, size: int, _stop: Callable[[], bool]) -> _Found:
    (needed,) = struct.unpack("<Q", _at(file, _WINDOWS_SIZE, 8))
    if needed > size:
        raise _NotWhole(f"it breaks off: {needed - size} bytes are missing")
    return _Found(1)
