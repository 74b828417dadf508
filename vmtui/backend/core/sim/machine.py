"""What does QEMU do to a VM, its cards and a migration as time passes?

The machine knows nothing of the wire: commands call its methods, its timers fire by themselves, and whatever a client
would see is appended to `out`. Time only ever comes from outside, and a timer fires at its own time, however late the
machine is told.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from vmtui.backend.core.sim.card import Card
from vmtui.backend.core.sim.migration import NOWHERE, Dump, Migration
from vmtui.backend.core.sim.profile import Profile
from vmtui.backend.core.sim.scenario import CardState, Scenario, When
from vmtui.backend.core.sim.stream import HEADER, Stream
from vmtui.backend.core.sim.target import Fd, Target, Write

MIB = 1 << 20
EPOCH = 1_795_437_632
"""Seconds: what the wall clock says when the twin's clock says 0."""
ROMS = 794_624
"""Bytes of RAM blocks besides the guest's RAM, all of them saved too."""

POLL = 0.25
"""Seconds between two looks at the unplug."""
CANCEL_POLLS = 120
"""How often QEMU looks again after a cancel before it gives up on the guest."""

_BEGIN = 0.0045
_UNCONNECTED = 0.0003
_NATIVE_PAUSE = 0.0003
_SNAPSHOT_PAUSE = 0.0005
_SNAPSHOT_RESUME = 0.0015
_DEVICE_STATE = 0.006
_CANCEL = 0.085
_CANCEL_STOPPED = 0.005
_FAILING = 0.005
_LOAD_BEGIN = 0.002
_LOAD = 0.077
_BIOS_RESET = 0.025

RUNNING = "running"
LATER = object()
"""A command's answer when the monitor is blocked until the machine calls `unblock`."""
_LITTLE = 0.5
"""QEMU writes in chunks, so a pass ends with less left than it need be."""

STOPPABLE = frozenset({"active", "device", "pre-switchover"})


class Refused(Exception):
    """QEMU answers with an error."""

    def __init__(self, desc: str, error_class: str = "GenericError") -> None:
        super().__init__(desc)
        self.error_class = error_class


class Machine:
    """One VM inside one QEMU. Mutable, but every container in it is flat, so that `clone` is cheap."""

    __slots__ = (
        "_closed", "_since", "_surprises", "agent_in_use", "agent_path", "alive", "boots", "capabilities",
        "cards", "disks", "dump", "fds", "fdsets", "guest", "killed", "listening", "migration", "name", "now",
        "out", "overheard", "panic_action", "parameters", "passed", "profile", "ram", "runstate", "scenario",
        "stopped", "timers", "watched",
    )  # fmt: skip

    def __init__(self, profile: Profile, scenario: Scenario, ram: int, name: str, now: float) -> None:
        self.profile = profile
        self.scenario = scenario
        self.ram = ram
        self.name = name
        self.now = now
        self.out: list[dict[str, Any]] = []
        self.listening = False
        self.watched = False
        """A client listens at the second monitor too: it gets what is `overheard`."""
        self.overheard: list[dict[str, Any]] = []
        self.alive = True
        self.killed = False
        """It did not end by itself: it tidied up nothing."""
        self.runstate = scenario.runstate
        self.guest = "up"
        """up, dead (panicked) or booting."""
        self.boots = False
        """The VM was reset, and the guest boots as soon as it runs."""
        self.agent_path = f"/run/{name}.agent"
        """The socket of the guest agent's channel, if there is one."""
        self.agent_in_use = scenario.agent_in_use
        """Somebody is connected to it."""
        self.cards = _cards(scenario)
        self.panic_action = scenario.panic_action
        self.parameters = dict(profile.parameters)
        self.capabilities: frozenset[str] = frozenset()
        self.migration: Migration | None = None
        self.dump = Dump()
        self.passed: Fd | None = None
        """The descriptor that came with the command being answered."""
        self.fds: dict[str, Fd] = {}
        self.fdsets: dict[int, tuple[tuple[Fd, int, str | None], ...]] = {}
        self.timers: dict[str, float] = {}
        self.stopped: tuple[tuple[float, float], ...] = ()
        self._since: float | None = None if self.running else now
        self._closed: list[Write] = []
        self.disks: tuple[tuple[str, str], ...] = (("disk0", f"/var/lib/vms/{name}.qcow2"),)
        """Node name and file of the one disk's layers, the writable one first."""
        self._surprises = _surprises(scenario)
        for what, when in self._surprises:
            if isinstance(when, float | int):
                self.timers[what] = now + when
        if scenario.migrating:
            self._start_foreign_migration()

    def _copy_into(self, other: "Machine") -> None:
        for slot in Machine.__slots__:
            setattr(other, slot, getattr(self, slot))
        other.out = self.out.copy()
        other.overheard = self.overheard.copy()
        other.parameters = self.parameters.copy()
        other.fds = self.fds.copy()
        other.fdsets = self.fdsets.copy()
        other.timers = self.timers.copy()
        other._closed = self._closed.copy()

    # Time

    def unblock(self) -> None:
        """What blocked the monitor is over."""

    def next_at(self) -> float | None:
        """When something will happen by itself; None when nothing ever will."""
        due = min(self.timers.values(), default=inf)
        return None if due == inf else due

    def advance(self, now: float) -> None:
        """Let time pass until `now`: what is due happens in order, each at its own time."""
        timers = self.timers
        while timers:
            name = min(timers, key=timers.__getitem__)
            at = timers[name]
            if at > now:
                break
            self.now = max(self.now, at)
            del timers[name]
            _TIMERS[name](self)
        self.now = max(self.now, now)

    def _after(self, seconds: float, name: str) -> None:
        self._at(self.now + seconds, name)

    def _at(self, time: float, name: str) -> None:
        if self.alive:
            self.timers[name] = time

    def _forget(self, *names: str) -> None:
        for name in names:
            self.timers.pop(name, None)

    # What a client sees

    def emit(self, event: str, data: dict[str, Any] | None = None) -> None:
        if not self.listening and not self.watched:
            return
        micros = round(self.now * 1_000_000)
        stamp = {"seconds": EPOCH + micros // 1_000_000, "microseconds": micros % 1_000_000}
        message: dict[str, Any] = {"timestamp": stamp, "event": event}
        if data is not None:
            message["data"] = data
        if self.listening:
            self.out.append(message)
        if self.watched:
            self.overheard.append(message)

    def _emit_migration(self, event: str, data: dict[str, Any]) -> None:
        if "events" in self.capabilities:
            self.emit(event, data)

    # Run states

    @property
    def running(self) -> bool:
        return self.runstate == RUNNING

    @property
    def migrating(self) -> bool:
        return self.migration is not None and self.migration.runs

    @property
    def dumping(self) -> bool:
        return self.dump.status == "active"

    def stop_vm(self, runstate: str) -> bool:
        """Stop the VM if it runs; true if it ran."""
        if not self.running:
            return False
        self._enter(runstate)
        self.emit("STOP")
        self._happens(runstate)
        return True

    def start_vm(self) -> None:
        if self.running:
            return
        self._enter(RUNNING)
        self.emit("RESUME")
        self._happens(RUNNING)

    def _enter(self, runstate: str) -> None:
        was_running, self.runstate = self.running, runstate
        if was_running == self.running:
            return
        if self.running:
            self.stopped += ((self._since or 0.0, self.now),)
            self._since = None
            self._guest_runs()
        else:
            self._since = self.now
            self._forget("eject", "drive", "bios-reset", "booted")
        self._retime()

    def intervals(self) -> tuple[tuple[float, float], ...]:
        """From when until when the guest stood; the last end is `now` while it stands."""
        return self.stopped if self._since is None else (*self.stopped, (self._since, self.now))

    def cont(self) -> None:
        if self.runstate == "finish-migrate":
            raise Refused("Migration is not finalized yet")
        self.start_vm()
        if self._native_replug_due():
            self._plug_back()

    def _native_replug_due(self) -> bool:
        migration = self.migration
        return migration is not None and migration.status == "completed" and bool(self.parameters.get("pause-vm"))

    # The guest

    def _guest_runs(self) -> None:
        if self.boots:
            self.boots, self.guest = False, "booting"
            self._after(_BIOS_RESET, "bios-reset")
        if self.guest == "booting":
            self._after(self.scenario.boot_time, "booted")
        self.guest_looks()

    def guest_looks(self) -> None:
        """A guest that runs and is well sees to its slots."""
        if not self.running or self.guest != "up":
            return
        delay = self.scenario.unplug_delay
        if delay is not None and "eject" not in self.timers and any(self._ejectable()):
            self._after(delay, "eject")
        if any(card.state is CardState.PLUGGED and not card.driven for card in self.cards):
            self._after(self.scenario.drive_delay, "drive")

    def _ejectable(self) -> list[Card]:
        return [card for card in self.cards if card.pending and card.state is CardState.PLUGGED]

    def _eject(self) -> None:
        self.cards = tuple(self._let_go(card) if card in self._ejectable() else card for card in self.cards)

    def _let_go(self, card: Card) -> Card:
        if not card.kept:
            self.emit("DEVICE_DELETED", {"device": card.id, "path": f"/machine/peripheral/{card.id}"})
        return card.let_go()

    def _drive(self) -> None:
        self.cards = tuple(replace(card, driven=card.state is CardState.PLUGGED) for card in self.cards)

    def _booted(self) -> None:
        self.guest = "up"
        self.cards = tuple(card.rebooted() for card in self.cards)
        for card in self.cards:
            self.emit("FAILOVER_NEGOTIATED", {"device-id": card.standby})
        self._drive()
        self.guest_looks()

    def _bios_reset(self) -> None:
        for _ in range(self.profile.bios_resets):
            self.emit("RESET", {"guest": True, "reason": "guest-reset"})

    def reset(self, *, by_guest: bool) -> None:
        """A reset answers every open unplug request, and destroys the guest's state."""
        if self.dumping:
            self.die()  # "invalid runstate transition: 'save-vm' -> 'prelaunch'", and QEMU aborts
            return
        reason = "guest-reset" if by_guest else "host-qmp-system-reset"
        self.emit("RESET", {"guest": by_guest, "reason": reason})
        self.cards = tuple(replace(self._let_go(card) if card.pending else card, driven=False) for card in self.cards)
        self._forget("eject", "drive")
        self.boots = True
        if self.running:
            self._guest_runs()
        elif self.runstate != "inmigrate":
            self._enter("prelaunch")

    @property
    def agent_listens(self) -> bool:
        """It has its port open: also one that is silent, stands still or died with its guest."""
        return self.scenario.agent in ("answers", "silent") and self.guest != "booting"

    def agent_answers(self) -> bool:
        """A question that is put to it now."""
        return self.scenario.agent == "answers" and self.guest == "up" and self.running

    def nmi(self) -> None:
        """An NMI that nobody asked for: the guest panics, as Linux does with `unknown_nmi_panic`."""
        if not self.running:
            raise Refused("the simulated VM does not know how to panic while it stands")
        self._panic()

    def _panic(self) -> None:
        if not self.running:
            return
        self.guest = "dead"
        self._forget("eject", "drive", "booted", "bios-reset")
        if not self.scenario.panic_device:
            return
        self.emit("GUEST_PANICKED", {"action": _PANIC_WORDS[self.panic_action]})
        if self.panic_action == "pause":
            self.stop_vm("guest-panicked")
        elif self.panic_action != "none":
            self.shut_down("guest-panic", guest=True)

    def shut_down(self, reason: str, *, guest: bool) -> None:
        self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        self.die()

    def die(self) -> None:
        """QEMU is gone; so is everything that was to happen."""
        if self.migration is not None and self.migration.runs:
            self._close_stream()
        self.alive = self.listening = self.watched = False
        self.timers.clear()

    def _kill(self) -> None:
        self.killed = True
        self.die()

    def _happens(self, word: str) -> None:
        """A status or run state was entered: what does the scenario hang on it?"""
        for what, when in self._surprises:
            if when == word:
                if what == "killed":
                    self._kill()
                else:
                    self._after(self.scenario.other_delay, what)

    # The migration

    def migrate(self, open_target: Callable[["Machine"], Target]) -> None:
        """Start a migration; `open_target` may refuse, which QEMU reports both ways."""
        self._may_migrate()
        background = "background-snapshot" in self.capabilities
        size = self.ram * self.scenario.touched
        self.migration = Migration("", NOWHERE, self.now, Stream(size, size, at=self.now), background)
        self._enter_status("setup")
        try:
            target = self._limited(open_target(self))
        except Refused as refused:
            self._change(error=str(refused), ended_at=self.now)
            self._enter_status("failed")
            raise
        self._change(target=target)
        if target.scheme in ("unix", "tcp"):
            self._after(_UNCONNECTED, "begin")
            return
        self._ask_for_cards()
        self._after(_BEGIN, "begin")

    def _may_migrate(self) -> None:
        if self.dumping:
            raise Refused("Live migration disabled: dump-guest-memory in progress")
        if self.scenario.blocked_reasons:
            raise Refused(self.scenario.blocked_reasons[0])
        if self.migrating:
            raise Refused("There's a migration process in progress")
        if self.runstate == "postmigrate":
            raise Refused("Can't migrate the vm that was paused due to previous migration")

    def _limited(self, target: Target) -> Target:
        limit = self.scenario.write_fails_after
        if limit is None or target.limit is not None:
            return target
        return replace(target, limit=float(limit), error=self.scenario.write_error)

    def _change(self, **changes: Any) -> None:
        assert self.migration is not None
        self.migration = replace(self.migration, **changes)

    def _enter_status(self, status: str) -> None:
        self._change(status=status)
        self._emit_migration("MIGRATION", {"status": status})
        self._happens(status)

    def _ask_for_cards(self) -> None:
        for card in self.cards:
            if not card.hidden and card.state is not CardState.DELETED:
                self.emit("UNPLUG_PRIMARY", {"device-id": card.id})
        self.cards = tuple(card if card.hidden or card.state is CardState.DELETED else card.asked() for card in self.cards)
        self.guest_looks()

    @property
    def _waits_for_guest(self) -> bool:
        return any(card.pending for card in self.cards)

    def _begin(self) -> None:
        migration = self.migration
        assert migration is not None
        if migration.target.scheme in ("unix", "tcp"):
            self._unconnected(migration)
            return
        unsynced = migration.background and self.profile.first_pass
        self._change(passes=0 if unsynced else 1, stream=replace(migration.stream, sent=float(HEADER), at=self.now))
        if self.profile.first_pass and not migration.background:
            self._emit_migration("MIGRATION_PASS", {"pass": 1})
        if migration.status == "cancelling":
            self._poll()
        elif self._waits_for_guest:
            self._enter_status("wait-unplug")
            self._after(POLL, "poll")
        else:
            self._activate()

    def _unconnected(self, migration: Migration) -> None:
        self._change(error=f"Failed to connect to '{migration.target.target}': No such file or directory")
        self._fail_now(replug=self.profile.unconnected_replugs)

    def _poll(self) -> None:
        migration = self.migration
        assert migration is not None
        left = migration.polls_left
        if migration.status == "cancelling":
            left = CANCEL_POLLS if left is None else left - 1
            self._change(polls_left=left)
        if self._waits_for_guest and left != 0:
            self._after(POLL, "poll")
        elif left is None:
            self._activate()
        else:
            self._cancelled()

    def _activate(self) -> None:
        self._change(active_at=self.now)
        self._enter_status("active")
        migration = self.migration
        if migration is None or not self.alive:
            return
        if migration.target.limit is not None and migration.target.limit <= migration.stream.sent:
            self._fail(self.profile.setup_error or migration.target.failure)
            return
        if migration.background:
            self._after(_SNAPSHOT_PAUSE, "snapshot-stop")
        elif self.parameters.get("pause-vm") and self.running:
            self._after(_NATIVE_PAUSE, "native-pause")
        self._retime()

    def _retime(self) -> None:
        """The rate or the guest has changed: when does this pass end now?"""
        migration = self.migration
        if migration is None or not migration.copies:
            return
        dirtying = self.scenario.dirty_rate if self.running and not migration.background else 0.0
        stream = migration.stream.retimed(self.now, self._rate(), dirtying)
        self.migration = replace(migration, stream=stream)
        self._set_stream_timers(stream, migration.target.limit)

    def _rate(self) -> float:
        limit = self.parameters["max-bandwidth"]
        return min(limit, self.scenario.disk_speed) if limit else self.scenario.disk_speed

    def _set_stream_timers(self, stream: Stream, limit: float | None) -> None:
        self._forget("pass", "limit")
        ends = stream.falls_to(_LITTLE * self._threshold(stream))
        full = inf if limit is None else stream.sends_at(limit)
        name, at = ("limit", full) if full <= ends else ("pass", ends)
        if at != inf:
            self._at(at, name)

    def parameters_changed(self) -> None:
        self._retime()

    def _native_pause(self) -> None:
        self._stop_for_migration("paused")

    def _stop_for_migration(self, runstate: str) -> None:
        if self.running:
            self._change(stopped_it=True)
            self.stop_vm(runstate)
        elif runstate == "finish-migrate":
            self._change(old_state=self.runstate)
            self._enter(runstate)

    def _snapshot_stop(self) -> None:
        self._stop_for_migration("paused")
        self._after(_SNAPSHOT_RESUME, "snapshot-resume")

    def _snapshot_resume(self) -> None:
        migration = self.migration
        if migration is not None and migration.stopped_it:
            self._change(stopped_it=False)
            self.start_vm()

    def _pass_ends(self) -> None:
        migration = self.migration
        assert migration is not None
        if migration.background:
            self._change(stream=migration.stream.drained(self.now), switched_at=self.now)
            self._completed()
            return
        stream = migration.stream.synced(self.now)
        self._change(stream=stream)
        self._sync()
        if stream.left <= self._threshold(stream):
            self._switch_over()
        else:
            self._retime()

    def _threshold(self, stream: Stream) -> float:
        """Bytes that may be left for the time when the VM stands still.

        QEMU multiplies the limit with the speed of the last 100 ms; so the whole copy never seems little to it.
        """
        seconds: float = self.parameters["downtime-limit"] / 1000
        return min(self._rate() * seconds, stream.size / 10)

    def _sync(self) -> None:
        assert self.migration is not None
        self._change(passes=self.migration.passes + 1)
        self._emit_migration("MIGRATION_PASS", {"pass": self.migration.passes})

    def _switch_over(self) -> None:
        self._change(switched_at=self.now)
        self._stop_for_migration("finish-migrate")
        if "pause-before-switchover" in self.capabilities:
            self._enter_status("pre-switchover")
        else:
            self._write_rest(self.profile.device_status)

    def continue_migration(self) -> None:
        """migrate-continue after `pre-switchover`."""
        self._write_rest(True)

    def _write_rest(self, device_status: bool) -> None:
        if device_status:
            self._enter_status("device")
        if self.profile.last_pass:
            self._sync()
        self._after(_DEVICE_STATE + self.settled_stream().left / self.scenario.disk_speed, "end")

    def _end(self) -> None:
        migration = self.migration
        assert migration is not None
        stream = migration.stream.drained(self.now)
        self._change(stream=stream)
        limit = migration.target.limit
        if limit is not None and limit <= stream.sent:
            self._fail(migration.target.failure)
            return
        self._enter("postmigrate")
        self._completed()

    def _completed(self) -> None:
        self._change(ended_at=self.now)
        self._close_stream()
        self._enter_status("completed")

    def _reaches_limit(self) -> None:
        assert self.migration is not None
        self._change(stream=self.migration.stream.settled(self.now))
        self._fail(self.migration.target.failure)

    def _fail(self, error: str) -> None:
        self._stop_copying()
        self._change(error=error)
        if self.profile.failing:
            self._enter_status("failing")
            self._after(_FAILING, "failed")
        else:
            self._failed()

    def _failed(self) -> None:
        self._fail_now(replug=True)

    def _fail_now(self, *, replug: bool) -> None:
        if self.profile.failing and self.migration is not None and self.migration.status != "failing":
            self._enter_status("failing")
        self._change(ended_at=self.now)
        self._close_stream()
        self._enter_status("failed")
        self._undo(replug=replug)

    def _undo(self, *, replug: bool) -> None:
        self._start_again()
        if replug:
            self._plug_back()

    def _start_again(self) -> None:
        assert self.migration is not None
        if self.migration.stopped_it:
            self._change(stopped_it=False)
            self.start_vm()
        elif self.runstate == "finish-migrate":
            self._enter("postmigrate" if self.profile.forgets_runstate else self.migration.old_state)

    def _plug_back(self) -> None:
        self.cards = tuple(card.plugged_back() for card in self.cards)
        self.guest_looks()

    def add_card(self, added: Card) -> None:
        self.cards = tuple(card.added() if card == added else card for card in self.cards)
        self.guest_looks()

    def _stop_copying(self) -> None:
        self._forget("pass", "limit", "end", "native-pause", "snapshot-stop", "snapshot-resume")
        migration = self.migration
        if migration is not None and migration.copies:
            self._change(stream=migration.stream.retimed(self.now, 0.0, 0.0))

    def cancel(self) -> None:
        """migrate_cancel returns at once; `cancelled` comes when the guest has let go, or after 30 s."""
        migration = self.migration
        if migration is None or not migration.runs or migration.status == "failing":
            return
        was = migration.status
        self._stop_copying()
        self._enter_status("cancelling")
        if was in STOPPABLE and self.alive:
            self._after(_CANCEL if was == "active" else _CANCEL_STOPPED, "cancelled")

    def _cancelled(self) -> None:
        self._start_again()
        self._change(ended_at=self.now)
        self._close_stream()
        self._enter_status("cancelled")
        self._plug_back()

    def write_failed(self, target: int | str, error: str) -> None:
        """Whoever really writes was told `error`."""
        migration = self.migration
        if migration is not None and migration.runs and migration.target.target == target:
            self._change(target=migration.target.failing(error))
            if migration.status in ("active", "device"):
                self._fail(self.migration.target.failure if self.migration else error)
        elif self.dumping and self.dump.target.target == target:
            self.dump = replace(self.dump, target=self.dump.target.failing(error))
            self._forget("dump")
            self._dump_ends()

    def load(self) -> None:
        """migrate-incoming: a saved VM comes in and stands as it stood."""
        if self.runstate != "inmigrate":
            raise Refused("'-incoming' was not specified on the command line")
        self.migration = Migration("", NOWHERE, self.now, Stream(0.0, 0.0), incoming=True)
        self._enter_status("setup")
        self._after(_LOAD_BEGIN, "loading")

    def _loading(self) -> None:
        self._enter_status("active")
        self._after(_LOAD, "loaded")

    def _loaded(self) -> None:
        self._enter_status("completed")
        self._enter("paused")

    def settled_stream(self) -> Stream:
        """How far the copy is now."""
        assert self.migration is not None
        return self.migration.stream.settled(self.now)

    def _close_stream(self) -> None:
        self._closed += self._stream_writes(last=True)

    def _stream_writes(self, *, last: bool) -> list[Write]:
        migration = self.migration
        if migration is None or (not last and not migration.runs):
            return []
        size = int(migration.stream.settled(self.now).sent) - migration.written
        if size <= 0 and not last:
            return []
        self.migration = replace(migration, written=migration.written + size)
        target = migration.target
        return [Write(target.scheme, target.target, max(size, 0), "stream", last)]

    def writes(self) -> list[Write]:
        """What QEMU has written since this was last asked; whoever holds the descriptors can write it."""
        writes, self._closed = self._closed, []
        return writes + self._stream_writes(last=False) + self._dump_writes()

    def _start_foreign_migration(self) -> None:
        self.parameters["max-bandwidth"] = 65536
        self.cards = tuple(replace(card.asked().let_go()) for card in self.cards)
        self.migrate(lambda _: Target("file", "/dev/null"))

    # The dump

    def start_dump(self, target: Target, dump_format: str) -> None:
        if self.migrating:
            raise Refused(
                "disallowing migration blocker (migration/snapshot in progress) for: "
                "Live migration disabled: dump-guest-memory in progress"
            )
        total = self.ram + 262_144
        was_running = self.stop_vm("save-vm")
        self.dump = Dump("active", total, self.now, self._limited(target), was_running, format=dump_format)
        limit = self.dump.target.limit
        self._after(min(total, total if limit is None else limit) / self.scenario.dump_speed, "dump")

    def dumped(self) -> int:
        """Bytes dumped by now."""
        if not self.dumping:
            return self.dump.completed
        done = int((self.now - self.dump.started) * self.scenario.dump_speed)
        return min(self.dump.total, done)

    def dump_result(self) -> dict[str, Any]:
        return {"total": self.dump.total, "status": self.dump.status, "completed": self.dumped()}

    def _dump_ends(self) -> None:
        dump = self.dump
        limit = dump.target.limit
        failed = limit is not None and limit < dump.total
        completed = self.dumped() if failed else dump.total
        self.dump = replace(dump, status="failed" if failed else "completed", completed=completed)
        data: dict[str, Any] = {"result": self.dump_result()}
        if failed:
            elf = f"dump: failed to save memory: {dump.target.error}"
            data["error"] = elf if dump.format == "elf" else "dump: failed to write page desc"
        self._closed += [Write(dump.target.scheme, dump.target.target, completed - dump.written, "dump", True)]
        self.emit("DUMP_COMPLETED", data)
        if dump.was_running:
            self.start_vm()
        self.unblock()

    def _dump_writes(self) -> list[Write]:
        if not self.dumping:
            return []
        size = self.dumped() - self.dump.written
        self.dump = replace(self.dump, written=self.dump.written + size)
        return [Write(self.dump.target.scheme, self.dump.target.target, size, "dump", False)] if size else []

    # Others who have a say

    def _paused_by_other(self) -> None:
        self.stop_vm("paused")

    def _continued_by_other(self) -> None:
        if not self.dumping and self.runstate != "finish-migrate":
            self.cont()

    def _reset_by_guest(self) -> None:
        if self.running:
            self.reset(by_guest=True)


_PANIC_WORDS = {"shutdown": "poweroff", "pause": "pause", "none": "run", "exit-failure": "poweroff"}


def _surprises(scenario: Scenario) -> tuple[tuple[str, When], ...]:
    """What the scenario holds in store, and when."""
    planned = {
        "killed": scenario.killed,
        "panics": scenario.panics,
        "paused-by-other": scenario.paused_by_other,
        "continued-by-other": scenario.continued_by_other,
        "resets": scenario.resets,
    }
    return tuple((what, when) for what, when in planned.items() if when is not None)


_TIMERS: dict[str, Callable[[Machine], None]] = {
    "begin":              Machine._begin,
    "poll":               Machine._poll,
    "eject":              Machine._eject,
    "drive":              Machine._drive,
    "native-pause":       Machine._native_pause,
    "snapshot-stop":      Machine._snapshot_stop,
    "snapshot-resume":    Machine._snapshot_resume,
    "pass":               Machine._pass_ends,
    "limit":              Machine._reaches_limit,
    "end":                Machine._end,
    "failed":             Machine._failed,
    "loading":            Machine._loading,
    "loaded":             Machine._loaded,
    "cancelled":          Machine._cancelled,
    "dump":               Machine._dump_ends,
    "bios-reset":         Machine._bios_reset,
    "booted":             Machine._booted,
    "panics":             Machine._panic,
    "paused-by-other":    Machine._paused_by_other,
    "continued-by-other": Machine._continued_by_other,
    "resets":             Machine._reset_by_guest,
    "killed":             Machine._kill,
}  # fmt: skip


def _cards(scenario: Scenario) -> tuple[Card, ...]:
    return tuple(_card(scenario, index) for index in range(scenario.primaries))


def _card(scenario: Scenario, index: int) -> Card:
    out = scenario.card is not CardState.PLUGGED
    return Card(
        id=f"primary{index}",
        standby=f"ua-standby{index}",
        mac=f"52:54:00:11:11:{0x11 + index:02x}",
        bus=f"root{2 * index + 1}",
        netdev=f"hs{2 * index + 1}",
        state=scenario.card,
        driven=not out,
        kept=scenario.card is CardState.OUT,
        hidden=out and not scenario.guest_forgot_card,
    )
