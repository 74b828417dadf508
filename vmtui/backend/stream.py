"""Is a migration stream whole, and what is in it?

`read_stream` walks the file once, from the magic number to its last byte, through one reused buffer: each section to
its footer, each RAM page to its end. Nothing is taken on trust and nothing is skipped unread, so a file on a failing
disk says so here and not at the restore. It never maps the file: a mapped file that shrinks kills the process (SIGBUS).

How long a device's section is stands only in the JSON description behind the stream, so that is looked up first, from
the end of the file. Where there is none (a cut off file) the sections are found by searching for their footers; that
serves to say where the file breaks off, and such a file is whole only if a description found later on agrees.

Formats: QEMU's `docs/devel/migration/main.rst`, `mapped-ram.rst` and `scripts/analyze-migration.py`; libvirt's
`qemu_saveimage.h`.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from struct import Struct
from typing import Annotated, NoReturn

import msgspec

from vmtui.backend.core.text import printable

MAX_DESCRIPTION = 32 << 20
"""Bytes of JSON we agree to hold; QEMU writes about 0.1 MiB, and some 10 KiB more per virtual CPU."""
MAX_SECTIONS = 65_536
MAX_RAM_BLOCKS = 65_536
CHUNK = 1 << 20
"""Bytes read at a time: small enough to stay in the processor's cache, and asked for `stop` between two."""
MAX_SEARCH = 1 << 30
"""Bytes of one device's state, as long as no description tells how many there are."""
_LOOKAHEAD = 512
"""Bytes looked at behind a supposed footer; the longest section header is 1 + 4 + 1 + 255 + 4 + 4."""

_U16, _U32, _U64 = Struct(">H"), Struct(">I"), Struct(">Q")

_EOF, _START, _PART, _END, _FULL, _SUBSECTION, _VMDESCRIPTION, _CONFIGURATION, _COMMAND = range(9)
_FOOTER = 0x7E
_MAGIC, _VERSION = b"QEVM", 3
_MAPPED_RAM_HEADER = Struct(">IQQQ")
_LIBVIRT_MAGIC, _LIBVIRT_PARTIAL, _LIBVIRT_HEADER_SIZE = b"LibvirtQemudSave", b"LibvirtQemudPart", 92
_LIBVIRT_COMPRESSION = {0: None, 1: "gzip", 2: "bzip2", 3: "xz", 4: "lzop", 5: "zstd", 6: None}
"""6 is libvirt's "sparse": mapped-ram behind libvirt's header."""

_ZERO, _MEM_SIZE, _PAGE, _EOS, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
_XBZRLE, _COMPRESS_PAGE, _MULTIFD_FLUSH = 0x40, 0x100, 0x200
"""0x80 (HOOK) is for RDMA and never in a file."""

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip: decompress it to read it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it to read it"),
    (b"\xfd7zXZ\x00", "compressed with xz: decompress it to read it"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: decompress it to read it"),
    (b"BZh", "compressed with bzip2: decompress it to read it"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"\x7fELF", "an ELF file, such as a memory dump (dump-guest-memory)"),
    (b"KDUMP   ", "a kdump memory dump (dump-guest-memory)"),
    (b"makedumpfile", "a kdump memory dump (dump-guest-memory)"),
)

_FILE_TYPES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR,  "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR,  "a character device"),
    (stat.S_ISBLK,  "a block device"),
)  # fmt: skip


class StreamInterrupted(Exception):
    """`stop()` said so."""


@dataclass(frozen=True, slots=True)
class RamBlock:
    name: str
    size: int
    """Bytes of the guest's memory, not of the file."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device's section, or all the sections of one that is saved in several (never `ram`)."""

    name: str
    instance: int
    version: int
    size: int
    """Bytes in the file, from the section's type byte to the end of its footer."""


@dataclass(frozen=True, slots=True)
class StreamReport:
    size: int
    """Bytes of the file."""
    kind: str
    """"stream" | "mapped-ram" | "libvirt" | "unknown"."""
    machine: str | None = None
    """QEMU's machine type, with its version: "pc-q35-7.2"."""
    runstate: str | None = None
    """QEMU's run state after loading: "paused" waits for `cont`."""
    ram_blocks: tuple[RamBlock, ...] = ()
    ram_pages: int = 0
    """Pages with content in the file; a page that was sent twice counts twice."""
    zero_pages: int = 0
    """Pages of which the file only says that they are zero (mapped-ram: does not hold)."""
    devices: tuple[Device, ...] = ()
    whole: bool = False
    trouble: str | None = None
    """Where and why it breaks off, in one line that is safe to print; None when whole."""
    was_running: bool | None = None
    """libvirt's note of whether the VM ran when it was saved; None without a libvirt header."""


def read_stream(
    source: Path | int,
    *,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> StreamReport:
    """Read a file, or an open descriptor (whose offset stays where it is), through to its end.

    `progress` gets the offset reached, `stop` is asked, about once a MiB. Raises OSError for what the OS refuses and
    StreamInterrupted when `stop()` said so; whatever the file holds is no error but a report.
    """
    if isinstance(source, int):
        return _read(source, progress, stop)
    if (refused := _refusal(source.stat())) is not None:
        return refused  # without opening it: a pipe would wait for a writer, a watchdog device would reset the host
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return _read(fd, progress, stop)
    finally:
        os.close(fd)


def _read(fd: int, progress: Callable[[int], None] | None, stop: Callable[[], bool] | None) -> StreamReport:
    status = os.fstat(fd)
    if (refused := _refusal(status)) is not None:
        return refused
    window = _Window(fd, status.st_size, progress, stop)
    report = _walk_file(window)
    if report.whole and os.fstat(fd).st_size != status.st_size:
        trouble = f"the file had {status.st_size} bytes at first and has another size now: something still writes it"
        return replace(report, whole=False, trouble=trouble)
    return report


def _refusal(status: os.stat_result) -> StreamReport | None:
    if stat.S_ISREG(status.st_mode):
        return None
    what = next((words for matches, words in _FILE_TYPES if matches(status.st_mode)), "something else")
    return StreamReport(size=0, kind="unknown", trouble=f"this is {what}, not a file")


def _walk_file(window: "_Window") -> StreamReport:
    seen = _Seen()
    try:
        _libvirt_header(window, seen)
        start = window.at
        _magic(window, start)
        if seen.kind == "unknown":
            seen.kind = "stream"
        walk = _Walk(window, seen, _description_at_end(window.ahead(), start))
        if not walk.to_end():
            # Sections found by their footers alone are not as long as the description says: believe the description.
            window.seek(start + 8)
            seen.forget()
            _Walk(window, seen, walk.description).to_end()
            # The description was not where a whole file has it, so that walk must have found out why.
            raise _Broken(start, "the file changed while it was read")
        if seen.partial:
            raise _Broken(0, "libvirt's header says that this file was never finished")
    except _Broken as broken:
        return seen.report(window.size, trouble=str(broken))
    return seen.report(window.size, trouble=None)


class _Broken(Exception):
    """The stream ends here, as far as anyone can read it."""

    def __init__(self, offset: int, words: str) -> None:
        super().__init__(printable(f"at byte {offset}: {words}", 300))


@dataclass(slots=True)
class _Seen:
    """What was found up to now: the report in the making."""

    kind: str = "unknown"
    partial: bool = False
    was_running: bool | None = None
    machine: str | None = None
    runstate: str | None = None
    ram_blocks: dict[str, int] = field(default_factory=dict)
    ram_pages: int = 0
    zero_pages: int = 0
    devices: dict[int, Device] = field(default_factory=dict)
    """By section id."""

    def forget(self) -> None:
        """Before a second walk over the same file."""
        self.machine = self.runstate = None
        self.ram_pages = self.zero_pages = 0
        self.ram_blocks.clear()
        self.devices.clear()

    def report(self, size: int, trouble: str | None) -> StreamReport:
        return StreamReport(
            size=size,
            kind=self.kind,
            machine=self.machine,
            runstate=self.runstate,
            ram_blocks=tuple(RamBlock(name, length) for name, length in self.ram_blocks.items()),
            ram_pages=self.ram_pages,
            zero_pages=self.zero_pages,
            devices=tuple(self.devices.values()),
            whole=trouble is None,
            trouble=trouble,
            was_running=self.was_running,
        )


class _Window:
    """The file, seen forward through one buffer that is filled again and again."""

    def __init__(self, fd: int, size: int, progress: Callable[[int], None] | None, stop: Callable[[], bool] | None) -> None:
        self.fd = fd
        self.size = size
        self.where = "in its header"
        """What is being read, for the message if the file ends there."""
        self.buffer = bytearray(CHUNK)
        self.base = 0
        """The file's offset of the buffer's first byte."""
        self.pos = 0
        self.end = 0
        """The buffer is filled as far as this."""
        self._progress = progress
        self._stop = stop
        self._view = memoryview(self.buffer)

    @property
    def at(self) -> int:
        return self.base + self.pos

    def ahead(self) -> "_Window":
        """Another window on the same file, to look something up without losing the place."""
        return _Window(self.fd, self.size, None, self._stop)

    def have(self, count: int) -> bool:
        """Bring the next `count` bytes (at most a chunk) into the buffer; False if the file ends before."""
        if self.end - self.pos < count and self.base + self.end < self.size:
            self.refill()
        return self.end - self.pos >= count

    def refill(self) -> None:
        """Move the window forward to `at`. A file that shrank just ends earlier."""
        if self._stop is not None and self._stop():
            raise StreamInterrupted
        self.base += self.pos
        self.pos = 0
        self.end = self._fill(self.base, min(CHUNK, max(0, self.size - self.base)))
        if self._progress is not None:
            self._progress(self.base + self.end)

    def _fill(self, offset: int, wanted: int) -> int:
        filled = 0
        while filled < wanted:
            count = os.preadv(self.fd, [self._view[filled:wanted]], offset + filled)
            if count == 0:
                break
            filled += count
        return filled

    def seek(self, offset: int) -> None:
        self.base, self.pos, self.end = offset, 0, 0

    def ends(self) -> NoReturn:
        raise _Broken(min(self.size, self.base + self.end), f"the file ends {self.where}")

    def skip(self, count: int) -> None:
        """Read over `count` bytes."""
        if count > self.size - self.at:
            raise _Broken(self.size, f"the file ends {self.where}: {count} bytes should follow byte {self.at}")
        while count > self.end - self.pos:
            count -= self.end - self.pos
            self.pos = self.end
            self.refill()
            if self.end == 0:
                self.ends()
        self.pos += count

    def take(self, count: int) -> bytes:
        if not self.have(count):
            self.ends()
        self.pos += count
        return bytes(self._view[self.pos - count : self.pos])

    def peek(self) -> int | None:
        return self.buffer[self.pos] if self.have(1) else None

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def counted(self) -> str:
        """A string behind its length in one byte: RAM blocks, devices, subsections."""
        return _text(self.take(self.u8()))


def _text(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "backslashreplace"))


def _libvirt_header(window: _Window, seen: _Seen) -> None:
    """Step over libvirt's header and the domain's XML, if they are there."""
    if not window.have(16) or bytes(window.buffer[:16]) not in (_LIBVIRT_MAGIC, _LIBVIRT_PARTIAL):
        return
    seen.kind = "libvirt"
    window.where = "in libvirt's header"
    head = window.take(_LIBVIRT_HEADER_SIZE)
    seen.partial = head.startswith(_LIBVIRT_PARTIAL)
    # The numbers are in the byte order of the host that saved; the version is small, which tells them apart.
    order = "<" if Struct("<I").unpack_from(head, 16)[0] <= 0xFFFF else ">"
    version, length, was_running, compression = Struct(f"{order}4I").unpack_from(head, 16)
    if version not in (1, 2):
        raise _Broken(16, f"libvirt's header has version {version}, which vmtui does not know")
    seen.was_running = bool(was_running)
    window.where = "in libvirt's description of the VM"
    window.skip(length)
    program = _LIBVIRT_COMPRESSION.get(compression, f"method {compression}")
    if program is not None:
        raise _Broken(window.at, f"libvirt compressed the stream ({program}): it cannot be read through")


def _magic(window: _Window, start: int) -> None:
    if window.size == 0:
        raise _Broken(0, "the file is empty")
    window.have(16)
    head = bytes(window.buffer[window.pos : min(window.end, window.pos + 16)])
    if not head.startswith(_MAGIC[: len(head)]):
        what = next((words for magic, words in _FOREIGN if head.startswith(magic)), "no migration stream")
        raise _Broken(start, f"this is {what}")
    window.skip(4)
    if (version := window.u32()) != _VERSION:
        raise _Broken(start + 4, f"stream version {version} is not {_VERSION}, the only one QEMU writes")


# Msgspec steps over whatever is not named here without building it. Tuples and no garbage collector, because a hostile
# description may hold millions of these.
class _Field(msgspec.Struct, gc=False):
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    array_len: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 1
    """Of a compressed array, whose `size` is that of one element."""


class _Vmsd(msgspec.Struct, gc=False):
    fields: tuple[_Field, ...]
    vmsd_name: str = ""
    subsections: "tuple[_Vmsd, ...]" = ()

    def length(self) -> int:
        own = sum(each.size * each.array_len for each in self.fields)
        # A subsection brings its own header: a byte, its counted name, its version.
        return own + sum(1 + 1 + len(sub.vmsd_name.encode()) + 4 + sub.length() for sub in self.subsections)


class _VmsdDevice(_Vmsd, kw_only=True, gc=False):
    name: str
    instance_id: int


class _Json(msgspec.Struct):
    devices: tuple[_VmsdDevice, ...]
    page_size: int = 4096
    configuration: _Vmsd | None = None


_decoder = msgspec.json.Decoder(_Json)


@dataclass(frozen=True, slots=True)
class _Description:
    offset: int
    """Of its first byte in the file."""
    page_size: int
    lengths: dict[tuple[str, int], int]
    """Bytes between a device's section header and its footer, by name and instance."""
    configuration: dict[str, int]
    """Bytes of each of the configuration's subsections, by name."""


def _parse_description(raw: bytes, offset: int) -> _Description:
    try:
        parsed = _decoder.decode(raw)
        lengths = {(printable(one.name), one.instance_id): one.length() for one in parsed.devices}
        parts = parsed.configuration.subsections if parsed.configuration else ()
        configuration = {part.vmsd_name: part.length() for part in parts}
    except (msgspec.MsgspecError, UnicodeError):
        raise _Broken(offset, "the description of the devices is not the JSON that QEMU writes") from None
    except RecursionError:
        raise _Broken(offset, "the description of the devices is nested too deep to be QEMU's") from None
    if len(lengths) != len(parsed.devices):
        raise _Broken(offset, "the description of the devices lists one of them twice")
    if parsed.page_size not in (1 << bits for bits in range(10, 21)):
        raise _Broken(offset, f"the description gives a page size of {parsed.page_size} bytes")
    return _Description(offset, parsed.page_size, lengths, configuration)


def _description_at_end(window: _Window, start: int) -> _Description | None:
    """The JSON that the file ends with, if it does.

    JSON holds no zero byte, and the length before it, or the end mark before that, has one. A guest chooses some of
    what is in the file, but not its last bytes.
    """
    zero = _last_zero(window, max(start, window.size - MAX_DESCRIPTION))
    for offset in () if zero is None else range(zero + 1, zero + 7):
        window.seek(max(start, offset - 5))
        if window.have(5) and window.u8() == _VMDESCRIPTION and window.u32() == window.size - offset:
            try:
                return _parse_description(_raw(window, window.size - offset), offset)
            except _Broken:
                return None  # the walk comes by here too, and then it is known what else is in the file
    return None


def _last_zero(window: _Window, floor: int) -> int | None:
    top = window.size
    while top > floor:
        bottom = max(floor, top - CHUNK)
        window.seek(bottom)
        window.have(top - bottom)
        place = window.buffer.rfind(b"\0", 0, min(window.end, top - bottom))
        if place >= 0:
            return bottom + place
        top = bottom
    return None


def _raw(window: _Window, length: int) -> bytes:
    """A long piece, in one. Callers bound `length`."""
    pieces = []
    while length:
        pieces.append(window.take(min(length, CHUNK)))
        length -= len(pieces[-1])
    return b"".join(pieces)


@dataclass(slots=True)
class _Section:
    name: str
    instance: int
    open: bool = True
    """More parts may follow."""


class _Walk:
    """One walk over the stream, from behind its version to the end of the file."""

    def __init__(self, window: _Window, seen: _Seen, description: _Description | None) -> None:
        self.window = window
        self.seen = seen
        self.description = description
        self.guide = description
        """The description that says how long sections are; without one they are searched for their footers."""
        self.sections: dict[int, _Section] = {}
        self.lengths: dict[tuple[str, int], int] = {}
        """Of the device sections that were met: to be held against the description."""
        self.page_size = description.page_size if description else 4096
        self.ignore_shared = False
        self.mapped_ram = False
        self.block: str | None = None
        self.limit = 0
        """Bytes of the RAM block that CONTINUE means; 0 before the first."""
        self._records: dict[int, Callable[[int], None]] = {
            _EOF:     self._unexpected,
            _START:   self._start,
            _PART:    self._part,
            _END:     self._part,
            _FULL:    self._full,
            _COMMAND: self._command,
        }  # fmt: skip
        self._live: dict[tuple[str, int], Callable[[], None]] = {
            ("ram", 4):                     self._ram,
            ("block", 1):                   self._block,
            ("dirty-bitmap", 1):            self._dirty_bitmap,
            ("spapr/htab", 1):              self._htab,
            ("s390-storage_attributes", 0): self._storage_attributes,
        }  # fmt: skip
        self._live_readers: dict[int, Callable[[], None]] = {}

    def to_end(self) -> bool:
        """True: whole. False: walk again with `description`, which was found only now and disagrees."""
        window = self.window
        self._configuration()
        while True:
            window.where = "where the next section or the end mark should be"
            kind = window.u8()
            if kind == _EOF:
                break
            self._records.get(kind, self._unexpected)(kind)
        self._vmdescription()
        if "ram" not in (section.name for section in self.sections.values()):
            raise _Broken(window.at, "the stream ends and had no RAM: it is of devices only")
        return self._agreed()

    def _unexpected(self, kind: int) -> None:
        raise _Broken(self.window.at - 1, f"a section cannot begin with the byte 0x{kind:02x}")

    # The configuration section

    def _configuration(self) -> None:
        window = self.window
        if window.peek() != _CONFIGURATION:
            return
        window.where = "in the configuration"
        window.skip(1)
        if not 0 < (length := window.u32()) <= 255:
            raise _Broken(window.at - 4, f"the machine's name cannot be {length} bytes long")
        self.seen.machine = _text(window.take(length))
        while window.peek() == _SUBSECTION:
            window.skip(1)
            name = window.counted()
            window.skip(4)
            self._configuration_subsection(name)

    def _configuration_subsection(self, name: str) -> None:
        window = self.window
        if name == "configuration/capabilities":
            self._capabilities()
        elif name == "configuration/target-page-bits":
            self._target_page_bits(window.u32())
        elif name == "configuration/uuid":
            window.skip(16)
        elif self.description and name in self.description.configuration:
            window.skip(self.description.configuration[name])
        else:
            raise _Broken(window.at, f"vmtui does not know the configuration's part {name}")

    def _capabilities(self) -> None:
        for _ in range(self._sane(self.window.u32(), 256, "capabilities")):
            capability = self.window.counted()
            self.ignore_shared |= capability == "x-ignore-shared"
            self.mapped_ram |= capability == "mapped-ram"
        if self.mapped_ram and self.seen.kind == "stream":
            self.seen.kind = "mapped-ram"

    def _target_page_bits(self, bits: int) -> None:
        if not 10 <= bits <= 20:
            raise _Broken(self.window.at - 4, f"a page cannot have 2^{bits} bytes")
        if self.description and self.page_size != 1 << bits:
            raise _Broken(self.window.at - 4, "the stream and its description disagree about the page size")
        self.page_size = 1 << bits

    def _sane(self, count: int, most: int, what: str) -> int:
        if count > most:
            raise _Broken(self.window.at, f"{count} {what} are more than vmtui believes ({most})")
        return count

    # Sections

    def _header(self) -> tuple[int, _Section, int]:
        """Section id, section and version of one that is met for the first time."""
        window = self.window
        begin = window.at - 1
        window.where = "in a section's header"
        identity, name, instance, version = window.u32(), window.counted(), window.u32(), window.u32()
        window.where = f"in section {name}"
        if identity in self.sections:
            raise _Broken(begin, f"section {name} has the number of section {self.sections[identity].name}")
        self._sane(len(self.sections) + 1, MAX_SECTIONS, "sections")
        self.sections[identity] = _Section(name, instance)
        return identity, self.sections[identity], version

    def _start(self, _: int) -> None:
        begin = self.window.at - 1
        identity, section, version = self._header()
        reader = self._live.get((section.name, version))
        if section.name in {name for name, _ in self._live} and (reader is None or section.instance != 0):
            what = f"{section.name} ({section.instance}), version {version}"
            raise _Broken(begin, f"vmtui does not know this kind of section: {what}")
        self._live_readers[identity] = reader or partial(self._search_footer, identity)
        self._live_readers[identity]()
        self._footer(identity)
        if section.name != "ram":
            self._note(identity, Device(section.name, section.instance, version, self.window.at - begin))

    def _part(self, kind: int) -> None:
        window = self.window
        begin = window.at - 1
        window.where = "in a section's header"
        identity = window.u32()
        section = self.sections.get(identity)
        if section is None or identity not in self._live_readers or not section.open:
            raise _Broken(begin, f"a section goes on (number {identity}) that never began or has ended")
        window.where = f"in section {section.name}"
        section.open = kind == _PART
        self._live_readers[identity]()
        self._footer(identity)
        if (device := self.seen.devices.get(identity)) is not None:
            self._note(identity, replace(device, size=device.size + window.at - begin))

    def _full(self, _: int) -> None:
        begin = self.window.at - 1
        identity, section, version = self._header()
        section.open = False
        content = self.window.at
        if section.name == "globalstate":
            self._globalstate()
        if (section.name, section.instance) in self.lengths:
            raise _Broken(begin, f"device {section.name} ({section.instance}) comes a second time")
        self.lengths[section.name, section.instance] = self._content(identity, section, content)
        self._footer(identity)
        self._note(identity, Device(section.name, section.instance, version, self.window.at - begin))

    def _note(self, identity: int, device: Device) -> None:
        self.seen.devices[identity] = device

    def _content(self, identity: int, section: _Section, content: int) -> int:
        """Step over a device's state; bytes that it has."""
        if self.guide is None:
            self._search_footer(identity, MAX_SEARCH)
            return self.window.at - content
        length = self.guide.lengths.get((section.name, section.instance))
        if length is None:
            raise _Broken(content, f"device {section.name} is in the stream but not in its description")
        if length > (left := self.window.size - content):
            raise _Broken(content, f"device {section.name} should have {length} bytes, but only {left} are left")
        self.window.skip(length)
        return length

    def _globalstate(self) -> None:
        """The run state: a length and a buffer that is larger. Leaves the window where it was."""
        window = self.window
        window.have(104)
        state = bytes(window.buffer[window.pos : min(window.end, window.pos + 104)])
        length = int.from_bytes(state[:4], "big")
        self.seen.runstate = _text(state[4 : 4 + length].partition(b"\0")[0]) or None

    def _footer(self, identity: int) -> None:
        window = self.window
        at = window.at
        if window.u8() != _FOOTER or window.u32() != identity:
            raise _Broken(at, f"section {self.sections[identity].name} does not end where it should, or is damaged")

    def _search_footer(self, identity: int, most: float = inf) -> None:
        """Go to the footer of a section whose length nobody tells."""
        window = self.window
        footer, begin = bytes((_FOOTER,)) + _U32.pack(identity), window.at
        while True:
            place = window.buffer.find(footer, window.pos, window.end)
            if place >= 0:
                window.pos = place
                window.have(_LOOKAHEAD)
                if self._believable(window.pos + len(footer)):
                    return
                window.pos += 1
                continue
            window.pos = max(window.pos, window.end - len(footer) + 1)
            left = window.end - window.pos
            if window.at - begin > most:
                raise _Broken(begin, f"no end of section {self.sections[identity].name} within {most} bytes")
            window.refill()
            if window.end <= left:
                window.ends()

    def _believable(self, pos: int) -> bool:
        """Could a section begin, or the file end, at `pos` of the buffer?"""
        buffer, end = self.window.buffer, self.window.end
        kind = buffer[pos] if pos < end else _EOF
        if kind == _EOF:
            return pos + 1 >= end or buffer[pos + 1] == _VMDESCRIPTION
        if kind not in self._records:
            return False
        number = _U32.unpack_from(buffer, pos + 1)[0]
        if kind in (_PART, _END):
            return number in self._live_readers
        name = buffer[pos + 6 : min(end, pos + 6 + buffer[pos + 5])]
        return kind == _COMMAND or (number not in self.sections and _NAME.fullmatch(name) is not None)

    def _command(self, _: int) -> None:
        window = self.window
        window.where = "in a command"
        at = window.at - 1
        command, length = window.u16(), window.u16()
        if command in _MISPLACED_COMMANDS or command > 63:
            raise _Broken(at, f"command {command} cannot be in a file")
        window.skip(length)

    # The end

    def _vmdescription(self) -> None:
        window = self.window
        if window.peek() is None:
            raise _Broken(window.at, "the file ends without the description of its devices")
        if window.u8() != _VMDESCRIPTION:
            raise _Broken(window.at - 1, f"{window.size - window.at + 1} bytes after the end")
        window.where = "in the description of the devices"
        length = window.u32()
        if length > window.size - window.at:
            raise _Broken(window.size, f"the description of the devices is cut off: it should have {length} bytes")
        at = window.at
        raw = _raw(window, self._sane(length, MAX_DESCRIPTION, "bytes of description"))
        if self.description is None or self.description.offset != at:
            self.description = _parse_description(raw, at)

    def _agreed(self) -> bool:
        """Hold what was walked against the description that was met; True if they agree to the byte."""
        assert self.description is not None
        lengths = self.description.lengths
        if self.lengths != lengths and self.description is not self.guide:
            return False
        if missing := next((name for name, instance in lengths if (name, instance) not in self.lengths), None):
            raise _Broken(self.description.offset, f"device {missing} is described but not in the stream")
        if rest := self.window.size - self.window.at:
            raise _Broken(self.window.at, f"{rest} bytes after the end")
        return True

    # RAM

    def _ram(self) -> None:
        """One section of RAM, page by page, to its end mark.

        The inner loop is all that a large file is made of: it knows nothing but a page, or a zero page, of the block
        the last one was of. Everything else, and whatever looks wrong, is one step of the loop around it.
        """
        window, buffer = self.window, self.window.buffer
        unpack, flags = _U64.unpack_from, self.page_size - 1
        normal, size, zero = _PAGE | _CONTINUE, 8 + self.page_size, _ZERO | _CONTINUE
        while True:
            window.have(size)
            pos, last, limit = window.pos, window.end - size, self.limit
            pages = zeros = 0
            while pos <= last:
                head = unpack(buffer, pos)[0]
                if head >= limit:
                    break
                kind = head & flags
                if kind == normal:
                    pos += size
                    pages += 1
                elif kind == zero:
                    pos += 9
                    zeros += 1
                else:
                    break
            window.pos = pos
            self.seen.ram_pages += pages
            self.seen.zero_pages += zeros
            if not self._ram_record():
                return

    def _ram_record(self) -> bool:
        """One record of any kind; False at the section's end."""
        window = self.window
        at = window.at
        head = window.u64()
        kind, address = head & (self.page_size - 1), head & -self.page_size
        if head == _EOS:
            return False
        if kind == _MEM_SIZE:
            self._ram_list(address)
        elif head != _MULTIFD_FLUSH:
            self._ram_page(at, kind, address)
        return True

    def _ram_page(self, at: int, kind: int, address: int) -> None:
        window = self.window
        if kind & ~_CONTINUE not in (_ZERO, _PAGE, _XBZRLE, _COMPRESS_PAGE):
            raise _Broken(at, f"a RAM page cannot have the flags 0x{kind:x}")
        if not kind & _CONTINUE:
            self.block = window.counted()
            window.where = f"in RAM block {self.block}"
        if self.block is None:
            raise _Broken(at, "a page of the RAM block before, but there is none")
        if self.block not in self.seen.ram_blocks:
            raise _Broken(at, f"a page of RAM block {self.block}, which the stream does not list")
        self.limit = self.seen.ram_blocks[self.block]
        if address >= self.limit:
            raise _Broken(at, f"a page at {address} of RAM block {self.block}, which has {self.limit} bytes")
        self._ram_content(kind & ~_CONTINUE)

    def _ram_content(self, kind: int) -> None:
        window = self.window
        if kind == _ZERO:
            window.skip(1)
            self.seen.zero_pages += 1
            return
        if kind == _XBZRLE:
            window.skip(1)
        length = {_PAGE: lambda: self.page_size, _XBZRLE: window.u16, _COMPRESS_PAGE: window.u32}[kind]()
        if length > 2 * self.page_size:
            raise _Broken(window.at, f"a compressed page cannot have {length} bytes")
        window.skip(length)
        self.seen.ram_pages += 1

    def _ram_list(self, total: int) -> None:
        """The RAM blocks: `total` is the sum of their sizes."""
        window = self.window
        window.where = "in the list of RAM blocks"
        while total > 0:
            at = window.at
            name, size = window.counted(), window.u64()
            self._sane(len(self.seen.ram_blocks) + 1, MAX_RAM_BLOCKS, "RAM blocks")
            if not name:
                raise _Broken(at, "a RAM block without a name")
            if size > total:
                raise _Broken(at, f"RAM block {name} has {size} bytes, more than is left of all RAM ({total})")
            self.seen.ram_blocks[name] = size
            total -= size
            if self.ignore_shared:
                window.skip(8)
            if self.mapped_ram:
                self._mapped_ram(name, size)
            self._huge_page_size()

    def _huge_page_size(self) -> None:
        """With the capability postcopy-ram, which the stream does not mention, a block on huge pages says their size.

        A name never begins with a zero byte, and no other record is a plain power of two this large.
        """
        window = self.window
        if window.have(8):
            value = _U64.unpack_from(window.buffer, window.pos)[0]
            if self.page_size < value <= 1 << 34 and value & (value - 1) == 0:
                window.skip(8)

    def _mapped_ram(self, name: str, size: int) -> None:
        """One block's pages, each at its own place in the file; a bitmap says which are there."""
        window = self.window
        at = window.at
        version, page_size, bitmap, pages = _MAPPED_RAM_HEADER.unpack(window.take(_MAPPED_RAM_HEADER.size))
        if version != 1 or page_size != self.page_size:
            raise _Broken(at, f"RAM block {name}: vmtui does not know this layout (mapped-ram {version}, {page_size})")
        if self.ignore_shared and bitmap == pages == 0:
            return
        count = -(-size // page_size)
        if not window.at <= bitmap <= bitmap + (count + 7) // 8 <= pages:
            raise _Broken(at, f"RAM block {name}: its bitmap ({bitmap}) and pages ({pages}) overlap")
        if pages + size > window.size:
            raise _Broken(window.size, f"the file ends in RAM block {name}, whose pages go on to byte {pages + size}")
        window.where = f"in RAM block {name}"
        self._mapped_pages(bitmap, pages, count)
        window.seek(pages + size)

    def _mapped_pages(self, bitmap: int, pages: int, count: int) -> None:
        """Read every MiB or so of pages of which the bitmap has at least one."""
        window = self.window
        length, group, held = (count + 7) // 8, max(1, CHUNK // self.page_size // 8), 0
        for done in range(0, length, CHUNK):
            window.seek(bitmap + done)
            bits = window.take(min(CHUNK, length - done))
            held += int.from_bytes(bits, "little").bit_count()
            for first in range(0, len(bits), group):
                if any(bits[first : first + group]):
                    page = (done + first) * 8
                    window.seek(pages + page * self.page_size)
                    window.skip(min(group * 8, count - page) * self.page_size)
        self.seen.ram_pages += held
        self.seen.zero_pages += max(0, count - held)

    # Other sections that are saved while the guest runs

    def _block(self) -> None:
        """Disks migrated along (capability `block`, until QEMU 9.0)."""
        window = self.window
        while not (flags := window.u64() & 0x1FF) & 0x02:
            if flags & 0x01:
                window.counted()
                window.skip(0 if flags & 0x08 else 1 << 20)
            elif not flags & 0x04:
                raise _Broken(window.at - 8, f"section block cannot have the flags 0x{flags:x}")

    def _dirty_bitmap(self) -> None:
        window = self.window
        while True:
            flags = window.u8()
            if flags & 0x08:
                window.counted()
            if flags & 0x04:
                window.counted()
            if flags & 0x10:
                window.skip(5)
            if flags & 0x40:
                window.skip(12)
                window.skip(0 if flags & 0x02 else window.u64())
            if flags & 0x01:
                return
            if flags & 0x80 or not flags & 0x70:
                raise _Broken(window.at, f"section dirty-bitmap cannot have the flags 0x{flags:x}")

    def _htab(self) -> None:
        """POWER's hash page table: a header, then runs of entries of 16 bytes."""
        window = self.window
        if window.u32() != 0:
            return
        while True:
            index, valid, invalid = window.u32(), window.u16(), window.u16()
            if index == valid == invalid == 0:
                return
            window.skip(valid * 16)

    def _storage_attributes(self) -> None:
        """s390's; after DONE an EOS may follow or not."""
        window = self.window
        while True:
            flags = window.u64() & 0xFFF
            if flags == 0x01:
                return
            if flags == 0x08:
                if window.have(8) and _U64.unpack_from(window.buffer, window.pos)[0] == 0x01:
                    window.skip(8)
                return
            if flags != 0x02:
                raise _Broken(window.at - 8, f"section s390-storage_attributes cannot have the flags 0x{flags:x}")
            window.skip(window.u64())


_NAME = re.compile(rb"[ -~]+")
_MISPLACED_COMMANDS = frozenset({0, 4, 5, 6, 7, 8, 9, 10})
"""Those of a postcopy that has begun and of COLO: a file can be neither. POSTCOPY_ADVISE (3) only announces one: it is
there with the capabilities postcopy-ram and dirty-bitmaps, whatever becomes of it."""
