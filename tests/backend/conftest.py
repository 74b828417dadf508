"""Where vmtui keeps its things, and where a twin listens, in the tests that ask for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vmtui"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are what is compared
    yield
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
