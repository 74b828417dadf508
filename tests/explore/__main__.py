"""`make explore`: walk from every root, as deep as the time allows, and say what was found.

In rounds, each with its share of the time (`rounds`): what a round leaves over is the next one's. In a round the roots that
matter most come first, and a guest that is waited for long comes last. What could not be finished in time is said. Exits
with 1 where an invariant does not hold.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool

from tests.explore.invariants import Verdict
from tests.explore.roots import LONG, Root, roots
from tests.explore.walk import Found, Recipe, walk
from tests.explore.world import BREAKS, Choice

EVERY = 30.0
"""Seconds after which progress is told again."""


@dataclass(frozen=True, slots=True)
class Round:
    name: str
    depth: int
    kinds: frozenset[Choice]
    guests: frozenset[str]
    share: float
    """Of the whole time, until which it goes at most."""


def rounds(depth: int) -> tuple[Round, ...]:
    """Once anything, everywhere; more often what breaks off a story, where it is short; then anything, that often."""
    everywhere, short = frozenset(root.guest for root in roots()), frozenset({"no-failover"})
    anything = frozenset(Choice)
    once = Round("anything", 1, anything, everywhere, 0.5 if depth > 1 else 1.0)
    breaks = Round("breaks", depth + 1, BREAKS, short, 0.65)
    deeper = tuple(Round("anything", each, anything, everywhere, 1.0) for each in range(2, depth + 1))
    return (once, breaks, *deeper) if depth > 1 else (once,)


@dataclass(frozen=True, slots=True)
class Task:
    root: Root
    round: Round
    until: float


@dataclass(frozen=True, slots=True)
class Done:
    task: Task
    found: Found
    seconds: float
    """Of CPU."""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    began, seconds = time.monotonic(), options.minutes * 60
    chosen = [root for root in roots() if all(word in str(root).split() for word in options.only)]
    chosen.sort(key=lambda root: root.guest in LONG)
    done: list[Done] = []
    with Pool(options.jobs) as pool:
        for each in rounds(options.depth):
            until = began + each.share * seconds
            tasks = [Task(root, each, until) for root in chosen if root.guest in each.guests]
            done += _told(pool.imap_unordered(_walk, tasks), len(tasks), each)
    _report(done)
    return int(any(each.found.failures for each in done))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.explore", description="Walk every way a workflow can go.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, at most (10)")
    parser.add_argument("--depth", type=int, default=2, help="how many deviations on one path, at most (2)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("only", nargs="*", help="only roots with these words: a profile, a wish, a guest")
    return parser


def _walk(task: Task) -> Done:
    began = time.process_time()
    if time.monotonic() >= task.until:
        return Done(task, Found(complete=False), 0.0)
    found = walk(task.root, task.round.depth, kinds=task.round.kinds, until=task.until)
    return Done(task, found, time.process_time() - began)


def _told(results: Iterator[Done], total: int, about: Round) -> Iterator[Done]:
    """Progress goes to stderr, and failures at once."""
    began = told = time.monotonic()
    states = paths = 0
    for number, each in enumerate(results, 1):
        states, paths = states + each.found.states, paths + each.found.paths
        for text, recipe in each.found.failures:
            print(f"{each.task.root}: {text}\n    {_shown(recipe)}", file=sys.stderr)
        if (now := time.monotonic()) - told >= EVERY or number == total:
            told = now
            seen = f"{number} of {total} roots, {states:,} states, {paths:,} paths"
            print(f"{about.name}, {about.depth} deep: {seen} in {now - began:.0f} s", file=sys.stderr, flush=True)
        yield each


def _shown(recipe: Recipe) -> str:
    return "; ".join(map(str, recipe)) or "nothing goes wrong"


def _report(done: list[Done]) -> None:
    print(
        f"{'what':<9} {'deep':>4} {'roots':>9} {'states':>11} {'transitions':>12} {'walked':>11} {'paths':>13} {'CPU s':>7}"
    )
    for about in dict.fromkeys(each.task.round for each in done):
        _line(about.name, about.depth, [each for each in done if each.task.round == about])
    _line("all", "", done)
    print(f"""
anything     any deviation, that many times on one path at most
breaks       {", ".join(sorted(BREAKS))}
roots        finished, of those that there are; what was walked of the others counts too
states       distinct ones of each root and line
transitions  steps taken
walked       of the paths: step by step, to an end or to a state that is known, from which the rest was walked before
paths        different ones from a root to an end, over these states; those with fewer deviations are in more lines than one
""")
    ends: Counter[Verdict] = Counter()
    examples: dict[Verdict, tuple[Root, Recipe]] = {}
    for each in done:
        ends.update(each.found.ends)
        for verdict, recipe in each.found.examples.items():
            examples.setdefault(verdict, (each.task.root, recipe))
    waiting = sum(each.found.waiting for each in done)
    print("ends walked to, by what the twin and the disk say:")
    for verdict, count in sorted(ends.items(), key=lambda item: (item[0].outcome, -item[1])):
        root, recipe = examples[verdict]
        print(f"{count:>9}  {_words(verdict):<78}  e.g. {root}: {_shown(recipe)}")
    print(f"{waiting:>9}  waits for the guest for ever, as asked")
    failures = [(each.task.root, *failure) for each in done for failure in each.found.failures]
    print(f"\n{len(failures)} failures")
    for failed, text, recipe in failures:
        print(f"{failed}: {text}\n    replay({failed!r}(), {recipe!r})")


def _line(name: str, depth: object, done: list[Done]) -> None:
    found = [each.found for each in done]
    finished = f"{sum(each.complete for each in found)}/{len(found)}"
    states, steps, runs, paths = (
        sum(getattr(each, what) for each in found) for what in ("states", "steps", "runs", "paths")
    )
    seconds = sum(each.seconds for each in done)
    print(f"{name:<9} {depth:>4} {finished:>9} {states:>11,} {steps:>12,} {runs:>11,} {paths:>13,} {seconds:>7,.0f}")


def _words(verdict: Verdict) -> str:
    cards = "+".join(verdict.cards) or "no card"
    settings = "as before" if verdict.as_before else "settings differ"
    migrating = ", migrating" if verdict.migrating else ""
    return f"{verdict.outcome}: {verdict.runstate}, {cards}, {settings}, file {verdict.file}{migrating}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
