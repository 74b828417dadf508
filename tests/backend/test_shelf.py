"""Each file of the snapshot directory stands for what it is; deleting removes a state and nothing else."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backend.fake_qmp import FakeQemu, stream
from tests.backend.syscalls import Syscalls, watching
from tests.kept import keep
from vmtui.backend import config, shelf, store
from vmtui.backend.core.errors import RefusedError, StoreError
from vmtui.backend.core.fleet import Begin, DeleteWish, Fleet, Reading, ReadWish, Snapshot, Standing
from vmtui.backend.core.model import Options
from vmtui.backend.discovery import FoundVm
from vmtui.backend.service import Service
from vmtui.backend.stream import StreamInterrupted


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "snapshots").mkdir()
    return tmp_path / "snapshots"


@pytest.fixture
def kept(directory: Path) -> Path:
    return keep(directory / "vm.vmstate")


def the_one(directory: Path) -> Snapshot:
    (found,) = shelf.look(directory).snapshots
    return found


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


# --- looking ----------------------------------------------------------------------------------------------------------


def test_what_a_save_finished_is_whole(kept: Path, directory: Path) -> None:
    found = the_one(directory)
    assert (found.standing, found.trouble, found.path) == (Standing.WHOLE, "", str(kept))
    assert found.manifest is not None
    assert found.size == len(stream()) == found.manifest.file.size


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    found = shelf.look(tmp_path / "nowhere")
    assert (found.snapshots, found.trouble) == ((), "")


def test_a_directory_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert shelf.look(tmp_path / "file").trouble == "Not a directory"


def test_the_latest_comes_first(directory: Path) -> None:
    for number, name in enumerate(["first", "second", "third"]):
        os.utime(keep(directory / f"{name}.vmstate"), (number, number))
    assert [Path(each.path).stem for each in shelf.look(directory).snapshots] == ["third", "second", "first"]


def test_a_file_that_a_save_has_open_is_being_written(directory: Path) -> None:
    partial = store.Partial(directory / "vm.vmstate")
    assert the_one(directory).standing is Standing.WRITING
    partial.close()
    assert the_one(directory).standing is Standing.PARTIAL


def test_a_file_is_being_written_as_long_as_qemu_has_it_open_whatever_became_of_vmtui(directory: Path) -> None:
    partial = store.Partial(directory / "vm.vmstate")
    handed_over = os.dup(partial.fd)  # as SCM_RIGHTS does: the same open file
    partial.close()
    assert the_one(directory).standing is Standing.WRITING
    os.close(handed_over)
    assert the_one(directory).standing is Standing.PARTIAL


def without_manifest(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


def with_manifest(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.with_name(path.name + ".json").write_bytes(content), None)[1]


def with_linked_manifest(path: Path) -> None:
    manifest = path.with_name(path.name + ".json")
    manifest.rename(path.parent / "elsewhere")
    manifest.symlink_to("elsewhere")


def with_manifest_for_all(path: Path) -> None:
    path.with_name(path.name + ".json").chmod(0o666)


WRONG: dict[str, tuple[Callable[[Path], None], Standing, str]] = {
    "without": (without_manifest, Standing.NO_MANIFEST, "it has no manifest"),
    "not JSON": (with_manifest(b"\x80{"), Standing.BAD_MANIFEST, "it is no manifest of vmtui"),
    "a list": (with_manifest(b"[]"), Standing.BAD_MANIFEST, "it is no manifest of vmtui"),
    "version 2": (with_manifest(b'{"version": 2}'), Standing.BAD_MANIFEST, "its version is 2"),
    "a link": (with_linked_manifest, Standing.BAD_MANIFEST, "it is a symbolic link"),
    "of anybody": (with_manifest_for_all, Standing.FOREIGN, "can be written by others"),
    "cut off": (lambda path: os.truncate(path, 1000), Standing.CUT_OFF, f"not whole: {len(stream()) - 1000} bytes are"),
    "grown": (lambda path: os.truncate(path, len(stream()) + 7), Standing.TOO_LONG, "7 bytes too many"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_whole_says_why(kept: Path, directory: Path, case: str) -> None:
    spoil, standing, words = WRONG[case]
    spoil(kept)
    found = the_one(directory)
    assert found.standing is standing
    assert words in found.trouble


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_manifest_of_another_user_is_not_trusted(kept: Path, directory: Path) -> None:
    os.chown(kept.with_name("vm.vmstate.json"), 4711, -1)
    found = the_one(directory)
    assert found.standing is Standing.FOREIGN
    assert "owner 4711" in found.trouble


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_link_is_shown_as_one_and_not_followed(directory: Path, target: str) -> None:
    (directory.parent / "victim").write_bytes(stream())
    (directory / "vm.vmstate").symlink_to(directory.parent / target)
    found = the_one(directory)
    assert (found.standing, found.size) == (Standing.NO_FILE, 0)
    assert "symbolic link" in found.trouble


def test_a_pipe_is_not_opened(directory: Path) -> None:
    os.mkfifo(directory / "vm.vmstate.partial")
    assert the_one(directory).standing is Standing.NO_FILE


def test_a_state_of_another_name_goes_by_its_manifest(directory: Path) -> None:
    keep(directory / "backup of web1")
    (directory / "package").touch()
    (directory / "package.json").write_text("{}")
    (directory / "notes.txt").touch()
    assert Path(the_one(directory).path).name == "backup of web1"


def test_a_manifest_that_changed_is_read_again(kept: Path, directory: Path) -> None:
    assert the_one(directory).whole
    with_manifest(b"{}")(kept)
    assert not the_one(directory).whole


# --- reading through --------------------------------------------------------------------------------------------------


def test_reading_says_what_is_in_the_file(kept: Path) -> None:
    reading = shelf.read(kept, lambda _reading: None)
    assert (reading.over, reading.whole, reading.share) == (True, True, 1.0)
    assert reading.machine == "microvm"
    assert reading.ram_blocks
    assert reading.devices


def test_reading_says_where_a_file_breaks_off(kept: Path) -> None:
    os.truncate(kept, 5000)
    reading = shelf.read(kept, lambda _reading: None)
    assert (reading.over, reading.whole) == (True, False)
    assert reading.verdict.startswith("not whole: at byte")


def test_a_file_that_is_gone_cannot_be_read(directory: Path) -> None:
    reading = shelf.read(directory / "gone.vmstate", lambda _reading: None)
    assert (reading.over, reading.whole, reading.verdict) == (True, False, "cannot be read: No such file or directory")


def test_reading_tells_how_far_it_is_and_never_runs_backwards(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "TELL_EVERY", 0.0)
    told: list[Reading] = []
    shelf.read(kept, told.append)
    shares = [each.share for each in told]
    assert shares[0] == 0.0
    assert shares[-1] > 0.9
    assert shares == sorted(shares)


def test_reading_stops_when_it_is_told_to(kept: Path) -> None:
    with pytest.raises(StreamInterrupted):
        shelf.read(kept, lambda _reading: None, lambda: True)


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_deleting_leaves_nothing_of_it_and_all_of_the_others(kept: Path, directory: Path) -> None:
    keep(directory / "vm.vmstate2.vmstate")
    (directory / "vm.vmstate.json.partial").touch()  # a crash while the manifest was written
    shelf.delete(kept)
    assert names(directory) == ["vm.vmstate2.vmstate", "vm.vmstate2.vmstate.json"]


def test_the_manifest_is_durably_gone_before_the_file_is_touched(kept: Path) -> None:
    with watching(Syscalls()) as calls:
        shelf.delete(kept)
    done = [call for call in calls.seen if not call.startswith("open")]
    assert done == ["unlink vm.vmstate.json", "fsync its directory", "unlink vm.vmstate", "fsync its directory"]


@pytest.mark.parametrize("nth", range(1, 7))
def test_whatever_fails_leaves_no_manifest_without_its_file(kept: Path, directory: Path, nth: int) -> None:
    with watching(Syscalls(nth)), pytest.raises(StoreError, match="cannot delete"):
        shelf.delete(kept)
    assert names(directory) != ["vm.vmstate.json"]


def test_a_partial_file_is_deleted_without_touching_a_finished_one(kept: Path, directory: Path) -> None:
    partial = directory / "vm.vmstate.partial"
    partial.touch()
    shelf.delete(partial)
    assert names(directory) == ["vm.vmstate", "vm.vmstate.json"]


def test_a_file_that_is_being_written_is_not_deleted(directory: Path) -> None:
    partial = store.Partial(directory / "vm.vmstate")
    with pytest.raises(RefusedError, match="being written by a save"):
        shelf.delete(partial.partial)
    assert names(directory) == ["vm.vmstate.partial"]
    partial.close()


def test_looking_never_keeps_a_save_from_marking_its_file(directory: Path) -> None:
    (directory / "vm.vmstate.partial").touch()
    assert not store.being_written(directory / "vm.vmstate.partial")
    assert not store.being_written(directory / "vm.vmstate.partial")


def test_a_link_is_not_deleted_and_neither_is_what_it_points_to(kept: Path, directory: Path) -> None:
    link = directory / "link.vmstate"
    link.symlink_to(kept)
    with pytest.raises(RefusedError, match="symbolic link"):
        shelf.delete(link)
    assert names(directory) == ["link.vmstate", "vm.vmstate", "vm.vmstate.json"]


def test_a_manifest_that_is_a_link_goes_and_what_it_points_to_stays(kept: Path, directory: Path) -> None:
    with_linked_manifest(kept)
    shelf.delete(kept)
    assert names(directory) == ["elsewhere"]


def test_what_is_no_saved_state_is_not_deleted(directory: Path) -> None:
    for name in ("disk.qcow2", "vm.vmstate.json", "passwd"):
        (directory / name).touch()
        with pytest.raises(RefusedError, match="no saved state"):
            shelf.delete(directory / name)
    (directory / "folder.vmstate").mkdir()
    with pytest.raises(RefusedError, match="not a file"):
        shelf.delete(directory / "folder.vmstate")
    assert len(names(directory)) == 4


def test_a_state_of_another_name_can_be_deleted(directory: Path) -> None:
    shelf.delete(keep(directory / "backup"))
    assert names(directory) == []


def test_a_file_that_is_not_there_cannot_be_deleted(directory: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        shelf.delete(directory / "gone.vmstate")


def test_a_manifest_that_cannot_go_keeps_the_file(kept: Path, directory: Path) -> None:
    without_manifest(kept)
    (directory / "vm.vmstate.json").mkdir()
    with pytest.raises(StoreError, match="cannot delete"):
        shelf.delete(kept)
    assert kept.exists()


# --- behind a front end -----------------------------------------------------------------------------------------------


class Shown:
    """What a service published last, and a way to wait for it."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self._changed = threading.Condition()

    def __call__(self, fleet: Fleet) -> None:
        with self._changed:
            self.fleet = fleet
            self._changed.notify_all()

    def until(self, condition: Callable[[Fleet], bool]) -> Fleet:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.fleet), 20)
            return self.fleet


def found(qemu: FakeQemu) -> FoundVm:
    return FoundVm("vm", None, None, qemu.address)


def served(directory: Path, *vms: FoundVm) -> tuple[Service, Shown]:
    """The survey is every 30 s: what is seen sooner was looked at because something happened."""
    service, shown = Service(directory, vms or [FoundVm("none", None, None, None)]), Shown()
    service.start(shown)
    shown.until(lambda fleet: fleet.shelf.looked_at is not None)
    return service, shown


def test_no_test_writes_where_the_users_own_journals_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert config.journal_dir().is_relative_to(tmp_path_factory.getbasetemp())


def test_a_snapshot_is_on_the_shelf_right_after_the_save_that_made_it(path: Path, directory: Path) -> None:
    with FakeQemu(path) as qemu:
        service, shown = served(directory, found(qemu))
        service.request(Begin(str(qemu.address), Options(output=str(directory / "vm.vmstate"))))
        shown.until(lambda fleet: any(each.standing is Standing.WRITING for each in fleet.shelf.snapshots))
        shown.until(lambda fleet: [each.standing for each in fleet.shelf.snapshots] == [Standing.WHOLE])
        service.stop()


def test_a_deleted_snapshot_leaves_the_shelf_at_once(kept: Path, directory: Path) -> None:
    service, shown = served(directory)
    service.request(DeleteWish(str(kept)))
    fleet = shown.until(lambda fleet: not fleet.shelf.snapshots)
    assert fleet.shelf.said == f"deleted {kept}"
    service.stop()


def test_what_cannot_be_deleted_says_why(directory: Path) -> None:
    partial = store.Partial(directory / "vm.vmstate")
    service, shown = served(directory)
    service.request(DeleteWish(str(partial.partial)))
    shown.until(lambda fleet: "being written by a save" in fleet.shelf.said)
    service.stop()
    partial.close()
    assert partial.partial.exists()


def test_a_verdict_stays_with_its_file_and_goes_when_that_changes(kept: Path, directory: Path) -> None:
    service, shown = served(directory)
    service.request(ReadWish(str(kept)))
    shown.until(lambda fleet: any(each.over and each.whole for each in fleet.shelf.readings.values()))
    other = keep(directory / "other.vmstate")
    os.utime(kept, (1, 1))
    service.request(DeleteWish(str(other)))
    shown.until(lambda fleet: not fleet.shelf.readings)
    service.stop()


def test_reading_through_can_be_stopped(kept: Path, directory: Path) -> None:
    service, shown = served(directory)
    held = threading.Event()
    assert service._loop is not None
    service._loop.call_soon_threadsafe(held.wait)  # the file is small: it could be through before it is to be stopped
    service.request(ReadWish(str(kept)))
    service.request(ReadWish(str(kept), stop=True))
    held.set()
    fleet = shown.until(lambda fleet: fleet.shelf.said != "")
    assert (fleet.shelf.said, fleet.shelf.readings) == (f"stopped reading {kept}", {})
    service.stop()
