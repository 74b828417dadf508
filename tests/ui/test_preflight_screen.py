"""Before a save: what was found is shown, what is chosen is looked at again, and nothing starts by a stray key."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from textual.widgets import Input, Select

from tests.core.play import Play
from tests.ui.frozen import SIZES, Frozen, Hands, fleet_of, shown, state_in
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Begin, Fleet, Request, Shelf, VmView
from vmtui.backend.core.model import Card, Goal, OnStuck, Options, Phase, Place, Strategy, Then
from vmtui.backend.core.preflight import findings
from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_10_0, Profile, Scenario
from vmtui.backend.core.state import State
from vmtui.messages import Open
from vmtui.messages import Place as Screens
from vmtui.screens.preflight import PreflightScreen

KEY = "unix:/sim"
Change = Callable[[State], State]


class Answering(Frozen):
    """A look that is asked for is done by the twin, at once."""

    def __init__(self, profile: Profile = STOCK_10_0, change: Change = lambda state: state, **play: object) -> None:
        super().__init__(Fleet())
        self._play = {"profile": profile, "ram": 4 << 30, **play}
        self._change = change
        seen = self._played(Options(goal=Goal.CHECK, output="/elsewhere"))
        self.fleet = replace(fleet_of(replace(seen, work=None)), shelf=Shelf("/snap", 1.0))

    def _played(self, options: Options) -> State:
        play = Play(options=options, **self._play)  # type: ignore[arg-type]
        play.run()
        return self._change(play.state)

    def request(self, request: Request) -> None:
        super().request(request)
        if isinstance(request, Begin) and request.options.goal is Goal.CHECK:
            self.change(replace(self.fleet, vms={KEY: VmView(self._played(request.options))}))

    @property
    def saves(self) -> list[Options]:
        return [each.options for each in self.asked if isinstance(each, Begin) and each.options.goal is Goal.SAVE]

    @property
    def looks(self) -> list[Options]:
        return [each.options for each in self.asked if isinstance(each, Begin) and each.options.goal is Goal.CHECK]


async def opened(app: VmtuiApp, hands: Hands) -> PreflightScreen:
    app.post_message(Open(Screens.PREFLIGHT, KEY))
    await hands.settle()
    assert isinstance(app.screen, PreflightScreen)
    return app.screen


def seen(source: Frozen, *keys: str, size: tuple[int, int] = (80, 24), read_only: bool = False) -> str:
    """What is on the screen once these keys were pressed on it."""

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app, hands)
        for key in keys:
            await hands.press(key)

    return " ".join(shown(source, use, size, read_only=read_only).split())


def focused(source: Frozen, *, read_only: bool = False) -> str:
    names: list[str] = []

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app, hands)
        names.append(str(app.focused.id) if app.focused else "")

    shown(source, use, read_only=read_only)
    return names[0]


def without_driver(state: State) -> State:
    """The twin's card is plugged, and the guest has not finished booting: a warning."""
    return _findings(state, primaries=tuple(replace(card, driven=False) for card in state.vm.primaries))


def with_card_out(state: State) -> State:
    return _findings(state, primaries=tuple(replace(card, card=Card.OUT) for card in state.vm.primaries))


def _findings(state: State, **changes: object) -> State:
    assert state.work is not None
    vm, work = replace(state.vm, **changes), state.work
    return replace(state, vm=vm, work=replace(work, findings=findings(vm, work.options, work.strategy, work.place)))


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_verdict_strategy_file_size_and_time_are_on_every_screen(size: tuple[int, int]) -> None:
    picture = seen(Answering(), size=size)
    for words in ("it can be saved", "pause-after-unplug: this QEMU has no pause-vm", "/snap/vm-20", "up to 4.0 GiB",
                  "about 3.0 s at full bandwidth", "free 1.0 TiB", "Start the save"):  # fmt: skip
        assert words in picture


def test_of_a_vm_without_a_card_no_unplug_is_asked_about_and_no_card_is_promised() -> None:
    picture = seen(Answering(scenario=Scenario(primaries=0)))
    assert "stop-first" in picture
    assert "s at most, then" not in picture
    assert "with its card" not in picture
    assert "s at most, then" in seen(Answering())


@pytest.mark.slice
def test_a_qemu_with_pause_vm_says_so() -> None:
    assert "pause-vm: this QEMU has pause-vm" in seen(Answering(PAUSE_VM_10_0))


def test_what_warns_is_shown_with_what_helps() -> None:
    picture = seen(Answering(change=without_driver))
    assert "it can be saved; first read 1 warning" in picture
    assert "warning the failover card 'primary0' is plugged, but no guest driver runs it" in picture
    assert "→ see whether the guest has finished booting" in picture


def test_what_blocks_is_shown_with_what_helps() -> None:
    picture = seen(Answering(change=with_card_out))
    assert "it cannot be saved like this" in picture
    assert "→ Resume on the VM's screen brings it back" in picture
    assert "1 thing in the way" in picture


@pytest.mark.slice
def test_a_vm_that_is_being_saved_says_so_and_is_not_looked_at() -> None:
    source = Answering()
    busy = state_in(Play(), Phase.SAVE)
    source.fleet = replace(source.fleet, vms={KEY: VmView(busy)})
    picture = seen(source)
    assert "busy already: save, save" in picture
    assert "Watch it" in picture
    assert source.asked == []


@pytest.mark.slice
def test_a_vm_that_is_gone_says_so() -> None:
    source = Answering()
    source.fleet = replace(source.fleet, vms={})
    assert "this VM is not there any more" in seen(source)


# --- starting ---------------------------------------------------------------------------------------------------------


def test_start_is_the_default_only_where_nothing_warns() -> None:
    assert focused(Answering()) == "start"
    assert focused(Answering(change=without_driver)) == "back"


@pytest.mark.slice
def test_nor_where_something_blocks_or_nothing_may_be_changed() -> None:
    assert focused(Answering(change=with_card_out)) == "back"
    assert focused(Answering(), read_only=True) == "back"


def test_enter_starts_what_was_looked_at() -> None:
    source = Answering()
    source.asked.clear()

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app, hands)
        await hands.press("enter")
        assert not isinstance(app.screen, PreflightScreen)

    shown(source, use)
    (save,) = source.saves
    (look,) = source.looks
    assert save.output == look.output
    assert save.output.startswith("/snap/vm-")
    assert (save.strategy, save.then, save.unplug_timeout) == (Strategy.AUTO, Then.RESUME, 30.0)


@pytest.mark.parametrize("change", [pytest.param(without_driver, marks=pytest.mark.slice), with_card_out])
def test_enter_starts_nothing_where_something_warns_or_blocks(change: Change) -> None:
    source = Answering(change=change)
    seen(source, "enter")
    assert source.saves == []


@pytest.mark.slice
def test_what_blocks_cannot_be_started_by_any_key() -> None:
    source = Answering(change=with_card_out)
    seen(source, "ctrl+s", "tab", "enter")
    assert source.saves == []


def test_nothing_is_started_where_nothing_may_be_changed_but_it_can_be_looked_at() -> None:
    source = Answering()
    picture = seen(source, "ctrl+s", read_only=True)
    assert source.saves == []
    assert len(source.looks) == 1
    assert "it can be saved" in picture


# --- choosing ---------------------------------------------------------------------------------------------------------


def chosen(source: Answering, which: str, value: str) -> str:
    """Choose by the form's own widget, and read the screen."""

    async def use(app: VmtuiApp, hands: Hands) -> None:
        screen = await opened(app, hands)
        screen.query_one(f"#{which}", Select).value = value
        await hands.settle()

    return " ".join(shown(source, use).split())


def typed(source: Answering, which: str, value: str) -> str:
    """Type it, press Enter, and whatever the screen says then: press what starts."""

    async def use(app: VmtuiApp, hands: Hands) -> None:
        screen = await opened(app, hands)
        box = screen.query_one(f"#{which}", Input)
        box.focus()
        await hands.settle()
        box.value = value
        await hands.settle()
        await hands.press("enter")
        await hands.press("ctrl+s")

    return " ".join(shown(source, use).split())


@pytest.mark.slice
def test_each_strategy_that_is_chosen_is_looked_at_again() -> None:
    source = Answering()
    picture = chosen(source, "strategy", Strategy.STOP_FIRST)
    assert [each.strategy for each in source.looks] == [Strategy.AUTO, Strategy.STOP_FIRST]
    assert "stop-first hangs with a failover card plugged" in picture
    assert "it cannot be saved like this" in picture


@pytest.mark.slice
def test_a_background_snapshot_stops_the_guest_for_an_instant() -> None:
    assert "stopped some milliseconds, whatever its size" in chosen(Answering(), "strategy", Strategy.BACKGROUND)


@pytest.mark.slice
def test_what_becomes_of_the_vm_changes_how_long_it_stands_still() -> None:
    assert "then until somebody resumes it" in chosen(Answering(), "then", Then.STAY_PAUSED)
    assert "stopped for good: QEMU ends" in chosen(Answering(), "then", Then.QUIT)


@pytest.mark.slice
def test_a_file_without_a_directory_is_one_of_the_snapshot_directory() -> None:
    source = Answering()
    typed(source, "path", "mine.vmstate")
    assert source.looks[-1].output == "/snap/mine.vmstate"


@pytest.mark.slice
def test_a_place_that_cannot_hold_it_says_why() -> None:
    def full(state: State) -> State:
        place = Place("/snap/x", "the directory '/snap' is not writable")
        assert state.work is not None
        return _findings(replace(state, work=replace(state.work, place=place)))

    picture = seen(Answering(change=full))
    assert "the directory '/snap' is not writable" in picture
    assert "free not known" in picture


@pytest.mark.slice
@pytest.mark.parametrize(
    ("which", "value", "words"),
    [
        ("path", "", "name the file that is to hold the state"),
        ("timeout", "soon", "the unplug needs a number of seconds"),
        ("timeout", "-1", "the unplug needs a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_said_and_cannot_be_started(which: str, value: str, words: str) -> None:
    source = Answering()
    assert words in typed(source, which, value)
    assert source.saves == []


@pytest.mark.slice
def test_patience_is_part_of_what_is_begun_and_needs_no_other_look() -> None:
    source = Answering()

    async def use(app: VmtuiApp, hands: Hands) -> None:
        screen = await opened(app, hands)
        screen.query_one("#timeout", Input).value = "7.5"
        screen.query_one("#stuck", Select).value = str(OnStuck.WAIT)
        await hands.settle()
        await hands.press("ctrl+s")

    shown(source, use)
    (save,) = source.saves
    assert (save.unplug_timeout, save.on_stuck) == (7.5, OnStuck.WAIT)
    assert len(source.looks) == 1


@pytest.mark.slice
def test_what_is_typed_after_a_click_keeps_the_focus_and_its_enter_starts_nothing() -> None:
    source = Answering()

    async def use(app: VmtuiApp, hands: Hands) -> None:
        screen = await opened(app, hands)
        x, y, width, _height = screen.query_one("#timeout").region
        await hands.click(x + width - 2, y)
        for key in ("e", "1", "enter"):  # 30.0e is no number of seconds, 30.0e1 is one
            await hands.press(key)
            assert app.focused is screen.query_one("#timeout")

    shown(source, use)
    assert source.saves == []


@pytest.mark.slice
def test_a_letter_that_is_typed_into_the_file_is_no_key() -> None:
    source = Answering()

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app, hands)
        app.screen.query_one("#path", Input).focus()
        await hands.press("end", "r", "w", "q")
        assert app.screen.query_one("#path", Input).value.endswith(".vmstaterwq")

    assert "press Enter to take this file" in " ".join(shown(source, use).split())
    assert len(source.looks) == 1
