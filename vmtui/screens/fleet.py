"""The first screen: every VM of the host, in a table."""

from vmtui.messages import Shown
from vmtui.screens.base import ShowingScreen


class FleetScreen(ShowingScreen):
    def show(self, shown: Shown) -> None:
        pass
