"""What all screens have in common: they draw a `Shown`, when they are on top, and only what changed."""

from collections.abc import Mapping

from textual.screen import Screen
from textual.widgets import Input

from vmtui.messages import Place, Redraw, Shown


class ShowingScreen(Screen[None]):
    """A screen that the app hands the latest values to. A covered one is handed none: it draws when it is on top again."""

    opened: tuple[Place, str] | None = None
    """As what the app opened it: a place and the VM's key."""

    calls_for = ""
    """The key of a VM, where this screen itself says that its guest needs somebody."""

    def show(self, shown: Shown) -> None:
        """Draw it. Called at most four times a second; must cost nothing where nothing changed."""
        raise NotImplementedError

    @property
    def why_not(self) -> Mapping[str, str]:
        """Of each key that is dimmed, by the name of its action: why, where there is more to say than "not now"."""
        return {}

    def key_for(self, action: str) -> str:
        """As it is called here; empty where none does that now. The user's keymap may say another than ours."""
        shown = (active.binding for active in self.active_bindings.values() if active.binding.action == action)
        return next((self.app.get_key_display(binding) for binding in shown), "")

    @property
    def typing(self) -> bool:
        """Letters are text now, no keys: also those that were on their way when the line to type in was opened."""
        return isinstance(self.focused, Input)

    @property
    def drawable(self) -> bool:
        """Its widgets are there: not yet while it is being put up, no longer while it is being taken down."""
        return self.is_mounted and bool(self.children)

    def ticks(self, shown: Shown) -> bool:
        """Whether times on this screen count up by themselves now."""
        return shown.busy

    def on_screen_resume(self) -> None:
        self.post_message(Redraw())
