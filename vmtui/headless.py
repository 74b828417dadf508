"""The headless twin: one workflow, shown as lines for a person or as NDJSON for a program.

stdout is data, stderr is talk. A printer gets the same values that a screen gets, and asks in the same way.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

import msgspec

from vmtui.backend.core import pace, verdict, words
from vmtui.backend.core.errors import Exit, RefusedError, Unreachable, VmtuiError
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, VmView
from vmtui.backend.core.model import Finding, Goal, Level, Options, Phase, Workflow
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.state import the_work
from vmtui.backend.core.text import printable
from vmtui.backend.core.verdict import Kind
from vmtui.backend.discovery import FoundVm, process
from vmtui.backend.engine import Engine, finished
from vmtui.backend.journal import has_ended
from vmtui.backend.remote import Remote, open_engine

TOLD_BEFORE = ("panic-guard", "stop", "card-out", "card-deleted")
"""Notes of the pre-flight that are shown before it begins."""
REFRESH = 0.25
"""Seconds between two looks at a running save; phases are shown as they come."""
STILL_FIRST, STILL_EVERY, STILL_APART = 10.0, 30.0, 5.0
"""Seconds in a phase until a line tells that it goes on; between two of them; the same, where another tenth is copied."""
HANGUP_FOLLOWS = 0.1
"""Seconds after a SIGTERM within which a SIGHUP tells that the whole session is ended."""


class Printer(Protocol):
    """Shows one VM's workflow. `show` is called after each step, `tick` when time passed, `end` once."""

    def show(self, view: VmView) -> None: ...
    def tick(self, view: VmView, now: float) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self, view: VmView, result: Result) -> None: ...


# --- running one workflow -----------------------------------------------------------------------------------------


def run(vm: FoundVm, options: Options, printer: Printer, *, give_back: bool = False) -> Result:
    """Run one workflow to its checked end. Ctrl-C and SIGTERM cancel it; SIGHUP lets it go on, also with a SIGTERM.

    `give_back`: the monitor is not held any longer afterwards, even where a screen shows the VM.
    Raises Unreachable for a VM without a monitor that can be used, RefusedError while something is done to it already.
    """
    return ended(_run(vm, options, printer, give_back=give_back))


def begin(vm: FoundVm, options: Options, printer: Printer) -> Result | str:
    """Begin one and let the engine go on with it: the journal that tells of it, or the result where it ended at once."""
    return ended(_begin(vm, options, printer))


def attach(vm: FoundVm, printer: Printer) -> Result:
    """Show what is done to a VM already, from its beginning to its checked end. RefusedError: nothing is.

    Ctrl-C and SIGTERM end the looking on, and nothing else: 128 and the signal's number.
    """
    return ended(_attach(vm, printer))


async def _run(vm: FoundVm, options: Options, printer: Printer, *, give_back: bool) -> Result:
    front = Front(printer)
    async with open_engine(front.take) as engine:
        _start(front, engine, vm, options)
        with _signals(front.interrupted, engine):
            await front.until(engine, front.ended)
        if give_back:
            engine.release(front.key)
    return front.result()


async def _begin(vm: FoundVm, options: Options, printer: Printer) -> Result | str:
    front = Front(printer)
    async with open_engine(front.take) as engine:
        _start(front, engine, vm, options)
        await front.until(engine, lambda: front.ended() or bool(front.view and front.view.journal))
    assert front.view is not None
    return front.result() if front.ended() else front.view.journal


async def _attach(vm: FoundVm, printer: Printer) -> Result:
    front = Front(printer)
    async with open_engine(front.take) as engine:
        with _looking_on(front.left):
            follow(front, engine, vm)
            await front.until(engine, front.ended)
    return front.result()


def _start(front: "Front", engine: Engine | Remote, vm: FoundVm, options: Options) -> None:
    address = vm.monitor
    front.key, front.options = str(address), options
    if (found := engine.views.get(front.key)) is not None:
        if found.state.busy:
            raise _taken(found)
        front.before = found.state.work.started if found.state.work else None
    engine.watch(address, process(vm.pid) if vm.pid else None)
    engine.request(Begin(front.key, options))


def follow(front: "Front", engine: Engine | Remote, vm: FoundVm) -> None:
    """Let it see what is done to a VM already. Raises RefusedError when that is nothing."""
    found = engine.views.get(str(vm.address))
    if found is None or not found.state.busy:
        raise RefusedError(f"nothing is done to {printable(vm.name)} now; vmtui jobs tells what was")
    front.key = engine.watch(vm.monitor)
    front.look(found)


def _taken(view: VmView) -> RefusedError:
    shown, job = printable(view.state.vm.shown), printable(view.called)
    return RefusedError(f"something is done to {shown} already; vmtui attach {job} shows it, vmtui cancel {job} undoes it")


T = TypeVar("T")


def ended(running: Coroutine[Any, Any, T]) -> T:
    """The outcome; an error of ours comes out as it is, not as one of a group."""
    try:
        return asyncio.run(running)
    except BaseExceptionGroup as group:
        own, _others = group.split(VmtuiError)
        if own is None:
            raise
        raise own.exceptions[0] from group


class Front:
    """What a front end needs to know: the latest value, and whether it is the last one."""

    def __init__(self, printer: Printer) -> None:
        self.key = ""
        self.options: Options | None = None
        """Of the workflow that was asked for; None where any is followed."""
        self.before: float | None = None
        """When a workflow began that was over before this one was asked for."""
        self._is_ours = False
        """What was asked for has begun; what follows it by itself is shown too."""
        self.lost = False
        """The engine knows nothing of it any more: its journal may."""
        self.view: VmView | None = None
        self._printer = printer
        self._changed = asyncio.Event()
        self._interrupts = 0

    def take(self, fleet: Fleet) -> None:
        view = fleet.vms.get(self.key)
        if not self.ended():
            self.lost = self.lost or self._is_gone(view)
            if view is not None:
                self.look(view)
        self._changed.set()

    def _is_gone(self, view: VmView | None) -> bool:
        """A workflow that is in a journal is not in the engine any more."""
        seen = self.view.state.work if self.view is not None and self.view.journal else None
        if seen is None:
            return False
        return view is None or view.state.work is None or view.state.work.started < seen.started

    def look(self, view: VmView) -> None:
        work = view.state.work
        if work is None or work.started == self.before:
            return
        self.view = view
        self._is_ours = self._is_ours or self.options in (None, work.options)
        if self._is_ours:
            self._printer.show(view)

    def ended(self) -> bool:
        return self._is_ours and finished(self.view)

    def result(self) -> Result:
        assert self.view is not None
        result = report(self.view.state)
        self._printer.end(self.view, result)
        return result

    async def until(self, engine: Engine | Remote, reached: Callable[[], bool]) -> None:
        """Raises what trouble the engine is in, and RefusedError where somebody else was faster."""
        while not reached():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await self._changed.wait()
            if engine.trouble is not None:
                raise engine.trouble
            if self.view is not None and not self._is_ours:
                raise _taken(self.view)
            if self.lost and not self.ended():
                self._read_journal(self.view)
            elif self.view is not None and not self.ended():
                self._printer.tick(self.view, asyncio.get_running_loop().time())

    def _read_journal(self, view: VmView | None) -> None:
        """How it ended. Raises Unreachable where the journal does not tell."""
        from vmtui import replay  # noqa: PLC0415 - it imports this module

        assert view is not None
        path = Path(view.journal)
        with contextlib.suppress(OSError):
            if has_ended(path):
                replay.play(path, kept := _Kept(), replay.ALL_AT_ONCE)
                self.view = kept.view
                return
        vm = printable(view.state.vm.shown)
        raise Unreachable(f"vmtui's engine ended, and the next one does not go on with {vm}; vmtui recover says why")

    def interrupted(self, engine: Engine | Remote) -> None:
        """Cancel; then say what would be left behind; only the third time leave it."""
        self._interrupts += 1
        if self._interrupts == 1:
            engine.request(CancelWish(self.key))
            self._printer.say("cancelling; wait for the checked end")
        elif isinstance(engine, Remote):
            self._printer.say("it is cancelled without this terminal too; vmtui attach shows it, vmtui jobs how it ended")
            os._exit(Exit.CANCELLED)
        elif self._interrupts == 2:
            self._printer.say(f"not finished yet: {self._left_behind()}; press Ctrl-C once more to leave it like that")
        else:
            self._printer.say("left as it is; vmtui resume VM makes the guest run with its card")
            os._exit(10 if self._touched() else 5)

    def left(self, number: signal.Signals) -> None:
        """Whoever only looks on goes."""
        assert self.view is not None
        job = printable(self.view.called)
        self._printer.say(f"it goes on without this terminal; vmtui attach {job} shows it, vmtui cancel {job} cancels it")
        os._exit(128 + number)

    def _touched(self) -> bool:
        return self.view is not None and self.view.state.work is not None and self.view.state.work.baseline is not None

    def _left_behind(self) -> str:
        work = self.view.state.work if self.view else None
        if self.view is None or work is None or not self._touched():
            return "nothing was changed"
        left = [f"run state {self.view.state.vm.runstate!r}", "the card and the settings as they are now"]
        if work.has_partial:
            left.append(f"{printable(work.options.output)}.partial")
        return "leaving now leaves " + ", ".join(left)


class _Kept:
    """A printer that only keeps the last view."""

    view: VmView | None = None

    def show(self, view: VmView) -> None: ...
    def tick(self, view: VmView, now: float) -> None: ...
    def say(self, text: str) -> None: ...

    def end(self, view: VmView, _result: Result) -> None:
        self.view = view


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Signals that the event loop takes meanwhile."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _looking_on(left: Callable[[signal.Signals], None]) -> contextlib.AbstractContextManager[None]:
    return _handled({number: partial(left, number) for number in (signal.SIGINT, signal.SIGTERM)})


@contextlib.contextmanager
def _signals(interrupted: Callable[[Engine | Remote], None], engine: Engine | Remote) -> Iterator[None]:
    """Where a login session is ended, systemd sends SIGTERM and then SIGHUP: nobody wants a save cancelled by that.

    Under nohup SIGHUP stays without a meaning, and SIGTERM keeps its own.
    """
    loop = asyncio.get_running_loop()
    hung_up = asyncio.Event()

    def end() -> None:
        if hung_up.is_set() and isinstance(engine, Remote):
            os._exit(128 + signal.SIGTERM)
        interrupted(engine)

    before = signal.getsignal(signal.SIGHUP)
    handlers: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGINT: partial(interrupted, engine),
        signal.SIGTERM: partial(loop.call_later, HANGUP_FOLLOWS, end),
    }
    if before != signal.SIG_IGN:
        handlers[signal.SIGHUP] = hung_up.set
    try:
        with _handled(handlers):
            yield
    finally:
        signal.signal(signal.SIGHUP, before)


# --- printers -----------------------------------------------------------------------------------------------------


class _Out:
    """A stream that may go away (a closed terminal, a pipe that nobody reads): that never ends a save."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class JsonPrinter:
    """NDJSON, one object a line, each with `t` (seconds from the start) and `kind`: docs/headless.md."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = _Out(stream or sys.stdout)
        self._talk = _Out(sys.stderr)
        self._began: float | None = None
        self._at = 0.0
        """`t` of the last line."""
        self._number = 0
        self._share: tuple[float, int] | None = None
        self._findings: tuple[Finding, ...] = ()
        self._verdict: tuple[Kind, str] | None = None

    def show(self, view: VmView) -> None:
        work = view.state.work
        assert work is not None
        self._began = work.started if self._began is None else self._began
        self._records(view)
        if work.findings != self._findings:
            self._findings = work.findings
            for each in work.findings:
                kind = "warning" if each.level is not Level.NOTE else "note"
                self._line(view.state.now, kind, msgspec.to_builtins(each))
        self._tell_verdict(view)
        self._progress(view, work)

    def _records(self, view: VmView) -> None:
        newest = view.log[-1].number if view.log else 0
        for record in view.log[-(newest - self._number) :] if newest > self._number else ():
            self._line(record.at, record.kind, record.data)
        self._number = newest

    def _tell_verdict(self, view: VmView) -> None:
        found = verdict.verdict(view.state)
        if found is None or found.kind is Kind.WAITING or (found.kind, found.agent) == self._verdict:
            return
        self._verdict = found.kind, found.agent
        said = {"verdict": found.kind, "line": found.line, "known": found.known, "agent": found.agent, "then": found.then}
        self._line(view.state.now, "verdict", said)

    def _progress(self, view: VmView, work: Workflow) -> None:
        written = _written(view, work)
        if written is not None and work.done_share > 0 and (work.done_share, written) != self._share:
            self._share = work.done_share, written
            numbers = {"share": round(work.done_share, 4), "written": written, "ram": pace.total(view.state)}
            self._line(view.state.now, "progress", numbers)

    def tick(self, view: VmView, now: float) -> None:
        pass

    def say(self, text: str) -> None:
        self._talk.write(f"vmtui: {text}\n")

    def end(self, view: VmView, result: Result) -> None:
        self._line(view.state.now, "result", msgspec.to_builtins(result))

    def _line(self, at: float, kind: str, data: dict[str, Any]) -> None:
        """What is told late does not turn the time back."""
        self._at = max(self._at, at - (self._began if self._began is not None else at))
        self._out.write(json.dumps({"t": round(self._at, 6), "kind": kind, **data}) + "\n")


def _written(view: VmView, work: Workflow) -> int | None:
    """Bytes of the file; None while they are not known. Of a dump QEMU tells only how much RAM went through it.

    When a save is complete QEMU's next numbers are of another migration: the file is asked then.
    """
    if work.options.goal is Goal.DUMP:
        return view.state.vm.dump.completed
    if work.done_share == 1:
        return work.file.size if work.file is not None else None
    return view.state.vm.migration.transferred if work.phase in pace.COPYING else None


class LinePrinter:
    """A line for each phase as it begins, and the proof at the end: for logs, pipes, NO_COLOR and TERM=dumb."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = _Out(stream or sys.stdout)
        self._known = 0
        self._told = False
        self._work: Workflow | None = None
        self._said_of = self._said_at = self._said_next = -1.0
        """When the phase began that is told of, when it was told of last, and after how long it is told of again."""
        self._said_tenth = 0

    def _end_of_save(self, view: VmView) -> None:
        """It gave up, and a dump follows."""
        before = msgspec.structs.replace(view.state, work=view.state.last, last=None)
        self._out.write(ending(VmView(before, view.log, view.journal)))
        self._known, self._told = 0, False

    def show(self, view: VmView) -> None:
        work = view.state.work
        assert work is not None
        if self._work is not None and self._work.started != work.started:
            self._end_of_save(view)
        self._work = work
        self._tell_plan(work)
        for phase, at in work.timeline[self._known :]:
            self._known += 1
            if phase is not Phase.DONE:
                self._phase(view, phase, at)
        self._still(view)

    def _tell_plan(self, work: Workflow) -> None:
        if self._told or work.phase is Phase.PREFLIGHT:
            return
        self._told = True
        if work.options.goal in (Goal.SAVE, Goal.DUMP) and work.baseline is not None:
            self._out.write(f"strategy  {words.strategy_line(work.strategy, work.why)}\n")
        for each in work.findings:
            if each.level is Level.WARNING or each.code in TOLD_BEFORE:
                self._out.write(words.finding_line(each.level, each.text, each.remedy) + "\n")

    def _phase(self, view: VmView, phase: Phase, at: float) -> None:
        status = words.status_word(view.state, view.log, phase, at)
        self._write(view, at, phase, words.meaning(the_work(view.state), phase) + status)

    def _write(self, view: VmView, at: float, phase: Phase, text: str) -> None:
        if text:
            self._out.write(f"{at - the_work(view.state).started:8.3f} s  {phase:9} {text}\n")

    def _still(self, view: VmView) -> None:
        """A line now and then while nothing else is told: somebody may read this as it grows."""
        work, now = the_work(view.state), view.state.now
        tenth = int(work.done_share * 10)
        if self._said_of != work.entered:
            self._said_of, self._said_at, self._said_tenth, self._said_next = work.entered, work.entered, tenth, STILL_FIRST
        waited = now - self._said_at
        if waited < min(self._said_next, STILL_APART) or work.outcome is not None:
            return
        if waited >= self._said_next or (tenth > self._said_tenth and work.phase in pace.COPYING):
            self._said_at, self._said_tenth, self._said_next = now, tenth, STILL_EVERY
            self._write(view, now, work.phase, going_on(view))

    def tick(self, view: VmView, now: float) -> None:
        self._still(view.at(now))

    def say(self, text: str) -> None:
        self._out.write(f"vmtui: {text}\n")

    def end(self, view: VmView, result: Result) -> None:
        self._out.write(ending(view))


class LivePrinter(LinePrinter):
    """For a terminal: one line that moves, and a line that stays for each phase that is over."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._drawn = 0.0

    def _phase(self, view: VmView, phase: Phase, at: float) -> None:
        self._clear()
        self._write(view, at, phase, words.meaning(the_work(view.state), phase))
        self._drawn = 0.0

    def _still(self, view: VmView) -> None:
        """Its last line moves."""

    def _tell_plan(self, work: Workflow) -> None:
        if not self._told:
            self._clear()
        super()._tell_plan(work)

    def show(self, view: VmView) -> None:
        super().show(view)
        if time.monotonic() - self._drawn >= REFRESH:
            self._draw(view)

    def tick(self, view: VmView, now: float) -> None:
        if view.state.work is not None:
            self._draw(view.at(now))

    def _draw(self, view: VmView) -> None:
        self._drawn = time.monotonic()
        self._clear()
        self._out.write(live_line(view)[: shutil.get_terminal_size().columns - 1])

    def _clear(self) -> None:
        self._out.write("\r\x1b[K")

    def say(self, text: str) -> None:
        self._clear()
        super().say(text)

    def end(self, view: VmView, result: Result) -> None:
        self._clear()
        super().end(view, result)


class EndPrinter(LinePrinter):
    """Only how it ended."""

    def show(self, view: VmView) -> None:
        pass


class JsonEndPrinter(JsonPrinter):
    """Only the result."""

    def show(self, view: VmView) -> None:
        work = view.state.work
        self._began = work.started if work is not None and self._began is None else self._began


def live_line(view: VmView) -> str:
    """The line that moves: phase, time in it, and what matters in it. 80 columns have no room for both times of a copy."""
    work = the_work(view.state)
    waited = words.about(max(view.state.now - work.entered, 0))
    head = f"{work.phase:9}" if _copies(work) and words.stopped_line(view.state) else f"{work.phase:9} {waited:>5}"
    return f"{head}  {going_on(view)}"


def _copies(work: Workflow) -> bool:
    return work.phase in pace.COPYING and not work.given_up and work.marks.lost is None


def going_on(view: VmView) -> str:
    """What matters in a phase that lasts."""
    state, copies = view.state, _copies(the_work(view.state))
    stood = words.stopped_line(state).removeprefix("guest " if copies else "")
    return "  ".join(filter(None, (words.progress_line(state) if copies else words.phase_line(state), stood)))


def _headline(view: VmView) -> str:
    """It begins with who speaks: the VM's name, or vmtui where no VM was reached."""
    line = words.headline(view.state)
    return f"vmtui: {line}" if line == words.ending(view.state) else line


def ending(view: VmView) -> str:
    """The last lines: what happened, and the card of proved facts."""
    lines = [_headline(view)]
    lines += [f"  {word:9} {text}" for word, text in words.proof(view.state)]
    return "\n".join(lines) + "\n"


def printer_for(*, as_json: bool) -> Printer:
    """NDJSON if asked for; one moving line on a terminal that can; plain lines elsewhere."""
    if as_json:
        return JsonPrinter()
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return LinePrinter() if plain else LivePrinter()


# --- check --------------------------------------------------------------------------------------------------------


class CheckPrinter(LinePrinter):
    """`vmtui check`: the findings, without the story of how they were found."""

    blocked = False

    def show(self, view: VmView) -> None:
        pass

    def end(self, view: VmView, result: Result) -> None:
        work, vm = view.state.work, view.state.vm
        assert work is not None
        self.blocked = work.blocked
        if work.failure is not None:
            self._out.write(_headline(view) + "\n")
            return
        self._out.write(
            f"{printable(vm.shown)}  {printable(vm.runstate)}, QEMU {vm.qemu}, {printable(vm.machine)}, "
            f"{words.size(vm.memory)} of RAM\n"
        )
        self._out.write(f"strategy  {words.strategy_line(work.strategy, work.why)}\n")
        for word, text in words.proof_of_cards(view.state):
            self._out.write(f"{word:8}  {text}\n")
        if work.place is not None:
            self._out.write(f"{'file':8}  {printable(work.place.path)}, {words.size(work.place.free)} free\n")
        for each in work.findings:
            self._out.write(words.finding_line(each.level, each.text, each.remedy) + "\n")
        self._out.write("it cannot be saved like this\n" if self.blocked else "it can be saved\n")


class CheckJsonPrinter(JsonPrinter):
    """`vmtui check --json`: one object."""

    blocked = False

    def show(self, view: VmView) -> None:
        pass

    def end(self, view: VmView, result: Result) -> None:
        work, vm = view.state.work, view.state.vm
        assert work is not None
        self.blocked = work.blocked
        self._out.write(
            json.dumps(
                {
                    "kind": "check",
                    "vm": vm.shown,
                    "uuid": vm.uuid or None,
                    "runstate": vm.runstate,
                    "qemu": vm.qemu,
                    "machine": vm.machine,
                    "memory": vm.memory,
                    "strategy": work.strategy,
                    "why": work.why,
                    "savable": not work.failure and not self.blocked,
                    "findings": msgspec.to_builtins(work.findings),
                    "primaries": [
                        {"id": card.device_id, "standby": card.standby_id, "card": card.card, "driven": card.driven}
                        for card in vm.primaries
                    ],
                    "expected_bytes": words.expected_bytes(view.state),
                    "place": msgspec.to_builtins(work.place),
                    "error": work.failure.text if work.failure else None,
                }
            )
            + "\n"
        )
