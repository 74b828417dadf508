"""The transcript: what is read of a VM's traffic, and what is copied from it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.widgets import Static

from tests.ui.frozen import SIZES, Frozen, Hands, make_app, run_app
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Fleet, Host, Record, VmView
from vmtui.backend.core.model import Vm
from vmtui.backend.core.state import State
from vmtui.messages import Copy
from vmtui.screens.transcript import TranscriptScreen
from vmtui.widgets.event_log import EventLog

KEY = "unix:/sim"
HOSTILE = "\x1b[31m [bold]red[/] \u202e evil"


def sent(number: int, execute: str, **arguments: Any) -> Record:
    message: dict[str, Any] = {"execute": execute, "id": f"#{number}"}
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Record(number, number / 10, "qmp", {"dir": "send", "msg": message | ({"arguments": named} if named else {})})


def heard(number: int, **message: Any) -> Record:
    return Record(number, number / 10, "qmp", {"dir": "recv", "msg": message})


SAVE = (
    sent(1, "migrate-set-parameters", max_bandwidth=65536),
    heard(2, **{"return": {}, "id": "#1"}),
    Record(3, 0.3, "phase", {"phase": "unplug", "status": "none"}),
    sent(4, "migrate", uri="fd:vmtui-state"),
    heard(5, event="UNPLUG_PRIMARY", data={"device-id": HOSTILE}),
    heard(6, id="#4", error={"class": "GenericError", "desc": "no"}),
    heard(7, event="STOP"),
)


class Kept(TranscriptScreen):
    """Keeps what is posted to be copied, instead of handing it on to the terminal."""

    def __init__(self) -> None:
        super().__init__(KEY)
        self.copied: list[tuple[str, str]] = []

    def on_copy(self, message: Copy) -> None:
        message.stop()
        self.copied.append((message.text, message.what))


class Looked:
    def __init__(self, hands: Hands, screen: Kept, source: Frozen) -> None:
        self.hands = hands
        self.source = source
        self.screen = screen
        self.log = screen.query_one(EventLog)

    @property
    def rows(self) -> list[str]:
        """The lines that are drawn, without the time."""
        drawn = [self.log.render_line(y).text for y in range(self.log.size.height)]
        return [line[13:].rstrip() for line in drawn if line.strip()]

    def text(self, where: str) -> str:
        return str(self.screen.query_one(f"#{where}", Static).content)

    async def press(self, *keys: str) -> None:
        await self.hands.press(*keys)

    async def become(self, log: tuple[Record, ...]) -> None:
        self.source.change(fleet(log))
        await self.hands.settle()


def fleet(log: tuple[Record, ...]) -> Fleet:
    return Fleet({KEY: VmView(State(Vm(KEY, name="web1")), log)}, Host(offset=0.0))


def look(
    do: Callable[[Looked], Awaitable[None]], log: tuple[Record, ...] = SAVE, *, size: tuple[int, int] = (80, 24)
) -> None:
    source = Frozen(fleet(log))
    screen = Kept()

    async def use(_app: VmtuiApp, hands: Hands) -> None:
        await do(Looked(hands, screen, source))

    run_app(make_app(source, clock=lambda: 0.0), use, screen, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_every_message_is_a_line_that_says_which_way_it_went(size: tuple[int, int]) -> None:
    async def do(seen: Looked) -> None:
        assert seen.rows == [
            "→ migrate-set-parameters max-bandwidth=65536",
            "← return to migrate-set-parameters",
            "─ phase unplug",
            "→ migrate uri=fd:vmtui-state",
            "← UNPLUG_PRIMARY device-id=\\x1b[31m [bold]red[/] \\u202e evil"[: size[0] - 15].rstrip(),
            "← error to migrate class=GenericError desc=no",
            "← STOP",
        ]
        assert all(line.isprintable() for line in seen.rows)

    look(do, size=size)


def test_the_one_under_the_cursor_is_shown_whole_pretty_or_raw() -> None:
    async def do(seen: Looked) -> None:
        await seen.press("home")
        assert json.loads(seen.text("body")) == SAVE[0].data["msg"]
        assert "\n" in seen.text("body")
        await seen.press("p")
        assert seen.text("body") == json.dumps(SAVE[0].data["msg"])
        await seen.press("down", "down", "down", "down")
        assert "\x1b" not in seen.text("body")
        assert "[bold]red[/]" in seen.text("body")

    look(do)


def test_it_follows_the_end_until_somebody_goes_up_and_again_with_a_key() -> None:
    async def do(seen: Looked) -> None:
        await seen.become((*SAVE, heard(8, event="RESUME")))
        assert seen.log.chosen is not None
        assert seen.log.chosen.number == 8
        assert "following" in seen.text("title")
        await seen.press("up")
        await seen.become((*SAVE, heard(8, event="RESUME"), heard(9, event="SHUTDOWN")))
        assert seen.log.chosen.number == 7
        assert "standing still" in seen.text("title")
        await seen.press("f")
        assert seen.log.chosen.number == 9

    look(do)


@pytest.mark.slice
def test_a_filter_keeps_what_matches_also_of_what_comes() -> None:
    async def do(seen: Looked) -> None:
        await seen.press("slash", *"migrate", "enter")
        assert len(seen.rows) == 4
        assert "4 of 7 match 'migrate'" in seen.text("title")
        await seen.become((*SAVE, heard(8, event="RESUME"), sent(9, "migrate_cancel")))
        assert seen.rows[-1] == "→ migrate_cancel"
        assert len(seen.rows) == 5
        await seen.press("escape")
        assert len(seen.rows) == 9
        assert seen.hands.app.screen is seen.screen
        await seen.press("escape")
        assert seen.hands.app.screen is not seen.screen

    look(do)


@pytest.mark.slice
def test_a_search_goes_on_and_back_and_says_when_there_is_nothing() -> None:
    async def do(seen: Looked) -> None:
        found = []
        await seen.press("s", *"migrate", "enter")
        for key in ("n", "n", "N"):
            found.append(seen.log.chosen.number if seen.log.chosen else 0)
            await seen.press(key)
        found.append(seen.log.chosen.number if seen.log.chosen else 0)
        assert found == [1, 2, 4, 2]
        await seen.press("s", *"zzz", "enter")
        assert "nothing has 'zzz' in it" in seen.text("title")

    look(do)


def test_one_key_copies_it_as_json() -> None:
    async def do(seen: Looked) -> None:
        await seen.press("home", "y")
        ((text, what),) = seen.screen.copied
        assert json.loads(text) == SAVE[0].data["msg"]
        assert what == "the message as JSON"
        await seen.press("c", "j")
        assert seen.screen.copied[-1][1] == what

    look(do)


@pytest.mark.slice
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("q", "migrate-set-parameters max-bandwidth=65536"),
        ("h", "migrate_set_parameter max-bandwidth 65536B"),
        (
            "v",
            "virsh qemu-monitor-command web1 --pretty "
            """'{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 65536}}'""",
        ),
    ],
)
def test_a_menu_copies_it_in_the_words_of_another_tool(key: str, text: str) -> None:
    async def do(seen: Looked) -> None:
        await seen.press("home", "c", key)
        assert [copied for copied, _what in seen.screen.copied] == [text]

    look(do)


@pytest.mark.slice
def test_what_cannot_be_said_elsewhere_is_not_offered_and_a_phase_not_copied() -> None:
    async def do(seen: Looked) -> None:
        await seen.press("c", "h")
        assert seen.screen.copied == []
        await seen.press("escape", "home", "down", "down", "y", "c")
        assert seen.screen.copied == []
        assert seen.hands.app.screen is seen.screen

    look(do)


def test_a_flood_costs_a_screenful_and_what_fell_out_is_told() -> None:
    def flood(first: int) -> tuple[Record, ...]:
        return tuple(heard(number, event="FLOOD", data={"n": number}) for number in range(first, first + 1000))

    async def do(seen: Looked) -> None:
        await seen.press("up")
        await seen.become(flood(50_001))
        assert seen.log.chosen is not None
        assert seen.log.chosen.number == 50_001, "its own is gone: the oldest there is"
        await seen.press("end")
        assert seen.rows[-1] == "← FLOOD n=51000"
        assert "50000 earlier ones are gone" in seen.text("title")
        await seen.become(flood(60_001))
        assert seen.rows[-1] == "← FLOOD n=61000"

    look(do)


@pytest.mark.slice
def test_an_empty_log_says_so() -> None:
    async def do(seen: Looked) -> None:
        assert seen.rows == []
        assert seen.text("body") == "nothing was sent or heard yet"
        await seen.press("y", "c", "up", "n", "escape")
        assert seen.screen.copied == []

    look(do, ())


@pytest.mark.slice
def test_a_plain_terminal_gets_plain_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt100")

    async def do(seen: Looked) -> None:
        assert seen.rows[0].startswith("> ")
        assert seen.rows[1].startswith("< ")

    look(do)
