"""A file under its final name is whole and synced; whatever fails, nothing is left, and nobody else's is touched."""

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.backend.fake_qmp import stream
from tests.backend.mounts import fill, mounted
from tests.backend.syscalls import Syscalls, watching
from vmtui.backend import store
from vmtui.backend.core.errors import RefusedError, StoreError
from vmtui.backend.core.model import FileReport
from vmtui.backend.core.snapshot import Host, Manifest, read_manifest
from vmtui.backend.store import Partial, StopFlag, VmLock, is_locked, survey
from vmtui.backend.stream import StreamInterrupted


def make_manifest() -> Manifest:
    return Manifest(
        version=1, name="vm", uuid="", host=Host("host", "0", "2026-01-01T00:00:00+00:00"), qemu="10.0.2", package="",
        machine="q35", memory=1 << 28, argv=(), strategy="stop-first", why="", then="resume", phases=(), primaries=(),
        standbys=(), file=FileReport(1, True), stopped_seconds=None, unplug_seconds=None, background=False, proved={},
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshots" / "vm.vmstate"


@pytest.fixture(autouse=True)
def no_file_stays_open(tmp_path: Path) -> Iterator[None]:
    """A save that was made to break off halfway has nobody who closes its file; other tests look at what is open."""
    yield
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if each.readlink().is_relative_to(tmp_path):
                os.close(int(each.name))


def written(path: Path) -> Partial:
    """A partial file that holds a whole state."""
    partial = Partial(path)
    os.write(partial.fd, stream())
    return partial


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- making it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_what_holds_guests_memory_is_for_its_owner_alone(path: Path) -> None:
    partial = written(path)
    assert mode(path.parent) == 0o700
    assert mode(partial.partial) == 0o600
    partial.publish(make_manifest())
    assert mode(path) == 0o600
    assert mode(path.with_name("vm.vmstate.json")) == 0o600


def test_a_partial_file_that_exists_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    there = path.with_name("vm.vmstate.partial")
    there.write_text("precious")
    with pytest.raises(StoreError, match="File exists"):
        Partial(path)
    assert there.read_text() == "precious"


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_symlink_at_the_partial_files_place_is_not_followed(path: Path, tmp_path: Path, target: str) -> None:
    path.parent.mkdir()
    (tmp_path / "victim").write_text("precious")
    path.with_name("vm.vmstate.partial").symlink_to(tmp_path / target)
    with pytest.raises(StoreError, match="File exists"):
        Partial(path)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Partial(tmp_path / "file" / "vm.vmstate")


# --- reading it through -----------------------------------------------------------------------------------------------


def test_a_whole_state_is_synced_when_it_was_read_through(path: Path) -> None:
    partial = written(path)
    with watching(Syscalls()) as calls:
        report = partial.verify(StopFlag())
    assert (report.whole, report.size, report.runstate) == (True, len(stream()), "paused")
    assert "fsync vm.vmstate.partial" in calls.seen
    partial.discard()


def test_a_state_that_breaks_off_is_reported_and_not_an_error(path: Path) -> None:
    partial = Partial(path)
    os.write(partial.fd, stream()[:5000])
    report = partial.verify(StopFlag())
    assert not report.whole
    assert report.trouble
    partial.discard()


def test_reading_through_stops_when_the_user_cancels(path: Path) -> None:
    partial, stop = written(path), StopFlag()
    stop.set = True
    with pytest.raises(StreamInterrupted):
        partial.verify(stop)
    partial.discard()


def test_a_state_that_somebody_removed_is_a_store_error(path: Path) -> None:
    partial = written(path)
    partial.partial.unlink()
    with pytest.raises(StoreError, match="cannot read back"):
        partial.verify(StopFlag())
    partial.discard()


def test_a_disk_that_fails_while_syncing_is_a_store_error(path: Path) -> None:
    partial = written(path)
    with watching(Syscalls()) as calls:
        partial.verify(StopFlag())
    with (
        watching(Syscalls(1 + calls.seen.index("fsync vm.vmstate.partial"))),
        pytest.raises(StoreError, match="Input/output error"),
    ):
        partial.verify(StopFlag())
    partial.discard()


# --- publishing it ----------------------------------------------------------------------------------------------------


def save(path: Path) -> None:
    """The whole of a save, as far as the disk can tell; what fails is undone, as the workflow does."""
    partial = written(path)
    try:
        assert partial.verify(StopFlag()).whole
        partial.publish(make_manifest())
    except StoreError:
        partial.discard()
        raise


def test_a_snapshot_is_a_state_and_its_manifest_and_nothing_else(path: Path) -> None:
    save(path)
    assert names(path) == ["vm.vmstate", "vm.vmstate.json"]
    assert path.read_bytes() == stream()
    assert read_manifest(path.with_name("vm.vmstate.json").read_bytes()) == make_manifest()


def test_each_step_is_durable_before_the_next(path: Path) -> None:
    path.parent.mkdir()
    with watching(Syscalls()) as calls:
        save(path)
    done = [each for each in calls.seen if each not in ("write vm.vmstate.partial", "open its directory")]
    assert done == [
        "open vm.vmstate.partial", "fchmod vm.vmstate.partial", "fsync its directory",
        "open vm.vmstate.partial", "fsync vm.vmstate.partial",
        "link vm.vmstate.partial", "unlink vm.vmstate.partial", "fsync its directory",
        "open vm.vmstate.json.partial", "fsync vm.vmstate.json.partial",
        "link vm.vmstate.json.partial", "unlink vm.vmstate.json.partial", "fsync its directory",
    ]  # fmt: skip


STEPS = range(1, 21)
"""More than a save takes, so that none is left out."""


@pytest.mark.parametrize("nth", STEPS)
def test_a_step_that_fails_leaves_nothing_behind(path: Path, nth: int) -> None:
    path.parent.mkdir()
    with watching(Syscalls(nth)) as calls:
        try:
            save(path)
            ok = True
        except (StoreError, OSError) as error:
            assert isinstance(error, StoreError) or calls.seen[nth - 1].startswith("write"), error
            ok = False
    assert ok == (len(calls.seen) < nth)
    if not ok and not calls.seen[nth - 1].startswith("write"):
        assert names(path) == []


@pytest.mark.parametrize("nth", STEPS)
def test_a_crash_between_two_steps_leaves_a_final_name_only_on_a_whole_state(path: Path, nth: int) -> None:
    path.parent.mkdir()
    with watching(Syscalls(nth, for_ever=True)):
        try:
            save(path)
        except OSError:
            pass
        except StoreError:
            pass
    left = names(path)
    if "vm.vmstate" in left:
        assert path.read_bytes() == stream()
    if "vm.vmstate.json" in left:
        assert "vm.vmstate" in left
        read_manifest(path.with_name("vm.vmstate.json").read_bytes())
    assert all(each in ("vm.vmstate", "vm.vmstate.json") or each.endswith(".partial") for each in left)


def test_no_more_steps_are_taken_than_are_tried_here(tmp_path: Path) -> None:
    with watching(Syscalls()) as calls:
        save(tmp_path / "vm.vmstate")
    assert len(calls.seen) < STEPS[-1]


@pytest.mark.parametrize("name", ["vm.vmstate", "vm.vmstate.json", "vm.vmstate.json.partial"])
def test_a_file_that_appeared_meanwhile_is_never_overwritten(path: Path, name: str) -> None:
    partial = written(path)
    path.with_name(name).write_text("precious")
    with pytest.raises(StoreError, match="File exists"):
        partial.publish(make_manifest())
    partial.discard()
    assert names(path) == [name]
    assert path.with_name(name).read_text() == "precious"


def test_a_partial_file_that_was_replaced_is_not_published(path: Path) -> None:
    partial = written(path)
    partial.partial.unlink()
    partial.partial.write_text("somebody else's")
    with pytest.raises(StoreError, match="no longer the file"):
        partial.publish(make_manifest())
    partial.discard()
    assert names(path) == ["vm.vmstate.partial"]
    assert partial.partial.read_text() == "somebody else's"


def test_a_full_disk_leaves_neither_a_state_without_a_manifest_nor_half_a_manifest(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=256k") as small:
        partial = written(small / "vm.vmstate")
        fill(small)
        with pytest.raises(StoreError, match="No space left"):
            partial.publish(make_manifest())
        partial.discard()
        assert names(partial.path) == ["ballast"]


# --- a file system without hard links ---------------------------------------------------------------------------------


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_names: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_it_is_renamed(path: Path) -> None:
    save(path)
    assert names(path) == ["vm.vmstate", "vm.vmstate.json"]
    assert path.read_bytes() == stream()


@pytest.mark.usefixtures("no_links")
@pytest.mark.parametrize("name", ["vm.vmstate", "vm.vmstate.json"])
def test_without_hard_links_what_exists_is_not_overwritten_either(path: Path, name: str) -> None:
    partial = written(path)
    path.with_name(name).symlink_to("nowhere")
    with pytest.raises(StoreError):
        partial.publish(make_manifest())
    partial.discard()
    assert names(path) == [name]
    assert path.with_name(name).is_symlink()


# --- discarding it ----------------------------------------------------------------------------------------------------


def test_a_discarded_state_is_gone(path: Path) -> None:
    partial = written(path)
    partial.discard()
    assert names(path) == []
    partial.discard()  # twice is no error


def test_a_foreign_file_under_the_partial_name_is_not_discarded(path: Path) -> None:
    partial = written(path)
    partial.partial.rename(path.with_name("moved away"))
    partial.partial.write_text("somebody else's")
    partial.discard()
    assert partial.partial.read_text() == "somebody else's"


def test_a_state_that_cannot_be_removed_says_so(path: Path) -> None:
    partial = written(path)
    with watching(Syscalls(1)), pytest.raises(StoreError, match=r"cannot remove .*vm\.vmstate\.partial"):
        partial.discard()
    assert partial.fd == -1, "the file is closed all the same"
    partial.partial.unlink()


# --- looking beforehand -----------------------------------------------------------------------------------------------


def test_a_place_where_nothing_is_in_the_way_has_no_problem(tmp_path: Path) -> None:
    place = survey(tmp_path / "a" / "b" / "vm.vmstate", resident=5)
    assert (place.problem, place.resident) == ("", 5)
    assert place.free > 0
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_a_directory_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert "mkdir -p" in survey(tmp_path / "a b" / "vm.vmstate", makes_directory=False).problem
    assert survey(tmp_path / "vm.vmstate", makes_directory=False).problem == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("taken", "exists already"),
        ("half", r"half\.partial exists already"),
        ("told", r"told\.json exists already"),
        ("dangling", "exists already"),
        ("folder", "is a directory"),
        ("taken/vm", "is no directory"),
        ("x" * 243, "too long"),
        ("y" * 300 + "/vm", "File name too long"),
        ("loop/vm", ""),
    ],
)
def test_what_is_in_the_way_is_said_beforehand(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "taken").write_text("")
    (tmp_path / "half.partial").write_text("")
    (tmp_path / "told.json").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    found = survey(tmp_path / name).problem
    assert re.search(problem, found), found
    assert bool(found) == bool(problem)


def test_the_longest_name_that_survey_lets_pass_can_be_saved_to(tmp_path: Path) -> None:
    path = tmp_path / ("x" * store.NAME_LIMIT)
    assert survey(path).problem == ""
    save(path)


def test_control_characters_in_a_name_are_made_visible(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m\nb").write_text("")
    assert r"a\x1b[31m\nb exists already" in survey(tmp_path / "a\x1b[31m\nb").problem


def test_a_read_only_file_system_is_seen_beforehand(tmp_path: Path) -> None:
    with mounted(tmp_path / "frozen", "ro") as frozen:
        problem = survey(frozen / "new" / "vm.vmstate").problem
        assert "not writable" in problem or "read-only" in problem


# --- the lock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "vmtui"


@pytest.mark.usefixtures("state_home")
def test_a_vm_is_locked_until_it_is_released() -> None:
    lock = VmLock("pid-1")
    with pytest.raises(RefusedError, match="another vmtui is at work on this VM"):
        VmLock("pid-1")
    VmLock("pid-2").release()
    lock.release()
    VmLock("pid-1").release()


def test_whether_a_vm_is_locked_is_asked_without_a_trace(state_home: Path) -> None:
    assert not is_locked("pid-1")
    assert not state_home.exists()
    lock = VmLock("pid-1")
    assert is_locked("pid-1")
    assert not is_locked("pid-2")
    lock.release()
    assert not is_locked("pid-1")


@pytest.mark.usefixtures("state_home")
def test_whoever_asks_for_a_lock_keeps_nobody_from_taking_it() -> None:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            is_locked("pid-1")

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for each in asking:
        each.start()
    try:
        for _ in range(200):
            VmLock("pid-1").release()
    finally:
        over.set()
        for each in asking:
            each.join()


def test_no_address_leads_out_of_the_lock_directory(state_home: Path) -> None:
    for key in ("unix:/run/../../x.sock", "..", "/", "unix:" + "y" * 500, "unix:" + "ü" * 500, "\0\0", "unix:\ud800"):
        VmLock(key).release()
    assert {each.parent for each in state_home.rglob("*.lock")} == {state_home / "locks"}
    assert len(list(state_home.rglob("*.lock"))) == 7
    assert mode(state_home / "locks") == 0o700


def test_a_symlink_at_the_locks_place_is_not_followed(state_home: Path, tmp_path: Path) -> None:
    VmLock("pid-1").release()
    (state_home / "locks" / "pid-1.lock").unlink()
    (state_home / "locks" / "pid-1.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot make a lock"):
        VmLock("pid-1")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_directory_that_cannot_be_made_is_a_store_error(state_home: Path) -> None:
    state_home.write_text("")
    with pytest.raises(StoreError, match="cannot make a lock in"):
        VmLock("pid-1")
