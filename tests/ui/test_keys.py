"""The keys of all screens: named, so that a user can set them; told, and pressed with a mouse too."""

import importlib
import pkgutil
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.binding import Binding, BindingsMap
from textual.color import Color
from textual.dom import DOMNode
from textual.screen import Screen
from textual.theme import Theme

import vmtui.screens
import vmtui.widgets
from tests.ui.frozen import Frozen, Hands, shown, text_of
from vmtui.app import VmtuiApp
from vmtui.screens.base import ShowingScreen
from vmtui.themes import ALL

DOCS = Path(__file__).parents[2] / "docs" / "tui.md"


def parts() -> Iterator[type[DOMNode]]:
    """The app, and every screen and widget of vmtui's own."""
    yield VmtuiApp
    for package in (vmtui.screens, vmtui.widgets):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and issubclass(found, DOMNode) and found.__module__ == module.name:
                    yield found


def bindings(part: type[DOMNode]) -> list[Binding]:
    """What it binds itself: what it inherits is another part's."""
    own = part.__dict__.get("BINDINGS", [])
    return [binding for bound in BindingsMap(own).key_to_bindings.values() for binding in bound]


SCREENS = [part for part in parts() if issubclass(part, Screen) and part is not ShowingScreen]


@pytest.mark.parametrize("part", [part for part in parts() if bindings(part)])
def test_every_key_has_a_name_to_set_it_by_and_says_what_it_does(part: type[DOMNode]) -> None:
    assert [each for each in bindings(part) if not (each.id and each.description)] == []


def test_a_name_means_one_thing() -> None:
    meant: defaultdict[str, set[str]] = defaultdict(set)
    for part in parts():
        for binding in bindings(part):
            meant[binding.id or ""].add(binding.action)
    assert {name: actions for name, actions in meant.items() if len(actions) != 1} == {}


def test_the_names_that_the_manual_gives_as_examples_exist() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names = {binding.id for part in parts() for binding in bindings(part)}
    assert set(tomllib.loads(example)["keys"]) - names == set()


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_says_what_it_is_for(screen: type[Screen[object]]) -> None:
    assert screen.TITLE
    assert screen.HELP
    assert "\n" not in screen.HELP, "it is wrapped where it is shown"


def test_a_click_on_a_key_presses_it() -> None:
    async def click(app: VmtuiApp, hands: Hands) -> None:
        (x,) = [match.start() for match in re.finditer("Help", shown_line(app))]
        await hands.click(x, app.size.height - 1)

    def shown_line(app: VmtuiApp) -> str:
        return text_of(app).splitlines()[-1]

    assert "VMs: keys" in shown(Frozen(), click)


def test_where_there_is_no_room_every_key_stays_and_the_ways_to_ask_and_to_leave_keep_their_words() -> None:
    picture = shown(Frozen(), size=(30, 10))
    assert picture.splitlines()[-1].split() == ["S", "Snapshots", "/", "?", "Help", "q", "Quit"]


@pytest.mark.parametrize("theme", ALL, ids=lambda theme: theme.name)
def test_a_key_that_is_not_possible_now_is_paler_than_the_others(theme: Theme) -> None:
    pale, plain = Color.parse(theme.variables["text-disabled"]), Color.parse(theme.foreground or "")
    ground = Color.parse(theme.panel or "")
    assert abs(pale.brightness - ground.brightness) < abs(plain.brightness - ground.brightness)
