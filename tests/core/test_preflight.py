"""A VM is looked at before anything is touched: what keeps it from being saved is said, with what to do about it."""

import itertools
from typing import Any

import pytest
from msgspec.structs import replace

from vmtui.backend.core.model import (
    Card,
    Dump,
    Features,
    Goal,
    Level,
    Migration,
    Options,
    Place,
    Primary,
    Strategy,
    Then,
    Vm,
)
from vmtui.backend.core.preflight import FULL_DISK, choose, choose_format, expected_bytes, findings, guards

GIB = 1 << 30
CARD = Primary("primary0", "standby0", "e1000e", "port1", (2, 0, 0), card=Card.PLUGGED, driven=True)
PVPANIC, PAUSES = ("qemu", "-device", "pvpanic"), ("-action", "panic=pause")
PLACE = Place("/snap/vm.vmstate", free=100 * GIB, resident=GIB // 2)


def make_vm(**changes: Any) -> Vm:
    vm = Vm("unix:/q", runstate="running", memory=GIB, primaries=(CARD,), standbys=("standby0",), argv=(*PVPANIC, *PAUSES))
    return replace(vm, **changes)


def with_card(**changes: Any) -> Vm:
    return make_vm(primaries=(replace(CARD, **changes),))


def codes(vm: Vm, place: Place | None = PLACE, **options: Any) -> dict[str, str]:
    """What is found, by code, and how bad it is; what is no more than a note is left out."""
    wish = Options(**options)
    strategy, _why = choose(vm, wish.strategy)
    found = findings(vm, wish, strategy, place)
    assert all(each.text and each.remedy for each in found if each.level is not Level.NOTE), "each says what to do"
    return {each.code: each.level.value for each in found if each.level is not Level.NOTE}


def notes(vm: Vm, **options: Any) -> set[str]:
    wish = Options(**options)
    return {each.code for each in findings(vm, wish, choose(vm, wish.strategy)[0], PLACE) if each.level is Level.NOTE}


# --- the strategy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vm", "strategy", "why"),
    [
        (make_vm(primaries=()), Strategy.STOP_FIRST, "no failover card"),
        (with_card(card=Card.OUT), Strategy.STOP_FIRST, "card is not plugged"),
        (with_card(card=Card.DELETED), Strategy.STOP_FIRST, "card is not plugged"),
        (with_card(card=Card.NOT_PROVED), Strategy.PAUSE_AFTER_UNPLUG, "has no pause-vm"),
        (make_vm(), Strategy.PAUSE_AFTER_UNPLUG, "has no pause-vm"),
        (make_vm(features=Features(pause_vm=True)), Strategy.PAUSE_VM, "has pause-vm"),
        (make_vm(features=Features(pause_vm=True), primaries=()), Strategy.STOP_FIRST, "no failover card"),
    ],
)
def test_the_strategy_follows_from_the_vm_and_says_why(vm: Vm, strategy: Strategy, why: str) -> None:
    chosen, reason = choose(vm, Strategy.AUTO)
    assert chosen is strategy
    assert why in reason


@pytest.mark.parametrize("wish", [each for each in Strategy if each is not Strategy.AUTO])
def test_a_strategy_that_was_asked_for_is_taken(wish: Strategy) -> None:
    assert choose(make_vm(), wish) == (wish, "you asked for it")


# --- what is in the way -----------------------------------------------------------------------------------------------


def test_a_healthy_vm_with_its_card_plugged_can_be_saved() -> None:
    assert codes(make_vm()) == {}
    assert codes(make_vm(primaries=(), standbys=())) == {}
    assert codes(make_vm(runstate="paused", primaries=(), standbys=())) == {}


def test_a_standby_whose_primary_is_gone_is_told() -> None:
    assert codes(make_vm(primaries=())) == {"no-primary": WARNED}


BLOCKED = "blocking"
WARNED = "warning"


@pytest.mark.parametrize(
    ("vm", "expected"),
    [
        (make_vm(runstate="guest-panicked"), {"panicked": BLOCKED}),
        (make_vm(panicked=True), {"panicked": BLOCKED}),
        (make_vm(runstate="postmigrate"), {"runstate": BLOCKED}),
        (make_vm(runstate="inmigrate"), {"runstate": BLOCKED}),
        (make_vm(runstate="paused"), {"paused-with-card": BLOCKED}),
        (make_vm(runstate="paused", primaries=(replace(CARD, card=Card.NOT_PROVED),)),
         {"paused-with-card": BLOCKED, "not-provable": WARNED}),
        (make_vm(migration=Migration("active")), {"migrating": BLOCKED}),
        (make_vm(migration=Migration(blocked=("vfio", "9p"))), {"blocked": BLOCKED}),
        (with_card(card=Card.OUT, driven=False), {"card-out": BLOCKED}),
        (with_card(card=Card.DELETED, driven=False), {"card-deleted": WARNED}),
        (with_card(card=Card.NOT_PROVED, driven=False), {"not-provable": WARNED}),
        (with_card(driven=False), {"not-driven": WARNED}),
        (with_card(properties=(("romfile", '"efi-e1000e.rom"'), ("rombar", "1"))), {"option-rom": WARNED}),
        (with_card(properties=(("romfile", '"efi-e1000e.rom"'), ("rombar", "0"))), {}),
        (with_card(properties=(("romfile", '""'), ("rombar", "1"))), {}),
        (make_vm(standbys=()), {"no-standby": WARNED}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_vm_is_found(vm: Vm, expected: dict[str, str]) -> None:
    assert codes(vm) == expected


@pytest.mark.parametrize("status", ["setup", "wait-unplug", "active", "cancelling", "a-state-of-tomorrow"])
def test_a_migration_that_runs_blocks_in_each_of_its_states(status: str) -> None:
    assert codes(make_vm(migration=Migration(status))) == {"migrating": BLOCKED}


@pytest.mark.parametrize("status", ["none", "completed", "failed", "cancelled"])
def test_a_migration_that_has_ended_is_no_obstacle(status: str) -> None:
    assert codes(make_vm(migration=Migration(status))) == {}


@pytest.mark.parametrize(
    ("vm", "options", "expected"),
    [
        (make_vm(), {"strategy": Strategy.PAUSE_VM}, {"no-pause-vm": BLOCKED}),
        (make_vm(features=Features(pause_vm=True)), {"strategy": Strategy.PAUSE_VM}, {}),
        (make_vm(), {"strategy": Strategy.BACKGROUND}, {"no-background": BLOCKED}),
        (make_vm(features=Features(background_snapshot=True)), {"strategy": Strategy.BACKGROUND}, {}),
        (make_vm(features=Features(background_snapshot=True)), {"strategy": Strategy.BACKGROUND, "then": Then.QUIT},
         {"background-then": BLOCKED}),
        (make_vm(features=Features(background_snapshot=True), runstate="paused", primaries=(), standbys=()),
         {"strategy": Strategy.BACKGROUND}, {"paused-background": BLOCKED}),
        (make_vm(), {"strategy": Strategy.STOP_FIRST}, {"stop-first-with-card": BLOCKED}),
        (make_vm(primaries=(), standbys=()), {"strategy": Strategy.STOP_FIRST}, {}),
    ],
)  # fmt: skip
def test_a_strategy_that_does_not_fit_is_refused(vm: Vm, options: dict[str, Any], expected: dict[str, str]) -> None:
    assert codes(vm, **options) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (replace(PLACE, problem="it exists"), {"place": BLOCKED}),
        (replace(PLACE, free=FULL_DISK - 1), {"disk-full": BLOCKED}),
        (replace(PLACE, free=FULL_DISK), {"space": WARNED}),
        (replace(PLACE, free=GIB // 2 - 1), {"space": WARNED}),
        (replace(PLACE, free=GIB // 2), {}),
        (replace(PLACE, free=GIB // 2, resident=0), {"space": WARNED}),
        (None, {}),
    ],
)
def test_where_the_state_goes_is_looked_at(place: Place | None, expected: dict[str, str]) -> None:
    assert codes(make_vm(), place) == expected


def test_what_only_deserves_a_word_is_a_note() -> None:
    assert notes(make_vm()) == {"size"}
    assert notes(make_vm(argv=("-m", "1G"))) == {"size", "no-panic-device"}
    assert notes(make_vm(argv=())) == {"size", "panic-unknown"}, "a command line that is not known says nothing"
    assert notes(make_vm(), then=Then.STAY_PAUSED) == {"size", "stays-out"}
    assert notes(make_vm(features=Features(background_snapshot=True)), strategy=Strategy.BACKGROUND) == {
        "size", "background-load",
    }  # fmt: skip


def test_the_worst_finding_comes_first() -> None:
    vm = make_vm(runstate="paused", argv=("x",), standbys=())
    levels = [each.level for each in findings(vm, Options(), Strategy.PAUSE_AFTER_UNPLUG, PLACE)]
    assert levels == [Level.BLOCKING, Level.WARNING, Level.NOTE, Level.NOTE]


@pytest.mark.parametrize(("memory", "resident", "expected"), [(8, 5, 5), (5, 8, 5), (8, 0, 8), (0, 8, 8), (0, 0, 0)])
def test_no_more_is_expected_than_ram_or_what_is_resident(memory: int, resident: int, expected: int) -> None:
    assert expected_bytes(make_vm(memory=memory), Place("/x", resident=resident)) == expected
    assert expected_bytes(make_vm(memory=memory), None) == memory


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runstate", ["running", "paused", "postmigrate"])
def test_a_vm_that_cont_helps_can_be_resumed(runstate: str) -> None:
    assert codes(with_card(card=Card.OUT), None, goal=Goal.RESUME) == {}
    assert codes(make_vm(runstate=runstate), None, goal=Goal.RESUME) == {}


@pytest.mark.parametrize(
    ("vm", "expected"),
    [
        (make_vm(runstate="guest-panicked"), "panicked"),
        (make_vm(panicked=True), "panicked"),
        (make_vm(runstate="internal-error"), "runstate"),
        (make_vm(migration=Migration("wait-unplug")), "migrating"),
    ],
)
def test_a_vm_that_cont_does_not_help_is_not_resumed(vm: Vm, expected: str) -> None:
    assert codes(vm, None, goal=Goal.RESUME) == {expected: BLOCKED}


def test_every_kind_of_vm_can_be_looked_at() -> None:
    for runstate, card, strategy, goal in itertools.product(("running", "paused", "shutdown", ""), Card, Strategy, Goal):
        vm = replace(with_card(card=card), runstate=runstate)
        findings(vm, Options(goal=goal, strategy=strategy), choose(vm, strategy)[0], PLACE)


def fatal(**changes: Any) -> Vm:
    return make_vm(**{"features": Features(set_action=True), "panic_action": "shutdown", "argv": PVPANIC} | changes)


@pytest.mark.parametrize(("vm", "guarded", "code"), [
    (fatal(),                                                              True,  "panic-guard"),
    (fatal(argv=("qemu", "-cpu", "host,hv-crash")),                        True,  "panic-guard"),
    (fatal(features=Features()),                                           False, "panic-is-fatal"),
    (fatal(argv=("qemu", "-device", "pvpanic", "-action", "panic=pause")), False, None),
    (fatal(argv=("qemu", "-device", "pvpanic", "-no-shutdown")),           False, None),
    (fatal(argv=("qemu",)),                                                False, "no-panic-device"),
    (fatal(argv=()),                                                       False, "panic-unknown"),
    (fatal(argv=("qemu", "-readconfig", "f", "-device", "pvpanic")),       False, "panic-unknown"),
], ids=["default", "hyper-v", "old", "pauses", "no-shutdown", "no-device", "tcp", "config-file"])  # fmt: skip
def test_a_panic_is_guarded_against_only_where_it_is_known_to_end_qemu(vm: Vm, guarded: bool, code: str | None) -> None:
    assert guards(vm, Options()) is guarded
    told = [each.code for each in findings(vm, Options(), Strategy.STOP_FIRST, PLACE) if "panic" in each.code]
    assert told == ([code] if code else [])


def test_a_guard_that_was_declined_is_warned_of() -> None:
    assert not guards(fatal(), Options(panic_guard=False))
    assert codes(fatal(), panic_guard=False)["panic-is-fatal"] == "warning"


def test_a_resume_changes_nothing_about_panics() -> None:
    assert not guards(fatal(), Options(goal=Goal.RESUME))


# --- a dump -----------------------------------------------------------------------------------------------------------

OFFERED = ("elf", "kdump-zlib", "kdump-raw-zlib")


def dumpable(**changes: Any) -> Vm:
    return make_vm(**{"dump_formats": OFFERED, "fd_passing": True} | changes)


def dump_codes(vm: Vm, place: Place | None = PLACE, name: str = "") -> dict[str, str]:
    found = findings(vm, Options(goal=Goal.DUMP, dump_format=name), Strategy.DUMP, place)
    return {each.code: each.level.value for each in found if each.level is not Level.NOTE}


@pytest.mark.parametrize(("vm", "place", "wish", "chosen"), [
    (dumpable(),                              PLACE,                    "",               "elf"),
    (dumpable(),                              None,                     "",               "elf"),
    (dumpable(runstate="paused"),             PLACE,                    "",               "kdump-zlib"),
    (dumpable(runstate="guest-panicked"),     PLACE,                    "",               "kdump-zlib"),
    (dumpable(),                              replace(PLACE, free=GIB - 1), "",           "kdump-zlib"),
    (dumpable(),                              replace(PLACE, free=GIB), "",               "elf"),
    (dumpable(runstate="paused", dump_formats=("elf",)), PLACE,         "",               "elf"),
    (dumpable(runstate="paused"),             PLACE,                    "elf",            "elf"),
])  # fmt: skip
def test_the_format_is_the_quickest_for_a_guest_that_runs_and_the_smallest_for_one_that_stands(
    vm: Vm, place: Place | None, wish: str, chosen: str
) -> None:
    name, why = choose_format(vm, Options(goal=Goal.DUMP, dump_format=wish), place)
    assert name == chosen
    assert why.startswith(chosen)


@pytest.mark.parametrize(("vm", "place", "wish", "expected"), [
    (dumpable(),                                    PLACE, "",          {}),
    (dumpable(),                                    None,  "",          {}),
    (dumpable(fd_passing=False, argv=()),           PLACE, "",          {"remote": "blocking"}),
    (dumpable(fd_passing=False),                    PLACE, "",          {}),
    (dumpable(),                                    PLACE, "kdump-lzo", {"format": "blocking"}),
    (dumpable(dump_formats=()),                     PLACE, "",          {"format": "blocking"}),
    (dumpable(),              replace(PLACE, free=GIB - 1), "elf",  {"disk-full": "blocking"}),
    (dumpable(), replace(PLACE, free=GIB // 4), "kdump-zlib",           {"space": "warning"}),
    (dumpable(), replace(PLACE, free=FULL_DISK - 1), "kdump-zlib",  {"disk-full": "blocking"}),
    (dumpable(),              replace(PLACE, problem="taken"), "",      {"place": "blocking"}),
    (dumpable(dump=Dump("active")),                 PLACE, "",          {"dumping": "blocking"}),
    (dumpable(migration=Migration("cancelling")),   PLACE, "",      {"migrating": "blocking"}),
])  # fmt: skip
def test_what_is_in_the_way_of_a_dump_is_found_before(
    vm: Vm, place: Place | None, wish: str, expected: dict[str, str]
) -> None:
    assert dump_codes(vm, place, wish) == expected


@pytest.mark.parametrize(("runstate", "panicked", "said"), [
    ("running",        False, "stands still for about"),
    ("running",        True,  "is left so"),
    ("paused",         False, "is left so"),
    ("guest-panicked", True,  "is left so"),
])  # fmt: skip
def test_how_long_a_guest_will_stand_still_for_its_dump_is_told(runstate: str, panicked: bool, said: str) -> None:
    vm = dumpable(runstate=runstate, panicked=panicked)
    found = findings(vm, Options(goal=Goal.DUMP), Strategy.DUMP, PLACE)
    assert said in next(each.text for each in found if each.code == "stop")
