"""What a lab guest is: its initramfs, its QEMU command line, and the line it writes to its serial port ever again.

The guest has no disk and no login. It drives the failover pair, pings its gateway about five times a second, and tells
what it sees. Everything here is pure but `initramfs`, which reads the modules.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from vmtui.backend.lab import cpio
from vmtui.backend.lab.errors import LabError
from vmtui.backend.lab.kernel import Kernel, module_data

STANDBY = "ua-standby0"
PRIMARY = "primary0"
DISK = "disk0"
"""The node-name of the disk, if there is one."""
READY = "vmtui-lab ready"
TRIAL = "vmtui-lab lives"
PANIC = "Kernel panic - not syncing"

FILL_START_MIB = 160
"""Below lie the kernel and what it works with."""
FILL_SPARE_MIB = 24
"""At the top of the memory lie the initramfs and the ACPI tables."""
LOW_MEMORY_MIB = 2048
"""A q35 machine with 2816 MiB or more has only so much below the hole for PCI."""

APPLETS = ("sh", "mount", "insmod", "ip", "ping", "sleep", "readlink", "dmesg", "dd", "poweroff")

INIT = r"""#!/bin/sh
[ -n "$LAB_TRIAL" ] && echo "vmtui-lab lives" && poweroff -f
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
dmesg -n 1 # only emergencies from here on: the kernel's lines would cut ours in two

linked() { # is a card of this driver in the failover device? Globs and builtins: nothing is forked
    for link in $1/*/net/*/master; do [ -e $link ] && return; done
    return 1
}

look() {
    slaves=
    linked /sys/bus/virtio/drivers/virtio_net && slaves=virtio_net
    linked /sys/bus/pci/drivers/e1000e && slaves=${slaves:+$slaves,}e1000e
    slaves=${slaves:-none}
}

agent() { # guest-sync is all that it knows; where nobody is connected, reading ends at once
    exec 3<>/dev/vport0p1
    while :; do
        read -r line <&3 || { sleep 0.1; continue; }
        id=${line##*:}
        echo "{\"return\": ${id%%\}*}}" >&3
    done
}
case $LAB_AGENT in
    answers) agent & ;;
    silent) sleep 2147483647 3<>/dev/vport0p1 & ;;
esac

device=eth0
if [ "$LAB_SLAVES" != none ]; then
    until look; [ $slaves = $LAB_SLAVES ]; do
        [ -n "$LAB_STUBBORN" ] && echo 1 >/sys/bus/pci/rescan # deaf to hotplug, it must go and see
        sleep 0.05
    done
    for link in /sys/class/net/*/master; do device=$(readlink $link); done
    device=${device##*/}
fi
ip link set lo up
ip address add 10.0.2.15/24 dev $device
ip link set $device up

n=0
ready=
while :; do
    ping=lost
    ping -c 1 -W 1 -q 10.0.2.2 >/dev/null 2>&1 && ping=ok
    look
    read up idle </proc/uptime
    n=$((n + 1))
    [ -b /dev/vda ] && echo n=$n | dd of=/dev/vda conv=fsync 2>/dev/null
    echo "vmtui-lab n=$n up=$up ping=$ping slaves=$slaves"
    if [ -z "$ready" ] && [ $ping = ok ] && [ $slaves = $LAB_SLAVES ]; then
        ready=yes
        echo "vmtui-lab ready"
    fi
    sleep 0.2
done
"""


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What a lab guest is to be."""

    memory_mib: int = 256
    failover: bool = True
    """A failover pair. False: one plain virtio-net card."""
    stubborn: bool = False
    """The guest lives but never answers the unplug."""
    pvpanic: bool = True
    """False: QEMU hears nothing of a panic."""
    panic_action: str | None = None
    """QEMU's `-action panic=`: pause, poweroff, none ... None: its default, poweroff."""
    fill_mib: int = 0
    """So much of the memory holds random bytes, which do not compress. The command line cannot be used again as it is."""
    qemu: str = "qemu-system-x86_64"
    """A name or a path; a wrapper script is as good."""
    extra_args: tuple[str, ...] = ()
    """With `-incoming` among them, a guest is up when its QEMU is."""
    machine: str = "q35"
    """`pc` has no `pcie-mmcfg` window to look through; its pair sits behind PCI Express ports all the same."""
    agent: str = ""
    """The guest has a channel for a guest agent: `answers`, `silent` (one that has it open, and never does), `none` (nobody
    has it open); empty = no channel."""
    disk: bool = False
    """A small qcow2 disk, node-name `disk0`; its first sector holds the number of the heartbeat."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One line of a guest's serial log."""

    n: int
    """Counts from 1, without gaps."""
    up: float
    """Seconds since boot on the guest's own clock, which stands still while the guest is stopped."""
    ping: bool
    """Whether the gateway answered through the failover device."""
    slaves: frozenset[str]
    """Drivers of the cards in the failover device: virtio_net, e1000e."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a guest's files are. All but the initramfs in a directory of its own."""

    directory: Path

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp.sock"

    @property
    def monitor(self) -> Path:
        """A second QMP monitor, for a test to look through while vmtui holds the first."""
        return self.directory / "monitor.sock"

    @property
    def control(self) -> Path:
        """A human monitor, the lab's own."""
        return self.directory / "control.sock"

    @property
    def agent(self) -> Path:
        """The guest agent's channel, if there is one."""
        return self.directory / "agent.sock"

    @property
    def serial(self) -> Path:
        return self.directory / "serial.log"

    @property
    def pidfile(self) -> Path:
        return self.directory / "pid"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def errors(self) -> Path:
        """What QEMU says while it starts."""
        return self.directory / "qemu.err"

    @property
    def log(self) -> Path:
        """What QEMU says afterwards."""
        return self.directory / "qemu.log"


@dataclass(frozen=True, slots=True)
class Boot:
    """All that goes into a command line beside the spec."""

    name: str
    uuid: UUID
    place: Place
    image: Path
    initramfs: Path
    accelerator: str
    fill: str | None = None
    """A file of random bytes, to be laid into the memory."""


def command(spec: LabSpec, boot: Boot) -> tuple[str, ...]:
    """The command line; every option apart, so that it can be read and compared. Raises LabError."""
    return (
        spec.qemu,
        *("-name", f"{boot.name},debug-threads=on"),
        *("-uuid", str(boot.uuid)),
        *("-machine", f"{spec.machine},accel={boot.accelerator}"),
        *("-m", str(spec.memory_mib)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *_housekeeping(boot.place),
        *("-kernel", str(boot.image), "-initrd", str(boot.initramfs), "-append", kernel_parameters(spec)),
        *(_pair(boot.name) if spec.failover else _plain_card(boot.name)),
        *("-device", "vmcoreinfo"),
        *(("-device", "pvpanic") if spec.pvpanic else ()),
        *(("-action", f"panic={spec.panic_action}") if spec.panic_action else ()),
        *(_disk(boot.place.disk) if spec.disk else ()),
        *(_agent(boot.place.agent) if spec.agent else ()),
        *(_fill(boot.fill) if boot.fill else ()),
        *spec.extra_args,
    )


def trial(qemu: str, image: Path, initramfs: Path, accelerator: str) -> tuple[str, ...]:
    """A machine with nothing in it, whose guest says one line on stdout and switches off."""
    return (
        *(qemu, "-machine", f"q35,accel={accelerator}", "-m", "256", "-no-reboot"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1 LAB_TRIAL=yes"),
    )


def _housekeeping(place: Place) -> tuple[str, ...]:
    """The serial port goes to a file: a socket that nobody reads stalls the guest after some 280 characters."""
    return (
        *("-daemonize", "-pidfile", str(place.pidfile), "-D", str(place.log)),
        *("-qmp", f"unix:{place.qmp},server=on,wait=off"),
        *("-qmp", f"unix:{place.monitor},server=on,wait=off"),
        *("-monitor", f"unix:{place.control},server=on,wait=off"),
        *("-serial", f"file:{place.serial}"),
    )


def _pair(name: str) -> tuple[str, ...]:
    """Both cards on one hub, as two ways into the same network. No option ROMs: they make a file unrestorable."""
    mac = mac_address(name)
    return (
        *("-device", "pcie-root-port,id=port0,chassis=1,slot=1", "-device", "pcie-root-port,id=port1,chassis=2,slot=2"),
        *("-netdev", "user,id=user0,restrict=on", "-netdev", "hubport,id=hu0,hubid=0,netdev=user0"),
        *("-netdev", "hubport,id=hs0,hubid=0", "-netdev", "hubport,id=hp0,hubid=0"),
        *("-device", f"virtio-net-pci,bus=port0,failover=on,id={STANDBY},mac={mac},netdev=hs0,rombar=0,romfile="),
        *("-device", f"e1000e,bus=port1,failover_pair_id={STANDBY},id={PRIMARY},mac={mac},netdev=hp0,rombar=0,romfile="),
    )


def _plain_card(name: str) -> tuple[str, ...]:
    card = f"virtio-net-pci,id=net0,mac={mac_address(name)},netdev=user0,rombar=0,romfile="
    return ("-netdev", "user,id=user0,restrict=on", "-device", card)


def _disk(path: Path) -> tuple[str, ...]:
    node = f"driver=qcow2,node-name={DISK},file.driver=file,file.filename={path}"
    return ("-blockdev", node, "-device", f"virtio-blk-pci,drive={DISK}")


def _agent(path: Path) -> tuple[str, ...]:
    port = "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0"
    return ("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent0,path={path},server=on,wait=off", "-device", port)


def _fill(path: str) -> tuple[str, ...]:
    """QEMU lays the bytes into the memory itself: the guest, slow under TCG, need not even look."""
    return ("-device", f"loader,file={path},addr={FILL_START_MIB << 20:#x},force-raw=on")


def kernel_parameters(spec: LabSpec) -> str:
    """Raises LabError if the fill does not fit."""
    if spec.fill_mib > fill_room_mib(spec):
        raise LabError(
            f"a guest of {spec.memory_mib} MiB has room for {fill_room_mib(spec)} MiB of random bytes, not {spec.fill_mib}"
        )
    words = {
        "console=ttyS0 quiet panic=0 unknown_nmi_panic nokaslr mitigations=off": True,
        f"LAB_SLAVES={'virtio_net,e1000e' if spec.failover else 'none'}": True,
        "acpiphp.disable=1 LAB_STUBBORN=yes": spec.stubborn,
        f"LAB_AGENT={spec.agent}": bool(spec.agent),
        f"memmap={spec.fill_mib}M${FILL_START_MIB}M": spec.fill_mib > 0,
    }
    return " ".join(word for word, wanted in words.items() if wanted)


def fill_room_mib(spec: LabSpec) -> int:
    """How much of the memory, in MiB, can be set aside."""
    low = spec.memory_mib if spec.memory_mib < 2816 else LOW_MEMORY_MIB
    return max(0, low - FILL_START_MIB - FILL_SPARE_MIB)


def mac_address(name: str) -> str:
    """The same for a name always; 52:54:00 is QEMU's own range."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in sha256(name.encode()).digest()[:3])


def initramfs(kernel: Kernel, busybox: Path) -> bytes:
    """The guest's whole userland. Raises OSError."""
    modules = [
        cpio.file(f"modules/{number:02}-{path.name.split('.')[0]}.ko", module_data(path))
        for number, path in enumerate(kernel.modules)
    ]
    entries: Sequence[cpio.Entry] = (
        *map(cpio.directory, ("bin", "dev", "proc", "sys", "modules")),
        cpio.character_device("dev/console", 5, 1),  # init's own output, before devtmpfs is mounted
        cpio.file("bin/busybox", busybox.read_bytes(), 0o755),
        *(cpio.link(f"bin/{applet}", "busybox") for applet in APPLETS),
        *modules,
        cpio.file("init", INIT.encode(), 0o755),
    )
    return cpio.archive(entries)


LINE = re.compile(r"^vmtui-lab n=(\d+) up=(\d+\.\d+) ping=(ok|lost) slaves=(\S+)\r?$", re.MULTILINE)


def heartbeats(text: str) -> tuple[Heartbeat, ...]:
    """The heartbeats in a serial log. A line that is still being written does not count."""
    whole = text[: text.rfind("\n") + 1]
    return tuple(
        Heartbeat(int(n), float(up), ping == "ok", frozenset(slaves.split(",")) - {"none"})
        for n, up, ping, slaves in LINE.findall(whole)
    )
