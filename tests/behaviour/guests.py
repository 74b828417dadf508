"""What every VM to be saved has in common, be it a real guest in a real QEMU or a simulated one behind a socket."""

import os
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import pytest

from tests.behaviour.looking import Look, card_of, differences, look, wait_until
from tests.behaviour.monitor import Monitor
from tests.behaviour.program import Ended, Line, Program, Start
from vmtui.backend import lab

FULL_BANDWIDTH = 1 << 43
"""What vmtui raises max-bandwidth to once the guest stands still."""
BRAKED = 64 << 10
"""Bytes a second at which the state of a guest takes a minute at least."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a guest is to be. All have 256 MiB."""

    failover: bool = True
    """A failover pair."""
    stubborn: bool = False
    """The guest lives but never answers the unplug."""
    pvpanic: bool = True
    """False: QEMU hears nothing of a panic."""
    panic_action: str | None = None
    """QEMU's `-action panic=`; None: its default, shutdown."""
    agent: str = ""
    """It has a channel for a guest agent; there is one that `answers`, is `silent`, or `none`."""
    slow: bool = False
    """Its state takes so long to write that a test can step in. A real one's always does."""
    whole: bool = False
    """As many bytes are written as it has. Of a twin's state otherwise only a sample is."""


class Doomed(NamedTuple):
    """A VM that is there to be killed."""

    address: str
    pid: int
    runstate: str


class Guest(ABC):
    """A guest, what it was like at first, and a directory for its snapshots."""

    name: str
    uuid: str
    pid: int
    """The process that ends when the VM does."""
    qmp: Path
    """The monitor that vmtui is given."""
    primary = lab.PRIMARY
    """Its failover card's id."""

    def __init__(self, monitor: Path, directory: Path, start: Start) -> None:
        """`monitor`: a second one, for the test. `start` starts vmtui."""
        self.directory = directory
        self.qemu = Monitor(monitor).__enter__()
        """The test's own connection."""
        self._start = start
        self._programs: list[Program] = []
        wait_until(lambda: card_of(self.qemu) in (("plugged", True), ("none", False)), "the guest's driver runs the card")
        self.first = self.look()

    def look(self) -> Look:
        return look(self.qemu, self.open_snapshots())

    @abstractmethod
    def open_snapshots(self) -> frozenset[str]:
        """Snapshots, and parts of them, that QEMU's process has open."""

    @property
    def snapshots(self) -> Path:
        """Where a save puts its file: made by vmtui."""
        return self.directory / "snapshots"

    @property
    def environment(self) -> dict[str, str]:
        return {"VMTUI_SNAPSHOT_DIR": str(self.snapshots), "XDG_STATE_HOME": str(self.directory / "state")}

    def files(self) -> list[str]:
        """The names of all that saves have left."""
        return sorted(path.name for path in self.snapshots.rglob("*")) if self.snapshots.exists() else []

    # --- the program

    def start(self, command: str, *options: str, address: str | None = None) -> Program:
        return self._started(self._start, command, address or self.uuid, *options)

    def run(self, command: str, *options: str, address: str | None = None, seconds: float = 60.0) -> Ended:
        return self.start(command, *options, address=address).end(seconds)

    @abstractmethod
    def interrupted(self, command: str, **line: Any) -> Program:
        """A program that gets SIGINT at its first line of NDJSON with these values."""

    def _started(self, start: Start, *arguments: str) -> Program:
        program = Program(start, *arguments, environment=self.environment)
        self._programs.append(program)
        return program

    def brake(self) -> None:
        """Keep a save that has been started from ending: lower the bandwidth again as soon as vmtui has raised it."""
        deadline = time.monotonic() + 30
        while self.bandwidth() != FULL_BANDWIDTH or self.migration_status() != "active":
            assert time.monotonic() < deadline, "the save did not get as far as the copy"
            time.sleep(0.001)
        self.qemu("migrate-set-parameters", {"max-bandwidth": BRAKED})
        status = self.qemu("query-migrate")["status"]
        assert status == "active", f"the save was over before it could be slowed down: {status}"

    def bandwidth(self) -> int:
        return int(self.qemu("query-migrate-parameters")["max-bandwidth"])

    def migration_status(self) -> str:
        return str(self.qemu("query-migrate").get("status", "none"))

    def waits_for_unplug(self) -> None:
        """Returns once it does."""
        wait_until(lambda: self.migration_status() == "wait-unplug", "QEMU waits for the guest")

    # --- the guest

    @abstractmethod
    def is_well(self) -> None:
        """The guest works, through every card that it has."""

    @abstractmethod
    def goes_on(self) -> None:
        """It is well from now on, and it is the same guest: it has not begun anew."""

    @abstractmethod
    def crash(self) -> None:
        """It panics; returns when it did."""

    def kill(self) -> None:
        """QEMU is killed."""
        os.kill(self.pid, signal.SIGKILL)

    def is_as_before(self) -> None:
        changed = differences(self.first, self.look())
        assert not changed, f"not as before: {changed}"
        self.goes_on()

    def nothing_is_left(self) -> None:
        """The VM is as before, and there is no file, nor a part of one."""
        assert self.files() == []
        self.is_as_before()

    # --- the end

    def tidy_up(self) -> bool:
        """End what a test left running; whether the guest can be used again."""
        for program in self._programs:
            program.stop()
        self._programs.clear()
        shutil.rmtree(self.snapshots, ignore_errors=True)
        with suppress(OSError, AssertionError):
            return self.look() == self.first
        return False

    def close(self) -> None:
        self.tidy_up()
        self.qemu.__exit__(None, None, None)
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """End its QEMU, if it runs."""


G = TypeVar("G", bound=Guest)
S = TypeVar("S")


class Pen(ABC, Generic[G, S]):
    """The guests of one QEMU. Those that a test leaves as they were are used again by the next.

    `S` is what a guest of a kind is made from: guests of one such value are alike.
    """

    version: tuple[int, ...]
    """QEMU's."""
    native_pause = False
    """It has the parameter pause-vm."""
    patience = 2.0
    """Seconds that a stubborn guest is given."""
    place = "/tmp"
    """Where its files are. A socket's path must be short."""
    stands_for_others = True
    """False: what does not depend on the QEMU at all, and takes its time, is asked of another."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vr-", dir=self.place))
        self._shared: dict[S, G] = {}
        self._own: list[G] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        for guest in (*self._own, *self._shared.values()):
            guest.close()
        self._close()
        shutil.rmtree(self.directory)

    def _close(self) -> None:
        """End what the guests had in common."""

    @property
    def strategy(self) -> str:
        """The one that is chosen for a guest with a failover pair."""
        return "pause-vm" if self.native_pause else "pause-after-unplug"

    def guest(self, **kind: Any) -> G:
        """A guest that other tests use too."""
        wanted = self._made_from(Kind(**kind))
        if wanted not in self._shared:
            self._shared[wanted] = self._up(wanted)
        return self._shared[wanted]

    def own(self, **kind: Any) -> G:
        """A guest for one test alone: it may be ended."""
        guest = self._up(self._made_from(Kind(**kind)))
        self._own.append(guest)
        return guest

    def several(self, *kinds: Line) -> tuple[G, ...]:
        """As `own`, for each of these; they boot at the same time."""
        with ThreadPoolExecutor(len(kinds)) as threads:
            return tuple(threads.map(lambda kind: self.own(**kind), kinds))

    @abstractmethod
    def _made_from(self, kind: Kind) -> S: ...

    @abstractmethod
    def _up(self, wanted: S) -> G: ...

    def _place(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def after_test(self) -> None:
        """End the guests that were one test's own, and those that are not as they were."""
        for guest in self._own:
            guest.close()
        self._own.clear()
        for wanted, guest in list(self._shared.items()):
            if not guest.tidy_up():
                self._shared.pop(wanted).close()

    # --- what is not done alike everywhere

    @abstractmethod
    def with_an_option_rom(self) -> AbstractContextManager[str]:
        """The address of a VM whose card has one."""

    @abstractmethod
    def one_to_kill(self) -> AbstractContextManager[Doomed]:
        """A VM without a past."""

    def skip_unless_it_stands_for_others(self, why: str) -> None:
        if not self.stands_for_others:
            pytest.skip(why)
