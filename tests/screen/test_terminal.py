"""The terminal UI from end to end: real keys in a real terminal, and the VM asked past it, over its second monitor."""

from pathlib import Path

import pytest

from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import ends, wait_until
from tests.screen.terminal import Terminal, seconds_left
from vmtui.backend.stream import read_stream

AT_LEAST = ("preflight", "prepare", "unplug", "pause", "save", "finish", "resume", "settle", "verify", "prove")
"""The phases of every save that ends well; where QEMU plugs the card back by itself, there may be nothing to replug."""


def terminal(guest: AnyGuest) -> Terminal:
    """vmtui on this VM alone: what others test with meanwhile is left alone."""
    return Terminal(f"unix:{guest.qmp}", environment=guest.environment)


def open_the_vm(seen: Terminal) -> None:
    seen.until("1 VM", "running", "Save")
    seen.press("enter")
    seen.until("Nothing is under way", "esc Back")


def begin_a_save(seen: Terminal) -> None:
    """From the screen of the VM, by way of the pre-flight, which ends with that screen again."""
    seen.press("s")
    seen.until("it can be saved", "Start the save")
    seen.press("ctrl+s")
    seen.until_gone("Start the save")


def the_whole_file(guest: AnyGuest) -> Path:
    names = guest.files()
    assert len(names) == 2, names
    file = guest.snapshots / names[0]
    assert names == [file.name, f"{file.name}.json"]
    read = read_stream(file)
    assert (read.whole, read.trouble) == (True, None)
    return file


# --- the way it should go -----------------------------------------------------------------------------------------


def test_a_vm_is_saved_and_its_snapshot_verified_and_deleted(guest: AnyGuest) -> None:
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        shown = seen.until(f"{guest.name}: saved", "read through and whole", "was stopped for", "as they were")
        assert [phase for phase in AT_LEAST if f"● {phase} " not in shown] == []
        guest.is_as_before()
        file = the_whole_file(guest)

        seen.press("S")
        seen.until("Snapshots", "● whole", "esc Back")
        seen.press("v")
        seen.until("● verified", f"{file.name}: read through and whole")
        seen.press("d")
        seen.until("Delete it", "Keep it")
        seen.press("enter")
        seen.until_gone("Keep it")
        assert the_whole_file(guest) == file, "the answer that has the focus changes nothing"
        seen.press("d")
        seen.until("Delete it", "Keep it")
        seen.press("right", "enter")
        seen.until("No saved state", "deleted")
        assert guest.files() == []

        seen.press("escape")
        seen.until(f"{guest.name}: saved")
        seen.press("escape")
        seen.until("1 VM", "● saved")
        seen.press("q")
        assert seen.end() == 0
        assert seen.settings == seen.at_first
    guest.nothing_is_left()


def test_max_bandwidth_is_changed_during_a_save_and_the_time_left_moves(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.brake()
        at_first = seen.until_seen(seconds_left, "the time left", 60)
        change_max_bandwidth(seen, "200K")
        wait_until(lambda: guest.bandwidth() == 200 << 10, "QEMU has the bandwidth that was typed")
        seen.until_seen(lambda text: (seconds_left(text) or at_first) < at_first / 2 or None, "less than half of it", 60)
        assert guest.qemu("query-status")["status"] == "paused"
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        seen.until(f"{guest.name}: saved", "all parameters and capabilities as they were")
        guest.is_as_before()
        the_whole_file(guest)


def change_max_bandwidth(seen: Terminal, value: str) -> None:
    """From the screen of the VM, and back there."""
    seen.press("p")
    seen.until("announce-initial", "Change")
    seen.press("/")
    seen.until_gone("Change")  # letters are text now
    seen.press(*"max-bandw")
    seen.until("1 of", "match 'max-bandw'")
    seen.press("enter")
    seen.until("Change")
    seen.press("enter")
    seen.until("Enter sets")
    seen.press("ctrl+u")
    seen.until_gone("Enter sets")
    seen.press(*value)
    seen.until("Enter sets")
    seen.press("enter")
    seen.until("changed by you")
    seen.press("escape")
    seen.until_gone("match 'max-bandw'")
    seen.press("escape")
    seen.until_gone("DEFAULT")


# --- cancel -------------------------------------------------------------------------------------------------------


def test_a_save_is_cancelled_while_it_writes(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.brake()
        seen.until("▶ save", "the guest is stopped")
        seen.press("c")
        shown = seen.until("cancelled by the user", "the VM is as before", "none is left", "as they were")
        assert "plugged, proved" in shown
        guest.nothing_is_left()


def test_a_guest_that_does_not_answer_is_waited_for_and_then_given_up(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.waits_for_unplug()
        seen.until("Keep waiting", "Cancel the save", "only silence tells")  # it opens by itself
        seen.press("w")
        seen.until("g shows what is known", "In 5")  # of the minute that was asked for
        assert guest.migration_status() == "wait-unplug"

        seen.press("g")
        seen.until("Keep waiting", "Cancel the save")
        seen.press("c")
        shown = seen.until(f"{guest.name}: cancelled by the user", "none is left", "as they were", seconds=60)
        assert "plugged, proved" in shown
        guest.nothing_is_left()


# --- somebody goes away -------------------------------------------------------------------------------------------


def test_a_save_goes_on_to_its_checked_end_when_the_terminal_is_closed(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.brake()
        seen.until("▶ save", "the guest is stopped")
        seen.hang_up()
        with pytest.raises(TimeoutError):
            seen.end(1.0)
        assert guest.qemu("query-status")["status"] == "paused", "the save goes on"
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        assert seen.end() == 0
    guest.is_as_before()
    the_whole_file(guest)


def test_who_quits_during_a_save_is_asked_and_it_may_go_on_without_the_screen(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.brake()
        seen.until("▶ save", "the guest is stopped")
        seen.press("q")
        seen.until("Quit all the same?", "let it go on")
        seen.press("escape")
        seen.until_gone("Quit all the same?")
        seen.press("q")
        seen.until("Quit all the same?", "let it go on")
        seen.press("g")
        seen.until("goes on to its checked end")
        assert guest.qemu("query-status")["status"] == "paused"
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        seen.until(f"{guest.name}: saved")
        assert seen.end() == 0
    guest.is_as_before()
    the_whole_file(guest)


def test_a_qemu_that_is_killed_is_said_to_have_ended(pen: AnyPen) -> None:
    guest = pen.own()
    with terminal(guest) as seen:
        open_the_vm(seen)
        guest.kill()
        ends(guest.pid)
        seen.until("ended", "restore a snapshot of it")
        seen.press("escape")
        seen.until("1 without answer", "cannot be looked at")
        seen.press("q")
        assert seen.end() == 0
