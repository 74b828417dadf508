"""A core dump that is cut off anywhere, or is none, is told from a whole one."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtui.backend.core.sim.savefile import dump_ends
from vmtui.backend.corefile import is_dump, read_dump
from vmtui.backend.stream import StreamInterrupted

SIZE = 64 << 10
FORMATS = ("elf", "kdump-zlib", "kdump-raw-zlib", "win-dmp")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def core(name: str) -> bytes:
    head, tail = dump_ends(name, SIZE)
    return head.ljust(SIZE - len(tail), b"\0") + tail


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_dump_is_whole(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "core", core(name))
    report = read_dump(path)
    assert (report.whole, report.trouble, report.size, report.ram_blocks) == (True, "", SIZE, 1)
    assert is_dump(path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [20, 100, 4100, 5000, SIZE - 1])
def test_a_dump_that_is_cut_off_is_not_whole(tmp_path: Path, name: str, kept: int) -> None:
    report = read_dump(written(tmp_path / "core", core(name)[:kept]))
    assert not report.whole
    assert "breaks off" in report.trouble


@pytest.mark.parametrize(("content", "trouble"), [
    (b"",                        "it is empty"),
    (b"QEVM" + bytes(100),       "it is no core dump"),
    (bytes(SIZE),                "it is no core dump"),
])  # fmt: skip
def test_what_is_no_dump_is_told(tmp_path: Path, content: bytes, trouble: str) -> None:
    path = written(tmp_path / "core", content)
    assert (read_dump(path).whole, read_dump(path).trouble) == (False, trouble)
    assert not is_dump(path)


def elf(kind: int = 4, count: int = 1, *, order: str = "<", wide: bool = True, sections: bytes = b"") -> bytes:
    """A core of one piece of 16 bytes, in any of ELF's four shapes."""
    identity = bytes((0x7F, 69, 76, 70, 2 if wide else 1, 1 if order == "<" else 2, 1)).ljust(16, b"\0")
    start, each = (64, 56) if wide else (52, 32)
    where = start + each
    head = struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
                       kind, 62, 1, 0, start, where + 16 if sections else 0, 0, start, each, count, 0, 0, 0)  # fmt: skip
    if wide:
        program = struct.pack(order + "IIQQQQQQ", 1, 0, where, 0, 0, 16, 16, 0)
    else:
        program = struct.pack(order + "IIIIIIII", 1, where, 0, 0, 16, 16, 0, 0)
    return identity + head + program + bytes(16) + sections


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [True, False])
def test_a_core_of_any_guest_is_read(tmp_path: Path, order: str, wide: bool) -> None:
    whole = elf(order=order, wide=wide)
    assert read_dump(written(tmp_path / "core", whole)).whole
    assert not read_dump(written(tmp_path / "core", whole[:-1])).whole


@pytest.mark.parametrize("wide", [True, False])
def test_so_many_pieces_that_the_first_section_has_to_count_them_are_counted(tmp_path: Path, wide: bool) -> None:
    section = struct.pack("<44xI16x" if wide else "<28xI8x", 1)
    report = read_dump(written(tmp_path / "core", elf(count=0xFFFF, wide=wide, sections=section)))
    assert (report.whole, report.ram_blocks) == (True, 1)


@pytest.mark.parametrize(("content", "trouble"), [
    (elf(kind=2),  "no core dump"),
    (elf(count=0), "no memory in it"),
])  # fmt: skip
def test_an_elf_file_that_is_no_core_is_told(tmp_path: Path, content: bytes, trouble: str) -> None:
    assert trouble in read_dump(written(tmp_path / "core", content)).trouble


def test_a_core_whose_last_bytes_the_names_of_its_sections_are_cut_off_is_not_whole(tmp_path: Path) -> None:
    names = struct.pack("<24xQQ24x", 64 + 56 + 16 + 64, 11)
    content = bytearray(elf(sections=names) + b"\0.shstrtab\0")
    struct.pack_into("<H", content, 60, 1)
    assert read_dump(written(tmp_path / "core", bytes(content))).whole
    assert "1 bytes are missing" in read_dump(written(tmp_path / "core", bytes(content[:-1]))).trouble


def flattened(*pieces: tuple[int, bytes], end: bytes = b"\xff" * 16) -> bytes:
    packed = b"".join(struct.pack(">qq", offset, len(data)) + data for offset, data in pieces)
    return b"makedumpfile".ljust(4096, b"\0") + packed + end


@pytest.mark.parametrize(("content", "trouble"), [
    (flattened(),                                          "no memory in it"),
    (flattened((0, b"not that")),                          "does not begin with a kdump header"),
    (flattened((0, b"KDUMP   "), end=b""),                 "breaks off"),
    (flattened((0, b"KDUMP   "), (-5, b"x")),              "breaks off in a piece"),
    (flattened((0, b"KDUMP   "), (9, b"")),                "breaks off in a piece"),
])  # fmt: skip
def test_a_flattened_file_that_makes_no_sense_is_told(tmp_path: Path, content: bytes, trouble: str) -> None:
    assert trouble in read_dump(written(tmp_path / "core", content)).trouble


def test_pieces_that_came_in_any_order_are_whole(tmp_path: Path) -> None:
    content = flattened((0, b"KDUMP   "), (500, b"xy"), (8, bytes(10)))
    assert read_dump(written(tmp_path / "core", content)).ram_blocks == 3


@pytest.mark.parametrize("name", ["elf", "kdump-raw-zlib"])
def test_reading_stops_when_it_is_told_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(StreamInterrupted):
        read_dump(written(tmp_path / "core", core(name)), lambda: True)


NOTES = bytes(800) + b"VMCOREINFO\0\0OSRELEASE=6.1.0-56-amd64\nPAGESIZE=4096\n"


def elf_with(notes: bytes) -> bytes:
    content = bytearray(elf())
    struct.pack_into("<I", content, 64, 4)
    struct.pack_into("<Q", content, 64 + 32, len(notes))
    return bytes(content[: 64 + 56]) + notes


def kdump_with(notes: bytes) -> tuple[bytes, bytes]:
    """The headers of a kdump file, and what follows them: bitmaps with one page, and that page."""
    block, sub = 4096, 2
    head = struct.pack("<8sI412x4sIIII", b"KDUMP   ", 6, b"", block, sub, 2, 8).ljust(block, b"\0")
    bitmaps = (b"\x01".ljust(block, b"\0")) * 2
    return head + notes.ljust(sub * block, b"\0"), bitmaps + struct.pack("<QIIQ", 0, 1, 0, 0)


def flattened_with(notes: bytes) -> bytes:
    head, rest = kdump_with(notes)
    return flattened((0, head[:464]), (4096, head[4096:]), (len(head), rest))


@pytest.mark.parametrize("content", [elf_with, lambda notes: b"".join(kdump_with(notes)), flattened_with])
def test_the_release_of_the_guests_kernel_is_read_where_its_notes_tell(
    tmp_path: Path, content: Callable[[bytes], bytes]
) -> None:
    told, untold = (read_dump(written(tmp_path / "core", content(notes))) for notes in (NOTES, bytes(len(NOTES))))
    assert (told.whole, told.trouble, told.kernel) == (True, "", "6.1.0-56-amd64")
    assert (untold.whole, untold.kernel) == (True, "")
