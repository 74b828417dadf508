"""Processes of vmtui that need no start of an interpreter: forked from one that has imported everything.

The tests of the twin start hundreds. Each is a process of its own, with its own signals, outputs and exit code, that calls
what the program's entry point calls. It can be told to interrupt itself as soon as it has written a certain line: a
phase of a simulated VM is over before anybody could read of it.
"""

import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from tests.behaviour.program import REPOSITORY, Line, Process

LARGEST = 1 << 16
"""Bytes of a request."""


class Nursery:
    """`with Nursery() as nursery: nursery.start(("check", "vm"), {})`. Nothing runs until something is started."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._parent is not None and self._requests is not None:
            self._requests.close()
            self._parent.wait()

    def start(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], interrupt_at: Line | None = None
    ) -> Process:
        """A process of vmtui's; SIGINT comes to it with the first line of NDJSON that has these values."""
        request = {"argv": arguments, "environment": {**os.environ, **environment}, "interrupt_at": interrupt_at}
        (out, out_child), (err, err_child), (news, news_parent) = (os.pipe() for _ in range(3))
        children = [out_child, err_child, news_parent]
        socket.send_fds(self._running(), [json.dumps(request).encode()], children)
        for fd in children:
            os.close(fd)
        return _Child(news).process(out, err)

    def _running(self) -> socket.socket:
        if self._requests is None:
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGEST)
            with theirs:
                self._parent = subprocess.Popen((sys.executable, "-m", __name__), stdin=theirs.fileno(), cwd=REPOSITORY)
        return self._requests


class _Child:
    def __init__(self, news: int) -> None:
        self._news = os.fdopen(news, "rb", buffering=0)
        self._pid = int(self._next(None))

    def _next(self, seconds: float | None) -> bytes:
        if not select.select([self._news], [], [], seconds)[0]:
            raise TimeoutError
        return self._news.read(16).rstrip()

    def process(self, out: int, err: int) -> Process:
        return Process(os.fdopen(out), os.fdopen(err), self._signal, self._wait)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _wait(self, seconds: float | None) -> int:
        code = int(self._next(seconds))
        self._news.close()
        return code


# --- the process that the others are forked from ------------------------------------------------------------------------


def main() -> None:
    """Fork a child for each request on stdin; tell each one's pid and, later, its exit code. Ends with the last."""
    _import_everything()
    requests = socket.socket(fileno=os.dup(0))
    children: dict[int, tuple[int, int]] = {}
    """pidfd -> pid, where its news go."""
    listening = True
    while listening or children:
        waited_for = [requests.fileno(), *children] if listening else list(children)
        for ready in select.select(waited_for, [], [])[0]:
            if ready == requests.fileno():
                listening = _take(requests, children)
            else:
                _bury(ready, *children.pop(ready))


def _import_everything() -> None:
    import gc

    import vmtui.backend.holder
    import vmtui.cli
    import vmtui.headless

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        vmtui.cli.main(["check", "unix:/nowhere"])  # what is done once is done
    gc.freeze()


def _take(requests: socket.socket, children: dict[int, tuple[int, int]]) -> bool:
    data, fds, _flags, _address = socket.recv_fds(requests, LARGEST, 3)
    if not data:
        return False
    out, err, news = fds
    pid = os.fork()
    if pid == 0:
        requests.close()
        _be_vmtui(json.loads(data), out, err)
    os.write(news, b"%-16d" % pid)
    for fd in (out, err):
        os.close(fd)
    children[os.pidfd_open(pid)] = pid, news
    return True


def _bury(pidfd: int, pid: int, news: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(news, b"%-16d" % os.waitstatus_to_exitcode(status))
    os.close(news)
    os.close(pidfd)


def _be_vmtui(request: dict[str, Any], out: int, err: int) -> None:
    from vmtui import cli

    code = 1
    try:
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - as fast as can be
            for fd, number in ((nothing.fileno(), 0), (out, 1), (err, 2)):
                os.dup2(fd, number)
        os.closerange(3, 256)  # what is its brothers'
        os.environ.clear()
        os.environ.update(request["environment"])
        wanted = request["interrupt_at"]
        sys.stdout = _Interrupting(wanted) if wanted else open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        code = cli.main(request["argv"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the outermost edge: the test reads it
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Interrupting(io.TextIOWrapper):
    """A stdout: SIGINT comes with a certain line."""

    def __init__(self, wanted: Line) -> None:
        super().__init__(open(1, "wb", closefd=False))  # noqa: SIM115
        self._wanted: Line | None = wanted

    def write(self, text: str) -> int:
        written = super().write(text)
        self.flush()
        if self._wanted is not None and self._wanted.items() <= json.loads(text).items():
            self._wanted = None
            os.kill(os.getpid(), signal.SIGINT)
        return written


if __name__ == "__main__":
    main()
