"""`vmtui params`: the migration parameters and capabilities of a VM's QEMU, shown or set, without a screen."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vmtui.backend.core import parameters
from vmtui.backend.core.conditions import SAVING
from vmtui.backend.core.errors import EXIT_OF, Unreachable, UsageError, VmtuiError
from vmtui.backend.core.fleet import Fleet, TuneWish
from vmtui.backend.core.model import Fact, Link, Phase
from vmtui.backend.core.parameters import BadValue, Entry
from vmtui.backend.core.state import State, Tuned, Watching
from vmtui.backend.core.text import did_you_mean, printable
from vmtui.backend.core.tuning import BANDWIDTH
from vmtui.backend.discovery import Address, FoundVm, Peer, process
from vmtui.backend.engine import Engine
from vmtui.backend.remote import Remote, open_engine
from vmtui.headless import ended

TOLD = (Fact.NAME, Fact.MIGRATION, Fact.FEATURES, Fact.PARAMETERS, Fact.CAPABILITIES)
"""What must be known before anything is shown or set."""
CHANGING = (Fact.PARAMETERS, Fact.CAPABILITIES)
LIMIT = 30.0
"""Seconds for QEMU to tell all that, or to set what was asked for."""


def show(vm: FoundVm, wanted: Sequence[str], *, as_json: bool) -> int:
    """Print all settings, or those that are named; set those that are given a value first, all in one wish.

    Raises UsageError for a name or a value that this QEMU does not take, Unreachable, or VmtuiError with QEMU's refusal.
    """
    settings = ended(_settings(vm.monitor, process(vm.pid) if vm.pid else None, wanted))
    (_print_json if as_json else _print_table)(settings, alone=bool(wanted))
    return 0


async def _settings(address: Address, peer: Peer | None, wanted: Sequence[str]) -> tuple[Entry, ...]:
    front = _Front(str(address))
    async with open_engine(front.take) as engine:
        engine.watch(address, peer, Watching.CLOSELY)
        return await _asked(engine, front, wanted)


async def _asked(engine: Engine | Remote, front: "_Front", wanted: Sequence[str]) -> tuple[Entry, ...]:
    began = asyncio.get_running_loop().time()
    state = await front.until(engine, lambda now: _told(now, began))
    names, wish = _read(front.key, parameters.entries(state), wanted)
    if wish is not None:
        before = state.tuned
        engine.request(wish)
        state = await front.until(engine, lambda now: _settled(now, before, wish))
        _raise_if_not_set(state, wish, front.refusal)
    entries = parameters.entries(state)
    return tuple(each for each in entries if each.name in names) if wanted else entries


class _Front:
    """The latest state of the VM, and somebody who waits for it to become something."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.refusal: Tuned | None = None
        """The first: parameters and capabilities are two commands."""
        self._state: State | None = None
        self._changed = asyncio.Event()

    def take(self, fleet: Fleet) -> None:
        if (view := fleet.vms.get(self.key)) is not None:
            self._state = view.state
            if self._state.tuned is not None and self._state.tuned.trouble is not None:
                self.refusal = self.refusal or self._state.tuned
        self._changed.set()

    async def until(self, engine: Engine | Remote, reached: Callable[[State], bool]) -> State:
        """Raises what trouble the engine is in; Unreachable when the monitor cannot be used, or does not answer in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    if engine.trouble is not None:
                        raise engine.trouble
                    state = self._state
                    if state is not None and reached(state):
                        return state
                    if state is not None and state.vm.link in (Link.LOST, Link.GONE):
                        raise Unreachable(state.vm.why_lost or "QEMU has ended")
        raise Unreachable(f"QEMU does not answer: nothing within {LIMIT:g} s")


def _told(state: State, since: float = 0.0) -> bool:
    """All that is needed is known, and what may have changed was asked since then. A save knows what it has set itself."""
    seen = state.vm.seen
    if state.vm.link is not Link.UP or not all(fact in seen for fact in TOLD if not (state.busy and fact in CHANGING)):
        return False
    return state.busy or all(seen[fact] >= since for fact in CHANGING)


def _settled(state: State, before: Tuned | None, wish: TuneWish) -> bool:
    """All of it was set or refused, and QEMU has said since then what the values are."""
    tuned = state.tuned
    if tuned is None or tuned == before or state.tunes or not _told(state):
        return False
    return not state.busy or tuned.trouble is not None or not _not_set(state, wish)


def _not_set(state: State, wish: TuneWish) -> list[str]:
    """What is not as it was asked for. A save keeps the bandwidth for its copy, where that has not begun."""
    now, work = {**state.vm.parameters, **state.vm.capabilities}, state.work
    if work is not None and state.busy and work.bandwidth is not None and work.phase in SAVING - {Phase.SAVE}:
        now[BANDWIDTH] = work.bandwidth
    return [name for name, value in {**wish.parameters, **wish.capabilities}.items() if now.get(name) != value]


# --- what was asked for -------------------------------------------------------------------------------------------


def _read(key: str, entries: Sequence[Entry], wanted: Sequence[str]) -> tuple[set[str], TuneWish | None]:
    """The names, and what is to be set. Half of a command line is never set: one bad value refuses all of it."""
    known = {each.name: each for each in entries}
    names: set[str] = set()
    values: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for word in wanted:
        name, given, text = word.partition("=")
        entry = known.get(name)
        if entry is None:
            raise UsageError(
                f"this QEMU has no migration parameter or capability {printable(name, 60)!r}{did_you_mean(name, known)}"
            )
        names.add(name)
        if given:
            values[entry.capability][name] = _value(entry, text)
    wish = TuneWish(key, values[False], values[True])
    return names, wish if wish.parameters or wish.capabilities else None


def _value(entry: Entry, text: str) -> Any:
    try:
        return parameters.parsed(entry.setting, text)
    except BadValue as error:
        raise UsageError(f"{printable(entry.name)}={printable(text, 60)}: {error}") from error


def _raise_if_not_set(state: State, wish: TuneWish, refusal: Tuned | None) -> None:
    """What counts is what QEMU says its values are; what it said on the way explains it."""
    asked, not_set = {**wish.parameters, **wish.capabilities}, _not_set(state, wish)
    if not not_set:
        return
    were_set = ", ".join(printable(name) for name in asked if name not in not_set)
    why = printable(refusal.error, 500) if refusal else "QEMU took it, but has another value"
    text = f"{', '.join(map(printable, not_set))} not set: {why}"
    error = VmtuiError(f"{text}; {were_set} was set" if were_set else text)
    if refusal is not None and refusal.trouble is not None:
        error.code = EXIT_OF[refusal.trouble]
    raise error


# --- what is printed ----------------------------------------------------------------------------------------------


def _print_json(entries: Sequence[Entry], *, alone: bool) -> None:
    del alone
    for each in entries:
        print(json.dumps(as_json(each)))


def as_json(entry: Entry) -> dict[str, Any]:
    """One object of `params --json`: docs/headless.md."""
    known = parameters.about(entry.name)
    return {
        "kind": "capability" if entry.capability else "parameter",
        "name": entry.name,
        "value": entry.value,
        "type": "list" if entry.setting.kind == "other" else entry.setting.kind,
        "choices": list(entry.setting.choices),
        "unit": known.unit or None,
        "default": known.default,
        "marks": list(entry.setting.marks),
        "meaning": entry.meaning,
    }


def _print_table(entries: Sequence[Entry], *, alone: bool) -> None:
    rows = [("NAME", "VALUE", "DEFAULT", "TYPE", "MEANING"), *map(_row, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows[1:] if alone else rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip())
    if not entries:
        sys.stderr.write("this QEMU tells no migration parameters\n")


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    default = entry.default or "-"
    marks = f" ({entry.marks})" if entry.marks else ""
    value = entry.shown if entry.standing else f"{entry.shown} *"
    return printable(entry.name, 60), value, default, entry.kind, f"{entry.meaning}{marks}"
