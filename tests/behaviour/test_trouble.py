"""Saves that do not end well: whatever happens, the VM is put back, no file is left, and the exit code says what it was."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.backend.mounts import mounted
from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import ends, together
from tests.behaviour.program import Ended, Program
from tests.behaviour.proxy import Proxy

LOOKED_INTO = "14"
"""Seconds after which the vCPUs of a guest that does not answer were looked at often enough."""
ANSWERED = "7"
"""Seconds after which its guest agent was asked."""
PROMPT = 10.0
"""Seconds in which vmtui must have seen that its QEMU is gone; it sees that at once, and the host may be busy."""


# --- the user cancels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prepare", "unplug", "pause", "finish", "resume", "replug", "settle", "verify"])
def test_a_save_that_is_interrupted_in_a_phase_leaves_the_vm_as_before(pen: AnyPen, phase: str) -> None:
    guest = pen.guest(whole=phase == "verify")  # a twin's sample may be read through before the signal is heard
    ended = guest.interrupted("save", kind="phase", phase=phase).end()
    assert (ended.code, ended.result["outcome"]) == (5, "cancelled"), ended.result
    assert ended.result["restored"] is True
    assert "cancelling" in ended.errors
    guest.nothing_is_left()


def test_a_save_that_is_interrupted_before_it_began_touches_nothing(guest: AnyGuest) -> None:
    ended = guest.interrupted("save", kind="qmp").end()
    assert (ended.code, ended.result["outcome"]) == (5, "cancelled"), ended.result
    guest.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_save_that_is_interrupted_while_it_writes_leaves_the_vm_as_before(pen: AnyPen, number: signal.Signals) -> None:
    guest = pen.guest(slow=True)
    saving = guest.start("save")
    guest.brake()
    (partial,) = guest.files()
    assert partial.endswith(".vmstate.partial")
    saving.interrupt(number)
    ended = saving.end()
    assert (ended.code, ended.result["outcome"]) == (5, "cancelled"), ended.result
    assert ended.seconds < PROMPT
    guest.nothing_is_left()


# --- the guest ----------------------------------------------------------------------------------------------------


def test_guests_that_do_not_let_go_of_their_card_do_not_hold_up_a_save(pen: AnyPen) -> None:
    """QEMU takes 30 s to cancel while a guest does not answer: the stories are told at the same time."""
    stubborn, talkative, doubtful, silent, kept = pen.several(
        {"stubborn": True},
        {"stubborn": True, "agent": "answers"},
        {"stubborn": True},
        {"pvpanic": False, "agent": "answers"},
        {"stubborn": True},
    )

    def a_guest_that_never_answers_runs_on_with_its_card() -> None:
        ended = stubborn.run("save", "--unplug-timeout", LOOKED_INTO, seconds=120)
        assert (ended.code, ended.result["outcome"]) == (6, "cancelled"), ended.result
        assert f"did not let go of its network card within {LOOKED_INTO} s; it lives, as its vCPUs show" in ended.errors
        assert _verdicts(ended) == [("slow", "")]
        assert (ended.result["runstate"], ended.result["card"]) == ("running", "plugged")
        stubborn.nothing_is_left()

    def a_second_interrupt_says_what_would_be_left_behind_and_waits() -> None:
        saving = doubtful.start("save")
        doubtful.waits_for_unplug()
        saving.interrupt()
        saving.until_said("cancelling")
        saving.interrupt()
        said = saving.until_said("not finished yet")
        assert "run state 'running'" in said
        assert f"{doubtful.snapshots}/" in said
        assert ".vmstate.partial" in said
        ended = saving.end(120)
        assert (ended.code, ended.result["outcome"]) == (5, "cancelled"), ended.result
        doubtful.nothing_is_left()

    def a_guest_that_crashed_unseen_is_left_as_it_was() -> None:
        silent.crash()
        before = silent.look()
        assert before.runstate == "running", "QEMU does not know"
        ended = silent.run("save", "--unplug-timeout", LOOKED_INTO, seconds=120)
        assert (ended.code, ended.result["outcome"]) == (6, "cancelled"), ended.result
        assert "it is probably dead: its one vCPU has gone round within 4 KiB of kernel code" in ended.errors
        assert _verdicts(ended)[-2:] == [("slow", "silent"), ("probably dead", "silent")]
        assert any("has its port open, and has not answered" in line for line in _last_known(ended))
        assert silent.look() == before
        assert silent.files() == []

    def a_guest_that_panics_meanwhile_is_kept_for_a_dump_and_not_saved_again() -> None:
        saving = kept.start("save")
        kept.waits_for_unplug()
        kept.crash()
        ended = saving.end(120)
        assert (ended.code, ended.result["outcome"]) == (10, "attention"), ended.result
        assert (ended.result["runstate"], ended.result["panic_guard"]) == ("guest-panicked", True)
        assert any("core dump" in note for note in ended.result["notes"])
        left = kept.look()
        assert (left.runstate, left.migrating, left.fdsets, left.files) == ("guest-panicked", False, 0, frozenset())
        assert (left.parameters, left.capabilities) == (kept.first.parameters, kept.first.capabilities)
        again = kept.run("save")
        assert (again.code, again.result["outcome"]) == (4, "refused"), again.result
        assert "the guest has panicked" in again.errors
        assert kept.look() == left
        assert kept.files() == []

    together(
        a_guest_that_never_answers_runs_on_with_its_card,
        lambda: _lives_as_its_agent_answers(talkative),
        a_second_interrupt_says_what_would_be_left_behind_and_waits,
        a_guest_that_crashed_unseen_is_left_as_it_was,
        a_guest_that_panics_meanwhile_is_kept_for_a_dump_and_not_saved_again,
    )


def _lives_as_its_agent_answers(talkative: AnyGuest) -> None:
    ended = talkative.run("save", "--unplug-timeout", ANSWERED, seconds=120)
    assert (ended.code, ended.result["outcome"]) == (6, "cancelled"), ended.result
    assert "it lives: its guest agent answered " in ended.errors
    assert _verdicts(ended)[-1] == ("slow", "answers")
    assert any(line.startswith("It lives: its guest agent answered ") for line in _last_known(ended))
    talkative.nothing_is_left()


def _verdicts(ended: Ended) -> list[tuple[str, str]]:
    """Of the guest, and what its agent does."""
    return [(line["verdict"], line["agent"]) for line in ended.lines if line["kind"] == "verdict"]


def _last_known(ended: Ended) -> list[str]:
    known: list[str] = [line for line in ended.lines if line["kind"] == "verdict"][-1]["known"]
    return known


def test_after_a_save_a_panic_ends_qemu_as_it_did_before(pen: AnyPen) -> None:
    guest = pen.own()
    ended = guest.run("save")
    assert (ended.code, ended.result["panic_guard"], ended.result["restored"]) == (0, True, True), ended.result
    guest.crash()
    ends(guest.pid)


def test_a_guest_that_panics_meanwhile_and_takes_its_qemu_with_it_needs_attention(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)
    saving = guest.start("save", "--no-panic-guard")
    guest.waits_for_unplug()
    guest.crash()
    ended = saving.end()
    ends(guest.pid)
    assert (ended.code, ended.result["outcome"]) == (10, "attention"), ended.result
    assert ended.result["runstate"] == "gone"
    assert any("the VM is gone" in note for note in ended.result["notes"])
    assert guest.files() == []


# --- QEMU ---------------------------------------------------------------------------------------------------------


def test_a_qemu_that_is_killed_while_it_waits_for_the_guest(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)
    saving = guest.start("save")
    guest.waits_for_unplug()
    _is_killed(guest, saving)


def test_a_qemu_that_is_killed_while_it_writes(pen: AnyPen) -> None:
    guest = pen.own(slow=True)
    saving = guest.start("save")
    guest.brake()
    _is_killed(guest, saving)


def _is_killed(guest: AnyGuest, saving: Program) -> None:
    guest.kill()
    killed = time.monotonic()
    ended = saving.end()
    assert time.monotonic() - killed < PROMPT
    assert (ended.code, ended.result["outcome"]) == (10, "attention"), ended.result
    assert ended.result["runstate"] == "gone"
    assert "QEMU ended" in ended.errors
    assert guest.files() == []


# --- the disk -----------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_the_vm_as_before_and_no_file(pen: AnyPen, tmp_path: Path) -> None:
    guest = pen.guest(whole=True)
    with mounted(tmp_path / "small", "size=24m") as small:
        ended = guest.run("save", "--dir", str(small))
        assert (ended.code, ended.result["outcome"]) == (7, "failed"), ended.result
        assert "No space left on device" in ended.errors
        (told,) = [text for text in ended.result["notes"] if str(small) in text]
        assert re.search(r" had 2\d\.\d MiB free when this began, and up to \d+\.\d MiB are needed: free some space", told)
        assert list(small.iterdir()) == []
        assert [line["code"] for line in ended.lines if line["kind"] == "warning"] == ["space"]
    guest.nothing_is_left()


# --- the monitor --------------------------------------------------------------------------------------------------


STATE, MIGRATE, REMOVE = ("vmtui-state",), ("migrate",), ("remove-fd",)
PAUSE_AND_REPLUG = ("stop", "cont", "vmtui-replug", "fd:vmtui-replug")
RESUME = ("cont",)
"""All of these that a QEMU is sent which pauses the VM and plugs the card back by itself."""


@pytest.mark.parametrize("lost", ["command", "reply"])
@pytest.mark.parametrize("words", [STATE, MIGRATE, REMOVE, PAUSE_AND_REPLUG], ids=lambda words: words[0])
def test_a_monitor_that_breaks_in_the_middle_and_comes_back(
    pen: AnyPen, guest: AnyGuest, words: tuple[str, ...], lost: str
) -> None:
    if words == REMOVE and pen.version < (9, 1):
        pytest.skip("vmtui does not use fd sets with this QEMU")
    if words == PAUSE_AND_REPLUG and pen.native_pause:
        words = RESUME
    door = guest.directory / "proxy.sock"
    with Proxy(door, guest.qmp, *words, command_lost=lost == "command") as proxy:
        ended = guest.run("save", address=f"unix:{door}")
    door.unlink()
    assert (ended.code, ended.result["outcome"]) == (0, "saved"), (ended.result, ended.errors)
    assert proxy.left == []
    name = Path(ended.result["file"]).name
    assert guest.files() == [name, f"{name}.json"]
    guest.is_as_before()


def test_a_migrate_that_never_arrived_is_sent_again_though_an_earlier_one_had_completed(pen: AnyPen) -> None:
    guest = pen.own(failover=False)
    assert guest.run("save").code == 0
    assert guest.migration_status() == "completed"
    door = guest.directory / "proxy.sock"
    with Proxy(door, guest.qmp, *MIGRATE, command_lost=True):
        ended = guest.run("save", address=f"unix:{door}")
    door.unlink()
    assert (ended.code, ended.result["outcome"]) == (0, "saved"), (ended.result, ended.errors)
    guest.is_as_before()
