"""How does a simulated VM become a QMP monitor that any client may talk to?

The twin (`core.sim`) says what QEMU would say; here are the sockets, the clock and the files. As with QEMU: one client at
a time for each monitor, and the next one waits without a greeting; a stream of JSON values, not lines; descriptors over the
socket, which are really written; a file is complete before the event that says so.

No task and no thread per VM: a VM that nobody talks to costs nothing. While something is being written the twin's clock
stands still, so that a slow disk makes the save slow, and nothing else wrong.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtui.backend.core.errors import StoreError, UsageError
from vmtui.backend.core.sim import FaultyWire, Profile, SimulatedVm
from vmtui.backend.core.sim.machine import EPOCH, Machine
from vmtui.backend.core.sim.migration import Migration
from vmtui.backend.core.sim.played import PlayedVm, Story
from vmtui.backend.core.sim.qjson import Bad, JsonReader
from vmtui.backend.core.sim.savefile import SaveFile
from vmtui.backend.core.sim.scenario import When
from vmtui.backend.core.sim.scenarios import World
from vmtui.backend.core.sim.shapes import uuid
from vmtui.backend.discovery import connectable_path, process
from vmtui.backend.schemas import command_schema, raw_schema
from vmtui.backend.sim_writer import DumpFile, File, StreamFile, Target, kind_of
from vmtui.backend.simulated import Body, Record, command_line, write_record

TICK = 0.02
"""Seconds between two looks at how much has been written."""
FILE_LIMIT = 256 << 20
"""Bytes that a saved file has at most, about: a larger guest's file holds a part of its pages."""
RECEIVE = 1 << 18
UNREAD_LIMIT = 64 << 20
"""Bytes that a client may leave unread before it is hung up on."""
FLOOD_LIMIT = 1 << 20
_MEMBERS = frozenset({"execute", "arguments", "id"})
_TAKES_FD = frozenset({"getfd", "add-fd"})
_WRITABLE = frozenset({"fd", "file"})
_FLOWING = frozenset({"active", "pre-switchover", "device"})

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """A VM to be served."""

    name: str
    profile: Profile
    world: World
    path: Path
    """Of its socket."""
    story: Story | None = None
    """A journal whose QEMU it plays, instead of living in `world`."""
    monitor: Path | None = None
    """Of a second monitor's socket, to look through while a client holds the first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all VMs of a server."""

    speed: float = 1.0
    """Seconds of the twins for each of ours."""
    file_limit: int = FILE_LIMIT


async def serve(
    specs: Sequence[Spec],
    settings: Settings,
    ready: Callable[[Record], None],
    stop: asyncio.Event,
    *,
    ends_with_last: bool = True,
) -> None:
    """Serve all of these until `stop` is set or the last has ended. Raises StoreError, UsageError: then none is left."""
    lifeline, held = os.pipe()
    qemus: list[Qemu] = []

    def one_ended() -> None:
        if ends_with_last and len(qemus) == len(specs) and all(qemu.ended for qemu in qemus):
            stop.set()

    try:
        for spec in specs:
            qemus.append(Qemu(spec, settings, one_ended))
            ready(qemus[-1].start(lifeline))
        await stop.wait()
    finally:
        for qemu in qemus:
            await qemu.close()
        os.close(lifeline)
        os.close(held)


class Clock:
    """The twin's time: `speed` times ours, and it can be held."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._began = time.monotonic()
        self._held: float | None = None
        self.wall = time.time()

    def now(self) -> float:
        return (time.monotonic() - self._began) * self.speed if self._held is None else self._held

    def hold(self, at: float) -> None:
        """It is `at`, and stays so."""
        self._held = at

    def release(self) -> None:
        if self._held is not None:
            self._began = time.monotonic() - self._held / self.speed
            self._held = None


class Qemu:
    """One simulated VM behind one socket. Use `start`, and always `close`; `on_end` is called when QEMU has ended."""

    def __init__(self, spec: Spec, settings: Settings, on_end: Callable[[], None] = lambda: None) -> None:
        self.spec = spec
        self.vm = _vm(spec)
        self._wire = FaultyWire(self.vm, *spec.world.faults)
        self._behaviour = spec.world.behaviour
        self._clock = Clock(settings.speed)
        self._files = _Files(self.vm, settings.file_limit)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._job: asyncio.Future[dict[int | str, str]] | None = None
        self._listener: socket.socket | None = None
        self._client: _Client | None = None
        self._second: _SecondMonitor | None = None
        self._agent: _AgentChannel | None = None
        self._body: Body | None = None
        self._record: Path | None = None
        self._drop_at: When | None = self._behaviour.drops
        self._back_at = 0.0
        self._mute = self._behaviour.mute
        self._muted: list[object] = []
        """Ids of commands whose replies are swallowed."""
        self._held: list[bytes] = []
        """What is to be said once what is being written is written."""
        self._holds = False
        self._state = ("", "")
        self._flooded = 0.0
        self.ended = False
        self._on_end = on_end

    # --- beginning and end

    def start(self, lifeline: int) -> Record:
        """Listen, and tell the host. Raises StoreError, UsageError."""
        path, vm = str(self.spec.path), self.vm
        try:
            self._listener = _listening(path)
            sockets = [path]
            if self.spec.monitor is not None:
                self._second = _SecondMonitor(self.spec.monitor, self.vm, self._loop, self._answer_second)
                sockets.append(str(self.spec.monitor))
            if vm.scenario.agent:
                vm.agent_path = f"{path}.agent"
                self._agent = _AgentChannel(vm, self._loop, self._turn)
            machine = machine_of(vm)
            devices = (*vm.scenario.panic_words, *card_words(vm), *vm.scenario.agent_words(vm.agent_path))
            words = command_line(vm.name, uuid(vm), machine, vm.ram, sockets, devices)
            self._body = Body(lifeline, words)
            peer = process(self._body.pid)
            start_time = peer.start_time if peer else 0
            second = str(self.spec.monitor or "")
            record = Record(vm.name, uuid(vm), path, machine, vm.ram, self._body.pid, start_time, second)
            self._record = write_record(record)
        except OSError as error:
            raise StoreError(f"cannot serve {path}: {os.strerror(error.errno or 0)}") from error
        self._loop.add_reader(self._body.pidfd, self._killed)
        self._listen()
        self._turn()
        return record

    async def close(self) -> None:
        """End, and leave nothing."""
        self._die()
        for path in self._paths:
            path.unlink(missing_ok=True)
        if self._job is not None:
            await self._job
        self._files.close()

    @property
    def _paths(self) -> tuple[Path, ...]:
        """Of the sockets that it has made."""
        agent = Path(self.vm.agent_path) if self._agent else None
        made = self.spec.path if self._listener else None, self.spec.monitor if self._second else None, agent
        return tuple(path for path in made if path is not None)

    def _killed(self) -> None:
        """A QEMU that is killed leaves its sockets behind, with nobody there."""
        self._die(leaving_sockets=True)

    def _die(self, *, leaving_sockets: bool = False) -> None:
        """QEMU is gone: its monitors' connections break last, so that whoever looks then sees that it has ended."""
        if self.ended:
            return
        self.ended = True
        if self._body is not None:
            self._loop.remove_reader(self._body.pidfd)
            self._body.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._record is not None:
            self._record.unlink(missing_ok=True)
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for path in () if leaving_sockets else self._paths:
            path.unlink(missing_ok=True)
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._second is not None:
            self._second.close()
        if self._agent is not None:
            self._agent.close()
        if self._job is None:
            self._files.close()
        self._on_end()

    # --- the clock

    def _turn(self) -> None:
        """Let the twin catch up with the clock, say what it says, and see when it is needed next."""
        if self.ended:
            return
        self._catch_up()
        self._settle()

    def _settle(self) -> None:
        self._say_all()
        if self._job is not None:
            return  # what is being written calls again
        if not self.vm.alive:
            self._die(leaving_sockets=self.vm.killed)
            return
        self._files.tidy()
        self._schedule()

    def _catch_up(self) -> None:
        """Timer by timer, for what one of them does must be written before the next one may tell of it."""
        now = self._clock.now()
        while self._job is None and (due := self._wire.next_at()) is not None and due <= now:
            if self._files.ends_with_next_timer() and self._write():
                return
            self._wire.advance(due)
            self._look()
        if self._job is None:
            self._wire.advance(now)
            self._look()

    def _look(self) -> None:
        """What has just happened, and does the world hang anything on it?"""
        self._write()
        state = (self.vm.migration_status, self.vm.runstate)
        entered = [word for word, before in zip(state, self._state, strict=True) if word != before]
        self._state = state
        if isinstance(self.vm, PlayedVm) and self.vm.hangs_up and self.vm.alive:
            self.vm.hangs_up = False
            self._say_all()
            self._drop()
        at = self._drop_at
        if at is not None and (at in entered if isinstance(at, str) else self.vm.now >= at):
            self._drop_at = None
            self._say_all()
            self._drop()

    def _drop(self) -> None:
        """The monitor breaks, and is not there for a while."""
        self._back_at = self.vm.now + self._behaviour.back_after
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
        self._hang_up()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.now()
        due = [self._wire.next_at(), self._back_at if self._back_at > now else None]
        due.append(None if isinstance(self._drop_at, str) else self._drop_at)
        delays = [max(at - now, 0) / self._clock.speed for at in due if at is not None]
        if self._files.writing or self._floods:
            delays.append(TICK)
        if delays:
            self._timer = self._loop.call_later(min(delays), self._timed)

    def _timed(self) -> None:
        self._timer = None
        if self._back_at and self._clock.now() >= self._back_at:
            self._back_at = 0.0
            self._listen()
        if self._floods:
            self._flood()
        self._turn()

    # --- files

    def _write(self) -> bool:
        """Begin to write what the twin has written; true if there is anything. Until it is done, the clock stands."""
        if self._job is None and self._files.collect():
            self._holds |= self._files.ending
            self._clock.hold(self.vm.now)
            self._job = self._loop.run_in_executor(None, self._files.work)
            self._job.add_done_callback(self._written)
        return self._job is not None

    def _written(self, job: "asyncio.Future[dict[int | str, str]]") -> None:
        self._job = None
        self._files.worked(job.result())
        if self.ended:
            self._files.close()
        elif not self._write():
            self._clock.release()
            self._holds = False
            self._send(b"".join(self._held))
            self._held.clear()
            if self._second is not None:
                self._second.release()
            self._settle()  # and let some time pass before more is written

    # --- the client

    def _listen(self) -> None:
        """Take the next client, if there may be one."""
        if self._listener is not None and self._client is None and not self._behaviour.busy and not self._back_at:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is left: the client waits
            self._loop.remove_reader(self._listener)
            self._loop.call_later(0.1, self._listen)
            return
        self._loop.remove_reader(self._listener)
        self._client = _Client(sock, self._loop, self._receive, self._hang_up)
        self._wire.connect(self._clock.now())
        self._turn()

    def _hang_up(self) -> None:
        if self._client is None:
            return
        self._client.close()
        self._client = None
        self._held.clear()
        self._muted.clear()
        self._wire.disconnect(self.vm.now)
        self._listen()
        self._loop.call_soon(self._turn)

    def _receive(self, values: Sequence[Any]) -> None:
        for value in values:
            if self._client is None or not self.vm.alive:
                break  # what came behind `quit` in one piece is for nobody, and that QEMU has ended is seen below
            self._catch_up()
            self._take(value)
            self._look()
            self._say_all()
        self._turn()

    def _take(self, value: Any) -> None:
        complaint = _complaint(value)
        identity = {"id": value["id"]} if isinstance(value, dict) and "id" in value else {}
        if complaint is not None:
            self._say_all()
            self._say({**identity, "error": {"class": "GenericError", "desc": complaint}})
            return
        command = value["execute"] if isinstance(value.get("execute"), str) else ""
        if command and command == self._mute:
            self._mute = ""
            self._muted.append(value.get("id"))
        if command == "query-qmp-schema" and self.vm.listening and not value.get("arguments"):
            self._say_all()
            prefix = b"".join(b'"id": %b, ' % json.dumps(value["id"]).encode() for _ in identity)
            self._out(b'{%b"return": %b}\r\n' % (prefix, raw_schema(self.vm.profile.name)))
            return
        fd = self._client.take_fd() if self._client is not None and command in _TAKES_FD else None
        if fd is None:
            self._wire.receive(value, self.vm.now)
        else:
            self._files.owns(fd)
            self._wire.receive(value, self.vm.now, fd, kind_of(fd))

    def _answer_second(self, values: Sequence[Any]) -> None:
        """What comes in at the second monitor."""
        assert self._second is not None
        for value in values:
            if not self.vm.alive:
                break
            self._catch_up()
            complaint = _complaint(value)
            if complaint is not None:
                reply: Message = {"error": {"class": "GenericError", "desc": complaint}}
            else:
                reply = self.vm.ask(value, self.vm.now)
            self._look()
            self._say_all()
            self._second.say(reply, hold=self._holds)
        self._turn()

    # --- what is said

    def _say_all(self) -> None:
        if self._second is not None:
            self._second.tell(self._stamp, hold=self._holds)
        for message in self._wire.output():
            if self._muted and "return" in message and message.get("id") in self._muted:
                self._muted.remove(message.get("id"))
            else:
                self._say(message)
        if self._client is not None and not self._wire.connected:
            self._hang_up()

    def _say(self, message: Message) -> None:
        if "timestamp" in message:
            message = {**message, "timestamp": self._stamp(message["timestamp"])}
        self._out(json.dumps(message).encode() + b"\r\n")

    def _stamp(self, stamp: dict[str, int]) -> dict[str, int]:
        """The twin's clock begins at EPOCH; a client is told the time of day."""
        since = (stamp["seconds"] - EPOCH) + stamp["microseconds"] / 1e6
        micros = round((self._clock.wall + since / self._clock.speed) * 1e6)
        return {"seconds": micros // 1_000_000, "microseconds": micros % 1_000_000}

    def _out(self, data: bytes) -> None:
        if self._holds:
            self._held.append(data)
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._client is not None and data and not self._client.send(data):
            self._hang_up()

    @property
    def _floods(self) -> bool:
        return self._behaviour.flood > 0 and self.vm.listening and self._client is not None

    def _flood(self) -> None:
        now = time.monotonic()
        count = int(min(now - self._flooded, 0.1) * self._behaviour.flood)
        if count and self._client is not None and self._client.unsent < FLOOD_LIMIT:
            self._flooded = now
            wall = time.time()
            stamp = f'{{"seconds": {int(wall)}, "microseconds": {int(wall % 1 * 1e6)}}}'
            event = (
                f'{{"timestamp": {stamp}, "event": "RTC_CHANGE", "data": {{"offset": 0, "qom-path": "/machine/rtc"}}}}\r\n'
            )
            self._out(event.encode() * count)


def _vm(spec: Spec) -> SimulatedVm:
    profile, schema = spec.profile, command_schema(spec.profile.name)
    if spec.story is not None:
        return PlayedVm(spec.story, schema)
    return SimulatedVm(profile, scenario=spec.world.scenario, ram=spec.world.ram, name=spec.name, schema=schema)


def _complaint(value: Any) -> str | None:
    """What QEMU says to what is no command at all."""
    if isinstance(value, Bad):
        return value.desc
    if not isinstance(value, dict):
        return "QMP input must be a JSON object"
    unexpected = next((member for member in value if member not in _MEMBERS), None)
    return None if unexpected is None else f"QMP input member '{unexpected}' is unexpected"


def machine_of(vm: Machine) -> str:
    major, minor, _ = vm.profile.version
    return f"pc-{'q35' if vm.scenario.q35 else 'i440fx'}-{major}.{minor}"


def _listening(path: str) -> socket.socket:
    """A socket for its owner alone. One that nobody listens on any more is replaced, as QEMU does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        with connectable_path(path) as short:
            _replace_dead(sock, short)
            sock.bind(short)
        sock.listen(1)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _replace_dead(sock: socket.socket, path: str) -> None:
    if not Path(path).is_socket():
        return
    with socket.socket(sock.family, sock.type) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise UsageError(f"somebody listens on {path} already")


class _Client:
    """One connection: bytes to values, values to bytes, and the descriptors that came with them."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[[Sequence[Any]], None],
        hang_up: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._receive = receive
        self._hang_up = hang_up
        self._reader = JsonReader()
        self._fds: list[int] = []
        self._unsent = bytearray()
        self._open = True
        loop.add_reader(sock, self._readable)

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def take_fd(self) -> int | None:
        """The next descriptor that no command has taken."""
        return self._fds.pop(0) if self._fds else None

    def _readable(self) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(self._sock, RECEIVE, 16)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if fds:
            self._close_fds()  # QEMU keeps only those that came last
            self._fds = fds
        if not data:
            self._hang_up()
        elif values := list(self._reader.feed(data)):
            self._receive(values)

    def send(self, data: bytes) -> bool:
        """False: the client is gone, or does not read."""
        self._unsent += data
        return self._push() and len(self._unsent) < UNREAD_LIMIT

    def _push(self) -> bool:
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._writable)
            return True
        except OSError:
            return False
        self._loop.remove_writer(self._sock)
        return True

    def _writable(self) -> None:
        if not self._push():
            self._hang_up()

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._close_fds()


class _OneClient:
    """A socket that serves one client at a time; the next waits."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        """Listens. Raises OSError, UsageError."""
        self._loop = loop
        self._client: _Client | None = None
        self._listener = _listening(path)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._loop.remove_reader(self._listener)
        self._client = _Client(sock, self._loop, self._receive, self._hang_up)
        self._begun()

    def _receive(self, values: Sequence[Any]) -> None:
        raise NotImplementedError

    def _begun(self) -> None:
        """A client has come."""
        raise NotImplementedError

    def _over(self) -> None:
        """It has gone, or there was none."""
        raise NotImplementedError

    def _send(self, data: bytes) -> None:
        if self._client is not None and data and not self._client.send(data):
            self._hang_up()

    def _hang_up(self) -> None:
        self._end_client()
        self._listen()

    def _end_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._over()

    def close(self) -> None:
        self._end_client()
        self._loop.remove_reader(self._listener)
        self._listener.close()


class _SecondMonitor(_OneClient):
    """A monitor to look through while a client holds the first: commands, replies and events, no descriptors, no faults."""

    def __init__(
        self, path: Path, vm: SimulatedVm, loop: asyncio.AbstractEventLoop, receive: Callable[[Sequence[Any]], None]
    ) -> None:
        """Listens. Raises OSError, UsageError."""
        super().__init__(str(path), loop)
        self._vm = vm
        self._heard = receive
        self._held: list[bytes] = []
        """What is to be said once what is being written is written."""
        self._listen()

    def _receive(self, values: Sequence[Any]) -> None:
        self._heard(values)

    def _begun(self) -> None:
        self.say(self._vm.greeting(), hold=False)

    def _over(self) -> None:
        self._held.clear()
        self._vm.watched = False
        self._vm.overheard.clear()

    def tell(self, stamp: Callable[[dict[str, int]], dict[str, int]], *, hold: bool) -> None:
        """The events since this was last called, with the time of day."""
        events, self._vm.overheard = self._vm.overheard, []
        for event in events:
            self.say({**event, "timestamp": stamp(event["timestamp"])}, hold=hold)

    def say(self, message: Message, *, hold: bool) -> None:
        self._held.append(json.dumps(message).encode() + b"\r\n")
        if not hold:
            self.release()

    def release(self) -> None:
        """Say what was held."""
        data, self._held = b"".join(self._held), []
        self._send(data)


class _AgentChannel(_OneClient):
    """The guest agent's channel: one client at a time. Of what an agent can do the guest knows guest-sync."""

    def __init__(self, vm: SimulatedVm, loop: asyncio.AbstractEventLoop, catch_up: Callable[[], None]) -> None:
        """Listens. `catch_up` brings the twin to the present. Raises OSError, UsageError."""
        super().__init__(vm.agent_path, loop)
        self._vm = vm
        self._catch_up = catch_up
        if not vm.scenario.agent_in_use:
            self._listen()

    def _begun(self) -> None:
        self._vm.agent_in_use = True

    def _over(self) -> None:
        self._vm.agent_in_use = self._vm.scenario.agent_in_use

    def _receive(self, values: Sequence[Any]) -> None:
        self._catch_up()
        for value in values:
            match value:
                case {"execute": "guest-sync", "arguments": {"id": int(number)}} if self._vm.agent_answers():
                    self._send(b'{"return": %d}\n' % number)


class _Files:
    """Every file that a twin writes, and every descriptor that it holds."""

    def __init__(self, vm: SimulatedVm, limit: int) -> None:
        self._vm = vm
        self._limit = limit
        self._files: dict[int | str, File] = {}
        self._failed: set[int | str] = set()
        self._last: set[int | str] = set()
        self.owned: set[int] = set()
        """Descriptors that clients passed."""

    def owns(self, fd: int) -> None:
        self.owned.add(fd)

    @property
    def writing(self) -> bool:
        vm = self._vm
        streams = vm.migration is not None and vm.migration.copies and vm.migration.target.scheme in _WRITABLE
        return streams or (vm.dumping and vm.dump.target.scheme in _WRITABLE)

    @property
    def ending(self) -> bool:
        """The twin has closed a file: it says so only when that is true."""
        return bool(self._last)

    @property
    def finished(self) -> bool:
        """All that will be in some file is due, or written."""
        return any(file.finished for file in self._files.values())

    def ends_with_next_timer(self) -> bool:
        """What is said to be complete with the same timer that ends it: everything is due before."""
        return self._background_ends() or self._dump_ends()

    def _dump_ends(self) -> bool:
        vm = self._vm
        if not vm.dumping or vm.dump.target.scheme not in _WRITABLE or vm.dump.target.limit is not None:
            return False
        return vm.next_at() == vm.timers["dump"] and not self._is_finished(vm.dump.target.target)

    def _background_ends(self) -> bool:
        vm, migration = self._vm, self._vm.migration
        if migration is None or not migration.background or not migration.runs or "pass" not in vm.timers:
            return False
        return vm.next_at() == vm.timers["pass"] and not self._is_finished(migration.target.target)

    def collect(self) -> bool:
        """Take over what the twin has written; true if there is something to do for `work`."""
        for write in self._vm.writes():
            if write.scheme not in _WRITABLE:
                continue
            if write.last:
                self._last.add(write.target)
            if write.size and write.target not in self._failed and not self._is_finished(write.target):
                self._file(write.target, write.kind).sent(write.size)
        self._finish()
        return any(file.due and self._is_open(where, file) for where, file in self._files.items())

    def _is_finished(self, where: int | str) -> bool:
        file = self._files.get(where)
        return file is not None and file.finished

    def _is_open(self, where: int | str, file: File) -> bool:
        """Not one that was given up while a pipe's reader was waited for."""
        vm = self._vm
        if isinstance(file, DumpFile):
            return where in self._last or vm.dumping
        flows = vm.migration is not None and vm.migration.status in (*_FLOWING, "completed")
        return flows and vm.migration is not None and vm.migration.target.target == where

    def _file(self, where: int | str, kind: str) -> File:
        file = self._files.get(where)
        if file is None:
            file = self._files[where] = self._stream(where) if kind == "stream" else self._dump(where)
        return file

    def _stream(self, where: int | str) -> StreamFile:
        vm = self._vm
        size = vm.migration.stream.size if vm.migration is not None else 0.0
        save = SaveFile(machine_of(vm), vm.ram, cards=len(vm.cards), option_rom=vm.scenario.option_rom)
        return StreamFile(Target(where, 0o600), save, min(1.0, self._limit / size) if size else 1.0)

    def _dump(self, where: int | str) -> DumpFile:
        dump = self._vm.dump
        share = min(1.0, self._limit / dump.total) if dump.total else 1.0
        return DumpFile(Target(where, 0o400), dump.format, dump.total, share)

    def _finish(self) -> None:
        """The VM stands and the rest goes out: write it all now, before anybody may say that it is done."""
        if self._dump_ends() and self._vm.dump.target.target not in self._failed:
            self._file(self._vm.dump.target.target, "dump").finish("", 0)
        vm, migration = self._vm, self._vm.migration
        if migration is None or migration.status not in _FLOWING or migration.target.scheme not in _WRITABLE:
            return
        where, limit, stream = migration.target.target, migration.target.limit, vm.settled_stream()
        if where in self._failed or self._is_finished(where) or (limit is not None and limit <= stream.sent + stream.left):
            return
        if migration.switched_at is not None or self._background_ends():
            self._file(where, "stream").finish(saved_runstate(vm, migration), int(stream.left))

    def work(self) -> dict[int | str, str]:
        """In a thread: write what is due. Returns what the system said against it. Nothing else is called meanwhile."""
        errors: dict[int | str, str] = {}
        for where, file in self._files.items():
            try:
                file.work()
            except OSError as error:
                errors[where] = os.strerror(error.errno or 0)
        return errors

    def worked(self, errors: dict[int | str, str]) -> None:
        """Tell the twin what `work` met with."""
        for where, error in errors.items():
            self._files.pop(where).target.close()
            self._failed.add(where)
            self._vm.write_failed(where, error)

    def tidy(self) -> None:
        """Close what the twin has closed, and what it holds no longer. Not while `work` is at it."""
        for where in self._last:
            if where in self._files:
                self._files.pop(where).target.close()
        self._failed -= self._last
        self._last.clear()
        for fd in self.owned - self._held_by_twin():
            self.owned.remove(fd)
            os.close(fd)

    def _held_by_twin(self) -> set[int]:
        vm = self._vm
        held = {fd.number for fd in vm.fds.values()}
        held |= {fd.number for entries in vm.fdsets.values() for fd, _, _ in entries}
        if vm.migration is not None and vm.migration.runs and isinstance(vm.migration.target.target, int):
            held.add(vm.migration.target.target)
        if vm.dumping and isinstance(vm.dump.target.target, int):
            held.add(vm.dump.target.target)
        return held

    def close(self) -> None:
        for file in self._files.values():
            file.target.close()
        self._files.clear()
        while self.owned:
            os.close(self.owned.pop())


def card_words(vm: SimulatedVm) -> tuple[str, ...]:
    """What a command line says of its failover primaries."""
    given = (
        f"e1000e,id={card.id},bus={card.bus},netdev={card.netdev},mac={card.mac},rombar=0,romfile=,"
        f"failover_pair_id={card.standby}"
        for card in vm.cards
    )
    return tuple(word for words in given for word in ("-device", words))


def saved_runstate(vm: SimulatedVm, migration: Migration) -> str:
    """The run state that the stream says the VM had: whether it was running, before the migration itself stopped it."""
    if vm.runstate != "finish-migrate":
        return vm.runstate
    return migration.old_state or "running"
