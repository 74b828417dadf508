"""A text that costs nothing while it stays the same, and only the cells that differ when it changes."""

from itertools import takewhile

from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget


class Drawn(Widget):
    """`draw` it as often as you like. Over a slow line only what is different from the last time is sent."""

    DEFAULT_CSS = """
    Drawn { height: auto; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._content = Content("")

    @property
    def content(self) -> Content:
        """What was drawn last."""
        return self._content

    def draw(self, content: Content) -> None:
        before, self._content = self._content, content
        if before.is_same(content):
            return
        width = self.size.width
        was, now = before.wrap(width) if width else [], content.wrap(width) if width else []
        if not width or len(was) != len(now):
            self.refresh(layout=True)
            return
        changed = [_changed(y, old, new) for y, (old, new) in enumerate(zip(was, now, strict=True)) if not old.is_same(new)]
        self.refresh(*changed)

    def render(self) -> Content:
        return self._content


def _changed(y: int, old: Content, new: Content) -> Region:
    """The cells of this line that are not as they were."""
    if old.without_spans.is_same(new.without_spans) or old.spans != new.spans:
        return Region(0, y, max(old.cell_length, new.cell_length), 1)
    start = cell_len(
        "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(old.plain, new.plain, strict=False)))
    )
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old.plain[::-1], new.plain[::-1], strict=False)))
    grown = len(old.plain) != len(new.plain)
    end = max(old.cell_length, new.cell_length) if grown else cell_len(new.plain[: len(new.plain) - same])
    return Region(start, y, max(end - start, 1), 1)
