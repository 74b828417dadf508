"""Which program holds a monitor? Asked of `ss`, where the host has it: a monitor serves one client at a time."""

import os
import re
import subprocess

from vmtui.backend.core.text import printable

_LIMIT = 2.0
"""Seconds; a host with very many sockets is not waited for."""
_USER = re.compile(r'\("((?:[^"\\]|\\.)*)",pid=(\d+)')


def holder(path: str) -> str | None:
    """The name and pid of the client at a unix socket, or None where that cannot be found out."""
    try:
        listing = subprocess.run(
            ("ss", "-xpH", "state", "established"),
            capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return client_of(path, listing.stdout)


def client_of(path: str, listing: str) -> str | None:
    """The client in `ss -xpH`'s lines: `NETID RECV-Q SEND-Q LOCAL INODE PEER PEER-INODE users:(...)`."""
    rows = [row for line in listing.splitlines() if (row := _row(line))]
    peers = {peer for local, _inode, peer, _users in rows if local == path}
    for _local, inode, _peer, users in rows:
        found = _USER.search(users)
        if inode in peers and found and int(found[2]) != os.getpid():
            return f"{printable(found[1], 40)} (pid {found[2]})"
    return None


def _row(line: str) -> tuple[str, str, str, str] | None:
    found = re.match(r"u_\w+\s+(?:ESTAB\s+)?\d+\s+\d+\s+(.*?)\s+(\d+)\s+\S+\s+(\d+)\s*(.*)$", line)
    return (found[1], found[2], found[3], found[4]) if found else None
