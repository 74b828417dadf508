"""Which exit code means what, and which errors can a front end show as one line?"""

from enum import IntEnum

from vmtui.backend.core.model import Trouble


class Exit(IntEnum):
    """The exit codes of every command: a promise to scripts, documented in docs/headless.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    CANCELLED = 5
    STUCK = 6
    STORE = 7
    ATTENTION = 10


EXIT_OF = {
    Trouble.USER: Exit.CANCELLED,
    Trouble.STUCK: Exit.STUCK,
    Trouble.QEMU: Exit.FAILED,
    Trouble.STORE: Exit.STORE,
    Trouble.REFUSED: Exit.REFUSED,
    Trouble.UNREACHABLE: Exit.UNREACHABLE,
}


class VmtuiError(Exception):
    """Something that a user can cause or must know: its text is one line, ready to be shown."""

    code = Exit.FAILED


class UsageError(VmtuiError):
    code = Exit.USAGE


class Unreachable(VmtuiError):
    """The monitor cannot be used: no socket, refused, busy, not QMP, silent."""

    code = Exit.UNREACHABLE


class StoreError(VmtuiError):
    """The file or its directory."""

    code = Exit.STORE


class RefusedError(VmtuiError):
    """Not done, and nothing was touched."""

    code = Exit.REFUSED
