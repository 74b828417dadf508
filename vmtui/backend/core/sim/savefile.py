"""Which bytes does a simulated QEMU write when it saves a VM?

QEMU's own format, whole to the last byte (`vmtui verify` reads it through), with a guest's memory in it that holds nothing:
page after page with its number, and short records for pages of zeros. A terabyte would take as long as a terabyte, so
there are at most as many pages as the caller wants, and a bounded number of zero records.

Formats: QEMU's `docs/devel/migration/main.rst`; the lengths of the devices are said in the JSON at the end.
"""

import json
from struct import Struct

PAGE = 4096
RECORD = 8 + PAGE
"""Bytes of a page in the file."""
BATCH = 256
"""Pages that are best in a section; QEMU writes as many as it can in 50 ms."""
MAX_ZEROS = 1 << 16

_U16, _U32, _U64 = Struct(">H"), Struct(">I"), Struct(">Q")
_EOF, _START, _PART, _END, _FULL, _SUBSECTION, _VMDESCRIPTION, _CONFIGURATION = range(8)
_FOOTER = 0x7E
_ZERO, _MEM_SIZE, _FULL_PAGE, _EOS, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
_RAM_ID = 2
_RAM_VERSION = 4
_GLOBALSTATE = "globalstate"

_DEVICES: tuple[tuple[str, int], ...] = (
    ("timer", 24), ("cpu_common", 9), ("cpu", 9214), ("kvmclock", 8), ("fw_cfg", 12), ("PCIHost", 4),
    ("PCIBUS", 516), ("0000:00:00.0/mch", 264), ("0000:00:1f.0/ICH9LPC", 330), ("dma", 84), ("mc146818rtc", 180),
    ("i8254", 118), ("pcspk", 2), ("i8259", 62), ("ioapic", 210), ("hpet", 230), ("ps2kbd", 340),
    ("0000:00:03.0/virtio-blk", 700),
)  # fmt: skip
"""Some of a q35 machine's devices, and about as many bytes of state as they have."""


class SaveFile:
    """The parts of one file, in the order of its methods: `head`, `pages` as often as one likes, `tail`."""

    def __init__(self, machine: str, ram: int, *, cards: int = 0, option_rom: bool = False) -> None:
        """`machine` as in "pc-q35-10.0", `ram` in bytes; `cards` failover pairs are among the devices."""
        self.machine = machine
        self.ram = ram // PAGE * PAGE
        self._pages = max(self.ram // PAGE, 1)
        self._roms = {"pc.bios": 0x40000, "pc.rom": 0x20000, "/rom@etc/acpi/tables": 0x200000}
        pairs = [f"0000:00:{bus:02x}.0:00.0/{kind}" for bus in range(1, 2 * cards, 2) for kind in ("virtio-net", "e1000e")]
        self._devices = (*_DEVICES, *((name, 1200) for name in pairs))
        if option_rom:
            self._roms |= {f"0000:00:02.{index}:00.0/e1000e.rom": 0x40000 for index in range(cards)}

    def head(self) -> bytes:
        """Magic number, configuration and the list of RAM blocks."""
        name = self.machine.encode()
        blocks = {"pc.ram": self.ram, **self._roms}
        listed = b"".join(_counted(block) + _U64.pack(size) for block, size in blocks.items())
        ram = _U64.pack(sum(blocks.values()) | _MEM_SIZE) + listed + _U64.pack(_EOS)
        return b"".join(
            (
                b"QEVM", _U32.pack(3),
                bytes((_CONFIGURATION,)), _U32.pack(len(name)), name,
                _section(_START, _RAM_ID, "ram", _RAM_VERSION, ram),
            )
        )  # fmt: skip

    def pages(self, first: int, count: int) -> bytes:
        """A section with `count` pages from number `first` on; after the last page of RAM comes the first one again."""
        first %= self._pages
        records = bytearray(count * RECORD)
        for index in range(count):
            page = (first + index) % self._pages
            _U64.pack_into(records, index * RECORD, page * PAGE | _FULL_PAGE | _CONTINUE)
            _U64.pack_into(records, index * RECORD + 8, page + 1)
        head = bytes((_PART,)) + _U32.pack(_RAM_ID) + _U64.pack(first * PAGE | _FULL_PAGE) + _counted("pc.ram")
        return b"".join((head, records[8:], _U64.pack(_EOS), _footer(_RAM_ID)))

    def tail(self, runstate: str, zeros: int) -> bytes:
        """Records for `zeros` pages of zeros, the devices, the end mark, and the description of it all."""
        state = _U32.pack(len(runstate) + 1) + runstate.encode().ljust(100, b"\0")
        contents = {_GLOBALSTATE: state, **{name: bytes(size) for name, size in self._devices}}
        sections = (
            _section(_FULL, 3 + number, name, 1, content) for number, (name, content) in enumerate(contents.items())
        )
        described = [_described(name, len(content)) for name, content in contents.items()]
        text = json.dumps({"page_size": PAGE, "devices": described}).encode()
        return b"".join(
            (
                self._zeros(min(zeros, MAX_ZEROS, self._pages)), *sections,
                bytes((_EOF, _VMDESCRIPTION)), _U32.pack(len(text)), text,
            )
        )  # fmt: skip

    def _zeros(self, count: int) -> bytes:
        records = b"".join(
            _U64.pack(page * PAGE | _ZERO | _CONTINUE) + b"\0" for page in range(self._pages - count + 1, self._pages)
        )
        first = _U64.pack((self._pages - count) * PAGE | _ZERO) + _counted("pc.ram") + b"\0" if count else b""
        return bytes((_END,)) + _U32.pack(_RAM_ID) + first + records + _U64.pack(_EOS) + _footer(_RAM_ID)


def dump_ends(dump_format: str, size: int) -> tuple[bytes, bytes]:
    """The beginning and the end of a core file of `size` bytes in one piece; between them there is nothing but zeros."""
    if dump_format == "elf":
        head = Struct("<HHIQQQIHHHHHH").pack(4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        program = Struct("<IIQQQQQQ").pack(1, 0, 120, 0, 0, max(size - 120, 0), max(size - 120, 0), 0)
        return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + head + program, b""
    if dump_format == "win-dmp":
        return b"PAGEDU64".ljust(0xFA0, b"\0") + Struct("<Q").pack(size), b""
    header = b"KDUMP   " + Struct("<I").pack(6) + bytes(412) + Struct("<IIIII").pack(0, 4096, 1, 2, 1)
    if dump_format.startswith("kdump-raw"):
        bitmap, blank = b"\1".ljust(4096, b"\0"), bytes(4096)
        page = Struct("<QIIQ").pack(5 * 4096, max(size - 5 * 4096, 0), 0, 0)
        return header.ljust(4096, b"\0") + blank + bitmap + bitmap + page, b""
    flat = b"makedumpfile".ljust(16, b"\0") + Struct(">qq").pack(1, 1)
    piece = Struct(">qq").pack(0, max(size - 4096 - 2 * 16, 0))
    return flat.ljust(4096, b"\0") + piece + header, b"\xff" * 16


def _counted(name: str) -> bytes:
    return bytes((len(name),)) + name.encode()


def _footer(identity: int) -> bytes:
    return bytes((_FOOTER,)) + _U32.pack(identity)


def _section(kind: int, identity: int, name: str, version: int, content: bytes) -> bytes:
    header = bytes((kind,)) + _U32.pack(identity) + _counted(name) + _U32.pack(0) + _U32.pack(version)
    return header + content + _footer(identity)


def _described(name: str, size: int) -> dict[str, object]:
    fields = [{"name": "state", "type": "buffer", "size": size}]
    return {"name": name, "instance_id": 0, "vmsd_name": name, "version": 1, "fields": fields}
