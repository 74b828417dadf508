"""The twin of QEMU keeps to what the real one was seen to do."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.recorded import schema
from vmtui.backend.core.sim import (
    PAUSE_VM_10_0,
    PROFILES,
    STOCK_7_2,
    STOCK_10_0,
    STOCK_11_1,
    CardState,
    FaultKind,
    FaultyWire,
    FdKind,
    Profile,
    Scenario,
    SimulatedVm,
    WireFault,
)

FULL_SPEED = 8796093022208
PLUGGED = {"primary0": "plugged"}
OUT = {"primary0": "out"}
XP = {"command-line": "xp /2xw 0xb0200000"}


class Client:
    """A client that talks to a twin and remembers what it saw."""

    def __init__(self, profile: Profile = STOCK_10_0, scenario: Scenario | None = None, events: bool = True) -> None:
        self.vm = SimulatedVm(profile, scenario=scenario or Scenario(), schema=schema(profile.name))
        self.seen: list[dict[str, Any]] = []
        self.vm.connect(0.0)
        self.do("qmp_capabilities")
        if events:
            self.do("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])

    def send(self, command: str, fd: int | None = None, kind: FdKind = FdKind.PIPE, /, **arguments: Any) -> dict[str, Any]:
        """The reply; events on the way are kept in `seen`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.vm.receive({"execute": command, "arguments": named}, self.vm.now, fd, kind)
        messages = self.vm.output()
        self.seen += messages
        return next((message for message in messages if "return" in message or "error" in message), {})

    def do(self, command: str, fd: int | None = None, kind: FdKind = FdKind.PIPE, /, **arguments: Any) -> Any:
        reply = self.send(command, fd, kind, **arguments)
        assert "return" in reply, reply
        return reply["return"]

    def refusal(self, command: str, /, **arguments: Any) -> str:
        return str(self.send(command, **arguments)["error"]["desc"])

    def wait(self, seconds: float) -> None:
        self.vm.advance(self.vm.now + seconds)
        self.seen += self.vm.output()

    def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            due = self.vm.next_at()
            assert due is not None, "nothing will happen any more"
            self.vm.advance(due)
            self.seen += self.vm.output()

    def until_status(self, status: str) -> None:
        self.until(lambda: self.vm.migration_status == status)

    def xp(self) -> str:
        return str(self.do("human-monitor-command", **XP))

    @property
    def story(self) -> list[str]:
        return list(words(self.seen))


def words(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        if "event" in message:
            data = message.get("data", {})
            detail = data.get("status", data.get("pass", ""))
            yield f"{message['event']} {detail}".strip()


def save_pausing_after_unplug(client: Client) -> None:
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat > /var/tmp/vm.state")
    client.until_status("active")
    client.do("stop")
    client.do("migrate-set-parameters", max_bandwidth=FULL_SPEED)
    client.until_status("completed")


def start_migration(client: Client, uri: str = "exec:cat > /var/tmp/vm.state") -> None:
    client.do("migrate", uri=uri)
    client.until_status("wait-unplug")


def replug(client: Client) -> None:
    client.do("getfd", 7, FdKind.BROKEN, fdname="replug")
    client.do("migrate", uri="fd:replug")
    client.until_status("failed")


@pytest.mark.parametrize("profile", [STOCK_7_2, STOCK_10_0, STOCK_11_1], ids=lambda profile: profile.name)
def test_stock_saves_and_gets_its_card_back_only_by_a_failing_migration(profile: Profile) -> None:
    client = Client(profile)
    save_pausing_after_unplug(client)
    assert client.vm.runstate == "postmigrate"
    client.do("cont")
    client.wait(10)
    assert client.vm.card == OUT
    replug(client)
    client.wait(1)
    assert client.vm.card == PLUGGED
    assert client.xp().endswith("0x10d38086 0x00100406\r\n")


def test_native_pause_vm_stops_by_itself_and_cont_plugs_back() -> None:
    client = Client(PAUSE_VM_10_0)
    client.do("migrate-set-parameters", pause_vm=True, max_bandwidth=FULL_SPEED)
    client.do("migrate", uri="exec:cat > /var/tmp/vm.state")
    client.until_status("completed")
    assert client.vm.card == OUT
    client.do("cont")
    assert client.vm.card == PLUGGED
    assert client.story == [
        "MIGRATION setup",
        "UNPLUG_PRIMARY",
        "MIGRATION_PASS 1",
        "MIGRATION wait-unplug",
        "MIGRATION active",
        "STOP",
        "MIGRATION_PASS 2",
        "MIGRATION device",
        "MIGRATION_PASS 3",
        "MIGRATION completed",
        "RESUME",
    ]


# The unplug


def test_a_guest_that_never_answers_keeps_the_migration_waiting() -> None:
    client = Client(scenario=Scenario(unplug_delay=None))
    start_migration(client)
    client.wait(3600)
    assert client.do("query-migrate") == {"status": "wait-unplug"}
    assert client.vm.card == PLUGGED


def test_a_stopped_guest_cannot_answer_until_it_runs_again() -> None:
    client = Client()
    client.do("stop")
    start_migration(client)
    client.wait(60)
    assert client.vm.migration_status == "wait-unplug"
    client.do("cont")
    client.until_status("active")
    assert client.vm.card == OUT


def test_a_cancel_gives_a_silent_guest_thirty_seconds() -> None:
    client = Client(scenario=Scenario(unplug_delay=None))
    start_migration(client)
    client.do("migrate_cancel")
    asked = client.vm.now
    assert "There's a migration process in progress" in client.refusal("migrate", uri="exec:cat")
    client.until_status("cancelled")
    assert 30.0 <= client.vm.now - asked <= 30.5


def test_a_guest_that_answers_a_request_given_up_on_loses_its_card() -> None:
    client = Client()
    client.do("stop")
    start_migration(client)
    client.do("migrate_cancel")
    client.until_status("cancelled")
    assert client.vm.card == PLUGGED
    client.do("cont")
    client.wait(1)
    assert client.vm.card == {"primary0": "deleted"}
    assert "DEVICE_DELETED" in client.story


def test_cont_within_the_thirty_seconds_saves_the_card() -> None:
    client = Client()
    client.do("stop")
    start_migration(client)
    client.do("migrate_cancel")
    client.wait(10)
    client.do("cont")
    client.until_status("cancelled")
    client.wait(10)
    assert client.vm.card == PLUGGED


def test_a_slow_guest_answers_after_the_cancel_was_over_and_loses_its_card() -> None:
    client = Client(scenario=Scenario(unplug_delay=40.0))
    start_migration(client)
    client.do("migrate_cancel")
    client.until_status("cancelled")
    client.wait(30)
    assert client.vm.card == {"primary0": "deleted"}


DEVICE_ADD = {
    "driver": "e1000e",
    "netdev": "hs1",
    "id": "primary0",
    "failover_pair_id": "ua-standby0",
    "mac": "52:54:00:11:11:11",
    "bus": "root1",
    "rombar": 0,
    "romfile": "",
}


def test_device_add_brings_a_deleted_card_back() -> None:
    client = Client(scenario=Scenario(card=CardState.DELETED))
    client.vm.receive({"execute": "device_add", "arguments": DEVICE_ADD}, client.vm.now)
    client.wait(1)
    assert client.vm.card == PLUGGED
    assert client.xp().endswith("0x00100406\r\n")


def test_device_add_may_fail() -> None:
    client = Client(scenario=Scenario(card=CardState.DELETED, addable=False))
    client.vm.receive({"execute": "device_add", "arguments": DEVICE_ADD}, client.vm.now)
    assert "error" in client.vm.output()[0]
    assert client.vm.card == {"primary0": "deleted"}


def test_on_7_2_a_deleted_card_comes_back_only_with_a_reboot() -> None:
    client = Client(STOCK_7_2, Scenario(card=CardState.DELETED))
    client.vm.receive({"execute": "device_add", "arguments": DEVICE_ADD}, client.vm.now)
    [reply] = client.vm.output()
    assert reply["error"]["desc"] == "Duplicate ID 'primary0' for device"
    client.do("system_reset")
    client.wait(10)
    assert client.vm.card == PLUGGED


def test_a_card_that_is_out_is_not_asked_for_again() -> None:
    client = Client(scenario=Scenario(card=CardState.OUT))
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    assert client.story == ["MIGRATION setup", "MIGRATION_PASS 1", "MIGRATION active"]


def test_after_a_reboot_a_migration_waits_for_ever_for_a_card_that_is_out() -> None:
    client = Client(scenario=Scenario(card=CardState.OUT))
    client.do("system_reset")
    client.wait(10)
    assert client.vm.card == OUT
    start_migration(client)
    client.wait(3600)
    assert client.vm.migration_status == "wait-unplug"


def test_device_del_does_nothing_to_a_card_that_is_out() -> None:
    client = Client(scenario=Scenario(card=CardState.OUT))
    client.do("device_del", id="primary0")
    client.wait(60)
    assert client.vm.card == OUT


def test_device_del_deletes_a_card_that_is_plugged() -> None:
    client = Client()
    client.do("device_del", id="primary0")
    client.wait(1)
    assert client.vm.card == {"primary0": "deleted"}
    assert "primary0" not in str(client.do("qom-list", path="/machine/peripheral"))


def test_every_primary_must_go_and_every_one_comes_back() -> None:
    client = Client(scenario=Scenario(primaries=2))
    save_pausing_after_unplug(client)
    assert client.story.count("UNPLUG_PRIMARY") == 2
    client.do("cont")
    assert client.vm.card == {"primary0": "out", "primary1": "out"}
    replug(client)
    assert client.vm.card == {"primary0": "plugged", "primary1": "plugged"}


def test_a_vm_without_failover_does_not_wait() -> None:
    client = Client(scenario=Scenario(primaries=0))
    client.do("migrate", uri="exec:cat")
    client.until_status("completed")
    assert "MIGRATION wait-unplug" not in client.story


# Bringing the card back


@pytest.mark.parametrize(("profile", "card"), [(STOCK_7_2, PLUGGED), (STOCK_10_0, PLUGGED), (STOCK_11_1, OUT)])
def test_a_migration_that_cannot_connect_replugs_only_before_11_1(profile: Profile, card: dict[str, str]) -> None:
    client = Client(profile, Scenario(card=CardState.OUT))
    client.do("migrate", uri="unix:/nonexistent/replug")
    client.until_status("failed")
    assert client.vm.card == card


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_migration_refused_at_once_does_not_replug(profile: Profile) -> None:
    client = Client(profile, Scenario(card=CardState.OUT))
    assert client.refusal("migrate", uri="fd:bogus") == "File descriptor named 'bogus' has not been found"
    assert client.vm.card == OUT
    assert client.vm.migration_status == "failed"


def test_a_dead_guest_gets_its_card_but_does_not_drive_it() -> None:
    client = Client(scenario=Scenario(card=CardState.OUT, panics=0.1, panic_device=False))
    client.wait(0.2)
    replug(client)
    client.wait(60)
    assert client.xp().endswith("0x10d38086 0x00100103\r\n")


def test_a_stopped_guest_drives_its_card_once_it_runs() -> None:
    client = Client()
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.do("stop")
    client.do("migrate_cancel")
    client.until_status("cancelled")
    assert (client.vm.runstate, client.vm.card) == ("paused", PLUGGED)
    assert client.xp().endswith("0x00100103\r\n")
    client.do("cont")
    client.wait(0.1)
    assert client.xp().endswith("0x00100406\r\n")


def test_the_address_is_printed_as_each_version_does() -> None:
    assert Client(STOCK_7_2).xp().startswith("00000000b0200000: ")
    assert Client(STOCK_11_1).xp().startswith("b0200000: ")


def test_the_address_that_proves_the_card_follows_from_mtree_and_pci() -> None:
    client = Client(scenario=Scenario(primaries=3))
    mtree = client.do("human-monitor-command", **{"command-line": "info mtree"})
    [line] = [line for line in mtree.splitlines() if "pcie-mmcfg" in line]
    base = int(line.split("-")[0], 16)
    [bridge] = [device for device in client.do("query-pci")[0]["devices"] if device["qdev_id"] == "root5"]
    card = bridge["pci_bridge"]["devices"][0]
    assert card["qdev_id"] == "primary2"
    address = base + (card["bus"] << 20) + (card["slot"] << 15) + (card["function"] << 12)
    printed = client.do("human-monitor-command", **{"command-line": f"xp /2xw {address:#x}"})
    assert int(printed.split()[1], 16) == card["id"]["device"] << 16 | card["id"]["vendor"]


# Run states and failures


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_migrate_is_refused_in_postmigrate(profile: Profile) -> None:
    client = Client(profile)
    save_pausing_after_unplug(client)
    refusal = client.refusal("migrate", uri="exec:cat")
    assert refusal == "Can't migrate the vm that was paused due to previous migration"


@pytest.mark.parametrize(("profile", "runstate"), [(STOCK_7_2, "postmigrate"), (STOCK_10_0, "paused")])
def test_a_stopped_vm_whose_last_stage_is_cancelled_is_forgotten_by_7_2(profile: Profile, runstate: str) -> None:
    client = Client(profile, Scenario(card=CardState.OUT))
    client.do("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    client.do("stop")
    client.do("migrate", uri="exec:cat")
    client.until_status("pre-switchover")
    assert client.refusal("cont") == "Migration is not finalized yet"
    client.do("migrate_cancel")
    client.until_status("cancelled")
    assert client.vm.runstate == runstate


def test_a_full_disk_fails_the_save_and_leaves_the_vm_stopped() -> None:
    client = Client(scenario=Scenario(write_fails_after=10_000_000))
    client.do("migrate", uri="file:/snap/vm.state")
    client.until_status("active")
    client.do("stop")
    client.until_status("failed")
    assert client.do("query-migrate")["error-desc"] == "Unable to write to file: No space left on device"
    assert (client.vm.runstate, client.vm.card) == ("paused", PLUGGED)
    [write] = client.vm.writes()
    assert (write.target, write.size, write.last) == ("/snap/vm.state", 10_000_000, True)


def test_native_pause_vm_starts_the_vm_again_when_the_disk_is_full() -> None:
    client = Client(PAUSE_VM_10_0, Scenario(write_fails_after=10_000_000))
    client.do("migrate-set-parameters", pause_vm=True)
    client.do("migrate", uri="file:/snap/vm.state")
    client.until_status("failed")
    assert client.story[-3:] == ["STOP", "MIGRATION failed", "RESUME"]


def test_a_writer_may_tell_of_an_error_it_met() -> None:
    client = Client()
    client.do("getfd", 9, FdKind.PIPE, fdname="out")
    client.do("migrate", uri="fd:out")
    client.until_status("active")
    client.vm.write_failed(9, "Broken pipe")
    assert client.do("query-migrate")["error-desc"] == "Unable to write to file: Broken pipe"


def test_an_error_met_while_waiting_for_the_guest_shows_once_it_is_active() -> None:
    client = Client(STOCK_11_1)
    client.do("getfd", 9, FdKind.PIPE, fdname="out")
    start_migration(client, "fd:out")
    client.vm.write_failed(9, "Broken pipe")
    assert client.vm.migration_status == "wait-unplug"
    client.until_status("failed")
    assert client.story[-3:] == ["MIGRATION active", "MIGRATION failing", "MIGRATION failed"]


def test_what_was_written_adds_up_to_the_stream() -> None:
    client = Client()
    client.do("getfd", 9, FdKind.PIPE, fdname="out")
    client.do("migrate", uri="fd:out")
    written = 0
    while client.vm.migration_status != "completed":
        client.wait(0.05)
        written += sum(write.size for write in client.vm.writes())
    assert written == client.do("query-migrate")["ram"]["transferred"]
    assert client.vm.writes() == []


def test_bandwidth_can_change_during_the_copy() -> None:
    client = Client()
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.do("stop")
    client.wait(60)
    assert client.vm.migration_status == "active"
    assert client.do("query-migrate")["ram"]["transferred"] == pytest.approx(60 * 65536, rel=0.01)
    client.do("migrate-set-parameters", max_bandwidth=FULL_SPEED)
    client.wait(0.2)
    assert client.vm.migration_status == "completed"


def test_a_lower_bandwidth_puts_the_end_off_even_when_the_disk_will_be_full_first() -> None:
    client = Client(scenario=Scenario(write_fails_after=86_000_000))
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.do("stop")
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.wait(60)
    assert client.do("query-migrate")["ram"]["dirty-sync-count"] == 1


def remaining_share(client: Client) -> float:
    ram = client.do("query-migrate")["ram"]
    return float(ram["remaining"] / ram["total"])


def test_a_stopped_guest_makes_nothing_dirty() -> None:
    client = Client()
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.do("stop")
    before = remaining_share(client)
    client.wait(60)
    assert remaining_share(client) < before


def test_what_a_guest_makes_dirty_is_not_sent_again_in_a_background_snapshot() -> None:
    client = Client()
    client.do("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.wait(1)
    before = remaining_share(client)
    client.wait(60)
    assert client.vm.running
    assert remaining_share(client) < before


def test_a_cancel_is_final_even_when_the_copy_is_nearly_done() -> None:
    client = Client()
    client.do("migrate-set-parameters", max_bandwidth=FULL_SPEED)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    client.do("migrate_cancel")
    client.wait(10)
    assert client.story[-3:] == ["MIGRATION active", "MIGRATION cancelling", "MIGRATION cancelled"]


def test_a_failing_migration_cannot_be_cancelled() -> None:
    client = Client(STOCK_11_1, Scenario(card=CardState.OUT))
    client.do("migrate", uri="exec:false")
    client.until_status("failing")
    client.do("migrate_cancel")
    client.wait(1)
    assert client.story[-2:] == ["MIGRATION failing", "MIGRATION failed"]
    assert "MIGRATION cancelling" not in client.story


def test_a_deleted_card_is_not_waited_for() -> None:
    client = Client(scenario=Scenario(card=CardState.DELETED, guest_forgot_card=True))
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    assert "UNPLUG_PRIMARY" not in client.story


def test_a_reset_during_a_dump_kills_qemu() -> None:
    client = Client()
    client.do("dump-guest-memory", paging=False, protocol="file:/core", detach=True)
    client.send("system_reset")
    assert not client.vm.alive


def test_the_human_monitor_takes_a_bandwidth_in_mib() -> None:
    client = Client()
    line = {"command-line": "migrate_set_parameter max-bandwidth 5"}
    assert client.do("human-monitor-command", **line) == ""
    assert client.do("query-migrate-parameters")["max-bandwidth"] == 5 << 20


def test_a_busy_guest_at_low_bandwidth_is_never_saved() -> None:
    client = Client()
    client.do("migrate-set-parameters", max_bandwidth=1 << 20)
    client.do("migrate", uri="exec:cat")
    client.wait(3600)
    assert client.vm.migration_status == "active"
    client.do("stop")
    client.do("migrate-set-parameters", max_bandwidth=FULL_SPEED)
    client.wait(0.2)
    assert client.vm.migration_status == "completed"


def test_capabilities_are_refused_and_parameters_taken_while_a_migration_runs() -> None:
    client = Client()
    start_migration(client)
    refusal = client.refusal("migrate-set-capabilities", capabilities=[{"capability": "events", "state": False}])
    assert refusal == "There's a migration process in progress"
    client.do("migrate-set-parameters", downtime_limit=400)
    assert client.do("query-migrate-parameters")["downtime-limit"] == 400


def test_without_the_capability_no_migration_events_come() -> None:
    client = Client()
    client.do("migrate-set-capabilities", capabilities=[{"capability": "events", "state": False}])
    save_pausing_after_unplug(client)
    assert client.story == ["UNPLUG_PRIMARY", "STOP"]


def test_blocked_reasons_refuse_the_migration() -> None:
    client = Client(scenario=Scenario(blocked_reasons=("VFIO device doesn't support migration",)))
    assert client.do("query-migrate")["blocked-reasons"] == ["VFIO device doesn't support migration"]
    assert client.refusal("migrate", uri="exec:cat") == "VFIO device doesn't support migration"
    assert client.vm.migration_status == ""


def test_somebody_elses_migration_may_run_already() -> None:
    client = Client(scenario=Scenario(migrating=True), events=False)
    client.wait(1)
    assert client.vm.migration_status == "active"
    assert client.refusal("migrate", uri="exec:cat") == "There's a migration process in progress"
    client.do("migrate_cancel")
    client.wait(1)
    assert client.vm.card == PLUGGED


# Descriptors


def test_11_1_refuses_a_regular_file_as_fd() -> None:
    client = Client(STOCK_11_1)
    client.do("getfd", 5, FdKind.FILE, fdname="out")
    assert "Use file: instead." in client.refusal("migrate", uri="fd:out")


def test_a_regular_file_goes_through_an_fd_set() -> None:
    client = Client(STOCK_11_1)
    added = client.do("add-fd", 5, FdKind.FILE, fdset_id=3)
    client.do("migrate", uri="file:/dev/fdset/3")
    client.until_status("completed")
    assert client.vm.writes()[0].target == 5
    assert client.do("query-fdsets") == [{"fds": [{"fd": added["fd"]}], "fdset-id": 3}]
    client.do("remove-fd", fdset_id=3)
    assert client.do("query-fdsets") == []


def test_an_fd_opened_for_reading_too_is_not_found_in_its_set() -> None:
    client = Client()
    client.do("add-fd", 5, FdKind.FILE_RDWR, fdset_id=3)
    refusal = client.refusal("migrate", uri="file:/dev/fdset/3")
    assert refusal == "Failed to find file descriptor with matching flags=0x41"


@pytest.mark.parametrize("number", ["", "x", "-1", "\u0663", "9" * 5000])
def test_an_fd_set_that_is_no_number_is_refused(number: str) -> None:
    refusal = Client().refusal("migrate", uri=f"file:/dev/fdset/{number}")
    assert refusal == f"Could not parse fdset /dev/fdset/{number}"


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        ({}, "Parameter 'actions[0].data' is missing"),
        ({"data": []}, "Invalid parameter type for 'actions[0].data', expected: object"),
        ({"data": {"snapshot-file": 1}}, "Invalid parameter type for 'actions[0].data.snapshot-file', expected: string"),
        ({"data": {"snapshot-file": "f"}, "more": 1}, "Parameter 'actions[0].more' is unexpected"),
    ],
)
def test_the_branch_of_a_union_is_checked_as_well(action: dict[str, Any], complaint: str) -> None:
    refusal = Client().refusal("transaction", actions=[{"type": "blockdev-snapshot-sync", **action}])
    assert refusal == complaint


def test_7_2_does_not_know_file() -> None:
    refusal = Client(STOCK_7_2).refusal("migrate", uri="file:/snap/vm.state")
    assert refusal == "Parameter 'uri' expects a valid migration protocol"


def test_a_descriptor_of_getfd_outlives_the_connection_and_an_idle_fd_set_does_not() -> None:
    client = Client()
    client.do("getfd", 5, fdname="out")
    client.do("add-fd", 6, fdset_id=3)
    client.vm.disconnect(client.vm.now)
    client.vm.connect(client.vm.now)
    client.do("qmp_capabilities")
    assert client.do("query-fdsets") == []
    client.do("closefd", fdname="out")
    assert client.refusal("closefd", fdname="out") == "File descriptor named 'out' not found"


@pytest.mark.parametrize("reason", ["the VM stands", "a migration writes to it"])
def test_an_fd_set_in_use_outlives_the_connection(reason: str) -> None:
    client = Client()
    client.do("add-fd", 6, FdKind.FILE, fdset_id=3)
    if reason == "the VM stands":
        client.do("stop")
    else:
        start_migration(client, "file:/dev/fdset/3")
    client.vm.disconnect(client.vm.now)
    client.vm.connect(client.vm.now)
    client.do("qmp_capabilities")
    assert len(client.do("query-fdsets")) == 1


def test_a_name_for_a_descriptor_must_not_begin_with_a_digit() -> None:
    client = Client()
    reply = client.send("getfd", 5, FdKind.PIPE, fdname="9a")
    assert reply["error"]["desc"] == "Parameter 'fdname' expects a name not starting with a digit"


def test_a_lost_monitor_takes_its_messages_with_it_and_the_migration_goes_on() -> None:
    client = Client()
    client.vm.receive({"execute": "migrate", "arguments": {"uri": "exec:cat"}}, client.vm.now)
    client.vm.disconnect(client.vm.now)
    client.vm.receive({"execute": "quit"}, client.vm.now)
    client.vm.advance(10)
    assert client.vm.output() == []
    assert client.vm.alive
    assert client.vm.migration_status == "completed"


# Others


def test_a_panic_with_the_default_action_ends_qemu() -> None:
    client = Client(scenario=Scenario(panics=1.0))
    client.wait(2)
    assert client.story == ["GUEST_PANICKED", "SHUTDOWN"]
    assert not client.vm.alive
    assert client.vm.next_at() is None


def test_set_action_keeps_the_evidence_of_a_panic() -> None:
    client = Client(scenario=Scenario(panics="wait-unplug"))
    client.do("set-action", panic="pause")
    start_migration(client)
    client.wait(60)
    assert (client.vm.runstate, client.vm.migration_status) == ("guest-panicked", "wait-unplug")
    client.do("stop")
    assert client.vm.runstate == "guest-panicked"


def test_a_panic_without_a_device_is_only_silence() -> None:
    client = Client(scenario=Scenario(panics="setup", panic_device=False, unplug_delay=1.0))
    start_migration(client)
    client.wait(60)
    assert client.do("query-status") == {"status": "running", "running": True}
    assert client.vm.migration_status == "wait-unplug"


@pytest.mark.parametrize("status", ["setup", "wait-unplug", "active", "device", "completed"])
def test_qemu_may_die_in_any_status(status: str) -> None:
    client = Client(scenario=Scenario(killed=status))
    client.do("migrate-set-parameters", max_bandwidth=FULL_SPEED)
    client.send("migrate", uri="exec:cat")
    client.wait(10)
    assert client.story[-1] == f"MIGRATION {status}"
    assert not client.vm.alive
    assert client.vm.migration_status == status


def test_somebody_else_may_stop_the_vm_in_wait_unplug() -> None:
    client = Client(scenario=Scenario(paused_by_other="wait-unplug", unplug_delay=1.0))
    start_migration(client)
    client.wait(60)
    assert (client.vm.runstate, client.vm.migration_status) == ("paused", "wait-unplug")


def test_a_guest_that_resets_in_wait_unplug_lets_go() -> None:
    client = Client(scenario=Scenario(resets="wait-unplug", unplug_delay=None))
    client.do("migrate-set-parameters", max_bandwidth=65536)
    client.do("migrate", uri="exec:cat")
    client.until_status("active")
    assert client.vm.card == OUT


def test_a_dump_is_refused_during_a_migration_and_refuses_one() -> None:
    client = Client()
    start_migration(client)
    assert "dump-guest-memory in progress" in client.refusal("dump-guest-memory", paging=False, protocol="file:/core")
    client.do("migrate_cancel")
    client.until_status("cancelled")
    client.do("dump-guest-memory", paging=False, protocol="file:/core", detach=True)
    assert client.vm.runstate == "save-vm"
    assert client.refusal("cont") == "There is a dump in process, please wait."
    assert "dump-guest-memory in progress" in client.refusal("migrate", uri="exec:cat")
    client.wait(10)
    assert client.story[-2:] == ["DUMP_COMPLETED", "RESUME"]


def test_a_dump_takes_only_the_formats_there_are() -> None:
    client = Client(STOCK_7_2)
    formats = client.do("query-dump-guest-memory-capability")["formats"]
    assert formats == ["elf", "kdump-zlib", "win-dmp"]
    refusal = client.refusal("dump-guest-memory", paging=False, protocol="file:/core", format="kdump-lzo")
    assert refusal == "kdump-lzo is not available now"


def test_a_dump_hands_out_what_it_writes() -> None:
    client = Client()
    client.do("dump-guest-memory", paging=False, protocol="file:/core", detach=True)
    client.wait(0.1)
    sizes = [write.size for write in client.vm.writes()]
    client.wait(10)
    writes = client.vm.writes()
    assert (writes[-1].target, writes[-1].kind, writes[-1].last) == ("/core", "dump", True)
    assert sum(sizes) + sum(write.size for write in writes) == client.do("query-dump")["total"]


def test_devices_neither_come_nor_go_during_a_migration() -> None:
    client = Client(scenario=Scenario(primaries=1))
    start_migration(client)
    assert client.refusal("device_del", id="primary0") == "device_del not allowed while migrating"
    assert client.refusal("device_add", driver="e1000e") == "device_add not allowed while migrating"


def test_a_dump_that_is_not_detached_blocks_the_monitor() -> None:
    client = Client()
    assert client.send("dump-guest-memory", paging=False, protocol="file:/core") == {}
    assert client.send("query-name") == {}
    client.vm.advance(10)
    assert [message.get("event", message.get("return")) for message in client.vm.output()] == [
        "DUMP_COMPLETED",
        "RESUME",
        {},
        {"name": "vm"},
    ]


def test_a_background_snapshot_stops_the_vm_for_a_moment_and_leaves_the_card_out() -> None:
    client = Client()
    client.do("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
    client.do("migrate", uri="exec:cat")
    client.until_status("completed")
    [(stopped, resumed)] = client.vm.intervals()
    assert resumed - stopped < 0.005
    assert client.do("query-status")["status"] == "running"
    assert client.vm.card == OUT


def test_a_disk_snapshot_puts_an_overlay_on_top() -> None:
    client = Client()
    overlay = {"node-name": "disk0", "snapshot-file": "/snap/over.qcow2", "snapshot-node-name": "over0"}
    client.do("transaction", actions=[{"type": "blockdev-snapshot-sync", "data": overlay}])
    assert client.do("query-block")[0]["inserted"]["node-name"] == "over0"
    assert [node["node-name"] for node in client.do("query-named-block-nodes")] == ["over0", "disk0"]


def test_an_option_rom_shows_in_its_properties_and_ram_blocks() -> None:
    client = Client(scenario=Scenario(option_rom=True))
    assert client.do("qom-get", path="/machine/peripheral/primary0", property="rombar") == 1
    assert "e1000e.rom" in client.do("human-monitor-command", **{"command-line": "info ramblock"})
    assert "e1000e.rom" not in Client().do("human-monitor-command", **{"command-line": "info ramblock"})


# The front door


@pytest.mark.parametrize(
    ("command", "arguments", "error_class", "desc"),
    [
        ("no-such", {}, "CommandNotFound", "The command no-such has not been found"),
        ("stop", {"x": 1}, "GenericError", "Parameter 'x' is unexpected"),
        ("getfd", {}, "GenericError", "Parameter 'fdname' is missing"),
        ("getfd", {"fdname": 3}, "GenericError", "Invalid parameter type for 'fdname', expected: string"),
        ("getfd", {"fdname": "a"}, "GenericError", "No file descriptor supplied via SCM_RIGHTS"),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "events"}]},
            "GenericError",
            "Parameter 'capabilities[0].state' is missing",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": "x"},
            "GenericError",
            "Invalid parameter type for 'capabilities', expected: array",
        ),
        ("migrate-set-parameters", {"max-bandwidth": "x"}, "GenericError", "Parameter 'max-bandwidth' expects uint64"),
        (
            "migrate-set-parameters",
            {"multifd-channels": 0},
            "GenericError",
            "Parameter 'multifd_channels' expects a value between 1 and 255",
        ),
        (
            "migrate-set-parameters",
            {"multifd-compression": "bad"},
            "GenericError",
            "Parameter 'multifd-compression' does not accept value 'bad'",
        ),
        (
            "migrate-set-parameters",
            {"multifd-channels": True},
            "GenericError",
            "Parameter 'multifd-channels' expects uint64",
        ),
        ("qom-get", {"path": "/nope", "property": "type"}, "DeviceNotFound", "Device '/nope' not found"),
        ("device_del", {"id": "nope"}, "DeviceNotFound", "Device 'nope' not found"),
        ("set-action", {"panic": "bad"}, "GenericError", "Parameter 'panic' does not accept value 'bad'"),
    ],
)
def test_commands_are_refused_in_qemus_words(command: str, arguments: dict[str, Any], error_class: str, desc: str) -> None:
    client = Client(STOCK_7_2)
    client.vm.receive({"execute": command, "arguments": arguments, "id": "x"}, 0.0)
    assert client.vm.output() == [{"error": {"class": error_class, "desc": desc}, "id": "x"}]


def test_the_least_and_the_most_of_a_parameter_are_taken() -> None:
    client = Client()
    client.do("migrate-set-parameters", multifd_channels=1)
    client.do("migrate-set-parameters", multifd_channels=255)
    assert client.do("query-migrate-parameters")["multifd-channels"] == 255


def test_nothing_is_answered_before_the_negotiation() -> None:
    vm = SimulatedVm()
    vm.connect(0.0)
    vm.receive({"execute": "query-status"}, 0.0)
    greeting, refusal = vm.output()
    assert greeting["QMP"]["version"]["qemu"]["major"] == 10
    assert refusal["error"]["class"] == "CommandNotFound"


def test_every_command_the_twin_knows_is_in_every_schema_or_too_new_for_it() -> None:
    from vmtui.backend.core.sim.commands import COMMANDS

    for profile in PROFILES:
        assert not [command for command in COMMANDS if command not in schema(profile)]


# Copies, keys and time


def test_a_clone_goes_its_own_way() -> None:
    client = Client()
    start_migration(client)
    twin = client.vm.clone()
    client.vm.advance(100)
    assert client.vm.migration_status == "completed"
    assert twin.migration_status == "wait-unplug"
    assert twin.output() == []
    client.vm.output()
    twin.advance(100)
    twin.output()
    assert twin.key() == client.vm.key()


def test_the_key_does_not_depend_on_when_it_all_began() -> None:
    def key(start: float) -> object:
        vm = SimulatedVm(now=start)
        vm.connect(start)
        for command in ("qmp_capabilities", "stop", "cont"):
            vm.receive({"execute": command}, start)
        vm.receive({"execute": "migrate", "arguments": {"uri": "exec:cat"}}, start + 1)
        vm.advance(start + 1.3)
        vm.output()
        return vm.key()

    assert key(0.0) == key(1234.5)
    assert hash(key(0.0)) == hash(key(77.0))


@given(steps=st.lists(st.floats(0.0, 5.0), max_size=12), profile=st.sampled_from(list(PROFILES.values())))
def test_time_may_pass_in_small_steps_or_large(steps: list[float], profile: Profile) -> None:
    def story(times: list[float]) -> list[dict[str, Any]]:
        client = Client(profile, Scenario(unplug_delay=1.0, panics=7.0, panic_action="pause"))
        client.do("migrate", uri="exec:cat")
        for at in times:
            client.vm.advance(at)
        return [*client.seen, *client.vm.output()]

    small = [sum(steps[: index + 1]) for index in range(len(steps))]
    assert story(small) == story(small[-1:])


# The wire


def wire(*faults: WireFault) -> FaultyWire:
    wire = FaultyWire(SimulatedVm(), *faults)
    wire.connect(0.0)
    wire.receive({"execute": "qmp_capabilities"}, 0.0)
    wire.output()
    return wire


def arrivals(wire: FaultyWire, until: float = 10.0) -> list[str]:
    for command in ("stop", "cont"):
        wire.receive({"execute": command}, 1.0)
    wire.advance(until)
    return [message.get("event", "reply") for message in wire.output()]


@pytest.mark.parametrize(
    ("faults", "arrive"),
    [
        ([], ["STOP", "reply", "RESUME", "reply"]),
        ([WireFault(FaultKind.LOSE)], ["reply", "RESUME", "reply"]),
        ([WireFault(FaultKind.LOSE, "reply", 2)], ["STOP", "RESUME", "reply"]),
        ([WireFault(FaultKind.DOUBLE, nth=2)], ["STOP", "reply", "RESUME", "RESUME", "reply"]),
        ([WireFault(FaultKind.SWAP)], ["reply", "STOP", "RESUME", "reply"]),
        ([WireFault(FaultKind.DELAY, seconds=2.0)], ["reply", "RESUME", "reply", "STOP"]),
        ([WireFault(FaultKind.CUT, "reply", 2)], ["STOP"]),
        ([WireFault(FaultKind.LOSE), WireFault(FaultKind.LOSE, nth=2)], ["reply", "reply"]),
    ],
)
def test_the_wire_misbehaves_as_told(faults: list[WireFault], arrive: list[str]) -> None:
    assert arrivals(wire(*faults)) == arrive


def test_a_late_message_comes_at_its_own_time() -> None:
    faulty = wire(WireFault(FaultKind.DELAY, seconds=2.0))
    faulty.receive({"execute": "stop"}, 1.0)
    assert faulty.next_at() == 3.0
    assert len(faulty.output()) == 1
    faulty.advance(2.9)
    assert faulty.output() == []
    faulty.advance(3.0)
    assert [message["event"] for message in faulty.output()] == ["STOP"]


def test_after_a_cut_the_next_connection_is_greeted() -> None:
    faulty = wire(WireFault(FaultKind.CUT, "reply", 2))
    faulty.receive({"execute": "stop"}, 1.0)
    assert not faulty.connected
    faulty.connect(2.0)
    assert [next(iter(message)) for message in faulty.output()] == ["QMP"]
    assert faulty.vm.runstate == "paused"
