"""The QEMUs to test with: those in VMTUI_QEMUS (paths, colon-separated), else the system's and those in .cache/qemu."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FETCHED = Path(__file__).resolve().parents[2] / ".cache/qemu"
"""Where tools/fetch-qemu puts its wrappers."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU binary, or a wrapper script that is as good."""

    path: Path
    version: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"qemu-{'.'.join(map(str, self.version))}"


@cache
def found() -> tuple[Qemu, ...]:
    """All that run, oldest first; each version once."""
    asked = ((path, version_of(path)) for path in candidates(os.environ))
    known = {version: Qemu(path, version) for path, version in asked if version}
    return tuple(known[version] for version in sorted(known))


def candidates(environment: Mapping[str, str]) -> tuple[Path, ...]:
    if listed := environment.get("VMTUI_QEMUS"):
        return tuple(Path(path).absolute() for path in listed.split(":") if path)
    system = shutil.which("qemu-system-x86_64")
    return (*sorted(FETCHED.glob("qemu-*")), *((Path(system),) if system else ()))


def version_of(path: Path) -> tuple[int, ...] | None:
    """What `--version` says; None if it does not run."""
    try:
        said = subprocess.run((str(path), "--version"), capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"version (\d+(?:\.\d+)+)", said)
    return tuple(map(int, number[1].split("."))) if number else None
