"""Where a walk begins: which QEMU, what kind of guest and surroundings, what the user asked for?"""

from dataclasses import dataclass

from msgspec.structs import replace

from tests.explore.world import World
from vmtui.backend.core.model import Goal, OnStuck, Options, Strategy, Then
from vmtui.backend.core.sim import PROFILES, CardState, Scenario

PATIENCE = 2.0
"""Seconds that the guest is given to let go of its card: a stuck one is cancelled soon, or a walk is all waiting."""
SAVE = Options(output="/snap/vm.vmstate", unplug_timeout=PATIENCE)

WISHES: dict[str, Options] = {
    "save":        SAVE,
    "background":  replace(SAVE, strategy=Strategy.BACKGROUND),
    "stay-paused": replace(SAVE, then=Then.STAY_PAUSED),
    "quit":        replace(SAVE, then=Then.QUIT),
    "wait":        replace(SAVE, on_stuck=OnStuck.WAIT),
    "resume":      Options(goal=Goal.RESUME),
    "check":       replace(SAVE, goal=Goal.CHECK),
    "dump":        Options(goal=Goal.DUMP, output="/snap/vm.vmcore"),
}  # fmt: skip
"""What the user asks for. `stop-first` is what `auto` chooses where no card is in play."""

GUESTS: dict[str, Scenario] = {
    "good":                 Scenario(),
    "slow":                 Scenario(unplug_delay=1.0),
    "never-ejects":         Scenario(unplug_delay=None),
    "no-failover":          Scenario(primaries=0),
    "two-cards":            Scenario(primaries=2),
    "no-q35":               Scenario(q35=False),
    "option-rom":           Scenario(option_rom=True),
    "paused-by-other":      Scenario(paused_by_other="wait-unplug", unplug_delay=0.6),
    "paused-after-unplug":  Scenario(paused_by_other="active"),
    "continued-by-other":   Scenario(continued_by_other="paused"),
    "resets":               Scenario(resets="wait-unplug", unplug_delay=0.6, boot_time=0.5),
    "resets-in-replug":     Scenario(resets="failed", boot_time=0.5),
    "panics-pause":         Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=0.6),
    "panics-silently":      Scenario(panics="wait-unplug", panic_device=False, unplug_delay=0.6),
    "panics-run":           Scenario(panics="wait-unplug", panic_action="none", unplug_delay=0.6),
    "panics-exit":          Scenario(panics="wait-unplug", unplug_delay=0.6),
    "panics-when-resumed":  Scenario(panics="running", panic_action="pause"),
    "disk-full":            Scenario(write_fails_after=10_000_000),
    "disk-full-at-once":    Scenario(write_fails_after=0),
    "killed-unplugging":    Scenario(killed="wait-unplug"),
    "killed-saving":        Scenario(killed="active"),
    "killed-paused":        Scenario(killed="paused"),
    "killed-completed":     Scenario(killed="completed"),
    "killed-cancelling":    Scenario(killed="cancelling", unplug_delay=None),
    "killed-in-replug":     Scenario(killed="failed"),
    "slow-driver":          Scenario(drive_delay=1.0),
    "slow-disk":            Scenario(disk_speed=100e6),
}  # fmt: skip
"""Those that a save can begin with."""

LONG = frozenset({"never-ejects", "panics-pause", "panics-silently", "panics-run"})
"""Guests that QEMU waits for for 30 s after a cancel, in which no two ways meet again: each is a hundred times the work."""

RESUMED: dict[str, Scenario] = {
    "good":           Scenario(),
    "card-out":       Scenario(card=CardState.OUT),
    "card-forgotten": Scenario(card=CardState.OUT, guest_forgot_card=True),
    "paused-out":     Scenario(card=CardState.OUT, runstate="paused"),
    "after-a-save":   Scenario(card=CardState.OUT, runstate="postmigrate"),
    "two-cards-out":  Scenario(card=CardState.OUT, primaries=2),
}  # fmt: skip
"""Those that a resume can begin with."""

REFUSED: dict[str, Scenario] = {
    "card-out":        Scenario(card=CardState.OUT),
    "paused":          Scenario(runstate="paused"),
    "blocked":         Scenario(blocked_reasons=("VFIO device",)),
    "migrating":       Scenario(migrating=True),
}  # fmt: skip
"""Those that pre-flight sends away."""

DUMPED: dict[str, Scenario] = {
    "paused":          Scenario(runstate="paused"),
    "panicked":        Scenario(panics=0.0, panic_action="pause"),
    "killed-dumping":  Scenario(killed="save-vm"),
}  # fmt: skip
"""Those that a dump can begin with, beside others."""

WAITED_FOR: dict[str, Scenario] = {
    "with-agent":        Scenario(unplug_delay=5.6, agent="answers"),
    "with-mute-agent":   Scenario(unplug_delay=5.6, agent="silent"),
}  # fmt: skip
"""Those that are waited for until they are slow, and looked into, beside others."""

WITH_GUESTS = {
    "save":        tuple(GUESTS),
    "background":  ("good", "never-ejects", "no-failover", "two-cards", "no-q35", "paused-by-other", "panics-pause",
                    "disk-full", "killed-saving", "killed-completed", "slow-disk"),
    "stay-paused": ("good", "no-failover", "two-cards", "continued-by-other", "disk-full", "never-ejects",
                    "killed-completed"),
    "quit":        ("good", "no-failover", "two-cards", "continued-by-other", "disk-full", "never-ejects",
                    "killed-completed"),
    "wait":        ("slow", "panics-pause", "paused-by-other", *WAITED_FOR),
    "check":       ("good",),
    "dump":        ("good", "no-failover", "disk-full", "paused", "panicked", "killed-dumping"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Root:
    """One beginning; `Root(...)()` is a fresh world."""

    profile: str
    wish: str
    guest: str

    def __call__(self) -> World:
        guests = {"resume": RESUMED, "dump": GUESTS | DUMPED, "wait": GUESTS | WAITED_FOR}.get(self.wish, GUESTS | REFUSED)
        return World(PROFILES[self.profile], guests[self.guest], WISHES[self.wish])

    def __str__(self) -> str:
        return f"{self.profile} {self.wish} {self.guest}"


def roots(profiles: tuple[str, ...] = tuple(PROFILES)) -> tuple[Root, ...]:
    """All of them, the good days first."""
    asked = [(wish, guest) for wish, guests in WITH_GUESTS.items() for guest in guests]
    asked += [("save", guest) for guest in REFUSED] + [("resume", guest) for guest in RESUMED]
    asked.sort(key=lambda each: each[1] != "good")
    return tuple(Root(profile, wish, guest) for wish, guest in asked for profile in profiles)
