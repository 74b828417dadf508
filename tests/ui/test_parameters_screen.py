"""The screen of migration settings: what is read on it, what is typed, and what is asked of the engine."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace
from textual.widgets import Input, OptionList, Static

from tests.core.play import Play
from tests.ui.frozen import SIZES, Frozen, Hands, make_app, run_app
from vmtui.app import VmtuiApp
from vmtui.backend.core.events import AnyEvent, Tune, Watch
from vmtui.backend.core.fleet import Fleet, TuneWish, VmView, WatchWish
from vmtui.backend.core.model import Link, Phase
from vmtui.backend.core.sim import PAUSE_VM_10_0, STOCK_10_0, Profile
from vmtui.backend.core.state import State
from vmtui.screens.parameters import ParametersScreen

KEY = "unix:/sim"


def watched(profile: Profile = STOCK_10_0, *events: Tune) -> State:
    play = Play(profile)
    play.connect()
    wishes: list[AnyEvent] = [Watch(play.now, True), *events]
    for wish in wishes:
        play.step(wish)
        play.rest()
    return play.state


def in_phase(phase: Phase) -> State:
    """A save, as it is when it comes to that phase."""
    seen: list[State] = []

    def look(play: Play) -> None:
        if play.work.phase is phase:
            seen.append(play.state)

    Play(watch=look).run()
    return seen[0]


class Looked:
    """What somebody in front of the screen sees and does."""

    def __init__(self, hands: Hands, source: Frozen) -> None:
        self.hands = hands
        self.source = source
        self.screen = hands.app.screen

    def text(self, where: str) -> str:
        return str(self.screen.query_one(f"#{where}", Static).content)

    @property
    def rows(self) -> list[str]:
        table = self.screen.query_one("#list", OptionList)
        return [str(table.get_option_at_index(index).prompt) for index in range(table.option_count)]

    @property
    def wishes(self) -> list[TuneWish]:
        return [each for each in self.source.asked if isinstance(each, TuneWish)]

    async def press(self, *keys: str) -> None:
        await self.hands.press(*keys)

    async def go_to(self, name: str) -> None:
        table = self.screen.query_one("#list", OptionList)
        table.highlighted = table.get_option_index(name)
        await self.hands.settle()

    async def type(self, text: str) -> None:
        self.screen.query_one("#value", Input).value = text
        await self.hands.settle()

    async def become(self, state: State) -> None:
        self.source.change(Fleet({KEY: VmView(state)}))
        await self.hands.settle()


def look(
    state: State, do: Callable[[Looked], Awaitable[None]], *, size: tuple[int, int] = (80, 24), read_only: bool = False
) -> None:
    source = Frozen(Fleet({KEY: VmView(state)}))

    async def use(_app: VmtuiApp, hands: Hands) -> None:
        await do(Looked(hands, source))

    run_app(make_app(source, clock=lambda: state.now, read_only=read_only), use, ParametersScreen(KEY), size=size)


@pytest.mark.parametrize("size", SIZES)
def test_every_setting_is_listed_with_its_value_at_any_size(size: tuple[int, int]) -> None:
    state = watched()

    async def do(seen: Looked) -> None:
        assert len(seen.rows) == len(state.vm.features.parameters) + len(state.vm.features.capabilities) + 1
        (row,) = (row for row in seen.rows if row.startswith("max-bandwidth"))
        assert "128.0 MiB/s" in row
        assert all(len(row) <= size[0] for row in seen.rows)
        assert "no pause-vm" in seen.text("pause")
        assert WatchWish(KEY, True) in seen.source.asked

    look(state, do, size=size)


@pytest.mark.slice
def test_pause_vm_comes_first_where_it_exists() -> None:
    async def do(seen: Looked) -> None:
        assert seen.rows[0].startswith("pause-vm ")
        assert "This QEMU has pause-vm" in seen.text("pause")

    look(watched(PAUSE_VM_10_0), do)


def test_a_value_is_judged_as_it_is_typed_and_sent_only_when_qemu_can_take_it() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("max-bandwidth")
        await seen.press("enter")
        assert seen.screen.query_one("#value", Input).value == "128 MiB/s"
        await seen.type("fast")
        assert "a number, such as 100M" in seen.text("said")
        await seen.press("enter")
        assert seen.wishes == []
        await seen.type("100M")
        assert seen.text("said") == "Enter sets 100.0 MiB/s = 104857600 bytes/s"
        await seen.press("enter")
        assert seen.wishes == [TuneWish(KEY, {"max-bandwidth": 100 << 20})]
        assert seen.screen.query_one("#list").has_focus

    look(watched(), do)


def test_escape_leaves_the_value_as_it_was_and_then_the_screen() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("downtime-limit")
        await seen.press("enter", "7", "escape")
        assert seen.hands.app.screen is seen.screen
        await seen.press("escape")
        assert seen.hands.app.screen is not seen.screen
        assert seen.wishes == []

    look(watched(), do)


@pytest.mark.parametrize("key", ["enter", "space"])
def test_a_capability_is_turned_with_one_key(key: str) -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("multifd")
        await seen.press(key)
        assert seen.wishes == [TuneWish(KEY, capabilities={"multifd": True})]

    look(watched(), do)


def test_while_a_save_runs_capabilities_say_why_not_and_bandwidth_can_change() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("multifd")
        assert "cannot be changed now: capabilities can change only while no migration runs" in seen.text("detail")
        await seen.press("enter")
        await seen.go_to("mode")
        assert "puts it back" in seen.text("detail")
        await seen.press("enter")
        assert seen.wishes == []
        await seen.go_to("max-bandwidth")
        assert "changed by vmtui, for this save; then 128.0 MiB/s again" in seen.text("detail")
        await seen.press("enter")
        await seen.type("1G")
        await seen.press("enter")
        assert seen.wishes == [TuneWish(KEY, {"max-bandwidth": 1 << 30})]

    look(in_phase(Phase.SAVE), do)


def test_qemus_own_words_are_shown_when_it_refuses_and_markup_in_them_is_text() -> None:
    async def do(seen: Looked) -> None:
        refused = watched(STOCK_10_0, Tune(0.0, {"multifd-channels": 0}))
        assert refused.tuned is not None
        await seen.become(replace(refused, tuned=replace(refused.tuned, error="[bold]no[/] \x1b[31m")))
        assert seen.text("said") == "multifd-channels not set: [bold]no[/] \\x1b[31m"

    look(watched(), do)


@pytest.mark.slice
def test_what_was_set_is_marked_and_told() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("max-bandwidth")
        await seen.become(watched(STOCK_10_0, Tune(0.0, {"max-bandwidth": 1 << 30})))
        assert seen.text("said") == "set: max-bandwidth 1.0 GiB/s"
        (row,) = (row for row in seen.rows if row.startswith("max-bandwidth"))
        assert "changed" in row
        assert "changed by you; it was 128.0 MiB/s" in seen.text("detail")

    look(watched(), do)


@pytest.mark.slice
def test_what_becomes_of_the_vm_meanwhile_does_not_take_the_keys_from_who_types() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("downtime-limit")
        await seen.press("enter")
        await seen.type("40")
        await seen.become(in_phase(Phase.UNPLUG))
        assert seen.screen.query_one("#value", Input).value == "40"
        assert seen.screen.query_one("#value").has_focus

    look(watched(), do)


@pytest.mark.slice
def test_a_filter_leaves_what_matches_in_name_or_meaning() -> None:
    async def do(seen: Looked) -> None:
        await seen.press("slash", *"zstd", "enter")
        assert [row.split()[0] for row in seen.rows] == ["multifd-zstd-level"]
        assert "1 of 51 match 'zstd'" in seen.text("title")
        await seen.press("escape")
        assert len(seen.rows) > 50

    look(watched(), do)


def test_read_only_changes_nothing_and_says_so() -> None:
    async def do(seen: Looked) -> None:
        await seen.go_to("multifd")
        await seen.press("space", "enter")
        assert seen.wishes == []
        assert "read-only: nothing is changed" in seen.text("said")

    look(watched(), do, read_only=True)


@pytest.mark.slice
def test_of_a_vm_that_does_not_answer_the_last_known_values_are_shown() -> None:
    state = watched()
    lost = replace(state, vm=replace(state.vm, link=Link.LOST))

    async def do(seen: Looked) -> None:
        assert any("128.0 MiB/s" in row for row in seen.rows)
        await seen.press("enter")
        assert "QEMU does not answer now" in seen.text("detail")
        assert seen.wishes == []

    look(lost, do)


@pytest.mark.slice
def test_a_vm_whose_schema_is_not_known_yet_says_what_is_awaited() -> None:
    async def do(seen: Looked) -> None:
        assert "asking QEMU what it offers" in seen.text("title")
        await seen.become(watched())
        assert "51 settings" in seen.text("title")

    play = Play()
    play.connect()
    look(play.state, do)
