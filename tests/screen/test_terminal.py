"""The terminal UI from end to end: real keys in a real terminal, and the VM asked past it, over its second monitor."""

import signal
from pathlib import Path

import pytest

from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import ends, wait_until
from tests.screen.gate import Gate, Held
from tests.screen.hands import begin_a_save, begin_a_slow_save, open_the_vm, terminal
from tests.screen.terminal import Terminal, seconds_left
from vmtui.backend.stream import read_stream

AT_LEAST = ("preflight", "prepare", "unplug", "pause", "save", "finish", "resume", "settle", "verify", "prove")
"""The phases of every save that ends well; where QEMU plugs the card back by itself, there may be nothing to replug."""

HELD_IN = {
    "prepare": Held('"migrate-set-capabilities"'),
    "unplug":  Held('"migrate"'),
    "pause":   Held('"stop"'),
    "finish":  Held('"query-status"', after='"completed"'),
    "resume":  Held('"cont"'),
    "replug":  Held('"human-monitor-command"', after='"RESUME"'),
    "settle":  Held('"migrate-set-capabilities"', after='"RESUME"'),
}  # fmt: skip
"""The command that a save waits with in each phase that is over in no time otherwise."""


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
        begin_a_slow_save(seen, guest)
        change_max_bandwidth(seen, guest, "64K", 64 << 10)
        at_first = seen.until_seen(
            lambda text: left if (left := seconds_left(text) or 0) > 10 else None, "a long time left"
        )
        change_max_bandwidth(seen, guest, "512K", 512 << 10)
        seen.until_seen(lambda text: (seconds_left(text) or at_first) < at_first / 2 or None, "less than half of it", 60)
        assert guest.qemu("query-status")["status"] == "paused"
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        seen.until(f"{guest.name}: saved", "all parameters and capabilities as they were")
        guest.is_as_before()
        the_whole_file(guest)


def change_max_bandwidth(seen: Terminal, guest: AnyGuest, typed: str, bandwidth: int) -> None:
    """From the screen of the VM, and back there; returns when QEMU has it."""
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
    seen.press(*typed)
    seen.until("Enter sets")
    seen.press("enter")
    seen.until("changed by you")
    wait_until(lambda: guest.bandwidth() == bandwidth, "QEMU has the bandwidth that was typed")
    seen.press("escape")
    seen.until_gone("match 'max-bandw'")
    seen.press("escape")
    seen.until_gone("DEFAULT")


# --- cancel -------------------------------------------------------------------------------------------------------


def test_a_save_is_cancelled_while_it_writes(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        begin_a_slow_save(seen, guest)
        seen.press("c")
        shown = seen.until("cancelled by the user", "the VM is as before", "none is left", "as they were")
        assert "plugged, proved" in shown
        guest.nothing_is_left()


def test_a_save_is_cancelled_in_each_phase_in_which_something_can_be_undone(pen: AnyPen) -> None:
    """Each is held up at a command that QEMU has not heard yet: so it is on the screen until the key is pressed."""
    guest = pen.guest()
    phases = {name: held for name, held in HELD_IN.items() if not (name == "pause" and pen.native_pause)}
    door = guest.directory / "gate.sock"
    with Gate(door, guest.qmp) as gate, terminal(guest, door) as seen:
        open_the_vm(seen)
        for phase, held in phases.items():
            gate.close(held)
            begin_a_save(seen)
            gate.await_held()
            seen.until(f"▶ {phase} ")
            seen.press("c")
            seen.until("undoing: cancelled by the user")
            gate.open()
            shown = seen.until(f"{guest.name}: cancelled by the user", "none is left", "as they were")
            assert "plugged, proved" in shown, phase
            guest.nothing_is_left()


# --- somebody goes away -------------------------------------------------------------------------------------------


def test_a_save_goes_on_to_its_checked_end_when_the_terminal_is_closed(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        begin_a_slow_save(seen, guest)
        seen.hang_up()
        with pytest.raises(TimeoutError):
            seen.end(1.0)
        assert guest.qemu("query-status")["status"] == "paused", "the save goes on"
        guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        assert seen.end() == 0
    guest.is_as_before()
    the_whole_file(guest)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_who_is_told_to_end_while_nothing_is_done_ends_and_leaves_the_terminal_as_it_was(
    guest: AnyGuest, number: signal.Signals
) -> None:
    with terminal(guest) as seen:
        seen.until("1 VM", "running", "Save")
        seen.signal(number)
        assert seen.end(10.0) == 0
        assert seen.settings == seen.at_first
    guest.is_as_before()


def test_a_save_that_goes_on_without_the_screen_is_cancelled_by_ctrl_c(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        begin_a_slow_save(seen, guest)
        seen.signal(signal.SIGTERM)
        seen.until("goes on to its checked end")
        assert guest.qemu("query-status")["status"] == "paused", "the save goes on"
        seen.press("ctrl+c")
        seen.until(f"{guest.name}: cancelled by the user")
        assert seen.end() == 0
        assert seen.settings == seen.at_first
    guest.nothing_is_left()


def test_who_quits_during_a_save_is_asked_and_it_may_go_on_without_the_screen(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    with terminal(guest) as seen:
        begin_a_slow_save(seen, guest)
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
