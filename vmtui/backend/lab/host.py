"""What the host offers a guest: KVM if it truly works, a file of random bytes, an initramfs kept in the cache."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from fcntl import ioctl
from hashlib import sha256, shake_128
from pathlib import Path
from typing import IO

from vmtui.backend.lab import guest, kernel

KVM_CREATE_VM = 0xAE01
TRIAL_SECONDS = 4.0
"""A guest under a KVM that works has long said its line by then."""

Say = Callable[[str], None]


def accelerator(qemu: str, image: Path, initramfs: Path, say: Say) -> str:
    """QEMU's `accel=`: KVM only if a guest lives under it, asked once for each boot of the host.

    The device may be there, make machines and even run their firmware, and still hang the kernel.
    """
    if not kvm_makes_machines():
        return "tcg"
    asked = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {image}"
    answer = kernel.cache() / "kvm"
    known, _, when = (answer.read_text() if answer.exists() else "").partition(" ")
    if when == asked:
        return known
    say("trying KVM (once for each boot of this host)")
    found = "kvm:tcg" if guest_lives(qemu, image, initramfs, "kvm") else "tcg"
    write_beside(answer, f"{found} {asked}".encode())
    return found


def kvm_makes_machines(device: Path = Path("/dev/kvm")) -> bool:
    held: list[int] = []
    try:
        held.append(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        held.append(ioctl(held[-1], KVM_CREATE_VM, 0))
        return True
    except OSError:
        return False
    finally:
        for descriptor in reversed(held):
            os.close(descriptor)


def guest_lives(qemu: str, image: Path, initramfs: Path, accelerator: str, seconds: float = TRIAL_SECONDS) -> bool:
    """Whether a guest gets as far as its init, with this accelerator."""
    try:
        done = subprocess.run(
            guest.trial(qemu, image, initramfs, accelerator), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return guest.TRIAL.encode() in done.stdout


def random_file(mib: int) -> IO[bytes]:
    """A file without a name, gone when it is closed, whatever happens to us."""
    kernel.cache().mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=kernel.cache())  # noqa: SIM115 (the caller closes it)
    for _ in range(mib):
        file.write(shake_128(os.urandom(16)).digest(1 << 20))  # as incompressible as urandom, twice as fast
    file.flush()
    return file


def boot_image(image: Path) -> Path:
    """The kernel to give to QEMU: uncompressed once, in the cache, or as it is."""
    packed = image.read_bytes()
    path = kernel.cache() / f"vmlinux-{sha256(packed).hexdigest()[:16]}"
    if not path.exists():
        plain = kernel.uncompressed(packed)
        if plain is None:
            return image
        write_beside(path, plain)
    return path


def initramfs(found: kernel.Kernel, busybox: Path) -> Path:
    """The initramfs, made once and named by its content: it outlives the guest, whose copy may be restored later."""
    content = guest.initramfs(found, busybox)
    path = kernel.cache() / f"initramfs-{sha256(content).hexdigest()[:16]}.cpio"
    if not path.exists():
        write_beside(path, content)
    return path


def write_beside(path: Path, content: bytes) -> None:
    """Whoever sees the file sees all of it. Not fsynced: it can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as beside:
        beside.write(content)
    Path(beside.name).rename(path)
