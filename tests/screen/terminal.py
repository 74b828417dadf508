"""A terminal with vmtui in it: keys go in, what a user reads comes out. Nothing of vmtui runs in this process."""

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

import pyte

from tests.behaviour.program import REPOSITORY

KEYS = {
    "enter": "\r", "escape": "\x1b", "right": "\x1b[C", "ctrl+c": "\x03", "ctrl+s": "\x13", "ctrl+u": "\x15",
}  # fmt: skip
"""What a terminal sends for a key that is no character."""
IN_ITS_OWN_SESSION = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from vmtui.cli import main; sys.exit(main())"
)
"""The terminal is the controlling one, as in a login: its end is a hangup."""
ANY_PROGRAM = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""As above, with the program that the arguments name."""
Found = TypeVar("Found")


class Terminal:
    """`with Terminal("vm", environment={}) as terminal: terminal.until("running")`. At the end the process is gone."""

    def __init__(
        self, *arguments: str, environment: Mapping[str, str], size: tuple[int, int] = (80, 24),
        program: str = IN_ITS_OWN_SESSION,
    ) -> None:  # fmt: skip
        columns, lines = size
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._news = threading.Condition()
        self._over = False
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.at_first = termios.tcgetattr(slave)
        """How the terminal was set before vmtui had it."""
        try:
            self._process = subprocess.Popen(
                (sys.executable, "-c", program, *arguments), stdin=slave, stdout=slave, stderr=slave,
                start_new_session=True, cwd=REPOSITORY,
                env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            )  # fmt: skip
        finally:
            os.close(slave)
        self._stop, self._stopped = os.pipe()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"on the screen:\n{self.text}")
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.hang_up()

    def _read(self) -> None:
        """Until the process, and all that it started, has closed the terminal."""
        while data := self._next():
            with self._news:
                self._stream.feed(data)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def _next(self) -> bytes:
        """A terminal that somebody reads from is not closed: who closes it ends this thread first."""
        if self._stop in select.select([self._master, self._stop], [], [])[0]:
            return b""
        try:
            return os.read(self._master, 1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise

    # --- what a user sees

    @property
    def text(self) -> str:
        with self._news:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def until(self, *texts: str, seconds: float = 30.0) -> str:
        """What is on the screen once all of these are, however the lines are broken."""
        wanted = [" ".join(each.split()) for each in texts]

        def look(shown: str) -> str | None:
            flowing = " ".join(shown.split())
            return shown if all(each in flowing for each in wanted) else None

        return self.until_seen(look, " and ".join(texts), seconds)

    def until_gone(self, text: str, seconds: float = 30.0) -> str:
        return self.until_seen(lambda shown: shown if text not in shown else None, f"no {text!r} any more", seconds)

    def until_seen(self, look: Callable[[str], Found | None], what: str, seconds: float = 30.0) -> Found:
        """What `look` makes of the screen, as soon as that is something."""
        deadline = time.monotonic() + seconds
        with self._news:
            while (found := look("\n".join(line.rstrip() for line in self._screen.display))) is None:
                left = deadline - time.monotonic()
                assert left > 0, f"not within {seconds:g} s on the screen: {what}"
                assert not self._over, f"vmtui ended, and this is not on the screen: {what}"
                self._news.wait(left)
        return found

    # --- what a user does

    def press(self, *keys: str) -> None:
        """Wait for what an escape does before the next key: with one right behind it, it is another key."""
        for key in keys:
            os.write(self._master, KEYS.get(key, key).encode())

    def signal(self, number: signal.Signals) -> None:
        """To the process, as by `kill`; the terminal stays."""
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """The window is closed: the kernel tells the process with SIGHUP."""
        if self._master >= 0:
            os.close(self._stopped)
            self._reader.join()
            os.close(self._stop)
            os.close(self._master)
            self._master = -1

    def end(self, seconds: float = 60.0) -> int:
        """Its exit code. Raises TimeoutError."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"vmtui did not end within {seconds:g} s") from error

    @property
    def settings(self) -> list[object]:
        """How the terminal is set now."""
        return list(termios.tcgetattr(self._master))


def seconds_left(text: str) -> float | None:
    """The time that a save is said to take still; None while it is not said."""
    found = re.search(r"([\d.:]+) (s|min) left", text)
    if found is None:
        return None
    minutes, _, rest = found[1].rpartition(":")
    return 60.0 * int(minutes or 0) + float(rest)
