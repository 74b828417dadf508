"""What happened is on the disk before anything is changed, and can be read again, however the writer ended."""

import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backend.mounts import fill, mounted
from tests.backend.syscalls import Syscalls, watching
from vmtui.backend.core.commands import Command, Fd, Survey
from vmtui.backend.core.errors import StoreError, UsageError
from vmtui.backend.core.events import Connected, QmpEvent, Wish
from vmtui.backend.core.model import Fact, Options, Vm
from vmtui.backend.journal import (
    ActionLine,
    BaselineLine,
    EndLine,
    EventLine,
    FactsLine,
    Head,
    Journal,
    Line,
    PhaseLine,
    read_journal,
)

HEAD = Head(1, "0.1", "unix:/q", 1.5)
LINES: tuple[Line, ...] = (
    FactsLine(0.9, Vm("unix:/q", name="vm", seen={Fact.NAME: 0.5}, parameters={"max-bandwidth": 1})),
    EventLine(1.0, Connected(1.0, (10, 0, 2), "", True, 7, ("qemu", "-S"))),
    EventLine(1.1, Wish(1.1, Options(output="/x/vm.vmstate"), 12.0)),
    EventLine(1.2, QmpEvent(1.2, "STOP", {"a": [1, None, "\x1b"]})),
    ActionLine(1.3, Survey("/x")),
    ActionLine(1.3, Command("getfd", {"fdname": "n"}, fd=Fd.STATE, learns=Fact.NAME)),
    PhaseLine(1.4, "prepare"),
    BaselineLine(1.5, {"goal": "save"}, {"runstate": "running"}),
    EndLine(2.0, "saved"),
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "vmtui" / "journal"


def make_journal(*lines: Line) -> Journal:
    journal = Journal(HEAD)
    for line in lines:
        journal.write(line)
    return journal


def committed(*lines: Line, name: str = "vm") -> Path:
    journal = make_journal()
    journal.commit(name)
    for line in lines:
        journal.write(line)
    journal.close()
    assert journal.path is not None
    return journal.path


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_again(directory: Path) -> None:
    journal = make_journal(*LINES[:4])
    assert not directory.exists(), "nothing is on the disk before something is to be changed"
    journal.commit("vm")
    for line in LINES[4:]:
        journal.write(line)
    journal.close()
    assert journal.path is not None
    assert list(read_journal(journal.path)) == [HEAD, *LINES]


def test_a_journal_is_for_its_owner_alone(directory: Path) -> None:
    path = committed()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.usefixtures("directory")
def test_the_file_and_its_name_are_synced_before_commit_returns() -> None:
    journal = make_journal(*LINES)
    with watching(Syscalls()) as calls:
        journal.commit("vm")
    done = [re.sub(r"\S*vm\S*", "it", each) for each in calls.seen]
    assert done == ["open it", "write it", "fsync it", "open its directory", "fsync its directory"]
    journal.close()


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_commit_that_fails_says_so_and_can_be_tried_again(directory: Path, nth: int) -> None:
    journal = make_journal(*LINES[:3])
    with watching(Syscalls(nth)), pytest.raises(StoreError, match=r"cannot write the journal in .*Input/output error"):
        journal.commit("vm")
    assert not journal.committed
    journal.write(LINES[3])
    journal.commit("vm")
    journal.close()
    assert journal.path is not None
    assert list(read_journal(journal.path)) == [HEAD, *LINES[:4]]


def test_a_directory_that_is_none_is_a_store_error(directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_text("")
    with pytest.raises(StoreError, match="cannot write the journal"):
        make_journal().commit("vm")


@pytest.mark.usefixtures("directory")
def test_two_vms_of_one_name_may_be_saved_within_one_second() -> None:
    assert len({committed(LINES[0]) for _ in range(3)}) == 3


def test_no_name_of_a_vm_leads_out_of_the_directory(directory: Path) -> None:
    paths = [committed(name=name) for name in ("../../x", "/etc/passwd", "", "a\x1b[31m\n\0b", "ü" * 300, "\ud800")]
    assert {path.parent for path in paths} == {directory}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in paths)


def test_a_full_disk_refuses_the_intent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "small", "size=64k") as small:
        monkeypatch.setenv("XDG_STATE_HOME", str(small))
        committed()
        fill(small)
        journal = make_journal(*LINES * 200)
        with pytest.raises(StoreError, match="No space left"):
            journal.commit("vm")
        assert len(list((small / "vmtui" / "journal").iterdir())) == 1, "half an intent is none"
        journal.close()


def test_a_disk_that_fills_up_later_does_not_stop_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "small", "size=64k") as small:
        monkeypatch.setenv("XDG_STATE_HOME", str(small))
        journal = make_journal(*LINES[:3])
        journal.commit("vm")
        fill(small)
        for _ in range(100):
            journal.write(LINES[0])
        (small / "ballast").unlink()
        journal.write(LINES[0])
        journal.close()
        assert journal.path is not None
        told = list(read_journal(journal.path))
        assert told[:4] == [HEAD, *LINES[:3]]
        assert len(told) < 100


@pytest.mark.usefixtures("directory")
def test_an_event_that_comes_while_the_intent_is_written_stays_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, writing, go, real = make_journal(), threading.Event(), threading.Event(), os.write

    def slow(fd: int, data: bytes) -> int:
        if b'"journal"' in data:
            writing.set()
            go.wait()
        return real(fd, data)

    monkeypatch.setattr(os, "write", slow)
    threads = [threading.Thread(target=journal.commit, args=("vm",))]
    threads[0].start()
    writing.wait()
    threads.append(threading.Thread(target=journal.write, args=(LINES[2],)))
    threads[1].start()
    threads[1].join(0.05)  # it may wait for the lock, or have overtaken
    go.set()
    for thread in threads:
        thread.join()
    journal.close()
    assert journal.path is not None
    assert list(read_journal(journal.path)) == [HEAD, LINES[2]]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("directory")
def test_a_journal_whose_writer_died_is_read_to_its_last_whole_line() -> None:
    path = committed(*LINES)
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    for size in range(len(lines[0]), len(raw) + 1, 7):
        path.write_bytes(raw[:size])
        whole = raw[:size].count(b"\n")
        assert list(read_journal(path)) == [HEAD, *LINES][:whole]


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


GOOD = encoded({"kind": "journal", "version": 1, "vmtui": "0", "key": "k", "wall": 0.0})


@pytest.mark.parametrize(
    "raw",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xfe\n",
        b"hello\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"kind": "phase", "t": 1, "phase": "x"}\n',
        encoded({"kind": "journal", "version": 2, "vmtui": "0", "key": "k", "wall": 0}),
        GOOD + b'{"kind": "\x1b[31m"}\n',
        GOOD + encoded({"kind": "\x1b[31m"}),
        GOOD + encoded({"kind": "event", "t": "now", "event": {}}),
        GOOD + encoded({"kind": "event", "t": 1, "event": {"event": "nonsense", "at": 1}}),
    ],
)
def test_garbage_is_one_clear_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a\x1b[31m\nb.ndjson"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"no journal (that|of)") as caught:
        list(read_journal(path))
    assert str(caught.value).isprintable()


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_it_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.ndjson"
    path.write_bytes(GOOD + raw + b"\n")
    with pytest.raises(UsageError, match="line 2"):
        list(read_journal(path))


@pytest.mark.parametrize("name", ["nothing", "folder"])
def test_what_cannot_be_opened_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        list(read_journal(tmp_path / name))
