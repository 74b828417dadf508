"""The table of VMs: the cursor and its VM, and what is sent to the terminal when something changes."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.ui.frozen import NOW, SIZES, Frozen, Hands, fleet_of, make_app, run_app, text_of
from tests.ui.test_fleet_screen import ended, named
from vmtui.app import VmtuiApp
from vmtui.backend.core.fleet import Fleet
from vmtui.screens.vm import VmScreen
from vmtui.widgets.vm_table import VmTable

ONE = ended()


def fleet(*names: str, **changes: object) -> Fleet:
    return fleet_of(*(named(ONE, name, **changes) for name in names))


def many(count: int) -> Fleet:
    return fleet(*(f"vm{number:02}" for number in range(count)))


def sent_from_now_on(app: VmtuiApp) -> list[str]:
    """Each picture that goes to the terminal, as it is written there; nothing of it is shown here."""
    pictures: list[str] = []

    def display(_screen: object, drawn: Any) -> None:
        pictures.append(drawn.render_segments(app.console))

    setattr(app, "_display", display)  # noqa: B010 - headless, Textual renders nothing
    return pictures


def under_cursor(app: VmtuiApp) -> str:
    return str(app.query_one(VmTable).selected).removeprefix("unix:/")


def run(source: Frozen, use: Any, size: tuple[int, int] = (80, 24)) -> Any:
    return run_app(make_app(source, clock=lambda: NOW), use, size=size)


def test_when_a_vm_changed_its_line_is_sent_up_to_the_last_cell_that_says_something_else() -> None:
    source = Frozen(many(12))

    async def use(app: VmtuiApp, hands: Hands) -> list[str]:
        await hands.press("j")  # what the start left to be drawn
        pictures = sent_from_now_on(app)
        views = {**source.fleet.vms}
        key = "unix:/vm05"
        views[key] = replace(views[key], state=named(ONE, "vm05", runstate="paused"))
        source.change(replace(source.fleet, vms=views))
        await hands.settle()
        return pictures

    (picture,) = run(source, use)
    assert "paused" in picture
    assert "vm04" not in picture
    assert "vm06" not in picture
    assert "plugged" not in picture, "a cell that says the same, right of what changed"


def test_a_key_that_moves_the_cursor_is_answered_in_one_picture() -> None:
    async def use(app: VmtuiApp, hands: Hands) -> list[str]:
        await hands.press("j")
        pictures = sent_from_now_on(app)
        await hands.press("j")
        return pictures

    (picture,) = run(Frozen(many(12)), use)
    assert "unix:/vm02" in picture, "the details of the VM under the cursor came later"
    assert "vm01" in picture
    assert "vm03" not in picture


def test_the_cursor_stays_on_its_vm_when_others_come_and_go() -> None:
    source = Frozen(fleet("b", "c", "d"))

    async def use(app: VmtuiApp, hands: Hands) -> list[str]:
        await hands.press("j")
        seen = [under_cursor(app)]
        for names in (("a", "b", "c", "d"), ("c", "d"), ("d",), ("a", "d")):
            source.change(fleet(*names))
            await hands.settle()
            seen.append(under_cursor(app))
        return seen

    assert run(source, use) == ["c", "c", "c", "d", "d"]


def test_keys_move_the_cursor_also_where_the_vms_came_later_than_the_screen() -> None:
    """At every start there are none for a moment: what is hidden then must not lose the keyboard for good."""
    source = Frozen(fleet())

    async def use(app: VmtuiApp, hands: Hands) -> str:
        await hands.press("j")
        for some in (fleet("a", "b"), fleet(), fleet("a", "b")):
            source.change(some)
            await hands.settle()
        await hands.press("j")
        return under_cursor(app)

    assert run(source, use) == "b"


@pytest.mark.parametrize("size", SIZES)
def test_the_vm_under_the_cursor_is_in_view_wherever_the_cursor_goes(size: tuple[int, int]) -> None:
    async def use(app: VmtuiApp, hands: Hands) -> None:
        page = app.query_one(VmTable).size.height - 1
        assert page < 60
        at = 0
        for key, to in (("G", 99), ("k", 98), ("g", 0), ("pagedown", page), ("pagedown", 2 * page), ("pageup", page),
                        ("end", 99), ("down", 99), ("home", 0), ("up", 0)):  # fmt: skip
            await hands.press(key)
            at = to
            assert under_cursor(app) == f"vm{at:02}"
            table = [line.split()[0] for line in text_of(app).splitlines()[1 : page + 2]]
            assert table[0] == "VM"
            assert f"vm{at:02}" in table
            assert len(table) == len({*table}) == page + 1

    run(Frozen(many(100)), use, size)


def test_a_smaller_window_keeps_the_cursor_in_view() -> None:
    async def use(app: VmtuiApp, hands: Hands) -> str:
        await hands.press(*("j" * 14))
        await hands.resize(60, 20)
        return text_of(app)

    assert "\n vm14 " in run(Frozen(many(30)), use)


def test_a_click_chooses_a_vm_and_another_one_opens_it() -> None:
    async def use(app: VmtuiApp, hands: Hands) -> None:
        await hands.click(5, 1)
        assert under_cursor(app) == "vm00", "the header is no VM"
        await hands.click(5, 4)
        assert under_cursor(app) == "vm02"
        assert not isinstance(app.screen, VmScreen)
        await hands.click(5, 4)
        assert isinstance(app.screen, VmScreen)

    run(Frozen(many(3)), use)


def test_a_name_that_is_too_long_for_its_column_says_so() -> None:
    async def use(app: VmtuiApp, _hands: Hands) -> str:
        return text_of(app)

    assert "\n a-name-of-thi…  ● running" in run(Frozen(fleet("a-name-of-thirty-letters")), use)
