"""What is fuzzed, and how much of it belongs to an ordinary run of the tests?"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from tests.fuzz import files, from_qemu, to_twin, wire


class Target(NamedTuple):
    """A batch makes at least `size` wrong messages or streams out of a seed, and says how many it made."""

    name: str
    batch: Callable[[Random, int], int]
    size: int
    batches: int
    """In an ordinary run."""


TARGETS = (
    Target("replies",       from_qemu.reply_batch,    250, 120),
    Target("events",        from_qemu.event_batch,    250, 100),
    Target("saves",         from_qemu.save_batch,     100,  60),
    Target("wire",          wire.wire_batch,          800,   4),
    Target("bytes",         to_twin.bytes_batch,      250,  48),
    Target("commands",      to_twin.message_batch,    250,  72),
    Target("sockets",       to_twin.socket_batch,     300,   4),
    Target("streams",       files.stream_batch,       100,  50),
    Target("journals",      files.journal_batch,      100,  30),
    Target("manifests",     files.manifest_batch,     100,  10),
    Target("command-lines", files.command_line_batch, 100,  10),
    Target("processes",     files.process_batch,       20,   5),
)  # fmt: skip
ORDINARY = sum(target.size * target.batches for target in TARGETS)
"""Wrong messages and streams in an ordinary run."""
