"""The engine as a process of its own: one for each user and host, which no terminal's end can touch.

It listens in a directory that is its user's alone, and looks at the uid of each peer besides. It ends by itself when it
has had neither a front end nor work for a while, and when it is asked to (SIGTERM): then nothing new is begun, what is
under way goes on to its checked end; SIGINT cancels that first. What an engine before it left unfinished, it goes on with.
"""

import asyncio
import fcntl
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from vmtui.backend import config, discovery, journal, wire
from vmtui.backend.core.errors import RefusedError, StoreError, UsageError, VmtuiError
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, TuneWish, VmView, WatchWish
from vmtui.backend.core.model import Goal
from vmtui.backend.core.result import left_unanswered
from vmtui.backend.core.state import Watching, as_told, given_up_save
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address
from vmtui.backend.engine import Engine
from vmtui.backend.unfinished import unfinished_journals
from vmtui.backend.wire import BadMessage, Follow, Hello, News, Recover, Refusal, Release, Unfollow, Welcome

LINGER = 60.0
"""Seconds without a front end and without work after which it ends."""
FRONT_ENDS = 64
"""At the same time: more are told so, and let go."""
HELLO_LIMIT = 5.0
"""Seconds for a front end to say what it is."""
LAST_WORDS = 2.0
"""Seconds that front ends have to read how everything ended."""
APART = 0.02
"""Seconds between two messages to one front end, at the least: what changes meanwhile goes out as one."""
BACKLOG = 1024
FOLLOWED = 4096
"""VMs of one front end."""
LATE = 600.0
"""Seconds that a VM is watched whose guest was asked for its card and has not answered."""
LOG_SIZE = 1 << 20
LONGEST_PATH = 107
"""Bytes of a socket's path that Linux takes."""
READY = b"ready\n"
MAKE_ROOM = "vmtui engine stop ends it once nothing is under way"


def socket_path() -> Path:
    return config.runtime_dir() / "engine.sock"


def log_path() -> Path:
    return config.state_home() / "engine.log"


def runtime_directory() -> Path:
    """The engine's own, made where it is missing. Raises StoreError for one that somebody else could look into."""
    path = config.runtime_dir()
    if len(str(socket_path()).encode()) > LONGEST_PATH:
        raise StoreError(
            f"{printable(str(path), 300)} is too long a name for a socket; set VMTUI_RUNTIME_DIR to a shorter one"
        )
    try:
        config.private_directory(path)
        found = path.lstat()
    except OSError as error:
        raise StoreError(f"cannot make {printable(str(path), 300)}: {os.strerror(error.errno or 0)}") from error
    if path.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StoreError(f"{printable(str(path), 300)} is not this user's alone (it must be yours, mode 0700)")
    return path


class Running:
    """The lock that says which process is the engine: held as long as it lives, with its pid inside."""

    def __init__(self, directory: Path) -> None:
        """Raises RefusedError while another process is it."""
        self._fd = os.open(directory / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise RefusedError("vmtui's engine runs already") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def pid_of_engine(directory: Path | None = None) -> int | None:
    """Of the engine that runs (in `directory`); None where none does."""
    try:
        path = (directory or config.runtime_dir()) / "engine.lock"
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return None  # somebody else's: it names no engine of this user
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        said = os.read(fd, 32).strip()
        return int(said) if said.isdigit() and int(said) > 1 else None
    finally:
        os.close(fd)
    return None


# --- one front end ------------------------------------------------------------------------------------------------


class _FrontEnd:
    """One connection: what it follows, and what it has not been told yet."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.followed: set[str] = set()
        self.close_to: set[str] = set()
        """VMs that it looks at closely."""
        self._told: dict[str, int] = {}
        """Number of the last record of each VM's log that it has."""
        self._changed: set[str] = set()
        self._refusals: list[Refusal] = []
        self._wake = asyncio.Event()

    def tell_all(self, views: dict[str, VmView]) -> None:
        """Its first news: without the logs, which come with what it follows."""
        self._told = {key: view.log[-1].number for key, view in views.items() if view.log}
        self._changed.update(views)
        self.tell_the_rest(views)

    def follows(self, key: str) -> None:
        self.followed.add(key)
        self._told.pop(key, None)
        self.changed(key)

    def tell_the_rest(self, views: dict[str, VmView]) -> None:
        """What has changed, now: without waiting for the other end to read."""
        self.writer.write(wire.packed(self._news(views)))

    def changed(self, key: str) -> None:
        self._changed.add(key)
        self._wake.set()

    def refuse(self, text: str, key: str) -> None:
        self._refusals.append(Refusal(text, key))
        self._wake.set()

    async def tell(self, views: Callable[[], dict[str, VmView]]) -> None:
        """Send what has changed, as often as the other end reads. Raises OSError when it has gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for refusal in self._refusals:
                self.writer.write(wire.packed(refusal))
            self._refusals.clear()
            self.writer.write(wire.packed(self._news(views())))
            await self.writer.drain()
            await asyncio.sleep(APART)

    def _news(self, views: dict[str, VmView]) -> News:
        changed, self._changed = self._changed, set()
        gone = tuple(key for key in changed if key not in views)
        for key in gone:
            self._told.pop(key, None)
        return News({key: self._new(key, views[key]) for key in changed if key in views}, gone)

    def _new(self, key: str, view: VmView) -> VmView:
        newest = view.log[-1].number if view.log else 0
        missing, self._told[key] = newest - self._told.get(key, 0), newest
        return replace(view, log=view.log[-missing:] if missing > 0 else ())


# --- the server ---------------------------------------------------------------------------------------------------


class Server:
    """`serve` until it is to end."""

    def __init__(self, say: Callable[[str], None], linger: float = LINGER) -> None:
        """`say` takes a line for the log; `linger` is in seconds."""
        self._say = say
        self._linger = linger
        self._since = time.time()
        self._engine = Engine(self._published)
        self._fronts: set[_FrontEnd] = set()
        self._views: dict[str, VmView] = {}
        self._ending = asyncio.Event()
        self._recovering = asyncio.Lock()
        self._kept: set[str] = set()
        """VMs that nobody follows, and that may lose their card."""
        self._chores: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        """`ready` is called once front ends can connect."""
        self._handle_signals()
        async with self._engine:
            listening.listen(BACKLOG)
            await self._recover()  # the first front end is to see it
            server = await asyncio.start_unix_server(self._front_end, sock=listening, backlog=BACKLOG)
            ready()
            try:
                await self._until_over()
            finally:
                server.close()
                await asyncio.sleep(0)  # what the engine publishes in this turn
                for front in self._fronts:
                    front.tell_the_rest(self._views)
                await self._let_all_read()
            self._say("ends")

    async def _let_all_read(self) -> None:
        """What was written last reaches those that read, and waits for nobody else."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(LAST_WORDS):
                fronts = tuple(self._fronts)
                for front in fronts:
                    front.writer.close()
                await asyncio.gather(*(front.writer.wait_closed() for front in fronts), return_exceptions=True)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_signal_handler(signal.SIGINT, self._cancel_and_end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _end(self) -> None:
        self._say("is asked to end, and does once nothing is under way")
        self._ending.set()

    def _cancel_and_end(self) -> None:
        for key in self._busy():
            self._engine.request(CancelWish(key, "cancelled: vmtui's engine was told to stop"))
        self._end()

    def _busy(self) -> list[str]:
        return [key for key, view in self._engine.views.items() if view.state.busy]

    def _needed(self) -> bool:
        return any(view.state.busy or _may_lose_its_card(view) for view in self._engine.views.values())

    async def _until_over(self) -> None:
        alone_since = time.monotonic()
        while True:
            if self._busy() or (not self._ending.is_set() and (self._fronts or self._needed())):
                alone_since = time.monotonic()
            elif self._ending.is_set() or time.monotonic() - alone_since >= self._linger:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._linger, 1.0)):
                    await (asyncio.sleep(0.05) if self._ending.is_set() else self._ending.wait())

    # --- out

    def _published(self, fleet: Fleet) -> None:
        before, self._views = self._views, fleet.vms
        changed = {key for key, view in fleet.vms.items() if before.get(key) is not view}
        for key in changed | (before.keys() - fleet.vms.keys()):
            for front in self._fronts:
                front.changed(key)
        for key in changed:
            was, view = before.get(key), fleet.vms[key]
            if was is not None and was.state.busy and not view.state.busy:
                self._ended(key, view)

    def _ended(self, key: str, view: VmView) -> None:
        work = view.state.work
        self._say(f"{work.options.goal if work else ''} of {key}: {work.outcome if work else ''}")
        self._chore(asyncio.to_thread(journal.tidy))
        asyncio.get_running_loop().call_soon(self._let_go, (key,))

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # --- in

    async def _front_end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front = _FrontEnd(writer)
        try:
            if not await self._let_in(front, reader):
                return
            telling = asyncio.create_task(front.tell(lambda: self._views))
            telling.add_done_callback(lambda _task: writer.close())
            try:
                while True:
                    self._take(front, await wire.receive_in(reader))
            finally:
                telling.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await telling
        except BadMessage as error:
            self._say(f"lets a front end go that speaks another language: {printable(str(error), 200)}")
        except (EOFError, OSError):
            pass  # it has gone: what is under way goes on
        finally:
            self._fronts.discard(front)
            writer.close()
            self._left(front)

    async def _let_in(self, front: _FrontEnd, reader: asyncio.StreamReader) -> bool:
        _pid, uid = discovery.credentials(front.writer.get_extra_info("socket"))
        if uid != os.geteuid():
            return False
        try:
            async with asyncio.timeout(HELLO_LIMIT):
                said = await wire.receive_in(reader)
        except TimeoutError:
            return False
        answer: Welcome | Refusal = Welcome(os.getpid(), self._since, len(self._fronts) + 1, self._ending.is_set())
        if why := self._why_not(said):
            answer = Refusal(why)
        front.writer.write(wire.packed(answer))
        if isinstance(answer, Welcome):
            self._fronts.add(front)
            front.tell_all(self._views)
        await front.writer.drain()
        return isinstance(answer, Welcome)

    def _why_not(self, said: wire.In) -> str:
        ours = wire.hello()
        if not isinstance(said, Hello) or said.speaks != ours.speaks:
            theirs = printable(said.speaks, 60) if isinstance(said, Hello) else "something else"
            return f"the engine that runs speaks {ours.speaks}, this front end {theirs}; {MAKE_ROOM}"
        if said.demo != ours.demo:
            demo, real = "is of a demo, and touches no real VM", "is for the VMs of this host, not for those of a demo"
            return f"the engine of this user that runs {demo if ours.demo else real}; {MAKE_ROOM}"
        if said.home != ours.home:
            places = f"{printable(ours.home, 300)}, this front end in {printable(said.home, 300)}"
            return f"the engine of this user that runs keeps its journals in {places}; {MAKE_ROOM}"
        if len(self._fronts) >= FRONT_ENDS:
            return f"{FRONT_ENDS} front ends are connected to vmtui's engine already"
        return ""

    def _take(self, front: _FrontEnd, wish: wire.In) -> None:
        match wish:
            case Follow():
                self._follow(front, wish)
            case Unfollow(key):
                front.followed.discard(key)
                self._let_go((key,))
            case Release(key):
                self._engine.release(key)
            case Recover():
                self._chore(self._recover(front))
            case Hello():
                raise BadMessage("a second hello")
            case Begin() | TuneWish() if self._ending.is_set() and self._is_new_work(wish):
                front.refuse(
                    f"vmtui's engine was told to stop, and begins nothing new. {self._what_it_waits_for()}", wish.key
                )
            case WatchWish(key, closely):
                self._watch(front, key, closely=closely)
            case _:
                self._engine.request(wish)

    def _is_new_work(self, wish: Begin | TuneWish) -> bool:
        """Not a look, and not a setting of what is under way."""
        if isinstance(wish, Begin):
            return wish.options.goal is not Goal.CHECK
        return wish.key not in self._busy()

    def _what_it_waits_for(self) -> str:
        views = (self._engine.views[key] for key in self._busy())
        return waits_for(views) or "It ends just now, and the next command starts another one"

    def _follow(self, front: _FrontEnd, wish: Follow) -> None:
        if len(front.followed) >= FOLLOWED:
            raise BadMessage("too many VMs")
        try:
            address = Address.parse(wish.key)
        except UsageError as error:
            raise BadMessage(str(error)) from error
        process = discovery.process(wish.pid) if wish.pid > 0 else None
        key = self._engine.watch(address, process, wish.how, wish.name)
        front.follows(key)
        if wish.how is not Watching.NO:
            self._watch(front, key, closely=wish.how is Watching.CLOSELY)

    def _watch(self, front: _FrontEnd, key: str, *, closely: bool) -> None:
        """As closely as any front end wants it."""
        (front.close_to.add if closely else front.close_to.discard)(key)
        if closely or not any(key in each.close_to for each in self._fronts):
            self._engine.request(WatchWish(key, closely))

    def _left(self, front: _FrontEnd) -> None:
        for key in tuple(front.close_to):
            self._watch(front, key, closely=False)
        self._let_go(tuple(front.followed))

    def _let_go(self, keys: tuple[str, ...]) -> None:
        """A monitor serves one client: it is given back as soon as nobody here needs it."""
        for key in keys:
            view = self._engine.views.get(key)
            if view is not None and _may_lose_its_card(view):
                if key not in self._kept:
                    self._kept.add(key)
                    asyncio.get_running_loop().call_later(LATE, self._no_longer_kept, key)
            elif not any(key in front.followed for front in self._fronts):
                self._engine.forget(key)  # not while it is worked on: `_ended` comes here again

    def _no_longer_kept(self, key: str) -> None:
        self._kept.discard(key)
        self._let_go((key,))

    # --- what was left unfinished

    async def _recover(self, front: _FrontEnd | None = None) -> None:
        """Whoever is asked for twice is looked for once. `front` is told what cannot be gone on with."""
        async with self._recovering:
            for left in await asyncio.to_thread(unfinished_journals):
                name = left.path.name
                try:
                    self._engine.resume(left.path)
                    self._say(f"goes on with {name}")
                except Exception as error:  # noqa: BLE001 - one journal must not keep the engine from working on other VMs
                    text = str(error) if isinstance(error, VmtuiError) else repr(error)
                    self._say(f"cannot go on with {name}: {printable(text, 500)}")
                    if front is not None:
                        front.refuse(f"cannot go on with {printable(name, 200)}: {printable(text, 500)}", str(left.address))
            await asyncio.to_thread(journal.tidy)


def waits_for(views: Iterable[VmView]) -> str:
    """What an engine that was told to stop still does, how that is looked at and undone; empty where it is free to go."""
    told = [_work_of(view) for view in views if view.state.busy]
    return f"It ends once this is over: {'; '.join(told)}" if told else ""


def _work_of(view: VmView) -> str:
    work, name, job = view.state.work, printable(view.state.vm.shown, 60), printable(view.called)
    what = f"{work.options.goal} of {name}" if work is not None else name
    return f"{what} (vmtui attach {job} shows it, vmtui cancel {job} undoes it)"


def _may_lose_its_card(view: VmView) -> bool:
    """Its guest was asked for its card, never answered, and may still: then the card is to be brought back at once."""
    saved = given_up_save(view.state) or as_told(view.state).work
    if saved is None or saved.outcome is None or not left_unanswered(saved):
        return False
    return time.monotonic() - saved.timeline[-1][1] < LATE


# --- the process --------------------------------------------------------------------------------------------------


def main(*, detach: bool) -> int:
    """Be the engine. `detach`: leave the session of whoever started it; stdout is told `ready`, then closed.

    Raises RefusedError where one runs already, StoreError where it has no place of its own.
    """
    directory = runtime_directory()
    if detach and os.fork():
        os._exit(0)  # whoever started it waits for `ready`, and has no child left behind
    if detach:
        os.setsid()
    try:
        running = Running(directory)
    except RefusedError:
        if detach:
            os._exit(0)  # somebody was faster: theirs is as good
        raise
    try:
        _serve(directory, detach=detach)
    finally:
        running.release()
    return 0


def _serve(directory: Path, *, detach: bool) -> None:
    path = directory / "engine.sock"
    path.unlink(missing_ok=True)
    os.umask(0o077)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    log = _Log(log_path(), echo=not detach)
    log.say(f"starts: {wire.SPEAKS}")
    if detach:
        os.chdir("/")
    linger = float(os.environ.get("VMTUI_ENGINE_LINGER") or LINGER)
    try:
        asyncio.run(Server(log.say, linger).serve(listening, lambda: _told_ready(log, detach=detach)))
    except BaseException as error:
        log.say(f"ends by an error of its own: {error!r}")
        raise
    finally:
        path.unlink(missing_ok=True)


def _told_ready(log: "_Log", *, detach: bool) -> None:
    if detach:
        with suppress(OSError):
            os.write(1, READY)
        log.becomes_output()


class _Log:
    """A line for each thing that happened to the engine itself. What happens to VMs is in their journals."""

    def __init__(self, path: Path, *, echo: bool) -> None:
        self._echo = echo
        self._fd = -1
        with suppress(OSError):
            config.private_directory(path.parent)
            if path.exists() and path.stat().st_size > LOG_SIZE:
                path.replace(path.with_suffix(".log.1"))
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def say(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {os.getpid()} {printable(text, 1000)}\n"
        if self._fd >= 0:
            with suppress(OSError):  # a full disk ends no save
                os.write(self._fd, line.encode())
        if self._echo:
            sys.stderr.write(line)

    def becomes_output(self) -> None:
        """What Python itself has to say goes there from now on."""
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(self._fd if number and self._fd >= 0 else null, number)
        os.close(null)
