"""`make explore`: walk from every root, as deep as the time allows, and say what was found.

First every root with one deviation, then with two, and so on up to `--depth`, the roots that matter most first. What
could not be finished in time is said. Exits with 1 where an invariant does not hold.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool

from tests.explore.invariants import Verdict
from tests.explore.roots import Root, roots
from tests.explore.walk import Found, Recipe, walk


@dataclass(frozen=True, slots=True)
class Task:
    root: Root
    depth: int
    until: float


@dataclass(frozen=True, slots=True)
class Done:
    task: Task
    found: Found
    seconds: float
    """Of CPU."""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    until = time.monotonic() + options.minutes * 60
    chosen = [root for root in roots() if all(word in str(root).split() for word in options.only)]
    done: list[Done] = []
    with Pool(options.jobs) as pool:
        for depth in range(1, options.depth + 1):
            tasks = [Task(root, depth, until) for root in chosen]
            done += _told(pool.imap_unordered(_walk, tasks), len(tasks), depth)
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
    found = walk(task.root, task.depth, until=task.until)
    return Done(task, found, time.process_time() - began)


def _told(results: Iterator[Done], total: int, depth: int) -> Iterator[Done]:
    """Progress goes to stderr, and failures at once."""
    for number, each in enumerate(results, 1):
        print(f"\rdepth {depth}: {number} of {total} roots", end="", file=sys.stderr, flush=True)
        for text, recipe in each.found.failures:
            print(f"\n{each.task.root}: {text}\n    {_shown(recipe)}", file=sys.stderr)
        yield each
    print(file=sys.stderr)


def _shown(recipe: Recipe) -> str:
    return "; ".join(map(str, recipe)) or "nothing goes wrong"


def _report(done: list[Done]) -> None:
    print(
        f"{'depth':>5} {'roots':>11} {'states':>12} {'transitions':>12} {'runs walked':>12} {'paths':>14} {'states/s':>9}"
    )
    for depth in sorted({each.task.depth for each in done}):
        _line(str(depth), [each for each in done if each.task.depth == depth])
    _line("all", done)
    print("""
states       distinct, by root and depth        runs walked  to an end, or to a state already known
transitions  steps taken                        paths        different ones from a root to an end that these cover
states/s     a second of CPU of one core        roots        finished, of those that there are
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


def _line(name: str, done: list[Done]) -> None:
    found = [each.found for each in done]
    states, seconds = sum(each.states for each in found), sum(each.seconds for each in done)
    roots_done = f"{sum(each.complete for each in found)}/{len(found)}"
    steps, runs, paths = (sum(getattr(each, what) for each in found) for what in ("steps", "runs", "paths"))
    rate = states / seconds if seconds else 0
    print(f"{name:>5} {roots_done:>11} {states:>12,} {steps:>12,} {runs:>12,} {paths:>14,} {rate:>9,.0f}")


def _words(verdict: Verdict) -> str:
    cards = "+".join(verdict.cards) or "no card"
    settings = "as before" if verdict.as_before else "settings differ"
    migrating = ", migrating" if verdict.migrating else ""
    return f"{verdict.outcome}: {verdict.runstate}, {cards}, {settings}, file {verdict.file}{migrating}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
