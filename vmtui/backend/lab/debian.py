"""Debian packages, fetched with apt and unpacked with dpkg-deb: nothing is installed, nothing of the system changes.

apt gets a state directory of its own, so no root is needed, the system's package lists stay as they are, and other
suites can be read without adding a source. What apt is configured with otherwise (proxies, keys) still holds.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CODENAMES = frozenset({"bullseye", "bookworm", "trixie", "forky", "duke", "sid"})
NICKNAMES = frozenset({"oldoldstable", "oldstable", "stable", "testing", "unstable"})


class PackageError(Exception):
    """A package could not be fetched or unpacked; the text is apt's or dpkg's own, shortened."""


@dataclass(frozen=True, slots=True)
class Apt:
    """apt, with lists and cache of its own."""

    directory: Path
    """For the lists, the cache and an empty dpkg status: to apt, nothing is installed yet."""
    sources: str | None = None
    """Lines of a sources.list. None: the sources that the system has."""

    def options(self) -> tuple[str, ...]:
        own = {
            "Dir::State": self.directory / "state",
            "Dir::State::status": self.directory / "status",
            "Dir::Cache": self.directory / "cache",
            "Dir::Log": self.directory / "log",
            "Debug::NoLocking": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        if self.sources is not None:
            own |= {"Dir::Etc::sourcelist": self.directory / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
            own |= {"Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null"}
        if os.geteuid() == 0:
            own["APT::Sandbox::User"] = "root"  # else apt downloads as _apt, which may not enter the directory
        return tuple(f"-o={key}={value}" for key, value in own.items())

    def update(self) -> None:
        """Fetch the package lists. Raises PackageError."""
        for needed in ("state/lists/partial", "cache/archives/partial", "log"):
            (self.directory / needed).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        if self.sources is not None:
            (self.directory / "sources.list").write_text(self.sources)
        run(("apt-get", *self.options(), "-o=APT::Update::Error-Mode=any", "update"))

    def download_closure(self, packages: Sequence[str], release: str) -> tuple[Path, ...]:
        """Fetch the packages and all that they depend on, newest from `release`. Raises PackageError."""
        wanted = ("install", "--download-only", "--yes", "--no-install-recommends", f"--target-release={release}")
        run(("apt-get", *self.options(), *wanted, *packages))
        return tuple(sorted((self.directory / "cache/archives").glob("*.deb")))


def download(packages: Sequence[str], into: Path, apt: Apt | None = None) -> tuple[Path, ...]:
    """Fetch just these packages, with the system's lists or those of `apt`. Raises PackageError."""
    options = apt.options() if apt else ("-o=APT::Sandbox::User=root",) if os.geteuid() == 0 else ()
    into.mkdir(parents=True, exist_ok=True)
    run(("apt-get", *options, "download", *packages), cwd=into)
    return tuple(sorted(into.glob("*.deb")))


def dependencies(package: str, apt: Apt | None = None) -> tuple[str, ...]:
    """All that a package depends on, itself first; empty if the lists do not know it."""
    chosen = ("--recurse", *(f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces")))
    command = ("apt-cache", *(apt.options() if apt else ()), "depends", *chosen, "--no-enhances", package)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(line for line in found.stdout.splitlines() if re.match(r"[a-z0-9]", line))


def unpack(packages: Collection[Path], tree: Path) -> None:
    """Unpack into `tree`, base-files first: it holds the links /lib to usr/lib that others rely on."""
    tree.mkdir(parents=True, exist_ok=True)
    for package in sorted(packages, key=lambda path: (not path.name.startswith("base-files_"), path.name)):
        run(("dpkg-deb", "--extract", str(package), str(tree)))


def mirror() -> str | None:
    """Where the system's apt gets Debian from; None where it is not told of any."""
    line = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    try:
        listed = run(("apt-get", "indextargets", "--format", line))
    except PackageError:
        return None
    suites = CODENAMES | NICKNAMES
    rows = (row.split("|") for row in listed.splitlines())
    return next((uri for uri, suite, component in rows if suite in suites and component == "main"), None)


def sources(uri: str, suites: Sequence[str]) -> str:
    """The text of a sources.list with these suites of a mirror."""
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    return "".join(f"deb {signed}{uri} {suite} main\n" for suite in suites)


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """What the command printed. Raises PackageError with its last words."""
    if shutil.which(command[0]) is None:
        raise PackageError(f"{command[0]} is not installed: packages can be fetched on Debian and its kin only")
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "dpkg"))] or [done.stderr]
        raise PackageError(f"{command[0]} failed: {' '.join(said[-3:]).strip()}")
    return done.stdout


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, so that two at once do not fetch the same thing."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


@contextmanager
def built_beside(final: Path) -> Iterator[Path]:
    """A new directory that takes the place of `final` when the block ends well, and is gone when it does not.

    Made beside and renamed: whoever sees `final` sees all of it, and a broken download leaves nothing to trust.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".partial-{final.name}-", dir=final.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
