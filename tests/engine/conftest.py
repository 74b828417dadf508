"""An engine in a process of its own for each test, with a home of its own; none is left behind."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vmtui.backend import server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.delenv("VMTUI_ENGINE")
    monkeypatch.setenv("VMTUI_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VMTUI_SNAPSHOT_DIR", str(tmp_path / "snapshots"))
    yield tmp_path
    kill_engine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


def kill_engine() -> None:
    """As a host does that has no memory left; returns when it is gone."""
    if (pid := server.pid_of_engine()) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    engine_is_gone()


def engine_is_gone(seconds: float = 20.0) -> None:
    """Returns when none runs."""
    deadline = time.monotonic() + seconds
    while server.pid_of_engine() is not None:
        assert time.monotonic() < deadline, "the engine does not end"
        time.sleep(0.01)
