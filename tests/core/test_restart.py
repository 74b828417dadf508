"""The engine is dropped at every point; a new one, given only the journal and the VM, ends as well."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as replaced
from itertools import count

import msgspec
import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.core.test_faults import PROFILES, SAVE, STRATEGIES, check, name_of
from vmtui.backend.core.commands import Action, Command, Reserve, Verify
from vmtui.backend.core.events import Answered, AnyEvent, Connected, Event, Restarted, Tick, Wish
from vmtui.backend.core.model import Options, Outcome, Phase, Strategy, Then, Vm
from vmtui.backend.core.recovery import OtherRules, recovered
from vmtui.backend.core.result import Result, report
from vmtui.backend.core.sim import STOCK_10_0, Profile, Scenario
from vmtui.backend.journal import ActionLine, EventLine

pytestmark = pytest.mark.slice

Told = AnyEvent | Action
_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(EventLine | ActionLine)


def _told(raw: bytes) -> Told:
    line = _decoder.decode(raw)
    return line.event if isinstance(line, EventLine) else line.action


@pytest.fixture(params=PROFILES, ids=name_of)
def profile(request: pytest.FixtureRequest) -> Profile:
    assert isinstance(request.param, Profile)
    return request.param


class Killed(BaseException):
    """SIGKILL: nothing that was going on is finished."""


@dataclass(frozen=True)
class Kill:
    """Where the engine ends: before it writes line `line` of the journal, or after that and before what it tells of."""

    line: int
    after: bool = False
    lost: int = 0
    """Lines that never reached the disk."""
    dead: float = 0.05
    """Seconds until there is a new engine."""


class Mortal(Play):
    """A play that keeps a journal, and whose engine can be killed and begun again."""

    def __init__(
        self,
        profile: Profile = STOCK_10_0,
        options: Options = SAVE,
        scenario: Scenario | None = None,
        *,
        start_time: int = 0,
        kills: tuple[Kill, ...] = (),
        fork: Callable[["Mortal", Kill], None] | None = None,
        rebooted: bool = False,
    ) -> None:
        """`fork` is called wherever the engine can end: it may call `ended`. `rebooted`: with its engine ends the whole
        host, and QEMU."""
        super().__init__(profile, scenario, options)
        self.kills, self.fork, self.rebooted = kills, fork, rebooted
        self.start_time = start_time
        self.journal: list[bytes] = []
        self.lines = 0
        self.committed = 0
        """Lines that were synced before anything was changed."""
        self.known_first = Vm("")
        self.later = self.pid, self.start_time
        """Of the QEMU that the next engines find."""
        self.polling = False
        """The line that is written is a query, its answer or the time."""

    def run(self) -> Result:
        try:
            self.start()
        except Killed:
            self.restart()
        return self.go_on()

    def go_on(self) -> Result:
        while self.alive and not self.done:
            try:
                self.turn()
            except Killed:
                self.restart()
        return report(self.state) if self.alive else None  # type: ignore[return-value]

    def ended(self, *kills: Kill) -> "Mortal":
        """The same world, whose engine ends here."""
        world = self.clone()
        world.journal, world.sent, world.kills, world.fork = list(self.journal), list(self.sent), kills, None
        world.restart()
        return world

    @property
    def alive(self) -> bool:
        """False: nothing was changed yet, so there is nothing to go on with."""
        return self.state.work is not None

    def step(self, event: AnyEvent) -> None:
        if isinstance(event, Connected):
            pid, start_time = self.later if self.lines else (self.pid, self.start_time)
            event = replace(event, pid=pid, start_time=start_time)
        if isinstance(event, Wish):
            self.known_first = self.state.vm
        if self.state.work is not None or isinstance(event, Wish):
            self._write(event)
        super().step(event)

    def perform(self) -> None:
        action = self.state.outstanding
        assert action is not None
        self._write(action)
        if isinstance(action, Reserve) or (isinstance(action, Command) and action.learns is None):
            self.committed = self.committed or len(self.journal)
        super().perform()

    def _write(self, told: Told) -> None:
        self.lines += 1
        asked = self.state.outstanding if isinstance(told, Answered) else told
        self.polling = isinstance(asked, Tick) or (isinstance(asked, Command) and asked.learns is not None)
        if self.fork is not None:
            self.fork(self, Kill(self.lines))
        if any(kill.line == self.lines and not kill.after for kill in self.kills):
            raise Killed
        line = EventLine(self.now, told) if isinstance(told, Event) else ActionLine(self.now, told)
        self.journal.append(_encoder.encode(line))
        if self.fork is not None and isinstance(line, ActionLine):
            self.fork(self, Kill(self.lines, after=True))
        if any(kill.line == self.lines and kill.after for kill in self.kills):
            raise Killed

    # --- a new engine ---------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Only the journal and the VM are left of it."""
        kill = next(each for each in self.kills if each.line == self.lines)
        self.queue, self.held, self.deadline = (), None, None
        if self.rebooted:
            self.vm.alive = False
            self.now = 0.0  # of another clock
        else:
            self.vm.disconnect(self.now)
            self._move_to(self.now + kill.dead)
        self.journal = self.journal[: max(len(self.journal) - kill.lost, self.committed)]
        state = recovered(self.known_first, map(_told, self.journal)) if self.committed else None
        if state is None:
            self.state = replace(self.state, work=None)
            return
        self.state, self.queue = state, ()
        self.performed = state.actions
        self.reconnect_at = self.now + 0.01
        try:
            there, published = self.store.partial or self.store.published, self.store.published
            self.step(Restarted(self.now, self.rebooted, there, published))
        except Killed:
            self.restart()


GOOD = Scenario()


def endings(
    profile: Profile,
    options: Options = SAVE,
    scenario: Scenario = GOOD,
    *,
    every: int = 1,
    polling: bool = True,
    kills: Callable[[Kill], Iterable[tuple[Kill, ...]]] = lambda kill: [(kill,)],
    rebooted: bool = False,
) -> Iterator[tuple[tuple[Kill, ...], Mortal]]:
    """What becomes of it when its engine ends at one of `every` places; each was asked how it is in the end.

    Without `polling`, where something is done or happens.
    """
    numbers = count()
    worlds: list[tuple[tuple[Kill, ...], Mortal]] = []

    def fork(world: Mortal, kill: Kill) -> None:
        if (polling or not world.polling) and next(numbers) % every == 0:
            worlds.extend((ends, world.ended(*ends)) for ends in kills(kill))

    Mortal(profile=profile, options=options, scenario=scenario, fork=fork, rebooted=rebooted).run()
    assert worlds
    for ends, world in worlds:
        world.go_on()
        examine(world)
        if world.alive:
            yield ends, world


def killed(profile: Profile, options: Options, scenario: Scenario, *kills: Kill) -> Mortal:
    """Play it with these ends of the engine, and ask the twin how it is in the end."""
    play = Mortal(profile=profile, options=options, scenario=scenario, kills=kills)
    play.run()
    examine(play)
    return play


def examine(play: Mortal) -> None:
    if play.alive:
        check(play)
    elif play.vm.alive:
        assert (dict(play.vm.parameters), play.vm.capabilities) == play.before, "nothing was written down, and yet changed"


HASTY = replace(SAVE, unplug_timeout=2.0)
SCENARIOS = {
    "never ejects": (Scenario(unplug_delay=None), HASTY),
    "slow eject": (Scenario(unplug_delay=6.0), SAVE),
    "disk full": (Scenario(write_fails_after=10_000_000), SAVE),
    "panics, paused": (Scenario(panics="wait-unplug", panic_action="pause", unplug_delay=1.0), SAVE),
    "paused by another": (Scenario(paused_by_other="wait-unplug", unplug_delay=1.0), HASTY),
    "killed": (Scenario(killed="active"), SAVE),
}
SHORT = ("disk full", "killed")


@pytest.mark.parametrize("then", Then, ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_good_save_is_saved_wherever_its_engine_ends(profile: Profile, strategy: Strategy, then: Then) -> None:
    for kills, play in endings(profile, replace(SAVE, strategy=strategy, then=then)):
        assert play.work.outcome is Outcome.SAVED, (kills, report(play.state))


def test_a_guest_without_a_card_is_saved_wherever_its_engine_ends(profile: Profile) -> None:
    for kills, play in endings(profile, scenario=Scenario(primaries=0)):
        assert play.work.outcome is Outcome.SAVED, (kills, report(play.state))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_scenario_ends_as_well_wherever_its_engine_ends(profile: Profile, strategy: Strategy, name: str) -> None:
    scenario, options = SCENARIOS[name]
    for _ in endings(
        profile, replace(options, strategy=strategy), scenario, every=1 if name in SHORT else 2, polling=name in SHORT
    ):
        pass


@pytest.mark.parametrize("dead", [3.0, 100.0])
@pytest.mark.parametrize("name", ["good", "never ejects"])
def test_it_may_take_long_until_there_is_a_new_engine(profile: Profile, name: str, dead: float) -> None:
    def kills(kill: Kill) -> list[tuple[Kill, ...]]:
        return [(replaced(kill, dead=dead),)]

    scenario, options = SCENARIOS.get(name, (GOOD, SAVE))
    for _ in endings(profile, options, scenario, every=3, polling=False, kills=kills):
        pass


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_last_lines_of_a_journal_may_be_lost(profile: Profile, strategy: Strategy) -> None:
    """A full disk keeps a journal from being written, and nothing else."""

    def kills(kill: Kill) -> Iterator[tuple[Kill, ...]]:
        return ((replaced(kill, lost=lost),) for lost in (1, 2, 3, 10, 1000))

    for _ in endings(profile, replace(SAVE, strategy=strategy), every=2, polling=False, kills=kills):
        pass


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_second_engine_may_end_too(profile: Profile, strategy: Strategy) -> None:
    def kills(kill: Kill) -> Iterator[tuple[Kill, ...]]:
        return ((kill, Kill(kill.line + more)) for more in (1, 2, 5, 9, 20))

    for ends, play in endings(profile, replace(SAVE, strategy=strategy), every=17, kills=kills):
        assert play.work.outcome is Outcome.SAVED, (ends, report(play.state))


@pytest.mark.parametrize("then", [Then.RESUME, Then.QUIT], ids=str)
def test_after_a_reboot_a_whole_state_is_kept_and_half_a_one_is_removed(profile: Profile, then: Then) -> None:
    def kills(kill: Kill) -> Iterator[tuple[Kill, ...]]:
        return ((replaced(kill, lost=lost),) for lost in (0, 3, 1000))

    for ends, play in endings(profile, replace(SAVE, then=then), every=2, kills=kills, rebooted=True):
        assert report(play.state).runstate == "gone"
        assert play.store.published == play.store.whole, ends
        assert not play.store.partial, ends


# --- one by one -------------------------------------------------------------------------------------------------------


def line_with(word: str, options: Options = SAVE, scenario: Scenario = GOOD) -> int:
    """The number of the first line of an undisturbed journal that holds it."""
    play = Mortal(options=options, scenario=scenario)
    play.run()
    return next(number for number, line in enumerate(play.journal, start=1) if word.encode() in line)


def test_a_monitor_that_breaks_while_the_file_is_read_does_not_keep_qemu_from_being_ended() -> None:
    def drop_at_verify(play: Play) -> None:
        if isinstance(play.state.outstanding, Verify) and not play.drops:
            play.drop()

    play = Play(options=replace(SAVE, then=Then.QUIT), watch=drop_at_verify)
    assert play.run().outcome is Outcome.SAVED
    assert play.drops == 1
    assert not play.vm.alive


def test_a_migration_that_the_journal_has_lost_is_cancelled_and_not_taken_for_somebody_elses() -> None:
    line = line_with('"migrate"')
    play = killed(STOCK_10_0, SAVE, GOOD, Kill(line + 2, lost=3))
    assert play.commands("migrate_cancel")
    assert play.work.outcome is Outcome.FAILED, "not attention: everything is as it was"


def test_a_snapshot_that_is_complete_is_never_removed_whatever_the_journal_has_lost() -> None:
    line = line_with('"publish"')
    for lost in range(60):
        play = killed(STOCK_10_0, SAVE, GOOD, Kill(line + 1, lost=lost))
        assert play.store.published, lost
        assert play.work.outcome is Outcome.SAVED, (lost, report(play.state))


def test_the_guests_time_to_let_go_is_not_begun_anew() -> None:
    line, options = line_with('"wait-unplug"'), replace(SAVE, unplug_timeout=30.0)
    play = killed(STOCK_10_0, options, Scenario(unplug_delay=None), Kill(line + 1, dead=31.0))
    assert play.work.outcome is Outcome.CANCELLED
    restarted = max(at for phase, at in play.work.timeline if phase is Phase.UNPLUG)
    cancelled = next(at for phase, at in play.work.timeline if phase is Phase.CANCEL)
    assert cancelled - restarted < 1


def test_a_cancel_gets_its_time_anew() -> None:
    options, scenario = replace(SAVE, unplug_timeout=1.0), Scenario(unplug_delay=None)
    line = line_with('"migrate_cancel"', options, scenario)
    play = killed(STOCK_10_0, options, scenario, Kill(line, after=True, dead=100.0))
    assert play.work.outcome is Outcome.CANCELLED
    assert not any("has not ended it" in note for note in play.work.notes)


@pytest.mark.parametrize(("pid", "start_time"), [(2, 5), (1, 6)])
def test_another_qemu_at_the_monitor_is_left_alone(pid: int, start_time: int) -> None:
    line = line_with('"stop"')
    play = Mortal(kills=(Kill(line),), start_time=5)
    play.later = (pid, start_time)
    result = play.run()
    assert (result.outcome, result.runstate) == (Outcome.ATTENTION, "gone")
    assert "another QEMU answers" in play.state.vm.why_lost
    assert play.vm.runstate == "running", "nothing was sent to it"


def test_a_journal_whose_steps_are_not_these_rules_is_refused() -> None:
    play = Mortal()
    play.run()
    told = [_told(line) for line in play.journal]
    number = next(number for number, each in enumerate(told) if isinstance(each, Command) and each.execute == "stop")
    told[number] = Command("system_reset")
    with pytest.raises(OtherRules, match="system_reset"):
        recovered(play.known_first, told)


def test_what_came_to_its_end_or_changed_nothing_is_not_gone_on_with() -> None:
    play = Mortal()
    play.run()
    told = [_told(line) for line in play.journal]
    assert recovered(play.known_first, told) is None
    assert recovered(play.known_first, told[:10]) is None
    assert recovered(play.known_first, []) is None
