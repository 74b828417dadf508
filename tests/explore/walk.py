"""Every way from a root to an end with at most so many deviations, each state looked at once.

Depth first, over choice points. A state that is known (`key`) is not walked again: the paths on from it are counted
already. A failure comes with its recipe, the deviations by the number of the step: `replay` plays it from the beginning.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.explore.invariants import Verdict, broken, judged, waits_as_asked
from tests.explore.key import key
from tests.explore.world import FOR_EVER, LIMIT, Choice, Point, StuckError, World

Counts = tuple[int, ...]
"""Paths from a state to an end, by how many deviations are on them."""


class Deviation(NamedTuple):
    """At this step (or the first after it where that is possible) this goes wrong."""

    step: int
    choice: Choice
    about: str = ""
    """What it happened to, for people."""

    def __str__(self) -> str:
        return f"{self.step}: {self.choice} ({self.about})"


Recipe = tuple[Deviation, ...]


@dataclass
class Found:
    """What a walk has seen."""

    states: int = 0
    """Distinct ones."""
    steps: int = 0
    """Taken: the transitions of the graph."""
    runs: int = 0
    """Walked to an end or to a state that was known."""
    paths: int = 0
    """Different ones from the root to an end, over all that was walked."""
    waiting: int = 0
    """Of the runs: those that wait for ever for a guest, as the user asked."""
    ends: Counter[Verdict] = field(default_factory=Counter)
    """Walked to, by what was found there."""
    examples: dict[Verdict, Recipe] = field(default_factory=dict)
    """The first recipe to each."""
    failures: list[tuple[str, Recipe]] = field(default_factory=list)
    complete: bool = True
    """False where time ran out."""


@dataclass(slots=True)
class _Frame:
    """A state on the way from the root to where the walk is."""

    world: World
    key: int
    budget: int
    choices: list[Choice]
    """Still to be taken."""
    recipe: Recipe
    counts: list[int]
    owes: int = 0
    """How many deviations lie between the state before and this one."""


def walk(
    root: Callable[[], World],
    depth: int,
    *,
    kinds: Collection[Choice] = tuple(Choice),
    merge: bool = True,
    until: float = float("inf"),
    most_failures: int = 5,
) -> Found:
    """Walk from a fresh `root` with at most `depth` deviations of these `kinds`.

    Without `merge` no state is recognized: every path is walked to its end. `until` is a time of `time.monotonic`.
    """
    return _Walk(depth, kinds, merge, until, most_failures).go(root())


class _Walk:
    def __init__(self, depth: int, kinds: Collection[Choice], merge: bool, until: float, most_failures: int) -> None:
        self.depth = depth
        self.kinds = frozenset(kinds)
        self.merge = merge
        self.until = until
        self.most_failures = most_failures
        self.found = Found()
        self.known: dict[int, Counts] = {}
        self.on_path: dict[int, int] = {}
        """The states on the way here, and the budget that they were entered with."""

    def go(self, world: World) -> Found:
        world.start()
        stack: list[_Frame] = []
        self._enter(world, self.depth, (), 0, stack)
        while stack:
            frame = stack[-1]
            if not frame.choices or len(self.found.failures) >= self.most_failures:
                self._leave(stack)
            else:
                self._step(frame, stack)
            if self.found.steps % 256 == 0 and time.monotonic() > self.until:
                self.found.complete = False
                break
        while stack:
            self._leave(stack)
        self.found.states = len(self.known)
        return self.found

    def _to_next_action(self, world: World) -> None:
        """Where nothing may go wrong any more, states are told apart only when something is done."""
        while not world.done and world.point() is not Point.ACTION:
            world.take()
            self.found.steps += 1

    def _step(self, frame: _Frame, stack: list[_Frame]) -> None:
        choice = frame.choices.pop()
        world = frame.world.clone() if frame.choices else frame.world
        cost = 0 if choice is Choice.PASS else frame.budget if choice in FOR_EVER else 1
        recipe = frame.recipe
        if cost:
            recipe = (*recipe, Deviation(world.points, choice, world.about()))
        self.found.steps += 1
        before = world.state
        try:
            world.take(choice)
            if choice is Choice.CANCEL and world.state.work == before.work:
                return  # it came too late to change anything
            self._enter(world, frame.budget - cost, recipe, cost, stack)
        except (StuckError, RuntimeError) as error:
            if world.now >= LIMIT and waits_as_asked(world):
                self._waits(cost, stack)
            else:
                self._failed(str(error), recipe)

    def _enter(self, world: World, budget: int, recipe: Recipe, cost: int, stack: list[_Frame]) -> None:
        if not budget:
            self._to_next_action(world)
        if world.done:
            self._ended(world, recipe)
            self._count(stack, cost, (1,))
            return
        state = key(world) if self.merge else len(self.known)
        known = self.known.get(state)
        if state in self.on_path and self.on_path[state] <= budget:
            self._goes_round(world, recipe, cost, stack)
            return
        if known is not None and len(known) > budget:
            self.found.runs += 1
            self._count(stack, cost, known[: budget + 1])
            return
        deviations = [each for each in reversed(world.deviations()) if self._allowed(each, budget)] if budget else []
        self.on_path[state] = budget
        frame = _Frame(world, state, budget, [*deviations, Choice.PASS], recipe, [0] * (budget + 1), cost)
        stack.append(frame)
        if not self.merge:
            self.known[state] = ()

    def _allowed(self, choice: Choice, budget: int) -> bool:
        return choice in self.kinds and (choice not in FOR_EVER or budget == self.depth)

    def _leave(self, stack: list[_Frame]) -> None:
        frame = stack.pop()
        self.on_path.pop(frame.key, None)
        counts = tuple(frame.counts)
        self.known[frame.key] = counts
        if stack:
            self._count(stack, frame.owes, counts)
        else:
            self.found.paths = sum(counts)

    @staticmethod
    def _count(stack: list[_Frame], cost: int, counts: Counts) -> None:
        if not stack:
            return
        above = stack[-1].counts
        for number, count in enumerate(counts):
            if number + cost < len(above):
                above[number + cost] += count

    def _goes_round(self, world: World, recipe: Recipe, cost: int, stack: list[_Frame]) -> None:
        if not waits_as_asked(world):
            self._failed(f"it goes round in circles in {world.work.phase}", recipe)
        self._waits(cost, stack)

    def _waits(self, cost: int, stack: list[_Frame]) -> None:
        """To wait for ever is an end where the user asked for it, and nowhere else. No state need come again: QEMU looks
        every 250 ms, and vmtui a little more seldom."""
        self.found.runs += 1
        self.found.waiting += 1
        self._count(stack, cost, (1,))

    def _ended(self, world: World, recipe: Recipe) -> None:
        self.found.runs += 1
        verdict = judged(world)
        self.found.ends[verdict] += 1
        self.found.examples.setdefault(verdict, recipe)
        for text in broken(world):
            self._failed(text, recipe)

    def _failed(self, text: str, recipe: Recipe) -> None:
        self.found.failures.append((text, recipe))


def replay(world: World, recipe: Recipe) -> World:
    """Play from the beginning to the end, with these deviations; raises StuckError where there is no end."""
    world.start()
    left = list(recipe)
    while not world.done:
        due = bool(left) and world.points >= left[0].step and left[0].choice in world.deviations()
        world.take(left.pop(0).choice if due else Choice.PASS)
    return world
