"""Where vmtui keeps its things in these tests, and where a twin listens."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VMTUI_SNAPSHOT_DIR", str(tmp_path / "snapshots"))
    return tmp_path / "state" / "vmtui"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"
