"""The first screen tells of every VM what an operator must know, and what can be pressed."""

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.ui.frozen import HOST, SIZES, Frozen, Hands, fleet_of, shown, state_in
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import CancelWish, SurveyWish
from vmtui.backend.core.model import Link, Phase, Vm
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.state import State
from vmtui.settings import Settings


def named(state: State, name: str, **changes: object) -> State:
    return replace(state, vm=replace(state.vm, key=f"unix:/{name}", name=name, **changes))


def ended(**scenario: object) -> State:
    play = Play(scenario=Scenario(**scenario))  # type: ignore[arg-type]
    play.run()
    return play.state


def lost(why: str) -> State:
    return State(Vm("unix:/gone1", name="gone1", link=Link.LOST, why_lost=why))


def test_every_vm_is_listed_with_its_state_and_its_card() -> None:
    saved = named(ended(), "web1")
    waiting = named(state_in(Play(), Phase.PAUSE), "db1")
    picture = shown(Frozen(fleet_of(saved, waiting)), size=(120, 24))
    (web1,) = [line for line in picture.splitlines() if line.startswith(" web1")]
    (db1,) = [line for line in picture.splitlines() if line.startswith(" db1") and "pause" in line]
    assert all(word in web1 for word in ("running", "saved", "plugged", "256.0 MiB", "10.0"))
    assert "running" in db1
    assert "2 VMs  ▶ 1 busy".replace("▶ ", "") in picture.replace("▶ ", "")


@pytest.mark.parametrize("size", SIZES)
def test_name_state_and_what_is_done_are_there_at_every_size(size: tuple[int, int]) -> None:
    picture = shown(Frozen(fleet_of(named(state_in(Play(), Phase.SAVE), "web1"))), size=size)
    assert "web1" in picture
    assert "paused" in picture
    assert "save " in picture
    assert "hyper1" in picture


@pytest.mark.parametrize(
    ("why", "word", "advice"),
    [
        ("another client holds this monitor: virsh (pid 1)", "busy monitor", "another client holds"),
        ("cannot connect: permission denied; run vmtui as the user that QEMU runs as", "no permission", "run vmtui as"),
        ("something else", "unreachable", "something else"),
    ],
)
def test_a_vm_that_cannot_be_reached_says_why_and_what_to_do(why: str, word: str, advice: str) -> None:
    picture = shown(Frozen(fleet_of(lost(why))))
    assert word in picture
    assert advice in picture


def test_the_last_known_state_of_a_vm_that_is_silent_is_told_with_its_time() -> None:
    state = named(ended(), "web1", link=Link.LOST, why_lost="QEMU closed the monitor")
    picture = shown(Frozen(fleet_of(replace(state, now=100.0))))
    assert "running when it was last heard of, at " in picture


@pytest.mark.slice
def test_a_host_without_vms_says_what_to_do() -> None:
    assert "vmtui demo" in shown(Frozen())
    assert "Looking for VMs" in shown(Frozen(fleet_of(host=replace(HOST, surveyed=False))))
    assert "12 processes of other users" in shown(Frozen(fleet_of(host=replace(HOST, unreadable=12))))


def test_the_filter_narrows_the_list_and_escape_shows_all_again() -> None:
    source = Frozen(fleet_of(named(ended(), "web1"), named(ended(), "db1")))

    async def narrow(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("slash", "w", "e", "b")

    async def widen(app: VmtuiApp, hands: Hands) -> None:
        await narrow(app, hands)
        await hands.press("escape")

    assert "db1" not in shown(source, narrow)
    assert "db1" in shown(source, widen)


@pytest.mark.slice
def test_a_filter_that_nothing_matches_says_so() -> None:
    async def narrow(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("slash", "x", "y")

    assert "No VM matches" in shown(Frozen(fleet_of(named(ended(), "web1"))), narrow)


@pytest.mark.slice
def test_what_needs_attention_comes_first_when_asked_for() -> None:
    source = Frozen(fleet_of(named(ended(), "a1"), named(ended(killed="active"), "z9")))

    async def sort(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("o")

    def order(picture: str) -> list[str]:
        names = [line.split()[0] for line in picture.splitlines() if line.split()[:1] in (["a1"], ["z9"])]
        return names[:2]

    assert order(shown(source)) == ["a1", "z9"]
    assert order(shown(source, sort)) == ["z9", "a1"]


def test_cancel_is_possible_only_where_something_is_under_way() -> None:
    async def press(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("c")

    idle = Frozen(fleet_of(named(ended(), "web1")))
    shown(idle, press)
    assert not idle.asked
    busy = Frozen(fleet_of(named(state_in(Play(), Phase.UNPLUG), "web1")))
    shown(busy, press)
    assert busy.asked == [CancelWish("unix:/web1")]


def test_read_only_changes_nothing_and_still_looks() -> None:
    async def press(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("c", "r")

    source = Frozen(fleet_of(named(state_in(Play(), Phase.UNPLUG), "web1")))
    picture = shown(source, press, read_only=True)
    assert source.asked == [SurveyWish()]
    assert "read-only" in picture


def test_a_name_from_outside_is_neither_markup_nor_escape_codes() -> None:
    evil = "[bold red]x[/]\x1b[2J\n"
    picture = shown(Frozen(fleet_of(named(ended(), evil))), size=(120, 24))
    assert "[bold red]x[/]" in picture
    assert "\x1b" not in picture


def test_values_that_change_are_seen_without_a_key() -> None:
    source = Frozen(fleet_of(named(ended(), "web1")))

    async def change(_app: VmtuiApp, _hands: Hands) -> None:
        source.change(fleet_of(named(ended(), "web1", runstate="paused")))

    assert "paused" in shown(source, change)


@pytest.mark.slice
def test_a_key_can_be_set_in_the_settings() -> None:
    async def press(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("f5")

    source = Frozen(fleet_of(named(ended(), "web1")))
    shown(source, press, settings=Settings(keys={"fleet.survey": "f5"}))
    assert source.asked == [SurveyWish()]


def test_help_tells_every_key_and_dims_what_is_not_possible() -> None:
    async def ask(_app: VmtuiApp, hands: Hands) -> None:
        await hands.press("question_mark")

    picture = shown(Frozen(fleet_of(named(ended(), "web1"))), ask, size=(100, 40))
    assert "Look again" in picture
    assert "fleet.survey" in picture
    assert "Cancel  (nothing is under way)" in picture


def test_a_wider_window_has_more_columns_and_a_long_name_is_whole() -> None:
    async def widen(app: VmtuiApp, hands: Hands) -> None:
        await hands.resize(160, 50)

    name = "a-name-of-thirty-letters-or-so"
    picture = shown(Frozen(fleet_of(named(ended(), name))), widen, size=(60, 20))
    assert "Last saved" in picture
    assert f"│ {name}" in picture


def test_what_needs_attention_says_why_and_what_to_do() -> None:
    play = Play(scenario=Scenario(panics="active", panic_device=True, panic_action="pause"))
    play.run()
    picture = " ".join(shown(Frozen(fleet_of(named(play.state, "web1")))).split())
    assert "note the guest has panicked; take a core dump" in picture


def test_the_cursor_moves_without_laying_out_the_screen_anew() -> None:
    """A layout costs more than all else that a key does, and over a slow line a whole pane more than a line of it."""
    layouts: list[object] = []

    async def use(app: VmtuiApp, hands: Hands) -> None:
        app.screen.screen_layout_refresh_signal.subscribe(app, layouts.append)
        layouts.clear()
        await hands.press("j", "j", "j", "k")

    shown(Frozen(fleet_of(*(named(ended(), name) for name in ("web1", "web2", "web3", "web4")))), use)
    assert layouts == []
