"""What QEMU's replies mean: real ones are understood, and what is none is a ReplyError and nothing else."""

import gzip
import json
import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.recorded import DATA, Transcript, transcripts
from vmtui.backend.core import commands
from vmtui.backend.core.commands import (
    QUERIES,
    Command,
    ConfigWords,
    MigrationNow,
    Number,
    Offered,
    ReplyError,
    Runstate,
    Settings,
    Text,
    understand,
)
from vmtui.backend.core.model import Fact, Features, Migration, Primary, Vm
from vmtui.backend.schemas import raw_schema

VERSIONS = ("7.2", "10.0", "11.1")
CARD = Primary("primary0", "standby0", "e1000e", "port1", (2, 0, 0))
VM = Vm("unix:/q", primaries=(CARD,), config_window=0xB0000000, agent_port="agent0")


@cache
def hmp(version: str) -> dict[str, str]:
    """`info qtree` and `info mtree` of a guest of the lab."""
    told: dict[str, str] = json.loads(gzip.decompress((DATA / "hmp" / f"{version}.json.gz").read_bytes()))
    return told


@cache
def schema(name: str) -> Any:
    return json.loads(raw_schema(name))


def query(fact: Fact) -> Command:
    command = QUERIES[fact](VM)
    assert command is not None
    return command


def answers(transcript: Transcript) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each command of a transcript with its reply."""
    asked: list[dict[str, Any]] = []
    pairs = []
    for line in transcript.lines:
        if line.direction == "send":
            asked.append(line.message)
        elif asked and ("return" in line.message or "error" in line.message):
            pairs.append((asked.pop(0), line.message))
    return pairs


# --- the queries ------------------------------------------------------------------------------------------------------


def test_every_fact_has_a_query_that_tells_it() -> None:
    assert {fact: query(fact).learns for fact in Fact} == {fact: fact for fact in Fact}


def test_the_card_that_is_asked_about_is_the_one_whose_proof_is_oldest() -> None:
    cards = (replace(CARD, proved_at=5.0), replace(CARD, device_id="other", slot=(3, 1, 2), proved_at=4.0))
    command = QUERIES[Fact.CARDS](replace(VM, primaries=cards))
    assert command is not None
    assert (command.about, command.arguments) == ("other", {"command-line": "xp /2xw 0xb030a000"})


@pytest.mark.parametrize("vm", [replace(VM, config_window=None), replace(VM, primaries=(replace(CARD, slot=None),))])
def test_no_card_is_asked_about_where_nothing_can_be_proved(vm: Vm) -> None:
    assert QUERIES[Fact.CARDS](vm) is None


# --- what real QEMUs said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transcript", transcripts(), ids=str)
def test_every_recorded_reply_to_a_query_is_understood(transcript: Transcript) -> None:
    by_name = {query(fact).execute: query(fact) for fact in Fact if query(fact).execute != "human-monitor-command"}
    for asked, reply in answers(transcript):
        command = by_name.get(asked["execute"])
        if command is not None and "return" in reply:
            assert understand(command, reply["return"]) is not None
        if asked.get("arguments", {}).get("command-line", "").startswith("xp /2xw"):
            assert commands.config_words(reply["return"]) is not None, reply


def test_the_numbers_of_a_migration_are_those_that_qemu_named() -> None:
    value = {"status": "active", "ram": {"transferred": 5, "total": 9, "remaining": 4, "mbps": 1.5, "duplicate": 2},
             "blocked-reasons": ["a", "b"], "error-desc": "no"}  # fmt: skip
    assert understand(query(Fact.MIGRATION), value) == MigrationNow(Migration("active", "no", 5, 9, 4, 1.5, ("a", "b")))


def test_a_vm_that_never_migrated_has_the_status_none() -> None:
    assert understand(query(Fact.MIGRATION), {}) == MigrationNow(Migration())


@pytest.mark.parametrize(
    ("fact", "value", "meaning"),
    [
        (Fact.NAME, {"name": "web"}, Text("web")),
        (Fact.NAME, {}, Text("")),
        (Fact.UUID, {"UUID": "00000000-0000-0000-0000-000000000000"}, Text("")),
        (Fact.UUID, {"UUID": "00000000-0000-0000-0000-000000000001"}, Text("00000000-0000-0000-0000-000000000001")),
        (Fact.MACHINE, "pc-q35-7.2-machine", Text("pc-q35-7.2")),
        (Fact.STATUS, {"status": "paused", "running": False}, Runstate("paused")),
        (Fact.PARAMETERS, {"max-bandwidth": 1}, Settings({"max-bandwidth": 1})),
        (Fact.CAPABILITIES, [{"capability": "events", "state": True}], Settings({"events": True})),
        (Fact.MEMORY, {"base-memory": 5}, Number(5)),
        (Fact.MEMORY, {"base-memory": 5, "plugged-memory": 2}, Number(7)),
        (Fact.MIGRATION, {"ram": {"total": -5, "mbps": float("nan")}}, MigrationNow(Migration())),
        (Fact.CONFIG_WINDOW, "", Number(None)),
        (Fact.CARDS, "b0200000: 0x10d38086 0x00100507\r\n", ConfigWords("primary0", (0x10D38086, 0x00100507))),
        (Fact.CARDS, "00000000b0200000: 0xffffffff 0xffffffff\r\n", ConfigWords("primary0", (0xFFFFFFFF, 0xFFFFFFFF))),
        (Fact.CARDS, "Cannot access memory\r\n", ConfigWords("primary0", None)),
        (Fact.CARDS, "b0200000: 0x10d38086\r\n", ConfigWords("primary0", None)),
        (Fact.CARDS, "x b0200000: 0x10d38086 0x00100507\r\n", ConfigWords("primary0", None)),
    ],
)
def test_a_reply_means_what_qemu_documents(fact: Fact, value: Any, meaning: object) -> None:
    assert understand(query(fact), value) == meaning


def test_the_reply_to_add_fd_names_the_set_and_other_commands_tell_nothing() -> None:
    assert understand(Command("add-fd"), {"fd": 17, "fdset-id": 3}) == Number(3)
    assert understand(Command("cont"), {"anything": 1}) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stock-7.2", Features(background_snapshot=True, set_action=True)),
        ("stock-10.0", Features(background_snapshot=True, set_action=True, channels=True)),
        ("stock-11.1", Features(background_snapshot=True, set_action=True, channels=True)),
        ("pause-vm-10.0", Features(pause_vm=True, background_snapshot=True, set_action=True, channels=True)),
    ],
)
def test_the_schema_says_what_this_qemu_can_do(name: str, expected: Features) -> None:
    learned = understand(query(Fact.FEATURES), schema(name))
    assert isinstance(learned, Offered)
    assert replace(learned.features, parameters=(), capabilities=()) == expected
    names = {each.name for each in learned.features.parameters}
    assert {"max-bandwidth", "downtime-limit"} <= names
    assert ("pause-vm" in names) == expected.pause_vm


def test_a_schema_whose_types_are_numbered_otherwise_says_the_same() -> None:
    text = json.dumps(schema("stock-11.1"))
    numbers = sorted({each["name"] for each in schema("stock-11.1") if each["name"].isdigit()}, key=int)
    renumbered = dict(zip(numbers, reversed(numbers), strict=True))
    other = json.loads(re.sub(r'"(\[?)(\d+)(\]?)"', lambda found: f'"{found[1]}{renumbered[found[2]]}{found[3]}"', text))
    assert commands.features(other) == commands.features(schema("stock-11.1"))


def test_a_schema_without_migration_offers_nothing() -> None:
    assert commands.features([]) == Features()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_failover_pair_is_found_in_the_device_tree(version: str) -> None:
    devices = commands.devices(hmp(version)["info qtree"])
    (card,) = devices.primaries
    assert (card.device_id, card.standby_id, card.driver, card.bus) == ("primary0", "ua-standby0", "e1000e", "port1")
    assert card.slot == (2, 0, 0)
    assert devices.standbys == ("ua-standby0",), "not virtio-net-device, which has no id: its owner"
    assert dict(card.properties)["mac"].strip('"').count(":") == 5
    assert not card.has_option_rom


@pytest.mark.parametrize("version", VERSIONS)
def test_the_config_window_is_found_in_the_memory_tree(version: str) -> None:
    assert commands.config_window(hmp(version)["info mtree"]) == 0xB0000000


@pytest.mark.parametrize("version", VERSIONS)
def test_without_its_window_a_machine_has_none(version: str) -> None:
    assert commands.config_window(hmp(version)["info mtree"].replace("pcie-mmcfg", "other")) is None


QTREE = """\
bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    bus: pcie.0
      type PCIE
      dev: pcie-root-port, id "port0"
        bus: port0
          type PCIE
          dev: virtio-net-pci, id "net"
            addr = 00.0
            failover = true
            class Ethernet controller, addr 1a:1f.7, pci id 1af4:1041 (sub 1af4:1100)
            bus: virtio-bus
              type virtio-pci-bus
              dev: virtio-net-device, id ""
                failover = true
      dev: e1000e, id "a, \\"b"
        failover_pair_id = "net"
        class Ethernet controller, addr 00:03.0, pci id 8086:10d3 (sub 0:0)
      dev: vfio-pci, id ""
        failover_pair_id = ""
"""


def test_a_device_belongs_to_the_bus_above_it_and_ends_with_its_indentation() -> None:
    devices = commands.devices(QTREE)
    (card,) = devices.primaries
    assert (card.device_id, card.bus, card.slot) == ('a, \\"b', "pcie.0", (0, 3, 0))
    assert devices.standbys == ("net", "net")


# --- garbage ----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = ("name", "UUID", "status", "ram", "total", "mbps", "blocked-reasons", "capability", "state", "base-memory",
           "plugged-memory", "members", "variants", "arg-type", "type", "fdset-id", "element-type", "case")  # fmt: skip
NEARLY = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
    max_leaves=12,
)
"""Garbage that has members where QEMU has some."""


@given(fact=st.sampled_from(Fact), value=NEARLY)
@settings(max_examples=250, deadline=None)
def test_garbage_is_a_reply_error_and_nothing_else(fact: Fact, value: Any) -> None:
    try:
        understand(query(fact), value)
    except ReplyError as error:
        assert str(error)


@given(value=NEARLY)
@settings(max_examples=50, deadline=None)
def test_garbage_after_add_fd_is_a_reply_error_and_nothing_else(value: Any) -> None:
    try:
        understand(Command("add-fd"), value)
    except ReplyError as error:
        assert str(error)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_schema_with_a_hole_is_a_reply_error_or_offers_less(data: st.DataObject) -> None:
    names = ("migrate", "migrate-set-parameters", "migrate-set-capabilities")
    types = {each["name"]: each for each in schema("stock-11.1")}
    needed = [types[name] for name in names] + [types[types[name]["arg-type"]] for name in names]
    spoilt = data.draw(st.sampled_from(needed))
    member = data.draw(st.sampled_from(sorted(spoilt)))
    other = {**spoilt, member: data.draw(NEARLY)}
    try:
        understand(query(Fact.FEATURES), [other if each is spoilt else each for each in types.values()])
    except ReplyError as error:
        assert str(error)


@given(lines=st.lists(st.sampled_from(QTREE.splitlines()) | st.text(max_size=30), max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_device_tree_makes_the_reader_fail(lines: list[str]) -> None:
    commands.devices("\n".join(lines))


@pytest.mark.parametrize(
    ("fact", "value", "why"),
    [
        (Fact.STATUS, {}, "no member 'status'"),
        (Fact.STATUS, [], "expected dict, got list"),
        (Fact.MIGRATION, {"ram": {"total": float("inf")}}, "expected int, got float"),
        (Fact.MIGRATION, {"ram": {"total": []}}, "expected int, got list"),
        (Fact.MIGRATION, {"ram": {"remaining": 10**400}}, "more than 64 bits"),
        (Fact.FDSETS, [{"fdset-id": True, "fds": []}], "expected int, got bool"),
        (Fact.MEMORY, {"base-memory": 1 << 64}, "more than 64 bits"),
        (Fact.MEMORY, {"base-memory": 1 << 63, "plugged-memory": 1 << 63}, "more than 64 bits"),
        (Fact.FEATURES, [{"name": "migrate", "arg-type": "1"}, {"name": "1", "members": [{}]}], "KeyError"),
    ],
)
def test_a_reply_error_says_what_is_wrong(fact: Fact, value: Any, why: str) -> None:
    with pytest.raises(ReplyError, match=why):
        understand(query(fact), value)
