"""The QEMUs that a behaviour test is run with, and the guests that it gets from them.

def test_something(guest: AnyGuest) -> None:              a guest that other tests use too, and find as it was
def test_something_else(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)                        one for this test alone
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest

from tests.behaviour import qemus
from tests.behaviour.guests import Guest, Pen
from tests.behaviour.nursery import Nursery
from tests.behaviour.on_qemu import LabPen
from tests.behaviour.on_twin import TwinPen
from vmtui.backend.core.sim import PROFILES

NO_QEMU = "no QEMU that runs: install one, or name it in VMTUI_QEMUS"
FAST = "stock-7.2"
"""The twin of `make check`; `make test` has all of them."""
LONG = ("test_trouble", "test_dump")
"""Modules that only `make test` runs, with every twin."""
SLICE = (pytest.mark.slice,)
AnyGuest = Guest
AnyPen = Pen[Any, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """A QEMU, real or not."""

    id: str
    open: Callable[[Nursery], AnyPen]
    marks: tuple[pytest.MarkDecorator, ...] = ()
    is_real: bool = False


@cache  # pytest tells a parameter by its identity: another one would be another pen
def twins() -> tuple[Side, ...]:
    return tuple(
        Side(f"twin-{name}", partial(_twin_pen, name, stands_for_others=name == FAST), () if name == FAST else SLICE)
        for name in PROFILES
    )


def _twin_pen(profile: str, nursery: Nursery, *, stands_for_others: bool) -> AnyPen:
    return TwinPen(PROFILES[profile], nursery, stands_for_others=stands_for_others)


@cache
def real() -> tuple[Side, ...]:
    """Every one found; where there is none, one that is skipped aloud."""
    found = tuple(
        Side(qemu.id, lambda _nursery, qemu=qemu: LabPen(qemu), (pytest.mark.real,), True)  # type: ignore[misc]
        for qemu in qemus.found()
    )
    return found or (Side("no-qemu", lambda _nursery: pytest.skip(NO_QEMU), (pytest.mark.real,), True),)


def newest() -> Side:
    """The real one that is asked what is not QEMU's: how a screen behaves, what a lab does with its guests."""
    return real()[-1]


def run_on(sides: Sequence[Side], metafunc: pytest.Metafunc) -> None:
    """Let a test that wants guests run with each of these. What shares real guests is one group, for `--dist loadgroup`."""
    if "pens" not in metafunc.fixturenames:
        return
    module = metafunc.module.__name__
    metafunc.parametrize("pens", [_parameter(side, module) for side in sides], indirect=True, scope="module")


def _parameter(side: Side, module: str) -> Any:
    group = (pytest.mark.xdist_group(f"{side.id}-{module}"),) if side.is_real else ()
    marks = side.marks or (SLICE if module.rpartition(".")[2] in LONG else ())
    return pytest.param(side, id=side.id, marks=(*marks, *group))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def pens(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[AnyPen]:
    side: Side = request.param
    if side.is_real and getattr(request.config.option, "loadgroup", False):
        assert any("@" in item.nodeid for item in request.session.items), (
            "pytest-xdist ignores its groups: guests boot anew"
        )
    with side.open(nursery) as pen:
        yield pen


@pytest.fixture
def pen(pens: AnyPen) -> Iterator[AnyPen]:
    yield pens
    pens.after_test()


@pytest.fixture
def guest(pen: AnyPen) -> AnyGuest:
    found: AnyGuest = pen.guest()
    return found
