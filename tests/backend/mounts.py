"""File systems of our own, where root may mount some: small ones, read-only ones."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options at `place`. Skips the test, aloud, where that is not allowed."""
    place.mkdir()
    done = subprocess.run(("mount", "-t", "tmpfs", "-o", options, "none", place), capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount -t tmpfs: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield place
    finally:
        subprocess.run(("umount", place), check=True)


def fill(place: Path) -> None:
    """Leave no byte free."""
    with (place / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
