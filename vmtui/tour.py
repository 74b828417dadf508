"""`vmtui demo --tour`: why saving a VM with a failover card hangs, what helps, and what a crashed guest does to it.

Three acts, played by the twin of QEMU: what is shown is what QEMU said when this was run for real. The time is the
twin's own, so that half a minute of waiting is a line, not half a minute.
"""

import json
import os
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_10_0, FdKind, Profile, Scenario, SimulatedVm
from vmtui.backend.schemas import command_schema

STEP = 1.5
"""Seconds between two steps that go by themselves, at speed 1."""
LONGEST = 2.0
"""Seconds that a wait takes at speed 1, however long it is for the VM."""
LOW, FULL = 64 << 10, 1 << 43
CARD = "0xb0200000"
"""Where the guest sees the card's PCI config space."""


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A VM comes on."""

    profile: Profile
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Send:
    """A command, and what comes of it at once."""

    execute: str
    arguments: dict[str, Any] | None = None
    passed: FdKind | None = None
    """A descriptor that goes with it."""
    keys: tuple[str, ...] = ()
    """Members of the reply that are worth showing; all of it if empty."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes: `seconds`, or until an event of this name (and status) comes."""

    seconds: float
    until: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What is true, whatever QEMU says."""


Step = Say | Scene | Send | Wait | Look

EVENTS = Send("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
GUEST = Scenario(unplug_delay=0.4, drive_delay=0.02)
DEAD = Scenario(unplug_delay=None, panics=0.0, panic_device=False)

ACT_1 = (
    Say("ACT 1: the classic recipe hangs"),
    Say("A VM with a failover pair: a virtio-net standby and a primary card. Before QEMU migrates it, into a file or "
        "elsewhere, the GUEST must unplug the primary. The classic recipe to save a VM is: stop, migrate, cont."),
    Scene(STOCK_10_0, GUEST), EVENTS, Look(),
    Send("stop"),
    Send("migrate", {"uri": "exec:cat > web1.state"}), Wait(1.0),
    Say("UNPLUG_PRIMARY: the guest is ASKED. But it is stopped. A stopped guest answers nobody."),
    Wait(60.0), Send("query-migrate"), Wait(3600.0), Send("query-migrate"), Look(),
    Say("It would wait for ever. And the guest stands. So somebody aborts it, as one aborts a virsh save:"),
    Send("migrate_cancel"), Wait(31.0, "cancelled"),
    Say("QEMU gave the guest 30 s more. Now the guest runs again, finds the old request, and obeys it:"),
    Send("cont"), Wait(2.0, "DEVICE_DELETED"), Look(),
    Say("The card is gone for good. This is what vmtui is for."),
)  # fmt: skip
ACT_2 = (
    Say("ACT 2: let the guest unplug first, then pause it"),
    Say("Any QEMU can do it: a low bandwidth, so that little is written while the guest still runs; migrate; and stop, "
        "as soon as the unplug is over."),
    Scene(STOCK_10_0, GUEST), EVENTS,
    Send("migrate-set-parameters", {"max-bandwidth": LOW}),
    Send("getfd", {"fdname": "state"}, FdKind.FILE),
    Send("migrate", {"uri": "fd:state"}), Wait(2.0, "active"),
    Say("`active`: the guest has let go. Stop it, now:"),
    Send("stop"), Look(),
    Say("It stands. Full speed for the rest:"),
    Send("migrate-set-parameters", {"max-bandwidth": FULL}), Wait(5.0, "completed"),
    Say("Saved. The guest may run on:"),
    Send("cont"), Wait(1.0), Look(),
    Say("But the card stays out, for good: no QEMU brings it back after a save. What does: a migration that reaches "
        "`active` and fails. So into a pipe that nobody reads:"),
    Send("getfd", {"fdname": "nobody"}, FdKind.BROKEN),
    Send("migrate", {"uri": "fd:nobody"}), Wait(1.0, "failed"), Wait(0.5), Look(),
    Say("And the proof, from the guest's own PCI config space (0xffffffff would be: no card):"),
    Send("human-monitor-command", {"command-line": f"xp /2xw {CARD}"}),
    Send("migrate-set-parameters", {"max-bandwidth": 128 << 20}),
    Say("The same with the parameter pause-vm, which was proposed in 2021 and is in no release: QEMU pauses by itself, "
        "and `cont` plugs the card back."),
    Scene(PAUSE_VM_10_0, GUEST), EVENTS,
    Send("migrate-set-parameters", {"pause-vm": True, "max-bandwidth": FULL}),
    Send("getfd", {"fdname": "state"}, FdKind.FILE),
    Send("migrate", {"uri": "fd:state"}), Wait(5.0, "completed"), Look(),
    Send("cont"), Wait(0.5), Look(),
    Say("vmtui save does the one or the other, undoes it if anything fails, and looks at all of it in the end."),
)  # fmt: skip
ACT_3 = (
    Say("ACT 3: a crashed guest blocks it, and hides its evidence"),
    Say("This guest's kernel has panicked. It has no panic device: QEMU sees nothing of it."),
    Scene(STOCK_10_0, DEAD), EVENTS, Wait(1.0),
    Send("query-status"),
    Send("migrate", {"uri": "exec:cat > web1.state"}), Wait(60.0), Send("query-migrate"),
    Say("Nobody is there to unplug. Would a memory dump tell why it crashed?"),
    Send("dump-guest-memory", {"paging": False, "protocol": "file:/var/crash/web1.core", "detach": True}),
    Say("Refused: not while a migration runs. So cancel first. QEMU waits half a minute for the guest, then gives up:"),
    Send("migrate_cancel"), Wait(31.0, "cancelled"), Look(),
    Say("Now the evidence can be had; a dump needs no guest:"),
    Send("dump-guest-memory", {"paging": False, "protocol": "file:/var/crash/web1.core", "detach": True}),
    Wait(10.0, "DUMP_COMPLETED"), Look(),
    Say("vmtui save gives up after --unplug-timeout, waits for the checked end of the cancel, and says what to do. "
        "Try it: vmtui demo, and there: vmtui save build1"),
)  # fmt: skip


def show(*, auto: bool, speed: float) -> int:
    """Play all three acts. A key goes on, q ends; without a terminal it goes by itself."""
    by_itself = auto or not (sys.stdin.isatty() and sys.stdout.isatty())
    pause = partial(_sleep, STEP / speed) if by_itself else _key
    stage = _Stage(speed)
    with nullcontext() if by_itself else _single_keys():
        for step in (*ACT_1, *ACT_2, *ACT_3):
            stage.play(step)
            if not isinstance(step, Scene) and step is not EVENTS and not pause():
                break
    return 0


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys count without Enter, from the first step to the last; one that was pressed early waits for its turn."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard, termios.TCSADRAIN)  # the default would throw away what was typed already
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _key() -> bool:
    """Wait for a key; false for q, Ctrl-C and Ctrl-D."""
    try:
        return os.read(sys.stdin.fileno(), 1) not in (b"q", b"Q", b"\x04", b"")
    except KeyboardInterrupt:
        return False


class _Stage:
    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._vm = SimulatedVm()
        self._acts: dict[type[Any], Callable[[Any], None]] = {
            Say: self._say,
            Scene: self._scene,
            Send: self._send,
            Wait: self._wait,
            Look: self._look,
        }

    def play(self, step: Step) -> None:
        self._acts[type(step)](step)
        sys.stdout.flush()

    def _say(self, step: Say) -> None:
        if step.text.startswith("ACT"):
            print(f"\n{step.text}\n{'=' * len(step.text)}")
        else:
            print(f"\n{textwrap.fill(step.text, 78)}\n")

    def _scene(self, step: Scene) -> None:
        profile = step.profile
        self._vm = SimulatedVm(profile, scenario=step.scenario, name="web1", schema=command_schema(profile.name))
        self._vm.connect(0.0)
        self._vm.receive({"execute": "qmp_capabilities"}, 0.0)
        self._vm.output()
        print(
            f"          web1, QEMU {'.'.join(map(str, profile.version))}{' with pause-vm' if profile.native_pause else ''}"
        )

    def _send(self, step: Send) -> None:
        vm = self._vm
        message: dict[str, Any] = {"execute": step.execute}
        if step.arguments:
            message["arguments"] = step.arguments
        note = f"   (with a descriptor: {_PASSED[step.passed]})" if step.passed else ""
        print(f"{vm.now:8.3f}  -> {json.dumps(message)}{note}")
        if step.passed:
            vm.receive(message, vm.now, len(vm.fds) + 3, step.passed)
        else:
            vm.receive(message, vm.now)
        self._told(vm.output())

    def _told(self, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            shown = {name: value for name, value in message.items() if name != "timestamp"}
            print(f"{self._vm.now:8.3f}  <- {json.dumps(shown)}")

    def _wait(self, step: Wait) -> None:
        """Event by event, each at its own time."""
        vm = self._vm
        end, began = vm.now + step.seconds, vm.now
        for at in self._moments(end):
            vm.advance(at)
            messages = vm.output()
            self._told(messages)
            if step.until and any(step.until in (each["event"], each.get("data", {}).get("status")) for each in messages):
                break
        passed = vm.now - began
        if passed > 1:
            print(f"          ... {_spoken(passed)} later")
        time.sleep(min(passed, LONGEST) / self._speed)

    def _moments(self, end: float) -> Iterator[float]:
        while (due := self._vm.next_at()) is not None and due <= end:
            yield due
        yield end

    def _look(self, _step: Look) -> None:
        vm = self._vm
        guest = "has crashed" if vm.guest == "dead" else "runs" if vm.running else f"stands ({vm.runstate})"
        card = ", ".join(vm.card.values())
        print(f"          == the guest {guest}; its card is {card}; migration: {vm.migration_status or 'none'}")


_PASSED = {FdKind.FILE: "the file to write", FdKind.BROKEN: "a pipe whose other end is closed"}


def _spoken(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.1f} s"
