"""`vmtui replay`: a journal played through the same reducer, to the same printer, at any speed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vmtui.backend.core import workflow
from vmtui.backend.core.commands import Command
from vmtui.backend.core.errors import UsageError
from vmtui.backend.core.events import Answered, QmpEvent, Refused
from vmtui.backend.core.fleet import Record, VmView
from vmtui.backend.core.model import Phase, Vm
from vmtui.backend.core.result import report
from vmtui.backend.core.state import State
from vmtui.backend.core.text import printable
from vmtui.backend.journal import EventLine, FactsLine, Head, Line, read_journal
from vmtui.backend.unfinished import MISFIT
from vmtui.headless import Printer, printer_for

ALL_AT_ONCE = 1e9


def show(path: Path, *, speed: float, as_json: bool) -> int:
    """Play a journal; the exit code is the one that the save had, 1 where the journal ends before it."""
    return play(path, printer_for(as_json=as_json), speed)


def play(path: Path, printer: Printer, speed: float) -> int:
    """As `show`, to any printer."""
    player = _Player(printer, speed)
    try:
        for line in read_journal(path):
            player.take(line)
        return player.end()
    except MISFIT as error:
        raise UsageError(f"the lines of {printable(str(path), 300)} do not fit together") from error


class _Player:
    def __init__(self, printer: Printer, speed: float) -> None:
        self._printer = printer
        self._speed = speed
        self._state = State(Vm(""))
        self._log: tuple[Record, ...] = ()
        self._began: tuple[float, float] | None = None

    def take(self, line: Line) -> None:
        match line:
            case Head(key=key):
                self._state = State(Vm(key))
            case FactsLine(vm=vm):
                self._state = State(vm)
            case EventLine(t=at, event=event):
                self._wait_until(at)
                before = self._state
                self._state = workflow.step(before, event)
                self._record(at, before, event)
                view = VmView(self._state, self._log)
                if self._state.work is not None:
                    self._printer.show(view)

    def _wait_until(self, at: float) -> None:
        """Stand where the recorded clock stood."""
        now = time.monotonic()
        if self._began is None:
            self._began = (at, now)
        due = self._began[1] + (at - self._began[0]) / self._speed
        time.sleep(max(due - now, 0))

    def _record(self, at: float, before: State, event: Any) -> None:
        for kind, data in _records(before, self._state, event):
            self._log = (
                *self._log[-50:],
                Record(len(self._log) + 1 if not self._log else self._log[-1].number + 1, at, kind, data),
            )

    def end(self) -> int:
        if self._state.work is None:
            raise UsageError("this journal holds no workflow")
        view = VmView(self._state, self._log)
        if self._state.work.phase is not Phase.DONE:
            self._printer.say(f"the journal ends in phase {self._state.work.phase}: vmtui was ended there")
            return 1
        result = report(self._state)
        self._printer.end(view, result)
        return int(result.exit_code)


def _records(before: State, after: State, event: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `save --json` would have shown of this step: replies by their meaning, not by their letter."""
    match event:
        case QmpEvent(name=name, data=data):
            yield "qmp", {"dir": "recv", "msg": {"event": name, "data": data}}
        case Answered(learned=learned):
            yield "qmp", {"dir": "recv", "learned": msgspec.to_builtins(learned)}
        case Refused(text=text, error_class=name):
            yield "qmp", {"dir": "recv", "msg": {"error": {"class": name, "desc": text}}}
    if after.actions != before.actions and isinstance(after.outstanding, Command):
        command = after.outstanding
        yield "qmp", {"dir": "send", "msg": {"execute": command.execute, "arguments": command.arguments}}
    if after.work is not None:
        known = len(before.work.timeline) if before.work else 0
        for phase, _at in after.work.timeline[known:]:
            yield "phase", {"phase": phase, "status": after.work.status}
