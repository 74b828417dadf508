"""The command line: exit codes, what goes to stdout and to stderr, and what bad input and signals do to it."""

import io
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import FakeQemu, Hook, Message, saying, stream
from tests.backend.mounts import mounted
from vmtui import headless, settings
from vmtui.backend.core.errors import UsageError
from vmtui.backend.core.model import Options
from vmtui.backend.core.sim import Scenario
from vmtui.backend.discovery import FoundVm
from vmtui.backend.store import NAME_LIMIT, VmLock
from vmtui.cli import main

ROOT = Path(__file__).resolve().parents[2]
CHANGING = ("migrate-set-capabilities", "migrate-set-parameters", "migrate", "getfd", "add-fd", "stop", "cont")
HOSTILE = "\x1b[31mred\x1b]0;title\x07\n[bold]x[/bold] \u202eevil\x9b2J"


@pytest.fixture
def qemu(path: Path) -> Iterator[FakeQemu]:
    with FakeQemu(path) as qemu:
        yield qemu


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command here: its exit code, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(each) for each in arguments])
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        return code, *capfd.readouterr()

    return run


def said(text: str) -> list[dict[str, Any]]:
    """NDJSON: every line is an object."""
    return [json.loads(line) for line in text.splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


# --- a good day -------------------------------------------------------------------------------------------------------


def test_a_save_is_told_on_stdout_and_stderr_stays_silent(run: Run, qemu: FakeQemu, tmp_path: Path) -> None:
    code, out, err = run("save", qemu.address)
    assert (code, err) == (0, "")
    assert "\nstrategy  pause-after-unplug: " in out
    assert "read through and whole" in out
    assert "primary0 plugged, proved" in out
    state, manifest = files(tmp_path / "snapshots")
    assert re.fullmatch(r"qmp-\d{8}T\d{6}\.vmstate", state)
    assert manifest == f"{state}.json"
    assert qemu.as_before


def test_jobs_are_listed_in_their_order_each_by_its_vm_and_with_a_file_only_where_one_is(
    run: Run, qemu: FakeQemu, tmp_path: Path
) -> None:
    code, out, err = run("jobs")
    assert (code, out) == (0, "")
    assert "vmtui save VM begins one" in err
    for name in ("first", "second"):
        assert run("save", qemu.address, "--output", tmp_path / name)[0] == 0
    (tmp_path / "first").unlink()
    jobs = said(run("jobs", "--json")[1])
    assert [Path(job["output"]).name for job in jobs] == ["first", "second"]
    assert {job["vm"] for job in jobs} == {"vm"}
    head, first, second = run("jobs")[1].splitlines()
    assert head.split() == ["JOB", "VM", "GOAL", "STATE", "BEGAN", "FILE"]
    assert first.endswith("  -")
    assert second.endswith(f"  {tmp_path / 'second'}")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (("down", "nosuch"), 1, "no such guest: nosuch. There is: none"),
        (("crash", "nosuch"), 1, "no such guest: nosuch"),
        (("up", "--qemu", "/nope"), 1, "/nope is not there or cannot be run: install"),
        (("up", "--name", "a/../b"), 1, "'a/../b' is no name for a guest"),
        (("up", "--name", "a", "--name", "b"), 2, "--name is for one"),
    ],
)
def test_what_is_asked_of_the_lab_by_mistake_is_told_in_a_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setenv("VMTUI_LAB_DIR", str(tmp_path / "lab"))
    ended, out, err = run("lab", *command)
    assert (ended, out) == (code, "")
    assert err.startswith("vmtui: ")
    assert says in err
    assert "bug" not in err


@pytest.mark.parametrize("command", ["save", "check", "dump"])
@pytest.mark.parametrize("place", [("--output", "nowhere/vm.vmstate"), ("--dir", "nowhere")])
def test_a_directory_that_was_named_and_is_not_there_is_refused(
    run: Run, qemu: FakeQemu, tmp_path: Path, command: str, place: tuple[str, str]
) -> None:
    option, name = place
    code, out, err = run(command, qemu.address, option, tmp_path / name)
    assert (code, err) == (4 if command == "check" else 7, "")
    assert f"there is no directory {tmp_path / 'nowhere'}: make it first (mkdir -p {tmp_path / 'nowhere'})" in out
    assert not [name for name in CHANGING if qemu.commands(name)]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", [("snapshots",), ("ui", "--plain")])
def test_nothing_is_shown_of_a_directory_that_is_not_there(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--dir", tmp_path / "nowhere")
    assert (code, out) == (7, "")
    assert f"there is no directory {tmp_path / 'nowhere'}" in err


def documented(heading: str) -> set[str]:
    """The members that a table of docs/headless.md promises."""
    text = (ROOT / "docs" / "headless.md").read_text().split(heading, 1)[1]
    table = re.search(r"\n\|.*?\n\n", text, re.DOTALL)
    assert table
    rows = [row.split("|")[1] for row in table[0].splitlines()[3:] if row]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def test_every_line_of_json_has_a_time_and_a_kind_and_the_last_is_the_promised_result(run: Run, qemu: FakeQemu) -> None:
    code, out, err = run("save", qemu.address, "--json")
    assert (code, err) == (0, "")
    lines = said(out)
    assert all(isinstance(line["t"], float) and line["t"] >= 0 for line in lines)
    assert {line["kind"] for line in lines} <= documented("`resume --json`")
    assert [line["kind"] for line in lines].index("result") == len(lines) - 1
    assert set(lines[-1]) == documented("\n`result`:") | {"t", "kind"}
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert [line["phase"] for line in lines if line["kind"] == "phase"][-1] == "done"
    told = [(line["share"], line["written"]) for line in lines if line["kind"] == "progress"]
    assert told == sorted(told)
    assert told[-1] == (1, lines[-1]["bytes"])
    assert all(written == lines[-1]["bytes"] for share, written in told if share == 1)


def test_a_phase_tells_what_qemu_said_of_this_save_and_not_of_bringing_the_card_back(run: Run, qemu: FakeQemu) -> None:
    for number in (1, 2):
        _code, out, _err = run("save", qemu.address, "--json", "--output", f"{qemu.address.path}.{number}")
        assert qemu.vm.migration is not None
        assert qemu.vm.migration.status == "failed", "that is how the card was brought back"
        told = {line["phase"]: line["status"] for line in said(out) if line["kind"] == "phase"}
        assert told["prepare"] == "none"
        assert {told[phase] for phase in ("finish", "settle", "verify", "prove", "done")} == {"completed"}
    assert "failed" not in run("save", qemu.address)[1]


def test_check_says_what_would_be_done_and_does_nothing(run: Run, qemu: FakeQemu, tmp_path: Path) -> None:
    code, out, err = run("check", qemu.address)
    assert (code, err) == (0, "")
    assert "it can be saved" in out
    code, out, _err = run("check", qemu.address, "--json")
    (line,) = said(out)
    assert (code, line["kind"], line["savable"], line["error"]) == (0, "check", True, None)
    assert files(tmp_path) == ["qmp.sock", "qmp.sock.sim"], "the twin's own"


def test_check_of_a_vm_that_cannot_be_saved_gives_four(run: Run, path: Path) -> None:
    with FakeQemu(path, scenario=Scenario(runstate="paused")) as qemu:
        code, out, _err = run("check", qemu.address)
        assert code == 4
        assert "it cannot be saved like this" in out
        code, out, _err = run("save", qemu.address)
        assert code == 4
        assert "refused, nothing was touched: it is paused with its failover card plugged" in out
        assert not qemu.commands(*CHANGING)


def test_a_vm_that_was_left_paused_is_resumed(run: Run, qemu: FakeQemu) -> None:
    assert run("save", qemu.address, "--then", "stay-paused")[0] == 0
    assert qemu.vm.runstate == "postmigrate"
    code, out, _err = run("resume", qemu.address)
    assert code == 0
    assert "vm: runs" in out
    assert qemu.as_before


def test_a_journal_is_played_again_with_the_exit_code_of_the_save(run: Run, qemu: FakeQemu, state_home: Path) -> None:
    _code, live, _err = run("save", qemu.address)
    (journal,) = (state_home / "journal").iterdir()
    code, again, err = run("replay", journal, "--speed", "100000")
    assert (code, again, err) == (0, live, "")
    raw = journal.read_bytes()
    journal.write_bytes(raw[: len(raw) // 2])
    code, out, _err = run("replay", journal, "--speed", "100000")
    assert code == 1
    assert "vmtui was ended there" in out
    journal.write_bytes(b"\x1b[31m\n" + raw)
    code, out, err = run("replay", journal)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "no journal of vmtui" in err


def test_a_saved_state_is_verified(run: Run, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(stream())
    (tmp_path / "cut").write_bytes(stream()[:-1])
    code, out, err = run("verify", tmp_path / "whole")
    assert (code, err) == (0, "")
    assert ": whole, 102.6 KiB" in out
    code, out, _err = run("verify", tmp_path / "cut", "--json")
    assert (code, said(out)[0]["whole"]) == (7, False)
    for name in ("missing", "."):
        assert run("verify", tmp_path / name)[0] == 7


def test_a_completion_script_is_printed(run: Run) -> None:
    code, out, err = run("completion", "bash")
    assert (code, err) == (0, "")
    assert "--unplug-timeout" in out


def test_a_command_that_is_only_printed_makes_its_directory_itself(
    run: Run, qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vm.vmstate"
    assert run("save", qemu.address, "--output", file)[0] == 0
    manifest = json.loads(Path(f"{file}.json").read_text())
    argv = ["/bin/true", "-name", "vm", "-qmp", "unix:/run/vm.qmp,server=on,wait=off"]
    Path(f"{file}.json").write_text(json.dumps({**manifest, "argv": argv, "machine": ""}))
    with tempfile.TemporaryDirectory(prefix="vr-") as short:  # for a socket's path
        monkeypatch.setenv("VMTUI_RUNTIME_DIR", short)
        runtime = Path(short, "vmtui")
        code, out, err = run("restore", "--print", file)
        assert code == 0, err
        directory = re.match(rf"mkdir -p -m 700 ({runtime}/vmtui-\w+) && ", out)
        assert directory
        assert f"{directory[1]}/" in out
        assert not list(runtime.iterdir())


@pytest.mark.parametrize("more", [(), ("--plain",)])
def test_a_command_that_was_mistyped_is_taken_for_one(run: Run, more: tuple[str, ...]) -> None:
    code, out, err = run("savee", "nu1", *more)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "Did you mean the command save: vmtui save nu1"
    assert "Did you mean" not in run("web1", *more)[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('thme = "light"', "there is no setting 'thme'; did you mean theme?"),
        ('theme = "lihgt"', "theme is one of dark, light, contrast, mono; did you mean light?"),
        ("theme = 3", "Expected `str`, got `int`"),
        ("theme = !\n", "(at line 1, column 9)"),
    ],
)
def test_what_is_wrong_in_the_settings_is_told_with_the_file_and_what_follows(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        settings.read(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert says in str(raised.value)
    assert "The terminal UI is not started; correct that file" in str(raised.value)


def test_without_a_command_the_help_goes_to_stderr(run: Run) -> None:
    for arguments in ((), ("lab",)):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "usage: vmtui" in err


# --- what cannot be reached -------------------------------------------------------------------------------------------


def refused(outcome: tuple[int, str, str], code: int, why: str) -> None:
    """It ended with that code and one line that says why, after no more than the line of the pre-flight."""
    assert outcome[0] == code, outcome
    *before, last = (outcome[1] + outcome[2]).splitlines()
    assert why in last
    assert [line for line in before if "looking at the VM" not in line] == []


def test_a_socket_that_is_not_there_gives_three(run: Run, path: Path) -> None:
    refused(run("save", path), 3, "no such socket; is the VM running?; nothing was touched")
    for command in ("save", "check"):
        assert run(command, path)[1].splitlines()[-1].startswith("vmtui: cannot connect to unix:")
    code, out, err = run("save", path, "--json")
    assert (code, said(out)[-1]["outcome"], said(out)[-1]["exit_code"]) == (3, "failed", 3)
    assert "no such socket" in err
    assert err.count("\n") == 1, "with --json a person who looks at stderr still learns what went wrong"


def test_a_socket_that_does_not_speak_qmp_gives_three(run: Run, path: Path) -> None:
    with saying(path, b"SSH-2.0-\x1b[31mOpenSSH\r\n") as address:
        refused(run("save", address), 3, "it does not speak QMP")


def test_a_monitor_that_is_held_gives_three_within_two_seconds(run: Run, qemu: FakeQemu) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(qemu.path))
        assert other.recv(1000).startswith(b'{"QMP"')
        began = time.monotonic()
        refused(run("save", qemu.address), 3, "another client holds this monitor")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("save", "tcp:nowhere"), "is no address"),
        (("save", "unix:"), "is no address"),
        (("save", "no-such-vm-at-all"), "No VM is called"),
        (("save", "/q", "--output", ""), "--output needs the name of a file"),
        (("save", "/q", "--output", "a\udcffb"), "is not UTF-8"),
        (("replay", "/nonexistent"), "cannot read /nonexistent"),
    ],
)
def test_what_means_nothing_gives_two(run: Run, arguments: tuple[str, ...], why: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert why in err
    assert "Traceback" not in err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "soon", "\x1b[31m"])
def test_a_time_that_is_none_gives_two(run: Run, value: str) -> None:
    code, out, err = run("save", "/q", f"--unplug-timeout={value}")
    assert (code, out) == (2, "")
    assert "is no number of seconds" in err
    assert "\x1b" not in err


# --- where the file is to go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("taken", "exists already: it is never overwritten"),
        ("half", "half.partial exists already"),
        ("told", "told.json exists already"),
        (".", "is a directory: name a file in it"),
        ("taken/below", "is no directory"),
        ("x" * (NAME_LIMIT + 1), "is too long"),
        ("y" * 300 + "/x", "File name too long"),
    ],
)
def test_a_place_where_no_file_can_be_made_gives_seven(
    run: Run, qemu: FakeQemu, tmp_path: Path, output: str, why: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("taken", "half.partial", "told.json"):
        (folder / name).write_text("precious")
    refused(run("save", qemu.address, "--output", folder / output), 7, why)
    assert {each.read_text() for each in folder.iterdir()} == {"precious"}
    assert len(files(folder)) == 3
    assert not qemu.commands(*CHANGING)


def test_the_default_directory_is_made_for_its_owner_alone(
    run: Run, qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMTUI_SNAPSHOT_DIR", str(tmp_path / "a" / "b"))
    assert run("save", qemu.address)[0] == 0
    assert len(files(tmp_path / "a" / "b")) == 2
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_read_only_file_system_gives_seven(run: Run, qemu: FakeQemu, tmp_path: Path) -> None:
    with mounted(tmp_path / "frozen", "ro,size=100m") as frozen:
        refused(run("save", qemu.address, "--output", frozen / "new" / "vm"), 7, "the ")
    assert not qemu.commands(*CHANGING)


def test_a_journal_directory_that_is_not_writable_gives_seven(run: Run, qemu: FakeQemu, state_home: Path) -> None:
    state_home.mkdir(parents=True)
    (state_home / "journal").write_text("")
    code, out, err = run("save", qemu.address)
    assert (code, err) == (7, "")
    assert "refused, nothing was touched: cannot write the journal in" in out
    assert not qemu.commands(*CHANGING)


def test_a_vm_that_another_vmtui_holds_gives_four(run: Run, qemu: FakeQemu, tmp_path: Path) -> None:
    lock = VmLock(str(qemu.address))
    code, out, err = run("save", qemu.address)
    lock.release()
    assert (code, err) == (4, "")
    assert "another vmtui is at work on this VM" in out
    assert not qemu.commands(*CHANGING)
    assert files(tmp_path / "snapshots") == []


# --- what a terminal must never see -----------------------------------------------------------------------------------


def harmless(*texts: str) -> None:
    """Lines, and nothing in them that moves a cursor, rings, or turns text around."""
    for text in texts:
        for line in text.split("\n"):
            assert line.isprintable(), ascii(line)


def angry(command: str) -> Hook:
    """QEMU refuses a command in words that a terminal would obey."""

    def hook(_qemu: FakeQemu, message: Message) -> bytes | None:
        refusal = {"id": message.get("id"), "error": {"class": "GenericError", "desc": HOSTILE}}
        return json.dumps(refusal).encode() + b"\r\n" if message["execute"] == command else None

    return hook


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_hostile_name_never_reaches_the_terminal_as_it_is(run: Run, path: Path, as_json: tuple[str, ...]) -> None:
    with FakeQemu(path, name=HOSTILE) as qemu:
        for command in ("save", "check", "resume"):
            code, out, err = run(command, qemu.address, *as_json)
            assert code == 0
            assert "[bold]x[/bold]" in out, "nothing is lost of it"
            harmless(out, err)


@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize("command", ["migrate", "query-status"])
def test_a_hostile_refusal_never_reaches_the_terminal_as_it_is(
    run: Run, path: Path, command: str, as_json: tuple[str, ...]
) -> None:
    with FakeQemu(path, hook=angry(command)) as qemu:
        code, out, err = run("save", qemu.address, *as_json)
    assert code == 1
    assert "[bold]x[/bold]" in out
    harmless(out, err)


@pytest.mark.parametrize(
    "arguments", [("save",), ("check",), ("verify",), ("restore",), ("replay",), ("list",), ("save", "/q", "--output")]
)
def test_a_hostile_path_never_reaches_the_terminal_as_it_is(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments, f"{tmp_path}/{HOSTILE}")
    assert code != 0 or arguments == ("list",)
    harmless(out, err)


def test_a_state_with_a_hostile_name_is_described_harmlessly(run: Run, tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    (tmp_path / name).write_bytes(stream())
    code, out, err = run("verify", tmp_path / name)
    assert code == 0
    assert "[bold]x[bold]" in out
    harmless(out, err)


def test_a_moving_line_holds_no_hostile_text_either(path: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with FakeQemu(path, name=HOSTILE) as qemu:
        options = Options(output=str(tmp_path / "vm.vmstate"))
        headless.run(FoundVm(HOSTILE, None, None, qemu.address), options, headless.LivePrinter(out))
    harmless(out.getvalue().replace("\r\x1b[K", ""))
