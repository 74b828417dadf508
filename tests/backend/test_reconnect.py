"""A save ends well, or as before, whatever the monitor says in the middle of it, and wherever its connection breaks."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Message
from tests.backend.saving import CHANGING, at, left, result_of, save
from tests.core.test_faults import name_of
from vmtui.backend.core.errors import Exit
from vmtui.backend.core.model import Outcome
from vmtui.backend.core.sim import STOCK_7_2, STOCK_11_1, FaultKind, Profile, WireFault

pytestmark = [pytest.mark.slice, pytest.mark.usefixtures("state_home", "no_descriptor_is_left")]


def asked_of(path: Path, profile: Profile) -> list[str]:
    """The commands of a save, each once."""
    with FakeQemu(path, profile=profile) as qemu:
        save(qemu)
        return list(dict.fromkeys(each["execute"] for each in qemu.received))


@pytest.mark.parametrize("how", [Do.CUT_BEFORE, Do.CUT_AFTER], ids=name_of)
@pytest.mark.parametrize("profile", [STOCK_7_2, pytest.param(STOCK_11_1, marks=pytest.mark.slice)], ids=name_of)
def test_a_connection_that_breaks_at_any_command_is_made_again(tmp_path: Path, profile: Profile, how: Do) -> None:
    commands = asked_of(tmp_path / "first.sock", profile)
    assert {"migrate", "stop", "cont", "getfd", "query-migrate"} <= set(commands)
    with ExitStack() as stack:
        qemus = [
            stack.enter_context(FakeQemu(tmp_path / f"{name}.sock", profile=profile, hook=at(name, how), name=name))
            for name in commands
        ]
        views = save(*qemus)
        for name, qemu, view in zip(commands, qemus, views, strict=True):
            result = result_of(view)
            assert qemu.as_before, f"{name}: {result}"
            touched = bool(qemu.commands(*CHANGING))
            if touched:
                assert result.outcome is Outcome.SAVED, f"{name}: {result}"
                assert qemu.connections == 2, name
                assert left(qemu) == [f"{name}.vmstate", f"{name}.vmstate.json"]
            else:
                assert (result.outcome, result.exit_code) == (Outcome.FAILED, Exit.UNREACHABLE), f"{name}: {result}"
                assert left(qemu) == []


@pytest.mark.parametrize(
    "said",
    [
        b'{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}\r\n',
        b"garbage\r\n",
        b"[" * 100_000 + b"\r\n",
        b'{"event": "X", "data": {"name": "\\ud800"}}\r\n',
        b'{"id": "stranger", "return": {}}\r\n',
        b'{"event": 5, "data": [1]}\r\n{"event": "MIGRATION", "data": {"status": {}}}\r\n{"event": "X", "data": null}\r\n',
        b'{"event": "X", "data": {"number": 123456789012345678901234567890, "other": 1e999}}\r\n',
    ],
    ids=["error without id", "garbage", "nested", "half a surrogate pair", "unknown id", "odd events", "numbers"],
)
def test_nonsense_in_the_middle_of_a_save_does_not_harm_it(path: Path, said: bytes) -> None:
    with FakeQemu(path, hook=at("migrate", said)) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED, result_of(view)


@pytest.mark.parametrize("kind", [FaultKind.LOSE, FaultKind.DOUBLE], ids=name_of)
def test_a_save_needs_no_event(path: Path, kind: FaultKind) -> None:
    faults = tuple(WireFault(kind, "event", number) for number in range(1, 100))
    with FakeQemu(path, faults=faults) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).outcome is Outcome.SAVED


def test_a_reply_that_makes_no_sense_is_no_stack_trace(path: Path) -> None:
    def hook(_qemu: FakeQemu, message: Message) -> Do | bytes | None:
        nonsense = json.dumps({"id": message.get("id"), "return": {"ram": {"total": float("inf")}}}).encode() + b"\r\n"
        return nonsense if message["execute"] == "query-migrate" else None

    with FakeQemu(path, hook=hook) as qemu:
        (view,) = save(qemu)
        assert qemu.as_before
    assert result_of(view).exit_code == Exit.FAILED
    assert "QEMU does not tell its migration: a reply that makes no sense" in (result_of(view).error or "")
    assert not qemu.commands(*CHANGING)


def test_a_monitor_that_is_not_there_is_said_to_be_unreachable(path: Path) -> None:
    (view,) = save(FakeQemu(path))
    assert result_of(view).exit_code == Exit.UNREACHABLE
    assert "no such socket" in (result_of(view).error or "")
