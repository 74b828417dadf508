"""What vmtui does not do: each refusal has its exit code and its words, and leaves the VM and the disk untouched."""

import os
import signal
from pathlib import Path

import pytest

from tests.backend.mounts import mounted
from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import card_of, ends, wait_until
from tests.behaviour.monitor import Monitor
from tests.behaviour.program import Ended
from vmtui.backend import lab

MIB = 1 << 20
PROMPT = 10.0
"""Seconds in which a monitor that is held is given up: 2 s for the greeting, and the start of a program on a busy host."""
ONE_IS_ENOUGH = "the time limit of the greeting is waited for with one twin: they do not differ in their sockets"


def refused(ended: Ended, code: int, *words: str) -> None:
    """It ended with that code, and says why, on stdout and on stderr."""
    assert ended.code == code, (ended.result, ended.errors)
    assert (ended.result["outcome"], ended.result["exit_code"], ended.result["file"]) == ("refused", code, None)
    for word in words:
        assert word in ended.result["error"]
        assert word in ended.errors
    assert ended.errors.count("\n") == 1, "one line, no stack trace"
    assert ended.phases == ["preflight", "done"]


# --- the VM -------------------------------------------------------------------------------------------------------


def test_a_vm_that_was_paused_with_its_card_plugged(guest: AnyGuest) -> None:
    guest.qemu("stop")
    paused = guest.look()
    try:
        refused(guest.run("save"), 4, "paused with its failover card plugged", "let it run (vmtui resume")
        assert guest.look() == paused
    finally:
        guest.qemu("cont")
    guest.nothing_is_left()


def test_a_vm_that_is_migrating_already(pen: AnyPen) -> None:
    guest = pen.own(failover=False)
    guest.qemu("migrate-set-parameters", {"max-bandwidth": 4096})
    guest.qemu("migrate", {"uri": "exec:cat >/dev/null"})
    wait_until(lambda: guest.qemu("query-migrate")["status"] == "active", "the other migration runs")
    try:
        refused(guest.run("save"), 4, "a migration is under way already")
        assert guest.qemu("query-migrate")["status"] == "active", "it was left alone"
    finally:
        guest.qemu("migrate_cancel")
        wait_until(lambda: guest.qemu("query-migrate")["status"] == "cancelled", "the other migration is cancelled")
        guest.qemu("migrate-set-parameters", {"max-bandwidth": guest.first.parameters["max-bandwidth"]})
    guest.nothing_is_left()


def test_a_vm_whose_card_is_out(pen: AnyPen, guest: AnyGuest) -> None:
    if pen.native_pause:
        pytest.skip("this QEMU brings the card back by itself when the VM runs on")
    assert guest.run("save", "--then", "stay-paused").code == 0
    guest.qemu("cont")
    try:
        assert card_of(guest.qemu) == ("out", False)
        before = guest.files()
        refused(guest.run("save"), 4, "is out already", "vmtui resume")
        assert guest.files() == before
    finally:
        assert guest.run("resume").code == 0
    guest.is_as_before()


# --- the strategy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("pause-vm", "this QEMU has no migration parameter pause-vm"),
        ("stop-first", "stop-first hangs with a failover card plugged"),
    ],
)
def test_a_strategy_that_this_vm_cannot_do(pen: AnyPen, guest: AnyGuest, strategy: str, words: str) -> None:
    if strategy == "pause-vm" and pen.native_pause:
        pytest.skip("this QEMU has the migration parameter pause-vm")
    refused(guest.run("save", "--strategy", strategy), 4, words)
    guest.nothing_is_left()


def test_a_background_snapshot_of_a_vm_that_shall_quit(guest: AnyGuest) -> None:
    refused(guest.run("save", "--strategy", "background", "--then", "quit"), 4, "background")
    guest.nothing_is_left()


# --- the file -----------------------------------------------------------------------------------------------------


def test_an_output_that_exists_is_never_overwritten(guest: AnyGuest, tmp_path: Path) -> None:
    output = tmp_path / "precious.vmstate"
    for taken in (output, Path(f"{output}.partial"), Path(f"{output}.json")):
        taken.write_text("precious")
        refused(guest.run("save", "--output", str(output)), 7, f"{taken} exists already")
        assert taken.read_text() == "precious"
        assert list(tmp_path.iterdir()) == [taken]
        taken.unlink()
    guest.nothing_is_left()


def test_an_output_that_is_a_directory(guest: AnyGuest, tmp_path: Path) -> None:
    refused(guest.run("save", "--output", str(tmp_path)), 7, "is a directory")
    assert list(tmp_path.iterdir()) == []
    guest.nothing_is_left()


def test_a_disk_that_is_full_already(guest: AnyGuest, tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=20m") as full:
        (full / "ballast").write_bytes(bytes(16 * MIB))
        refused(guest.run("save", "--dir", str(full)), 7, "no space")
        assert [path.name for path in full.iterdir()] == ["ballast"]
    guest.nothing_is_left()


def test_a_directory_that_is_not_writable(guest: AnyGuest, tmp_path: Path) -> None:
    with mounted(tmp_path / "frozen", "ro,size=200m") as frozen:
        ended = guest.run("save", "--output", str(frozen / "new" / "web.vmstate"))
        assert ended.code == 7, ended.result
        assert "not writable" in ended.errors or "read-only" in ended.errors
        assert list(frozen.iterdir()) == []
    guest.nothing_is_left()


# --- the monitor --------------------------------------------------------------------------------------------------


def test_a_monitor_that_another_client_holds(pen: AnyPen, guest: AnyGuest) -> None:
    pen.skip_unless_it_stands_for_others(ONE_IS_ENOUGH)
    with Monitor(guest.qmp):
        ended = guest.run("save")
        assert ended.code == 3, ended.result
        assert "another client holds this monitor" in ended.errors
        assert ended.result["outcome"] == "failed"
        assert ended.seconds < PROMPT
    guest.nothing_is_left()


def test_a_vm_that_has_ended(pen: AnyPen, guest: AnyGuest) -> None:
    with pen.one_to_kill() as doomed:
        assert guest.run("check", address=doomed.address).result["runstate"] == doomed.runstate
        os.kill(doomed.pid, signal.SIGKILL)
        ends(doomed.pid)
        ended = guest.run("save", address=doomed.address)
    assert (ended.code, ended.result["outcome"]) == (3, "failed"), ended.result
    assert "nobody listens there" in ended.errors
    guest.nothing_is_left()


# --- check --------------------------------------------------------------------------------------------------------


def test_check_says_that_a_vm_can_be_saved_and_changes_nothing(pen: AnyPen, guest: AnyGuest) -> None:
    ended = guest.run("check")
    assert ended.code == 0, ended.errors
    check = ended.result
    assert (check["kind"], check["vm"], check["uuid"]) == ("check", guest.name, guest.uuid)
    assert check["savable"] is True
    assert (check["runstate"], check["strategy"], check["error"]) == ("running", pen.strategy, None)
    assert check["primaries"] == [{"id": lab.PRIMARY, "standby": lab.STANDBY, "card": "plugged", "driven": True}]
    assert check["memory"] == 256 * MIB
    assert [each["code"] for each in check["findings"] if each["level"] != "note"] == []
    assert not guest.snapshots.exists(), "not even the directory is made"
    guest.nothing_is_left()


def test_check_says_why_a_vm_cannot_be_saved(guest: AnyGuest) -> None:
    guest.qemu("stop")
    try:
        ended = guest.run("check")
    finally:
        guest.qemu("cont")
    assert ended.code == 4
    assert ended.result["savable"] is False
    assert [each["code"] for each in ended.result["findings"] if each["level"] == "blocking"] == ["paused-with-card"]
    guest.nothing_is_left()


def test_check_of_a_monitor_that_another_client_holds(pen: AnyPen, guest: AnyGuest) -> None:
    pen.skip_unless_it_stands_for_others(ONE_IS_ENOUGH)
    with Monitor(guest.qmp):
        ended = guest.run("check")
    assert ended.seconds < PROMPT
    assert ended.code == 3
    assert ended.result["savable"] is False
    assert "another client holds this monitor" in ended.result["error"]
    guest.nothing_is_left()


def test_check_warns_of_a_card_with_an_option_rom(pen: AnyPen, guest: AnyGuest) -> None:
    with pen.with_an_option_rom() as address:
        ended = guest.run("check", address=address)
    assert ended.code == 0, ended.result
    assert ended.result["savable"] is True
    (warning,) = [each for each in ended.result["findings"] if each["code"] == "option-rom"]
    assert warning["level"] == "warning"
    assert lab.PRIMARY in warning["text"]
    assert "rombar=0" in warning["remedy"]
