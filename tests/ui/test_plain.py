"""The flat text mode tells the same facts as lines, each once, and takes the same wishes as words."""

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.ui.frozen import Frozen, fleet_of, state_in
from vmtui.backend.core.fleet import Begin, CancelWish, LetRunWish, Request, SurveyWish, WaitWish
from vmtui.backend.core.model import Goal, Options, Phase
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.state import State
from vmtui.plain import Plain


def named(state: State, name: str) -> State:
    return replace(state, vm=replace(state.vm, key=f"unix:/{name}", name=name))


def plain(*states: State, read_only: bool = False) -> tuple[Plain, Frozen]:
    source = Frozen(fleet_of(*states))
    return Plain(source, lambda name: f"/snap/{name}.vmstate", read_only=read_only), source


def ended() -> State:
    play = Play()
    play.run()
    return named(play.state, "web1")


def test_what_has_changed_is_told_once_and_nothing_else() -> None:
    text, source = plain(named(state_in(Play(), Phase.UNPLUG), "web1"))
    assert [line for line in text.changes("02:00:00") if "unplug: waiting" in line]
    assert not list(text.changes("02:00:01"))
    source.change(fleet_of(named(state_in(Play(), Phase.SAVE), "web1")))
    assert list(text.changes("02:00:02")) == ["02:00:02 web1: paused, saving its state, 0% done, card out"]


def test_a_copy_is_told_of_at_each_quarter_only() -> None:
    play = Play(ram=8 << 30)
    lines: list[str] = []
    text, source = plain()

    def watch(play: Play) -> None:
        source.change(fleet_of(named(play.state, "web1")))
        lines.extend(text.changes("t"))

    play.watch = watch
    play.run()
    copies = [line for line in lines if "% done" in line]
    assert 3 <= len(copies) <= 5


def test_the_end_is_told_with_the_card_of_proved_facts() -> None:
    text, _source = plain(ended())
    told = "\n".join(text.changes("t"))
    assert "web1: saved" in told
    assert "guest: running, was stopped for" in told
    assert "card: primary0 plugged, proved" in told


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("save web1", Begin("unix:/web1", Options(output="/snap/web1.vmstate"))),
        ("run web1", Begin("unix:/web1", Options(goal=Goal.RESUME))),
        ("look", SurveyWish()),
    ],
)
def test_words_ask_for_the_same_as_keys(line: str, request_: Request) -> None:
    text, source = plain(ended())
    assert text.obey(line)
    assert source.asked == [request_]


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("cancel web1", CancelWish("unix:/web1")),
        ("wait web1 60", WaitWish("unix:/web1", 60)),
        ("run web1", LetRunWish("unix:/web1")),
    ],
)
def test_words_about_what_is_under_way(line: str, request_: Request) -> None:
    text, source = plain(named(state_in(Play(scenario=Scenario(unplug_delay=9.0)), Phase.UNPLUG), "web1"))
    assert text.obey(line)
    assert source.asked == [request_]
    assert "already" in text.obey("save web1")


@pytest.mark.parametrize("line", ["save", "save x y", "frobnicate", "wait web1 soon", "'", "save nobody", "\x1b[2J"])
def test_what_makes_no_sense_changes_nothing_and_is_said_to_make_none(line: str) -> None:
    text, source = plain(ended())
    answer = text.obey(line)
    assert answer
    assert "\x1b" not in answer
    assert not source.asked


def test_read_only_asks_for_nothing() -> None:
    text, source = plain(ended(), read_only=True)
    assert "read-only" in text.obey("save web1")
    assert not source.asked


def test_leaving_while_something_is_under_way_says_what_goes_on() -> None:
    text, _source = plain(named(state_in(Play(), Phase.UNPLUG), "web1"))
    assert "goes on to its end" in text.obey("quit")
    assert text.leaving
    assert text.busy
