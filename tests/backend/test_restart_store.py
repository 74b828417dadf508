"""A file that a vmtui left when it was ended is finished or removed by the next one, wherever the crash was."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.backend.fake_qmp import stream
from tests.backend.syscalls import Syscalls, watching
from tests.backend.test_store import STEPS, make_manifest, names, written
from vmtui.backend.core.errors import StoreError
from vmtui.backend.core.snapshot import read_manifest
from vmtui.backend.store import Partial, StopFlag

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")
WHOLE = ["vm.vmstate", "vm.vmstate.json"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.vmstate"


def crashed(path: Path, nth: int, *, torn: bool = False) -> int:
    """A save that ends for good at the n-th thing done to files, after the file was made; its inode."""
    partial = written(path)
    inode = partial.inode
    with watching(Syscalls(nth, for_ever=True)), suppress(OSError, StoreError):
        partial.verify(StopFlag())
        partial.publish(make_manifest())
    partial.close()
    if torn and names(path)[-1] == "vm.vmstate.json.partial" and "vm.vmstate.json" not in names(path):
        beside = path.with_name("vm.vmstate.json.partial")
        beside.write_bytes(beside.read_bytes()[:100])
    return inode


def finish(partial: Partial) -> None:
    assert partial.verify(StopFlag()).whole
    partial.publish(make_manifest())


def is_a_snapshot(path: Path) -> bool:
    read_manifest(path.with_name("vm.vmstate.json").read_bytes())
    return names(path) == WHOLE and path.read_bytes() == stream()


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("nth", STEPS)
def test_a_save_that_crashed_at_any_step_is_finished(path: Path, nth: int, torn: bool) -> None:
    inode = crashed(path, nth, torn=torn)
    partial = Partial(path, adopted=inode)
    assert partial.is_there
    finish(partial)
    assert is_a_snapshot(path)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("nth", STEPS)
def test_a_save_that_crashed_at_any_step_is_removed(path: Path, nth: int, torn: bool) -> None:
    inode = crashed(path, nth, torn=torn)
    Partial(path, adopted=inode).discard()
    assert names(path) == []


Way = Callable[[Partial], None]


@pytest.mark.parametrize("way", [finish, Partial.discard])
@pytest.mark.parametrize("first", range(1, 14, 2))
def test_what_crashed_while_it_was_finished_or_removed_is_so_the_next_time(path: Path, first: int, way: Way) -> None:
    for second in STEPS:
        for each in path.parent.iterdir():
            each.unlink()
        inode = crashed(path, first)
        partial = Partial(path, adopted=inode)
        with watching(Syscalls(second, for_ever=True)) as calls, suppress(OSError, StoreError):
            way(partial)
        partial.close()
        way(Partial(path, adopted=inode))
        assert names(path) == [] if way is Partial.discard else is_a_snapshot(path)
        if len(calls.seen) < second:
            break


def test_what_is_gone_already_is_removed_without_complaint_and_never_finished(path: Path) -> None:
    inode = crashed(path, 1)
    Partial(path, adopted=inode).discard()
    gone = Partial(path, adopted=inode)
    assert not gone.is_there
    with pytest.raises(StoreError, match="cannot read back"):
        gone.verify(StopFlag())
    with pytest.raises(StoreError, match="no longer the file"):
        gone.publish(make_manifest())
    gone.discard()
    assert names(path) == []


@pytest.mark.parametrize("name", ["vm.vmstate.partial", "vm.vmstate", "vm.vmstate.json", "vm.vmstate.json.partial"])
def test_a_file_of_another_is_left_alone_by_the_next_vmtui(path: Path, name: str) -> None:
    partial = written(path)
    inode, holder = partial.inode, os.dup(partial.fd)  # QEMU still has it: nobody else gets its inode
    partial.close()
    partial.partial.rename(path.with_name("moved"))
    path.with_name(name).write_text("precious")
    adopted = Partial(path, adopted=inode)
    assert not adopted.is_there
    with pytest.raises(StoreError):
        adopted.publish(make_manifest())
    adopted.discard()
    os.close(holder)
    assert names(path) == ["moved", name]
    assert path.with_name(name).read_text() == "precious"


def test_no_manifest_is_made_over_a_file_that_is_none(path: Path) -> None:
    inode = crashed(path, 1)
    path.with_name("vm.vmstate.json").write_text("precious")
    partial = Partial(path, adopted=inode)
    with pytest.raises(StoreError, match="File exists"):
        partial.publish(make_manifest())
    partial.discard()
    assert names(path) == ["vm.vmstate.json"]


def test_what_an_earlier_migration_left_in_a_file_is_not_behind_the_next_state(path: Path) -> None:
    partial = written(path)
    os.write(partial.fd, b"more")
    inode = partial.inode
    os.write(partial.emptied(), stream())
    assert partial.verify(StopFlag()).whole
    partial.close()
    adopted = Partial(path, adopted=inode)
    os.write(adopted.emptied(), stream())
    finish(adopted)
    assert is_a_snapshot(path)
