"""`virsh save` of a guest without failover, by a libvirtd of our own: a private mount namespace, nothing left behind.

The domain has the kernel, the initramfs and the data of a lab guest, and a second QMP monitor for the observer.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from tools.measure import contenders
from tools.measure.contenders import run
from tools.measure.guests import Guest, guests
from tools.measure.parts import DATA, MIB, Bench, one
from tools.measure.qmp import BenchError, Qmp
from tools.measure.rows import Row, seconds
from vmtui.backend.lab import READY as READY_WORD
from vmtui.backend.lab import LabVm
from vmtui.backend.lab.guest import FILL_START_MIB

PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients")
OURS = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/run/libvirt")
"""Directories that this libvirtd sees empty."""
READY = 30.0

QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>bench</name>
  <memory unit='MiB'>1024</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{append}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <serial type='file'><source path='{home}/serial.log'/></serial>
    <interface type='user'><model type='virtio'/><rom enabled='no'/></interface>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/><qemu:arg value='unix:{home}/qmp.sock,server=on,wait=off'/>
    <qemu:arg value='-device'/><qemu:arg value='loader,file={fill},addr={address:#x},force-raw=on'/>
  </qemu:commandline>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Libvirt:
    home: Path

    def virsh(self, *arguments: str) -> None:
        """Raises BenchError."""
        run("virsh", "-q", "-c", f"qemu+unix:///system?socket={self.home}/libvirt-sock", *arguments).good()

    def answers(self) -> bool:
        return run("virsh", "-q", "-c", f"qemu+unix:///system?socket={self.home}/libvirt-sock", "list").status == 0


def virsh(bench: Bench) -> list[Row]:
    """Skipped aloud where libvirt is not installed, or cannot be run as it has to be."""
    if missing := _missing():
        return [Row("virsh", "guest stopped, virsh save", f"skipped: {missing}", "to be compared")]
    off: list[float] = []
    back: list[float] = []
    ours: list[float] = []
    with _contenders(bench) as (pair, libvirt):
        for number in range(bench.rounds + 1):
            ours.append(one(bench, pair, contenders.save).stopped)
            ended, restored = _round(libvirt, bench)
            off.append(ended)
            back.append(restored)
            bench.say(f"round {number} of {bench.rounds}: virsh {ended:.2f} s off, {restored:.2f} s until it ran again")
    samples = {"virsh save": off[1:], "until restored": back[1:], "vmtui": ours[1:]}
    over = median(off[1:]) / median(ours[1:])
    return [
        Row("virsh", f"guest stopped, {DATA} MiB: virsh save, until it ends", seconds(off[1:]), samples=samples),
        Row("virsh", f"guest stopped, {DATA} MiB: virsh save and restore", seconds(back[1:])),
        Row("virsh", f"guest stopped, {DATA} MiB: vmtui, in turn with it", seconds(ours[1:])),
        Row("virsh", "virsh save over vmtui", f"{over:.1f} times"),
    ]


@contextmanager
def _contenders(bench: Bench) -> Iterator[tuple[Guest, Libvirt]]:
    """A guest for vmtui, and a domain that is made from a guest without failover."""
    plain = replace(bench.big(failover=False), fill_mib=0)
    with (
        guests(bench.big(), plain, say=bench.say) as (pair, model),
        tempfile.TemporaryDirectory(prefix="vl-") as home,
        _libvirtd(Path(home)) as libvirt,
    ):
        _create(libvirt, model.vm, bench)
        try:
            yield pair, libvirt
        finally:
            libvirt.virsh("destroy", "bench")


def _missing() -> str:
    if not (shutil.which("virsh") and shutil.which("libvirtd")):
        return "libvirt is not installed (--install does it)"
    return "" if os.geteuid() == 0 else "it needs root"


def install() -> None:
    """Debian's packages, without what they recommend. Raises BenchError."""
    run("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES).good()


@contextmanager
def _libvirtd(home: Path) -> Iterator[Libvirt]:
    """A libvirtd that sees its own directories empty and is gone afterwards. `exec` keeps the pid the one we know."""
    made = [Path(directory) for directory in OURS if not Path(directory).exists()]
    for directory in made:
        directory.mkdir(parents=True)
    (home / "qemu.conf").write_text(QEMU_CONF)
    (home / "libvirtd.conf").write_text(f'unix_sock_dir = "{home}"\nauth_unix_rw = "none"\n')
    (home / "start").write_text(_start_script(home))
    with (home / "libvirtd.log").open("wb") as log:
        command = ("unshare", "--mount", "sh", "-e", f"{home}/start")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield _answering(Libvirt(home), process)
    finally:
        process.terminate()
        process.wait(READY)
        for directory in made:
            directory.rmdir()


def _start_script(home: Path) -> str:
    """Debian's libvirtd looks for its user before it reads that it is to use another."""
    lines = [f"mount -t tmpfs none {directory}" for directory in OURS]
    for kind, fields in (("passwd", "x:64055:64055::/:/bin/false"), ("group", "x:64055:")):
        own = home / kind
        own.write_text(f"{Path('/etc', kind).read_text()}libvirt-qemu:{fields}\n")
        lines.append(f"mount --bind {own} /etc/{kind}")
    lines += [f"cp {home}/qemu.conf /etc/libvirt", f"exec libvirtd --config {home}/libvirtd.conf"]
    return "\n".join(lines) + "\n"


def _answering(libvirt: Libvirt, process: subprocess.Popen[bytes]) -> Libvirt:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline and process.poll() is None:
        if libvirt.answers():
            return libvirt
        time.sleep(0.1)
    raise BenchError(f"libvirtd does not answer: {(libvirt.home / 'libvirtd.log').read_text()[-500:]}")


def _create(libvirt: Libvirt, model: LabVm, bench: Bench) -> None:
    """Start the domain, which nothing keeps; returns when its guest is ready."""
    fill = bench.directory / "fill"
    with fill.open("wb") as file:
        for _ in range(DATA):
            file.write(os.urandom(MIB))
    words = Path(f"/proc/{model.pid}/cmdline").read_text().split("\0")
    values = {name: words[words.index(f"-{name}") + 1] for name in ("kernel", "initrd", "append")}
    values["append"] += f" memmap={DATA}M${FILL_START_MIB}M"
    domain = DOMAIN.format(
        **{name: escape(value) for name, value in values.items()},
        qemu=shutil.which(bench.qemu), home=libvirt.home, fill=fill, address=FILL_START_MIB * MIB,
    )  # fmt: skip
    (libvirt.home / "domain.xml").write_text(domain)
    libvirt.virsh("create", f"{libvirt.home}/domain.xml")
    _await_ready(libvirt.home / "serial.log")


def _await_ready(serial: Path) -> None:
    deadline = time.monotonic() + 2 * READY
    while READY_WORD not in (text := serial.read_text(errors="replace")):
        if time.monotonic() > deadline:
            raise BenchError(f"the domain does not boot: {text[-500:]}")
        time.sleep(0.1)


def _round(libvirt: Libvirt, bench: Bench) -> tuple[float, float]:
    """Seconds from QEMU's STOP to the end of `virsh save`, and to the end of `virsh restore`."""
    observer = Qmp(libvirt.home / "qmp.sock")
    try:
        with bench.file() as file:
            bench.level(1024)
            libvirt.virsh("save", "bench", str(file))
            saved = time.time()
            libvirt.virsh("restore", str(file), "--running")
            restored = time.time()
        stop = observer.wait(lambda event: event.name == "STOP").at
    finally:
        observer.close()
    return saved - stop, restored - stop
