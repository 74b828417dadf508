"""The flat text mode: the same facts as lines, for screen readers and terminals that can do no more. `vmtui --plain`.

One line for each thing that has changed, with the time; a line of words in asks for something. No cursor is moved, nothing
is drawn over.
"""

import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from vmtui.backend import config, discovery, remote
from vmtui.backend.core import conditions as is_
from vmtui.backend.core import glance, words
from vmtui.backend.core.errors import Exit
from vmtui.backend.core.fleet import Begin, CancelWish, Fleet, LetRunWish, Request, SurveyWish, VmView, WaitWish
from vmtui.backend.core.model import Goal, Options, Phase
from vmtui.backend.core.state import State
from vmtui.backend.core.text import printable
from vmtui.backend.service import Service

HELP = """\
list              every VM, a line each
show VM           what there is to know of one
save VM           save it; what happens is told as it happens
cancel VM         undo what is under way, in any phase
wait VM SECONDS   give its guest more time to let go of its card
run VM            resume a guest that is paused, or was left paused, and bring its card back
look              look for VMs again
quit              end; what is under way goes on to its checked end
"""
QUARTERS = 4
"""A copy is told of at each quarter, not at each step."""


class Source(Protocol):
    @property
    def fleet(self) -> Fleet: ...
    def request(self, request: Request) -> None: ...


class Plain:
    """`changes` gives the lines that are new; `obey` takes a line of the user's. `place` names the file for a VM."""

    def __init__(
        self, source: Source, place: Callable[[str], str], *, read_only: bool = False, outlives: bool = False
    ) -> None:
        self._source = source
        self._place = place
        self._read_only = read_only
        self.outlives = outlives
        """What is under way goes on when this ends."""
        self._told: dict[str, tuple[str, ...]] = {}
        self._ended: dict[str, float] = {}
        self._trouble = ""
        self.leaving = False
        """The user wants to end."""

    @property
    def busy(self) -> bool:
        return any(view.state.busy for view in self._source.fleet.vms.values())

    # --- out ------------------------------------------------------------------------------------------------------

    def changes(self, clock: str) -> Iterator[str]:
        """What has changed since this was last read; `clock` is the time of day."""
        fleet = self._source.fleet
        if fleet.host.trouble != self._trouble:
            self._trouble = fleet.host.trouble
            yield from filter(None, [self._trouble])
        for key in self._told.keys() - fleet.vms.keys():
            del self._told[key]
        for view in sorted(fleet.vms.values(), key=lambda each: each.state.vm.shown):
            yield from (f"{clock} {line}" for line in self._news(view))

    def _news(self, view: VmView) -> Iterator[str]:
        state, key = view.state, view.state.vm.key
        name = printable(state.vm.name or view.name or key, 60)
        now, before = facts(state), self._told.get(key)
        if glance.known(state) and now != before:
            self._told[key] = now
            news = now if before is None else (part for part, was in zip(now, before, strict=True) if part != was)
            if said := ", ".join(filter(None, news)):
                yield f"{name}: {said}"
        work = state.work
        if work is not None and work.outcome is not None and self._ended.get(key) != work.started:
            self._ended[key] = work.started
            yield words.headline(state)
            yield from (f"  {word}: {text}" for word, text in words.proof(state))

    # --- in -------------------------------------------------------------------------------------------------------

    def obey(self, line: str) -> str:
        """Do what a line asks for; what there is to say to that."""
        try:
            word, *rest = shlex.split(line) or [""]
        except ValueError:
            return "a quote is not closed"
        match word, rest:
            case "", []:
                return ""
            case "help" | "?", []:
                return HELP.rstrip()
            case "quit" | "exit", []:
                self.leaving = True
                return self._leaving() if self.busy else ""
            case "list", []:
                return "\n".join(self._list()) or glance.nothing(self._source.fleet.host, False)
            case "look", []:
                self._source.request(SurveyWish())
                return "looking"
            case (("show" | "save" | "cancel" | "run"), [name]):
                return self._about(name, lambda view: self._do(word, view))
            case "wait", [name, seconds] if seconds.isdigit() and 0 < int(seconds) < 1_000_000:
                return self._about(name, lambda view: self._ask(WaitWish(view.state.vm.key, int(seconds)), "waiting on"))
        return f"{printable(line, 80)!r} is not understood; help says what is"

    def end(self) -> str:
        """For a signal: leave; where the engine ends with this, the next one cancels what is under way first."""
        if not self.leaving or self.outlives:
            self.leaving = True
            return self._leaving() if self.busy else ""
        for key, view in self._source.fleet.vms.items():
            if view.state.busy:
                self._source.request(CancelWish(key))
        return "cancelling; wait for the checked end"

    def _leaving(self) -> str:
        if self.outlives:
            return "vmtui's engine goes on with what is under way; vmtui attach shows it"
        return "what is under way goes on to its end first; cancel VM undoes it"

    def _list(self) -> Iterator[str]:
        for each in glance.glances(self._source.fleet):
            card = f"card {each.card.word}" if each.card.word else ""
            yield f"{each.name}: " + ", ".join(filter(None, (each.state.word, each.doing.word, card)))

    def _about(self, name: str, do: Callable[[VmView], str]) -> str:
        views = self._source.fleet.vms.values()
        found = [view for view in views if name in (view.state.vm.name, view.name, view.state.vm.key)]
        if len(found) == 1:
            return do(found[0])
        return f"{len(found)} VMs are called {printable(name, 60)!r}; list shows them"

    def _do(self, word: str, view: VmView) -> str:
        state, key = view.state, view.state.vm.key
        match word:
            case "show":
                lines = glance.detail(view, self._source.fleet, state.now)
                return "\n".join(f"{label}: {text}" for label, text, _tone in lines)
            case "cancel":
                return self._ask(CancelWish(key), "cancelling; wait for the checked end") if state.busy else "nothing runs"
            case "run" if state.busy:
                return self._ask(LetRunWish(key), "it is resumed, so that it can answer")
            case "run":
                return self._ask(Begin(key, Options(goal=Goal.RESUME)), "resuming it")
        if state.busy:
            return "something is under way on it already"
        place = self._place(state.vm.name or view.name)
        return self._ask(Begin(key, Options(output=place)), f"saving it to {printable(place, 300)}")

    def _ask(self, request: Request, said: str) -> str:
        if self._read_only:
            return "read-only: nothing is changed (started with --read-only)"
        self._source.request(request)
        return said


def facts(state: State) -> tuple[str, ...]:
    """What is told of a VM, in words that change only when something has happened."""
    vm, work = state.vm, state.work
    doing = glance.doing(state).word
    if work is not None and state.busy:
        doing = words.MEANING[work.phase] if work.phase is not Phase.UNPLUG else f"unplug: {words.verdict_word(state)}"
        if work.phase is Phase.SAVE:
            doing += f", {int(work.done_share * QUARTERS) * 100 // QUARTERS}% done"
        if work.given_up:
            doing += " (undoing)"
    elif not is_.somebody_else_migrates(state):
        doing = ""
    card = glance.card_of(state).word
    return glance.state_of(vm).word, doing, f"card {card}" if card else "", printable(vm.why_lost, 300)


def show(names: Sequence[str], *, directory: str | None = None, read_only: bool = False) -> int:
    """The flat text mode, until its input ends or says so; what is under way goes on to its end first."""
    place = config.named_directory(directory)
    vms = discovery.discover() if names else ()
    remote.ensure()
    service = Service(place, [discovery.resolve(name, vms) for name in names])
    plain = Plain(
        service,
        lambda name: str(config.default_output(place, name)),
        read_only=read_only,
        outlives=not remote.is_inside(),
    )
    heard, told = os.pipe()
    asked: list[int] = []

    def told_to_end(number: int, _frame: object) -> None:
        asked.append(number)
        _wake(told)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told_to_end)
    service.start(lambda _fleet: _wake(told))
    print("vmtui: one line for each thing that changes; help says what can be asked for")
    try:
        _talk(plain, heard, asked)
    finally:
        service.stop()
        os.close(heard)
        os.close(told)
    if service.error is not None:
        raise service.error
    return Exit.OK


def _wake(told: int) -> None:
    with suppress(OSError):
        os.write(told, b".")


def _talk(plain: Plain, heard: int, signals: list[int]) -> None:
    """`signals` are those that were got and not looked at yet."""
    waiting = [sys.stdin.fileno(), heard]
    unread = b""
    while not plain.leaving or (plain.busy and remote.is_inside()):
        ready = select.select(waiting, [], [], 1.0)[0]
        if heard in ready:
            os.read(heard, 1 << 16)
        while signals:
            signals.pop()
            _say(plain.end())
        if sys.stdin.fileno() in ready:
            data = b""
            with suppress(OSError):  # a terminal that is gone
                data = os.read(sys.stdin.fileno(), 1 << 16)
            if not data:
                plain.leaving = True
                waiting.remove(sys.stdin.fileno())
            *asked, unread = (unread + data).split(b"\n")
            for words_in in asked:
                _say(plain.obey(words_in.decode(errors="replace")))
        for line in plain.changes(words.time_of_day(time.time())):
            _say(line)


def _say(text: str) -> None:
    """A reader that has gone ends nothing."""
    with suppress(OSError, ValueError):
        print(text, end="\n" if text else "", flush=True)
