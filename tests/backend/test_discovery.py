"""The VMs of a host are found by their command lines, and a user's word for one of them is understood."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vmtui.backend import discovery
from vmtui.backend.core import cmdline
from vmtui.backend.discovery import Address, AmbiguousVm, BadAddress, FoundVm, UnknownVm

QEMU = "qemu-system-x86_64"
UUID = "6b29fc40-ca47-1067-b31d-00dd010662da"


# --- a /proc of our own -----------------------------------------------------------------------------------------------


def make_process(
    proc: Path,
    pid: int,
    *argv: str,
    cwd: str = "/",
    parent: int = 1,
    state: str = "S",
    environ: str = "",
    opened: Sequence[str] = (),
) -> Path:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in argv))
    (folder / "stat").write_text(f"{pid} (a) b) {state} {parent} {'0 ' * 17}{pid * 100} 0\n")
    (folder / "environ").write_text(environ)
    (folder / "cwd").symlink_to(cwd)
    (folder / "root").symlink_to("/")
    for number, target in enumerate(opened):
        (folder / "fd" / str(number)).symlink_to(target)
    return folder


def names(proc: Path) -> list[str]:
    return [vm.name for vm in discovery.discover(proc)]


def test_a_process_whose_status_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    make_process(tmp_path, 10, QEMU, "-name", "good")
    (make_process(tmp_path, 11, QEMU) / "stat").write_text("11 (a) S S S 1 " + "x " * 17)
    assert names(tmp_path) == ["good"]


def test_only_qemu_is_found_and_sorted_by_name(tmp_path: Path) -> None:
    make_process(tmp_path, 10, "/usr/bin/qemu-system-x86_64", "-name", "zeta")
    make_process(tmp_path, 11, "/usr/libexec/qemu-kvm", "-name", "guest=alpha,debug-threads=on")
    make_process(tmp_path, 12, "kvm", "-smp", "2")
    make_process(tmp_path, 13, "/lib64/ld-linux-x86-64.so.2", "--library-path", "/x", "/x/qemu-system-i386", "-name", "mu")
    make_process(tmp_path, 20, "/bin/bash", "-c", "qemu-system-x86_64 -name no")
    make_process(tmp_path, 21, "sudo", "qemu-system-x86_64", "-name", "no")
    make_process(tmp_path, 22, "/opt/qemu-system-x86_64/tool")
    make_process(tmp_path, 23)  # a kernel thread
    make_process(tmp_path, 24, "/lib64/ld-linux-x86-64.so.2", "/bin/true")
    make_process(tmp_path, 25, "/lib64/ld-linux-x86-64.so.2")
    (tmp_path / "self").symlink_to("10")
    assert names(tmp_path) == ["alpha", "mu", "qemu-12", "zeta"]


def test_a_vm_tells_all_that_its_command_line_says(tmp_path: Path) -> None:
    argv = (QEMU, "-name", "vm", "-uuid", UUID.upper(), "-M", "q35", "-m", "1G", "-qmp", "unix:q,server=on", "-append", "")
    make_process(tmp_path, 7, "/lib/ld.so", "--argv0", "x", *argv, cwd="/srv/vm")
    assert discovery.discover(tmp_path) == (
        FoundVm(
            name="vm",
            uuid=UUID,
            pid=7,
            address=Address("unix", path="/srv/vm/q"),
            argv=argv,
            cwd="/srv/vm",
            launcher=("/lib/ld.so", "--argv0", "x"),
            machine="q35",
            memory=1 << 30,
            start_time=700,
        ),
    )


def test_the_first_usable_monitor_is_the_address_and_the_rest_are_kept(tmp_path: Path) -> None:
    proxmox = [
        "-chardev",
        "socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
    ]
    events = ["-chardev", "socket,id=ev,path=/var/run/qmeventd.sock,reconnect=5", "-mon", "chardev=ev,mode=control"]
    make_process(tmp_path, 7, "/usr/bin/kvm", *events, *proxmox, "-qmp", "tcp:127.0.0.1:4,server=on")
    (vm,) = discovery.discover(tmp_path)
    assert [str(address) for address in vm.addresses] == ["unix:/var/run/qemu-server/100.qmp", "tcp:127.0.0.1:4"]
    assert vm.why_not is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "started without a QMP monitor"),
        (("-readconfig", "/etc/vm.cfg"), "-readconfig file"),
        (("-qmp", "stdio"), "it is on stdio"),
        (
            ("-name", "guest=w", "-mon", "charmonitor,mode=control", "-chardev", "socket,id=charmonitor,fd=3,server=on"),
            "libvirt",
        ),
    ],
)
def test_a_vm_without_a_usable_monitor_says_why(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    make_process(tmp_path, 7, QEMU, *words)
    (vm,) = discovery.discover(tmp_path)
    assert vm.address is None
    assert reason in (vm.why_not or "")


def test_a_relative_socket_of_a_process_that_hides_its_directory_has_no_address(tmp_path: Path) -> None:
    (make_process(tmp_path, 7, QEMU, "-qmp", "unix:q,server=on") / "cwd").unlink()
    (vm,) = discovery.discover(tmp_path)
    assert (vm.cwd, vm.address) == ("", None)
    assert "name it by its full path" in (vm.why_not or "")


def test_a_process_that_vanishes_or_is_a_zombie_is_no_vm(tmp_path: Path) -> None:
    (make_process(tmp_path, 7, QEMU) / "cmdline").unlink()
    (make_process(tmp_path, 8, QEMU) / "stat").unlink()
    (make_process(tmp_path, 9, QEMU) / "stat").write_text("")
    make_process(tmp_path, 10, QEMU, state="Z")
    assert discovery.survey(tmp_path) == discovery.Survey((), 0)
    assert discovery.discover(tmp_path / "no such directory") == ()


def test_a_fork_that_still_carries_qemus_command_line_is_not_a_second_vm(tmp_path: Path) -> None:
    make_process(tmp_path, 7, QEMU, "-name", "vm")
    make_process(tmp_path, 8, QEMU, "-name", "vm", parent=7)
    make_process(tmp_path, 9, QEMU, "-name", "vm")
    make_process(tmp_path, 10, QEMU, "-name", "nested", parent=7)
    assert [vm.pid for vm in discovery.discover(tmp_path)] == [10, 7, 9]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root is refused nothing, so these lines are run as somebody who is."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_processes_that_hide_their_command_line_are_counted() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        proc = Path(folder)
        proc.chmod(0o755)
        make_process(proc, 7, QEMU, "-name", "vm")
        (make_process(proc, 8, QEMU) / "cmdline").chmod(0)
        with as_nobody():
            found = discovery.survey(proc)
    assert ([vm.name for vm in found.vms], found.unreadable) == (["vm"], 1)


def test_a_hostile_command_line_is_only_odd(tmp_path: Path) -> None:
    name = "\x1b[2J\udcff\u202e\nx"
    make_process(
        tmp_path, 7, QEMU, "-name", name, "-qmp", f"unix:/{name},server=on", "-append", "x" * 3_000_000, "-mon", "{" * 9999
    )
    make_process(tmp_path, 8, QEMU, "-mon", '{"chardev":' * 50_000, "-chardev", "[" * 50_000, "-qmp", '{"path":"\\ud800"}')
    other, vm = sorted(discovery.discover(tmp_path), key=lambda vm: vm.pid == 7)
    assert other.address is None
    assert vm.name == name
    assert json.loads(json.dumps(discovery.as_json(vm)).encode())["address"] == "unix:/\x1b[2J\\udcff\u202e\nx"
    with pytest.raises(UnknownVm) as caught:
        discovery.resolve("no", [vm])
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value).splitlines()) == 2


def test_the_json_listing_has_everything_a_script_wants(tmp_path: Path) -> None:
    argv = (
        QEMU,
        "-name",
        "vm",
        "-m",
        "64",
        "-M",
        "q35",
        "-uuid",
        UUID,
        "-qmp",
        "tcp::4,server=on",
        "-qmp",
        "tcp::5,server=on",
    )
    make_process(tmp_path, 7, "/lib/ld.so", *argv)
    make_process(tmp_path, 8, QEMU, "-name", "x", "-qmp", "stdio")
    vm, mute = map(discovery.as_json, discovery.discover(tmp_path))
    assert vm == {
        "name": "vm",
        "uuid": UUID,
        "pid": 7,
        "address": "tcp:localhost:4",
        "other_addresses": ["tcp:localhost:5"],
        "why_not": None,
        "machine": "q35",
        "memory": 64 << 20,
        "cwd": "/",
        "argv": ["/lib/ld.so", *argv],
    }
    assert (mute["address"], mute["uuid"], mute["machine"], mute["memory"]) == (None, None, None, None)
    assert mute["why_not"] == "it is on stdio, not on a socket"


def test_a_process_that_is_not_qemus_costs_fifty_microseconds_at_most(tmp_path: Path) -> None:
    java, proc = tmp_path / "java", tmp_path / "proc"
    java.mkdir()
    (java / "cmdline").write_bytes(b"/usr/bin/java\0" + b"-Dqemu-system-x86_64=kvm\0" * 200)
    make_process(proc, 7, QEMU, "-name", "vm")
    for pid in range(100, 500):
        (proc / str(pid)).symlink_to(java)
    took = []
    for _ in range(3):
        started = time.process_time()  # others use this machine too
        assert names(proc) == ["vm"]
        took.append(time.process_time() - started)
    assert min(took) / 400 < 50e-6


def test_a_daemonized_qemus_paths_start_where_it_was_started(tmp_path: Path) -> None:
    proc, home = tmp_path / "proc", tmp_path / "home"
    home.mkdir()
    (home / "q.sock").touch()
    argv = (QEMU, "-daemonize", "-qmp", "unix:q.sock,server=on", "-hda", "sub/disk.img")
    make_process(proc, 11, *argv, environ=f"A=b\0PWD={home}\0")
    make_process(proc, 12, *argv, environ="PWD=/nowhere\0", opened=["socket:[1]", f"{home}/sub/disk.img"])
    make_process(proc, 13, *argv, environ="PWD=/nowhere\0")
    make_process(proc, 14, QEMU, "-daemonize", "-qmp", "unix:/q,server=on", environ="PWD=/srv\0")
    make_process(proc, 15, QEMU, "-daemonize", "-qmp", "tcp::4,server=on", "-hda", "gone.img", environ="PWD=/\0")
    found = {vm.pid: vm for vm in discovery.discover(proc)}
    assert [found[pid].cwd for pid in range(11, 16)] == [str(home), str(home), "", "/srv", ""]
    assert found[11].address == found[12].address == Address("unix", path=f"{home}/q.sock")
    assert found[13].address is None


def test_a_path_that_a_container_does_not_have_is_ours(tmp_path: Path) -> None:
    root = make_process(tmp_path, 7, QEMU, "-qmp", "unix:/run/q,server=on") / "root"
    root.unlink()
    root.symlink_to(tmp_path)
    assert str(discovery.discover(tmp_path)[0].address) == "unix:/run/q"


def test_a_container_s_socket_is_reached_through_its_root(tmp_path: Path) -> None:
    proc, inside = tmp_path / "proc", tmp_path / "root"
    (inside / "run").mkdir(parents=True)
    (inside / "run" / "q").touch()
    for pid, words in ((11, ()), (12, ("-chroot", "/x"))):
        root = make_process(proc, pid, QEMU, "-qmp", "unix:/run/q,server=on", *words) / "root"
        root.unlink()
        root.symlink_to(inside)
    addresses = {vm.pid: str(vm.address) for vm in discovery.discover(proc)}
    assert addresses == {11: f"unix:{proc}/11/root/run/q", 12: "unix:/run/q"}


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("unix:/run/q", Address("unix", path="/run/q")),
        ("unix:q", Address("unix", path="q")),
        ("/run/tcp:1", Address("unix", path="/run/tcp:1")),
        ("@dir/q", Address("unix", path="@dir/q")),
        ("unix:@name", Address("unix", path="\0name")),
        ("tcp:host:4444", Address("tcp", host="host", port=4444)),
        ("tcp::4444", Address("tcp", host="localhost", port=4444)),
        ("tcp:[::1]:4444", Address("tcp", host="::1", port=4444)),
    ],
)
def test_an_address_is_read(spec: str, address: Address) -> None:
    assert Address.parse(spec) == address
    assert spec.startswith("@") or Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "spec", ["unix:", "", "tcp:host", "tcp:4444", "tcp:h:0", "tcp:h:65536", "tcp:h:x", "tcp:::1:4", "unix:a\0"]
)
def test_a_bad_address_is_refused(spec: str) -> None:
    with pytest.raises(BadAddress, match="is no address"):
        Address.parse(spec)


# --- which VM is meant ------------------------------------------------------------------------------------------------


def make_vm(name: str, uuid: str | None = None, *addresses: str) -> FoundVm:
    found = [Address.parse(address) for address in addresses]
    return FoundVm(
        name, uuid, 1, found[0] if found else None, tuple(found[1:]), why_not=None if found else "held by libvirt"
    )


@pytest.mark.parametrize(
    "spec",
    [
        "vm",
        UUID,
        UUID.upper(),
        UUID[:8],
        UUID[:10],
        UUID.replace("-", ""),
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        "unix:/run/q",
    ],
)
def test_a_vm_goes_by_its_name_its_uuid_and_its_address(spec: str) -> None:
    vm = make_vm("vm", UUID, "unix:/run/q")
    assert discovery.resolve(spec, [make_vm("other", UUID.replace("6b29", "6b30"), "unix:/run/p"), vm]) == vm


def test_a_uuid_needs_eight_digits() -> None:
    with pytest.raises(UnknownVm):
        discovery.resolve(UUID[:7], [make_vm("vm", UUID, "unix:/run/q")])
    with pytest.raises(UnknownVm):
        discovery.resolve("--------", [make_vm("vm", UUID, "unix:/run/q")])


def test_a_name_that_looks_like_a_uuid_is_a_name_first() -> None:
    named = make_vm(UUID[:8], None, "unix:/run/p")
    assert discovery.resolve(UUID[:8], [make_vm("vm", UUID, "unix:/run/q"), named]) == named


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UnknownVm) as caught:
        discovery.resolve("vm3", [make_vm("vm1", UUID, "unix:/run/q"), make_vm("vm2")])
    assert str(caught.value).splitlines() == [
        "No VM is called 'vm3'. There are:",
        f"  vm1  {UUID}  unix:/run/q",
        "  vm2  -  (not reachable: held by libvirt)",
    ]
    with pytest.raises(UnknownVm, match="No VM was found on this host"):
        discovery.resolve("", [])


@pytest.mark.parametrize("spec", ["vm", UUID[:9]])
def test_an_ambiguous_name_lists_only_those_it_may_mean(spec: str) -> None:
    twins = [make_vm("vm", UUID, "unix:/run/p"), make_vm("vm", UUID, "tcp:h:4")]
    with pytest.raises(AmbiguousVm) as caught:
        discovery.resolve(spec, [*twins, make_vm("other", None, "unix:/run/o")])
    assert [line.split()[-1] for line in str(caught.value).splitlines()[1:]] == ["unix:/run/p", "tcp:h:4"]


def test_another_monitor_of_a_known_vm_keeps_the_vm_and_takes_that_address() -> None:
    vm = make_vm("vm", UUID, "unix:/run/a", "tcp:[::1]:4", "unix:@abs")
    assert discovery.resolve("tcp:[::1]:4", [vm]) == make_vm("vm", UUID, "tcp:[::1]:4", "unix:/run/a", "unix:@abs")
    assert discovery.resolve("unix:@abs", [vm]).address == Address("unix", path="\0abs")
    assert discovery.resolve("unix:@abs", [vm]).name == "vm"
    assert discovery.resolve("tcp:[::1]:5", [vm]).name == "--1-5"
    padded = FoundVm("padded", None, 1, Address("unix", path="\0pad".ljust(108, "\0")))
    assert discovery.resolve("unix:@pad", [vm, padded]) == padded


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", ["q.sock", "./q.sock", "unix:q.sock", "link/q.sock"])
def test_a_socket_of_a_known_vm_may_be_named_in_other_ways(in_tmp: Path, spec: str) -> None:
    vm = make_vm("vm", None, f"unix:{in_tmp}/q.sock")
    (in_tmp / "link").symlink_to(in_tmp)
    with listening(in_tmp / "q.sock"):
        assert discovery.resolve(spec, [vm]) == vm


def test_a_socket_nobody_was_found_behind_is_a_vm_with_an_address_only(in_tmp: Path) -> None:
    with listening(in_tmp / "q.sock"):
        found = discovery.resolve("q.sock", [make_vm("vm", None, "unix:/run/q")])
    assert found == FoundVm("q", None, None, Address("unix", path=f"{in_tmp}/q.sock"))
    assert discovery.resolve("/", []).name == "vm"
    assert discovery.resolve("tcp:h:4", []) == FoundVm("h-4", None, None, Address("tcp", host="h", port=4))
    assert discovery.resolve("/no/where", [make_vm("no monitor")]).address == Address("unix", path="/no/where")


@pytest.mark.parametrize("spec", ["plain", "x" * 5000, "a\0b"])
def test_a_word_that_is_no_socket_here_is_an_unknown_vm(in_tmp: Path, spec: str) -> None:
    (in_tmp / "plain").touch()
    with pytest.raises(UnknownVm):
        discovery.resolve(spec, [])


# --- processes and sockets --------------------------------------------------------------------------------------------


def test_a_process_is_alive_until_it_is_a_zombie() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        peer = discovery.process(child.pid)
        assert peer is not None
        assert discovery.process_alive(child.pid, peer.start_time)
        assert not discovery.process_alive(child.pid, peer.start_time + 1)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not discovery.process_alive(child.pid, peer.start_time)
    assert not discovery.process_alive(child.pid, peer.start_time)
    assert discovery.process(child.pid) is None


def test_the_peer_of_a_unix_socket_is_known_and_of_tcp_not() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as tcp:
        peer = discovery.peer_of(one)
        assert peer is not None
        assert (peer.pid, peer.cwd, peer.is_qemu) == (os.getpid(), str(Path.cwd()), False)
        assert Path(peer.exe).samefile(sys.executable)
        assert discovery.peer_of(tcp) is None


def test_a_loader_alone_is_no_qemu(tmp_path: Path) -> None:
    make_process(tmp_path, 7, "/lib/ld.so")
    peer = discovery.process(7, tmp_path)
    assert peer is not None
    assert not peer.is_qemu


def test_a_peer_tells_where_qemu_finds_its_modules_and_no_other_secret(tmp_path: Path) -> None:
    make_process(tmp_path, 7, "/lib/ld.so", QEMU, environ="TOKEN=x\0QEMU_MODULE_DIR=/m\0LD_LIBRARY_PATH=/l=1\0")
    peer = discovery.process(7, tmp_path)
    assert peer is not None
    assert peer.is_qemu
    assert (peer.launcher, peer.environment) == (("/lib/ld.so",), (("QEMU_MODULE_DIR", "/m"), ("LD_LIBRARY_PATH", "/l=1")))


@pytest.mark.parametrize("path", ["/run/q", "\0" + "x" * 107])
def test_a_name_that_fits_is_connected_as_it_is(path: str) -> None:
    with discovery.connectable_path(path) as short:
        assert short == path


@pytest.mark.parametrize("depth", [1, 8])
def test_a_socket_however_deep_can_be_connected(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["d" * 20] * depth)
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with discovery.connectable_path(f"{folder}/q.sock") as short:
            server.bind(short)
        server.listen()
        opened = len(list(Path("/proc/self/fd").iterdir()))
        with discovery.connectable_path(f"{folder}/q.sock") as short:
            client.connect(short)
        assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert depth == 1 or len(f"{folder}/q.sock") > 107


# --- real QEMUs -------------------------------------------------------------------------------------------------------

IDLE = ("-S", "-nodefaults", "-display", "none", "-qmp", "stdio")
"""Its first reply on stdout tells that every socket is open: the greeting comes from a thread, and may come earlier."""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    children: list[subprocess.Popen[bytes]] = []

    def start_one(*argv: str, **environment: str) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        child = subprocess.Popen(argv, cwd=tmp_path, env={**os.environ, **environment}, stdin=pipe, stdout=pipe)
        children.append(child)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'{"execute": "qmp_capabilities"}')
        child.stdin.flush()
        assert b'"QMP"' in child.stdout.readline(), "QEMU did not start"
        assert child.stdout.readline() == b'{"return": {}}\r\n'
        return child

    yield start_one
    for child in children:
        child.kill()
        child.communicate()


def found_by_pid(pid: int) -> FoundVm:
    return next(vm for vm in discovery.discover() if vm.pid == pid)


def greeted(address: Address) -> int:
    """The pid behind a monitor that answers."""
    with socket.socket(socket.AF_UNIX) as client, discovery.connectable_path(address.path) as path:
        client.settimeout(10)
        client.connect(path)
        with client.makefile() as lines:  # pretty ones have several
            assert any('"QMP"' in line for line in lines)
        peer = discovery.peer_of(client)
        assert peer is not None
        assert peer.is_qemu
        return peer.pid


@pytest.mark.real
def test_a_real_vm_is_found_with_all_its_monitors(start: Start, tmp_path: Path) -> None:
    child = start(
        *(QEMU, *IDLE, "-M", "none", "--name", f"guest={tmp_path.name},,x,debug-threads=on"),
        *("-qmp", "unix:path=a=b.sock,server=on,wait=off"),
        *("-mon", "mode=control,chardev=m", "-chardev", f"socket,id=m,path={tmp_path.name},abstract=on,server=on,wait=off"),
        *("-chardev", "socket,path=c,,d.sock,server=on,wait=off,id=n", "--mon", "n,pretty=on,mode=control"),
    )
    vm = found_by_pid(child.pid)
    assert discovery.resolve(f"{tmp_path.name},x", discovery.discover()) == vm
    assert [str(address) for address in vm.addresses] == [
        f"unix:{tmp_path}/a=b.sock",
        f"unix:@{tmp_path.name}",
        f"unix:{tmp_path}/c,d.sock",
    ]
    assert {greeted(address) for address in vm.addresses} == {child.pid}


@pytest.mark.real
def test_a_real_vm_started_through_the_loader_is_found(start: Start, tmp_path: Path) -> None:
    program = shutil.which(QEMU) or ""
    loader = next((path for path in ("/lib64/ld-linux-x86-64.so.2",) if Path(path).exists()), None)
    if loader is None:
        pytest.skip("no loader of glibc for x86-64 here")
    modules = {"QEMU_MODULE_DIR": "/usr/lib/x86_64-linux-gnu/qemu"}
    argv = (program, *IDLE, "-M", "none", "-qmp", "unix:q,server=on,wait=off")
    child = start(loader, "--argv0", "odd", "--inhibit-cache", *argv, **modules)
    vm = found_by_pid(child.pid)
    assert (vm.argv, vm.launcher) == (argv, (loader, "--argv0", "odd", "--inhibit-cache"))
    assert vm.address is not None
    assert greeted(vm.address) == child.pid
    assert dict(getattr(discovery.process(child.pid), "environment", ()))["QEMU_MODULE_DIR"] == modules["QEMU_MODULE_DIR"]


@contextmanager
def ended(pid: int) -> Iterator[None]:
    """No child of ours: end it, and see it end."""
    handle = os.pidfd_open(pid)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], 10)
        os.close(handle)


@pytest.mark.real
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
def test_a_real_daemonized_vm_is_reached_by_its_relative_socket(tmp_path: Path) -> None:
    argv = [QEMU, "-S", "-nodefaults", "-display", "none", "-M", "none", "-daemonize", "-pidfile", "pid"]
    subprocess.run([*argv, "-qmp", "unix:q,server=on,wait=off"], cwd=tmp_path, check=True)
    pid = int((tmp_path / "pid").read_text())
    with ended(pid):
        assert (Path("/proc") / str(pid) / "cwd").readlink() == Path("/")
        vm = found_by_pid(pid)
        assert (vm.cwd, str(vm.address)) == (str(tmp_path), f"unix:{tmp_path}/q")


FAILOVER = (
    *(QEMU, *IDLE, "-M", "q35", "-m", "32", "-name", "vm", "-uuid", UUID),
    *("-device", "pcie-root-port,id=rp0,slot=1,chassis=1", "-device", "pcie-root-port,id=rp1,slot=2,chassis=2"),
    *("-netdev", "hubport,id=h0,hubid=0", "-netdev", "hubport,id=h1,hubid=0"),
    *("-device", "virtio-net-pci,bus=rp0,netdev=h0,mac=52:54:00:12:34:56,failover=on,id=standby0"),
    "-device",
    '{"driver":"e1000e","bus":"rp1","netdev":"h1","mac":"52:54:00:12:34:56","failover_pair_id":"standby0","id":"primary0",'
    '"rombar":0,"romfile":""}',
    *("-serial", "file:log", "-vnc", "unix:vnc", "-gdb", "unix:gdb,server=on,wait=off", "-D", "debug,log"),
    *(
        "-qmp",
        "unix:path=q=1,server=on,wait=off",
        "-chardev",
        "ringbuf,id=p,logfile=ring.log",
        "-device",
        "isa-serial,chardev=p",
    ),
)


def status(address: Address) -> str:
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rw", encoding="utf-8") as stream:
        client.settimeout(10)
        client.connect(address.path)
        stream.readline()
        for command in ("qmp_capabilities", "query-status"):
            stream.write(json.dumps({"execute": command}))
            stream.flush()
            reply = json.loads(stream.readline())
        return str(reply["return"]["status"])


@pytest.mark.real
def test_a_real_failover_vm_starts_again_beside_and_after_the_original(start: Start, tmp_path: Path) -> None:
    child = start(*FAILOVER)
    (tmp_path / "log").write_text("precious")
    original = found_by_pid(child.pid)
    (tmp_path / "copy").mkdir()
    beside = cmdline.for_restore(original.argv, name="vm-copy", directory=f"{tmp_path}/copy", original_alive=True)
    assert beside.problems == ()
    copy = found_by_pid(start(*beside.argv).pid)
    assert status(Address("unix", path=beside.qmp_path)) == "inmigrate"
    assert (copy.name, copy.uuid) == ("vm-copy", UUID)
    assert [address.path for address in copy.addresses] == [f"{tmp_path}/copy/q=1", beside.qmp_path]
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        *("q=1", "restore-qmp.sock", "vnc", "gdb", "log", "debug,log", "ring.log")
    }
    assert (tmp_path / "log").read_text() == "precious"
    assert original.address is not None
    assert greeted(original.address) == child.pid
    child.kill()
    child.communicate()
    after = cmdline.for_restore(original.argv, name="vm", directory=str(tmp_path), original_alive=False)
    assert after.problems == ()
    again = found_by_pid(start(*after.argv).pid)
    assert status(original.address) == "inmigrate"
    assert (again.name, again.address) == ("vm", original.address)


@pytest.mark.real
def test_a_real_vm_that_waited_for_clients_waits_no_more(start: Start, tmp_path: Path) -> None:
    waiting = (QEMU, *IDLE, "-M", "none", "-serial", "unix:s,server=on", "-chardev", "socket,id=c,path=t,server=on")
    restored = cmdline.for_restore(waiting, name="", directory=str(tmp_path), original_alive=False)
    start(*restored.argv)
    assert status(Address("unix", path=restored.qmp_path)) == "inmigrate"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_real_shell_reads_the_same_words_from_a_shell_line(tmp_path: Path) -> None:
    odd = ["-S", "-name", "a b'c\"d$(id)`id`\\", "--append", "", "~", "#x", "\x1b[2J\n\r\t\x07" + "1é\udcff\u202e!", "-m"]
    program = [
        sys.executable,
        "-c",
        "import os, sys; sys.stdout.buffer.write(os.fsencode('\\0'.join([os.getcwd(), *sys.argv[1:]])))",
    ]
    line = cmdline.shell_line([*program, *odd], cwd=str(tmp_path))
    said = subprocess.run(["bash", "-c", os.fsencode(line)], stdout=subprocess.PIPE, check=True).stdout
    assert [os.fsdecode(word) for word in said.split(b"\0")] == [str(tmp_path), *odd]
