"""The failover pair as a small picture: which card the guest has, which one carries its traffic, and how that is known."""

from textual.content import Content

from vmtui.backend.core import pair, words
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.glance import Said, Tone
from vmtui.backend.core.pair import Pair
from vmtui.widgets.drawn import Drawn
from vmtui.widgets.look import COLOURS, ascii_only, said

SHOWN = 2
"""Pairs that are drawn; of more, it is said how many."""


class FailoverPair(Drawn):
    _view: VmView | None = None
    _offset = 0.0

    def show(self, view: VmView, offset: float) -> None:
        """`offset` makes a time of the engine's clock one since 1970."""
        self._view, self._offset = view, offset
        found = pair.pairs(view.state)
        if not found:
            self.draw(Content.styled(_none(view), COLOURS[Tone.DIM]))
            return
        drawn = [line for each in found[:SHOWN] for line in _picture(each, offset, self.size.width)]
        if len(found) > SHOWN:
            drawn.append(Content.styled(f"and {len(found) - SHOWN} more pairs", COLOURS[Tone.DIM]))
        self.draw(Content("\n").join(drawn))

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view, self._offset)


def _picture(each: Pair, offset: float, width: int) -> list[Content]:
    rows = (
        ("primary", each.primary, each.card, each.carries == pair.PRIMARY),
        ("standby", each.standby, each.ready, each.carries == pair.STANDBY),
    )
    at = f"proof {words.time_of_day(each.proved_at + offset)}: " if each.proved_at is not None else ""
    return [
        *_aligned(rows, width),
        Content.styled(each.traffic, COLOURS[Tone.WARN if each.carries == pair.NOBODY else Tone.DIM]),
        Content.styled(f"{at}{each.proof}", COLOURS[Tone.DIM]),
    ]


def _aligned(rows: tuple[tuple[str, str, Said, bool], ...], width: int) -> list[Content]:
    """What is least needed goes where there is no room: the word guest, the arrows, the end of long names."""
    states = [said(word) for _role, _name, word, _carries in rows]
    room = width - max(state.cell_length for state in states) - 2
    names = max(len(name) for _role, name, _word, _carries in rows)
    guest = "guest " if room >= names + 18 else ""
    picture = 4 if room >= names + 12 else 0
    fit = max(room - 8 - picture - len(guest), 4)
    carrying, other = ("<== ", "--- ") if ascii_only() else ("◀══ ", "╶── ")
    return [
        Content.assemble(
            (guest if index == 0 else " " * len(guest), COLOURS[Tone.DIM]),
            ((carrying if carries else other)[:picture], f"{COLOURS[Tone.GOOD]} bold" if carries else COLOURS[Tone.DIM]),
            f"{role} {_cut(name, fit):<{min(names, fit)}}  ",
            state,
        )
        for index, ((role, name, _word, carries), state) in enumerate(zip(rows, states, strict=True))
    ]


def _cut(name: str, fit: int) -> str:
    end = "~" if ascii_only() else "…"
    return name if len(name) <= fit else f"{name[: fit - 1]}{end}"


def _none(view: VmView) -> str:
    vm = view.state.vm
    return "no failover pair: the guest has nothing to unplug" if vm.runstate else "not looked at yet"
