"""The engine publishes from a thread of its own: what it said last is what is shown."""

import asyncio
import os
import pty
import threading

import pytest

from tests.ui.frozen import Frozen, settle
from vmtui.app import UPDATES, VmtuiApp
from vmtui.backend.core.fleet import Fleet, VmView
from vmtui.backend.core.model import Vm
from vmtui.backend.core.state import State
from vmtui.messages import Shown
from vmtui.screens.base import ShowingScreen
from vmtui.ui import Lasting


class Counting(ShowingScreen):
    """Keeps what it is to draw, and says when it is the last."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.shown: list[int] = []
        self._last = last
        self.done = asyncio.Event()

    def show(self, shown: Shown) -> None:
        self.shown.append(len(shown.fleet.vms))
        if self.shown[-1] == self._last:
            self.done.set()


def fleet(count: int) -> Fleet:
    return Fleet({str(number): VmView(State(Vm(str(number)))) for number in range(count)})


def test_the_last_of_many_values_from_another_thread_is_drawn_and_few_of_the_others() -> None:
    last = 20 * UPDATES

    async def run() -> None:
        source = Frozen(fleet(0))
        app = VmtuiApp(source)
        screen = Counting(last)
        async with app.run_test():
            await app.push_screen(screen)
            await settle(app)
            told = threading.Event()

            def engine() -> None:
                for count in range(1, last + 1):
                    told.wait(0.005)
                    source.change(fleet(count))

            thread = threading.Thread(target=engine)
            thread.start()
            await asyncio.wait_for(screen.done.wait(), 20)
            thread.join()
        assert len(screen.shown) < last / 2

    asyncio.run(run())


def test_what_is_drawn_on_a_terminal_that_has_gone_ends_no_thread() -> None:
    """Textual's writing thread would be ended by an error, and who closes the screen would wait for it for good."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        os.close(master)
        lasting = Lasting(terminal)
        for _ in range(3):
            lasting.write("text\n")
            lasting.flush()
        with pytest.raises(OSError, match="Input/output error"):
            terminal.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), slave)  # for what is left in its buffer
