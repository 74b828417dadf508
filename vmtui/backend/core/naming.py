"""What is a state called that nobody gave a name, and how is a VM called on a command line?"""

import re
import shlex
from collections.abc import Iterable


def core_name(output: str) -> str:
    """What the core dump is called of a guest that was to be saved to `output`."""
    return f"{output.removesuffix('.vmstate')}.vmcore"


def default_name(vm: str, stamp: str, taken: Iterable[str], ending: str = "vmstate") -> str:
    """VM and time (`stamp`, 20260301T021745), safe as a file name: nothing in a VM's name can lead out of the directory.

    A second save within a second gets a number. `taken`: the names that are in the directory; the pre-flight still looks.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", vm).strip(".")[:80] or "vm"
    there = tuple(taken)
    names = [f"{safe}-{stamp}.{ending}", *(f"{safe}-{stamp}-{number}.{ending}" for number in range(2, 100))]
    return next((name for name in names if not any(each.startswith(name) for each in there)), names[0])


def addressed(text: str, vm: str) -> str:
    """A text whose commands say VM (`vmtui dump VM`), with the VM's own name there, as a shell takes it."""
    return re.sub(r"\b(vmtui [a-z]+) VM\b", lambda found: f"{found[1]} {shlex.quote(vm)}", text)
