"""The pictures of the documentation, made from the program: `make pictures`.

A save on the command line is one of a real lab guest; the screens are moments of `tests.ui.moments`, in dark and in light.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.ui.drawing import picture
from tests.ui.moments import MOMENTS

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
GUEST = "web1"
WIDTH = 142
SHOWN_DIR = "/var/lib/vmtui/snapshots"
SCREENS = {
    "fleet": "fleet",
    "vm-save": "vm-phase-save",
    "stuck": "vm-slow-choices",
    "preflight": "preflight-warns",
    "parameters": "parameters-list",
    "snapshots": "snapshots-list",
    "transcript": "transcript-list",
}
"""A picture's name -> the moment that it shows."""
THEMES = ("dark", "light")
SIZE = (92, 24)


def main() -> int:
    """With an argument: only the screens, for which no QEMU is needed."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    _draw_screens()
    if len(sys.argv) == 1:
        _draw_save()
    return 0


def _draw_screens() -> None:
    for name, moment in SCREENS.items():
        for theme in THEMES:
            svg = picture(MOMENTS[moment], SIZE, theme, svg=True).svg
            (PICTURES / f"{name}-{theme}.svg").write_text(_own_fonts(svg), encoding="utf-8")


def _draw_save() -> None:
    with tempfile.TemporaryDirectory(prefix="vmtui-") as work:
        environment = {
            **os.environ,
            "VMTUI_LAB_DIR": f"{work}/lab",
            "VMTUI_SNAPSHOT_DIR": f"{work}/snapshots",
            "XDG_STATE_HOME": f"{work}/state",
            "VMTUI_ENGINE": "inside",
            "NO_COLOR": "1",
        }
        _run(environment, "lab", "up", "--name", GUEST)
        try:
            story = [_step(environment, work, command, GUEST) for command in ("check", "save")]
        finally:
            _run(environment, "lab", "down")
    _draw("save", "\n".join(story))


def _step(environment: dict[str, str], work: str, *words: str) -> str:
    output = _run(environment, *words).replace(f"{work}/snapshots", SHOWN_DIR)
    return f"\x1b[1;32m$\x1b[0m \x1b[1mvmtui {' '.join(words)}\x1b[0m\n{output}"


def _run(environment: dict[str, str], *words: str) -> str:
    command = (sys.executable, "-m", "vmtui", *words)
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def _draw(name: str, text: str) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in text.splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, crop=False, overflow="ignore")
    svg = console.export_svg(title="vmtui", theme=DIMMED_MONOKAI)
    (PICTURES / f"{name}.svg").write_text(_own_fonts(svg))


def _own_fonts(svg: str) -> str:
    """A picture in a repository fetches nothing: the reader's own monospace font is good enough."""
    without = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return re.sub(r"<!-- .*? -->", "", without).replace("Fira Code", "monospace")


if __name__ == "__main__":
    raise SystemExit(main())
