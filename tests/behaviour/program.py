"""vmtui as a user runs it: a process with a command line, an environment, signals, lines on its outputs, an exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
Line = dict[str, Any]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run of vmtui left behind on its outputs."""

    code: int
    lines: tuple[Line, ...]
    errors: str
    seconds: float

    @property
    def result(self) -> Line:
        assert self.lines, self.errors
        assert self.lines[-1]["kind"] in {"result", "check"}, self.lines[-1]
        return self.lines[-1]

    @property
    def phases(self) -> list[str]:
        return [line["phase"] for line in self.lines if line["kind"] == "phase"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started, whoever its parent is."""

    stdout: IO[str]
    stderr: IO[str]
    signal: Callable[[int], None]
    wait: Callable[[float | None], int]
    """Seconds to its exit code, negative if a signal ended it. Raises TimeoutError."""


Start = Callable[[tuple[str, ...], Mapping[str, str]], Process]
"""Arguments of vmtui's and an environment, to a process."""


def interpreter(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Process:
    """`python -m vmtui`."""
    process = subprocess.Popen(
        (sys.executable, "-m", "vmtui", *arguments),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=REPOSITORY, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None

    def wait(seconds: float | None) -> int:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error

    return Process(process.stdout, process.stderr, process.send_signal, wait)


class Program:
    """One running `vmtui ... --json`; its lines are taken as they come."""

    def __init__(self, start: Start, *arguments: str, environment: Mapping[str, str]) -> None:
        self.ended = False
        self._lines: list[Line] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._began = time.monotonic()
        self._process = start((*arguments, "--json"), environment)
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._take)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._errors.append)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            with self._news:
                take(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _take(self, line: str) -> None:
        self._lines.append(json.loads(line))

    def until(self, seconds: float = 30.0, **wanted: Any) -> Line:
        """The first line of NDJSON with these values, past ones included."""
        return self._await(lambda: next((line for line in self._lines if wanted.items() <= line.items()), None), seconds)

    def until_said(self, text: str, seconds: float = 30.0) -> str:
        """What is on stderr once `text` is."""
        return self._await(lambda: said if text in (said := "".join(self._errors)) else None, seconds)

    def _await(self, look: Callable[[], Found | None], seconds: float) -> Found:
        deadline = time.monotonic() + seconds
        with self._news:
            while (found := look()) is None:
                over = not any(reader.is_alive() for reader in self._readers)
                left = deadline - time.monotonic()
                if over or left <= 0:
                    why = "vmtui ended" if over else f"not within {seconds:g} s"
                    raise AssertionError(f"waited in vain ({why}): {self._lines[-8:]} {''.join(self._errors)}")
                self._news.wait(min(left, 0.2))
        return found

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self._process.signal(number)

    def end(self, seconds: float = 60.0) -> Ended:
        """Wait for its end."""
        try:
            code = self._process.wait(max(seconds - (time.monotonic() - self._began), 1.0))
        except TimeoutError as error:
            self.stop()
            raise AssertionError(f"vmtui did not end in {seconds:g} s: {self._lines[-8:]}") from error
        took = time.monotonic() - self._began
        self._close()
        return Ended(code, tuple(self._lines), "".join(self._errors), took)

    def stop(self) -> None:
        """End it, whatever it does."""
        if not self.ended:
            self._process.signal(signal.SIGKILL)
            self._process.wait(None)
            self._close()

    def _close(self) -> None:
        self.ended = True
        for reader in self._readers:
            reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
