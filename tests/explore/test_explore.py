"""No ending is bad: a fixed slice of what `make explore` walks, random plans that are too deep for it, and is the walk itself sound?"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.explore.invariants import broken
from tests.explore.roots import Root, roots
from tests.explore.walk import Deviation, Found, Recipe, replay, walk
from tests.explore.world import FOR_EVER, Choice, World
from vmtui.backend.core.model import Outcome
from vmtui.backend.core.sim import PROFILES

ONCE = frozenset(Choice) - FOR_EVER
GOOD = tuple(Root(profile, wish, "good") for profile in PROFILES for wish in ("save", "background"))
HARD = (Choice.REFUSE, Choice.DROP, Choice.CANCEL)
"""The deviations that change most."""


def told(found: Found) -> str:
    return "\n".join(f"{text}: replay(root(), {recipe!r})" for text, recipe in found.failures)
