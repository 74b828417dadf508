"""The line at the top: where am I, what is going on, and may anything be changed here?"""

from textual.content import Content
from textual.widgets import Static

from vmtui.backend.core.glance import Glance, Tone
from vmtui.backend.core.text import printable
from vmtui.messages import Shown
from vmtui.widgets.look import toned


class TopLine(Static):
    """Host in the user's colour, the screen's title, counts."""

    DEFAULT_CSS = """
    TopLine { height: 1; background: $panel; color: $text; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, title: str) -> None:
        super().__init__(id="title", markup=False)
        self._title = title
        self._drawn = Content("")

    def draw(self, shown: Shown, right: Content, title: str | None = None) -> None:
        """`right` is what the screen has to say; the rest is the same everywhere."""
        host = Content.styled(f" {printable(shown.fleet.host.name, 40)} ", f"bold reverse {shown.host_colour}".strip())
        parts = [host, Content(f" {title or self._title} ")]
        parts += [toned("read-only ", Tone.WARN)] if shown.read_only else []
        line = Content.assemble(*parts, " ", right)
        if line != self._drawn or line.spans != self._drawn.spans:
            self._drawn = line
            self.update(line)


def counts(glances: tuple[Glance, ...]) -> Content:
    """How many VMs there are, and of those that are not simply there."""
    busy = sum(each.doing.tone is Tone.BUSY for each in glances)
    bad = sum(Tone.BAD in (each.state.tone, each.doing.tone, each.card.tone) for each in glances)
    silent = sum(each.stale for each in glances)
    parts = [Content(f"{len(glances)} VM{'' if len(glances) == 1 else 's'}")]
    parts += [toned(f"{busy} busy", Tone.BUSY)] if busy else []
    parts += [toned(f"{bad} need{'s' if bad == 1 else ''} attention", Tone.BAD)] if bad else []
    parts += [toned(f"{silent} without answer", Tone.WARN)] if silent else []
    return Content("  ").join(parts)
