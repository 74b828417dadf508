"""What the engine is doing and did, without a screen: `vmtui jobs`, `attach`, `wait`, `cancel`, `release`, `recover`.

A job is a workflow that changed something; its id is the name of its journal, and the journal outlives the engine.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from vmtui import headless, replay
from vmtui.backend import config, discovery, remote
from vmtui.backend.core.errors import Exit, RefusedError, UsageError, VmtuiError
from vmtui.backend.core.events import Wish
from vmtui.backend.core.fleet import CancelWish, Fleet
from vmtui.backend.core.model import Options, Outcome
from vmtui.backend.core.result import Result
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import Address, FoundVm, UnknownVm
from vmtui.backend.journal import EndLine, EventLine, Head, Line, has_ended, read_journal
from vmtui.backend.remote import Remote, open_engine
from vmtui.backend.store import is_locked
from vmtui.backend.unfinished import Unfinished, read_unfinished, unfinished_journals

SHOWN = 20
"""Jobs that are listed, the latest: all with --all."""
GOES_ON = ("running", "unfinished")
"""States of a job whose file may still come."""


class Job(msgspec.Struct, frozen=True):
    """One line of `vmtui jobs --json`."""

    id: str
    vm: str
    goal: str
    state: str
    """`running`, `unfinished` (its engine was ended; vmtui recover), or the outcome."""
    began: float
    """Seconds since 1970."""
    output: str
    """The file that was asked for."""
    key: str
    """The monitor's address."""
    journal: str


HEAD = ("JOB", "VM", "GOAL", "STATE", "BEGAN", "FILE")
NO_JOBS = "no job yet; vmtui save VM begins one"


def show(*, as_json: bool, everything: bool = False) -> int:
    """List jobs, the latest last."""
    paths = _journals()
    jobs = sorted(_jobs(paths if everything else paths[-SHOWN:]), key=lambda each: each.began)
    if as_json:
        for job in jobs:
            print(json.dumps(msgspec.to_builtins(job)))
        return Exit.OK
    rows = [HEAD, *map(_row, jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for row in rows if jobs else ():
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]))
    if not jobs:
        sys.stderr.write(f"{NO_JOBS}\n")
    return Exit.OK


def _journals() -> list[Path]:
    """In the order in which they were begun, to the second."""
    return sorted(config.journal_dir().glob("*.ndjson"), key=lambda path: path.stem)


def _row(job: Job) -> tuple[str, ...]:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.began))
    file = printable(job.output, 300) if job.state in GOES_ON or Path(job.output).is_file() else "-"
    return job.id, printable(job.vm, 40), job.goal, job.state, began, file or "-"


def _jobs(paths: list[Path]) -> Iterator[Job]:
    for path in paths:
        try:
            lines = list(read_journal(path))
        except VmtuiError as error:
            sys.stderr.write(f"vmtui: {printable(str(error), 300)}\n")
            continue
        if lines and isinstance(lines[0], Head):
            yield _job(path, lines[0], lines)


def _job(path: Path, head: Head, lines: list[Line]) -> Job:
    events = [line.event for line in lines if isinstance(line, EventLine)]
    wish = next((event for event in events if isinstance(event, Wish)), None)
    state = lines[-1].outcome if isinstance(lines[-1], EndLine) else _state_of(path)
    goal, output = (wish.options.goal, wish.options.output) if wish is not None else ("", "")
    return Job(path.stem, _name(path), goal, state, head.wall, output, head.key, str(path))


def _name(path: Path) -> str:
    """`TIME-NAME-PID`: of a VM whose name has odd characters, what the journal's name made of it."""
    return path.stem.split("-", 1)[-1].rsplit("-", 1)[0]


def _state_of(path: Path) -> str:
    """Of a journal without an end: whoever works on its VM holds the lock."""
    with suppress(VmtuiError):
        if is_locked(read_unfinished(path).lock_key):
            return "running"
    return "unfinished"


# --- one of them --------------------------------------------------------------------------------------------------


def _target(spec: str) -> FoundVm:
    """A job's id, a VM, or one that was: by the name in its journal. Raises UsageError."""
    path = _journal_of(spec)
    if path is None:
        try:
            return discovery.resolve(spec, discovery.discover())
        except UnknownVm:
            path = _latest_of(spec)  # one that the host does not know by name, or that is not there any more
            if path is None:
                raise
    head = next(read_journal(path), None)
    if not isinstance(head, Head):
        raise UsageError(f"{printable(spec)} is no job")
    return FoundVm(_name(path), None, None, Address.parse(head.key))


def _journal_of(spec: str) -> Path | None:
    if "/" in spec or spec.startswith("."):
        return None
    path = config.journal_dir() / f"{spec}.ndjson"
    return path if path.is_file() else None


def attach(spec: str | None, *, as_json: bool) -> int:
    """Show what is done to a VM, from its beginning to its end; without a VM the only one that something is done to."""
    vm = _target(spec) if spec is not None else headless.ended(_only_one())
    return int(headless.attach(vm, headless.printer_for(as_json=as_json)).exit_code)


async def _only_one() -> FoundVm:
    async with open_engine(lambda _fleet: None) as engine:
        busy = [view for view in engine.views.values() if view.state.busy]
    if not busy:
        raise RefusedError("nothing is under way; vmtui jobs tells what was")
    if len(busy) > 1:
        names = ", ".join(printable(view.state.vm.shown, 60) for view in busy)
        raise UsageError(f"something is done to {len(busy)} VMs: {names}; name one")
    vm = busy[0].state.vm
    return FoundVm(vm.shown, None, vm.pid or None, Address.parse(vm.key))


def wait(spec: str, *, as_json: bool) -> int:
    """Until a job, or what is done to a VM, is over, and be it long ago; the exit code is that of the job."""
    path = _journal_of(spec)
    if path is not None and has_ended(path):
        return _ended(path, as_json=as_json)
    printer = _end_printer(as_json=as_json)
    vm = _target(spec)
    try:
        return int(headless.attach(vm, printer).exit_code)
    except RefusedError:
        path = path or _latest_of(spec, vm)
        if path is not None and has_ended(path):  # it came to its end before, or meanwhile
            return _ended(path, as_json=as_json)
        raise


def _latest_of(spec: str, vm: FoundVm | None = None) -> Path | None:
    """The journal of what was done last to a VM; without one, to what was called like this."""
    return next((path for path in reversed(_journals()) if _is_about(path, spec, vm)), None)


def _is_about(path: Path, spec: str, vm: FoundVm | None) -> bool:
    if vm is None:
        return _name(path) == spec
    with suppress(UsageError):
        head = next(read_journal(path), None)
        return isinstance(head, Head) and head.key in map(str, vm.addresses)
    return False


def _ended(path: Path, *, as_json: bool) -> int:
    """The journal played to its end gives the very result."""
    return replay.play(path, _end_printer(as_json=as_json), replay.ALL_AT_ONCE)


def _end_printer(*, as_json: bool) -> headless.Printer:
    return headless.JsonEndPrinter() if as_json else headless.EndPrinter()


def cancel(spec: str, *, as_json: bool) -> int:
    """Undo what is done to a VM, and wait for its checked end. 0 when the VM is as before; else the code of the job."""
    result = headless.ended(_cancelled(_target(spec), as_json=as_json))
    return Exit.OK if result.outcome is Outcome.CANCELLED else int(result.exit_code)


async def _cancelled(vm: FoundVm, *, as_json: bool) -> Result:
    front = headless.Front(_end_printer(as_json=as_json))
    async with open_engine(front.take) as engine:
        headless.follow(front, engine, vm)
        engine.request(CancelWish(front.key))
        await front.until(engine, front.ended)
    return front.result()


# --- monitors, and what was left ----------------------------------------------------------------------------------


def release(spec: str) -> int:
    """Give a VM's monitor back to others, until vmtui is asked for something that needs it."""
    vm = _target(spec)
    if not remote.is_running():
        print(f"{printable(vm.name)}: vmtui holds no monitor")
        return Exit.OK
    headless.ended(_release(vm))
    print(f"{printable(vm.name)}: its monitor is free for others")
    return Exit.OK


async def _release(vm: FoundVm) -> None:
    async with open_engine(lambda _fleet: None) as engine:
        view = engine.views.get(str(vm.address))
        if view is not None and view.state.busy:
            raise RefusedError(f"something is done to {printable(vm.name)}: its monitor is needed until that is over")
        engine.release(str(vm.address))


def recover(*, dry_run: bool, as_json: bool) -> int:
    """Go on with what a vmtui that was ended left unfinished; 0 when all of it came to a good end, else the worst code."""
    found = unfinished_journals()
    if not found:
        print("nothing was left unfinished", file=sys.stderr if as_json else sys.stdout)
        return Exit.OK
    for left in found if dry_run else ():
        _tell_left(left, as_json=as_json)
    return Exit.OK if dry_run else max(headless.ended(_recovered(found, as_json=as_json)))


def _tell_left(left: Unfinished, *, as_json: bool) -> None:
    work, vm = left.state.work, left.state.vm
    assert work is not None
    known = {"id": left.path.stem, "vm": vm.shown, "goal": work.options.goal, "phase": work.phase,
             "runstate": vm.runstate, "rebooted": left.rebooted, "output": work.options.output}  # fmt: skip
    if as_json:
        print(json.dumps(known))
        return
    print(f"{left.told} (job {left.path.stem})")


async def _recovered(found: tuple[Unfinished, ...], *, as_json: bool) -> list[int]:
    """The exit code of each. An engine that is started for this goes on with them by itself."""
    fronts = {str(left.address): headless.Front(_end_printer(as_json=as_json)) for left in found}

    def take(fleet: Fleet) -> None:
        for front in fronts.values():
            front.take(fleet)

    async with open_engine(take) as engine:
        for left in found:
            fronts[str(left.address)].key = str(left.address)
            engine.watch(left.address) if isinstance(engine, Remote) else engine.resume(left.path)
        take(Fleet(dict(engine.views)))
        if isinstance(engine, Remote):
            engine.recover()
        for left in found:
            front = fronts[str(left.address)]
            await front.until(engine, partial(_is_over, front, left))
    return [_told(fronts[str(left.address)], left, as_json=as_json) for left in found]


def _is_over(front: headless.Front, left: Unfinished) -> bool:
    """Seen to its end; or it came to its end before anybody looked."""
    return front.ended() or has_ended(left.path)


def _told(front: headless.Front, left: Unfinished, *, as_json: bool) -> int:
    """Say how it ended; that a save was cancelled or failed is no failure of putting things right."""
    code = int(front.result().exit_code) if front.ended() else _ended(left.path, as_json=as_json)
    return Exit.ATTENTION if code == Exit.ATTENTION else Exit.OK


def begin(vm: FoundVm, options: Options, *, as_json: bool) -> int:
    """`vmtui save --detach`: the job's id, or how it ended already."""
    if remote.is_inside():
        raise UsageError("--detach needs an engine in a process of its own: unset VMTUI_ENGINE")
    found = headless.begin(vm, options, _end_printer(as_json=as_json))
    if isinstance(found, Result):
        return int(found.exit_code)
    name = Path(found).stem
    print(json.dumps({"kind": "job", "id": name, "journal": found}) if as_json else name)
    return Exit.OK
