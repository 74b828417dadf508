"""The lab's guests do what the rest of the tests rely on."""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.behaviour.monitor import Monitor
from tests.behaviour.qemus import Qemu
from tests.real.conftest import MakeGuest, on_one_qemu
from vmtui.backend import lab
from vmtui.backend.lab import Heartbeat, LabError, LabSpec, LabVm, host, kernel, process

BOTH = {"virtio_net", "e1000e"}


def beats(vm: LabVm) -> tuple[Heartbeat, ...]:
    return lab.read_heartbeats(vm.serial)


def wait_for_beat(vm: LabVm, fact: Callable[[Heartbeat], bool], *, after: int) -> None:
    lab.wait_for(vm, lambda _: any(fact(beat) for beat in beats(vm)[after:]))


def start_saving(vm: LabVm, qemu: Monitor) -> None:
    """A migration too slow to end by itself."""
    qemu("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    qemu("migrate-set-parameters", {"max-bandwidth": 1 << 16})
    qemu("migrate", {"uri": "exec:cat >/dev/null"})


def test_a_guest_is_up_when_it_pings_through_both_cards(make_guest: MakeGuest) -> None:
    vm = make_guest()
    assert vm.alive
    assert beats(vm)[-1].ping
    assert beats(vm)[-1].slaves == BOTH


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_the_guest_pings_on_while_the_primary_is_out_and_takes_it_back(make_guest: MakeGuest, machine: str) -> None:
    vm = make_guest(machine=machine)
    with Monitor(vm.monitor) as qemu:
        start_saving(vm, qemu)
        qemu.wait_event("MIGRATION", status="active")
        wait_for_beat(vm, lambda beat: beat.ping and beat.slaves == {"virtio_net"}, after=len(beats(vm)))
        qemu("migrate_cancel")
        qemu.wait_event("MIGRATION", status="cancelled")
        wait_for_beat(vm, lambda beat: beat.ping and beat.slaves == BOTH, after=len(beats(vm)))
    assert [beat.n for beat in beats(vm)] == list(range(1, len(beats(vm)) + 1))


def test_a_stubborn_guest_lives_and_keeps_its_card(make_guest: MakeGuest) -> None:
    vm = make_guest(stubborn=True)
    with Monitor(vm.monitor) as qemu:
        start_saving(vm, qemu)
        qemu.wait_event("MIGRATION", status="wait-unplug")
        seen = len(beats(vm))
        lab.wait_for(vm, lambda _: len(beats(vm)) > seen + 8)
        assert qemu("query-migrate") == {"status": "wait-unplug"}
    assert {beat.slaves for beat in beats(vm)[seen:]} == {frozenset(BOTH)}


def test_a_crash_ends_qemu_and_is_told(make_guest: MakeGuest) -> None:
    vm = make_guest()
    with Monitor(vm.monitor) as qemu:
        lab.crash(vm.name)
        assert qemu.wait_event("GUEST_PANICKED")["data"]["action"] == "poweroff"
        assert qemu.wait_event("SHUTDOWN")["data"]["reason"] == "guest-panic"
    assert lab.list_guests() == ()


def test_a_crash_can_be_kept(make_guest: MakeGuest) -> None:
    vm = make_guest(panic_action="pause")
    lab.crash(vm.name)
    with Monitor(vm.monitor) as qemu:
        assert qemu("query-status")["status"] == "guest-panicked"


def test_without_pvpanic_a_crash_is_silent(make_guest: MakeGuest) -> None:
    vm = make_guest(pvpanic=False)
    with Monitor(vm.monitor) as qemu:
        lab.crash(vm.name)
        assert qemu("query-status")["status"] == "running"
        assert [event["event"] for event in qemu.events] == []


def test_a_plain_guest_has_no_failover_device(make_guest: MakeGuest) -> None:
    assert beats(make_guest(failover=False))[-1].slaves == frozenset()


@on_one_qemu
def test_filled_memory_does_not_compress(make_guest: MakeGuest) -> None:
    vm = make_guest(memory_mib=512, fill_mib=300)
    piece = vm.directory / "piece"
    with Monitor(vm.monitor) as qemu:
        for mib in (160, 459):
            qemu("pmemsave", {"val": mib << 20, "size": 1 << 20, "filename": str(piece)})
            assert len(zlib.compress(piece.read_bytes(), 1)) > 1 << 20


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_disk_is_written_to_and_has_its_node_name(make_guest: MakeGuest) -> None:
    vm = make_guest(disk=True)
    with Monitor(vm.monitor) as qemu:
        (block,) = qemu("query-block")
        assert block["inserted"]["node-name"] == lab.DISK
        (statistics,) = qemu("query-blockstats")
        assert statistics["stats"]["wr_operations"] > 0


@on_one_qemu
def test_guests_are_named_listed_and_told_apart(qemu: Qemu, lab_directory: Path) -> None:
    guests = lab.up(LabSpec(qemu=str(qemu.path)), count=2)
    assert [vm.name for vm in guests] == ["lab1", "lab2"]
    assert lab.list_guests() == guests
    macs = set()
    for vm in guests:
        with Monitor(vm.monitor) as monitor:
            assert monitor("query-name") == {"name": vm.name}
            assert monitor("query-uuid") == {"UUID": vm.uuid}
            macs.add(monitor("qom-get", {"path": f"/machine/peripheral/{lab.STANDBY}", "property": "mac"}))
    assert len(macs) == 2


@on_one_qemu
def test_down_leaves_nothing(make_guest: MakeGuest, lab_directory: Path) -> None:
    vm, other = make_guest(name="one"), make_guest(name="two")
    assert lab.down(["one"]) == ("one",)
    assert lab.list_guests() == (other,)
    assert not vm.alive
    assert lab.down() == ("two",)
    assert [path.name for path in lab_directory.iterdir()] == [".lock"]


def test_an_incoming_guest_is_up_when_its_qemu_is(make_guest: MakeGuest) -> None:
    vm = make_guest(extra_args=("-incoming", "defer"))
    with Monitor(vm.monitor) as qemu:
        assert qemu("query-status")["status"] == "inmigrate"


def test_what_qemu_says_about_a_bad_argument_is_in_the_error(make_guest: MakeGuest, lab_directory: Path) -> None:
    with pytest.raises(LabError, match="nosuchcard"):
        make_guest(extra_args=("-device", "nosuchcard"))
    assert [path.name for path in lab_directory.iterdir()] == [".lock"]


@on_one_qemu
def test_a_guest_that_never_gets_ready_is_not_left_behind(qemu: Qemu, lab_directory: Path) -> None:
    with pytest.raises(LabError, match="waited in vain"):
        lab.up(LabSpec(qemu=str(qemu.path), extra_args=("-S",)), seconds=1)
    assert lab.list_guests() == ()


@on_one_qemu
def test_a_name_that_is_taken_is_refused(make_guest: MakeGuest) -> None:
    vm = make_guest(name="one")
    with pytest.raises(LabError, match="already"):
        make_guest(name="one")
    assert vm.alive


@on_one_qemu
def test_a_guest_whose_qemu_was_killed_is_cleaned_away(make_guest: MakeGuest) -> None:
    vm = make_guest()
    assert process.end(vm.pid, vm.started)
    assert lab.list_guests() == ()
    assert not vm.directory.exists()


def test_the_trial_of_an_accelerator_tells_one_that_works(qemu: Qemu) -> None:
    found = kernel.find_kernel(print)
    image, initramfs = host.boot_image(found.image), host.initramfs(found, kernel.find_busybox(print))
    assert host.guest_lives(str(qemu.path), image, initramfs, "tcg", seconds=60)
    assert not host.guest_lives(str(qemu.path), image, initramfs, "no-such-accelerator")
