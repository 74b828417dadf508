"""No ending is bad: a fixed slice of what `make explore` walks, random stories too deep for it, and is the walk sound?"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.explore.invariants import Verdict, broken, judged, waits_as_asked
from tests.explore.roots import GUESTS, LONG, Root, roots
from tests.explore.walk import Found, replay, walk
from tests.explore.world import BREAKS, FOR_EVER, Choice, World
from vmtui.backend.core.model import Outcome
from vmtui.backend.core.sim import PROFILES

ONCE = frozenset(Choice) - FOR_EVER
STOCK = [name for name, profile in PROFILES.items() if not profile.native_pause]
HARD = (Choice.REFUSE, Choice.DROP, Choice.CANCEL)
"""The deviations that change most."""


def told(found: Found) -> str:
    return "\n".join(f"{text}: replay(root(), {recipe!r})" for text, recipe in found.failures)


@pytest.mark.slice
@pytest.mark.parametrize(("root", "paths"), [
    (Root("stock-10.0", "save", "good"), 80_000),
    (Root("stock-7.2", "save", "no-failover"), 25_000),
], ids=str)  # fmt: skip
def test_no_two_faults_at_any_points_make_a_bad_ending(root: Root, paths: int) -> None:
    """Whatever goes wrong, and again while recovering from it.

    A run is a path from the root to an end, and no two are the same. One in three is walked, step by step, to an end or
    to a state that is known (of three breaks, below, one in eighteen); what comes after that state was walked before. That
    equal states have equal futures is tested below. All the tests of the slice together are over 800,000 runs.
    """
    found = walk(root, 2, kinds=ONCE - {Choice.LOSE_ALL})
    assert not found.failures, told(found)
    assert found.paths > paths


@pytest.mark.slice
def test_no_three_breaks_make_a_bad_ending() -> None:
    """The connection breaks, vmtui is killed, the user cancels: in any order, at any points."""
    found = walk(Root("stock-11.1", "save", "no-failover"), 3, kinds=BREAKS)
    assert not found.failures, told(found)
    assert found.paths > 300_000


@pytest.mark.slice
@pytest.mark.parametrize("root", [root for root in roots() if root.guest == "good"], ids=str)
def test_no_fault_once_or_for_ever_makes_a_bad_ending(root: Root) -> None:
    found = walk(root, 1)
    assert not found.failures, told(found)
    assert found.complete


@pytest.mark.slice
@pytest.mark.parametrize("guest", [guest for guest in GUESTS if guest not in LONG])
def test_no_break_at_any_point_is_a_bad_ending_for_any_guest(guest: str) -> None:
    found = walk(Root("stock-10.0", "save", guest), 1, kinds=BREAKS)
    assert not found.failures, told(found)


STORIES = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(sorted(Choice))), max_size=8)
"""How many steps after the last deviation the next one comes, and which it is."""


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(root=st.sampled_from(roots()), story=STORIES)
def test_no_chain_of_faults_makes_a_bad_ending(root: Root, story: list[tuple[int, Choice]]) -> None:
    world = play_story(root(), story)
    assert waits_as_asked(world) or not list(broken(world)), world.work.notes


def play_story(world: World, story: list[tuple[int, Choice]]) -> World:
    """Each deviation at the first step, so many after the last one or more, where it is possible."""
    world.start()
    left, since = list(story), 0
    while not world.done and not (waits_as_asked(world) and world.now > PATIENT):
        due = bool(left) and since >= left[0][0] and left[0][1] in world.deviations()
        world.take(left.pop(0)[1] if due else Choice.PASS)
        since = 0 if due else since + 1
    return world


PATIENT = 60.0
"""Seconds after which a workflow that is to wait for its guest for ever is taken to do so."""


def ends_of(found: Found) -> set[Verdict]:
    return set(found.ends)


@pytest.mark.parametrize("profile", PROFILES)
def test_states_with_equal_keys_have_the_same_future(profile: str) -> None:
    """Without recognizing any state the same ends are found, and as many paths."""
    root = Root(profile, "check", "good")
    merged, apart = (walk(root, 2, kinds=HARD, merge=merge) for merge in (True, False))
    assert ends_of(merged) == ends_of(apart)
    assert merged.paths == apart.paths == apart.runs
    assert merged.runs < apart.runs


@pytest.mark.parametrize("profile", ["pause-vm-10.0", *(pytest.param(name, marks=pytest.mark.slice) for name in STOCK)])
def test_the_same_ends_are_found_when_no_state_is_recognized(profile: str) -> None:
    root = Root(profile, "save", "good")
    merged, apart = (walk(root, 1, kinds=ONCE - {Choice.DROP_FOR_GOOD}, merge=merge) for merge in (True, False))
    assert ends_of(merged) == ends_of(apart)
    assert merged.paths == apart.paths == apart.runs


def test_a_recipe_plays_again_what_was_found() -> None:
    root = Root("stock-10.0", "save", "good")
    found = walk(root, 1, kinds=[Choice.REFUSE, Choice.DROP])
    for verdict, recipe in found.examples.items():
        assert judged(replay(root(), recipe)) == verdict, recipe


def test_a_clone_goes_its_own_way() -> None:
    world = World()
    world.start()
    for _ in range(45):
        world.take()
    other = world.clone()
    other.take(Choice.CANCEL)
    while not world.done:
        world.take()
    while not other.done:
        other.take()
    assert (world.work.outcome, other.work.outcome) == (Outcome.SAVED, Outcome.CANCELLED)


def test_waiting_for_ever_is_told_from_going_round_in_circles() -> None:
    found = walk(Root("stock-10.0", "wait", "paused-by-other"), 0)
    assert (found.waiting, found.paths, found.failures) == (1, 1, [])
