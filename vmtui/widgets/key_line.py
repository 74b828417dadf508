"""What can I press now? The keys of a screen, in its last line; a click on one is a press of it.

One widget that is drawn anew when a key becomes possible or impossible, in place of Textual's `Footer`, which puts up a
widget for each key, and all of them anew each time the focus moves: half of what opening a screen costs.
"""

from textual.binding import ActiveBinding, Binding
from textual.content import Content
from textual.screen import Screen
from textual.style import Style

from vmtui.widgets.drawn import Drawn


class KeyLine(Drawn):
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom; height: 1; color: $footer-foreground; background: $footer-background;
        text-wrap: nowrap; text-overflow: ellipsis;
        link-style: none; link-color: $footer-foreground; link-background: $footer-background;
    }
    """
    ALLOW_SELECT = False

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: Screen[object]) -> None:
        first: dict[str, ActiveBinding] = {}
        for active in screen.active_bindings.values():
            if active.binding.show:
                first.setdefault(active.binding.action, active)
        self.draw(self._fitting(list(first.values())))

    def on_resize(self) -> None:
        self._changed(self.screen)

    def _fitting(self, keys: list[ActiveBinding]) -> Content:
        """Every key; where there is no room for all their words, the screen's last ones lose theirs first.

        How to go back, to leave and to ask for help is told the longest.
        """
        silent = sorted(range(len(keys)), key=lambda index: (self._is_way_out(keys[index]), -index))
        for count in range(len(keys)):
            line = self._line(keys, frozenset(silent[:count]))
            if line.cell_length <= (self.size.width or line.cell_length):
                return line
        return self._line(keys, frozenset(silent))

    def _is_way_out(self, key: ActiveBinding) -> bool:
        return key.node is self.app or key.binding.key == "escape"

    def _line(self, keys: list[ActiveBinding], silent: frozenset[int]) -> Content:
        """All but the `silent` ones with what they do."""
        said = [self._key(each.binding, each.enabled, index not in silent) for index, each in enumerate(keys)]
        return Content(" ").join(said)

    def _key(self, binding: Binding, enabled: bool, told: bool) -> Content:
        key, does = self.app.get_key_display(binding), f" {binding.description}" if told else ""
        if not enabled:
            return Content.assemble((f"{key}{does}", "$text-disabled"))
        text = Content.assemble((key, "$footer-key-foreground bold"), does)
        return text.stylize(Style.from_meta({"@click": f"app.simulate_key('{binding.key}')"}))
