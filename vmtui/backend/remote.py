"""The engine, as a front end has it: a process of its own, started when it is needed (`server`), or one inside.

`Remote` is used as `Engine` is. Where the engine's process is ended, it starts another one, which goes on with what the
first was doing, and follows the same VMs again; the front end sees nothing but a pause.
"""

import asyncio
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from vmtui.backend import server, wire
from vmtui.backend.core.errors import RefusedError, StoreError, Unreachable, VmtuiError
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, Record, VmRequest, VmView
from vmtui.backend.core.model import Options
from vmtui.backend.core.state import Watching
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address, Peer, credentials
from vmtui.backend.engine import LOG_LENGTH, Engine
from vmtui.backend.wire import BadMessage, Follow, News, Recover, Refusal, Release, Unfollow, Welcome

INSIDE = "VMTUI_ENGINE"
"""The environment variable that says `inside` where the engine is to be a part of each front end, and to end with it."""
START_LIMIT = 20.0
"""Seconds for an engine to be there: it reads the journals of unfinished work first."""
ENDING = 0.1
AGAIN = 30.0
"""Seconds for which a wish to begin or to cancel is told again to an engine that comes after the one that was asked."""
TRIES = 3
"""Engines that are started one after the other before a front end is told that none stays."""


def open_engine(publish: Callable[[Fleet], None]) -> "Engine | Remote":
    """What front ends use: `async with open_engine(publish) as engine`."""
    return Engine(publish) if is_inside() else Remote(publish)


def is_inside() -> bool:
    return os.environ.get(INSIDE) == "inside"


def ensure() -> None:
    """Start the engine where it is to be a process and does not run. Raises in words what keeps it from working."""

    async def try_it() -> None:
        async with Remote(lambda _fleet: None):
            pass

    if not is_inside():
        asyncio.run(try_it())


class _Wish(NamedTuple):
    """What was asked for, as long as it may be lost with an engine that dies, or none was there to ask."""

    message: wire.In
    work: Options | None
    """What is to be begun or cancelled; of anything else None, and that is told once."""
    told: float | None
    """When an engine was; None: none was yet."""


class Remote:
    """The engine's process, used as an `Engine`. Entering it raises RefusedError or Unreachable in words."""

    def __init__(self, publish: Callable[[Fleet], None]) -> None:
        self._publish = publish
        self._views: dict[str, VmView] = {}
        self._followed: dict[str, Follow] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._wishes: list[_Wish] = []
        """In the order in which they came."""
        self._listening: asyncio.Task[None] | None = None
        self.welcome: Welcome | None = None
        self.trouble: VmtuiError | None = None
        """What the engine refused, or why there is none any more; each new one is told by a publication."""

    async def __aenter__(self) -> "Remote":
        reader = await self._connect()
        self._listening = asyncio.create_task(self._listen(reader))
        return self

    async def __aexit__(self, *error: Any) -> None:
        assert self._listening is not None
        self._listening.cancel()
        with suppress(asyncio.CancelledError):
            await self._listening
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()

    @property
    def views(self) -> Mapping[str, VmView]:
        """Each VM that the engine knows, as it was last told."""
        return self._views

    def watch(self, address: Address, process: Peer | None = None, how: Watching = Watching.NO, name: str = "") -> str:
        """As `Engine.watch`."""
        key = str(address)
        if key not in self._followed:
            self._followed[key] = Follow(key, process.pid if process else 0, how, name)
            self._send(self._followed[key])
        return key

    def forget(self, key: str) -> None:
        """As `Engine.forget`; other front ends may keep it."""
        if self._followed.pop(key, None) is not None:
            self._send(Unfollow(key))

    def release(self, key: str) -> None:
        """As `Engine.release`."""
        self._send(Release(key))

    def recover(self) -> None:
        """Look once more for what was left unfinished."""
        self._send(Recover())

    def request(self, request: VmRequest) -> None:
        """Take a wish; what comes of it is seen in the fleet. It is kept while an engine is started anew."""
        self.trouble = None  # of what was asked for before
        self._send(request)

    # --- the connection

    def _send(self, message: wire.In) -> None:
        if isinstance(message, Follow | Unfollow) and not self._connected:
            return  # those are told anew in any case
        self._tell(_Wish(message, self._meant(message), None))

    @property
    def _connected(self) -> bool:
        return self._writer is not None and not self._writer.is_closing()

    def _tell(self, wish: _Wish) -> None:
        """The engine, if there is one; and keep what may have to be told again."""
        if self._writer is not None and self._connected:
            self._writer.write(wire.packed(wish.message))
            wish = wish._replace(told=wish.told or time.monotonic())
        if wish.told is None or wish.work is not None:
            self._wishes.append(wish)

    def _meant(self, message: wire.In) -> Options | None:
        """The work that a wish to begin or cancel is about; None where there is none to cancel."""
        if isinstance(message, Begin):
            return message.options
        if not isinstance(message, CancelWish):
            return None
        for wish in reversed(self._wishes):
            if isinstance(wish.message, Begin) and wish.message.key == message.key:
                return wish.work
        view = self._views.get(message.key)
        return view.state.work.options if view is not None and view.state.busy and view.state.work is not None else None

    async def _connect(self) -> asyncio.StreamReader:
        for _ in range(TRIES):
            reader, writer = await _opened()
            try:
                return await self._greeted(reader, writer)
            except (EOFError, OSError):
                writer.close()  # it was ending just now: the next one is asked
            except BaseException:
                writer.close()
                raise
        raise Unreachable(f"vmtui's engine ends each time it is started; {server.log_path()} may say why")

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> asyncio.StreamReader:
        """Say hello, hear everything, ask again for what was asked for. Raises also EOFError and OSError."""
        writer.write(wire.packed(wire.hello()))
        try:
            answer = await wire.receive_out(reader)
            if not isinstance(answer, Welcome):
                raise RefusedError(answer.text if isinstance(answer, Refusal) else "vmtui's engine gave no welcome")
            news = await wire.receive_out(reader)
            self._views = {key: view for key, view in self._views.items() if key in self._followed}
            self._note(news)
        except BadMessage as error:
            raise Unreachable("what listens in the place of vmtui's engine is of another version, or none of it; "
                              "vmtui engine stop ends it once nothing is under way") from error  # fmt: skip
        self.welcome, self._writer = answer, writer
        for followed in self._followed.values():
            writer.write(wire.packed(followed))
        wishes, self._wishes = self._wishes, []
        for wish in wishes:
            if wish.told is None or wish.told > time.monotonic() - AGAIN:
                self._tell(wish)
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        tries = 0
        while True:
            try:
                heard = await self._until_broken(reader)
                tries = 1 if heard else tries + 1
                if tries > TRIES:
                    raise Unreachable(f"vmtui's engine ends as soon as it is started; {server.log_path()} may say why")
                reader = await self._connect()
            except VmtuiError as error:
                self._trouble(error)
                return
            except Exception as error:  # noqa: BLE001 - whoever waits for values must hear that none come any more
                self._trouble(Unreachable(f"vmtui's engine cannot be listened to: {printable(repr(error), 300)}"))
                return
            self._publish(Fleet(dict(self._views)))

    async def _until_broken(self, reader: asyncio.StreamReader) -> bool:
        """Take what comes; whether anything did."""
        heard = False
        while (value := await self._heard(reader)) is not None:
            if isinstance(value, Refusal):
                self._wishes = [wish for wish in self._wishes if getattr(wish.message, "key", None) != value.key]
                self._trouble(RefusedError(value.text))
                continue
            heard = True
            self._note(value)
            self._publish(Fleet(dict(self._views)))
        if self._writer is not None:
            self._writer.close()
        return heard

    async def _heard(self, reader: asyncio.StreamReader) -> wire.Out | None:
        """What the engine says next; None when it has gone."""
        try:
            return await wire.receive_out(reader)
        except (EOFError, OSError):
            return None
        except BadMessage as error:
            raise Unreachable(f"vmtui's engine says what cannot be read: {printable(str(error), 200)}") from error

    def _note(self, news: wire.Out) -> None:
        if not isinstance(news, News):
            raise BadMessage("no news")
        views = {key: view for key, view in self._views.items() if key not in news.gone}
        for key, view in news.vms.items():
            views[key] = replace(view, log=_joined(self._views.get(key), view))
        self._views = views
        self._wishes = [wish for wish in self._wishes if wish.told is None or not _is_safe(wish, news.vms)]

    def _trouble(self, error: VmtuiError) -> None:
        self.trouble = error
        self._publish(Fleet(dict(self._views)))


def _is_safe(wish: _Wish, views: Mapping[str, VmView]) -> bool:
    """An engine that dies now does not take it along: what came of it is over or in a journal, or another is done."""
    view = views.get(wish.message.key) if isinstance(wish.message, Begin | CancelWish) else None
    if view is None or view.state.work is None:
        return False
    if view.state.work.options != wish.work:
        return view.state.busy
    came_of_it = view.state.work.given_up or isinstance(wish.message, Begin)
    return not view.state.busy or (bool(view.journal) and came_of_it)


def _joined(before: VmView | None, view: VmView) -> tuple[Record, ...]:
    """The log with its new records. Another engine counts anew: then nothing that was heard before fits."""
    old = before.log if before is not None else ()
    if old and view.log and view.log[0].number <= old[-1].number:
        return view.log
    return (*old, *view.log)[-LOG_LENGTH:]


# --- starting it --------------------------------------------------------------------------------------------------


async def _opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the engine, which is started if there is none. Raises Unreachable, RefusedError or StoreError."""
    server.runtime_directory()
    deadline = time.monotonic() + START_LIMIT
    while True:
        with suppress(ConnectionRefusedError, FileNotFoundError):
            return await _open()
        await asyncio.to_thread(start)
        with suppress(ConnectionRefusedError, FileNotFoundError):
            return await _open()
        if server.pid_of_engine() is None or time.monotonic() > deadline:
            raise Unreachable(f"vmtui's engine does not start; {printable(str(server.log_path()), 300)} may say why")
        await asyncio.sleep(ENDING)  # one that takes nobody any more ends just now


async def _open() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await asyncio.open_unix_connection(str(server.socket_path()), limit=1 << 20)
    except (ConnectionRefusedError, FileNotFoundError):
        raise
    except OSError as error:
        raise Unreachable(f"cannot connect to vmtui's engine: {os.strerror(error.errno or 0)}") from error
    _pid, uid = credentials(writer.get_extra_info("socket"))
    if uid != os.geteuid():
        writer.close()
        raise Unreachable(f"somebody else listens at {printable(str(server.socket_path()), 300)}")
    return reader, writer


def start() -> None:
    """Start the engine, and return once it takes front ends, or has said why not. One that runs already is as good.

    Raises Unreachable where Python cannot be started, StoreError where there is no place for its log.
    """
    command = [*_out_of_the_session(), sys.executable, "-m", "vmtui", "engine", "run", "--detach"]
    try:
        starter = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Unreachable(f"cannot start vmtui's engine: {os.strerror(error.errno or 0)}") from error
    try:
        said, complaint = starter.communicate(timeout=START_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"vmtui's engine was not ready within {START_LIMIT:g} s") from error
    if starter.returncode:
        text = printable(complaint.decode(errors="replace").strip().removeprefix("vmtui: "), 500)
        raise StoreError(f"vmtui's engine does not start: {text or said!r}")


def _out_of_the_session() -> list[str]:
    """Under systemd, a scope of its own, where that does not end with the session of a terminal.

    A user's own manager does end with the last session, and takes its scopes along, unless that user may linger.
    """
    systemd_run = shutil.which("systemd-run")
    if systemd_run is None or not Path("/run/systemd/system").is_dir():
        return []
    whose = [] if os.geteuid() == 0 else ["--user"]
    if whose and not Path("/var/lib/systemd/linger", getpass.getuser()).exists():
        return []
    probe = [systemd_run, *whose, "--scope", "--quiet", "--collect", "true"]
    with suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run(probe, capture_output=True, timeout=5, check=False).returncode == 0:
            return probe[:-1]
    return []


def is_running() -> bool:
    """Whether an engine takes front ends now."""
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.connect(str(server.socket_path()))
        return True
    return False
