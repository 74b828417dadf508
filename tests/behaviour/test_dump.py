"""A core dump is whole, and the guest is left as it was found: running, paused or panicked."""

import stat
from pathlib import Path

import pytest

from tests.backend.mounts import mounted
from tests.behaviour.fixtures import AnyGuest, AnyPen
from tests.behaviour.looking import together, wait_until
from tests.behaviour.program import Ended

MAGIC = {"elf": b"\x7fELF", "kdump-zlib": b"makedumpfile\0", "kdump-raw-zlib": b"KDUMP   "}


def dumped(guest: AnyGuest, ended: Ended) -> Path:
    """The file of a dump that went well."""
    result = ended.result
    assert (ended.code, result["outcome"], result["error"]) == (0, "dumped", None), (result, ended.errors)
    path = Path(result["file"])
    assert guest.files() == [path.name, f"{path.name}.json"]
    assert path.name.endswith(".vmcore")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == result["bytes"] > 0
    assert path.read_bytes()[:16].startswith(MAGIC[result["format"]])
    return path


def test_a_running_guest_is_dumped_and_runs_on(guest: AnyGuest) -> None:
    ended = guest.run("dump")
    dumped(guest, ended)
    assert ended.result["format"] == "elf", "the quickest: the guest stands still for it"
    assert 0 < ended.result["stopped_seconds"] < 20
    said = next(line for line in ended.lines if line.get("code") == "stop")
    assert "stands still for about" in said["text"]
    assert ended.phases == ["preflight", "dump", "resume", "settle", "verify", "prove", "done"]
    guest.is_as_before()


@pytest.mark.parametrize("name", ["kdump-zlib", "kdump-raw-zlib"])
def test_a_dump_is_written_in_the_format_that_was_asked_for(pen: AnyPen, guest: AnyGuest, name: str) -> None:
    ended = guest.run("dump", "--format", name)
    if name == "kdump-raw-zlib" and pen.version < (8, 2):
        assert (ended.code, ended.result["outcome"]) == (4, "refused"), ended.result
        assert "it offers: elf, kdump-zlib" in ended.errors
        assert guest.files() == []
    else:
        dumped(guest, ended)
        assert ended.result["format"] == name
    guest.is_as_before()


def test_a_dump_that_was_cut_off_afterwards_is_told(guest: AnyGuest) -> None:
    path = dumped(guest, guest.run("dump"))
    assert guest.run("verify", address=str(path)).code == 0
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert guest.run("verify", address=str(path)).code == 7


def test_a_paused_guest_stays_paused(guest: AnyGuest) -> None:
    guest.qemu("stop")
    dumped(guest, guest.run("dump"))
    assert guest.look().runstate == "paused"
    guest.qemu("cont")


def test_a_panicked_guest_is_dumped_and_left_as_it_stands(pen: AnyPen) -> None:
    guest = pen.own(panic_action="pause")
    guest.crash()
    wait_until(lambda: guest.look().runstate == "guest-panicked", "it panics")
    ended = guest.run("dump")
    dumped(guest, ended)
    assert ended.result["format"] == "kdump-zlib", "it stands anyway: the smaller one"
    assert (ended.result["runstate"], guest.look().runstate) == ("guest-panicked", "guest-panicked")


def test_a_dump_is_no_snapshot(guest: AnyGuest) -> None:
    path = dumped(guest, guest.run("dump"))
    assert guest.run("restore", address=str(path), seconds=30).code == 4
    assert path.exists()


def test_a_dump_that_is_interrupted_goes_on_to_its_end_in_qemu_and_leaves_no_file(guest: AnyGuest) -> None:
    ended = guest.interrupted("dump", kind="phase", phase="dump").end()
    assert (ended.code, ended.result["outcome"]) == (5, "cancelled"), ended.result
    guest.nothing_is_left()


def test_while_a_migration_runs_nothing_is_dumped(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)
    saving = guest.start("save")
    guest.waits_for_unplug()
    said = guest.qemu("query-migrate")["status"]
    assert said == "wait-unplug"
    saving.stop()
    ended = guest.run("dump")
    assert (ended.code, ended.result["outcome"]) == (4, "refused"), ended.result
    assert "QEMU may need 30 s to let go" in ended.errors
    assert not [name for name in guest.files() if ".vmcore" in name]


def test_a_disk_that_is_too_small_is_told_before_the_guest_is_stopped(pen: AnyPen, tmp_path: Path) -> None:
    guest = pen.guest(whole=True)
    with mounted(tmp_path / "small", "size=24m") as small:
        ended = guest.run("dump", "--dir", str(small), "--format", "elf")
        assert (ended.code, ended.result["outcome"]) == (7, "refused"), ended.result
        assert list(small.iterdir()) == []
    guest.nothing_is_left()


def test_a_disk_that_fills_up_leaves_no_dump_and_a_guest_that_runs(pen: AnyPen, tmp_path: Path) -> None:
    guest = pen.guest(whole=True)
    with mounted(tmp_path / "small", "size=17m") as small:
        ended = guest.run("dump", "--dir", str(small), "--format", "kdump-zlib")
        assert (ended.code, ended.result["outcome"]) == (7, "failed"), ended.errors
        assert "the dump failed" in ended.errors
        assert list(small.iterdir()) == []
    guest.nothing_is_left()


def test_guests_that_are_stuck_are_dumped_when_qemu_lets_go(pen: AnyPen) -> None:
    patience = f"{pen.patience:g}"
    stubborn, silent = pen.several({"stubborn": True}, {"pvpanic": False})

    def a_guest_that_never_answers_runs_on_behind_its_dump() -> None:
        ended = stubborn.run("save", "--unplug-timeout", patience, "--on-stuck", "dump", seconds=150)
        assert (ended.code, ended.result["outcome"]) == (6, "cancelled"), (ended.result, ended.errors)
        _is_a_dump(stubborn, ended)
        stubborn.is_as_before()

    def a_guest_that_crashed_unseen_is_dumped_and_left_as_it_was() -> None:
        silent.crash()
        before = silent.look()
        ended = silent.run("save", "--unplug-timeout", patience, "--on-stuck", "dump", seconds=150)
        assert (ended.code, ended.result["outcome"]) == (6, "cancelled"), (ended.result, ended.errors)
        _is_a_dump(silent, ended)
        assert silent.look() == before

    together(a_guest_that_never_answers_runs_on_behind_its_dump, a_guest_that_crashed_unseen_is_dumped_and_left_as_it_was)


def _is_a_dump(guest: AnyGuest, ended: Ended) -> None:
    path = Path(ended.result["dump"])
    assert guest.files() == [path.name, f"{path.name}.json"]
    assert path.read_bytes()[:4] == MAGIC["elf"]
    assert ended.phases.count("dump") == 1
    assert ended.phases.index("cancel") < ended.phases.index("dump")
