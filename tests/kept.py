"""Saved states: as values for what shows them, and as files for what looks at them."""

import os
from pathlib import Path
from typing import Any

import msgspec

from tests.backend.fake_qmp import stream
from vmtui.backend.core.fleet import Snapshot, Standing
from vmtui.backend.core.model import Card, FileReport, Phase, Primary
from vmtui.backend.core.snapshot import Host, Manifest
from vmtui.backend.store import Partial

PRIMARY = Primary("primary0", "standby0", "vfio-pci", "rp1", (1, 0, 0), card=Card.PLUGGED, driven=True, pci_id="8086:10c9")
MADE = "2026-03-01T02:17:45+00:00"
MADE_AT = 1772331465.0
PHASES = (
    (Phase.PREFLIGHT, 0.0), (Phase.PREPARE, 0.02), (Phase.UNPLUG, 0.031), (Phase.PAUSE, 0.281), (Phase.SAVE, 0.283),
    (Phase.FINISH, 1.9), (Phase.RESUME, 1.91), (Phase.REPLUG, 1.92), (Phase.SETTLE, 2.2), (Phase.VERIFY, 2.21),
)  # fmt: skip


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        version=1, name="web1", uuid="6f2f2f3a-0000-4000-8000-000000000001", host=Host("hyper7", "0.1", MADE),
        qemu="10.0.2", package="Debian", machine="pc-q35-10.0", memory=4 << 30, argv=("qemu-system-x86_64",),
        strategy="pause-after-unplug", why="this QEMU has no pause-vm", then="resume", phases=PHASES, primaries=(PRIMARY,),
        standbys=("standby0",), file=FileReport(1 << 30, True, runstate="paused", devices=41, ram_blocks=9),
        stopped_seconds=1.62, unplug_seconds=0.25, background=False,
        proved={"card": "plugged", "runstate": "running", "restored": True},
    )  # fmt: skip
    return msgspec.structs.replace(manifest, **changes)


def make_snapshot(name: str = "web1-20260301T021745", **changes: Any) -> Snapshot:
    """A whole one, unless told otherwise."""
    snapshot = Snapshot(f"/snap/{name}.vmstate", 1 << 30, MADE_AT, Standing.WHOLE, manifest=make_manifest())
    return msgspec.structs.replace(snapshot, **changes)


def keep(path: Path, content: bytes | None = None, **changes: Any) -> Path:
    """Save a state as vmtui does, with a manifest that says these things."""
    content = stream() if content is None else content
    partial = Partial(path)
    os.write(partial.fd, content)
    report = FileReport(len(content), True, runstate="paused", devices=41, ram_blocks=9)
    partial.publish(make_manifest(**{"file": report, **changes}))
    return path
