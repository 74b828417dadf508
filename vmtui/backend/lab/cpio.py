"""A cpio archive in the `newc` format, the one that the kernel unpacks as its initramfs."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a directory or a device. Its parents must come before it: the kernel makes none by itself."""

    name: str
    """Path without a leading slash."""
    mode: int
    """Type and permissions, as in st_mode."""
    data: bytes = b""
    """A file's content, a link's target."""
    device: tuple[int, int] = (0, 0)
    """Major and minor, for a device."""


def directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | mode, data)


def link(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive's bytes. The same entries give the same bytes: owned by root, dated 1970."""
    packed = [_packed(entry, number) for number, entry in enumerate(entries, start=1)]
    return b"".join((*packed, _packed(Entry(TRAILER, 0), 0)))


def _packed(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    """Header with name, and data, each end at a multiple of four."""
    return data + bytes(-len(data) % 4)
