"""The twin of QEMU keeps to what the real one was seen to do."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vmtui.backend.core.sim import (
    PAUSE_VM_10_0,
    STOCK_7_2,
    STOCK_10_0,
    STOCK_11_1,
    FdKind,
    Profile,
    Scenario,
    SimulatedVm,
)

FULL_SPEED = 8796093022208
PLUGGED = {"primary0": "plugged"}
OUT = {"primary0": "out"}
XP = {"command-line": "xp /2xw 0xb0200000"}


class Client:
    """A client that talks to a twin and remembers what it saw."""

    def __init__(self, profile: Profile = STOCK_10_0, scenario: Scenario | None = None) -> None:
        self.vm = SimulatedVm(profile, scenario=scenario or Scenario())
        self.seen: list[dict[str, Any]] = []
        self.vm.connect(0.0)
        self.do("qmp_capabilities")
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
