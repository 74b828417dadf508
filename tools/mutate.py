"""Does every rule matter? Deletes or weakens each rule, condition and needed fact in turn; the core tests must find it.

`python -m tools.mutate [WORD ...]` (all words must be in a mutant's name). A mutant that no test catches ends it with 1:
write the test that misses the rule, or delete the rule. What changes nothing is listed in `EQUIVALENT`, with the reason.

The tests are collected once, and run once to see which of them each mutant can make a difference to: where a rule fired,
where only one condition kept it from firing. Each mutant is then applied to the table in a forked child, which runs those
tests until the first that fails; what caught a mutant before comes first. A test that hangs has failed.
"""

import ast
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from vmtui.backend.core import conditions, workflow
from vmtui.backend.core.model import Fact, Phase, Workflow
from vmtui.backend.core.state import State, the_work
from vmtui.backend.core.workflow import ANY, NEEDS, RULES, Rule

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("test_rules.py", "test_workflow.py", "test_preflight.py", "test_agent.py", "test_samples.py", "test_idle.py",
         "test_story.py", "test_faults.py")  # fmt: skip
"""In tests/core, the quick ones first."""
WORKERS = 2
LONGER = 3.0
"""A test that needs this many times the CPU that it needs without a mutant, and `A_MOMENT` more, hangs."""
A_MOMENT = 1.0
"""Seconds of CPU."""

_TYPES = "only mypy asks: {}"
EQUIVALENT: dict[str, str] = {
    "should_run without work.baseline is not None": _TYPES.format("it is read only once a baseline was taken"),
    "unplug_time_is_up without work.marks.asked is not None": _TYPES.format("UNPLUG is entered by sending migrate"),
    "guest_is_slow without asked is not None": _TYPES.format("UNPLUG is entered by sending migrate"),
    "file_not_whole without report is not None": _TYPES.format("the rule before it reads the file"),
    "prove needs cards of any age": "a proof of a card is always from the phase under way: see workflow._fresh",
}
"""Mutants that no test can catch, and why."""


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    touches: str
    """What must happen in a test for the mutant to make a difference to it: see `Watch`."""
    apply: Callable[[], None]
    """Changes the table of this process for good: only ever called in a child."""


# --- what is changed ----------------------------------------------------------------------------------------------


def mutants() -> Iterator[Mutant]:
    """Every mutant of the table, in its order."""
    for phase, rules in TABLES.items():
        for index, rule in enumerate(rules):
            yield from _of_rule(phase, index, rule)
    for name, condition in sorted(vars(conditions).items()):
        if isinstance(condition, FunctionType) and _is_condition(name, condition):
            yield Mutant(f"condition {name} is always true", f"{name} is False", _sets_code(condition, _true.__code__))
            yield Mutant(f"condition {name} is always false", f"{name} is True", _sets_code(condition, _false.__code__))
    yield from _of_conditions()
    for phase, needs in NEEDS.items():
        for fact, age in needs.items():
            yield Mutant(f"{phase} does not need {fact}", phase, _needs(phase, fact, None))
            if age != ANY:
                yield Mutant(f"{phase} needs {fact} of any age", phase, _needs(phase, fact, ANY))


TABLES: dict[str, tuple[Rule, ...]] = {"always": workflow.ALWAYS} | {str(phase): rules for phase, rules in RULES.items()}


def _of_rule(phase: str, index: int, rule: Rule) -> Iterator[Mutant]:
    text = f"{phase}: {describe(rule)}"
    yield Mutant(f"without {text}", text, _sets_rule(phase, index))
    for condition in rule.when:
        weaker = rule._replace(when=tuple(each for each in rule.when if each is not condition))
        only = f"{_name(condition)} in {text}"
        yield Mutant(f"without the condition {only}", only, _sets_rule(phase, index, weaker))
    if rule.do is not None and rule.go is not None:
        yield Mutant(f"without the effect of {text}", text, _sets_rule(phase, index, rule._replace(do=None)))


def _of_conditions() -> Iterator[Mutant]:
    """Each operand of each `and` and `or` inside a condition is left out."""
    for function in ast.parse(Path(conditions.__file__).read_text()).body:
        if not isinstance(function, ast.FunctionDef) or not _is_condition(
            function.name, getattr(conditions, function.name)
        ):
            continue
        for where in [node for node in ast.walk(function) if isinstance(node, ast.BoolOp)]:
            operands = where.values
            for left_out in operands:
                neutral = ast.copy_location(ast.Constant(isinstance(where.op, ast.And)), left_out)
                where.values = [neutral if each is left_out else each for each in operands]
                name = f"{function.name} without {ast.unparse(left_out)}"
                yield Mutant(name, function.name, _sets_code(getattr(conditions, function.name), _compiled(function)))
            where.values = operands


def _compiled(function: ast.FunctionDef) -> object:
    made = dict(vars(conditions))
    exec(compile(ast.Module([function], []), conditions.__file__, "exec"), made)
    return made[function.name].__code__


def describe(rule: Rule) -> str:
    """The rule as a sentence, unique in its phase."""
    when = " and ".join(_name(condition) for condition in rule.when) or "otherwise"
    done = [_name(rule.do)] if rule.do else []
    gone = [f"go to {rule.go}"] if rule.go else []
    return f"when {when}: {', '.join(done + gone) or 'wait'}"


def _name(named: object) -> str:
    return str(getattr(named, "__name__", named))


def _is_condition(name: str, function: FunctionType) -> bool:
    return (
        not name.startswith("_")
        and function.__module__ == conditions.__name__
        and function.__annotations__["return"] is bool
    )


def _true(state: object) -> bool:
    return True


def _false(state: object) -> bool:
    return False


def _sets_code(function: FunctionType, code: object) -> Callable[[], None]:
    """In place, so that whoever holds the function has the mutant."""
    return lambda: setattr(function, "__code__", code)


def _sets_rule(phase: str, index: int, *instead: Rule) -> Callable[[], None]:
    def apply() -> None:
        rules = TABLES[phase]
        changed = (*rules[:index], *instead, *rules[index + 1 :])
        if phase == "always":
            workflow.ALWAYS = changed
        else:
            RULES[Phase(phase)] = changed

    return apply


def _needs(phase: Phase, fact: Fact, age: float | None) -> Callable[[], None]:
    def apply() -> None:
        others = {each: value for each, value in NEEDS[phase].items() if each is not fact}
        NEEDS[phase] = (
            others if age is None else {each: age if each is fact else NEEDS[phase][each] for each in NEEDS[phase]}
        )

    return apply


# --- what happens in a test ---------------------------------------------------------------------------------------


class Watch:
    """Notes, in a child of its own, what happens while a test runs.

    * a rule's text: it fired;
    * `CONDITION in RULE`: this condition alone kept the rule from firing;
    * `CONDITION is True` or `False`, and `CONDITION` alone: somebody asked for it;
    * a phase: what it needs was looked at.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._originals: dict[str, FunctionType] = {}

    def begin(self) -> None:
        for name, condition in vars(conditions).items():
            if isinstance(condition, FunctionType) and _is_condition(name, condition):
                self._originals[name] = FunctionType(condition.__code__, condition.__globals__, name)
                made: dict[str, Any] = {}
                exec(f"def noted(state): return _noted({name!r}, state)", made)  # a closure could not be put in its place
                condition.__code__ = made["noted"].__code__
        vars(conditions)["_noted"] = self._noted
        vars(workflow)["_ask_for_stale_fact"] = self._before(workflow._ask_for_stale_fact, self._asks)
        vars(workflow)["_fire"] = self._before(workflow._fire, self._reads)

    @staticmethod
    def _before(function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            note(*args)
            return function(*args)

        return noted

    def _asks(self, _state: State, work: Workflow) -> None:
        self.seen.add(work.phase)

    def _noted(self, name: str, state: State) -> bool:
        value: bool = self._originals[name](state)
        self.seen |= {name, f"{name} is {value}"}
        return value

    def _reads(self, state: State, rules: tuple[Rule, ...]) -> None:
        phase = "always" if rules is workflow.ALWAYS else str(the_work(state).phase)
        for rule in rules:
            missing = [condition for condition in rule.when if not condition(state)]
            if len(missing) < 2:
                text = f"{phase}: {describe(rule)}"
                self.seen.add(f"{_name(missing[0])} in {text}" if missing else text)
            if not missing:
                return


# --- the tests against each ---------------------------------------------------------------------------------------


class Hunt:
    """A pytest plugin: instead of running the tests once, run them against each mutant until one fails."""

    def __init__(self, chosen: list[Mutant]) -> None:
        self.left = chosen
        self.tests: list[pytest.Item] = []
        """Those first that caught a mutant lately."""
        self.touched: dict[str, set[str]] = {}
        """By the name of a test: what happens in it."""
        self.needs: dict[str, float] = {}
        """By the name of a test: seconds of CPU."""
        self.running: dict[int, tuple[Mutant, int]] = {}
        """By process id: the mutant, and the file in which the child tells what test it runs."""
        self.survivors: list[str] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.tests = list(session.items)
        gc.freeze()  # children share the memory until they write to it
        self._watch(session)
        while self.left or self.running:
            while self.left and len(self.running) < WORKERS:
                self._start(session, self.left.pop(0))
            self._collect_one()
        return True

    def _watch(self, session: pytest.Session) -> None:
        """Run every test without a mutant; all must pass."""
        children = [_fork(_watch, session, self.tests[start::WORKERS]) for start in range(WORKERS)]
        for process, told in children:
            if os.waitpid(process, 0)[1]:
                raise pytest.UsageError(f"a test fails without any mutant: {json.loads(_lines(told)[-1])[0]}")
            for line in _lines(told):
                name, seconds, *seen = json.loads(line)
                self.touched[name], self.needs[name] = set(seen), seconds

    def _start(self, session: pytest.Session, mutant: Mutant) -> None:
        tests = [test for test in self.tests if mutant.touches in self.touched[test.nodeid]]
        process, told = _fork(_hunt, mutant, session, tests, self.needs)
        self.running[process] = mutant, told

    def _collect_one(self) -> None:
        process, status = os.wait()
        mutant, told = self.running.pop(process)
        ran = _lines(told)
        if status == 0:
            word = "equivalent" if mutant.name in EQUIVALENT else "SURVIVED"
            self.survivors += [mutant.name] if word == "SURVIVED" else []
            _say(f"{word:10} {mutant.name} ({len(ran)} tests)")
            return
        how = "hangs" if os.WIFSIGNALED(status) else "fails"
        _say(f"{'caught':10} {mutant.name}\n{'':11}{how}: {ran[-1]}")
        self.tests.sort(key=lambda test: test.nodeid != ran[-1])  # stable: the catcher first, the others as they were


def _fork(child: Callable[..., None], *args: Any) -> tuple[int, int]:
    """Run `child` with `args` and a file to tell something by, without other output: its process id, and that file."""
    told = os.memfd_create("told")  # a pipe would be full one day
    process = os.fork()
    if process:
        return process, told
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        child(*args, told)
    finally:
        os._exit(1)


def _watch(session: pytest.Session, tests: list[pytest.Item], tell: int) -> None:
    watch = Watch()
    watch.begin()
    for test, following in _pairs(tests):
        watch.seen.clear()
        begun = time.process_time()
        _run(test, following)
        os.write(tell, json.dumps([test.nodeid, time.process_time() - begun, *sorted(watch.seen)]).encode() + b"\n")
        if session.testsfailed:
            os._exit(1)
    os._exit(0)


def _hunt(mutant: Mutant, session: pytest.Session, tests: list[pytest.Item], needs: dict[str, float], tell: int) -> None:
    """The exit code says whether a test failed; the last one told is the test that did, or that hangs."""
    mutant.apply()
    for test, following in _pairs(tests):
        os.write(tell, test.nodeid.encode() + b"\n")
        signal.setitimer(signal.ITIMER_VIRTUAL, A_MOMENT + LONGER * needs[test.nodeid])
        _run(test, following)
        if session.testsfailed:
            os._exit(1)
    os._exit(0)


def _pairs(tests: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(tests, [*tests[1:], None][: len(tests)], strict=True)


def _run(test: pytest.Item, following: pytest.Item | None) -> None:
    test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)


def _lines(told: int) -> list[str]:
    os.lseek(told, 0, os.SEEK_SET)
    with os.fdopen(told) as lines:
        return lines.read().splitlines()


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    words = sys.argv[1:]
    chosen = [mutant for mutant in mutants() if all(word in mutant.name for word in words)]
    count = len(chosen)
    hunt = Hunt(chosen)
    core = ROOT / "tests" / "core"
    files = [str(core / name) for name in TESTS]
    ended = pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-o", "addopts=", *files], plugins=[hunt])
    _say(f"{count} mutants, {len(hunt.survivors)} survived; {sum(os.times()[:4]):.0f} s of CPU")
    for name in hunt.survivors:
        _say(f"SURVIVED   {name}")
    return 1 if hunt.survivors or ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 0


if __name__ == "__main__":
    raise SystemExit(main())
