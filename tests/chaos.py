"""`make chaos`: saves whose vmtui is ended at a random moment, in every way, and what became of guest, card and file.

Each round begins a save in a terminal of its own, ends something a random while after a random phase has begun, lets vmtui
put it right (`vmtui recover`, `vmtui wait`) and looks: through another monitor, and into the directory.
VMTUI_CHAOS_ROUNDS is for twins (100) and, after a comma, for real guests (20); VMTUI_CHAOS_SEED repeats a run's choices.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, NamedTuple

from tests.behaviour import fixtures
from tests.behaviour.fixtures import AnyGuest, AnyPen, Side
from tests.behaviour.nursery import Nursery
from tests.behaviour.program import REPOSITORY
from tests.screen.terminal import IN_ITS_OWN_SESSION
from vmtui.backend import server
from vmtui.backend.stream import read_stream

PHASES = ("preflight", "prepare", "unplug", "pause", "save", "finish", "resume", "replug", "settle", "verify", "prove")
LONGEST = 0.25
"""Seconds after the phase's beginning, at the most."""
LIMIT = 120


class Round(NamedTuple):
    """What was done, and what came of it."""

    side: str
    end: str
    phase: str
    """In which it happened; `over` where the save was faster."""
    outcome: str
    seconds: float
    """From then until vmtui had looked at everything once more."""
    lost: str
    """What is not as it should be; empty."""


class Save:
    """A `vmtui save` in a terminal of its own."""

    def __init__(self, guest: AnyGuest, environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            (sys.executable, "-c", IN_ITS_OWN_SESSION, "save", guest.uuid, "--json"),
            stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def until(self, phase: str) -> str:
        """The phase that has begun: the one that was waited for, or a later one where that was left out."""
        waited, begun = PHASES[PHASES.index(phase) :], "over"
        with suppress(OSError), open(self._master, closefd=False, encoding="utf-8") as lines:
            for line in lines:
                with suppress(json.JSONDecodeError):
                    said = json.loads(line)
                    if said["kind"] == "phase" and said["phase"] in waited:
                        begun = str(said["phase"])
                        break
        return begun

    def until_it_ends(self) -> None:
        with suppress(OSError):
            while os.read(self._master, 1 << 16):
                pass
        self.process.wait(LIMIT)

    def close_terminal(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def end(self) -> None:
        self.close_terminal()
        self.process.wait(LIMIT)


def _kill_front_end(save: Save) -> None:
    save.process.send_signal(signal.SIGKILL)


def _kill_engine(_save: Save) -> None:
    if (pid := server.pid_of_engine()) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_both(save: Save) -> None:
    _kill_front_end(save)
    _kill_engine(save)


ENDS: dict[str, Callable[[Save], None]] = {
    "the terminal is closed": Save.close_terminal,
    "vmtui save gets SIGHUP": lambda save: save.process.send_signal(signal.SIGHUP),
    "vmtui save gets SIGKILL": _kill_front_end,
    "the engine gets SIGKILL": _kill_engine,
    "both get SIGKILL": _kill_both,
}


# --- one round ----------------------------------------------------------------------------------------------------


def play(side: str, guest: AnyGuest, random: Random, environment: Mapping[str, str]) -> Round:
    name, phase, wait = random.choice(list(ENDS)), random.choice(PHASES), random.random() * LONGEST
    save = Save(guest, environment)
    phase = save.until(phase)
    if phase != "over":
        time.sleep(wait)
    began = time.monotonic()
    ENDS[name](save)
    if name == "the engine gets SIGKILL":
        save.until_it_ends()  # it sees the save through
    save.end()
    jobs = list(_put_right(environment))
    seconds = time.monotonic() - began
    lost = _lost(guest, jobs)
    _clear(guest, environment)
    return Round(side, name, phase, jobs[-1]["state"] if jobs else "nothing was begun", seconds, lost)


def _put_right(environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Until no job is under way or unfinished; the jobs."""
    deadline = time.monotonic() + LIMIT
    while True:
        jobs = _vmtui(environment, "jobs", "--json")
        states = {job["state"] for job in jobs}
        if not states & {"running", "unfinished"}:
            yield from jobs
            return
        assert time.monotonic() < deadline, jobs
        if "unfinished" in states:
            _vmtui(environment, "recover", "--json")
        for job in jobs:
            if job["state"] == "running":
                _vmtui(environment, "wait", job["id"], "--json")


def _vmtui(environment: Mapping[str, str], *arguments: str) -> list[dict[str, Any]]:
    command = (sys.executable, "-m", "vmtui", *arguments)
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=LIMIT, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _lost(guest: AnyGuest, jobs: list[dict[str, Any]]) -> str:
    wrong = [f"ended as {job['state']}" for job in jobs if job["state"] not in ("saved", "cancelled", "failed")]
    try:
        guest.is_as_before()
    except AssertionError as error:
        wrong.append(str(error).splitlines()[0])
    files = guest.files()
    states = [name for name in files if name.endswith(".vmstate")]
    if len(files) != 2 * len(states) or any(f"{name}.json" not in files for name in states):
        wrong.append(f"files: {files}")
    wrong += [f"{name} is not whole" for name in states if not read_stream(guest.snapshots / name).whole]
    if any(job["state"] == "saved" for job in jobs) != bool(states):
        wrong.append(f"{[job['state'] for job in jobs]}, but {files}")
    return "; ".join(wrong)


def _clear(guest: AnyGuest, environment: Mapping[str, str]) -> None:
    for path in (*guest.snapshots.glob("*"), *Path(environment["XDG_STATE_HOME"]).glob("vmtui/journal/*")):
        path.unlink()


# --- all of them --------------------------------------------------------------------------------------------------


@contextmanager
def _home(guest: AnyGuest) -> Iterator[Mapping[str, str]]:
    """An environment with an engine of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as runtime:
        own = {**guest.environment, "VMTUI_RUNTIME_DIR": runtime}
        before = dict(os.environ)
        os.environ |= own  # the engine's lock is looked for here
        os.environ.pop("VMTUI_ENGINE", None)
        try:
            yield dict(os.environ)
        finally:
            if (pid := server.pid_of_engine()) is not None:
                os.kill(pid, signal.SIGKILL)
            os.environ.clear()
            os.environ |= before


def rounds(side: Side, number: int, seed: int) -> Iterator[Round]:
    """So many, with the QEMU of a side."""
    with Nursery() as nursery, side.open(nursery) as pen:
        for count in range(number):
            yield _one(side.id, pen, Random(f"{seed} {side.id} {count}"))


def _one(side: str, pen: AnyPen, random: Random) -> Round:
    guest = pen.guest(slow=True) if side.startswith("twin") else pen.guest()
    with _home(guest) as environment:
        try:
            return play(side, guest, random, environment)
        finally:
            pen.after_test()


def main() -> int:
    for_twins, _, for_real = os.environ.get("VMTUI_CHAOS_ROUNDS", "100,20").partition(",")
    seed = int(os.environ.get("VMTUI_CHAOS_SEED") or SystemRandom().getrandbits(32))
    real = [side for side in fixtures.real() if side.id != "no-qemu"]
    twins = fixtures.twins()
    played: list[Round] = []
    for sides, number in ((twins, int(for_twins)), (real, int(for_real or 0))):
        for position, side in enumerate(sides):
            for each in rounds(side, number // len(sides) + (position < number % len(sides)), seed):
                played.append(each)
                sys.stderr.write(f"{len(played):4} {each.side:18} {each.end:24} {each.phase:10} {each.outcome:18} "
                                 f"{each.seconds:5.1f} s {each.lost}\n")  # fmt: skip
    print(table(played))
    print(f"\nVMTUI_CHAOS_SEED={seed} repeats its choices.")
    return 1 if any(each.lost for each in played) else 0


def table(played: list[Round]) -> str:
    """As it stands in docs/reliability.md."""
    lines = [
        "| with | what was ended | rounds | saved | undone | nothing begun | lost | put right within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, is_twin in (("twins", True), ("real guests", False)):
        for end in ENDS:
            these = [each for each in played if each.end == end and each.side.startswith("twin") is is_twin]
            if these:
                outcomes = Counter(each.outcome for each in these)
                undone = outcomes["cancelled"] + outcomes["failed"]
                lost = sum(bool(each.lost) for each in these)
                longest = max(each.seconds for each in these)
                lines.append(f"| {kind} | {end} | {len(these)} | {outcomes['saved']} | {undone} | "
                             f"{outcomes['nothing was begun']} | {lost} | {longest:.1f} s |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
