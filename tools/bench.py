"""How fast is vmtui, and what does it cost? `make bench`; docs/performance.md has the figures and says what they mean.

Boots guests of its own, measures what was promised against it, prints one table and cleans up. Exit status 0 if every
target was met or skipped aloud, 1 otherwise.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.measure import parts
from tools.measure.engines import end_engine
from tools.measure.parts import Bench
from tools.measure.qmp import BenchError
from tools.measure.rows import Row, table
from tools.measure.screen import screen
from tools.measure.virsh import install, virsh
from vmtui.backend.lab import LabError

Part = Callable[[Bench], list[Row]]

WITH_QEMU: dict[str, Part] = {
    "stopped":    parts.stopped,
    "background": parts.background,
    "pause":      parts.pause,
    "cost":       parts.cost,
    "virsh":      virsh,
}  # fmt: skip
ONCE: dict[str, Part] = {
    "verify": parts.verify,
    "startup": parts.startup,
    "screen": screen,
}


def main() -> int:
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the guests go with us
    if given.install:
        install()
    chosen = given.only or [*WITH_QEMU, *ONCE]
    rows: list[tuple[str, Row]] = []
    with _place(given.dir) as directory:
        for number, qemu in enumerate(given.qemu):
            bench = Bench(qemu, directory, given.rounds, _say)
            for name, part in {**WITH_QEMU, **(ONCE if number == 0 else {})}.items():
                if name in chosen:
                    rows += [(qemu, row) for row in _measured(name, part, bench)]
    for qemu in given.qemu:
        mine = [row for name, row in rows if name == qemu]
        print(f"\n{_version(qemu)}, load {os.getloadavg()[0]:.1f}, states written to {_kind(given.dir)}\n\n{table(mine)}")
    if given.json:
        given.json.write_text(json.dumps([{"qemu": _version(qemu), **asdict(row)} for qemu, row in rows], indent=1) + "\n")
    return 0 if all(row.met is not False for _, row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure vmtui against its targets.")
    parser.add_argument("--only", nargs="+", choices=[*WITH_QEMU, *ONCE], metavar="PART", help="only these parts")
    parser.add_argument("--qemu", nargs="+", default=["qemu-system-x86_64"], metavar="PATH", help="QEMUs to measure with")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds that count (default: 7)")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where states are written (default: /dev/shm)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value to FILE")
    parser.add_argument("--install", action="store_true", help="install libvirt first (Debian, as root)")
    return parser


@contextmanager
def _place(parent: Path) -> Any:
    """A home for guests, journals and states, and nothing of it left. Unix sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="vb-") as home, tempfile.TemporaryDirectory(dir=parent) as states:
        os.environ |= {"VMTUI_LAB_DIR": f"{home}/lab", "XDG_STATE_HOME": f"{home}/state", "VMTUI_SNAPSHOT_DIR": states}
        os.environ["VMTUI_RUNTIME_DIR"] = home
        os.environ["PYTHONPYCACHEPREFIX"] = f"{home}/pycache"  # compiled once, as an installed vmtui is
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            yield Path(states)
        finally:
            end_engine(Path(home))


def _measured(name: str, part: Part, bench: Bench) -> list[Row]:
    """A part that cannot be measured is a part that missed."""
    _say(f"--- {name}")
    try:
        return part(bench)
    except (BenchError, LabError, OSError) as error:
        return [Row(name, name, f"not measured: {' '.join(str(error).split())[-300:]}", "to be measured", False)]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _version(qemu: str) -> str:
    path = shutil.which(qemu)
    return os.popen(f"'{path}' --version").readline().strip() if path else qemu


def _kind(directory: Path) -> str:
    return str(directory)


if __name__ == "__main__":
    raise SystemExit(main())
