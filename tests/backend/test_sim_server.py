"""The simulated server speaks QMP as QEMU does, writes real files, and lives on whatever its clients do."""

import asyncio
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from vmtui.backend.core.fleet import Begin, Fleet, VmView
from vmtui.backend.core.model import Options
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import PROFILES, STOCK_7_2, STOCK_10_0, STOCK_11_1, Profile
from vmtui.backend.core.sim.qjson import JsonReader
from vmtui.backend.core.sim.scenarios import BY_NAME, SCENARIOS, World, world
from vmtui.backend.discovery import Address, discover, process, process_alive
from vmtui.backend.engine import Engine, finished
from vmtui.backend.sim_server import Settings, Spec, serve
from vmtui.backend.simulated import Record
from vmtui.backend.stream import read_stream
from vmtui.simulate import read_story, varied

VMTUI = (sys.executable, "-m", "vmtui")
Message = dict[str, Any]


class Server:
    """`with Server(tmp_path, world) as server:` serves until the block ends, in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        made: World | None = None,
        *,
        profile: Profile = STOCK_10_0,
        speed: float = 50.0,
        count: int = 1,
        file_limit: int = 4 << 20,
        specs: Sequence[Spec] = (),
    ) -> None:
        made = made or World()
        numbered = [Spec(f"vm{number}", profile, made, folder / f"vm{number}.qmp") for number in range(1, count + 1)]
        self.specs = list(specs) or numbered
        self.settings = Settings(speed, file_limit)
        self.records: list[Record] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.specs, self.settings, self._one_is_ready, self._stop, ends_with_last=False)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def _one_is_ready(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) == len(self.specs):
            self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def path(self) -> Path:
        return self.specs[0].path

    def client(self, *, negotiate: bool = True) -> "Client":
        return Client(self.path, negotiate=negotiate)


class Client:
    """A client that knows nothing of vmtui: bytes out, JSON values in."""

    def __init__(self, path: Path, *, negotiate: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))  # waits where others wait already
        self.sock.settimeout(20)
        self._reader = JsonReader()
        self._values: list[Message] = []
        if negotiate:
            self.greeting = self.next()
            assert self.ask("qmp_capabilities") == {"return": {}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.sock.close()

    def next(self) -> Message:
        """The next value; EOFError when the server has hung up."""
        while not self._values:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            for value in self._reader.feed(data):
                assert isinstance(value, dict)
                self._values.append(value)
        return self._values.pop(0)

    def send(self, data: bytes, fd: int | None = None) -> None:
        socket.send_fds(self.sock, [data], [] if fd is None else [fd])

    def ask(self, execute: str, arguments: Message | None = None, *, fd: int | None = None, **more: Any) -> Message:
        """Send a command and return its reply; events before it are passed over."""
        message = {"execute": execute, **({"arguments": arguments} if arguments else {}), **more}
        self.send(json.dumps(message).encode(), fd)
        while "event" in (reply := self.next()):
            pass
        return reply

    def until(self, event: str, **data: Any) -> Message:
        while True:
            message = self.next()
            if message.get("event") == event and data.items() <= message.get("data", {}).items():
                return message

    def listens_to_migrations(self) -> Self:
        self.ask("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
        return self


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")  # noqa: PTH208 - names are what is compared


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before
    assert not [each for each in tmp_path.glob("*") if each.name.startswith("vm") and each.suffix in (".qmp", ".sim")]


def error(desc: str, name: str = "GenericError", **more: Any) -> Message:
    return {**more, "error": {"class": name, "desc": desc}}


# --- QMP, as QEMU speaks it -------------------------------------------------------------------------------------------


def test_what_comes_in_one_piece_behind_quit_does_not_hide_that_qemu_has_ended(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        client.send(b'{"execute": "quit"}{"execute": "query-name"}')
        with pytest.raises(EOFError):
            while True:
                client.next()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_greeting_says_which_qemu_it_is(tmp_path: Path, profile: Profile) -> None:
    major, minor, micro = profile.version
    with Server(tmp_path, profile=profile) as server, server.client() as client:
        version = {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": profile.package}
        assert client.greeting == {"QMP": {"version": version, "capabilities": ["oob"]}}


def test_nothing_but_negotiation_is_taken_before_negotiation(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client(negotiate=False) as client:
        client.next()
        refused = error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
        assert client.ask("query-status") == refused
        assert client.ask("query-qmp-schema") == refused
        assert client.ask("qmp_capabilities") == {"return": {}}
        assert client.ask("query-name") == {"return": {"name": "vm1"}}


def test_a_message_may_come_in_any_pieces_and_several_in_one(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        for byte in b'{ \'execute\' : "query-name", "id": 7 }':
            client.send(bytes((byte,)))
        assert client.next() == {"id": 7, "return": {"name": "vm1"}}
        client.send(b'{"execute":"query-name","id":[1,{"a":null}]}{"execute":"query-name","id":"b"} ')
        assert [client.next()["id"], client.next()["id"]] == [[1, {"a": None}], "b"]


@pytest.mark.parametrize(
    ("data", "desc"),
    [
        (b"foo\n", "JSON parse error, invalid keyword 'foo'"),
        (b"]", "JSON parse error, expecting value"),
        (b'"abc"', "QMP input must be a JSON object"),
        (b"12\n", "QMP input must be a JSON object"),
        (b"[1]", "QMP input must be a JSON object"),
        (b'{"a" 1}', "JSON parse error, missing : in object pair"),
        (b'{"a":1 "b":2}', "JSON parse error, expected separator in dict"),
        (b"[1 2]", "JSON parse error, expected separator in list"),
        (b"{1:2}", "JSON parse error, key is not a string in object"),
        (b"@#$ \n", "JSON parse error, stray '@'"),
        (b"\xff", "JSON parse error, stray '\\uFFFD'"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute":1}', "QMP input member 'execute' must be a string"),
        (b'{"execute":["stop"]}', "QMP input member 'execute' must be a string"),
        (b'{"execute":"query-name","arguments":[]}', "QMP input member 'arguments' must be an object"),
        (b'{"execute":"query-name","control":{}}', "QMP input member 'control' is unexpected"),
        (b'{"execute":"query-name","arguments":{"a":1}}', "Parameter 'a' is unexpected"),
        (b'{"execute":"stop","arguments":{"a":1}}', "Parameter 'a' is unexpected"),
        (b"[" * 2000 + b"]" * 2000, "JSON nesting depth limit exceeded"),
    ],
)  # texts as QEMU 7.2 gave them to these bytes
def test_what_is_no_command_is_refused_in_qemus_words_and_the_next_one_taken(
    tmp_path: Path, data: bytes, desc: str
) -> None:
    with Server(tmp_path) as server, server.client() as client:
        client.send(data)
        assert client.next() == error(desc)
        client.send(b'\n{"execute":"query-name","id":"next"}')
        while (said := client.next()).get("id") != "next":
            assert said["error"]["class"] == "GenericError"
        assert said["return"] == {"name": "vm1"}


def test_an_unknown_command_is_refused_with_its_class_and_id(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        assert client.ask("foo", id=3) == error("The command foo has not been found", "CommandNotFound", id=3)


def test_the_schema_is_the_recorded_one_and_arguments_are_held_to_it(tmp_path: Path) -> None:
    with Server(tmp_path, profile=STOCK_11_1) as server, server.client() as client:
        schema = client.ask("query-qmp-schema", id="s")
        assert schema["id"] == "s"
        assert "migrate" in {each["name"] for each in schema["return"]}
        refused = client.ask("migrate-set-parameters", {"max-bandwidth": "fast"})
        assert refused == error("Parameter 'max-bandwidth' expects uint64")


def test_events_carry_the_time_of_day(tmp_path: Path) -> None:
    before = time.time()
    with Server(tmp_path) as server, server.client() as client:
        client.send(b'{"execute":"stop"}')
        stamp = client.until("STOP")["timestamp"]
    assert before - 1 <= stamp["seconds"] + stamp["microseconds"] / 1e6 <= time.time() + 1


def test_a_second_client_gets_no_greeting_until_the_first_is_gone(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        first = server.client()
        with server.client(negotiate=False) as second:
            assert first.ask("query-name") == {"return": {"name": "vm1"}}
            assert not select.select([second.sock], [], [], 0)[0]
            first.sock.close()
            assert "QMP" in second.next()


def test_a_second_monitor_shows_the_same_vm_while_a_client_holds_the_first(tmp_path: Path) -> None:
    spec = Spec("vm1", STOCK_10_0, World(), tmp_path / "vm1.qmp", monitor=tmp_path / "vm1.monitor.qmp")
    assert spec.monitor is not None
    with Server(tmp_path, specs=[spec]) as server, server.client() as first, Client(spec.monitor) as second:
        assert second.greeting == first.greeting
        assert second.ask("foo", id=1) == first.ask("foo", id=1)
        assert second.ask("qmp_capabilities") == first.ask("qmp_capabilities")
        first.ask("stop")
        assert second.until("STOP")["timestamp"]["seconds"] == pytest.approx(time.time(), abs=5)
        assert second.ask("query-status")["return"]["status"] == "paused"
        second.ask("cont")
        first.until("RESUME")
        assert second.ask("dump-guest-memory", {"paging": False, "protocol": "file:/dev/null"})["error"]
        second.send(b"foo\n")
        assert second.next() == error("JSON parse error, invalid keyword 'foo'")
        second.sock.close()
        with Client(spec.monitor, negotiate=False) as third:
            third.next()
            assert third.ask("query-name")["error"]["class"] == "CommandNotFound"
            assert third.ask("qmp_capabilities") == {"return": {}}
            assert third.ask("query-name") == {"return": {"name": "vm1"}}
            assert third.ask("quit") == {"return": {}}
            first.until("SHUTDOWN", reason="host-qmp-quit")
            with pytest.raises(EOFError):
                third.next()
        assert not server.path.exists()
        assert not spec.monitor.exists()


@pytest.mark.parametrize("nmi", [("inject-nmi", {}), ("human-monitor-command", {"command-line": "nmi"})])
def test_an_nmi_is_a_panic(tmp_path: Path, nmi: tuple[str, Message]) -> None:
    with Server(tmp_path, world(["panic-action=pause"])) as server, server.client() as client:
        client.ask("stop")
        assert "stands" in client.ask(*nmi)["error"]["desc"]
        client.ask("cont")
        assert "return" in client.ask(*nmi)
        assert client.ask("query-status")["return"]["status"] == "guest-panicked"


@pytest.mark.parametrize(("how", "reply"), [("answers", b'{"return": 7}\n'), ("silent", b"")])
def test_a_guest_agents_channel_serves_one_client_at_a_time(tmp_path: Path, how: str, reply: bytes) -> None:
    def channel() -> str:
        (found,) = [each for each in client.ask("query-chardev")["return"] if each["label"] == "agent0"]
        assert found["frontend-open"]
        return str(found["filename"])

    with Server(tmp_path, world([f"agent={how}"])) as server, server.client() as client:
        path = f"{server.path}.agent"
        assert channel() == f"disconnected:unix:{path},server=on"
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(path)
            agent.sendall(b'\xff{"execute": "guest-sync", "arguments": {"id": 7}}\n')
            while channel().startswith("disconnected"):
                pass
            agent.settimeout(10.0 if reply else 0.1)
            with suppress(TimeoutError):
                assert agent.recv(100) == reply
        while not channel().startswith("disconnected"):
            pass


# --- what it survives -------------------------------------------------------------------------------------------------


def test_a_huge_message_is_read_and_a_client_that_never_reads_is_hung_up_on(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        with server.client() as client:
            client.send(b'{"execute":"query-name","id":"')
            for _ in range(8):
                client.sock.sendall(b"x" * (1 << 20))
            client.send(b'"}')
            assert len(client.next()["id"]) == 8 << 20
        with server.client() as client, suppress(ConnectionError):
            for _ in range(2000):
                client.sock.sendall(b'{"execute":"query-qmp-schema"}' * 10)
        with server.client() as client:
            assert client.ask("query-name") == {"return": {"name": "vm1"}}


@pytest.mark.slice
def test_it_is_alive_after_a_thousand_connections_that_break_off(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for number in range(1000):
            with server.client(negotiate=False) as client:
                client.send((b"", b'{"execu', b"{}", b"\xff{", b"[" * 600)[number % 5] or b" ")
        with server.client() as client:
            assert client.ask("query-name") == {"return": {"name": "vm1"}}


def test_descriptors_that_no_command_takes_are_closed(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        before = len(descriptors())
        reading, writing = os.pipe()
        for _ in range(50):
            client.send(b" ", writing)
            client.ask("query-name", fd=writing)
        client.ask("getfd", {"fdname": "1bad"}, fd=writing)
        client.ask("getfd", {"fdname": "good"}, fd=writing)
        client.ask("closefd", {"fdname": "good"})
        os.close(writing)
        client.ask("query-name")
        assert select.select([reading], [], [], 20)[0], "a writing end is still open"
        os.close(reading)
        assert len(descriptors()) == before


def test_a_killed_body_is_a_killed_qemu(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        (record,) = server.records
        os.kill(record.pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            client.next()
        assert not process_alive(record.pid, record.start_time)
        assert server.path.exists(), "as a killed QEMU leaves it"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
            assert late.connect_ex(str(server.path)) == errno.ECONNREFUSED


def test_no_body_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    with simulated(tmp_path, "--count", "2") as (server, records):
        server.kill()
        server.wait()
        for record in records:
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(record["pid"])
                assert select.select([pidfd], [], [], 20)[0]
                os.close(pidfd)
    for leftover in tmp_path.glob("vm*"):
        leftover.unlink()


def test_a_socket_that_nobody_serves_any_more_is_taken_over_and_a_living_one_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "vm1.qmp"))
    with Server(tmp_path) as server, server.client():
        refused = run("sim", "--socket", str(server.path))
        assert refused.returncode == 2
        assert "listens" in refused.stderr


# --- files ------------------------------------------------------------------------------------------------------------


def save_by_hand(client: Client, file: Path, *, bandwidth: int = 1 << 43, stop: bool = True) -> Message:
    """Pass a file, migrate into it with the VM stopped, and wait for the end."""
    client.listens_to_migrations()
    client.ask("migrate-set-parameters", {"max-bandwidth": bandwidth})
    if stop:
        client.ask("stop")
    with file.open("wb") as opened:
        client.ask("getfd", {"fdname": "state"}, fd=opened.fileno())
    client.send(b'{"execute":"migrate","arguments":{"uri":"fd:state"}}')
    while True:
        message = client.next()
        if message.get("event") == "MIGRATION" and message["data"]["status"] in ("completed", "failed"):
            return message


NO_CARD = world(["no-failover"])


def test_a_passed_file_is_whole_before_the_event_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with Server(tmp_path, NO_CARD, file_limit=1 << 30) as server, server.client() as client:
        assert save_by_hand(client, file)["data"]["status"] == "completed"
        report = read_stream(file)
        transferred = client.ask("query-migrate")["return"]["ram"]["transferred"]
    assert (report.whole, report.trouble, report.runstate) == (True, None, "paused")
    assert report.machine == "pc-q35-10.0"
    assert report.size == pytest.approx(transferred, rel=0.02)


@pytest.mark.parametrize(("stop", "says"), [(True, "paused"), (False, "running")])
def test_the_file_says_how_the_vm_stood(tmp_path: Path, stop: bool, says: str) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        save_by_hand(client, tmp_path / "state", stop=stop)
    assert read_stream(tmp_path / "state").runstate == says


def test_a_background_snapshot_is_whole_and_says_running(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        on = [{"capability": "background-snapshot", "state": True}]
        client.ask("migrate-set-capabilities", {"capabilities": on})
        save_by_hand(client, tmp_path / "state", stop=False)
        report = read_stream(tmp_path / "state")
    assert (report.whole, report.runstate) == (True, "running")


def test_the_bandwidth_that_is_set_is_kept(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD, speed=1, file_limit=1 << 30) as server, server.client() as client:
        began = time.monotonic()
        save_by_hand(client, tmp_path / "state", bandwidth=256 << 20)
        took = time.monotonic() - began
    assert took >= (tmp_path / "state").stat().st_size / (256 << 20) * 0.8


@pytest.mark.parametrize("ram", ["16M", "256M", "64G", "1T"])
def test_a_file_is_as_large_as_its_ram_but_never_larger_than_the_limit(tmp_path: Path, ram: str) -> None:
    made = world(["no-failover", f"ram={ram}"])
    with Server(tmp_path, made, speed=10_000, file_limit=8 << 20) as server, server.client() as client:
        save_by_hand(client, tmp_path / "state")
    report = read_stream(tmp_path / "state")
    assert report.whole
    assert next(block.size for block in report.ram_blocks if block.name == "pc.ram") == made.ram
    assert report.size < (8 << 20) + (1 << 20)


def test_a_full_disk_is_told_as_qemu_tells_it_and_the_vm_runs_on(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        client.listens_to_migrations()
        with Path("/dev/full").open("wb") as full:
            client.ask("getfd", {"fdname": "state"}, fd=full.fileno())
        client.ask("migrate", {"uri": "fd:state"})
        client.until("MIGRATION", status="failed")
        assert client.ask("query-migrate")["return"]["error-desc"] == "Unable to write to file: No space left on device"
        assert client.ask("query-status")["return"]["status"] == "running"


def test_a_pipe_that_nobody_empties_can_be_cancelled_and_one_that_is_emptied_gets_it_all(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        client.listens_to_migrations()
        reading, writing = os.pipe()
        client.ask("getfd", {"fdname": "pipe"}, fd=writing)
        client.ask("migrate", {"uri": "fd:pipe"})
        client.until("MIGRATION", status="active")
        assert client.ask("query-status")["return"]["running"] is True
        client.ask("migrate_cancel")
        client.until("MIGRATION", status="cancelled")
        os.close(reading)
        reading, again = os.pipe()
        os.close(writing)
        client.ask("getfd", {"fdname": "pipe"}, fd=again)
        os.close(again)
        client.ask("migrate", {"uri": "fd:pipe"})
        with os.fdopen(reading, "rb") as pipe:
            (tmp_path / "state").write_bytes(pipe.read())
        client.until("MIGRATION", status="completed")
    assert read_stream(tmp_path / "state").whole


def test_a_path_is_opened_by_the_simulated_qemu_itself(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        client.listens_to_migrations()
        client.ask("migrate", {"uri": f"file:{tmp_path / 'state'}"})
        client.until("MIGRATION", status="completed")
    assert read_stream(tmp_path / "state").whole


def test_a_memory_dump_is_an_elf_file_of_its_own(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD) as server, server.client() as client:
        protocol = f"file:{tmp_path / 'core'}"
        assert client.ask("dump-guest-memory", {"paging": False, "protocol": protocol}) == {"return": {}}
    assert (tmp_path / "core").read_bytes()[:4] == b"\x7fELF"
    assert (tmp_path / "core").stat().st_mode & 0o777 == 0o400


def test_an_fd_set_is_written_to_on_a_qemu_that_refuses_fd(tmp_path: Path) -> None:
    with Server(tmp_path, NO_CARD, profile=STOCK_11_1) as server, server.client() as client:
        client.listens_to_migrations()
        with (tmp_path / "state").open("wb") as file:
            fdset = client.ask("add-fd", fd=file.fileno())["return"]["fdset-id"]
        client.ask("migrate", {"uri": f"file:/dev/fdset/{fdset}"})
        client.until("MIGRATION", status="completed")
        client.ask("remove-fd", {"fdset-id": fdset})
    assert read_stream(tmp_path / "state").whole


# --- vmtui against it -------------------------------------------------------------------------------------------------


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*VMTUI, *words), capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[Message]]]:
    """A `vmtui sim` process, once it serves as many as it should."""
    count = int(options[options.index("--count") + 1]) if "--count" in options else 1
    words = (*VMTUI, "sim", "--json", "--dir", str(folder), *options)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server, [json.loads(server.stdout.readline()) for _ in range(count)]
        finally:
            server.terminate()


def save(folder: Path, name: str, *options: str) -> tuple[int, Message, Path]:
    """Exit code, the result, and the file that was written or not."""
    file = folder / f"{name}.vmstate"
    words = ("save", name, "--json", "--output", str(file), *options)
    done = run(*words, VMTUI_DEMO_DIR=str(folder), XDG_STATE_HOME=str(folder / "state"))
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), file


ALONE = {"ram", "touched", "slow-disk", "flood", "reply-never"}
"""Scenarios that only set a number, and those that would disturb the others or hold them up: see below."""
IMPATIENT = {"never-ejects", "crashes", "paused-by-other"}
"""Those in which the save waits for its own time-out."""


def save_all(records: Sequence[Record], folder: Path) -> dict[str, Result]:
    """Save all of them at the same time, as `vmtui save` does, in this process."""

    async def everything() -> dict[str, Result]:
        views: dict[str, VmView] = {}
        changed = asyncio.Event()

        def take(fleet: Fleet) -> None:
            views.update(fleet.vms)
            changed.set()

        async with asyncio.timeout(60), Engine(take) as engine:
            keys = {each.name: engine.watch(Address("unix", path=each.path), process(each.pid)) for each in records}
            for name, key in keys.items():
                patience = 0.5 if name in IMPATIENT else 30.0
                engine.request(Begin(key, Options(output=str(folder / f"{name}.vmstate"), unplug_timeout=patience)))
            while not all(finished(views.get(key)) for key in keys.values()):
                changed.clear()
                await changed.wait()
        return {name: report(views[key].state) for name, key in keys.items()}

    return asyncio.run(everything())


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vmtui"


@pytest.mark.slice
@pytest.mark.usefixtures("state_home")
def test_every_scenario_ends_with_the_exit_code_that_the_list_says(tmp_path: Path) -> None:
    asked = [named for named in SCENARIOS if named.name not in ALONE]
    specs = [Spec(each.name, STOCK_10_0, world([each.name]), tmp_path / f"{each.name}.qmp") for each in asked]
    with Server(tmp_path, specs=specs, speed=60, file_limit=1 << 20) as server:
        results = save_all(server.records, tmp_path)
    wrong = {named.name: results[named.name] for named in asked if results[named.name].exit_code != named.exit_code}
    assert not wrong
    saved = {name for name, result in results.items() if result.file is not None}
    assert {each.stem for each in tmp_path.glob("*.vmstate")} == saved
    assert all(read_stream(tmp_path / f"{name}.vmstate").whole for name in saved)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        pytest.param("flood", 0, marks=pytest.mark.slice),  # as many events as it can send: all of a processor
        pytest.param("reply-never", 0, marks=pytest.mark.slice),  # the longest time that a reply is waited for
        pytest.param("no-failover", 0, marks=pytest.mark.slice),
        ("disk-full", 7),
        ("killed=paused", 10),
    ],
)
def test_the_command_ends_with_that_exit_code_too(tmp_path: Path, scenario: str, code: int) -> None:
    with simulated(tmp_path, "--scenario", scenario, "--speed", "60", "--file-limit", "2M"):
        assert save(tmp_path, "vm")[0] == code


def test_scenarios_combine(tmp_path: Path) -> None:
    names = ("events-lost", "drops=active", "slow-eject=2", "two-cards")
    with simulated(tmp_path, "--scenario", *names, "--speed", "50", "--file-limit", "2M") as (server, _records):
        code, result, file = save(tmp_path, "vm")
        assert (code, result["card"], result["restored"]) == (0, "plugged", True)
        assert run("verify", str(file)).returncode == 0
        server.terminate()
        assert server.wait() == 0


def test_the_list_has_a_line_for_each_scenario() -> None:
    listed = run("sim", "--list")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()[1:]
    assert [line.split("[")[0].split()[0] for line in lines] == [named.name for named in SCENARIOS]
    assert all(len(line) < 160 for line in lines)


def test_the_document_says_of_each_scenario_what_the_list_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    for named in SCENARIOS:
        default = f" ({named.default})" if named.default else ""
        assert f"| `{named.shown}`{default} | {named.exit_code} | {named.line} |\n" in text


@pytest.mark.parametrize(
    "words",
    [
        ("--scenario", "nonsense"),
        ("--scenario", "ram=1"),
        ("--scenario", "killed=sometime"),
        ("--scenario", "good=1"),
        ("--count", "0"),
        ("--file-limit", "much"),
        ("--replay", "/dev/null"),
    ],
)
def test_a_wrong_word_is_refused_with_a_line_of_its_own(tmp_path: Path, words: tuple[str, ...]) -> None:
    refused = run("sim", "--dir", str(tmp_path), *words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1


def test_discovery_sees_only_the_simulated_vms_of_the_directory_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(tmp_path, count=3) as server:
        monkeypatch.setenv("VMTUI_DEMO_DIR", str(tmp_path))
        (tmp_path / "broken.sim").write_text("{")
        found = discover()
        assert [(vm.name, vm.uuid, vm.pid) for vm in found] == [(each.name, each.uuid, each.pid) for each in server.records]
        assert len({vm.uuid for vm in found}) == 3
        with pytest.raises(EOFError), server.client() as client:
            os.kill(server.records[0].pid, signal.SIGKILL)
            client.next()
        assert [vm.name for vm in discover()] == ["vm2", "vm3"]
    (tmp_path / "broken.sim").unlink()


@pytest.mark.slice  # of a rate; on a host that does much else it would be another
def test_ten_thousand_events_a_second_come_and_commands_are_answered_between_them(tmp_path: Path) -> None:
    with Server(tmp_path, world(["flood"])) as server, server.client() as client:
        began, events = time.monotonic(), 0
        while events < 3000:
            events += "event" in client.next()
        assert time.monotonic() - began < 1.5
        assert client.ask("query-name") == {"return": {"name": "vm1"}}


def test_a_reply_that_never_comes_is_done_all_the_same(tmp_path: Path) -> None:
    with Server(tmp_path, world(["reply-never=stop"])) as server, server.client() as client:
        client.send(b'{"execute":"stop","id":1}{"execute":"query-status","id":2}{"execute":"stop","id":3}')
        said = [client.next() for _ in range(3)]
        assert [each.get("id", each.get("event")) for each in said] == ["STOP", 2, 3]
        assert said[1]["return"]["status"] == "paused"


def test_guests_of_one_seed_differ_always_in_the_same_way() -> None:
    made = World()
    assert varied(made, None, "a") == made
    assert varied(made, 1, "a") == varied(made, 1, "a") != varied(made, 1, "b")


# --- journals become VMs ----------------------------------------------------------------------------------------------


STORIES = {
    "good": STOCK_10_0, "old": STOCK_7_2, "new": STOCK_11_1, "pause-vm": PROFILES["pause-vm-10.0"],
    "slow-eject=2": STOCK_10_0, "disk-full": STOCK_10_0, "killed": STOCK_10_0, "drops": STOCK_10_0,
    "no-failover": STOCK_10_0, "panics": STOCK_10_0, "two-cards": STOCK_11_1,
}  # fmt: skip


@pytest.mark.slice
def test_a_journal_played_again_ends_as_it_did(tmp_path: Path, state_home: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    specs = [
        Spec(f"s{number}", profile, world([name] if name.split("=")[0] in BY_NAME else []), first / f"s{number}.qmp")
        for number, (name, profile) in enumerate(STORIES.items())
    ]
    with Server(first, specs=specs, speed=10, file_limit=1 << 20) as server:
        before = save_all(server.records, first)
    journals = {name: next(state_home.glob(f"journal/*-{name}-*")) for name in before}
    stories = {name: read_story(journal) for name, journal in journals.items()}
    again = [Spec(name, told.profile, World(), second / f"{name}.qmp", told) for name, told in stories.items()]
    with Server(second, specs=again, speed=1, file_limit=1 << 20) as server:
        after = save_all(server.records, second)
    same = ("outcome", "exit_code", "strategy", "runstate", "card", "driven", "restored", "uuid", "vm")
    for name, result in after.items():
        told = {each: getattr(before[name], each) for each in same}
        assert {each: getattr(result, each) for each in same} == told, (name, result.error)
        assert result.file is None or read_stream(Path(result.file)).whole


@pytest.mark.slice
def test_the_command_plays_a_journal_to_any_client(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    with simulated(tmp_path, "--name", "shop 1", "--speed", "20", "--file-limit", "1M"):
        assert save(tmp_path, "shop 1", "--output", str(tmp_path / "a"))[0] == 0
    (journal,) = (tmp_path / "state" / "vmtui" / "journal").iterdir()
    with simulated(tmp_path / "again", "--replay", str(journal), "--file-limit", "1M") as (_server, (record,)):
        assert record["name"] == "shop 1"
        code, result, _file = save(tmp_path / "again", "shop 1", "--output", str(tmp_path / "b"))
        assert (code, result["outcome"]) == (0, "saved")
        with Client(Path(record["path"])) as client:
            assert client.ask("query-name") == {"return": {"name": "shop 1"}}
            refused = client.ask("migrate", {"uri": "exec:cat"})
            assert refused == error("the journal holds no migrate from here on")


def test_a_peer_is_the_server_and_so_no_qemu(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        pid, _uid, _gid = struct.unpack("3i", client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert pid == os.getpid() != server.records[0].pid
