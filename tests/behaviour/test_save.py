"""Saves that end well: what becomes of the VM, of its card, and of the file."""

import json
import stat
from pathlib import Path

import pytest

from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import card_of, ends, refusal, wait_until
from tests.behaviour.program import Ended
from vmtui.backend.stream import read_stream

STRANGE_PARAMETERS = {"max-bandwidth": 12345678, "downtime-limit": 123}
STRANGE_CAPABILITIES = {"events": True, "xbzrle": True, "auto-converge": True, "pause-before-switchover": True}


def saved(ended: Ended) -> Path:
    """The file of a save that went well."""
    assert ended.code == 0, (ended.lines[-1:], ended.errors)
    assert ended.result["outcome"] == "saved"
    assert ended.result["exit_code"] == 0
    assert ended.errors == ""
    return Path(ended.result["file"])


def is_whole_and_private(file: Path) -> None:
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == [file.name, f"{file.name}.json"], "a snapshot is a file and its manifest, and nothing else"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.with_name(f"{file.name}.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    manifest = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert manifest["file"]["whole"]
    assert manifest["file"]["size"] == file.stat().st_size
    read = read_stream(file)
    assert (read.whole, read.trouble, read.size) == (True, None, file.stat().st_size)


# --- with a failover card -----------------------------------------------------------------------------------------


def test_a_guest_that_pings_through_its_failover_device_is_saved_and_goes_on(pen: AnyPen, guest: AnyGuest) -> None:
    guest.is_well()
    ended = guest.run("save")
    file = saved(ended)
    is_whole_and_private(file)
    guest.is_as_before()
    result = ended.result
    manifest = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert (manifest["name"], manifest["proved"]["card"]) == (guest.name, "plugged")
    assert result["bytes"] == file.stat().st_size
    assert result["strategy"] == pen.strategy
    assert (result["runstate"], result["card"], result["driven"], result["restored"]) == ("running", "plugged", True, True)
    if pen.native_pause:
        assert result["bytes_before_pause"] is None, "QEMU pauses by itself: nobody asks in time"
    else:
        assert result["bytes_before_pause"] <= 256 << 10
    assert result["run_on_seconds"] <= 0.05
    assert 0 < result["stopped_seconds"] < 10
    assert result["unplug_seconds"] > 0
    assert ended.phases[-1] == "done"


def test_the_card_really_leaves_and_is_enslaved_again(pen: AnyPen) -> None:
    guest = pen.guest(slow=True)
    saving = guest.start("save")
    guest.brake()
    assert card_of(guest.qemu) == ("out", False)
    assert guest.qemu("query-status")["status"] == "paused"
    guest.qemu("migrate-set-parameters", {"max-bandwidth": 1 << 40})
    saved(saving.end())
    guest.is_as_before()


def test_three_saves_in_a_row_leave_three_files_and_the_same_vm(guest: AnyGuest) -> None:
    files = {saved(guest.run("save")) for _ in range(3)}
    assert len(files) == 3
    assert guest.files() == sorted([path.name for path in files] + [f"{path.name}.json" for path in files])
    guest.is_as_before()


def test_settings_that_the_user_had_changed_are_put_back_as_they_were(guest: AnyGuest) -> None:
    guest.qemu("migrate-set-parameters", STRANGE_PARAMETERS)
    _set_capabilities(guest, STRANGE_CAPABILITIES)
    strange = guest.look()
    assert strange != guest.first
    try:
        ended = guest.run("save")
        assert guest.look() == strange
    finally:
        before = {name: guest.first.parameters[name] for name in STRANGE_PARAMETERS}
        guest.qemu("migrate-set-parameters", before)
        _set_capabilities(guest, {name: guest.first.capabilities[name] for name in STRANGE_CAPABILITIES})
    saved(ended)
    guest.is_as_before()


def _set_capabilities(guest: AnyGuest, wanted: dict[str, bool]) -> None:
    settings = [{"capability": name, "state": value} for name, value in wanted.items()]
    guest.qemu("migrate-set-capabilities", {"capabilities": settings})


# --- what becomes of the VM ---------------------------------------------------------------------------------------


def test_stay_paused_leaves_card_and_guest_and_resume_brings_both_back(guest: AnyGuest) -> None:
    file = saved(guest.run("save", "--then", "stay-paused"))
    is_whole_and_private(file)
    left = guest.look()
    assert (left.runstate, left.card, left.fdsets, left.files) == ("postmigrate", "out", 0, frozenset())
    assert (left.parameters, left.capabilities) == (guest.first.parameters, guest.first.capabilities)
    resumed = guest.run("resume")
    assert (resumed.code, resumed.result["outcome"]) == (0, "resumed"), resumed.result
    guest.is_as_before()


def test_quit_ends_qemu_and_leaves_a_whole_file(pen: AnyPen) -> None:
    guest = pen.own()
    ended = guest.run("save", "--then", "quit")
    file = saved(ended)
    ends(guest.pid)
    is_whole_and_private(file)
    assert ended.result["runstate"] == "gone"


# --- other strategies ---------------------------------------------------------------------------------------------


def test_a_guest_without_a_failover_card_is_stopped_first(pen: AnyPen) -> None:
    guest = pen.own(failover=False)
    ended = guest.run("save")
    is_whole_and_private(saved(ended))
    guest.is_as_before()
    assert (ended.result["strategy"], ended.result["card"]) == ("stop-first", "none")
    assert ended.result["unplug_seconds"] is None or ended.result["unplug_seconds"] < 1


def test_a_background_snapshot_stops_the_guest_for_milliseconds_where_the_host_can(guest: AnyGuest) -> None:
    reason = _why_no_background(guest)
    ended = guest.run("save", "--strategy", "background")
    if reason:
        assert ended.code == 1, ended.result
        guest.nothing_is_left()
        pytest.skip(f"a background snapshot is refused here, and the VM is as before: {reason}")
    is_whole_and_private(saved(ended))
    guest.is_as_before()
    assert ended.result["strategy"] == "background"
    assert ended.result["stopped_seconds"] is None or ended.result["stopped_seconds"] < 0.5


def _why_no_background(guest: AnyGuest) -> str:
    wish = {"capabilities": [{"capability": "background-snapshot", "state": True}]}
    reason = refusal(guest.qemu, "migrate-set-capabilities", wish)
    _set_capabilities(guest, {"background-snapshot": False})
    return reason


def test_a_card_that_somebody_removed_is_brought_back_and_proved(pen: AnyPen) -> None:
    guest = pen.own()
    guest.qemu("device_del", {"id": guest.primary})
    wait_until(lambda: card_of(guest.qemu) == ("none", False), "QEMU deletes the card")
    ended = guest.run("heal")
    if pen.version < (8, 0):
        assert (ended.code, ended.result["outcome"]) == (10, "attention"), ended.result
        assert any("device_add" in note for note in ended.result["notes"])
        return
    assert (ended.code, ended.result["outcome"], ended.result["card"]) == (0, "resumed", "plugged"), ended.result
    assert card_of(guest.qemu) == ("plugged", True)
    guest.goes_on()
