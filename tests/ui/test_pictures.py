"""Every screen in every state looks as it did when somebody last looked at it; `make looks` accepts what is new.

A file of tests/ui/pictures holds one moment at each size, and below the usual size what stands out in it, and how.
"""

import difflib
from pathlib import Path

import pytest

from tests.ui.drawing import Picture, picture, pictures
from tests.ui.moments import MOMENTS, Moment

KEPT = Path(__file__).with_name("pictures")
USUAL = (80, 24)
QUICK = ("fleet", "vm-phase-save", "vm-saved", "preflight-warns", "snapshots-list")
"""A few, which `make check` looks at; `make test` looks at all of them."""
BETTER = "if this is better, `make looks` keeps it; `.venv/bin/python -m tests.ui {} > it.svg` draws it"


@pytest.mark.parametrize("name", QUICK)
def test_a_screen_looks_as_it_did(name: str) -> None:
    page = _page(picture(MOMENTS[name], USUAL), USUAL)
    kept = _kept(name).split("\n=== ")[0]
    _same(name, kept.rstrip("\n"), page.rstrip("\n"))


@pytest.mark.slice
@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_looks_as_it_did_at_each_size(name: str) -> None:
    _same(name, _kept(name), drawn(MOMENTS[name]))


def test_every_picture_is_of_a_moment_that_there_is() -> None:
    assert {path.stem for path in KEPT.glob("*.txt")} == set(MOMENTS)


def _same(name: str, kept: str, now: str) -> None:
    changes = difflib.unified_diff(kept.splitlines(), now.splitlines(), "as it was", "as it is", lineterm="", n=2)
    if kept != now:
        pytest.fail("\n".join([f"{name}: {BETTER.format(name)}", *changes]), pytrace=False)


def _kept(name: str) -> str:
    path = KEPT / f"{name}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def drawn(moment: Moment) -> str:
    return "\n".join(map(_page, pictures(moment, moment.sizes), moment.sizes))


def _page(made: Picture, size: tuple[int, int]) -> str:
    marks = f"\n--- stands out\n{made.marks}" if size == USUAL else ""
    return f"=== {size[0]}x{size[1]}\n{made.text}{marks}\n"


def keep() -> list[str]:
    """Keep what is drawn now; the names of those that were different."""
    KEPT.mkdir(exist_ok=True)
    for path in KEPT.glob("*.txt"):
        if path.stem not in MOMENTS:
            path.unlink()
    now = {name: drawn(moment) for name, moment in MOMENTS.items()}
    new = [name for name, text in now.items() if text != _kept(name)]
    for name in new:
        (KEPT / f"{name}.txt").write_text(now[name], encoding="utf-8")
    return new
