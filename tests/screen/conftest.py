"""Each test is run with two of the twins (`-m slice`), and with one real QEMU (`-m real`).

What QEMU does in a save that goes well, is cancelled in a phase or is not answered, tests/behaviour asks every one.
"""

from dataclasses import replace
from functools import cache

import pytest

from tests.behaviour import fixtures
from tests.behaviour.fixtures import Side, guest, nursery, pen, pens

__all__ = ["guest", "nursery", "pen", "pens"]


@cache  # pytest tells a parameter by its identity
def sides() -> tuple[Side, ...]:
    """Those twins that differ on the screen: one has pause-vm, one has not."""
    wanted = ("twin-stock-10.0", "twin-pause-vm-10.0")
    twins = (replace(side, marks=(pytest.mark.slice,)) for side in fixtures.twins() if side.id in wanted)
    return (*twins, fixtures.newest())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    fixtures.run_on(sides(), metafunc)
