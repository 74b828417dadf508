"""A journal played again tells the same story; one that is no story is one clear line."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Hook
from tests.backend.saving import at, phases, result_of, save
from vmtui import replay
from vmtui.backend.core.errors import Exit, UsageError
from vmtui.backend.core.sim import Scenario
from vmtui.backend.journal import EndLine, read_journal

pytestmark = pytest.mark.usefixtures("state_home", "no_descriptor_is_left")


def replayed(journal: str) -> tuple[int, list[Any], dict[str, Any]]:
    """Exit code, phases and result of a journal that is played again."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        code = replay.show(Path(journal), speed=1e5, as_json=True)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return code, [line["phase"] for line in lines if line["kind"] == "phase"], lines[-1]


@pytest.mark.parametrize(
    ("scenario", "hook"),
    [
        (Scenario(), None),
        (Scenario(), at("migrate", Do.CUT_AFTER)),
        (Scenario(write_fails_after=100), None),
        (Scenario(primaries=0), None),
        (Scenario(unplug_delay=None), at("query-migrate", b'{"event": "GUEST_PANICKED"}\r\n', nth=3)),
    ],
    ids=["saved", "reconnected", "disk full", "no card", "panicked"],
)
def test_a_journal_played_again_gives_the_same_phases_and_the_same_result(
    path: Path, scenario: Scenario, hook: Hook | None
) -> None:
    with FakeQemu(path, scenario=scenario, hook=hook, speed=100) as qemu:
        (view,) = save(qemu)
    result = result_of(view)
    code, again, last = replayed(view.journal)
    assert code == result.exit_code
    assert again == phases(view)
    assert {name: last[name] for name in ("outcome", "stopped_seconds", "bytes", "card", "error", "notes")} == {
        "outcome": result.outcome, "stopped_seconds": result.stopped_seconds, "bytes": result.bytes,
        "card": result.card, "error": result.error, "notes": list(result.notes),
    }  # fmt: skip
    *_, end = read_journal(Path(view.journal))
    assert end == EndLine(end.t if isinstance(end, EndLine) else 0, result.outcome)


def test_the_journal_of_a_second_save_over_the_same_connection_can_be_played_again(path: Path) -> None:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu, repeat=2)
    code, again, last = replayed(view.journal)
    assert (code, again, last["outcome"]) == (0, phases(view), "saved")
    assert last["file"].endswith(".1")


@pytest.fixture
def journal(path: Path) -> Path:
    with FakeQemu(path) as qemu:
        (view,) = save(qemu)
    return Path(view.journal)


def test_a_journal_that_ends_early_says_in_which_phase(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:20])
    assert replay.show(journal, speed=1e5, as_json=False) == 1
    assert "the journal ends in phase" in capsys.readouterr().out


def test_a_journal_without_a_workflow_says_so(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="holds no workflow"):
        replay.show(journal, speed=1e5, as_json=False)


def test_a_journal_whose_lines_do_not_fit_together_is_no_stack_trace(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines), 5):
        journal.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", io.StringIO())
            try:
                assert replay.show(journal, speed=1e9, as_json=True) in set(Exit)
            except UsageError as error:
                assert str(error).isprintable()
