"""May this VM be saved, and how? The strategy with its reason, and the findings, before anything is touched."""

from collections.abc import Callable, Iterator

import humanize
from msgspec.structs import replace

from vmtui.backend.core import cmdline
from vmtui.backend.core.model import (
    DUMP_STANDS,
    ENDED_STATES,
    Card,
    Finding,
    Goal,
    Level,
    Options,
    Place,
    Primary,
    Strategy,
    Then,
    Vm,
)
from vmtui.backend.core.naming import addressed

SAVABLE = frozenset({"running", "paused"})
REMEDIES = {
    "postmigrate": "vmtui resume VM",
    "prelaunch": "let it start (cont)",
    "inmigrate": "wait until its state is loaded",
    "suspended": "wake it (QMP system_wakeup)",
    "io-error": "repair its disk, then cont",
    "shutdown": "reset it (QMP system_reset)",
    "internal-error": "reset it (QMP system_reset)",
    "save-vm": "wait until its snapshot is made",
}
FULL_DISK = 16 << 20
"""Less than this is no free space at all: device state alone takes some MiB."""
USUAL_RATE = 1_500_000_000
"""Bytes a second that a stopped guest's state is written at, where nothing better is known (docs/performance.md)."""


def in_play(vm: Vm) -> bool:
    """Whether a migration will ask the guest to unplug a card."""
    return any(card.card in (Card.PLUGGED, Card.NOT_PROVED) for card in vm.primaries)


def may_spawn(vm: Vm) -> bool:
    """Whether QEMU may start a program (`exec:`). With `-sandbox spawn=deny` the kernel kills it for trying."""
    return bool(vm.argv) and not any("spawn=deny" in word for word in vm.argv)


def has_panic_device(vm: Vm) -> bool:
    """As its command line says: without one QEMU sees nothing of a guest's panic."""
    return any(name in word for word in vm.argv for name in ("pvpanic", "hv-crash", "hv_crash"))


def panic_is_fatal(vm: Vm) -> bool:
    """A panic would end QEMU, and with it all that a core dump could tell. False where the command line is not known."""
    return has_panic_device(vm) and cmdline.panic_ends(vm.argv)


def lost_cards(vm: Vm) -> tuple[Primary, ...]:
    """Primaries of the command line that QEMU has no more, although their standby is there: it deleted them."""
    there = {card.standby_id for card in vm.primaries} | {card.device_id for card in vm.primaries}
    given = (device for device in cmdline.devices(vm.argv) if device.get("failover_pair_id") in vm.standbys)
    return tuple(_lost(device) for device in given if not {device.get("failover_pair_id"), device.get("id")} & there)


def _lost(device: cmdline.Arguments) -> Primary:
    return Primary(
        device_id=device.get("id"),
        standby_id=device.get("failover_pair_id"),
        driver=device.get("driver"),
        bus=device.get("bus"),
        slot=None,
        properties=device.pairs,
        card=Card.DELETED,
    )


def guards(vm: Vm, options: Options) -> bool:
    """Whether the panic action is `pause` for the time of the save."""
    saves = options.goal in (Goal.SAVE, Goal.CHECK)
    return saves and options.panic_guard and vm.features.set_action and panic_is_fatal(vm)


def choose(vm: Vm, wish: Strategy) -> tuple[Strategy, str]:
    """The strategy, and in words why."""
    if wish is not Strategy.AUTO:
        return wish, "you asked for it"
    if not in_play(vm):
        why = "its failover card is not plugged" if vm.primaries else "it has no failover card"
        return Strategy.STOP_FIRST, f"{why}: the guest has nothing to unplug"
    if vm.features.pause_vm:
        return Strategy.PAUSE_VM, "this QEMU has pause-vm: it pauses after the unplug, and plugs the card back by itself"
    return (
        Strategy.PAUSE_AFTER_UNPLUG,
        "this QEMU has no pause-vm, so vmtui pauses the VM as soon as the running guest has let go of its card",
    )


def expected_bytes(vm: Vm, place: Place | None) -> int:
    """The most that the state will hold: RAM, or what QEMU's process really has of it."""
    resident = place.resident if place else 0
    return min(vm.memory, resident) if resident and vm.memory else vm.memory or resident


def expected_stop(vm: Vm, place: Place | None) -> float:
    """Seconds that the guest will stand still at full bandwidth, at the most: for the copy, and a little around it."""
    return expected_bytes(vm, place) / USUAL_RATE + 0.15


DUMP_RATES = {"elf": 600_000_000, "kdump-zlib": 50_000_000, "kdump-raw-zlib": 50_000_000}
"""Bytes a second, about, that QEMU dumps of what the file may hold: of elf as measured (1 GiB in 1.8 s), of zlib what one
core packs. The others as elf."""


def choose_format(vm: Vm, options: Options, place: Place | None) -> tuple[str, str]:
    """What the dump will be written as, and in words why."""
    if options.dump_format:
        return options.dump_format, f"{options.dump_format}, you asked for it"
    if SMALL not in vm.dump_formats:
        return QUICK, f"{QUICK}, which every QEMU can write"
    if vm.runstate != "running":
        return SMALL, f"{SMALL}, which needs less room: the guest stands anyway"
    if place is not None and place.free < dump_bytes(vm, QUICK, place):
        return SMALL, f"{SMALL}: there is no room for {QUICK}, which would be quicker"
    return QUICK, f"{QUICK}, the quickest: the guest runs, and stands still for the dump"


QUICK, SMALL = "elf", "kdump-zlib"


def dump_bytes(vm: Vm, name: str, place: Place | None) -> int:
    """The most that a dump in this format will hold: elf has all RAM, the others only what was ever written to."""
    return vm.memory if name == QUICK else expected_bytes(vm, place)


def room(vm: Vm, options: Options, place: Place) -> str:
    """For a disk that became full: how much room there was, what is needed, and what to do."""
    dumps = options.goal is Goal.DUMP
    need = dump_bytes(vm, options.dump_format or QUICK, place) if dumps else expected_bytes(vm, place)
    directory = place.path.rpartition("/")[0] or "/"
    return (
        f"{directory} had {_size(place.free)} free when this began, and up to {_size(need)} are needed: free some space "
        "there, or write to another directory (--dir DIR)"
    )


def dump_stop(vm: Vm, name: str, place: Place | None = None) -> float:
    """Seconds that a running guest will stand still for a dump, at the most, about."""
    return dump_bytes(vm, name, place) / DUMP_RATES.get(name, DUMP_RATES[QUICK]) + 0.05


def findings(vm: Vm, options: Options, strategy: Strategy, place: Place | None) -> tuple[Finding, ...]:
    """All findings, the worst first."""
    found = [each for check in CHECKS[options.goal] for each in check(vm, options, strategy, place)]
    found = [replace(each, text=addressed(each.text, vm.shown), remedy=addressed(each.remedy, vm.shown)) for each in found]
    return tuple(sorted(found, key=lambda each: list(Level).index(each.level)))


def _runstate(vm: Vm, _options: Options, strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if vm.panicked or vm.runstate == "guest-panicked":
        yield _block("panicked", "the guest has panicked: it can neither unplug its card nor run on",
                     "take a core dump (vmtui dump VM), then reset it")  # fmt: skip
    elif vm.runstate not in SAVABLE:
        yield _block("runstate", f"its run state is {vm.runstate!r}; only a running or paused VM can be saved",
                     REMEDIES.get(vm.runstate, "see QEMU's log"))  # fmt: skip
    elif vm.runstate == "paused" and in_play(vm):
        yield _block("paused-with-card", "it is paused with its failover card plugged: a stopped guest cannot unplug it "
                     "(this is where the classic recipe hangs)", "let it run (vmtui resume VM), then save")  # fmt: skip
    elif vm.runstate == "paused" and strategy is Strategy.BACKGROUND:
        yield _block("paused-background", "it is paused: a background snapshot is made of a running VM",
                     "use --strategy stop-first")  # fmt: skip


def _migrating(vm: Vm, _options: Options, _strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if vm.migration.status not in ENDED_STATES:
        yield _block("migrating", f"a migration is under way already (status {vm.migration.status!r})",
                     "wait for it, or migrate_cancel it")  # fmt: skip
    for reason in vm.migration.blocked:
        yield _block("blocked", f"QEMU says that it cannot be migrated: {reason}", "remove what blocks it")


def _cards(vm: Vm, _options: Options, strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    yield from _lost_primaries(vm)
    for card in vm.primaries:
        name = f"the failover card {card.device_id!r}"
        if card.card is Card.OUT:
            yield _block("card-out", f"{name} is out already: QEMU would wait for ever for the guest to unplug it",
                         "vmtui resume VM brings it back")  # fmt: skip
        elif card.card is Card.DELETED:
            yield _warn("card-deleted", f"{name} was deleted by QEMU after a late unplug", "vmtui heal VM adds it again")
        elif card.card is Card.NOT_PROVED:
            yield _warn("not-provable", f"{name}: this machine has no PCI config window, so nobody can prove that it is "
                        "plugged", "look inside the guest afterwards")  # fmt: skip
        elif not card.driven:
            yield _warn("not-driven", f"{name} is plugged, but no guest driver runs it: the guest may not answer",
                        "see whether the guest has finished booting")  # fmt: skip
        if card.has_option_rom and strategy is not Strategy.STOP_FIRST:
            yield _warn("option-rom", f"{name} has an option ROM: the saved state will look for its RAM block and fail to "
                        "load", "start the VM with rombar=0,romfile= on this card")  # fmt: skip
        if card.standby_id not in vm.standbys:
            yield _warn("no-standby", f"{name} names the standby {card.standby_id!r}, which is not there",
                        "add the virtio-net standby with failover=on")  # fmt: skip


def _reach(vm: Vm, _options: Options, _strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if vm.fd_passing:
        return
    if not vm.argv:
        yield _block("remote", "its monitor is not a unix socket, and no QEMU of this host has it: the state would "
                     "be written on another host", "run vmtui where QEMU runs")  # fmt: skip
    elif not may_spawn(vm) and (in_play(vm) or not vm.features.channels):
        yield _block("cannot-spawn", "over tcp no open file can be handed over, and this QEMU may not start programs "
                     "(-sandbox spawn=deny)", "use its unix socket")  # fmt: skip


def _lost_primaries(vm: Vm) -> Iterator[Finding]:
    paired = {card.standby_id for card in vm.primaries}
    for standby in vm.standbys:
        if standby not in paired:
            yield _warn("no-primary", f"the standby {standby!r} has no primary card: it was lost, or never there",
                        "add it (again): QMP device_add with failover_pair_id")  # fmt: skip


def _strategy(vm: Vm, options: Options, strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if strategy is Strategy.PAUSE_VM and not vm.features.pause_vm:
        yield _block("no-pause-vm", "this QEMU has no migration parameter pause-vm (no release has)",
                     "use --strategy auto: it does the same from outside")  # fmt: skip
    if strategy is Strategy.BACKGROUND and not vm.features.background_snapshot:
        yield _block("no-background", "this QEMU offers no background-snapshot", "use --strategy auto")
    if strategy is Strategy.BACKGROUND and options.then is not Then.RESUME:
        yield _block("background-then", "after a background snapshot the guest has run on: it cannot stay paused or quit "
                     "at the moment that was saved", "leave --then out")  # fmt: skip
    if strategy is Strategy.STOP_FIRST and in_play(vm) and vm.runstate == "running":
        yield _block("stop-first-with-card", "stop-first hangs with a failover card plugged: a stopped guest cannot unplug",
                     "use --strategy auto")  # fmt: skip
    if strategy is Strategy.BACKGROUND:
        yield _note("background-load", "a background snapshot says 'running': vmtui restore starts it with -S")
    if options.then is Then.STAY_PAUSED and in_play(vm) and strategy is Strategy.PAUSE_AFTER_UNPLUG:
        yield _note("stays-out", "the card stays out while the VM stays paused; vmtui resume VM brings both back")


def _panic(vm: Vm, options: Options, _strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if vm.argv and not has_panic_device(vm):
        yield _note("no-panic-device", "no panic device: if the guest crashes, only its silence will tell",
                    "add -device pvpanic")  # fmt: skip
    elif guards(vm, options):
        yield _note("panic-guard", f"a panic would end QEMU (its panic action is {vm.panic_action!r}): for the time of the "
                    "save it stops the guest instead, so that a core dump can be taken")  # fmt: skip
    elif panic_is_fatal(vm):
        why = "you said to leave it so" if vm.features.set_action else "this QEMU has no set-action to change that"
        yield _warn("panic-is-fatal", f"a panic of the guest would end QEMU, and leave nothing to find out from: {why}",
                    "start QEMU with -action panic=pause")  # fmt: skip
    elif not cmdline.panic_action(vm.argv):
        yield _note("panic-unknown", "QEMU cannot be asked what it does on a panic, and its command line does not tell: "
                    "that is left as it is")  # fmt: skip


def _place(vm: Vm, _options: Options, _strategy: Strategy, place: Place | None) -> Iterator[Finding]:
    if place is None:
        return
    need = expected_bytes(vm, place)
    if place.problem:
        yield _block("place", place.problem, "choose another --output or --dir")
    elif place.free < FULL_DISK:
        yield _block("disk-full", f"no space for {place.path}: {_size(place.free)} free", "free some space, or use --dir")
    elif place.free < need:
        yield _warn("space", f"the state may take up to {_size(need)}, and {_size(place.free)} are free",
                    "free some space, or use --dir")  # fmt: skip
    if need and not place.problem:
        yield _note("size", f"up to {_size(need)} to write; at full bandwidth the guest stands still for about "
                    f"{expected_stop(vm, place):.1f} s")  # fmt: skip


def _resumable(vm: Vm, _options: Options, _strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    yield from _lost_primaries(vm)
    for card in vm.primaries:
        if card.card is Card.OUT:
            yield _note("card-out", f"the failover card {card.device_id!r} is out: a save by another tool, or one that was "
                        "broken off, left it so; a migration that must fail makes QEMU plug it back")  # fmt: skip
        elif card.card is Card.DELETED:
            yield _note("card-deleted", f"QEMU deleted the failover card {card.device_id!r}: it is added again as it was")
    for card in lost_cards(vm):
        yield _note("card-deleted", f"QEMU has no card {card.device_id!r} any more, which its command line names: it is "
                    "added again as it is there")  # fmt: skip
    if vm.panicked or vm.runstate == "guest-panicked":
        yield _block("panicked", "the guest has panicked: it cannot run on",
                     "take a core dump (vmtui dump VM), then reset it")  # fmt: skip
    elif vm.runstate not in {"running", "paused", "postmigrate"}:
        yield _block("runstate", f"its run state is {vm.runstate!r}: cont will not help",
                     REMEDIES.get(vm.runstate, "see QEMU's log"))  # fmt: skip
    if vm.migration.status not in ENDED_STATES:
        yield _block("migrating", f"a migration is under way (status {vm.migration.status!r})", "wait for it, or cancel it")


def _dumpable(vm: Vm, _options: Options, _strategy: Strategy, _place: Place | None) -> Iterator[Finding]:
    if vm.runstate == "inmigrate":
        yield _block("runstate", "its state is still being loaded: QEMU dumps nothing before that is done", "wait for it")
    if vm.dump.status == "active" or vm.runstate == DUMP_STANDS:
        yield _block("dumping", "a dump is under way already, or a snapshot is made: QEMU does one at a time",
                     "wait for its end: QEMU cannot break a dump off")  # fmt: skip
    if vm.migration.status not in ENDED_STATES:
        status = vm.migration.status
        yield _block("migrating", f"a migration is under way (status {status!r}): QEMU dumps nothing meanwhile",
                     "wait for it, or cancel it (migrate_cancel); QEMU may need 30 s to let go")  # fmt: skip
    if not vm.fd_passing and not vm.argv:
        yield _block("remote", "its monitor is not a unix socket, and no QEMU of this host has it: the dump would be "
                     "written on another host", "run vmtui where QEMU runs")  # fmt: skip


def _dump_format(vm: Vm, options: Options, _strategy: Strategy, place: Place | None) -> Iterator[Finding]:
    name, _why = choose_format(vm, options, place)
    if name not in vm.dump_formats:
        offered = ", ".join(vm.dump_formats) or "none at all"
        yield _block("format", f"this QEMU cannot write a dump as {name}; it offers: {offered}", "choose another --format")


def _dump_stop(vm: Vm, options: Options, _strategy: Strategy, place: Place | None) -> Iterator[Finding]:
    if vm.runstate == "running" and not vm.panicked:
        name, _why = choose_format(vm, options, place)
        stop = dump_stop(vm, name, place)
        yield _note("stop", f"the guest stands still for about {stop:.1f} s, and runs on then; once begun, QEMU cannot "
                    "break it off")  # fmt: skip
    else:
        yield _note("stop", f"the guest is {vm.runstate!r}, and is left so")


def _dump_place(vm: Vm, options: Options, _strategy: Strategy, place: Place | None) -> Iterator[Finding]:
    if place is None:
        return
    name, _why = choose_format(vm, options, place)
    need, where = dump_bytes(vm, name, place), f"{_size(place.free)} are free for {place.path}"
    if place.problem:
        yield _block("place", place.problem, "choose another --output or --dir")
    elif place.free < (need if name == QUICK else FULL_DISK):
        yield _block("disk-full", f"a dump as {name} takes {_size(need)}, and {where}", "free some space, or use --dir")
    elif place.free < need:
        yield _warn("space", f"the dump may take up to {_size(need)}, and {where}", "free some space, or use --dir")
    if need and not place.problem:
        yield _note("size", f"up to {_size(need)} to write")


Check = Callable[[Vm, Options, Strategy, Place | None], Iterator[Finding]]
SAVE_CHECKS: tuple[Check, ...] = (_runstate, _migrating, _reach, _cards, _strategy, _panic, _place)
RESUME_CHECKS: tuple[Check, ...] = (_resumable,)
DUMP_CHECKS: tuple[Check, ...] = (_dumpable, _dump_format, _dump_stop, _dump_place)
CHECKS = {Goal.SAVE: SAVE_CHECKS, Goal.CHECK: SAVE_CHECKS, Goal.RESUME: RESUME_CHECKS, Goal.DUMP: DUMP_CHECKS}


def _block(code: str, text: str, remedy: str) -> Finding:
    return Finding(Level.BLOCKING, code, text, remedy)


def _warn(code: str, text: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, code, text, remedy)


def _note(code: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.NOTE, code, text, remedy)


def _size(count: int) -> str:
    return humanize.naturalsize(count, binary=True)
