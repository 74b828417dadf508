"""The lab's parts that need no QEMU."""

import gzip
import lzma
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest

from vmtui.backend import lab
from vmtui.backend.lab import Heartbeat, LabError, LabSpec, LabVm, cpio, debian, guest, guests, host, kernel, process

BUSYBOX = shutil.which("busybox")
ENTRIES = (
    cpio.directory("bin"),
    cpio.file("bin/tool", b"#!/bin/sh\n", 0o755),
    cpio.link("bin/link", "tool"),
    cpio.file("odd", b"x" * 5),
    cpio.file("empty", b""),
)


def make_boot(directory: Path = Path("/run/lab/lab1"), *, fill: str | None = None) -> guest.Boot:
    return guest.Boot(
        name="lab1",
        uuid=UUID(int=1),
        place=guest.Place(directory),
        image=Path("/cache/vmlinux"),
        initramfs=Path("/cache/initramfs"),
        accelerator="tcg",
        fill=fill,
    )


def make_vm(directory: Path, *, pid: int | None = None, started: int | None = None) -> LabVm:
    """A guest whose QEMU is this very process, unless told otherwise."""
    place = guest.Place(directory)
    pid = os.getpid() if pid is None else pid
    began = process.started(pid) if started is None else started
    return LabVm(
        name="lab1",
        pid=pid,
        qmp=place.qmp,
        monitor=place.monitor,
        serial=place.serial,
        directory=directory,
        spec=LabSpec(),
        started=began or 0,
        uuid=str(UUID(int=1)),
    )


def values(command: tuple[str, ...], option: str) -> list[str]:
    return [value for name, value in pairwise(command) if name == option]


# --- cpio


@pytest.mark.skipif(BUSYBOX is None, reason="needs busybox, to read the archive with somebody else's eyes")
def test_an_archive_unpacks_to_what_was_put_in(tmp_path: Path) -> None:
    subprocess.run(
        (str(BUSYBOX), "cpio", "-idm"), cwd=tmp_path, input=cpio.archive(ENTRIES), check=True, capture_output=True
    )
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "bin", "bin/link", "bin/tool", "empty", "odd",
    ]  # fmt: skip
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin/link").readlink() == Path("tool")
    assert (tmp_path / "odd").read_bytes() == b"xxxxx"
    assert (tmp_path / "empty").read_bytes() == b""


def test_every_part_of_an_archive_starts_at_a_multiple_of_four() -> None:
    data = cpio.archive((cpio.file("abc", b"12345"), cpio.file("abcd", b"")))
    found = [at for at in range(len(data)) if data.startswith(cpio.MAGIC, at)]
    assert len(found) == 3  # with the trailer
    assert not any(at % 4 for at in (*found, len(data)))


def test_an_archive_holds_the_console_device() -> None:
    header = cpio.archive((cpio.character_device("dev/console", 5, 1),))[:110]
    fields = [int(header[at : at + 8], 16) for at in range(6, 110, 8)]
    assert fields[1] == 0o020600
    assert fields[9:11] == [5, 1]


def test_the_same_entries_make_the_same_archive() -> None:
    assert cpio.archive(ENTRIES) == cpio.archive(ENTRIES)


# --- heartbeats


def test_heartbeats_are_read_between_other_lines() -> None:
    text = (
        "SeaBIOS\r\n"
        "vmtui-lab n=1 up=3.05 ping=lost slaves=none\r\n"
        "vmtui-lab ready\r\n"
        "[  3.1] Kernel panic - not syncing\r\n"
        "vmtui-lab n=2 up=3.30 ping=ok slaves=virtio_net,e1000e\r\n"
    )
    assert guest.heartbeats(text) == (
        Heartbeat(1, 3.05, False, frozenset()),
        Heartbeat(2, 3.30, True, frozenset({"virtio_net", "e1000e"})),
    )


def test_a_heartbeat_that_is_still_being_written_does_not_count() -> None:
    assert guest.heartbeats("vmtui-lab n=1 up=3.05 ping=ok slaves=virtio_net") == ()


def test_there_are_no_heartbeats_before_there_is_a_log(tmp_path: Path) -> None:
    assert lab.read_heartbeats(tmp_path / "serial.log") == ()


def test_the_init_script_says_what_is_waited_for() -> None:
    assert f'echo "{guest.READY}"' in guest.INIT
    assert f'echo "{guest.TRIAL}"' in guest.INIT


@pytest.mark.skipif(BUSYBOX is None, reason="needs busybox")
def test_the_init_script_is_one_that_busybox_can_read() -> None:
    subprocess.run((str(BUSYBOX), "sh", "-n"), input=guest.INIT.encode(), check=True)


# --- the command line


def test_a_pair_is_two_cards_with_one_address_on_ports_of_their_own() -> None:
    devices = values(guest.command(LabSpec(), make_boot()), "-device")
    (standby,) = [device for device in devices if device.startswith("virtio-net-pci")]
    (primary,) = [device for device in devices if device.startswith("e1000e")]
    mac = f"mac={guest.mac_address('lab1')}"
    assert {"failover=on", f"id={lab.STANDBY}", mac, "bus=port0"} <= set(standby.split(","))
    assert {f"failover_pair_id={lab.STANDBY}", f"id={lab.PRIMARY}", mac, "bus=port1"} <= set(primary.split(","))


def test_no_card_has_an_option_rom() -> None:
    for failover in (True, False):
        devices = values(guest.command(LabSpec(failover=failover), make_boot()), "-device")
        cards = [device for device in devices if "netdev=" in device]
        assert cards
        assert all(device.endswith("rombar=0,romfile=") for device in cards)


def test_the_serial_port_goes_to_a_file_that_never_stalls_the_guest() -> None:
    assert values(guest.command(LabSpec(), make_boot()), "-serial") == ["file:/run/lab/lab1/serial.log"]


def test_there_is_a_monitor_for_vmtui_and_one_for_the_test() -> None:
    assert values(guest.command(LabSpec(), make_boot()), "-qmp") == [
        "unix:/run/lab/lab1/qmp.sock,server=on,wait=off",
        "unix:/run/lab/lab1/monitor.sock,server=on,wait=off",
    ]


@pytest.mark.parametrize(
    ("spec", "option", "value", "there"),
    [
        (LabSpec(),                               "-device", "pvpanic",      True),
        (LabSpec(pvpanic=False),                  "-device", "pvpanic",      False),
        (LabSpec(panic_action="pause"),           "-action", "panic=pause",  True),
        (LabSpec(machine="pc"),                   "-machine", "pc,accel=tcg", True),
        (LabSpec(memory_mib=512),                 "-m",      "512",          True),
        (LabSpec(disk=True),                      "-device", "virtio-blk-pci,drive=disk0", True),
        (LabSpec(extra_args=("-incoming", "defer")), "-incoming", "defer",   True),
    ],
)  # fmt: skip
def test_a_wish_becomes_an_option(spec: LabSpec, option: str, value: str, there: bool) -> None:
    assert (value in values(guest.command(spec, make_boot()), option)) is there


@pytest.mark.parametrize(
    ("spec", "word", "there"),
    [
        (LabSpec(),                              "acpiphp.disable=1",             False),
        (LabSpec(stubborn=True),                 "acpiphp.disable=1",             True),
        (LabSpec(),                              "unknown_nmi_panic",             True),
        (LabSpec(),                              "LAB_SLAVES=virtio_net,e1000e",  True),
        (LabSpec(failover=False),                "LAB_SLAVES=none",               True),
        (LabSpec(memory_mib=1024, fill_mib=800), "memmap=800M$160M",              True),
    ],
)  # fmt: skip
def test_a_wish_becomes_a_kernel_parameter(spec: LabSpec, word: str, there: bool) -> None:
    assert (word in guest.kernel_parameters(spec).split()) is there


def test_the_random_bytes_are_laid_where_the_kernel_keeps_away_from() -> None:
    spec = LabSpec(memory_mib=1024, fill_mib=800)
    devices = values(guest.command(spec, make_boot(fill="/dev/fd/7")), "-device")
    assert f"loader,file=/dev/fd/7,addr={160 << 20:#x},force-raw=on" in devices


@pytest.mark.parametrize(("memory", "room"), [(1024, 840), (2048, 1864), (2816, 1864), (128, 0)])
def test_random_bytes_that_do_not_fit_are_refused(memory: int, room: int) -> None:
    assert guest.fill_room_mib(LabSpec(memory_mib=memory)) == room
    with pytest.raises(LabError, match=f"room for {room} MiB"):
        guest.kernel_parameters(LabSpec(memory_mib=memory, fill_mib=room + 1))


def test_each_guest_has_its_own_address_and_keeps_it() -> None:
    addresses = {guest.mac_address(f"lab{number}") for number in range(100)}
    assert len(addresses) == 100
    assert guest.mac_address("lab1") in addresses
    assert all(address.startswith("52:54:00:") and len(address) == 17 for address in addresses)


# --- kernel and modules


def test_a_module_is_loaded_after_what_it_depends_on_and_once() -> None:
    needs = {"net": ["failover", "ring"], "failover": [], "ring": ["core"], "blk": ["ring"]}
    assert kernel.load_order(["net", "blk"], ["core"], needs.__getitem__) == ("failover", "ring", "net", "blk")


def test_a_module_says_itself_what_it_depends_on() -> None:
    assert kernel.depends(b"\x7fELF\0license=GPL\0depends=virtio,net-failover\0name=x\0") == ("virtio", "net_failover")
    assert kernel.depends(b"\x7fELF\0depends=\0") == ()


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_compressed_module_is_read_as_it_was(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"module.ko{suffix}"
    path.write_bytes(pack(b"module"))
    assert kernel.module_data(path) == b"module"


def make_kernel(root: Path, release: str, *, without: str = "") -> None:
    (root / "boot").mkdir(exist_ok=True, parents=True)
    (root / "boot" / f"vmlinuz-{release}").write_bytes(b"kernel")
    tree = root / "lib/modules" / release / "kernel/drivers"
    tree.mkdir(parents=True)
    for name in (*kernel.WANTED, "unneeded"):
        if name != without:
            (tree / f"{name.replace('_', '-')}.ko").write_bytes(b"\0depends=\0")


def test_a_kernel_without_the_card_is_passed_over(tmp_path: Path) -> None:
    make_kernel(tmp_path, "6.9.0")
    make_kernel(tmp_path, "6.10.0")
    make_kernel(tmp_path, "6.11.0-cloud", without="e1000e")
    assert [found.image.name for found in kernel.kernels(tmp_path)] == ["vmlinuz-6.10.0", "vmlinuz-6.9.0"]


def test_modules_are_trimmed_to_those_that_are_loaded(tmp_path: Path) -> None:
    make_kernel(tmp_path, "6.9.0")
    (before,) = kernel.kernels(tmp_path)
    kernel.trim(tmp_path)
    assert list(kernel.kernels(tmp_path)) == [before]
    assert not list(tmp_path.rglob("unneeded.ko"))


PVH = b"\x7fELF" + struct.pack("<III4s", 4, 4, 18, b"Xen\0") + b"\x10\0\0\0"


def test_a_kernel_is_uncompressed_only_if_qemu_can_start_it() -> None:
    assert kernel.uncompressed(b"setup\xfd7zXZ\0garbage" + lzma.compress(PVH) + b"tail") == PVH
    assert kernel.uncompressed(b"setup" + gzip.compress(PVH) + b"tail") == PVH
    assert kernel.uncompressed(b"setup" + gzip.compress(b"\x7fELF without a note")) is None
    assert kernel.uncompressed(b"setup") is None


def test_a_static_binary_asks_for_no_loader() -> None:
    assert not kernel.is_static(Path(sys.executable).resolve())
    assert not kernel.is_static(Path(__file__))
    assert not kernel.is_static(Path("/nonexistent"))


# --- the host


def test_a_file_that_is_not_kvm_makes_no_machines(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    assert not host.kvm_makes_machines(tmp_path / "kvm")
    assert not host.kvm_makes_machines(tmp_path / "missing")


def test_only_the_process_that_was_started_is_ended() -> None:
    with subprocess.Popen(("sleep", "100")) as child:
        began = process.started(child.pid)
        assert began is not None
        assert process.end(child.pid, began + 1)  # another process with that pid: left alone
        assert process.started(child.pid) == began
        assert process.end(child.pid, began)
        assert process.started(child.pid) is None  # a zombie is as good as gone
        assert child.wait() == -15
    assert process.end(child.pid, began)


def test_a_process_deaf_to_sigterm_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen((sys.executable, "-c", deaf), stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert process.end(child.pid, process.started(child.pid) or 0, seconds=0.2)
        assert child.wait() == -9


# --- where guests are


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"VMTUI_LAB_DIR": "/l", "XDG_RUNTIME_DIR": "/r"}, 0,    "/l"),
        ({"XDG_RUNTIME_DIR": "/r"},                        1000, "/r/vmtui-lab"),
        ({},                                               0,    "/run/vmtui-lab"),
        ({},                                               1000, "/tmp/vmtui-lab-1000"),
    ],
)  # fmt: skip
def test_the_lab_is_in_the_first_directory_that_is_given(environment: dict[str, str], uid: int, expected: str) -> None:
    assert guests.lab_path(environment, uid) == Path(expected)


@pytest.fixture
def lab_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lab"
    monkeypatch.setenv("VMTUI_LAB_DIR", str(path))
    return path


def test_a_lab_is_for_its_owner_only(lab_directory: Path) -> None:
    assert lab.list_guests() == ()
    assert lab_directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_write_to_is_no_lab(lab_directory: Path) -> None:
    lab_directory.mkdir()
    lab_directory.chmod(0o777)
    with pytest.raises(LabError, match="ours alone"):
        lab.list_guests()


def test_a_link_is_no_lab(lab_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    lab_directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LabError, match="ours alone"):
        lab.list_guests()


def test_what_a_dead_guest_left_is_removed(lab_directory: Path) -> None:
    for name, record in (
        ("unrecorded", None),
        ("broken", b"{"),
        ("dead", b'{"name":"dead","pid":1,"started":1,"uuid":"","spec":{}}'),
    ):
        (lab_directory / name).mkdir(parents=True, mode=0o700)
        if record:
            (lab_directory / name / guests.RECORD).write_bytes(record)
    lab_directory.chmod(0o700)
    assert lab.list_guests() == ()
    assert [path.name for path in lab_directory.iterdir()] == [".lock"]


def test_ending_or_crashing_a_guest_that_is_not_there_says_so(lab_directory: Path) -> None:
    assert lab.down() == ()
    with pytest.raises(LabError, match="no such guest: lab9"):
        lab.down(["lab9"])
    with pytest.raises(LabError, match="no such guest: lab9"):
        lab.crash("lab9")


@pytest.mark.parametrize("name", ["", "../x", ".x", "a,b", "x" * 33])
def test_a_name_that_is_no_file_name_is_refused(lab_directory: Path, name: str) -> None:
    with pytest.raises(LabError, match="no name for a guest"):
        guests.new_names(name, 1, taken=set())


def test_numbers_that_are_free_are_given_again() -> None:
    assert guests.new_names(None, 3, taken={"lab2"}) == ("lab1", "lab3", "lab4")
    assert guests.new_names("vm", 2, taken=set()) == ("vm1", "vm2")


def test_a_qemu_that_is_not_there_is_named_in_the_error(lab_directory: Path) -> None:
    with pytest.raises(LabError, match="no-such-qemu"):
        lab.up(LabSpec(qemu="no-such-qemu"))


# --- waiting


def test_a_fact_that_holds_is_not_waited_for(tmp_path: Path) -> None:
    vm = make_vm(tmp_path)
    vm.serial.write_text("one\ntwo\n")
    assert lab.wait_for(vm, "two", seconds=0) == "one\ntwo\n"
    assert lab.wait_for(vm, lambda log: log.count("\n") == 2, seconds=0)


def test_waiting_in_vain_tells_the_last_lines(tmp_path: Path) -> None:
    vm = make_vm(tmp_path)
    vm.serial.write_text("the last line\n")
    with pytest.raises(LabError, match=r"not within 0 s\.\nserial.log:\n  the last line"):
        lab.wait_for(vm, "never", seconds=0)


def test_nobody_waits_for_a_qemu_that_is_gone(tmp_path: Path) -> None:
    vm = make_vm(tmp_path, started=1)
    with pytest.raises(LabError, match="its QEMU ended"):
        lab.wait_for(vm, "never", seconds=1000)


# --- packages


def test_a_directory_that_was_not_finished_is_never_seen(tmp_path: Path) -> None:
    final = tmp_path / "tree"
    with pytest.raises(OSError, match="full"), debian.built_beside(final) as partial:
        (partial / "half").touch()
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_directory_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "tree"
    for name in ("old", "new"):
        with debian.built_beside(final) as partial:
            (partial / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert [path.name for path in final.iterdir()] == ["new"]


def test_a_tool_that_is_missing_is_named() -> None:
    with pytest.raises(debian.PackageError, match="no-such-tool is not installed"):
        debian.run(("no-such-tool",))


def test_apt_of_our_own_touches_nothing_of_the_system(tmp_path: Path) -> None:
    options = debian.Apt(tmp_path, "deb uri suite main\n").options()
    paths = [option.split("=", 2)[2] for option in options if option.startswith("-o=Dir::")]
    assert paths
    assert all(path == "/dev/null" or Path(path).is_relative_to(tmp_path) for path in paths)
