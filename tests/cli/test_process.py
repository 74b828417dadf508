"""vmtui as a process of its own: pipes that nobody reads, and signals."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import FakeQemu
from vmtui.backend.core.sim import Scenario

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0
"""Seconds after which a process that hangs is killed, so that its test fails."""


def files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


@contextmanager
def started(*arguments: object, **more: Any) -> Iterator["subprocess.Popen[str]"]:
    command = (sys.executable, "-W", "error", "-m", "vmtui", *map(str, arguments))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as process:
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def line_with(stream: Any, word: str) -> str:
    """The next line that holds `word`."""
    line = next((line for line in stream if word in line), "")
    assert line, f"it ended without {word!r}"
    return str(line)


def test_a_reader_that_goes_away_does_not_end_a_save(path: Path, tmp_path: Path) -> None:
    with FakeQemu(path) as qemu, started("save", qemu.address, "--json") as saving:
        assert saving.stdout is not None
        saving.stdout.readline()
        saving.stdout.close()
        assert saving.stderr is not None
        assert saving.stderr.read() == ""
        assert saving.wait() == 0
        assert qemu.as_before
    assert len(files(tmp_path / "snapshots")) == 2


@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("list", "--json", "/q"), ("completion", "bash")])
def test_a_reader_that_never_was_there_is_no_stack_trace(arguments: tuple[str, ...], buffered: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | buffered
    with started(*arguments, stdout=writing, env=environment) as process:
        os.close(writing)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_a_save_needs_no_stdout_at_all(path: Path, tmp_path: Path) -> None:
    with FakeQemu(path) as qemu:
        script = 'exec "$0" -m vmtui save "$1" >&-'
        done = subprocess.run(
            ("sh", "-c", script, sys.executable, str(qemu.address)), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert qemu.as_before
    assert len(files(tmp_path / "snapshots")) == 2


def test_a_terminal_that_goes_away_does_not_end_a_save(path: Path) -> None:
    with FakeQemu(path) as qemu, started("save", qemu.address, "--json") as saving:
        line_with(saving.stdout, '"migrate-set-parameters"')
        saving.send_signal(signal.SIGHUP)
        assert json.loads(line_with(saving.stdout, '"result"'))["outcome"] == "saved"
        assert saving.wait() == 0


def test_the_second_interrupt_says_what_is_left_behind_and_the_third_leaves_it(path: Path, tmp_path: Path) -> None:
    stubborn = Scenario(unplug_delay=None)
    with FakeQemu(path, scenario=stubborn, speed=1) as qemu, started("save", qemu.address, "--json") as saving:
        line_with(saving.stdout, '"UNPLUG_PRIMARY"')
        saving.send_signal(signal.SIGINT)
        assert "cancelling; wait for the checked end" in line_with(saving.stderr, "cancelling")
        saving.send_signal(signal.SIGINT)
        told = line_with(saving.stderr, "not finished yet")
        assert "run state 'running'" in told
        assert ".vmstate.partial; press Ctrl-C once more" in told
        saving.send_signal(signal.SIGINT)
        assert line_with(saving.stderr, "left").startswith("vmtui: left as it is")
        assert saving.wait() == 10
    (partial,) = files(tmp_path / "snapshots")
    assert partial.endswith(".vmstate.partial")
