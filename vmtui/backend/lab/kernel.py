"""Where a lab guest's kernel, modules and busybox come from: the host if they can be read, else Debian's packages.

What was fetched stays in the cache, unpacked, not installed.
"""

import gzip
import lzma
import os
import platform
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmtui.backend.lab import debian
from vmtui.backend.lab.errors import LabError

WANTED = (
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_console",
    "pvpanic",
    "pvpanic_mmio",
    "e1000e",
    "qemu_fw_cfg",
)
"""Modules the guest loads, in this order, each after what it depends on. The cloud kernels lack e1000e."""
PACKAGES = ("linux-image-amd64", "linux-image-generic")
"""Debian's and Ubuntu's name for the kernel of the day."""
SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")

PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
"""The ELF note with the 32-bit entry point, XEN_ELFNOTE_PHYS32_ENTRY: without it QEMU refuses an ELF kernel."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel with all the modules that a guest needs."""

    image: Path
    modules: tuple[Path, ...]
    """In the order to load them."""


def cache() -> Path:
    """Where fetched and made things are kept: XDG_CACHE_HOME/vmtui."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vmtui"


def find_kernel(say: Say) -> Kernel:
    """The host's kernel, else the one in the cache, fetched if it is not there. Raises LabError."""
    fetched = cache() / "kernel"
    for root in (Path("/"), fetched):
        if found := next(kernels(root), None):
            return found
    with debian.alone(cache()):
        if not any(kernels(fetched)):
            say("no kernel on this host can be read: fetching Debian's into the cache (once)")
            fetch_kernel(fetched)
    if found := next(kernels(fetched), None):
        return found
    raise LabError(f"the kernel in {fetched} lacks modules that the guest needs: {', '.join(WANTED)}; delete it to retry")


def kernels(root: Path) -> Iterator[Kernel]:
    """Kernels under a root directory that can be read and have what is needed; the running one, then the newest."""
    boot = (root / "boot").glob("vmlinuz-*") if (root / "boot").is_dir() else ()
    for image in sorted(boot, key=lambda path: (platform.release() in path.name, _natural(path.name)), reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        tree = next(
            (path for path in (root / "lib/modules" / release, root / "usr/lib/modules" / release) if path.is_dir()), None
        )
        if tree and os.access(image, os.R_OK) and (modules := needed_modules(tree)) is not None:
            yield Kernel(image, modules)


def needed_modules(tree: Path) -> tuple[Path, ...] | None:
    """Files of a kernel's module tree in the order to load them; None if one is missing or cannot be read."""
    files = {_plain(path.name): path for path in (tree / "kernel").rglob("*.ko*") if path.name.endswith(SUFFIXES)}
    builtin = tree / "modules.builtin"
    inside = {_plain(Path(line).name) for line in builtin.read_text().splitlines()} if builtin.exists() else set()
    try:
        order = load_order(WANTED, inside, lambda name: depends(module_data(files[name])))
    except (KeyError, OSError, LabError):
        return None
    return tuple(files[name] for name in order)


def load_order(wanted: Iterable[str], inside: Iterable[str], depends_on: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The wanted modules, each after those that it depends on, without those that are inside the kernel."""
    order: dict[str, None] = {}
    skipped = frozenset(inside)

    def visit(name: str) -> None:
        if name in order or name in skipped:
            return
        for other in depends_on(name):
            visit(other)
        order[name] = None

    for name in wanted:
        visit(name)
    return tuple(order)


def depends(module: bytes) -> tuple[str, ...]:
    """What a module says it depends on. Read from the module itself: an unpacked package has no modules.dep."""
    found = re.search(rb"\0depends=([a-zA-Z0-9_,-]*)\0", module)
    return tuple(name.replace("-", "_") for name in found[1].decode().split(",") if name) if found else ()


def module_data(path: Path) -> bytes:
    """A module's bytes, uncompressed: the guest's busybox may not know the compression. Raises LabError, OSError."""
    match path.suffix:
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            return _unzstd(path)
        case _:
            return path.read_bytes()


def _unzstd(path: Path) -> bytes:
    if shutil.which("zstd") is None:
        raise LabError(f"{path} is compressed with zstd, which is not installed")
    done = subprocess.run(("zstd", "-dcq", str(path)), capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"{path} cannot be uncompressed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def uncompressed(image: bytes) -> bytes | None:
    """The ELF file inside a bzImage, if QEMU can start it (PVH) and we can uncompress it.

    Under TCG a guest that uncompresses its kernel by itself does nothing else for four seconds.
    """
    openers: Mapping[bytes, Callable[[], _Opener]] = {
        b"\xfd7zXZ\0": lzma.LZMADecompressor,
        b"\x1f\x8b\x08": lambda: zlib.decompressobj(wbits=31),
    }
    for magic, opener in openers.items():
        for found in re.finditer(re.escape(magic), image):
            with suppress(lzma.LZMAError, zlib.error):
                kernel = opener().decompress(image[found.start() :])
                if kernel.startswith(b"\x7fELF") and PVH_NOTE.search(kernel):
                    return kernel
    return None


class _Opener(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def fetch_kernel(into: Path) -> None:
    """Fetch the kernel's packages and unpack them. Raises LabError."""
    fetch(PACKAGES, into, lambda name: re.match(r"linux-(image|modules)-.*\d", name) is not None, trim)


def trim(root: Path) -> None:
    """Drop the modules that no guest loads: some 400 MB of them."""
    needed = {module for kernel in kernels(root) for module in kernel.modules}
    for module in set(root.glob("**/kernel/**/*.ko*")) - needed:
        module.unlink()


def find_busybox(say: Say) -> Path:
    """A busybox that needs no library: the host's, else the cache's, fetched if it is not there. Raises LabError."""
    fetched = cache() / "busybox"
    known = [
        Path(path) for path in ("/bin/busybox", "/usr/bin/busybox", fetched / "bin/busybox", fetched / "usr/bin/busybox")
    ]
    if found := next(filter(is_static, known), None):
        return found
    with debian.alone(cache()):
        if not any(map(is_static, known)):
            say("no static busybox on this host: fetching Debian's into the cache (once)")
            fetch(("busybox-static",), fetched, lambda name: name == "busybox-static")
    if found := next(filter(is_static, known), None):
        return found
    raise LabError(f"{fetched} holds no static busybox; delete it to retry, or install busybox-static")


def is_static(binary: Path) -> bool:
    """Whether an ELF file asks for no loader (no PT_INTERP among its program headers)."""
    try:
        data = binary.read_bytes()
    except OSError:
        return False
    if not data.startswith(b"\x7fELF\x02"):
        return False
    start, size, count = (int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    interpreter = 3
    return all(
        int.from_bytes(data[at : at + 4], "little") != interpreter for at in range(start, start + size * count, size)
    )


def fetch(
    names: Iterable[str], into: Path, keep: Callable[[str], bool], finish: Callable[[Path], None] = lambda _: None
) -> None:
    """Unpack those of the packages and their dependencies that are to be kept. Raises LabError."""
    try:
        with debian.built_beside(into) as tree:
            apt, packages = _resolve(tuple(names), tree / ".apt", keep)
            debian.unpack(debian.download(packages, tree / ".debs", apt), tree)
            shutil.rmtree(tree / ".debs")
            shutil.rmtree(tree / ".apt", ignore_errors=True)
            finish(tree)
    except (debian.PackageError, OSError) as error:
        raise LabError(f"could not fetch {' or '.join(names)}: {error}") from error


def _resolve(
    names: tuple[str, ...], scratch: Path, keep: Callable[[str], bool]
) -> tuple[debian.Apt | None, tuple[str, ...]]:
    """The packages, with the apt that knows them: the system's lists if they do, else lists of our own."""
    own = debian.Apt(scratch)
    for apt in (None, own):
        if apt:
            apt.update()
        for name in names:
            if packages := tuple(filter(keep, debian.dependencies(name, apt))):
                return apt, packages
    raise debian.PackageError("apt knows no such package")


def _plain(name: str) -> str:
    """The name as the kernel uses it: `pvpanic-mmio.ko.xz` is pvpanic_mmio."""
    return name.split(".", 1)[0].replace("-", "_")


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts 6.10 after 6.9."""
    return tuple((int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", name))
