"""One message in other tongues: what is pasted means the same there."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu.qmp.qmp_shell import QMPShell

from tests.core.recorded import transcripts
from vmtui.backend.core.speak import NoWords, Tongue, as_json, hmp, qmp_shell, sayings, title, virsh

HOSTILE = "\x1b[31mred\x07\nquit\n\u202eevil '\"; rm -rf / #"


def command(execute: str, **arguments: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return {"execute": execute, **({"arguments": named} if named else {}), "id": "__vmtui__#1"}


class RealShell(QMPShell):
    """The real qmp-shell, connected to nothing."""

    def __init__(self) -> None:
        self._transmode = False

    def __del__(self) -> None:
        pass


def read_by_qmp_shell(line: str) -> dict[str, Any]:
    """What it would send."""
    made = RealShell()._build_cmd(line)
    assert made is not None
    return dict(made)


SENT = [line.message for each in transcripts() for line in each.lines if line.direction == "send"]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (command("stop"), "stop"),
        (command("migrate-set-parameters", max_bandwidth=65536), "migrate-set-parameters max-bandwidth=65536"),
        (command("migrate-set-parameters", pause_vm=True), "migrate-set-parameters pause-vm=true"),
        (command("getfd", fdname="vmtui-state"), "getfd fdname=vmtui-state"),
        (command("migrate", uri="fd:vmtui-state"), "migrate uri=fd:vmtui-state"),
        (
            command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]),
            'migrate-set-capabilities capabilities=[{"capability":"events","state":true}]',
        ),
    ],
)
def test_a_line_of_qmp_shell_is_as_its_manual_has_it(message: dict[str, Any], line: str) -> None:
    assert qmp_shell(message) == line


def test_qmp_shell_sends_what_was_recorded() -> None:
    said = 0
    for message in SENT:
        try:
            line = qmp_shell(message)
        except NoWords:
            continue
        said += 1
        assert read_by_qmp_shell(line) == {"execute": message["execute"], "arguments": message.get("arguments", {})}
    assert said > len(SENT) / 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_qmp_shell_never_sends_anything_else(arguments: dict[str, Any]) -> None:
    try:
        line = qmp_shell({"execute": "x", "arguments": arguments})
    except NoWords:
        return
    assert line.isprintable()
    assert read_by_qmp_shell(line)["arguments"] == arguments


def test_a_text_that_qmp_shell_would_read_as_something_else_is_not_given_to_it() -> None:
    for text in ("info qtree", "12", "true", "[1]", 'a"b', "ü"):
        with pytest.raises(NoWords):
            qmp_shell(command("x", key=text))


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        (command("migrate-set-parameters", pause_vm=True), "migrate_set_parameter pause-vm on"),
        (command("migrate-set-parameters", max_bandwidth=128 << 20), "migrate_set_parameter max-bandwidth 128"),
        (command("migrate-set-parameters", max_bandwidth=65536), "migrate_set_parameter max-bandwidth 65536B"),
        (
            command("migrate-set-parameters", max_postcopy_bandwidth=1 << 20),
            "migrate_set_parameter max-postcopy-bandwidth 1048576",
        ),
        (
            command("migrate-set-parameters", downtime_limit=300, tls_creds=""),
            'migrate_set_parameter downtime-limit 300\nmigrate_set_parameter tls-creds ""',
        ),
        (
            command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]),
            "migrate_set_capability events on",
        ),
        (command("migrate", uri="fd:vmtui-state"), "migrate -d fd:vmtui-state"),
        (command("migrate", uri="exec:cat > /tmp/f"), 'migrate -d "exec:cat > /tmp/f"'),
        (
            command("migrate", channels=[{"addr": {"transport": "file", "filename": "/f", "offset": 0}}]),
            "migrate -d file:/f",
        ),
        (command("migrate_cancel"), "migrate_cancel"),
        (command("cont"), "cont"),
        (command("query-migrate"), "info migrate"),
        (command("human-monitor-command", command_line="info qtree"), "info qtree"),
        (
            command("device_add", driver="e1000e", id="p0", multifunction=True, addr=4, file="a,b"),
            "device_add e1000e,id=p0,multifunction=on,addr=4,file=a,,b",
        ),
        (command("device_del", id="p0"), "device_del p0"),
        (command("set_link", name="n", up=False), "set_link n off"),
    ],
)  # fmt: skip
def test_the_human_monitor_has_its_own_words(message: dict[str, Any], lines: str) -> None:
    assert hmp(message) == lines


@pytest.mark.parametrize(
    "message",
    [
        command("query-qmp-schema"),
        command("add-fd", opaque="x"),
        command("migrate-set-parameters", block_bitmap_mapping=[]),
        command("migrate-set-parameters"),
        command("stop", odd=1),
        command("migrate", channels=[{"addr": {"transport": "socket"}}]),
        command("device_add", driver="x", nested={"a": 1}),
        command("human-monitor-command", command_line="stop\nquit"),
        {"event": "STOP"},
        {"execute": "stop", "arguments": []},
    ],
)
def test_what_the_human_monitor_has_no_words_for_is_said_to_have_none(message: dict[str, Any]) -> None:
    with pytest.raises(NoWords):
        hmp(message)


def test_virsh_gets_the_message_in_one_shell_word_without_the_id() -> None:
    line = virsh(command("human-monitor-command", command_line="it's $HOME `id`"), "web 1")
    words = shlex.split(line)
    assert words[:4] == ["virsh", "qemu-monitor-command", "web 1", "--pretty"]
    assert json.loads(words[4]) == {
        "execute": "human-monitor-command",
        "arguments": {"command-line": "it's $HOME `id`"},
    }
    assert virsh(command("stop"), "web1") == """virsh qemu-monitor-command web1 --pretty '{"execute": "stop"}'"""


def test_a_name_of_a_vm_that_looks_like_an_option_is_none_for_virsh() -> None:
    assert "--domain -web1" in virsh(command("stop"), "-web1")
    with pytest.raises(NoWords):
        virsh(command("stop"), "web\n1")


@pytest.mark.parametrize("place", ["arguments", "name"])
def test_nothing_that_is_said_moves_a_cursor_or_presses_enter(place: str) -> None:
    message = command("human-monitor-command", command_line=HOSTILE) if place == "arguments" else command(HOSTILE)
    for saying in sayings(message, "vm"):
        assert (saying.text + saying.why_not).isprintable(), saying
    assert title({"event": HOSTILE}).isprintable()


def test_an_event_can_be_said_as_json_alone() -> None:
    said = {each.tongue: each for each in sayings({"event": "STOP"}, "vm")}
    assert said[Tongue.JSON].text == '{"event": "STOP"}'
    assert all(each.why_not == "only a command can be sent again" for each in said.values() if each.tongue != Tongue.JSON)


def test_json_reads_back_as_it_was() -> None:
    message = {"event": "X", "data": {"text": HOSTILE}}
    assert json.loads(as_json(message)) == message
    assert json.loads(as_json(message, pretty=True)) == message
