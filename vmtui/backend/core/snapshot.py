"""What is written beside a saved state: its manifest, which makes a file a snapshot."""

from enum import StrEnum
from typing import Any

import msgspec

from vmtui.backend.core.model import FileReport, Goal, Phase, Primary
from vmtui.backend.core.result import card_word, restored, stopped_seconds
from vmtui.backend.core.state import State, the_work

VERSION = 1
SUFFIX = ".json"


class Host(msgspec.Struct, frozen=True):
    """Where and by what it was made; the engine knows these, the VM does not."""

    hostname: str
    vmtui: str
    created: str
    """ISO 8601 with the offset."""
    executable: str = ""
    """QEMU's program, as /proc/PID/exe names it."""
    cwd: str = ""
    """Where QEMU's relative paths start."""
    launcher: tuple[str, ...] = ()
    """What stood before QEMU's own command line: a dynamic loader, for a QEMU that was unpacked and not installed."""
    environment: tuple[tuple[str, str], ...] = ()
    """Only what QEMU finds its own parts by."""


class Kind(StrEnum):
    STATE = "state"
    DUMP = "dump"
    """A core file: nothing that a QEMU could run on from."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Version 1; documented in docs/snapshots.md. A reader refuses versions that it does not know."""

    version: int
    name: str
    uuid: str
    host: Host
    qemu: str
    package: str
    machine: str
    memory: int
    argv: tuple[str, ...]
    strategy: str
    why: str
    then: str
    phases: tuple[tuple[Phase, float], ...]
    """Each phase and the seconds from the start to its beginning."""
    primaries: tuple[Primary, ...]
    standbys: tuple[str, ...]
    file: FileReport
    kind: Kind = Kind.STATE
    stopped_seconds: float | None
    unplug_seconds: float | None
    background: bool
    """The stream says 'running': it is to be loaded with -S to have it wait."""
    proved: dict[str, Any]
    """card, runstate and settings as they were looked at when the manifest was written."""


def manifest(state: State, host: Host) -> Manifest:
    """The manifest of a workflow whose file was read through and found whole."""
    work, vm = the_work(state), state.vm
    assert work.file is not None
    marks = work.marks
    asked_to_gone = marks.unplugged - marks.asked if marks.unplugged is not None and marks.asked is not None else None
    return Manifest(
        version=VERSION,
        name=vm.name,
        uuid=vm.uuid,
        host=host,
        qemu=vm.qemu,
        package=vm.package,
        machine=work.file.machine or vm.machine,
        memory=vm.memory,
        argv=vm.argv,
        strategy=work.strategy,
        why=work.why,
        then=work.options.then,
        phases=tuple((phase, round(at - work.started, 6)) for phase, at in work.timeline),
        primaries=vm.primaries,
        standbys=vm.standbys,
        file=work.file,
        kind=Kind.DUMP if work.options.goal is Goal.DUMP else Kind.STATE,
        stopped_seconds=stopped_seconds(state),
        unplug_seconds=asked_to_gone,
        background=work.file.runstate == "running",
        proved={"card": card_word(state), "runstate": vm.runstate, "restored": restored(state)},
    )


class ManifestError(ValueError):
    """The manifest cannot be used; the text says why."""


def read_manifest(raw: bytes) -> Manifest:
    """Raises ManifestError for what is no manifest of a version that this program knows."""
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("version")
        if version != VERSION:
            raise ManifestError(f"its version is {version!r}; this vmtui reads version {VERSION}")
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ManifestError(f"it is no manifest of vmtui ({error})") from error
