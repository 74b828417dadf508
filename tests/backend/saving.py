"""A save through the engine from one twin or from several, and what is left of it."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.backend.fake_qmp import Do, FakeQemu, Hook, Message
from vmtui.backend.core.fleet import Begin, Fleet, VmView
from vmtui.backend.core.model import Options, Phase
from vmtui.backend.core.result import Result, report
from vmtui.backend.discovery import Peer
from vmtui.backend.engine import Engine, finished

CHANGING = ("migrate-set-capabilities", "migrate-set-parameters", "migrate", "getfd", "add-fd", "stop", "cont", "quit",
            "migrate_cancel", "remove-fd")  # fmt: skip


class Front:
    """A front end: it keeps the latest values."""

    def __init__(self) -> None:
        self.views: dict[str, VmView] = {}
        self._changed = asyncio.Event()

    def take(self, fleet: Fleet) -> None:
        self.views = fleet.vms
        self._changed.set()

    async def until(self, condition: Callable[[dict[str, VmView]], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition(self.views):
                self._changed.clear()
                await self._changed.wait()


Use = Callable[[Engine, Front, str], Any]


def options_for(qemu: FakeQemu, **more: Any) -> Options:
    return Options(output=str(qemu.path.with_suffix(".vmstate")), **more)


def save(
    *qemus: FakeQemu, use: Use | None = None, process: Peer | None = None, repeat: int = 1, **more: Any
) -> list[VmView]:
    """Save from all of these at the same time, `use` being told of each once it is asked for. No task may be left."""

    async def run() -> list[VmView]:
        front = Front()
        async with Engine(front.take) as engine:
            keys = [engine.watch(qemu.address, process) for qemu in qemus]
            for number in range(repeat):
                for key, qemu in zip(keys, qemus, strict=True):
                    options = options_for(qemu, **more)
                    output = options.output + ("" if number == 0 else f".{number}")
                    engine.request(Begin(key, Options(**{**_members(options), "output": output})))
                started = front.views.get(keys[0])
                began = started.state.work.started if started and started.state.work else None
                await front.until(lambda views, began=began: is_new(views.get(keys[0]), began))  # type: ignore[misc]
                if use is not None:
                    await use(engine, front, keys[0])
                await front.until(lambda views: all(finished(views.get(key)) for key in keys))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [front.views[key] for key in keys]

    return asyncio.run(run())


def _members(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


def is_new(view: VmView | None, began: float | None) -> bool:
    return view is not None and view.state.work is not None and view.state.work.started != began


def result_of(view: VmView) -> Result:
    return report(view.state)


def phases(view: VmView) -> list[Phase]:
    assert view.state.work is not None
    return [phase for phase, _at in view.state.work.timeline]


def left(qemu: FakeQemu) -> list[str]:
    """What lies on the disk of a save from this twin."""
    return sorted(each.name for each in qemu.path.parent.glob(f"{qemu.path.stem}.vmstate*"))


def at(command: str, what: Do | bytes, nth: int = 1) -> Hook:
    """This happens to the nth such command, once."""

    def hook(qemu: FakeQemu, message: Message) -> Do | bytes | None:
        return what if message["execute"] == command and len(qemu.commands(command)) == nth else None

    return hook
