"""A picture of a moment: the whole screen at a given size, as text, as what stands out in it, and as SVG."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from rich.segment import Segment
from rich.style import Style
from textual._compositor import LayoutUpdate

from tests.ui.frozen import Hands, make_app, run_app
from tests.ui.moments import Moment
from vmtui.app import QUIET, VmtuiApp
from vmtui.messages import Open
from vmtui.settings import Settings

ROLES = ("text-success", "text-warning", "text-error", "text-accent", "text-disabled")
"""The colours that mean something; the last one is that of a key that is not possible now."""
ALWAYS: dict[str, str | None] = {"TZ": "UTC", "TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": None}
"""What a picture would otherwise depend on; None is a variable that is not there."""


@dataclass(frozen=True, slots=True)
class Picture:
    text: str
    """The lines, without the spaces at their ends."""
    marks: str
    """What is drawn in a colour that means something, or bold or reversed, line by line."""
    svg: str = ""
    """Only where it was asked for."""


@contextmanager
def same_everywhere() -> Iterator[None]:
    """The time zone and the terminal that pictures are made for."""
    before = {name: os.environ.get(name) for name in ALWAYS}
    _set(ALWAYS)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    time.tzset()


def picture(moment: Moment, size: tuple[int, int], theme: str = "dark", *, svg: bool = False) -> Picture:
    return pictures(moment, (size,), theme, svg=svg)[0]


def pictures(
    moment: Moment, sizes: tuple[tuple[int, int], ...], theme: str = "dark", *, svg: bool = False
) -> list[Picture]:
    """Open the moment's screens at the first size, press its keys, and keep what is to be seen then, at each size."""

    async def draw(app: VmtuiApp, hands: Hands) -> list[Picture]:
        for place, key in moment.places:
            app.post_message(Open(place, key))
            await hands.settle()
        await hands.press(*moment.keys)
        if moment.quiet:
            app._typed = -QUIET
            source.change(source.fleet)
            await hands.settle()
        drawn = []
        for size in sizes:
            await hands.resize(*size)
            drawn.append(Picture(*_read(app), app.export_screenshot(simplify=True) if svg else ""))
        return drawn

    source = moment.source()
    now = max((view.state.now for view in source.fleet.vms.values()), default=0.0)
    with same_everywhere():
        app = make_app(source, read_only=moment.read_only, settings=Settings(theme=theme), clock=lambda: now)
        app._typed = now  # somebody is opening the screens
        return run_app(app, draw, size=sizes[0], lines=True)


def _read(app: VmtuiApp) -> tuple[str, str]:
    update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    assert isinstance(update, LayoutUpdate)
    lines = [[segment for strip in line for segment in strip] for line in update.strips]
    roles = {app.theme_variables[role].lower(): role.removeprefix("text-") for role in ROLES}
    text = "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)
    marks = [f"{row:2} {mark}" for row, line in enumerate(lines, 1) for mark in _marks(line, roles)]
    return text, "\n".join(marks)


def _marks(line: list[Segment], roles: dict[str, str]) -> Iterator[str]:
    for how, segments in groupby(line, lambda segment: _how(segment.style, roles)):
        text = "".join(segment.text for segment in segments).strip()
        if how and text:
            yield f"{how}: {text}"


def _how(style: Style | None, roles: dict[str, str]) -> str:
    if style is None:
        return ""
    colour = style.color.get_truecolor().hex if style.color is not None and not style.color.is_default else ""
    return " ".join(filter(None, (roles.get(colour, ""), "bold" if style.bold else "", "reverse" if style.reverse else "")))
