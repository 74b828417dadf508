"""What must be true at every end, and what was found there: asked of the twin and of the pretended disk, not of vmtui.

vmtui's own word counts for one thing only: whether it was loud (`attention`).
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.explore.world import World
from vmtui.backend.core.model import Goal, OnStuck, Outcome, Phase, Then


class Verdict(NamedTuple):
    """An end, as the twin tells it."""

    outcome: Outcome
    runstate: str
    """The twin's; `ended` where QEMU has ended."""
    cards: tuple[str, ...]
    as_before: bool
    """Settings and descriptors are as they were."""
    file: str
    """whole, broken, partial or none."""
    migrating: bool


def judged(world: World) -> Verdict:
    vm, store = world.vm, world.store
    final = ("whole" if store.whole else "broken") if store.published else ""
    return Verdict(
        outcome=world.work.outcome or Outcome.ATTENTION,
        runstate=vm.runstate if vm.alive else "ended",
        cards=tuple(vm.card.values()),
        as_before=not vm.alive or (settings_as_before(world) and nothing_held(world)),
        file=final or ("partial" if store.partial else "none"),
        migrating=vm.migrating,
    )


def waits_as_asked(world: World) -> bool:
    """The user said to wait for the guest however long it takes, and vmtui sees how the VM is."""
    work = world.work
    return work.phase is Phase.UNPLUG and work.options.on_stuck is OnStuck.WAIT and not work.given_up and world.linked


def settings_as_before(world: World) -> bool:
    vm = world.vm
    as_before = (dict(vm.parameters), vm.capabilities) == world.before
    return as_before and vm.panic_action == vm.scenario.panic_action


def nothing_held(world: World) -> bool:
    return not world.vm.fds and not world.vm.fdsets


def broken(world: World) -> Iterator[str]:
    """Which invariants of docs/architecture.md do not hold here, in words."""
    work, store = world.work, world.store
    outcome = work.outcome
    if outcome is None:
        yield "it has ended without an outcome"
    if outcome is not Outcome.ATTENTION:
        yield from _broken_quietly(world)
    if store.published and store.partial:
        yield "the file is there under both names"
    if store.published and not store.whole:
        yield "a file that is not whole has its final name"
    if outcome in (Outcome.SAVED, Outcome.DUMPED) and not store.published:
        yield f"said {outcome}, and there is no file"
    if outcome in (Outcome.FAILED, Outcome.CANCELLED, Outcome.REFUSED) and store.published:
        yield f"said {outcome}, and left a file under its final name"


def _broken_quietly(world: World) -> Iterator[str]:
    """What may be, but must be told loudly, and was not."""
    work, vm = world.work, world.vm
    said = f"said {work.outcome}"
    if world.store.partial:
        yield f"a partial file is left, {said}"
    if not vm.alive:
        meant = work.outcome is Outcome.SAVED and work.options.then is Then.QUIT
        if work.baseline is not None and not meant:
            yield f"QEMU has ended, {said}"
        return
    if work.baseline is None:
        return
    stays = work.options.then is not Then.RESUME and work.outcome is Outcome.SAVED
    runs = work.baseline.runstate == "running" or work.options.goal is Goal.RESUME
    if runs and not stays:
        if vm.runstate != "running":
            yield f"the guest is {vm.runstate}, {said}"
        if any(card != "plugged" for card in vm.card.values()):
            yield f"cards are {vm.card}, {said}"
    if work.options.goal is Goal.DUMP and vm.runstate != work.baseline.runstate:
        yield f"the guest was {work.baseline.runstate} and is {vm.runstate}, {said}"
    if vm.migrating:
        yield f"a migration runs, {said}"
    if not settings_as_before(world):
        yield f"settings are not as before, {said}"
    if not nothing_held(world):
        yield f"QEMU still holds {vm.fdsets} {vm.fds}, {said}"
