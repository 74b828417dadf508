"""For tests with a real QEMU alone: each runs once for every QEMU found, in a lab of its own, and leaves nothing behind.

What the lab does whatever the QEMU (`on_one_qemu`) runs once.

def test_something(make_guest: MakeGuest) -> None:
    vm = make_guest(stubborn=True)
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.behaviour import fixtures, qemus
from tests.behaviour.fixtures import guest, nursery, pen, pens
from tests.behaviour.qemus import Qemu
from vmtui.backend import lab
from vmtui.backend.lab import LabSpec, LabVm

__all__ = ["guest", "nursery", "pen", "pens"]

NONE_FOUND = pytest.param(None, id="no-qemu", marks=pytest.mark.skip(reason=fixtures.NO_QEMU))
QEMUS = [pytest.param(qemu, id=qemu.id) for qemu in qemus.found()] or [NONE_FOUND]
on_one_qemu = pytest.mark.parametrize("qemu", QEMUS[-1:], indirect=True)
"""For what the lab does by itself, whatever the QEMU."""


class MakeGuest(Protocol):
    """Starts a guest with the QEMU of this run; fields of LabSpec, and a name if one is wished for."""

    def __call__(self, *, name: str | None = None, **spec: Any) -> LabVm: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("real")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    fixtures.run_on(fixtures.real(), metafunc)


@pytest.fixture(params=QEMUS)
def qemu(request: pytest.FixtureRequest) -> Qemu:
    chosen: Qemu = request.param
    return chosen


@pytest.fixture
def lab_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A lab of the test's own, with a path short enough for sockets. Ends what is left in it."""
    directory = Path(tempfile.mkdtemp(prefix="vl-", dir="/tmp"))
    monkeypatch.setenv("VMTUI_LAB_DIR", str(directory))
    try:
        yield directory
    finally:
        lab.down()
        shutil.rmtree(directory)


@pytest.fixture
def make_guest(qemu: Qemu, lab_directory: Path) -> MakeGuest:
    def make(*, name: str | None = None, **spec: Any) -> LabVm:
        (vm,) = lab.up(LabSpec(**{"qemu": str(qemu.path)} | spec), name=name)
        return vm

    return make
