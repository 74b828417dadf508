"""How are the saved states of a directory said: each in a line, and one of them in full?"""

import shlex
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from vmtui.backend.core import words
from vmtui.backend.core.fleet import Fleet, Reading, Shelf, Snapshot, Standing, VmView
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.model import Primary
from vmtui.backend.core.snapshot import Manifest
from vmtui.backend.core.text import printable

ENDINGS = (".vmstate.partial", ".vmstate")
UNKNOWN = "-"

STANDINGS: dict[Standing, Said] = {
    Standing.WHOLE:        Said("whole", Tone.GOOD),
    Standing.WRITING:      Said("being written", Tone.BUSY),
    Standing.PARTIAL:      Said("partial", Tone.WARN),
    Standing.CUT_OFF:      Said("NOT WHOLE", Tone.BAD),
    Standing.TOO_LONG:     Said("NOT WHOLE", Tone.BAD),
    Standing.NO_MANIFEST:  Said("no manifest", Tone.WARN),
    Standing.BAD_MANIFEST: Said("bad manifest", Tone.WARN),
    Standing.FOREIGN:      Said("not trusted", Tone.WARN),
    Standing.NO_FILE:      Said("not a file", Tone.WARN),
}  # fmt: skip


class Line(msgspec.Struct, frozen=True):
    """One saved state, in a line. All texts are safe to show; `path` is as the file is called."""

    path: str
    vm: str
    """Its VM; where no manifest tells it, what the file's name tells."""
    standing: Said
    made: float
    """Seconds since 1970: when it was saved, or the file was changed last."""
    size: int
    stopped: float | None
    """Seconds that the guest stood still."""
    how: str
    qemu: str
    machine: str

    @property
    def when(self) -> str:
        return when(self.made)


# --- a line for each ----------------------------------------------------------------------------------------------


def lines(fleet: Fleet) -> tuple[Line, ...]:
    """Every state, the latest first."""
    writers = {
        f"{work.options.output}.partial": view
        for view in fleet.vms.values()
        if (work := view.state.work) is not None and work.has_partial
    }
    found = [_line(each, fleet.shelf.readings.get(each.path), writers.get(each.path)) for each in fleet.shelf.snapshots]
    return tuple(sorted(found, key=lambda each: (-each.made, each.path)))


def _line(snapshot: Snapshot, reading: Reading | None, writer: VmView | None) -> Line:
    """`writer`: the VM whose save writes it now. The directory is not looked at again for each byte that it writes."""
    manifest = snapshot.manifest
    name = manifest.name if manifest else writer.state.vm.name or writer.name if writer else ""
    written = writer.state.vm.migration.transferred if writer else 0
    return Line(
        path=snapshot.path,
        vm=printable(name or named_after(snapshot.path), 60),
        standing=standing(snapshot, reading),
        made=made(snapshot),
        size=max(snapshot.size, written),
        stopped=manifest.stopped_seconds if manifest else None,
        how=printable(manifest.strategy, 30) if manifest else "",
        qemu=printable(manifest.qemu, 20) if manifest else "",
        machine=printable(manifest.machine, 40) if manifest else "",
    )


def standing(snapshot: Snapshot, reading: Reading | None) -> Said:
    """Reading a file through tells more than its manifest."""
    if reading is None:
        return STANDINGS[snapshot.standing]
    if not reading.over:
        return Said(f"reading {reading.share:.0%}", Tone.BUSY)
    if not reading.whole:
        return Said("NOT WHOLE", Tone.BAD)
    return Said("verified", Tone.GOOD) if snapshot.whole else STANDINGS[snapshot.standing]


def named_after(path: str) -> str:
    """The file's name without what every state's ends with."""
    name = path.rpartition("/")[2]
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def made(snapshot: Snapshot) -> float:
    """When it was saved; a file that was copied has a later time of its own."""
    if snapshot.manifest is not None:
        try:
            return datetime.fromisoformat(snapshot.manifest.host.created).timestamp()
        except (ValueError, OverflowError):
            pass
    return snapshot.changed


def when(seconds: float) -> str:
    """Date and time of this host."""
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return UNKNOWN


Key = Callable[[Line], tuple[Any, ...]]
_GRAVITY = (Tone.DIM, Tone.GOOD, Tone.BUSY, Tone.WARN, Tone.BAD)
SORTS: dict[str, Key] = {
    "when":     lambda each: (-each.made,),
    "VM":       lambda each: (each.vm.lower(), -each.made),
    "size":     lambda each: (-each.size,),
    "standing": lambda each: (-_GRAVITY.index(each.standing.tone), -each.made),
}  # fmt: skip
"""What the list can be sorted by."""


def chosen(found: tuple[Line, ...], text: str, sort: str) -> tuple[Line, ...]:
    """Those in which each word of `text` is found, in this order."""
    wanted = text.lower().split()
    kept = [each for each in found if all(word in _searched(each) for word in wanted)]
    return tuple(sorted(kept, key=SORTS[sort]))


def _searched(each: Line) -> str:
    return " ".join((each.vm, each.standing.word, each.when, each.how, each.qemu, each.machine, each.path)).lower()


# --- the whole directory ------------------------------------------------------------------------------------------


def headline(shelf: Shelf, shown: int) -> str:
    """Directory, and what is in it."""
    where = printable(shelf.directory, 300)
    if shelf.looked_at is None:
        return f"{where}: looking"
    if shelf.trouble or not shelf.snapshots:
        return where
    count = len(shelf.snapshots)
    some = f"{shown} of {count}" if shown != count else str(count)
    return f"{where}: {some} saved state{'s' * (count != 1)}, {words.size(sum(each.size for each in shelf.snapshots))}"


def nothing(shelf: Shelf, text: str = "") -> str:
    """Why the list is empty, and what to do."""
    where = printable(shelf.directory, 300)
    if shelf.looked_at is None:
        return "Looking into the snapshot directory."
    if shelf.trouble:
        return (
            f"{where} cannot be read: {shelf.trouble}.\n"
            "Run vmtui as the user who saves, or name another directory: --dir DIR, or VMTUI_SNAPSHOT_DIR."
        )
    if shelf.snapshots:
        return f"No saved state has {printable(text, 60)!r} in it."
    return (
        f"No saved state is in {where} yet.\n"
        "A save makes one: s on a VM, or vmtui save VM. Look elsewhere with --dir DIR, or VMTUI_SNAPSHOT_DIR."
    )


# --- one in full --------------------------------------------------------------------------------------------------


def restore_command(path: str) -> str:
    """For a shell, exactly as it is to be typed. What is no UTF-8 in the name cannot be."""
    return f"vmtui restore {shlex.quote(path)}".encode("utf-8", "backslashreplace").decode()


def standing_line(snapshot: Snapshot, reading: Reading | None) -> str:
    """How it stands, in a sentence."""
    if reading is not None and not reading.over:
        return f"being read through, {reading.share:.0%}"
    if reading is not None and (snapshot.whole or not reading.whole):
        return f"{printable(reading.verdict)} ({when(reading.at)})"
    return snapshot.trouble or "whole: read through when it was saved, and of the same size since"


def what_to_do(snapshot: Snapshot) -> str:
    """What somebody can do with a file that is no snapshot; empty for one that is."""
    return _TO_DO.get(snapshot.standing, "")


_TO_DO = {
    Standing.WRITING: "wait for the end of that save, or cancel it; until then it cannot be deleted",
    Standing.PARTIAL: "delete it, unless the result of its save said that it is all that is left of the VM",
    Standing.CUT_OFF: "it cannot be restored: copy it again from where it came, or delete it",
    Standing.TOO_LONG: "it cannot be restored: copy it again from where it came, or delete it",
    Standing.NO_MANIFEST: "verify says what is in it; restore it by hand: QEMU with the same devices and -incoming defer",
    Standing.BAD_MANIFEST: "verify says what is in it; restore it by hand: QEMU with the same devices and -incoming defer",
    Standing.FOREIGN: "look at the manifest, then chown and chmod 600 it: what it names is run by a restore",
    Standing.NO_FILE: "remove it by hand",
}


def details(snapshot: Snapshot, reading: Reading | None = None) -> tuple[tuple[str, str], ...]:
    """A word and what there is to know, in the order in which somebody asks."""
    return tuple(_details(snapshot, reading))


def _details(snapshot: Snapshot, reading: Reading | None) -> Iterator[tuple[str, str]]:
    manifest = snapshot.manifest
    yield "state", standing_line(snapshot, reading)
    if advice := what_to_do(snapshot):
        yield "to do", advice
    if snapshot.whole:
        yield "restore", printable(restore_command(snapshot.path), 400)
        yield "", "it waits paused; --cont lets it run, --print only shows QEMU's command"
    yield "file", f"{printable(snapshot.path, 400)}  {words.size(snapshot.size)}"
    if manifest is not None:
        yield from _told_by(manifest)
    if reading is not None and reading.over:
        yield from _found_by(reading)


def _told_by(manifest: Manifest) -> Iterator[tuple[str, str]]:
    host = manifest.host
    yield "VM", f"{printable(manifest.name, 120) or UNKNOWN}  {printable(manifest.uuid, 60)}".rstrip()
    yield "saved", f"{printable(host.created, 40)} on {printable(host.hostname, 80)} by vmtui {printable(host.vmtui, 20)}"
    yield "stopped", stopped_line(manifest)
    yield "how", words.strategy_line(manifest.strategy, manifest.why) + f"; then {printable(manifest.then, 20)}"
    package = f" ({printable(manifest.package, 60)})" if manifest.package else ""
    yield (
        "QEMU",
        f"{printable(manifest.qemu, 20)}{package}, {printable(manifest.machine, 60)}, {words.size(manifest.memory)} RAM",
    )
    report = manifest.file
    loaded = ", loads with -S" if manifest.background else ""
    state = printable(report.runstate, 30) or UNKNOWN
    yield "holds", f"{report.devices} devices, {report.ram_blocks} RAM blocks, run state {state}{loaded}"
    for card in manifest.primaries:
        yield "card", _card(card)
    yield "proved", proved_line(manifest)
    yield "phases", phases_line(manifest)


def stopped_line(manifest: Manifest) -> str:
    """How long the guest stood still, and how long it took to let go of its card."""
    stood = manifest.stopped_seconds
    first = "not resumed by the save" if stood is None else f"the guest stood still for {words.seconds(stood)}"
    took = manifest.unplug_seconds
    return first if took is None else f"{first}; it let go of its card within {words.seconds(took)}"


def _card(card: Primary) -> str:
    return f"{printable(card.device_id, 60)} ({printable(card.driver, 40)}), standby {printable(card.standby_id, 60)}"


def proved_line(manifest: Manifest) -> str:
    """What was looked at after the save, with the manifest as witness."""
    proved = manifest.proved
    settings = {True: "settings as they were", False: "settings NOT all as they were"}.get(proved.get("restored") is True)
    card = printable(str(proved.get("card", UNKNOWN)), 20)
    return f"card {card}, VM {printable(str(proved.get('runstate', UNKNOWN)), 30)}, {settings}"


def phases_line(manifest: Manifest) -> str:
    """Each phase with the time that it took; the last one was still under way when this was written."""
    starts = manifest.phases
    ends = [at for _phase, at in starts[1:]]
    timed = [f"{phase} {words.seconds(end - at)}" for (phase, at), end in zip(starts, ends, strict=False)]
    return " · ".join((*timed, *(str(phase) for phase, _at in starts[-1:]))) or UNKNOWN


def _found_by(reading: Reading) -> Iterator[tuple[str, str]]:
    """What reading it through found in it: more than a manifest keeps."""
    if reading.ram_blocks:
        yield "RAM", ", ".join(f"{name} {words.size(size)}" for name, size in reading.ram_blocks)
    if reading.devices:
        yield "devices", ", ".join(f"{name} {words.size(size)}" for name, size in reading.devices)


# --- what may be done with it -------------------------------------------------------------------------------------


def why_not_delete(snapshot: Snapshot | None, *, read_only: bool = False) -> str:
    """Why it cannot be deleted now; empty when it can."""
    if snapshot is None:
        return "there is no saved state to delete"
    if read_only:
        return "read-only: nothing is deleted (started with --read-only)"
    if snapshot.standing is Standing.WRITING:
        return "a save is writing it: wait for its end, or cancel it"
    if snapshot.standing is Standing.NO_FILE:
        return f"{snapshot.trouble}: remove it by hand"
    return ""


def why_not_read(snapshot: Snapshot | None) -> str:
    """Why it cannot be read through now; empty when it can."""
    if snapshot is None:
        return "there is no saved state to verify"
    if snapshot.standing is Standing.NO_FILE:
        return snapshot.trouble
    return "a save is writing it" if snapshot.standing is Standing.WRITING else ""


def deleting(snapshot: Snapshot) -> str:
    """What is asked before it is deleted: which, how large, and what is lost."""
    manifest = snapshot.manifest
    whose = f"{printable(manifest.name, 60)}, saved {when(made(snapshot))}" if manifest else standing_line(snapshot, None)
    both = " and its manifest" if manifest else ""
    return (
        f"Delete {printable(snapshot.path, 300)}{both}?\n{whose}, {words.size(snapshot.size)}. It cannot be brought back."
    )
