"""Who connects the pure core to the world? Sessions: one a VM, each with an inbox and at most one action outstanding.

The engine owns all mutable state. It publishes one immutable `Fleet` after each step and takes one `Request` at a time;
neither side waits for the other.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from vmtui import __version__
from vmtui.backend import agent, store
from vmtui.backend.core import commands, workflow
from vmtui.backend.core.commands import (
    Action,
    Command,
    Discard,
    Fd,
    Ping,
    Publish,
    Read,
    Reserve,
    Survey,
    Surveyed,
    Verify,
)
from vmtui.backend.core.errors import RefusedError, StoreError, Unreachable, VmtuiError
from vmtui.backend.core.events import (
    Answered,
    AnyEvent,
    Cancel,
    Connected,
    Disconnected,
    KeepWaiting,
    LetRun,
    Pinged,
    QmpEvent,
    Refused,
    Restarted,
    Tick,
    Tune,
    Unknown,
    Watch,
    Wish,
)
from vmtui.backend.core.fleet import (
    Begin,
    CancelWish,
    Fleet,
    LetRunWish,
    Record,
    TuneWish,
    VmRequest,
    VmView,
    WaitWish,
    WatchWish,
)
from vmtui.backend.core.model import Link, Options, Outcome, Phase, Vm
from vmtui.backend.core.snapshot import Host, manifest
from vmtui.backend.core.state import State, Watching
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address, Peer, process_alive
from vmtui.backend.journal import ActionLine, BaselineLine, EndLine, EventLine, FactsLine, Head, Journal, PhaseLine
from vmtui.backend.qmp import Monitor, broken_pipe, close_quietly
from vmtui.backend.stream import StreamInterrupted
from vmtui.backend.unfinished import Unfinished, boot_id, lock_key, read_unfinished

LOG_LENGTH = 1000
RECONNECT_EVERY = 0.1
RECONNECT_SELDOM = 15.0
"""Seconds between two attempts, at the most, while nothing is done to the VM: somebody else may hold its monitor."""
CONNECTING = 32
"""Monitors that are connected to at the same time: a thousand at once would all be slow to greet, and look held."""
GIVEN_BACK = "its monitor was given back; it is taken again when something is asked of the VM"
LARGE_MESSAGE = 4096
"""Bytes of JSON above which a record shows only how long a message was."""


class Engine:
    """All sessions. Use `async with Engine(publish) as engine`, then `engine.watch(address)` and `engine.request(...)`."""

    trouble: VmtuiError | None = None
    """An engine in a process of its own (`remote`) may have some; this one has none."""

    def __init__(self, publish: Callable[[Fleet], None]) -> None:
        self._publish = publish
        self._sessions: dict[str, Session] = {}
        self._views: dict[str, VmView] = {}
        self._to_publish = False
        self._gate = asyncio.Semaphore(CONNECTING)
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Engine":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        for session in self._sessions.values():
            session.end()
        await self._tasks.__aexit__(*error)
        self._publish_now()

    def watch(self, address: Address, process: Peer | None = None, how: Watching = Watching.NO, name: str = "") -> str:
        """Connect to a monitor and keep its facts; returns the VM's key.

        `process` is QEMU as far as its command line told, for a monitor whose other end is not QEMU itself.
        """
        key = str(address)
        if self._living(key) is None:
            self._sessions[key] = Session(address, lambda view: self._changed(key, view), process, how, name, self._gate)
            self._sessions[key].start(self._tasks)
        return key

    def _living(self, key: str) -> "Session | None":
        """The session of a VM that did not end by an error of our own: such a one does nothing more, and is replaced."""
        session = self._sessions.get(key)
        return None if session is None or session.failed else session

    def resume(self, journal: Path) -> str:
        """Go on with what a vmtui did that was ended, to its checked end; returns the VM's key.

        Raises UsageError where this journal has nothing to go on with, RefusedError while another vmtui is at work on the
        VM, StoreError where the journal or the file cannot be opened.
        """
        lock = store.VmLock(read_unfinished(journal).lock_key)
        try:
            left = read_unfinished(journal)  # nobody else goes on with it any more
            key = str(left.address)
            session = self._living(key) or Session(left.address, lambda view: self._changed(key, view), left.peer())
            session.take_over(left, lock)
        except BaseException:
            lock.release()
            raise
        if self._sessions.get(key) is not session:
            self._sessions[key] = session
            session.start(self._tasks)
        session.show()
        return key

    def forget(self, key: str) -> None:
        """Let a VM go that nothing is done to: its connection ends, and it is in the fleet no longer."""
        session = self._sessions.get(key)
        if session is None or session.state.busy:
            return
        del self._sessions[key]
        session.end()
        self._views.pop(key, None)
        self._publish(Fleet(dict(self._views)))

    def release(self, key: str) -> None:
        """Give a VM's monitor back, until something is asked of it. What is under way keeps it."""
        session = self._sessions.get(key)
        if session is not None and not session.state.busy:
            session.give_back()

    @property
    def views(self) -> Mapping[str, VmView]:
        """Each VM as it is now."""
        return self._views

    def request(self, request: VmRequest) -> None:
        """Take a wish; what comes of it is seen in the fleet."""
        session = self._sessions.get(request.key)
        if session is not None and session.failed and isinstance(request, Begin | TuneWish):
            self.watch(session.address, session.known_process, session.state.watching, session.name)
            session = self._sessions[request.key]
        if session is not None:
            session.wish(request)

    def _changed(self, key: str, view: VmView) -> None:
        if key in self._sessions:
            self._views[key] = view
            self._publish_soon()

    def _publish_soon(self) -> None:
        """However many VMs change in one turn of the loop, one value goes out."""
        if not self._to_publish:
            self._to_publish = True
            asyncio.get_running_loop().call_soon(self._publish_now)

    def _publish_now(self) -> None:
        if self._to_publish:
            self._to_publish = False
            self._publish(Fleet(dict(self._views)))


class Session:
    """One VM: its monitor, its state, its journal, its file."""

    def __init__(
        self,
        address: Address,
        publish: Callable[[VmView], None],
        process: Peer | None = None,
        how: Watching = Watching.NO,
        name: str = "",
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        """`gate` lets so many sessions connect at a time; one with something to do does not wait at it."""
        self.address = address
        self._gate = gate or asyncio.Semaphore()
        self.known_process = process
        self.name = name
        self.state = State(Vm(str(address)), watching=how)
        self._publish = publish
        self._inbox: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self._monitor: Monitor | None = None
        self._peer: Peer | None = None
        self._performing: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._log: deque[Record] = deque(maxlen=LOG_LENGTH)
        self._records = 0
        self._journal: Journal | None = None
        self._partial: store.Partial | None = None
        self._lock: store.VmLock | None = None
        self._stop = store.StopFlag()
        self._wanted = asyncio.Event()
        """Not set while the monitor is given back to others."""
        self._wanted.set()
        self.failed = False
        """By an error of our own: nothing is done any more."""
        self._held: list[VmRequest] = []
        """What was asked for while it was: for when it has been taken again."""
        self._reply_id: object = None
        """The id of the outstanding command: a late reply to an earlier one is nobody's."""

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._group = tasks
        self._tasks = tuple(tasks.create_task(self._guarded(each)) for each in (self._work(), self._keep_connected()))

    async def _guarded(self, running: Coroutine[Any, Any, None]) -> None:
        """An error of our own on one VM is that VM's, and ends the work on no other."""
        try:
            await running
        except Exception as error:  # noqa: BLE001 - the edge of a session
            text = f"an error of vmtui's own: {printable(repr(error), 300)}; vmtui recover goes on with what was under way"
            work = self.state.work
            if work is not None and self.state.busy:
                work = msgspec.structs.replace(work, phase=Phase.DONE, outcome=Outcome.ATTENTION, notes=(*work.notes, text))
            vm = msgspec.structs.replace(self.state.vm, link=Link.LOST, why_lost=text)
            self.state = msgspec.structs.replace(self.state, vm=vm, work=work, outstanding=None)
            self.failed = True
            self.show()
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()

    def wish(self, request: VmRequest) -> None:
        if isinstance(request, CancelWish) and self.state.busy:
            self._stop.set = True
        if self._wanted.is_set() or (self._monitor is not None and self._monitor.connected):
            self._wanted.set()
            self._inbox.put_nowait(_wished(request, _now()))
        elif not isinstance(request, WatchWish) or request.closely:
            self._held.append(request)
            self._wanted.set()

    def give_back(self) -> None:
        self._wanted.clear()
        if self._monitor is not None:
            self._group.create_task(self._hang_up())

    def take_over(self, left: Unfinished, lock: store.VmLock) -> None:
        """The state, journal and file of another engine, whose VM is locked by `lock` now."""
        if self.state.busy:
            raise RefusedError("this vmtui is at work on this VM already")
        journal, work = Journal.reopened(left.path), left.state.work
        try:
            path = Path(work.options.output) if work is not None else Path()
            partial = None if left.inode is None else store.Partial(path, adopted=left.inode)
        except StoreError:
            journal.close()
            raise
        self._wanted.set()
        self.state = msgspec.structs.replace(left.state, watching=self.state.watching)
        self._journal, self._partial, self._lock = journal, partial, lock
        self._peer = self._peer or left.peer()
        there, published = (partial.is_there, partial.is_published) if partial is not None else (False, False)
        self._inbox.put_nowait(Restarted(_now(), left.rebooted, there, published))
        if self._monitor is not None and self._monitor.connected:
            self._inbox.put_nowait(self._greeted(self._monitor))

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while True:
                self._handle(await self._next_event())
                while not self._inbox.empty():
                    self._handle(self._inbox.get_nowait())
                self.show()
        finally:
            self._tidy_up()

    async def _next_event(self) -> AnyEvent:
        deadline = workflow.wake(self.state)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._inbox.get()
        except TimeoutError:
            return Tick(_now())

    def _handle(self, event: AnyEvent) -> None:
        before = self.state
        if isinstance(event, Wish) and not before.busy:
            self._reply_id = None  # an answer that is under way is not to be taken for that of what comes next
            self._stop = store.StopFlag()
            self._journal = Journal(Head(1, __version__, str(self.address), event.wall, boot_id()))
            self._write(FactsLine(event.at, before.vm))
        self._write(EventLine(event.at, event))
        self.state = workflow.step(before, event)
        self._tell_phases(before)
        action = self.state.outstanding
        if self.state.actions != before.actions and action is not None:
            self._write(ActionLine(self.state.now, action))
            self._performing = self._group.create_task(self._perform(action, self.state.actions))
        if self.state.ping is not before.ping:
            self._ping(self.state.ping)
        if before.busy and not self.state.busy:
            self._conclude()
        if isinstance(event, QmpEvent) and event.name == "DEVICE_DELETED":
            self._begin(workflow.to_heal(self.state))

    def _write(self, line: Any) -> None:
        if self._journal is not None:
            self._journal.write(line)

    def _tell_phases(self, before: State) -> None:
        known = len(before.work.timeline) if before.work and self.state.work is not before.work else 0
        work = self.state.work
        if work is None or work is before.work:
            return
        if before.work is not None and before.work.started != work.started:
            known = 0
        for phase, at in work.timeline[known:]:
            self._write(PhaseLine(at, phase))
            self._record(at, "phase", {"phase": phase, "status": work.status})

    def _record(self, at: float, kind: str, data: dict[str, Any]) -> None:
        self._records += 1
        self._log.append(Record(self._records, at, kind, data))

    def show(self) -> None:
        """Publish what it knows."""
        journal = str(self._journal.path) if self._journal and self._journal.path else ""
        self._publish(VmView(self.state, tuple(self._log), journal, self.name))

    def _conclude(self) -> None:
        work = self.state.work
        if work is not None and work.outcome is not None:
            self._write(EndLine(self.state.now, work.outcome))
        self._tidy_up()
        self._begin(workflow.follow_up(self.state))

    def _begin(self, options: Options | None) -> None:
        """What the end of one workflow, or an event after it, asks for by itself."""
        if options is not None:
            self._inbox.put_nowait(Wish(_now(), options, time.time()))

    def _tidy_up(self) -> None:
        self._ping(None)
        if self._journal is not None:
            self._journal.close()
        if self._partial is not None:
            self._partial.close()
            self._partial = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._stop = store.StopFlag()

    # --- the monitor ----------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        """Connect; after a break, connect again while the process lives and a workflow is under way."""
        pause = RECONNECT_EVERY
        try:
            while True:
                await self._wanted.wait()
                began = _now()
                why = await self._one_connection()
                link = Link.LOST if self._alive() else Link.GONE
                self._inbox.put_nowait(Disconnected(_now(), link, why if self._wanted.is_set() else GIVEN_BACK))
                await self._wanted.wait()
                pause = RECONNECT_EVERY if _now() - began > RECONNECT_SELDOM else min(pause * 2, RECONNECT_SELDOM)
                await self._pause(pause)
        finally:
            await self._hang_up()

    async def _pause(self, seconds: float) -> None:
        """Until it is time to connect again: soon where a workflow needs the monitor, or comes to need it."""
        until = _now() + seconds
        while (left := until - _now()) > 0:
            await asyncio.sleep(RECONNECT_EVERY if self.state.busy else min(left, 1.0))
            if self.state.busy:
                return

    async def _one_connection(self) -> str:
        """One connection from greeting to end; why it ended, in words."""
        monitor = Monitor(self.address, self._on_message)
        try:
            if self.state.busy or not self._inbox.empty():
                await monitor.connect()
            else:
                async with self._gate:
                    await monitor.connect()
        except Unreachable as error:
            self._ask_what_was_held()
            return str(error)
        if not self._wanted.is_set():
            return await monitor.close()
        self._monitor = monitor
        self._peer = monitor.peer if monitor.peer and monitor.peer.is_qemu else self.known_process
        self._inbox.put_nowait(self._greeted(monitor))
        self._ask_what_was_held()
        return await monitor.closed()

    def _ask_what_was_held(self) -> None:
        held, self._held = self._held, []
        for request in held:
            self._inbox.put_nowait(_wished(request, _now()))

    def _greeted(self, monitor: Monitor) -> Connected:
        peer = self._peer
        return Connected(
            at=_now(),
            version=monitor.version,
            package=monitor.package,
            fd_passing=monitor.fd_passing,
            pid=peer.pid if peer else 0,
            argv=_json_safe(peer.argv) if peer else (),
            start_time=peer.start_time if peer else 0,
        )

    def _alive(self) -> bool:
        """Where the peer's process is not known (tcp), it counts as alive."""
        return self._peer is None or process_alive(self._peer.pid, self._peer.start_time)

    async def _hang_up(self) -> None:
        if self._monitor is not None:
            await self._monitor.close()

    def _on_message(self, direction: str, message: Mapping[str, Any]) -> None:
        """Every message on the wire, in wire order: events and replies go into the one inbox."""
        now = _now()
        self._record(now, "qmp", {"dir": direction, "msg": _abridged(message)})
        if direction == "send":
            self._reply_id = message.get("id")
        elif "event" in message:
            data = message.get("data")
            event = QmpEvent(now, str(message["event"]), dict(data) if isinstance(data, dict) else {})
            self._inbox.put_nowait(event)
        elif self._reply_id is not None and message.get("id") == self._reply_id:
            self._on_reply(message, now)

    def _on_reply(self, message: Mapping[str, Any], now: float) -> None:
        action, self._reply_id = self.state.outstanding, None
        if not isinstance(action, Command):
            return
        error = message.get("error")
        if isinstance(error, dict):
            text = printable(str(error.get("desc", "")), 500)
            self._inbox.put_nowait(Refused(now, text, str(error.get("class", ""))))
            return
        try:
            self._inbox.put_nowait(Answered(now, commands.understand(action, message.get("return"))))
        except (ValueError, TypeError, KeyError, AttributeError) as reason:
            text = f"a reply that makes no sense: {printable(str(reason), 200)}"
            self._inbox.put_nowait(Refused(now, text, "BadReply"))

    # --- actions --------------------------------------------------------------------------------------------------

    async def _perform(self, action: Action, number: int) -> None:
        try:
            if isinstance(action, Command):
                await self._execute(action)
                return
            event: AnyEvent = Answered(_now(), await self._do(action))
        except TimeoutError:
            event = Unknown(_now(), f"no answer within {action.timeout:g} s" if isinstance(action, Command) else "")
        except ConnectionError:
            return  # the connection's own end says so, in its place among the events
        except (StoreError, RefusedError, StreamInterrupted) as error:
            event = Refused(_now(), str(error), type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the edge of an action: whatever broke, the VM is put back
            event = Refused(_now(), f"internal error: {type(error).__name__}: {error}", "Internal")
        if number == self.state.actions:
            self._reply_id = None
            self._inbox.put_nowait(event)

    def _ping(self, ping: Ping | None) -> None:
        """Ask the guest's agent this, or nothing any more. Nothing waits for it."""
        if self._pinging is not None:
            self._pinging.cancel()
        self._pinging = self._group.create_task(self._ask_agent(ping)) if ping is not None else None

    async def _ask_agent(self, ping: Ping) -> None:
        listens = self._monitor.peer if self._monitor is not None else None
        pids = {self.state.vm.pid, *([listens.pid] if listens is not None else [])}
        answered, why_not = False, ""
        try:
            answered = await agent.answers(ping.path, ping.id, pids)
        except Unreachable as error:
            why_not = str(error)
        except Exception as error:  # noqa: BLE001 - the edge of a question that nothing rests on
            why_not = f"internal error: {printable(repr(error), 200)}"
        self._inbox.put_nowait(Pinged(_now(), ping.id, answered, why_not))

    async def _execute(self, command: Command) -> None:
        """Send it. The reply comes by `_on_message`."""
        monitor = self._monitor
        if monitor is None:
            raise ConnectionError("the monitor is not connected")
        if self._journal is not None and command.learns is None and not self._journal.committed:
            self._take_lock()
            with suppress(StoreError):  # a full disk must not keep a stopped guest from running
                self._commit_intent()
        fd = self._file_for(command)
        lock = None if command.learns is not None or self.state.busy else self._new_lock()
        try:
            await monitor.execute(command.execute, command.arguments, command.timeout, fd)
        finally:
            if lock is not None:
                lock.release()
            if command.fd is Fd.BROKEN_PIPE:
                close_quietly(fd)

    def _file_for(self, command: Command) -> int | None:
        if command.fd is Fd.BROKEN_PIPE:
            return broken_pipe()
        return self._partial.emptied() if command.fd is Fd.STATE and self._partial else None

    async def _do(self, action: Action) -> commands.Learned | None:
        match action:
            case Survey(path, makes_directory):
                resident = self._resident()
                return Surveyed(
                    await asyncio.to_thread(store.survey, Path(path), resident, makes_directory=makes_directory)
                )
            case Reserve(path):
                await asyncio.to_thread(self._reserve, Path(path))
            case Verify(dump):
                return Read(await asyncio.to_thread(self._verify, dump=dump))
            case Publish():
                partial, value = self._the_partial(), manifest(self.state, self._host())
                await asyncio.to_thread(partial.publish, value)
            case Discard():
                await asyncio.to_thread(self._the_partial().discard)
        return None

    def _reserve(self, path: Path) -> None:
        """Lock, partial file, then the intent on the disk: only after this may anything be changed."""
        self._take_lock()
        self._partial = partial = store.Partial(path)
        try:
            self._commit_intent()
        except StoreError:
            partial.discard()
            raise

    def _take_lock(self) -> None:
        self._lock = self._lock or self._new_lock()

    def _new_lock(self) -> store.VmLock:
        """Nobody changes a VM that another vmtui works on: not a setting either, which that one would put back."""
        return store.VmLock(lock_key(self._peer.pid if self._peer else 0, str(self.address)))

    def _commit_intent(self) -> None:
        work = self.state.work
        if self._journal is None or work is None:
            return
        baseline = msgspec.to_builtins(work.baseline)
        inode = self._partial.inode if self._partial is not None else None
        self._journal.write(BaselineLine(_now(), msgspec.to_builtins(work.options), baseline, inode))
        self._journal.commit(self.state.vm.name or self.state.vm.uuid)

    def _verify(self, *, dump: bool) -> Any:
        began = time.monotonic()
        report = self._the_partial().verify(self._stop, dump=dump)
        return msgspec.structs.replace(report, seconds=round(time.monotonic() - began, 6))

    def _the_partial(self) -> store.Partial:
        if self._partial is None:
            raise StoreError("there is no partial file any more")
        return self._partial

    def _resident(self) -> int:
        """Memory that QEMU's process holds now (VmRSS and what it shares with files), or 0."""
        if not self._peer or not self._peer.is_qemu:  # what a simulated VM's process holds is not its guest's
            return 0
        try:
            pages = int(Path(f"/proc/{self._peer.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _host(self) -> Host:
        peer = self._peer
        host = Host(
            hostname=socket.gethostname(),
            vmtui=__version__,
            created=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        )
        if peer is None:
            return host
        safe = _json_safe((peer.exe, peer.cwd))
        return msgspec.structs.replace(
            host,
            executable=safe[0],
            cwd=safe[1],
            launcher=_json_safe(peer.launcher),
            environment=peer.environment,
        )


def _wished(request: VmRequest, now: float) -> AnyEvent:
    match request:
        case Begin(_, options):
            return Wish(now, options, time.time())
        case CancelWish(_, text, dump):
            return Cancel(now, text, dump)
        case TuneWish(_, parameters, capabilities):
            return Tune(now, parameters, capabilities)
        case WaitWish(_, seconds):
            return KeepWaiting(now, seconds)
        case LetRunWish():
            return LetRun(now)
        case WatchWish(_, closely):
            return Watch(now, closely)


def finished(view: VmView | None) -> bool:
    """Whether the workflow of a VM has ended, and what follows it too."""
    if view is None or view.state.work is None or view.state.work.phase is not Phase.DONE:
        return False
    return workflow.follow_up(view.state) is None


def _now() -> float:
    """Seconds of the clock that asyncio's own loop goes by; callable from any thread."""
    return time.monotonic()


def _abridged(message: Mapping[str, Any]) -> dict[str, Any]:
    """`message` without its bulk: a schema or a device tree is 200 kB and tells a reader of the log nothing."""
    kept = dict(message)
    if len(msgspec.json.encode(kept)) <= LARGE_MESSAGE:
        return kept
    sizes = {name: len(msgspec.json.encode(kept[name])) for name in _MEMBERS if name in kept}
    return {name: kept[name] if size <= LARGE_MESSAGE else f"... {size} bytes" for name, size in sizes.items()}


_MEMBERS = ("QMP", "execute", "arguments", "return", "error", "event", "data", "timestamp", "id")


def _json_safe(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Command lines may hold bytes that are no UTF-8; JSON cannot."""
    return tuple(word.encode("utf-8", "backslashreplace").decode() for word in argv)
