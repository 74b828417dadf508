"""docs/workflow.md from the rule table: the table is the program, so the picture of it is made from it.

`python -m tools.workflow_doc` writes it; with `--check` it only says whether it is up to date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from vmtui.backend.core.words import MEANING
from vmtui.backend.core.workflow import ALWAYS, ANY, NEEDS, RULES, Rule

TARGET = Path(__file__).resolve().parent.parent / "docs" / "workflow.md"

HEAD = """\
# The workflow

Made from the rule table in `vmtui/backend/core/workflow.py` by `make docs`; do not edit.

Read a rule as a sentence: *in this phase, when all of these hold, do this and go there*. The first rule that holds fires,
then the table is read again, until none fires or a command is on its way. A rule without an action and without a target
means: wait. Conditions are functions in `core/conditions.py`, actions in `core/effects.py`, by these names.

"""


def document() -> str:
    return HEAD + "\n".join([*_diagram(), "", *_always(), *_phases()]) + "\n"


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> preflight"
    seen = set()
    for phase, rules in RULES.items():
        for rule in rules:
            if rule.go is not None and (phase, rule.go) not in seen:
                seen.add((phase, rule.go))
                yield f"    {phase} --> {rule.go}"
    yield "    done --> [*]"
    yield "```"


def _always() -> Iterator[str]:
    yield "## In every phase, first"
    yield ""
    yield from _table(ALWAYS)


def _phases() -> Iterator[str]:
    for phase, rules in RULES.items():
        yield f"## {phase}: {MEANING[phase]}"
        yield ""
        needs = ", ".join(f"{fact} {_age(age)}" for fact, age in NEEDS.get(phase, {}).items())
        if needs:
            yield f"Facts it relies on: {needs}."
            yield ""
        if rules:
            yield from _table(rules)


def _age(age: float) -> str:
    if age == ANY:
        return "(known)"
    return "(learned in this phase)" if age < 0 else f"(at most {age:g} s old)"


def _table(rules: tuple[Rule, ...]) -> Iterator[str]:
    yield "| when | do | go to |"
    yield "|---|---|---|"
    for rule in rules:
        when = " and ".join(_words(condition) for condition in rule.when) or "otherwise"
        yield f"| {when} | {_words(rule.do) if rule.do else ''} | {rule.go or ('' if rule.do else 'wait')} |"
    yield ""


def _words(named: object) -> str:
    return str(getattr(named, "__name__", named)).replace("_", " ")


def main() -> int:
    text = document()
    if "--check" in sys.argv[1:]:
        fresh = TARGET.exists() and TARGET.read_text() == text
        if not fresh:
            sys.stderr.write("docs/workflow.md is not what the rule table says: make docs\n")
        return 0 if fresh else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
