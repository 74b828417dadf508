"""A monitor is spoken to in wire order, never without a deadline; what is no monitor is named as what it is."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import GREETING, Do, FakeQemu, Hook, Message, listening, saying
from vmtui.backend.core.errors import Unreachable, VmtuiError
from vmtui.backend.discovery import Address
from vmtui.backend.qmp import Monitor, broken_pipe, close_quietly

MIB = 1 << 20
STOP = b'{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n'
RESUME = STOP.replace(b"STOP", b"RESUME")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


Seen = list[tuple[str, Message]]


def with_monitor(address: Address, use: Callable[[Monitor], Awaitable[None]]) -> Seen:
    """Connect, use, close: every message that was seen, in its order. No task may be left."""
    seen: Seen = []

    async def run() -> None:
        monitor = Monitor(address, lambda direction, message: seen.append((direction, dict(message))))
        await monitor.connect()
        try:
            await use(monitor)
        finally:
            await monitor.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    return seen


def why_unreachable(address: Address) -> str:
    async def nothing(_monitor: Monitor) -> None:
        raise AssertionError("it connected")

    with pytest.raises(Unreachable) as caught:
        with_monitor(address, nothing)
    assert str(caught.value).isprintable()
    return str(caught.value)


def before(command: str, data: bytes | Do) -> Hook:
    """This instead of, or before, what the command causes; `ID` in it is the command's."""

    def hook(_qemu: FakeQemu, message: Message) -> bytes | Do | None:
        if message["execute"] != command:
            return None
        return data.replace(b"ID", json.dumps(message["id"]).encode()) if isinstance(data, bytes) else data

    return hook


def received(seen: Seen) -> list[Any]:
    return [message.get("event") or message.get("return") for direction, message in seen if direction == "recv"]


# --- a monitor --------------------------------------------------------------------------------------------------------


def test_a_monitor_says_which_qemu_it_is_and_who_opened_its_socket(path: Path) -> None:
    async def use(monitor: Monitor) -> None:
        assert monitor.version == (10, 0, 2)
        assert monitor.package.startswith("Debian")
        assert monitor.fd_passing
        assert monitor.peer is not None
        assert monitor.peer.pid == os.getpid()
        assert not monitor.peer.is_qemu
        assert await monitor.ask("query-name") == {"name": "vm"}

    with FakeQemu(path) as qemu:
        seen = with_monitor(qemu.address, use)
    assert [(direction, next(iter(message))) for direction, message in seen] == [
        ("recv", "QMP"), ("send", "execute"), ("recv", "return"), ("send", "execute"), ("recv", "return"),
    ]  # fmt: skip


def test_a_socket_whose_path_is_too_long_for_a_socket_address_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    try:
        qemu = FakeQemu(Path("q"))
        with qemu:
            with_monitor(Address("unix", path=str(folder / "q")), _asks_name)
    finally:
        os.chdir(here)


async def _asks_name(monitor: Monitor) -> None:
    assert await monitor.ask("query-name") == {"name": "vm"}


def test_events_and_replies_come_in_the_order_in_which_they_were_sent(path: Path) -> None:
    """Breaks if qemu.qmp ever stops calling `_cb_inbound` for each message as it is read."""

    async def use(monitor: Monitor) -> None:
        await monitor.execute("query-name", {}, 5.0)
        await monitor.execute("query-status", {}, 5.0)

    with FakeQemu(path, hook=before("query-name", STOP + RESUME + STOP)) as qemu:
        seen = with_monitor(qemu.address, use)
    *_, last = received(seen)
    assert received(seen)[2:] == ["STOP", "RESUME", "STOP", {"name": "vm"}, last]
    assert last["status"] == "running"


def test_a_reply_was_seen_before_execute_returns(path: Path) -> None:
    seen: list[Message] = []

    async def run(address: Address) -> None:
        monitor = Monitor(address, lambda _direction, message: seen.append(dict(message)))
        await monitor.connect()
        await monitor.execute("query-name", {}, 5.0)
        assert seen[-1]["return"] == {"name": "vm"}
        await monitor.close()

    with FakeQemu(path) as qemu:
        asyncio.run(run(qemu.address))


def test_no_event_is_kept(path: Path) -> None:
    """qemu.qmp's own listener would keep each of them for as long as the connection lasts."""

    async def use(monitor: Monitor) -> None:
        await monitor.ask("query-name")
        assert monitor._client.events.empty()

    with FakeQemu(path, hook=before("query-name", STOP * 1000)) as qemu:
        assert received(with_monitor(qemu.address, use)).count("STOP") == 1000


def test_a_descriptor_goes_with_its_command(path: Path, tmp_path: Path) -> None:
    async def use(monitor: Monitor) -> None:
        with (tmp_path / "state").open("wb") as file:
            await monitor.ask("getfd", {"fdname": "n"}, fd=file.fileno())
        received_fd = qemu.vm.fds["n"].number
        assert os.readlink(f"/proc/self/fd/{received_fd}") == str(tmp_path / "state")  # noqa: PTH115 - not a Path's
        await monitor.ask("closefd", {"fdname": "n"})

    with FakeQemu(path) as qemu:
        with_monitor(qemu.address, use)


def test_nobody_reads_from_the_broken_pipe() -> None:
    fd = broken_pipe()
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    close_quietly(fd)
    close_quietly(fd)
    close_quietly(None)


# --- what is no monitor -----------------------------------------------------------------------------------------------


def test_a_socket_that_is_not_there(path: Path) -> None:
    assert "no such socket" in why_unreachable(Address("unix", path=str(path)))
    assert "no such socket" in why_unreachable(Address("unix", path=str(path / "deeper")))


def test_a_file_that_is_no_socket(path: Path) -> None:
    path.write_text("")
    assert "that is no socket; name a VM" in why_unreachable(Address("unix", path=str(path)))


def test_a_socket_that_was_left_behind(path: Path) -> None:
    listening(path).close()
    assert "nobody listens there; QEMU has ended" in why_unreachable(Address("unix", path=str(path)))


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert "nobody listens there" in why_unreachable(Address("tcp", host="127.0.0.1", port=port))


NESTED = b"[" * 100_000
NUMBER = b'{"a": ' + b"1" * 10_000 + b"}"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((b"",), "it hung up without a greeting"),
        ((GREETING[:20],), "does not speak QMP"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), "does not speak QMP"),
        ((b"\x16\x03\x01\xff\xfe\x80\r\n",), "does not speak QMP"),
        ((b"\x1b[31mred\x1b[0m\r\n",), "does not speak QMP"),
        ((b"null\r\n",), "does not speak QMP"),
        ((b"[]\r\n",), "does not speak QMP"),
        ((b'{"QMP": 5}\r\n',), "does not speak QMP"),
        ((b'{"QMP": {"version": 1, "capabilities": {}}}\r\n',), "does not speak QMP"),
        ((STOP + GREETING,), "does not speak QMP"),
        ((NESTED + b"\r\n",), "does not speak QMP"),
        ((NUMBER + b"\r\n",), "does not speak QMP"),
        ((b"x" * 20 * MIB,), "more than 10 MiB"),
        ((b'{"a": "' + b"x" * 20 * MIB + b'"}\r\n',), "more than 10 MiB"),
        ((GREETING, b""), "hung up"),
        ((GREETING, b'{"error": {"class": "GenericError", "desc": "no"}}\r\n'), "does not speak QMP"),
        ((GREETING, STOP), "does not speak QMP"),
        ((GREETING, b"garbage\r\n"), "does not speak QMP"),
    ],
    ids=lambda value: (
        None if isinstance(value, str) else value[-1][:30].decode("latin-1").encode("unicode_escape").decode()
    ),
)
def test_what_is_no_monitor_is_named_as_what_it_is(path: Path, said: tuple[bytes, ...], why: str) -> None:
    with saying(path, *said) as address:
        text = why_unreachable(address)
        assert why in text
        assert str(path) in text
        assert len(text) < 400


def test_a_monitor_that_another_client_holds_is_said_to_be_busy_within_two_seconds(path: Path) -> None:
    with FakeQemu(path) as qemu, socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        assert other.recv(1000).startswith(b'{"QMP"')
        began = time.monotonic()
        assert "another client holds this monitor" in why_unreachable(qemu.address)
        assert time.monotonic() - began < 2


@pytest.fixture
def crowded(path: Path) -> Iterator[Address]:
    """As many clients wait for this monitor as the system lets wait."""
    with ExitStack() as stack, saying(path, accepts=False) as address:
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(path))
            except BlockingIOError:
                break
        yield address


def test_a_monitor_that_others_wait_for_already_is_said_to_be_busy(crowded: Address) -> None:
    assert "another client holds this monitor" in why_unreachable(crowded)


def test_a_host_that_does_not_answer_is_not_said_to_be_busy() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = Address("tcp", host="127.0.0.1", port=listener.getsockname()[1])
        full = False
        while not full:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.05)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                full = True
        assert "no answer within" in why_unreachable(address)


# --- what breaks later ------------------------------------------------------------------------------------------------


def test_a_reply_that_never_comes_is_not_waited_for_and_leaves_the_session_usable(path: Path) -> None:
    async def use(monitor: Monitor) -> None:
        with pytest.raises(TimeoutError):
            await monitor.execute("query-name", {}, 0.05)
        with pytest.raises(Unreachable, match=r"did not answer to query-name within 0\.05 s"):
            await monitor.ask("query-name", limit=0.05)
        assert (await monitor.ask("query-status"))["status"] == "running"

    with FakeQemu(path, hook=before("query-name", Do.MUTE)) as qemu:
        with_monitor(qemu.address, use)


def test_characters_beyond_the_basic_plane_are_no_half_pairs(path: Path) -> None:
    async def use(monitor: Monitor) -> None:
        await monitor.ask("query-name")

    with FakeQemu(path, hook=before("query-name", b'{"event": "\\uD83D\\uDE00\\\\ud800"}\r\n')) as qemu:
        assert "\U0001f600\\ud800" in received(with_monitor(qemu.address, use))


@pytest.mark.parametrize("how", [Do.CUT_BEFORE, Do.CUT_AFTER])
def test_a_connection_that_breaks_under_a_command_is_a_connection_error(path: Path, how: Do) -> None:
    async def use(monitor: Monitor) -> None:
        with pytest.raises(ConnectionError):
            await monitor.execute("query-name", {}, 5.0)
        assert await monitor.closed() == "QEMU closed the monitor"
        with pytest.raises(ConnectionError):
            await monitor.execute("query-name", {}, 5.0)
        with pytest.raises(Unreachable, match="QEMU closed its monitor before it answered to query-name"):
            await monitor.ask("query-name")

    with FakeQemu(path, hook=before("query-name", how)) as qemu:
        with_monitor(qemu.address, use)


def test_what_qemu_refuses_is_told_in_its_words_made_safe(path: Path) -> None:
    refusal = b'{"id": ID, "error": {"class": "GenericError", "desc": "no \\u001b[31m\\n"}}\r\n'

    async def use(monitor: Monitor) -> None:
        with pytest.raises(VmtuiError, match=r"^QEMU refused query-name: no \\x1b\[31m\\n$"):
            await monitor.ask("query-name")

    with FakeQemu(path, hook=before("query-name", refusal)) as qemu:
        with_monitor(qemu.address, use)


def test_a_reply_that_makes_no_sense_is_refused(path: Path) -> None:
    async def use(monitor: Monitor) -> None:
        with pytest.raises(VmtuiError, match="a reply that makes no sense"):
            await monitor.ask("query-name")

    with FakeQemu(path, hook=before("query-name", b'{"id": ID, "nonsense": 1}\r\n')) as qemu:
        with_monitor(qemu.address, use)


def test_a_reply_to_nothing_that_was_asked_is_dropped(path: Path) -> None:
    strays = b'{"id": "stranger", "return": {"name": "x"}}\r\n{"id": 7, "error": {"class": "G", "desc": ""}}\r\n{}\r\n'
    with FakeQemu(path, hook=before("query-name", strays)) as qemu:
        with_monitor(qemu.address, _asks_name)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}\r\n', "does not speak QMP"),
        (b"garbage\r\n", "does not speak QMP"),
        (b"\xff\xfe\r\n", "does not speak QMP"),
        (NESTED + b"\r\n", "does not speak QMP"),
        (NUMBER + b"\r\n", "does not speak QMP"),
        (b'{"event": "\\uD800"}\r\n', "half a surrogate pair"),
        (b'{"event": "E", "data": {"a": 18446744073709551616}}\r\n', "more than 64 bits"),
        (b'{"event": "E", "data": ' + b'{"a":' * 200 + b"1" + b"}" * 201 + b"\r\n", "nested too deep"),
        (b'{"return": {}, "id": {}}\r\n', "a command that nobody sent"),
        (b"x" * 20 * MIB + b"\r\n", "more than 10 MiB"),
    ],
    ids=["error without id", "garbage", "no UTF-8", "nested", "number", "surrogate", "65 bits", "deep", "odd id", "20 MiB"],
)
def test_a_message_that_cannot_be_read_ends_the_connection_with_a_reason(path: Path, data: bytes, why: str) -> None:
    async def use(monitor: Monitor) -> None:
        with pytest.raises(ConnectionError):
            await monitor.execute("query-name", {}, 5.0)
        told = await monitor.closed()
        assert why in told
        assert told.isprintable()

    with FakeQemu(path, hook=before("query-name", data)) as qemu:
        with_monitor(qemu.address, use)


def test_a_monitor_that_breaks_off_as_soon_as_it_is_there_is_unreachable(path: Path) -> None:
    async def connect(address: Address) -> None:
        with pytest.raises(Unreachable, match="broke off at once: it does not speak QMP"):
            await Monitor(address, lambda _direction, _message: None).connect()

    with saying(path, GREETING, b'{"return": {}}\r\ngarbage\r\n') as address:
        asyncio.run(connect(address))


def test_the_twin_reads_a_stream_of_values_and_not_lines(path: Path) -> None:
    """The fake server's own test: qemu.qmp sends no newline, and a value may come in pieces or with others."""
    with FakeQemu(path) as qemu, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        lines = client.makefile("rb")
        with lines:
            assert "QMP" in json.loads(lines.readline())
            client.sendall(b'{"execute": "qmp_capabilities"} {"execute": "que')
            assert json.loads(lines.readline()) == {"return": {}}
            client.sendall(b'ry-name", "id": "\xc3')
            client.sendall(b'\xbc"}{"execute": "query-name"}')
            assert json.loads(lines.readline()) == {"return": {"name": "vm"}, "id": "ü"}
            assert json.loads(lines.readline()) == {"return": {"name": "vm"}}
        assert qemu.connections == 1
