"""A hundred thousand wrong messages and streams: nothing raises but what is documented, hangs, or grows for ever.

The seeds are the same in every run; `make fuzz` goes on with others.
"""

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import ORDINARY, TARGETS, Target

pytestmark = pytest.mark.slice


def test_an_ordinary_run_makes_a_hundred_thousand() -> None:
    assert ORDINARY >= 100_000


@pytest.mark.parametrize("target", [each for each in TARGETS if each.batches], ids=lambda target: target.name)
def test_what_is_wrong_is_refused_or_understood_and_nothing_else(target: Target, tmp_path: Path) -> None:
    @settings(
        max_examples=target.batches, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(seed=st.integers(0, (1 << 32) - 1))
    def batch(seed: int) -> None:
        assert target.batch(Random(seed), target.size) >= target.size

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path))
        batch()
