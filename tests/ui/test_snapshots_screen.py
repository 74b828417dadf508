"""The screen of saved states tells which are whole, what is in them and how they run again; deleting asks."""

import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.kept import MADE_AT, make_manifest, make_snapshot
from tests.ui.frozen import SIZES, Frozen, Hands, fleet_of, settle, shown, state_in, text_of
from vmtui.app import VmtuiApp
from vmtui.backend.core.catalogue import when
from vmtui.backend.core.fleet import DeleteWish, Reading, ReadWish, Shelf, Snapshot, Standing, SurveyWish
from vmtui.backend.core.model import Options, Phase
from vmtui.messages import Open, Place
from vmtui.screens.snapshots import Confirm, SnapshotsScreen, StateTable

WEB1 = make_snapshot()
WEB2 = make_snapshot(
    "web2-20260228T021745", size=3 << 30, changed=MADE_AT - 86400,
    manifest=make_manifest(name="web2", host=replace(make_manifest().host, created="2026-02-28T02:17:45+00:00")),
)  # fmt: skip
CUT = make_snapshot(
    "mail-20260201T021745", standing=Standing.CUT_OFF, trouble="not whole: 77 bytes are missing",
    manifest=make_manifest(name="mail"),
)  # fmt: skip
PARTIAL = Snapshot("/snap/old-1.vmstate.partial", 12 << 20, 1.0, Standing.PARTIAL, "partial: never finished")
WRITING = Snapshot("/snap/vm.vmstate.partial", 300 << 20, MADE_AT + 60, Standing.WRITING, "a save is writing it now")


def source(*snapshots: Snapshot, **shelf: object) -> Frozen:
    return Frozen(replace(fleet_of(), shelf=Shelf("/snap", 1.0, snapshots, **shelf)))  # type: ignore[arg-type]


async def opened(app: VmtuiApp) -> None:
    app.post_message(Open(Place.SNAPSHOTS))
    await settle(app)


def seen(frozen: Frozen, *keys: str, size: tuple[int, int] = (80, 24), read_only: bool = False) -> str:
    """What is on the screen once these keys were pressed on it."""

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        for key in keys:
            await hands.press(key)

    return shown(frozen, use, size, read_only=read_only)


def row(picture: str, name: str) -> str:
    (found,) = [line for line in picture.splitlines() if line.startswith(f" {name} ")]
    return found


def test_every_state_is_listed_with_whose_when_how_large_and_whole_or_not() -> None:
    picture = seen(source(WEB1, WEB2, CUT, PARTIAL))
    for word in ("whole", when(MADE_AT), "1.0 GiB", "1.62 s"):
        assert word in row(picture, "web1")
    assert "partial" in row(picture, "old-1")
    assert "/snap: 4 saved states, 5.0 GiB" in picture
    assert "2 not whole" in picture


def test_keys_move_the_cursor_also_where_the_first_state_came_later_than_the_screen() -> None:
    frozen = source()

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        frozen.change(source(WEB1, WEB2).fleet)
        await hands.settle()
        await hands.press("j")

    assert "web2-20260228" in shown(frozen, use), "the details of the second one"


@pytest.mark.slice
def test_a_wide_screen_also_says_how_and_with_which_qemu() -> None:
    line = row(seen(source(WEB1), size=(160, 50)), "web1")
    assert all(word in line for word in ("pause-after-unplug", "10.0.2", "pc-q35-10.0"))


@pytest.mark.parametrize("size", SIZES)
def test_who_whole_and_when_is_on_every_screen(size: tuple[int, int]) -> None:
    line = row(seen(source(WEB1), size=size), "web1")
    assert "whole" in line
    assert when(MADE_AT) in line


def test_the_selected_state_is_told_in_full() -> None:
    picture = seen(source(WEB1, WEB2), size=(160, 50))
    for words in (
        "vmtui restore /snap/web1-20260301T021745.vmstate", "primary0 (vfio-pci), standby standby0",
        "41 devices, 9 RAM blocks, run state paused", "card plugged, VM running, settings as they were",
        "unplug 0.25 s · pause 2.0 ms · save 1.62 s", "stood still for 1.62 s; it let go of its card within 0.25 s",
    ):  # fmt: skip
        assert words in picture


@pytest.mark.slice
def test_the_details_follow_the_cursor() -> None:
    assert "restore  vmtui restore /snap/web2-20260228T021745.vmstate" in seen(source(WEB1, WEB2), "down")


def test_what_is_not_whole_says_why_and_what_to_do() -> None:
    picture = seen(source(CUT))
    assert "not whole: 77 bytes are missing" in picture
    assert "copy it again from where it came, or delete it" in " ".join(picture.split())
    assert "vmtui restore" not in picture


@pytest.mark.slice
def test_a_file_that_a_save_is_writing_goes_by_its_vm_and_cannot_be_deleted() -> None:
    frozen = source(WRITING)
    busy = state_in(Play(options=Options(output="/snap/vm.vmstate")), Phase.SAVE)
    vm = replace(busy.vm, name="db1", migration=replace(busy.vm.migration, transferred=500 << 20))
    frozen.fleet = replace(frozen.fleet, vms=fleet_of(replace(busy, vm=vm)).vms)
    picture = seen(frozen, "d", "enter")
    assert "being written" in row(picture, "db1")
    assert "500.0 MiB" in row(picture, "db1")
    assert "until then it cannot be deleted" in " ".join(picture.split())
    assert not [each for each in frozen.asked if isinstance(each, DeleteWish)]


@pytest.mark.slice
@pytest.mark.parametrize(
    ("shelf", "words"),
    [
        (Shelf("/snap", 1.0), "No saved state is in /snap yet. A save makes one"),
        (
            Shelf("/snap", 1.0, trouble="Permission denied"),
            "/snap cannot be read: Permission denied. Run vmtui as the user",
        ),
        (Shelf("/snap"), "Looking into the snapshot directory"),
    ],
)
def test_an_empty_screen_says_why_and_what_to_do(shelf: Shelf, words: str) -> None:
    assert words in " ".join(seen(Frozen(replace(fleet_of(), shelf=shelf))).split())


# --- keys -------------------------------------------------------------------------------------------------------------


def test_v_reads_the_file_through_and_shows_how_far_it_is() -> None:
    frozen = source(WEB1)
    seen(frozen, "v")
    assert frozen.asked == [ReadWish(WEB1.path)]
    picture = seen(source(WEB1, readings={WEB1.path: Reading(WEB1.path, 0.42)}))
    assert "reading 42%" in row(picture, "web1")
    assert "Stop verifying" in picture


@pytest.mark.slice
def test_v_again_stops_it() -> None:
    frozen = source(WEB1, readings={WEB1.path: Reading(WEB1.path, 0.42)})
    seen(frozen, "v")
    assert frozen.asked == [ReadWish(WEB1.path, stop=True)]


@pytest.mark.slice
def test_what_was_read_through_is_verified_and_tells_what_is_in_it() -> None:
    reading = Reading(
        WEB1.path, 1.0, True, "read through and whole", True, MADE_AT, ram_blocks=(("pc.ram", 4 << 30),),
        devices=(("timer", 77), ("0000:00:1f.2/ahci", 2048)),
    )  # fmt: skip
    picture = seen(source(WEB1, readings={WEB1.path: reading}), size=(160, 50))
    assert "verified" in row(picture, "web1")
    assert f"read through and whole ({when(MADE_AT)})" in picture
    assert "pc.ram 4.0 GiB" in picture
    assert "0000:00:1f.2/ahci 2.0 KiB" in picture


@pytest.mark.slice
def test_what_was_read_and_is_broken_is_not_called_whole() -> None:
    reading = Reading(WEB1.path, 1.0, True, "not whole: at byte 77: the file ends in a page")
    picture = seen(source(WEB1, readings={WEB1.path: reading}))
    assert "NOT WHOLE" in row(picture, "web1")
    assert "at byte 77: the file ends in a page" in picture


def copied(frozen: Frozen, key: str) -> str:
    text: list[str] = []

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        await hands.press(key)
        text.append(app.clipboard)

    shown(frozen, use)
    return text[0]


@pytest.mark.slice
def test_y_copies_the_path_and_R_the_command_that_restores_it() -> None:
    spaced = make_snapshot("my web's state")
    assert copied(source(spaced), "y") == "/snap/my web's state.vmstate"
    assert copied(source(spaced), "R") == "vmtui restore '/snap/my web'\"'\"'s state.vmstate'"


def test_a_state_that_cannot_be_restored_gives_no_command() -> None:
    assert copied(source(CUT), "R") == ""


def test_deleting_asks_and_keeping_is_the_default() -> None:
    frozen = source(WEB1)

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        for answer in ("enter", "escape"):
            await hands.press("d")
            picture = " ".join(text_of(app).replace("│", " ").split())
            assert "Delete /snap/web1-20260301T021745.vmstate and its manifest?" in picture
            await hands.press(answer)
            assert isinstance(app.screen, SnapshotsScreen)

    shown(frozen, use)
    assert frozen.asked == []


def test_deleting_deletes_what_was_asked_about() -> None:
    frozen = source(WEB1, WEB2)

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        await hands.press("d")
        assert isinstance(app.screen, Confirm)
        frozen.change(replace(frozen.fleet, shelf=Shelf("/snap", 2.0, (WEB2,))))
        await hands.press("tab", "enter")

    shown(frozen, use)
    assert frozen.asked == [DeleteWish(WEB1.path)]


def test_nothing_is_deleted_where_nothing_may_be_changed() -> None:
    frozen = source(WEB1)
    seen(frozen, "d", "tab", "enter", read_only=True)
    assert frozen.asked == []


@pytest.mark.slice
def test_the_filter_takes_words_from_anywhere_and_escape_shows_all() -> None:
    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        await hands.press("slash", *"web2", "enter")
        picture = text_of(app)
        assert row(picture, "web2")
        assert "1 of 3 saved states" in picture
        assert "web1" not in picture
        await hands.press("escape")
        assert "/snap: 3 saved states" in text_of(app)
        await hands.press("slash", *"zzz")

    assert "No saved state has 'zzz' in it" in shown(source(WEB1, WEB2, CUT), use)


@pytest.mark.slice
def test_sorting_keeps_the_cursor_on_its_state() -> None:
    picture = seen(source(WEB1, WEB2), "o", "o")  # by size: web2 first
    names = [line.split()[0] for line in picture.splitlines()[3:5]]
    assert names == ["web2", "web1"]
    assert "restore  vmtui restore /snap/web1" in picture


@pytest.mark.slice
def test_a_new_state_does_not_move_the_cursor_from_the_one_that_is_read_about() -> None:
    frozen = source(WEB2)

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        frozen.change(replace(frozen.fleet, shelf=Shelf("/snap", 2.0, (WEB1, WEB2))))
        await hands.settle()
        assert isinstance(app.screen, SnapshotsScreen)
        assert app.screen.selected == WEB2

    assert row(shown(frozen, use), "web1")


@pytest.mark.slice
def test_r_looks_again_and_escape_goes_back() -> None:
    frozen = source(WEB1)
    assert "Snapshots" not in seen(frozen, "r", "escape").splitlines()[0]
    assert frozen.asked == [SurveyWish()]


def test_hostile_names_are_text() -> None:
    hostile = "\x1b[31m[bold]x[/bold]\u202e"
    bad = Snapshot(f"/snap/{hostile}.vmstate", 1, 1.0, Standing.WHOLE, manifest=make_manifest(name=hostile, qemu=hostile))
    picture = seen(source(bad), size=(160, 50))
    assert "\x1b" not in picture
    assert "\u202e" not in picture
    assert "[bold]x[/bold]" in picture


def test_nothing_is_drawn_again_when_nothing_changed() -> None:
    frozen = source(WEB1, WEB2)
    drawn: list[int] = []

    async def use(app: VmtuiApp, hands: Hands) -> None:
        await opened(app)
        table = app.screen.query_one(StateTable)
        drawn.append(table._update_count)
        frozen.change(replace(frozen.fleet, shelf=replace(frozen.fleet.shelf, looked_at=99.0)))
        await hands.settle()
        drawn.append(table._update_count)

    shown(frozen, use)
    assert drawn[0] == drawn[1]
