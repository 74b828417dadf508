"""`vmtui snapshots` and `vmtui delete`: what is printed, what is asked, and which exit codes they have."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backend.fake_qmp import stream
from tests.cli.test_cli import ROOT, documented
from tests.kept import MADE, keep
from vmtui.backend.store import Partial
from vmtui.cli import main

HOSTILE = "\x1b[31mred\u202e"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return main([str(each) for each in arguments]), *capfd.readouterr()

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"  # as VMTUI_SNAPSHOT_DIR says


@pytest.fixture
def kept(directory: Path) -> Path:
    return keep(directory / "web1.vmstate")


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_each_state_is_a_line_with_all_that_matters(run: Run, kept: Path) -> None:
    code, out, err = run("snapshots")
    head, line = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["VM", "SAVED", "SIZE", "STOPPED", "HOW", "QEMU", "MACHINE", "STATE", "FILE"]
    for word in ("web1", "2026-03-01", "1.62 s", "pause-after-unplug", "10.0.2", "pc-q35-10.0", "whole", str(kept)):
        assert word in line


def test_an_empty_directory_says_what_to_do(run: Run, directory: Path) -> None:
    code, out, err = run("snapshots")
    assert (code, out) == (0, "")
    assert f"No saved state is in {directory} yet" in err
    assert "vmtui save VM" in err


def test_a_directory_that_cannot_be_read_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _out, err = run("snapshots", "--dir", tmp_path / "file")
    assert (code, err) == (7, f"vmtui: cannot read {tmp_path / 'file'}: Not a directory\n")


def test_what_is_not_whole_is_explained_on_stderr(run: Run, kept: Path) -> None:
    os.truncate(kept, 1000)
    code, out, err = run("snapshots")
    assert code == 0
    assert "NOT WHOLE" in out
    assert f"{len(stream()) - 1000} bytes are missing" in err


def test_json_has_what_is_documented(run: Run, kept: Path) -> None:
    _code, out, err = run("snapshots", "--json")
    (said,) = (json.loads(line) for line in out.splitlines())
    assert err == ""
    assert set(said) == documented("## `snapshots --json`")
    assert said["made"] == MADE
    assert (said["standing"], said["trouble"], said["vm"]) == ("whole", None, "web1")
    assert said["restore"] == f"vmtui restore {kept}"


def test_json_of_a_file_without_manifest_has_the_same_members(run: Run, directory: Path) -> None:
    partial = Partial(directory / "vm.vmstate")
    _code, out, _err = run("snapshots", "--json")
    partial.close()
    said = json.loads(out)
    assert set(said) == documented("## `snapshots --json`")
    assert (said["standing"], said["vm"], said["restore"]) == ("writing", None, None)


def test_hostile_names_do_nothing_to_the_terminal(run: Run, directory: Path) -> None:
    keep(directory / f"{HOSTILE}.vmstate", name=HOSTILE, machine=HOSTILE, strategy=HOSTILE)
    os.truncate(directory / f"{HOSTILE}.vmstate", 10)
    _code, out, err = run("snapshots")
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err


# --- delete -----------------------------------------------------------------------------------------------------------


def test_delete_removes_a_state_and_its_manifest(run: Run, kept: Path, directory: Path) -> None:
    assert run("delete", kept, "--yes") == (0, f"deleted {kept}\n", "")
    assert list(directory.iterdir()) == []


def test_nothing_is_deleted_where_nobody_can_be_asked(run: Run, kept: Path) -> None:
    code, out, err = run("delete", kept)
    assert (code, out) == (2, "")
    assert "--yes" in err
    assert kept.exists()


def test_a_file_that_is_being_written_is_refused(run: Run, directory: Path) -> None:
    partial = Partial(directory / "vm.vmstate")
    code, _out, err = run("delete", partial.partial, "--yes")
    partial.close()
    assert code == 4
    assert "being written by a save" in err
    assert partial.partial.exists()


@pytest.mark.parametrize(("name", "code"), [("gone.vmstate", 7), ("disk.qcow2", 4)])
def test_what_is_no_state_is_not_deleted(run: Run, directory: Path, name: str, code: int) -> None:
    directory.mkdir()
    (directory / "disk.qcow2").touch()
    assert run("delete", directory / name, "--yes")[0] == code
    assert (directory / "disk.qcow2").exists()


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, False), ("yes", 0, False), ("n", 5, True), ("", 5, True)])
def test_on_a_terminal_it_asks_and_only_yes_is_yes(kept: Path, answer: str, code: int, left: bool) -> None:
    leader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vmtui", "delete", str(kept)], stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT
    )
    os.close(terminal)
    asked = b""
    while b"[y/N]" not in asked:
        asked += os.read(leader, 4096)
    os.write(leader, answer.encode() + b"\n")
    assert process.wait(20) == code
    os.close(leader)
    assert str(kept) in asked.decode()
    assert "It cannot be brought back" in asked.decode()
    assert kept.exists() is left
