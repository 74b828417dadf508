"""How is one QMP monitor talked to? The only importer of qemu.qmp.

Replies and events reach the caller in the order in which QEMU sent them, through one callback: qemu.qmp's own two paths let
an event overtake a reply. Nothing here waits without a deadline.
"""

import asyncio
import errno
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient, QMPError, StateError
from qemu.qmp.error import ProtocolError
from qemu.qmp.message import Message
from qemu.qmp.protocol import Runstate
from qemu.qmp.qmp_client import BadReplyError, ExecuteError

from vmtui.backend.core.errors import Unreachable, VmtuiError
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address, Peer, connectable_path, peer_of
from vmtui.backend.holder import holder

GREETING_LIMIT = 1.4
"""Seconds for connecting, the greeting and the capabilities: a monitor that another client holds never greets."""

MAX_NESTING = 100
"""QEMU's own messages are ten deep; what is nested much deeper ends Python's stack when it is written to a journal."""

_log = logging.getLogger("qemu.qmp")
_log.addHandler(logging.NullHandler())
_log.propagate = False  # what it has to say is in the exceptions; stderr belongs to the front end


class _Client(QMPClient):
    """A client that shows every message on the wire, in wire order, and keeps no events."""

    def __init__(self, on_message: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._on_message_seen = on_message
        self.events.event_filter = lambda _event: False  # the built-in listener would keep every event for ever

    def _cb_inbound(self, msg: Message) -> Message:
        raw = bytes(msg)
        if (_ODD.search(raw) or raw.count(b"[") + raw.count(b"{") > MAX_NESTING) and not _can_be_kept(msg):
            raise ProtocolError(
                "half a surrogate pair, a number of more than 64 bits, or nested too deep: nothing can hold it"
            )
        if isinstance(msg.get("id"), dict | list):
            raise ProtocolError("an answer to a command that nobody sent")
        self._on_message_seen("recv", msg)
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        self._on_message_seen("send", msg)
        return msg


class Monitor:
    """One connection to one monitor.

    `on_message(direction, message)` is called for each message, `direction` being `send` or `recv`, from the event loop.
    """

    def __init__(self, address: Address, on_message: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.address = address
        self.peer: Peer | None = None
        self._client = _Client(self._seen)
        self._on_message = on_message
        self._sock: socket.socket | None = None
        self._end: asyncio.Task[None] | None = None
        """The one call of disconnect(): the library knows no second one at the same time."""

    def _seen(self, direction: str, message: Mapping[str, Any]) -> None:
        if self._sock is not None and direction == "recv":
            # QEMU writes an event and a reply in two small pieces; a delayed ACK would hold the second for 40 ms.
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._on_message(direction, message)

    @property
    def fd_passing(self) -> bool:
        return self.address.kind == "unix"

    @property
    def connected(self) -> bool:
        return self._client.runstate is Runstate.RUNNING

    @property
    def version(self) -> tuple[int, int, int]:
        greeting = self._client.greeting
        qemu = greeting.QMP.version.get("qemu", {}) if greeting else {}
        parts = qemu if isinstance(qemu, dict) else {}
        return _number(parts.get("major")), _number(parts.get("minor")), _number(parts.get("micro"))

    @property
    def package(self) -> str:
        greeting = self._client.greeting
        return str(greeting.QMP.version.get("package", "")) if greeting else ""

    async def connect(self) -> None:
        """Connect, and be greeted. Raises Unreachable, whose text says what is wrong with the socket."""
        try:
            async with asyncio.timeout(GREETING_LIMIT):
                sock = await self._socket()
                self.peer = peer_of(sock) if self.fd_passing else None
                await self._client.connect(sock)
        except TimeoutError as error:
            answered = self._sock is not None or self.fd_passing
            silent = f"cannot connect to {self.address}: no answer within {GREETING_LIMIT:g} s"
            raise Unreachable(await self._busy() if answered else silent) from error
        except ConnectError as error:
            raise Unreachable(f"{self.address} is no QMP monitor: {_reason(error.exc)}") from error
        except AssertionError as error:  # qemu.qmp's: the session was over before it could say that it had begun
            raise Unreachable(f"{self.address} broke off at once: {await self.close() or 'no reason was given'}") from error
        except OSError as error:
            raise Unreachable(f"cannot connect to {self.address}: {self._why_not(error)}") from error

    def _why_not(self, error: OSError) -> str:
        """Linux refuses a file that is no socket as it refuses a socket where nobody listens."""
        if error.errno == errno.ECONNREFUSED and self.fd_passing and _is_other_than_a_socket(self.address.path):
            return _HINTS[errno.ENOTSOCK]
        return _os_reason(error)

    async def _busy(self) -> str:
        client = await asyncio.to_thread(holder, self.address.path) if self.fd_passing else None
        return (
            f"another client holds this monitor: {client or 'somebody'}; {self.address} accepts, but does not greet within "
            f"{GREETING_LIMIT:g} s. Close the other client, or use a second -qmp socket"
        )

    async def _socket(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if self.address.kind == "tcp":
            infos = await loop.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _name, target = infos[0]
            self._sock = await self._connected(socket.socket(family, kind, protocol), target)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._sock
        with connectable_path(self.address.path) as path:
            return await self._connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)

    async def _connected(self, sock: socket.socket, target: Any) -> socket.socket:
        sock.setblocking(False)
        try:
            if sock.family == socket.AF_UNIX:
                sock.connect(target)  # never waits; asyncio would take EAGAIN, a full queue, for "soon"
            else:
                await asyncio.get_running_loop().sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        return sock

    async def execute(self, name: str, arguments: Mapping[str, object], limit: float, fd: int | None = None) -> None:
        """Send a command; its reply goes to `on_message`. Returns when it has come.

        Raises TimeoutError after `limit` seconds, ConnectionError where the connection breaks first.
        """
        try:
            async with asyncio.timeout(limit):
                if fd is not None:
                    self._client.send_fd_scm(fd)
                await self._client.execute(name, arguments or None)
        except (ExecuteError, BadReplyError):
            pass  # the reply is at `on_message` already
        except (ExecInterruptedError, StateError, OSError, EOFError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ConnectionError("the monitor's connection broke") from error

    async def ask(
        self, name: str, arguments: Mapping[str, object] | None = None, *, limit: float = 10.0, fd: int | None = None
    ) -> Any:
        """Send a command and return what its reply returns. Raises VmtuiError: refused, too late, or cut off."""
        try:
            async with asyncio.timeout(limit):
                if fd is not None:
                    self._client.send_fd_scm(fd)
                return await self._client.execute(name, arguments)
        except (ExecuteError, BadReplyError) as error:
            reason = error.error.error.desc if isinstance(error, ExecuteError) else "a reply that makes no sense"
            raise VmtuiError(f"QEMU refused {name}: {printable(reason)}") from error
        except TimeoutError as error:
            raise Unreachable(f"QEMU did not answer to {name} within {limit:g} s") from error
        except (ExecInterruptedError, StateError, OSError, EOFError) as error:
            raise Unreachable(f"QEMU closed its monitor before it answered to {name}") from error

    async def closed(self) -> str:
        """Wait until the connection ends, tidy up, and say why it ended."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        return await self.close()

    async def close(self) -> str:
        """Disconnect; what went wrong before is returned in words, empty if nothing did."""
        if self._end is None:
            self._end = asyncio.create_task(self._client.disconnect())
            self._end.add_done_callback(lambda end: end.cancelled() or end.exception())  # looked at, whoever waits for it
        try:
            await asyncio.shield(self._end)  # the library, cancelled in here, leaves an error that asyncio prints
        except EOFError:
            return "QEMU closed the monitor"
        except (QMPError, OSError, ValueError, RecursionError) as error:
            return _reason(error)
        return ""


_ODD = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{19}")
"""A message without any of these can be kept in a journal and told to front ends; looking closer takes time."""


def _can_be_kept(message: Message) -> bool:
    if _nesting(dict(message)) > MAX_NESTING:
        return False
    try:
        msgspec.msgpack.encode(dict(message))
    except (UnicodeEncodeError, OverflowError):
        return False
    return True


def _nesting(value: Any) -> int:
    """How deep it is nested, found without as deep a stack."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "it hung up without a greeting"
    if isinstance(error.__context__, asyncio.LimitOverrunError):
        return "it sent more than 10 MiB without an end of line"
    if isinstance(error, OSError):
        return _os_reason(error)
    return "it does not speak QMP (" + printable(str(error).split("\n")[0], 80) + ")"


_HINTS = {
    errno.ENOENT: "no such socket; is the VM running?",
    errno.ECONNREFUSED: "nobody listens there; QEMU has ended, or other clients wait for this monitor",
    errno.EACCES: "permission denied; run vmtui as the user that QEMU runs as, or as root",
    errno.EPERM: "permission denied; run vmtui as the user that QEMU runs as, or as root",
    errno.EAGAIN: "another client holds this monitor, and more are waiting",
    errno.ENOTSOCK: "that is no socket; name a VM (vmtui list shows them) or its QMP socket",
}


def _is_other_than_a_socket(path: str) -> bool:
    return Path(path).exists() and not Path(path).is_socket()


def _os_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"unknown host ({error.strerror})"
    return _HINTS.get(error.errno or 0) or os.strerror(error.errno or 0)


def broken_pipe() -> int:
    """The write end of a pipe whose read end is closed; the caller closes it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(reading)
    return writing


def close_quietly(fd: int | None) -> None:
    if fd is not None:
        with suppress(OSError):
            os.close(fd)
