"""The engine is a part of each vmtui that a test starts, and ends with it; tests/engine has it as a process of its own."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ["VMTUI_ENGINE"] = "inside"

settings.register_profile("patient", deadline=None)  # how long an example takes says how busy the host is
settings.load_profile("patient")

LONGEST = 80
"""Characters or bytes of a value that a test's name has in it."""


@pytest.fixture(scope="session", autouse=True)
def state_of_all_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes journals and locks where this user's own are; most have a directory of their own besides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long value is named by its length: the name goes to each worker, and comes back three times with its reports."""
    return f"{argname}-of-{len(val)}" if isinstance(val, str | bytes) and len(val) > LONGEST else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares guests comes first, one QEMU after the other: what boots, waits and works then takes turns."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, str]:
    group = item.get_closest_marker("xdist_group")
    return group is None, group.args[0] if group else ""
