"""The dumps are opened by others than vmtui: what they find in them is what the guest's kernel had."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import wait_until
from vmtui.backend.corefile import read_dump

LAST_WORDS = "Kernel panic - not syncing: NMI: Not continuing"
RELEASE = re.compile(r"Linux version (\S+)")

needs_makedumpfile = pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="needs makedumpfile")
needs_crash = pytest.mark.skipif(shutil.which("crash") is None, reason="needs crash")


@pytest.fixture
def panicked(pen: AnyPen) -> AnyGuest:
    guest: AnyGuest = pen.own(panic_action="pause")
    guest.crash()
    wait_until(lambda: guest.look().runstate == "guest-panicked", "it panics")
    return guest


def dump(guest: AnyGuest, name: str) -> Path:
    ended = guest.run("dump", "--format", name)
    assert (ended.code, ended.result["outcome"]) == (0, "dumped"), (ended.result, ended.errors)
    return Path(ended.result["file"])


def kernel_log(kdump: Path) -> str:
    """The guest's, as makedumpfile finds it. It reads none of QEMU's ELF cores."""
    raw, log = kdump.with_name("raw"), kdump.with_name("log")
    if kdump.read_bytes()[:12] == b"makedumpfile":
        with kdump.open("rb") as flattened:
            said(("makedumpfile", "-R", str(raw)), flattened.fileno())
    else:
        raw = kdump
    said(("makedumpfile", "--dump-dmesg", str(raw), str(log)))
    text = log.read_text(errors="replace")
    log.unlink()
    return text


def said(command: tuple[str, ...], given: int = subprocess.DEVNULL) -> str:
    done = subprocess.run(command, stdin=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_makedumpfile
def test_a_panicked_kernels_last_words_are_in_its_dump(pen: AnyPen, panicked: AnyGuest) -> None:
    for name in ("kdump-zlib", "kdump-raw-zlib") if pen.version >= (8, 2) else ("kdump-zlib",):
        assert LAST_WORDS in kernel_log(dump(panicked, name))


@needs_crash
@needs_makedumpfile
def test_a_dump_of_any_format_tells_of_which_kernel_it_is(panicked: AnyGuest) -> None:
    elf, kdump = dump(panicked, "elf"), dump(panicked, "kdump-zlib")
    found = RELEASE.search(kernel_log(kdump))
    assert found is not None
    for file in (elf, kdump):
        assert said(("crash", "--osrelease", str(file))).strip() == found[1]
        assert read_dump(file).kernel == found[1]
