"""Does the reader tell a whole migration stream from anything else, and stay calm whatever the file holds?"""

import json
import lzma
import os
import random
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmtui.backend.stream import (
    CHUNK,
    MAX_DESCRIPTION,
    MAX_RAM_BLOCKS,
    Device,
    RamBlock,
    StreamInterrupted,
    StreamReport,
    read_stream,
)

STREAMS = Path(__file__).parent.parent / "data" / "streams"
PAGE = 4096
HEADER = b"QEVM" + struct.pack(">I", 3)

ZERO, MEM_SIZE, FULL_PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
XBZRLE, HOOK, COMPRESS_PAGE, MULTIFD_FLUSH = 0x40, 0x80, 0x100, 0x200


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def counted(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


def footer(identity: int) -> bytes:
    return b"\x7e" + u32(identity)


def section(kind: int, identity: int, name: str, content: bytes, *, instance: int = 0, version: int = 1) -> bytes:
    header = bytes([kind]) + u32(identity) + counted(name) + u32(instance) + u32(version)
    return header + content + footer(identity)


def part(kind: int, identity: int, content: bytes) -> bytes:
    return bytes([kind]) + u32(identity) + content + footer(identity)


def configuration(machine: str, *subsections: bytes) -> bytes:
    return b"\x07" + u32(len(machine)) + machine.encode() + b"".join(subsections)


def subsection(name: str, content: bytes) -> bytes:
    return b"\x05" + counted(name) + u32(1) + content


def capabilities(*names: str) -> bytes:
    return subsection("configuration/capabilities", u32(len(names)) + b"".join(counted(name) for name in names))


def ram_list(blocks: dict[str, int], extra: bytes = b"") -> bytes:
    listed = b"".join(counted(name) + u64(size) + extra for name, size in blocks.items())
    return u64(sum(blocks.values()) | MEM_SIZE) + listed


def page(address: int, flags: int = FULL_PAGE | CONTINUE, *, block: str = "", content: bytes = bytes(PAGE)) -> bytes:
    return u64(address | flags) + (counted(block) if block else b"") + content


def described(name: str, size: int, **more: Any) -> dict[str, Any]:
    fields = [{"name": "state", "type": "buffer", "size": size}]
    return {"name": name, "instance_id": 0, "vmsd_name": name, "version": 1, "fields": fields, **more}


GLOBALSTATE = u32(7) + b"paused\0".ljust(100, b"\0")
DEVICE = b"0123456789"
DEVICES = [described("globalstate", len(GLOBALSTATE)), described("dev", len(DEVICE))]
RAM_PAGES = page(0, FULL_PAGE, block="pc.ram") + page(PAGE, ZERO | CONTINUE, content=b"\0")


@dataclass
class Parts:
    """A small whole stream, each part of which a test may replace."""

    head: bytes = HEADER
    configuration: bytes = configuration("pc-q35-7.2")
    ram: bytes = section(1, 2, "ram", ram_list({"pc.ram": 2 * PAGE}) + u64(EOS), version=4)
    pages: bytes = part(3, 2, RAM_PAGES + u64(EOS))
    devices: bytes = section(4, 0, "globalstate", GLOBALSTATE) + section(4, 1, "dev", DEVICE)
    description: bytes | list[dict[str, Any]] | None = None
    end: bytes = b"\0"
    tail: bytes = b""

    def __bytes__(self) -> bytes:
        text = self.description
        if not isinstance(text, bytes):
            text = json.dumps({"page_size": PAGE, "devices": DEVICES if text is None else text}).encode()
        before = self.head + self.configuration + self.ram + self.pages + self.devices + self.end
        return before + b"\x06" + u32(len(text)) + text + self.tail


def make_stream(**parts: Any) -> bytes:
    return bytes(Parts(**parts))


Reader = Callable[[bytes], StreamReport]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    def read_bytes(content: bytes) -> StreamReport:
        file = tmp_path / "stream"
        file.write_bytes(content)
        return read_stream(file)

    return read_bytes


def telling_places(content: bytes) -> list[int]:
    """Every offset, but only a few of those inside the page of zeros that is most of a small stream."""
    page_at = content.index(bytes(PAGE))
    return [at for at in range(len(content)) if not page_at + 9 < at < page_at + PAGE - 9 or at % 97 == 0]


def trouble(report: StreamReport) -> str:
    """The trouble of a report that must have one, in one printable line."""
    assert not report.whole
    assert report.trouble is not None
    assert report.trouble.isprintable()
    assert len(report.trouble) < 400
    return report.trouble


def real(name: str) -> bytes:
    return lzma.decompress((STREAMS / f"{name}.xz").read_bytes())


# Real streams


@pytest.mark.parametrize(
    ("name", "kind", "machine", "runstate", "blocks", "pages", "zeros", "devices"),
    [
        ("q35-failover-7.2",             "stream",     "pc-q35-7.2",     "paused",  11, 480, 69490, 66),
        ("q35-failover-11.1",            "stream",     "pc-q35-11.1",    "paused",  11, 539, 69431, 63),
        ("q35-background-snapshot-11.1", "stream",     "pc-q35-11.1",    "running", 11, 539, 69431, 63),
        ("pc-7.2",                       "stream",     "pc-i440fx-7.2",  "paused",   6, 111,  4115, 30),
        ("pc-10.0",                      "stream",     "pc-i440fx-10.0", "paused",   6, 114,  4112, 30),
        ("microvm-7.2",                  "stream",     "microvm",        "paused",   5,  12,  4103, 14),
        ("microvm-compress-7.2",         "stream",     "microvm",        "paused",   5,  12,   263, 14),
        ("microvm-mapped-ram-11.1",      "mapped-ram", "microvm",        "paused",   5,  18,   273, 14),
    ],
)  # fmt: skip
def test_a_real_stream_is_whole_and_its_contents_are_told(
    read: Reader,
    name: str,
    kind: str,
    machine: str,
    runstate: str,
    blocks: int,
    pages: int,
    zeros: int,
    devices: int,
) -> None:
    report = read(real(name))
    assert report.trouble is None
    assert report.whole
    assert (report.kind, report.machine, report.runstate) == (kind, machine, runstate)
    assert (len(report.ram_blocks), report.ram_pages, report.zero_pages) == (blocks, pages, zeros)
    assert len(report.devices) == devices
    assert report.was_running is None


def test_a_failover_stream_lists_ram_and_both_cards(read: Reader) -> None:
    report = read(real("q35-failover-7.2"))
    assert RamBlock("pc.ram", 256 << 20) in report.ram_blocks
    names = {one.name.rpartition("/")[2] for one in report.devices}
    assert {"virtio-net", "e1000e", "globalstate", "cpu"} <= names
    assert [one.instance for one in report.devices if one.name == "cpu"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["microvm-7.2", "pc-10.0", "microvm-mapped-ram-11.1"])
def test_a_real_stream_cut_anywhere_is_not_whole(tmp_path: Path, name: str) -> None:
    content = real(name)
    file = tmp_path / "stream"
    file.write_bytes(content)
    # From the end to the front, so that the file can be cut instead of written again.
    for length in sorted(random.Random(1).sample(range(len(content)), 150), reverse=True):
        os.truncate(file, length)
        trouble(read_stream(file))


def test_a_real_stream_with_a_damaged_device_says_where(read: Reader) -> None:
    content = bytearray(real("pc-7.2"))
    del content[content.index(b"\x03cpu") + 20]
    assert "section cpu does not end where it should" in trouble(read(bytes(content)))


def test_a_cut_stream_still_names_the_devices_before_the_cut(read: Reader) -> None:
    content = real("q35-failover-11.1")
    names = [one.name for one in read(content).devices]
    cut = content.index(b"\x0bglobalstate")
    report = read(content[: cut + 60])
    assert "in section globalstate" in trouble(report)
    assert [one.name for one in report.devices] == names[: names.index("globalstate")]
    assert report.machine == "pc-q35-11.1"


def test_a_save_that_qemu_gave_up_breaks_off_in_its_ram(read: Reader) -> None:
    content = real("q35-failover-7.2")
    report = read(content[: len(content) // 3])
    begin = f"at byte {len(content) // 3}: the file ends in RAM block pc.ram: {PAGE} bytes should follow byte "
    assert trouble(report).startswith(begin)
    assert RamBlock("pc.ram", 256 << 20) in report.ram_blocks


# The whole and its parts


def test_a_small_stream_is_reported_in_full(read: Reader) -> None:
    content = make_stream()
    assert read(content) == StreamReport(
        size=len(content),
        kind="stream",
        machine="pc-q35-7.2",
        runstate="paused",
        ram_blocks=(RamBlock("pc.ram", 2 * PAGE),),
        ram_pages=1,
        zero_pages=1,
        devices=(
            Device("globalstate", 0, 1, len(section(4, 0, "globalstate", GLOBALSTATE))),
            Device("dev", 0, 1, len(section(4, 1, "dev", DEVICE))),
        ),
        whole=True,
        trouble=None,
    )


def test_no_prefix_of_a_stream_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(content := make_stream())
    for length in reversed(telling_places(content)):
        os.truncate(file, length)
        assert f"at byte {length}: " in trouble(read_stream(file))


def test_a_flipped_byte_goes_unseen_only_where_any_byte_would_do(tmp_path: Path) -> None:
    content = make_stream()
    free = bytearray(len(content))
    for harmless in (b"pc-q35-7.2", bytes(PAGE), GLOBALSTATE, DEVICE):
        place = content.index(harmless)
        free[place : place + len(harmless)] = b"\1" * len(harmless)
    file = tmp_path / "stream"
    unseen = []
    for place in telling_places(content[: content.index(b"{")]):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        report = read_stream(file)
        assert report.whole or trouble(report)
        if report.whole and not free[place]:
            unseen.append(content[max(0, place - 8) : place + 1])
    # A zero page's fill byte and the versions, which mean something only to the device.
    assert len(unseen) == 1 + 2 * 4


def test_a_stream_without_configuration_has_no_machine(read: Reader) -> None:
    report = read(make_stream(configuration=b""))
    assert report.whole
    assert report.machine is None


def test_a_machine_name_cannot_drive_the_terminal(read: Reader) -> None:
    report = read(make_stream(configuration=configuration("pc\x1b[2J\n")))
    assert report.machine == r"pc\x1b[2J\n"


def test_a_device_name_cannot_drive_the_terminal(read: Reader) -> None:
    assert r"device d\x1b[2Jv is in the stream but not" in trouble(
        read(make_stream(devices=section(4, 1, "d\x1b[2Jv", DEVICE)))
    )


def test_a_running_guest_is_told_from_a_paused_one(read: Reader) -> None:
    state = u32(8) + b"running\0".ljust(100, b"\0")
    report = read(make_stream(devices=section(4, 0, "globalstate", state) + section(4, 1, "dev", DEVICE)))
    assert report.whole
    assert report.runstate == "running"


def test_a_run_state_with_an_absurd_length_stays_inside_its_buffer(read: Reader) -> None:
    state = u32(0xFFFFFFFF) + b"p" * 100
    report = read(make_stream(devices=section(4, 0, "globalstate", state) + section(4, 1, "dev", DEVICE)))
    assert report.runstate == "p" * 100


# What is not a stream


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"",                       "the file is empty"),
        (b"Q",                      "the file ends in its header"),
        (b"hello",                  "no migration stream"),
        (bytes(100),                "no migration stream"),
        (b"\x1f\x8b\x08rest",       "gzip"),
        (b"\x28\xb5\x2f\xfd",       "zstd"),
        (b"\xfd7zXZ\x00",           "xz"),
        (b"QFI\xfb",                "qcow2"),
        (b"\x7fELF\x02",            "memory dump"),
        (b"KDUMP   ",               "memory dump"),
        (b"QEVM" + u32(2),          "stream version 2"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_words(read: Reader, content: bytes, words: str) -> None:
    report = read(content)
    assert words in trouble(report)
    assert report.size == len(content)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "a directory" in trouble(read_stream(tmp_path))


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done: list[StreamReport] = []
    reader = threading.Thread(target=lambda: done.append(read_stream(tmp_path / "pipe")), daemon=True)
    reader.start()
    reader.join(5)
    assert done, "still waiting"
    assert "a pipe" in trouble(done[0])


def test_a_socket_is_refused_without_opening_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(str(tmp_path / "monitor"))
        assert "a socket" in trouble(read_stream(tmp_path / "monitor"))


@pytest.mark.parametrize("end", ["r", "w"])
def test_a_descriptor_of_a_pipe_is_refused(end: str) -> None:
    read_end, write_end = os.pipe()
    try:
        assert "a pipe" in trouble(read_stream(read_end if end == "r" else write_end))
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_device_is_refused() -> None:
    assert "a character device" in trouble(read_stream(Path("/dev/zero")))


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_stream(tmp_path / "missing")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "random"
    for start in (b"", HEADER, HEADER + configuration("pc"), make_stream()[:-400]):
        file.write_bytes(start + content)
        trouble(read_stream(file))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=9)), max_size=4), st.booleans())
def test_damage_anywhere_never_raises(
    tmp_path_factory: pytest.TempPathFactory, wounds: list[tuple[int, bytes]], longer: bool
) -> None:
    content = bytearray(make_stream(tail=b"tail" if longer else b""))
    for place, patch in wounds:
        at = place % len(content)
        content[at : at + (0 if longer else len(patch))] = patch
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(content)
    report = read_stream(file)
    assert report.whole or trouble(report)


# The end of the file


def test_what_follows_the_end_is_counted_and_the_stream_is_still_read(read: Reader) -> None:
    report = read(make_stream(tail=b"garbage"))
    assert trouble(report) == f"at byte {len(make_stream())}: 7 bytes after the end"
    assert [one.name for one in report.devices] == ["globalstate", "dev"]
    assert report.runstate == "paused"


def test_two_streams_in_one_file_are_not_one(read: Reader) -> None:
    twice = make_stream() + make_stream()
    assert f"at byte {len(make_stream())}: {len(twice) - len(make_stream())} bytes after" in trouble(read(twice))


@pytest.mark.parametrize("tail", [b"", b"garbage"])
def test_a_guest_cannot_fake_a_footer_inside_its_device(read: Reader, tail: bytes) -> None:
    fake = b"state" + footer(1) + section(4, 7, "fake", b"nothing") + b"rest"
    described_too = [described("globalstate", len(GLOBALSTATE)), described("dev", len(fake))]
    devices = section(4, 0, "globalstate", GLOBALSTATE) + section(4, 1, "dev", fake)
    report = read(make_stream(devices=devices, description=described_too, tail=tail))
    assert [one.name for one in report.devices] == ["globalstate", "dev"]
    assert report.whole == (not tail)
    assert (report.ram_pages, report.zero_pages) == (1, 1)


def test_a_stream_without_description_cannot_be_whole(read: Reader) -> None:
    content = make_stream()
    assert "without the description" in trouble(read(content[: content.rindex(b"\x06\0\0")]))


def test_a_stream_of_devices_only_is_not_a_vm(read: Reader) -> None:
    assert "had no RAM" in trouble(read(make_stream(ram=b"", pages=b"")))


def test_an_end_mark_in_the_middle_leaves_bytes_over(read: Reader) -> None:
    content = make_stream(configuration=configuration("pc") + b"\0")
    at = len(HEADER + configuration("pc")) + 1
    assert trouble(read(content)) == f"at byte {at}: {len(content) - at} bytes after the end"


@pytest.mark.parametrize("size", [len(DEVICE) - 1, len(DEVICE) + 1])
def test_a_device_that_is_not_as_long_as_described_is_found(read: Reader, size: int) -> None:
    content = make_stream(description=[DEVICES[0], described("dev", size)])
    assert "section dev does not end where it should" in trouble(read(content))


def test_a_described_device_that_is_missing_is_named(read: Reader) -> None:
    assert "device ghost is described but not in the stream" in trouble(
        read(make_stream(description=[*DEVICES, described("ghost", 4)]))
    )


def test_a_device_that_is_not_described_is_named(read: Reader) -> None:
    assert "device dev is in the stream but not in its description" in trouble(read(make_stream(description=DEVICES[:1])))


def test_a_device_described_twice_is_refused(read: Reader) -> None:
    assert "twice" in trouble(read(make_stream(description=[*DEVICES, DEVICES[0]])))


def test_a_device_longer_than_the_file_is_refused(read: Reader) -> None:
    content = make_stream(description=[DEVICES[0], described("dev", 1 << 50)])
    assert f"device dev should have {1 << 50} bytes" in trouble(read(content))


def test_a_device_that_comes_twice_is_refused(read: Reader) -> None:
    assert "device dev (0) comes a second time" in trouble(
        read(make_stream(devices=Parts().devices + section(4, 5, "dev", DEVICE)))
    )


def test_a_description_of_many_megabytes_is_known_before_the_walk(tmp_path: Path) -> None:
    fake = footer(1) + section(4, 7, "fake", b"")
    described_too = {"devices": [DEVICES[0], described("dev", len(fake))]}
    text = json.dumps(described_too).encode().ljust(0x01020304)  # a length without a zero byte
    devices = section(4, 0, "globalstate", GLOBALSTATE) + section(4, 1, "dev", fake)
    file = tmp_path / "stream"
    file.write_bytes(make_stream(devices=devices, description=text))
    steps: list[int] = []
    assert read_stream(file, progress=steps.append).whole
    assert steps == sorted(steps)


def test_arrays_and_subsections_count_as_qemu_writes_them(read: Reader) -> None:
    inner = {"vmsd_name": "dev/more/still", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}
    more = {"vmsd_name": "dev/more", "version": 1, "fields": [], "subsections": [inner]}
    state = u32(1) * 3 + DEVICE + subsection("dev/more", subsection("dev/more/still", b"\x07"))
    fields = [
        {"name": "list", "array_len": 3, "type": "struct", "struct": {"vmsd_name": "s", "fields": []}, "size": 4},
        {"name": "state", "type": "buffer", "size": len(DEVICE)},
    ]
    one = described("dev", 0, fields=fields, subsections=[more])
    assert read(make_stream(devices=section(4, 1, "dev", state), description=[one])).whole


# Hostile lengths and shapes


def test_a_description_of_four_gib_is_refused_before_it_is_read(read: Reader) -> None:
    content = make_stream()
    place = content.rindex(b"\x06\0\0")
    assert "should have 4294967295 bytes" in trouble(read(content[: place + 1] + u32(0xFFFFFFFF) + content[place + 5 :]))


def test_a_description_that_is_too_long_is_refused_although_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    content = make_stream()
    place = content.rindex(b"\x06\0\0")
    file.write_bytes(content[:place] + b"\x06" + u32(MAX_DESCRIPTION + 1))
    os.truncate(file, place + 5 + MAX_DESCRIPTION + 1)
    assert f"{MAX_DESCRIPTION + 1} bytes of description are more" in trouble(read_stream(file))


@pytest.mark.parametrize(
    "text",
    [
        b'{"devices": ' + b"[" * 1_000_000,
        b'{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"size": 1, "struct": ' + b'{"a":' * 1_000_000,
        b'{"devices": [' + b'{"name": "d", "instance_id": 0, "fields": [], "subsections": [' * 100_000,
        b'{"devices": [{"name":"d","instance_id":0,"fields":[],"subsections":['
        + b'{"fields":[],"subsections":[' * 450 + b"]}" * 450 + b"]}]}",
        b'{"devices": [], "configuration": {"fields":[],"subsections":['
        + b'{"fields":[],"subsections":[' * 450 + b"]}" * 450 + b"]}}",
    ],
    ids=["lists", "structs", "subsections", "closed", "configuration"],
)  # fmt: skip
@pytest.mark.parametrize("tail", [b"", b"x"])
def test_a_description_nested_without_end_is_refused(read: Reader, text: bytes, tail: bytes) -> None:
    trouble(read(make_stream(description=text, tail=tail)))


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"{",
        b"\xff",
        b'{"devices": [], "page_size": 4097}',
        b'{"devices": [], "page_size": -4096}',
        b'{"devices": [{"name": "dev"}]}',
        b'{"devices": [{"name": "\\ud800", "instance_id": 0, "fields": []}]}',
        b'{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"size": -1}]}]}',
        b'{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"size": 1e400}]}]}',
        b'{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"size": 1, "array_len": 99999999999}]}]}',
    ],
)
def test_a_description_that_qemu_would_not_write_is_refused(read: Reader, text: bytes) -> None:
    assert "description" in trouble(read(make_stream(description=text)))


def test_ram_blocks_without_end_are_refused_early(read: Reader) -> None:
    listed = b"".join(counted(f"{number:x}") + u64(0) for number in range(MAX_RAM_BLOCKS + 2))
    ram = section(1, 2, "ram", u64(1 << 40 | MEM_SIZE) + listed, version=4)
    assert "RAM blocks are more than vmtui believes" in trouble(read(make_stream(ram=ram)))


def test_a_terabyte_of_holes_is_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(HEADER + configuration("pc") + section(1, 2, "ram", ram_list({"r": PAGE}) + u64(EOS), version=4))
    os.truncate(file, 1 << 40)
    tracemalloc.start()
    report = read_stream(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "after the end" in trouble(report)
    assert peak < 4 * CHUNK


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    blocks = {"pc.ram": 4096 * PAGE}
    pages = page(0, FULL_PAGE, block="pc.ram") + b"".join(page(number * PAGE) for number in range(1, 4096))
    ram = section(1, 2, "ram", ram_list(blocks) + u64(EOS), version=4)
    file.write_bytes(make_stream(ram=ram, pages=part(3, 2, pages + u64(EOS))))
    tracemalloc.start()
    report = read_stream(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.whole
    assert peak < 4 * CHUNK


def test_the_end_of_a_file_is_not_read_again_for_each_of_its_pages(tmp_path: Path) -> None:
    bits = subsection("configuration/target-page-bits", u32(20))
    ram = section(1, 2, "ram", ram_list({"pc.ram": 1 << 30}) + u64(EOS), version=4)
    pages = page(0, ZERO, block="pc.ram", content=b"\0") + page(0, ZERO | CONTINUE, content=b"\0") * 50_000
    text = json.dumps({"page_size": 1 << 20, "devices": DEVICES}).encode()
    parts = {"configuration": configuration("pc", bits), "ram": ram, "pages": part(3, 2, pages + u64(EOS))}
    file = tmp_path / "stream"
    file.write_bytes(make_stream(**parts, description=text))
    looks: list[int] = []
    report = read_stream(file, progress=looks.append)
    assert (report.trouble, report.zero_pages) == (None, 50_001)
    assert len(looks) < 20


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"\x09",                                              "cannot begin with the byte 0x09"),
        (b"\x7e" + u32(1),                                     "cannot begin with the byte 0x7e"),
        (part(2, 9, u64(EOS)),                                 "never began"),
        (part(2, 2, u64(EOS)),                                 "never began or has ended"),
        (section(4, 2, "dev", DEVICE),                         "has the number of section ram"),
        (section(1, 5, "ram", u64(EOS), version=3),            "version 3"),
        (section(1, 5, "dev", DEVICE)[:-4] + u32(6),           "section dev"),
        (b"\x08" + struct.pack(">HH", 8, 4) + u32(9),          "command 8 cannot be in a file"),
        (b"\x08" + struct.pack(">HH", 0, 0),                   "command 0 cannot be in a file"),
    ],
)  # fmt: skip
def test_a_section_out_of_place_is_named_with_its_offset(read: Reader, damaged: bytes, words: str) -> None:
    report = read(make_stream(devices=damaged + Parts().devices))
    assert words in trouble(report)
    assert trouble(report).startswith("at byte ")


@pytest.mark.parametrize("command", [(1, b""), (2, u32(1)), (3, bytes(16)), (11, b"")])
def test_commands_that_only_announce_are_stepped_over(read: Reader, command: tuple[int, bytes]) -> None:
    number, data = command
    announced = b"\x08" + struct.pack(">HH", number, len(data)) + data
    assert read(make_stream(ram=announced + Parts().ram)).whole


# The configuration


def test_the_configurations_parts_are_stepped_over(read: Reader) -> None:
    uuid = subsection("configuration/uuid", bytes(16))
    bits = subsection("configuration/target-page-bits", u32(12))
    report = read(make_stream(configuration=configuration("virt", bits, capabilities("other"), uuid)))
    assert report.whole
    assert report.kind == "stream"


def test_a_page_size_that_the_description_contradicts_is_found(read: Reader) -> None:
    bits = subsection("configuration/target-page-bits", u32(14))
    assert "disagree about the page size" in trouble(read(make_stream(configuration=configuration("virt", bits))))


def test_pages_are_as_large_as_the_stream_says(read: Reader) -> None:
    bits = subsection("configuration/target-page-bits", u32(14))
    ram = section(1, 2, "ram", ram_list({"mach-virt.ram": 1 << 15}) + u64(EOS), version=4)
    pages = part(3, 2, page(0, FULL_PAGE, block="mach-virt.ram", content=bytes(1 << 14)) + u64(EOS))
    text = json.dumps({"page_size": 1 << 14, "devices": DEVICES}).encode()
    report = read(make_stream(configuration=configuration("virt", bits), ram=ram, pages=pages, description=text))
    assert report.whole


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (subsection("configuration/target-page-bits", u32(99)),         "2^99 bytes"),
        (subsection("configuration/capabilities", u32(0xFFFFFFFF)),     "4294967295 capabilities are more"),
        (subsection("configuration/unheard-of", b""),                   "configuration/unheard-of"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tail", [b"", b"garbage"])
def test_a_configuration_that_makes_no_sense_is_refused(read: Reader, damaged: bytes, words: str, tail: bytes) -> None:
    assert words in trouble(read(make_stream(configuration=configuration("virt", damaged), tail=tail)))


def test_a_part_of_the_configuration_that_only_the_description_knows_is_stepped_over(read: Reader) -> None:
    part_of_it = {"vmsd_name": "configuration/new", "fields": [{"size": 6}]}
    text = json.dumps({"configuration": {"fields": [], "subsections": [part_of_it]}, "devices": DEVICES}).encode()
    new = subsection("configuration/new", b"\x05future"[:6])
    assert read(make_stream(configuration=configuration("pc", new), description=text)).whole


def test_a_machine_name_of_gigabytes_is_refused(read: Reader) -> None:
    assert "name cannot be" in trouble(read(HEADER + b"\x07" + u32(0xFFFFFFF0) + bytes(1000)))


def test_shared_ram_has_an_address_and_no_pages(read: Reader) -> None:
    ram = section(1, 2, "ram", ram_list({"pc.ram": 2 * PAGE, "rom": PAGE}, u64(0)) + u64(EOS), version=4)
    shared = configuration("pc", capabilities("x-ignore-shared"))
    report = read(make_stream(configuration=shared, ram=ram, pages=part(3, 2, u64(EOS))))
    assert report.whole
    assert report.ram_blocks == (RamBlock("pc.ram", 2 * PAGE), RamBlock("rom", PAGE))


def test_a_block_on_huge_pages_may_say_so(read: Reader) -> None:
    ram = section(1, 2, "ram", ram_list({"pc.ram": 2 * PAGE, "rom": PAGE}, u64(2 << 20)) + u64(EOS), version=4)
    assert read(make_stream(ram=ram)).whole


# RAM


def test_pages_are_counted_across_every_chunk_of_the_file(read: Reader) -> None:
    count = 1000
    ram = section(1, 2, "ram", ram_list({"pc.ram": 2 * count * PAGE, "rom": PAGE}) + u64(EOS), version=4)
    first = page(0, FULL_PAGE, block="pc.ram") + b"".join(page(number * PAGE) for number in range(1, count))
    zeros = b"".join(page((count + number) * PAGE, ZERO | CONTINUE, content=b"\0") for number in range(count))
    last = page(0, ZERO, block="rom", content=b"\0")
    pages = part(2, 2, first + u64(EOS)) + part(2, 2, u64(EOS)) + part(3, 2, zeros + last + u64(EOS))
    report = read(make_stream(ram=ram, pages=pages))
    assert report.trouble is None
    assert (report.ram_pages, report.zero_pages) == (count, count + 1)


@pytest.mark.parametrize(
    "record",
    [
        page(0, XBZRLE, block="pc.ram", content=b"\x01" + struct.pack(">H", 5) + b"delta"),
        page(0, COMPRESS_PAGE, block="pc.ram", content=u32(7) + b"deflate"),
        page(0, FULL_PAGE, block="pc.ram") + u64(MULTIFD_FLUSH),
    ],
    ids=["xbzrle", "compress", "multifd-flush"],
)
def test_every_kind_of_page_is_one_page(read: Reader, record: bytes) -> None:
    report = read(make_stream(pages=part(3, 2, record + u64(EOS))))
    assert report.whole
    assert report.ram_pages == 1


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (page(0, FULL_PAGE | CONTINUE),                                     "there is none"),
        (page(0, FULL_PAGE, block="pc.bios"),                               "pc.bios, which the stream does not list"),
        (page(2 * PAGE, FULL_PAGE, block="pc.ram"),                         "a page at 8192 of RAM block pc.ram"),
        (page(0, FULL_PAGE, block="pc.ram") + page(2 * PAGE),               "a page at 8192 of RAM block pc.ram"),
        (page(0, HOOK, block="pc.ram"),                                     "flags 0x80"),
        (page(0, 0x01, block="pc.ram"),                                     "flags 0x1"),
        (page(0, FULL_PAGE | ZERO, block="pc.ram"),                         "flags 0xa"),
        (page(0, COMPRESS_PAGE, block="pc.ram", content=u32(0xFFFFFFFF)),   "compressed page cannot have 4294967295 bytes"),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_is_refused(read: Reader, record: bytes, words: str) -> None:
    assert words in trouble(read(make_stream(pages=part(3, 2, record + u64(EOS)))))


def test_a_ram_block_has_a_name(read: Reader) -> None:
    ram = section(1, 2, "ram", ram_list({"": 2 * PAGE}) + u64(EOS), version=4)
    assert "without a name" in trouble(read(make_stream(ram=ram)))


def test_ram_blocks_larger_than_all_ram_are_refused(read: Reader) -> None:
    listed = u64(PAGE | MEM_SIZE) + counted("pc.ram") + u64(2 * PAGE)
    assert "more than is left" in trouble(read(make_stream(ram=section(1, 2, "ram", listed + u64(EOS), version=4))))


# mapped-ram


def make_mapped(*, version: int = 1, size: int = 10 * PAGE, bitmap: int = 0, pages: int = 0, bits: int = 0b11) -> bytes:
    """A block of ten pages at 1 MiB, of which the file holds those in `bits`; other numbers make it wrong."""
    start = HEADER + configuration("pc", capabilities("mapped-ram"))
    listed = b"\x01" + u32(2) + counted("ram") + u32(0) + u32(4) + u64(size | MEM_SIZE) + counted("pc.ram") + u64(size)
    at = len(start + listed) + 28
    place = struct.pack(">IQQQ", version, PAGE, bitmap or at, pages or 1 << 20)
    before = (start + listed + place + bits.to_bytes(8, "little")).ljust(1 << 20, b"\0")
    rest = Parts(head=b"", configuration=b"", ram=u64(EOS) + footer(2), pages=part(3, 2, u64(EOS)))
    return before + bytes(10 * PAGE) + bytes(rest)


def test_mapped_ram_counts_the_pages_in_its_bitmap(read: Reader) -> None:
    report = read(make_mapped(bits=0b1000000101))
    assert report.trouble is None
    assert (report.kind, report.ram_pages, report.zero_pages) == ("mapped-ram", 3, 7)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"version": 2},         "does not know this layout"),
        ({"bitmap": 8},          "overlap"),
        ({"pages": 16},          "overlap"),
        ({"pages": 1 << 50},     "whose pages go on to byte"),
        ({"size": 1 << 50},      "overlap"),
        ({"size": PAGE << 20},   "whose pages go on to byte"),
    ],
)  # fmt: skip
def test_mapped_ram_in_impossible_places_is_refused(read: Reader, wrong: dict[str, int], words: str) -> None:
    assert words in trouble(read(make_mapped(**wrong)))


def test_a_shared_block_has_no_place_in_a_mapped_ram_file(read: Reader) -> None:
    nowhere = u64(0) + struct.pack(">IQQQ", 1, PAGE, 0, 0)
    ram = section(1, 2, "ram", ram_list({"pc.ram": 2 * PAGE, "rom": PAGE}, nowhere) + u64(EOS), version=4)
    both = configuration("pc", capabilities("x-ignore-shared", "mapped-ram"))
    report = read(make_stream(configuration=both, ram=ram, pages=part(3, 2, u64(EOS))))
    assert report.trouble is None
    assert (report.kind, report.ram_pages) == ("mapped-ram", 0)


# Other live sections


BITMAP_BITS = b"\x48" + counted("disk0") + u64(0) + u32(128) + u64(3) + b"\xff\0\xff"
LIVE = [
    ("dirty-bitmap", 1,
     b"\x1c" + counted("disk0") + counted("b") + u32(65536) + b"\0" + b"\x01",
     BITMAP_BITS + b"\x42" + u64(128) + u32(128) + b"\x2c" + counted("disk0") + counted("b") + b"\x01"),
    ("block", 1,
     u64(2),
     u64(1 << 9 | 1) + counted("d0") + bytes(1 << 20) + u64(1 << 9 | 9) + counted("d0") + u64(100 << 9 | 4) + u64(2)),
    ("spapr/htab", 1, u32(24), u32(0) + u32(5) + struct.pack(">HH", 2, 1) + bytes(32) + bytes(8)),
    ("s390-storage_attributes", 0, u64(1), u64(PAGE | 2) + u64(5) + b"attrs" + u64(8) + u64(1)),
    ("s390-storage_attributes", 0, u64(1), u64(PAGE | 2) + u64(5) + b"attrs" + u64(8)),
    ("0000:00:05.0/vfio", 1, b"setup", b"opaque" * 1000 + bytes(2 * CHUNK)),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"!not a section"),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"~" + u32(50) + counted("name")),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"\x04" + u32(50) + counted("\x01\x02") + b"no name"),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"\x04" + u32(2) + counted("ram") + b"no new number"),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"\x02" + u32(50) + b"no old number"),
    ("0000:00:05.0/vfio", 1, b"setup", footer(9) + b"\0 and no description"),
    ("0000:00:05.0/vfio", 1, b"setup", bytes(CHUNK - 260) + footer(9)[:3] + footer(9) + b"!"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "version", "first", "last"), LIVE)
def test_other_live_sections_are_walked_to_their_footers(
    read: Reader, name: str, version: int, first: bytes, last: bytes
) -> None:
    start = section(1, 9, name, first, version=version)
    end = part(3, 9, last)
    report = read(make_stream(ram=Parts().ram + start, pages=Parts().pages + end))
    assert report.trouble is None
    assert Device(name, 0, version, len(start) + len(end)) in report.devices


@pytest.mark.parametrize(
    ("name", "version", "content"),
    [
        ("dirty-bitmap", 1, b"\x80\x80\0\0"),
        ("dirty-bitmap", 1, b"\0"),
        ("block", 1, u64(0)),
        ("s390-storage_attributes", 0, u64(4)),
        ("s390-storage_attributes", 0, u64(2) + u64(1 << 60)),
    ],
)
def test_a_live_section_that_makes_no_sense_is_refused(read: Reader, name: str, version: int, content: bytes) -> None:
    start = section(1, 9, name, content + bytes(64), version=version)
    assert name in trouble(read(make_stream(ram=Parts().ram + start)))


# libvirt


def libvirt(
    stream: bytes,
    *,
    magic: bytes = b"LibvirtQemudSave",
    order: str = "<",
    version: int = 2,
    length: int = 100,
    was_running: int = 1,
    compressed: int = 0,
) -> bytes:
    numbers = struct.pack(f"{order}5I56x", version, length, was_running, compressed, 0)
    return magic + numbers + b"<domain/>".ljust(100, b"\0") + stream


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_libvirt_file_is_read_through_to_its_stream(read: Reader, order: str) -> None:
    report = read(libvirt(make_stream(), order=order))
    assert report.trouble is None
    assert (report.kind, report.machine, report.was_running) == ("libvirt", "pc-q35-7.2", True)


def test_a_libvirt_file_stays_one_with_mapped_ram_in_it(read: Reader) -> None:
    assert read(libvirt(make_mapped(), compressed=6)).kind == "libvirt"


def test_libvirt_says_whether_the_guest_ran(read: Reader) -> None:
    assert read(libvirt(make_stream(), was_running=0)).was_running is False


@pytest.mark.parametrize(("method", "words"), [(1, "gzip"), (3, "xz"), (5, "zstd"), (77, "method 77")])
def test_a_compressed_libvirt_file_says_that_it_cannot_be_read_through(read: Reader, method: int, words: str) -> None:
    report = read(libvirt(b"\x1f\x8b", compressed=method))
    assert f"compressed the stream ({words})" in trouble(report)
    assert report.kind == "libvirt"


def test_a_libvirt_file_that_was_not_finished_is_not_whole(read: Reader) -> None:
    report = read(libvirt(make_stream(), magic=b"LibvirtQemudPart"))
    assert "never finished" in trouble(report)
    assert report.machine == "pc-q35-7.2"


@pytest.mark.parametrize(
    "content",
    [
        libvirt(make_stream(), version=9),
        libvirt(make_stream(), length=0xFFFFFFFF),
        libvirt(make_stream(), length=3),
        libvirt(make_stream())[:50],
    ],
    ids=["version", "length", "short", "cut"],
)
def test_a_libvirt_header_that_makes_no_sense_is_refused(read: Reader, content: bytes) -> None:
    report = read(content)
    assert report.kind == "libvirt"
    trouble(report)


# Reading


def test_a_descriptor_is_read_from_its_start_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(make_stream())
    fd = os.open(tmp_path / "stream", os.O_RDONLY)
    try:
        os.lseek(fd, 5, os.SEEK_SET)
        assert read_stream(fd).whole
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    finally:
        os.close(fd)


def make_long(tmp_path: Path) -> Path:
    ram = section(1, 2, "ram", ram_list({"pc.ram": 1000 * PAGE}) + u64(EOS), version=4)
    pages = page(0, FULL_PAGE, block="pc.ram") + b"".join(page(number * PAGE) for number in range(1, 1000))
    file = tmp_path / "long"
    file.write_bytes(make_stream(ram=ram, pages=part(3, 2, pages + u64(EOS))))
    return file


def test_progress_goes_up_to_the_end_of_the_file(tmp_path: Path) -> None:
    file = make_long(tmp_path)
    steps: list[int] = []
    assert read_stream(file, progress=steps.append).whole
    assert steps == sorted(steps)
    assert steps[-1] == file.stat().st_size
    assert len(steps) >= file.stat().st_size // CHUNK


def test_reading_stops_when_told(tmp_path: Path) -> None:
    answers = iter([False, False, False, True])
    with pytest.raises(StreamInterrupted):
        read_stream(make_long(tmp_path), stop=lambda: next(answers))


def test_a_file_that_shrinks_meanwhile_is_not_whole(tmp_path: Path) -> None:
    file = make_long(tmp_path)
    report = read_stream(file, progress=lambda _: os.truncate(file, 2 * CHUNK))
    assert trouble(report) == f"at byte {2 * CHUNK}: the file ends in RAM block pc.ram"


def test_a_file_that_grows_meanwhile_is_not_whole(tmp_path: Path) -> None:
    file = make_long(tmp_path)
    size = file.stat().st_size

    def grow(_: int) -> None:
        os.truncate(file, size + 1)

    assert "something still writes it" in trouble(read_stream(file, progress=grow))
