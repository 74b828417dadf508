"""How does a host know of a simulated VM: the process that stands for it, and the record that `vmtui list` finds it by?

A simulated VM has no QEMU process, and vmtui asks the host whether a VM whose monitor broke still lives. So each has a
body: a shell that waits on a pipe which the server holds, and ends when the VM does, or the server, however it ends.
Killing a body kills its VM.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

DIRECTORY = "VMTUI_DEMO_DIR"
"""The environment variable that names a directory of records: then discovery sees the VMs in it, and no others."""
PROGRAM = "vmtui-sim"
"""What a body calls itself; no QEMU is called so."""
SUFFIX = ".sim"


class Record(msgspec.Struct, frozen=True):
    """One simulated VM that is served, as it stands in a file beside its socket."""

    name: str
    uuid: str
    path: str
    machine: str
    memory: int
    """Bytes."""
    pid: int
    start_time: int
    monitor: str = ""
    """The second monitor's socket, if there is one."""


def host_name() -> str:
    """What the host is called where only simulated VMs are seen; empty elsewhere."""
    return "simulated" if os.environ.get(DIRECTORY) else ""


def write_record(record: Record) -> Path:
    """Write it beside the socket, whole or not at all. Raises OSError."""
    path = Path(record.path + SUFFIX)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(msgspec.json.encode(record) + b"\n")
    beside.rename(path)
    return path


def records(directory: Path) -> Iterator[Record]:
    """The records in a directory; what is none is passed over."""
    with suppress(OSError):
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            with suppress(OSError, msgspec.MsgspecError):
                yield msgspec.json.decode(path.read_bytes(), type=Record)


def command_line(
    name: str, uuid: str, machine: str, memory: int, paths: Sequence[str], devices: Sequence[str] = ()
) -> tuple[str, ...]:
    """What a QEMU with this VM in it would have been started with, as far as anybody looks. `paths`: of its monitors;
    `devices`: the words about a panic, and about failover cards."""
    return (
        "-name",
        name,
        "-uuid",
        uuid,
        "-machine",
        machine,
        "-m",
        f"{memory >> 20}M",
        *(word for path in paths for word in ("-qmp", f"unix:{path},server=on")),
        *devices,
    )


class Body:
    """A process with a VM's words on its command line."""

    def __init__(self, lifeline: int, words: Sequence[str]) -> None:
        """`lifeline`: the read end of a pipe to which nobody writes. Raises OSError."""
        self._process = subprocess.Popen(
            (PROGRAM, "-c", "read _", *words), executable="/bin/sh", stdin=lifeline,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        """Readable once it has ended."""

    def end(self) -> None:
        """Kill it, if it lives, and leave no zombie."""
        if self.pidfd < 0:
            return
        self._process.kill()
        self._process.wait()
        os.close(self.pidfd)
        self.pidfd = -1
