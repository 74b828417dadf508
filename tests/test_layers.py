"""The layers are what docs/architecture.md says, as an import finds them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"textual", "rich", "asyncio", "qemu", "msgspec", "humanize", "shtab", "socket"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    script = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}), file=sys.stderr)"
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stderr.split())


def test_the_command_line_alone_loads_nothing_heavy() -> None:
    assert "vmtui" in loaded_by("import vmtui.cli")
    assert not HEAVY & loaded_by("import vmtui.cli")


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_only_prints_needs_no_event_loop(argument: str) -> None:
    statement = f"from vmtui import cli\ntry: cli.main(['{argument}'])\nexcept SystemExit: pass"
    assert not HEAVY & loaded_by(statement)


def test_saving_without_a_screen_loads_no_screen() -> None:
    loaded = loaded_by("import vmtui.headless, vmtui.replay, vmtui.files, vmtui.listing, vmtui.lab, vmtui.params")
    assert {"asyncio", "qemu", "msgspec"} <= loaded
    assert not {"textual", "rich"} & loaded


def test_the_contracts_of_the_layers_are_kept() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    if not script.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run((script, "--no-cache"), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
