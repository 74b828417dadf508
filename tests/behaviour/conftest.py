"""Each behaviour test is run with the four twins, the oldest among the fast tests, and with every real QEMU found."""

import pytest

from tests.behaviour import fixtures, qemus
from tests.behaviour.fixtures import guest, nursery, pen, pens

__all__ = ["guest", "nursery", "pen", "pens"]


def pytest_report_header() -> str:
    names = ", ".join(qemu.id for qemu in qemus.found()) or "none"
    return f"real QEMUs: {names} (tools/fetch-qemu gets others)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    fixtures.run_on((*fixtures.twins(), *fixtures.real()), metafunc)
