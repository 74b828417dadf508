"""`vmtui params`: what QEMU is asked for, what is printed, and the exit codes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.fake_qmp import Do, FakeQemu, Message
from vmtui.backend.core.sim import PAUSE_VM_10_0, Scenario
from vmtui.backend.store import VmLock
from vmtui.cli import main

Run = Callable[..., tuple[int, str, str]]
SETTING = ("migrate-set-parameters", "migrate-set-capabilities")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def qemu(path: Path) -> Iterator[FakeQemu]:
    with FakeQemu(path) as qemu:
        yield qemu


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`vmtui params` with these arguments: its exit code, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["params", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_name_all_are_shown_and_nothing_is_changed(run: Run, qemu: FakeQemu) -> None:
    code, out, err = run(qemu.address)
    assert (code, err) == (0, "")
    assert "max-bandwidth               128.0 MiB/s" in out
    assert "zero-blocks" in out
    assert "(deprecated)" in out
    code, out, _err = run(qemu.address, "--json")
    assert {each["kind"] for each in objects(out)} == {"parameter", "capability"}
    assert len(objects(out)) == 29 + 22
    assert not qemu.commands(*SETTING)


def test_every_member_of_the_json_is_documented(run: Run, qemu: FakeQemu) -> None:
    _code, out, _err = run(qemu.address, "mode", "--json")
    text = (ROOT / "docs" / "headless.md").read_text().split("## `params", 1)[1].split("\n## ", 1)[0]
    for name in objects(out)[0]:
        assert f"`{name}`" in text


def test_a_name_shows_that_one(run: Run, qemu: FakeQemu) -> None:
    code, out, err = run(qemu.address, "downtime-limit")
    assert (code, err) == (0, "")
    assert out.split()[:3] == ["downtime-limit", "300", "ms"]
    assert out.count("\n") == 1
    _code, out, _err = run(qemu.address, "downtime-limit", "events", "--json")
    assert [(each["name"], each["value"], each["unit"]) for each in objects(out)] == [
        ("downtime-limit", 300, "ms"),
        ("events", False, None),
    ]


def test_values_are_set_in_one_go_and_shown_as_qemu_has_them_then(run: Run, qemu: FakeQemu) -> None:
    code, out, err = run(qemu.address, "max-bandwidth=1.5GiB/s", "multifd=on", "downtime-limit=0.5s")
    assert (code, err) == (0, "")
    assert "max-bandwidth   1.5 GiB/s *" in out
    sent = [each.get("arguments") for each in qemu.commands(*SETTING)]
    assert sent == [
        {"max-bandwidth": 3 << 29, "downtime-limit": 500},
        {"capabilities": [{"capability": "multifd", "state": True}]},
    ]
    assert qemu.vm.parameters["max-bandwidth"] == 3 << 29


def test_pause_vm_is_set_where_there_is_one(run: Run, path: Path) -> None:
    with FakeQemu(path, profile=PAUSE_VM_10_0) as qemu:
        assert run(qemu.address, "pause-vm=on")[0] == 0
        assert qemu.vm.parameters["pause-vm"] is True


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("max-bandwith=1G", "no migration parameter or capability 'max-bandwith'; did you mean max-bandwidth?"),
        ("pause-vm=on", "no migration parameter or capability 'pause-vm'"),
        ("downtime-limit=4x", "downtime-limit=4x: 'x' is no unit of it"),
        ("max-cpu-throttle=", "a number, 1 to 99 %"),
        ("multifd=perhaps", "on or off, not 'perhaps'"),
        ("\x1b[31m=1", "\\x1b[31m"),
    ],
)
def test_what_this_qemu_does_not_take_gives_two_and_sets_nothing(run: Run, qemu: FakeQemu, setting: str, why: str) -> None:
    code, out, err = run(qemu.address, "downtime-limit=400", setting)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert not qemu.commands(*SETTING)


def test_qemus_refusal_gives_one_and_says_what_was_set_all_the_same(run: Run, qemu: FakeQemu) -> None:
    code, out, err = run(qemu.address, "multifd=on", "block-bitmap-mapping=[]")
    assert (code, out) == (1, "")
    assert err.startswith("vmtui: block-bitmap-mapping not set: Parameter 'block-bitmap-mapping' is unexpected")
    assert err.endswith("; multifd was set\n")
    assert "multifd" in qemu.vm.capabilities


def test_while_another_vmtui_is_at_work_nothing_is_set_but_all_is_shown(run: Run, qemu: FakeQemu) -> None:
    lock = VmLock(str(qemu.address))
    code, out, err = run(qemu.address, "max-bandwidth=1G")
    assert (code, out) == (4, "")
    assert "max-bandwidth not set: another vmtui is at work on this VM" in err
    assert run(qemu.address, "max-bandwidth")[0] == 0
    lock.release()
    assert not qemu.commands(*SETTING)
    assert run(qemu.address, "max-bandwidth=1G")[0] == 0
    assert run(qemu.address, "max-bandwidth=2G")[0] == 0, "the lock is let go again"


def test_capabilities_are_refused_while_somebody_migrates(run: Run, path: Path) -> None:
    with FakeQemu(path, scenario=Scenario(migrating=True)) as qemu:
        code, out, err = run(qemu.address, "multifd=on")
        assert (code, out) == (4, "")
        assert "capabilities can change only while no migration runs" in err
        assert not qemu.commands(*SETTING)


def test_a_socket_that_is_not_there_gives_three(run: Run, path: Path) -> None:
    code, out, err = run(path, "max-bandwidth")
    assert (code, out) == (3, "")
    assert "no such socket" in err


def test_a_monitor_that_breaks_off_gives_three(run: Run, path: Path) -> None:
    def hook(_qemu: FakeQemu, message: Message) -> Do | None:
        return Do.CUT_BEFORE if message["execute"] == "migrate-set-parameters" else None

    with FakeQemu(path, hook=hook) as qemu:
        code, out, err = run(qemu.address, "max-bandwidth=1G")
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
