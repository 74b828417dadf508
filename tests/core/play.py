"""A workflow played against the twin by a test that says in a line what goes wrong.

`Play` is a `World` (tests/explore) that takes its own choices: faults are given as functions, and every action is noted.
"""

from collections.abc import Callable
from typing import Any

from tests.explore.world import BACK_AFTER, LATENCY, Choice, Point, Reply, Store, World
from vmtui.backend.core.commands import Action, Command
from vmtui.backend.core.events import AnyEvent, QmpEvent
from vmtui.backend.core.model import Options, Phase
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import STOCK_10_0, Profile, Scenario

Fault = Callable[["Play", Action], str | None]
"""Looks at an action about to be sent: None lets it pass, a word makes it fail that way (see `Play._faulty`)."""


class Play(World):
    def __init__(
        self,
        profile: Profile = STOCK_10_0,
        scenario: Scenario | None = None,
        options: Options | None = None,
        *,
        ram: int = 256 << 20,
        store: Store | None = None,
        fault: Fault | None = None,
        on_event: Callable[["Play", QmpEvent], list[AnyEvent]] | None = None,
        back_after: float | None = BACK_AFTER,
        reply: Callable[[Command, Any], Any] | None = None,
        latency: float = LATENCY,
        argv: tuple[str, ...] | None = None,
        pid: int = 1,
        watch: Callable[["Play"], None] | None = None,
    ) -> None:
        """`reply` looks at what the twin replies, and gives what is replied instead. `watch` is called after every step
        of the workflow: it may call `cancel` or `drop`."""
        super().__init__(
            profile, scenario, options, ram=ram, store=store, back_after=back_after, latency=latency, argv=argv, pid=pid
        )
        self.fault, self.on_event, self.reply, self.watch = fault, on_event, reply, watch
        self.sent: list[Action] = []
        self.drops = 0
        self.steps = 0

    def run(self) -> Result:
        """Play to the end, and say how it ended."""
        self.start()
        while not self.done:
            self.turn()
        return report(self.state)

    def rest(self) -> None:
        """Play on until nothing is asked any more: all that a VM without a workflow does by itself."""
        while self.state.outstanding is not None:
            self.turn()

    def phases(self) -> list[Phase]:
        return [phase for phase, _at in self.work.timeline]

    def commands(self, name: str) -> list[Command]:
        return [each for each in self.sent if isinstance(each, Command) and each.execute == name]

    def turn(self) -> None:
        """The next thing happens, in the way that the test wants."""
        point = self.point()
        if point is Point.ACTION and self.fault is not None and self.state.outstanding is not None:
            self._faulty(self.fault(self, self.state.outstanding))
        elif point is Point.EVENT and self.on_event is not None:
            self._events(self.on_event)
        else:
            self.take()

    def _faulty(self, how: str | None) -> None:
        if how is not None and not isinstance(self.state.outstanding, Command):
            self.take(Choice.REFUSE)
            return
        if how == "refuse-foreign":
            self.refuse("There's a migration process in progress")
        elif how == "drop-before":
            self.take(Choice.DROP)
        else:
            self.take(Choice.REFUSE if how == "refuse" else Choice.PASS)
        if how == "drop-after" and self.point() is not None and self.linked:
            self.take(Choice.DROP)
        elif how == "lose-reply":
            self.queue = tuple(each for each in self.queue if not isinstance(each, Reply))

    def _events(self, on_event: Callable[["Play", QmpEvent], list[AnyEvent]]) -> None:
        event, self.queue = self.queue[0], self.queue[1:]
        assert isinstance(event, QmpEvent)
        for each in on_event(self, QmpEvent(self.now, event.name, event.data)):
            if not self.done:
                self.step(each)
        self.settle()

    def step(self, event: AnyEvent) -> None:
        self.steps += 1
        before = self.state.actions
        super().step(event)
        if self.state.actions != before and self.state.outstanding is not None:
            self.sent.append(self.state.outstanding)
        if self.watch is not None and self.state.work is not None and not self.done:
            watch, self.watch = self.watch, None  # what it does is not watched in turn
            watch(self)
            self.watch = watch

    def drop(self, *, for_good: bool = False) -> None:
        self.drops += 1
        super().drop(for_good=for_good)

    def meaning(self, command: Command, reply: dict[str, Any]) -> AnyEvent:
        if self.reply is not None and "return" in reply:
            reply = {"return": self.reply(command, reply["return"])}
        return super().meaning(command, reply)
