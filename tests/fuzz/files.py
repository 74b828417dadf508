"""Files and command lines: recorded streams, journals, manifests and command lines, made wrong."""

import io
import json
import lzma
import os
import shlex
import tempfile
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.backend.test_stream import make_mapped, make_stream
from tests.core.play import Play
from tests.core.recorded import DATA, schema
from tests.fuzz import mutate
from vmtui import replay
from vmtui.backend import discovery
from vmtui.backend.core import cmdline
from vmtui.backend.core.errors import UsageError
from vmtui.backend.core.events import AnyEvent
from vmtui.backend.core.model import Vm
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.sim.played import PlayedVm
from vmtui.backend.core.snapshot import Host, ManifestError, manifest, read_manifest
from vmtui.backend.core.text import printable
from vmtui.backend.journal import ActionLine, EventLine, FactsLine, Head, PhaseLine
from vmtui.backend.stream import read_stream
from vmtui.files import _described
from vmtui.simulate import read_story

PEAK = 8 << 20
"""Bytes that reading a stream of these sizes may need: two buffers, and the description."""


def plain(text: str) -> None:
    assert printable(text, len(text)) == text, text


# --- streams --------------------------------------------------------------------------------------------------------


@cache
def _streams() -> tuple[bytes, ...]:
    return tuple(
        lzma.decompress((DATA / "streams" / f"{name}.xz").read_bytes()) for name in ("microvm-7.2", "microvm-compress-7.2")
    )


@cache
def _large_streams() -> tuple[bytes, ...]:
    return tuple(
        lzma.decompress(path.read_bytes())
        for path in (DATA / "streams").glob("*.xz")
        if path.stem.startswith(("pc", "microvm-m"))
    )


@cache
def _small_streams() -> tuple[bytes, ...]:
    return make_stream(), make_stream(tail=b"tail"), make_mapped()[-9000:]


def stream_batch(random: Random, size: int) -> int:
    """A stream that was recorded from QEMU, and damaged: a report, in time and memory that the file's size bounds."""
    fd = os.memfd_create("stream")
    measured = random.random() < 0.05
    try:
        for _ in range(size):
            kind = random.random()
            sources = _small_streams() if kind < 0.5 else _streams() if kind < 0.99 else _large_streams()
            content = mutate.data(random, random.choice(sources), _streams())
            os.ftruncate(fd, 0)
            os.pwrite(fd, content, 0)
            _read(fd, len(content), measured)
    finally:
        os.close(fd)
    return size


def _read(fd: int, length: int, measured: bool) -> None:
    seen: list[int] = []
    if measured:
        tracemalloc.start()
    report = read_stream(fd, progress=seen.append)
    if measured:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < PEAK, f"{peak} bytes for a file of {length}"
    assert report.size == length
    assert len(seen) < 200 + 4 * (length >> 20), f"{len(seen)} looks at a file of {length} bytes"
    assert report.whole == (report.trouble is None)
    for line in _described(Path("f"), report).split("\n"):
        plain(line)
    assert json.loads(msgspec.json.encode(report))


# --- journals -------------------------------------------------------------------------------------------------------


@cache
def _journals() -> tuple[tuple[bytes, ...], ...]:
    """What an engine would have written of a few saves."""
    return tuple(
        _journal(Scenario(**each)) for each in ({}, {"unplug_delay": None}, {"write_fails_after": 100}, {"primaries": 0})
    )


class _Recorded(Play):
    def step(self, event: AnyEvent) -> None:
        self.lines.append(EventLine(event.at, event))
        before = self.state.actions
        super().step(event)
        del before

    lines: list[Any]


def _journal(scenario: Scenario) -> tuple[bytes, ...]:
    play = _Recorded(scenario=scenario)
    play.lines = []
    play.run()
    head = [Head(1, "1", "unix:/q", 0.0), FactsLine(0.0, Vm("unix:/q"))]
    tail = [*(ActionLine(1.0, each) for each in play.sent[:5]), *(PhaseLine(at, name) for name, at in play.work.timeline)]
    return tuple(msgspec.json.encode(line) + b"\n" for line in (*head, *play.lines, *tail))


def journal_batch(random: Random, size: int) -> int:
    """A journal, damaged: it is played as far as it goes, or refused in one line, and never stands still for years."""
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j.ndjson"
        while count < size:
            lines = list(random.choice(_journals()))
            wrong = random.randint(1, 40)
            for _ in range(wrong):
                _spoil(random, lines)
            path.write_bytes(b"".join(lines))
            _played(path)
            count += wrong
    return count


def _spoil(random: Random, lines: list[bytes]) -> None:
    at = random.randrange(len(lines))
    match random.randrange(12):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, random.choice(lines))
        case 2:
            lines[at] = mutate.data(random, lines[at], lines)
        case _:
            made = mutate.value(random, _loaded(lines[at]))
            lines[at] = json.dumps(made).encode() + b"\n"
    if not lines:
        lines.append(b"\n")


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _played(path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            replay.show(path, speed=1e9, as_json=False)
    except UsageError as error:
        plain(str(error))
    for line in (out.getvalue() + err.getvalue()).split("\n"):
        plain(line)
    try:
        told = read_story(path)
    except UsageError as error:
        plain(str(error))
        return
    vm = PlayedVm(told, schema("stock-10.0"))
    vm.connect(0.0)
    for number, name in enumerate(("qmp_capabilities", "query-status", "query-migrate", "query-name", "stop", "cont")):
        vm.receive({"execute": name}, float(number))
    json.dumps(vm.output())


# --- manifests and command lines ------------------------------------------------------------------------------------

COMMAND_LINES = (
    "qemu-system-x86_64 -name guest=web,debug-threads=on -uuid 6b29fc40-ca47-1067-b31d-00dd010662da -machine "
    "pc-q35-7.2,accel=kvm,usb=off -m size=4194304k -qmp unix:/run/web.qmp,server=on,wait=off -drive "
    "file=/srv/web.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 -netdev tap,id=n0 -device "
    "virtio-net-pci,netdev=n0,id=ua-standby0,failover=on,mac=52:54:00:12:34:56 -device "
    "vfio-pci,host=0000:03:00.0,id=primary0,failover_pair_id=ua-standby0 -device pvpanic",
    "/usr/bin/kvm -id 100 -name vm100 -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off -mon "
    "chardev=qmp,mode=control -chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5 -pidfile "
    "/var/run/qemu-server/100.pid -daemonize -smp 4 -m 2048 -monitor tcp:[::1]:4444,server,nowait -D log -incoming defer",
    '/usr/libexec/qemu-kvm -chardev \'{"id":"c","backend":{"type":"socket","data":{"addr":{"type":"unix","data":'
    '{"path":"q.sock"}},"server":true,"wait":false}}}\' -mon chardev=c,mode=control,pretty=on -blockdev '
    '\'{"driver":"qcow2","node-name":"a","file":{"driver":"file","filename":"/x.qcow2"}}\' -device '
    '\'{"driver":"virtio-blk-pci","drive":"a"}\' -object \'{"qom-type":"memory-backend-file","id":"m","mem-path":"/m"}\' '
    "-fw_cfg name=opt/x,file=/f -tpmdev emulator,id=t,chardev=c -vnc :1,password=on -serial file:/log -run-with chroot=/r",
    "/lib64/ld-linux-x86-64.so.2 --library-path /x /x/qemu-system-i386 -qmp-pretty tcp:localhost:4444,server -m 1G",
)


@cache
def _command_lines() -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(shlex.split(line)) for line in COMMAND_LINES)


@cache
def _manifest() -> bytes:
    play = Play(argv=_command_lines()[0])
    play.run()
    return msgspec.json.encode(manifest(play.state, Host("h", "1", "2026-01-01T00:00:00+00:00", "/usr/bin/qemu", "/")))


def manifest_batch(random: Random, size: int) -> int:
    """A manifest, damaged: refused in words, or its command line is rewritten as if it were a good one."""
    for _ in range(size):
        if random.random() < 0.5:
            raw = mutate.data(random, _manifest())
        else:
            raw = json.dumps(mutate.value(random, json.loads(_manifest()))).encode()
        try:
            read = read_manifest(raw)
        except ManifestError as error:
            assert str(error)
            continue
        _looked_at(read.argv)
    return size


def _words(random: Random) -> list[str]:
    words = list(random.choice(_command_lines()))
    for _ in range(random.randint(1, 5)):
        at = random.randrange(len(words)) if words else 0
        other = random.choice(random.choice(_command_lines()))
        if random.random() < 0.7 and words:
            words[at] = os.fsdecode(mutate.data(random, os.fsencode(words[at])).replace(b"\0", b""))
        else:
            words[at : at + random.choice((0, 1))] = [other]
    return words


def command_line_batch(random: Random, size: int) -> int:
    """Command lines of processes, damaged: read, rewritten and shown."""
    for _ in range(size):
        _looked_at(tuple(_words(random)))
    return size


def _looked_at(argv: tuple[str, ...]) -> None:
    found = cmdline.for_restore(argv, name="n", directory="/copy", original_alive=True)
    for text in (*found.problems, *found.notes):
        plain(text)
    for line in cmdline.shell_line(argv).split("\n"):
        plain(line)
    for each in cmdline.qmp_monitors(argv):
        assert each
    assert (cmdline.disks(argv), cmdline.failover_pairs(argv), cmdline.images(argv), cmdline.devices(argv)) is not None
    assert (cmdline.name(argv), cmdline.uuid(argv), cmdline.machine(argv), cmdline.memory(argv)) is not None


def process_batch(random: Random, size: int) -> int:
    """Processes in a /proc of our own, each with a damaged command line or status: listed as far as they can be."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, size + 1):
            _make_process(random, Path(folder) / str(number), number)
        survey = discovery.survey(Path(folder))
    for vm in survey.vms:
        json.dumps(discovery.as_json(vm))
    listed = discovery._listed(survey.vms)
    for line in listed.split("\n"):
        plain(line)
    return size


def _make_process(random: Random, folder: Path, pid: int) -> None:
    folder.mkdir()
    (folder / "fd").mkdir()
    raw = b"".join(os.fsencode(word) + b"\0" for word in _words(random))
    (folder / "cmdline").write_bytes(mutate.data(random, raw) if random.random() < 0.3 else raw)
    status = b"%d (a) b) S 1 %b%d 0\n" % (pid, b"0 " * 17, pid * 100)
    (folder / "stat").write_bytes(mutate.data(random, status) if random.random() < 0.3 else status)
    (folder / "environ").write_bytes(mutate.data(random, b"PWD=/srv\0LD_LIBRARY_PATH=/x\0"))
    (folder / "cwd").symlink_to("/")
    (folder / "root").symlink_to("/")
