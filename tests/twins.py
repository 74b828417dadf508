"""Simulated QEMUs, served by a thread of this process, so that a test may wait for what it likes."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from vmtui.backend.sim_server import Qemu, Settings, Spec
from vmtui.backend.simulated import Record

T = TypeVar("T")
Q = TypeVar("Q", bound=Qemu)


class Twins:
    """`with Twins() as twins: qemu, record = twins.serve(spec, settings)`. At the end nothing is left of any."""

    def __enter__(self) -> Self:
        self._lifeline, self._held = os.pipe()
        self._qemus: list[Qemu] = []
        self._failures: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            for qemu in list(self._qemus):
                self.close(qemu)
            self._do(self._loop.shutdown_default_executor())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            os.close(self._lifeline)
            os.close(self._held)
        if self._failures:
            raise self._failures[0]

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Shown by the thread that waits."""
        self._failures.append(context.get("exception") or RuntimeError(context["message"]))

    def serve(self, spec: Spec, settings: Settings) -> tuple[Qemu, Record]:
        """A VM that can be connected to. Raises StoreError, UsageError."""
        return self.serve_as(lambda: Qemu(spec, settings))

    def serve_as(self, make: Callable[[], Q]) -> tuple[Q, Record]:
        """As `serve`; it is made where it will run."""

        async def start() -> tuple[Q, Record]:
            qemu = make()
            self._qemus.append(qemu)
            return qemu, qemu.start(self._lifeline)

        return self._do(start())

    def close(self, qemu: Qemu) -> None:
        """End it, and leave nothing of it."""
        self._qemus.remove(qemu)
        self._do(qemu.close())

    def call(self, look: Callable[[], T]) -> T:
        """What this returns, while no VM moves."""

        async def looked() -> T:
            return look()

        return self._do(looked())

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)
