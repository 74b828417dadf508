"""What is loaded from a saved state is the guest that was saved."""

from pathlib import Path

from tests.behaviour.looking import card_of, ends, wait_until
from tests.behaviour.monitor import Monitor
from tests.behaviour.on_qemu import BOTH_CARDS, LabGuest, LabPen, command_line, second_qemu
from tests.behaviour.test_save import saved
from vmtui.backend import lab
from vmtui.backend.lab import Heartbeat, LabVm

WAITING = ("-incoming", "defer")


def test_the_file_restores_in_a_second_qemu_and_waits_for_cont(guest: LabGuest) -> None:
    file = saved(guest.run("save"))
    with second_qemu(guest, [*command_line(guest.vm), *WAITING]) as (copy, qemu):
        load(file, qemu)
        assert qemu("query-status")["status"] == "paused", "a restored guest waits for cont"
        assert lab.read_heartbeats(copy.serial) == ()
        qemu("cont")
        first, original = first_heartbeat(copy), {beat.n: beat for beat in guest.heartbeats()}
        assert first.n in original, "the copy goes on where the original was saved"
        assert abs(first.up - original[first.n].up) < 5
        wait_until(lambda: card_of(qemu) == ("plugged", True), "the restored guest's card is plugged by itself")
    guest.is_as_before()


def load(file: Path, qemu: Monitor) -> None:
    qemu("migrate-incoming", {"uri": f"exec:cat {file}"})
    wait_until(lambda: qemu("query-status")["status"] != "inmigrate", "the state is loaded")


def first_heartbeat(copy: LabVm) -> Heartbeat:
    """Its first, once it is well again: a ping, with both cards in the failover device."""

    def well(_text: str) -> bool:
        return any(beat.ping and beat.slaves == BOTH_CARDS for beat in lab.read_heartbeats(copy.serial))

    lab.wait_for(copy, well)
    return lab.read_heartbeats(copy.serial)[0]


def test_quit_ends_qemu_and_leaves_a_file_that_restores(pen: LabPen) -> None:
    guest = pen.own()
    words = command_line(guest.vm)
    ended = guest.run("save", "--then", "quit")
    file = saved(ended)
    ends(guest.vm.pid)
    assert ended.result["runstate"] == "gone"
    last = guest.heartbeats()[-1].n
    with second_qemu(guest, [*words, *WAITING]) as (copy, qemu):
        load(file, qemu)
        qemu("cont")
        # A line that was being written when the guest was stopped is half in the one log and half in the other.
        assert first_heartbeat(copy).n in (last + 1, last + 2), "no heartbeat is lost, and none is told twice"
