"""Everything behind a front end that shows a whole host: engine, survey of its processes, snapshot directory.

It runs in a thread with an event loop of its own, so that drawing never comes between QEMU's event and `stop`. What crosses
is what crosses everywhere: `publish` is called, in that thread, with the latest `Fleet`; `request` takes a wish, from any
thread. Neither waits for the other.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from msgspec.structs import replace

from vmtui.backend import discovery, shelf, simulated
from vmtui.backend.core.errors import RefusedError, StoreError
from vmtui.backend.core.fleet import (
    DeleteWish,
    Fleet,
    Host,
    Reading,
    ReadWish,
    Request,
    Shelf,
    SurveyWish,
    VmView,
)
from vmtui.backend.core.model import Link, Vm
from vmtui.backend.core.state import State, Watching
from vmtui.backend.core.text import printable
from vmtui.backend.discovery import FoundVm
from vmtui.backend.engine import Engine
from vmtui.backend.remote import Remote, open_engine
from vmtui.backend.store import StopFlag
from vmtui.backend.stream import StreamInterrupted

SURVEY_EVERY = 30.0
"""Seconds between two looks at the host's processes: what has begun meanwhile is found, or asked for with a key."""


class Service:
    """`start`, then `request` as often as wanted, then `stop`."""

    def __init__(self, directory: Path, named: Sequence[FoundVm] = ()) -> None:
        """`directory` is where snapshots lie. Where VMs are `named`, those and no others are watched."""
        self._publish: Callable[[Fleet], None] = lambda _fleet: None
        self._directory = directory
        self._named = tuple(named)
        self._keys = {str(vm.address) for vm in named}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmtui-engine", daemon=True)
        self._stop = asyncio.Event()
        self._asked = asyncio.Event()
        self._shelf_asked = asyncio.Event()
        self._reads: dict[str, StopFlag] = {}
        """By path: those under way, and how to stop each."""
        self._engine: Engine | Remote | None = None
        self._fleet = Fleet()
        self._watched: set[str] = set()
        self._without_monitor: dict[str, VmView] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self.error: BaseException | None = None
        """What ended it, if it did not end by `stop`."""

    def start(self, publish: Callable[[Fleet], None]) -> None:
        """`publish` is called with each value, in the thread that this starts. Returns once wishes are taken."""
        self._publish = publish
        self._thread.start()
        self._ready.wait()

    def request(self, request: Request) -> None:
        """Take a wish, from any thread; what comes of it is seen in the fleet."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, request)

    def stop(self) -> None:
        """End every connection, and wait until that is done. A save that is under way is left as it is: look first."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def fleet(self) -> Fleet:
        """The latest value."""
        return self._fleet

    def wait(self, seconds: float) -> None:
        """Until something was published, or the time is up."""
        self._told.clear()
        self._told.wait(seconds)

    # --- in its own thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - the outermost edge of this thread: whoever waits for it is told
            self.error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        host = Host(simulated.host_name() or socket.gethostname(), offset=time.time() - time.monotonic())
        async with open_engine(self._vms_changed) as engine:
            self._engine = engine
            self._tell(replace(self._fleet, host=host))
            self._ready.set()
            looking = [asyncio.create_task(self._keep_surveying()), asyncio.create_task(self._keep_looking_at_shelf())]
            await self._stop.wait()
            for task in looking:
                task.cancel()
            for reading in self._reads.values():
                reading.set = True  # nobody waits for a file that is still read through

    def _vms_changed(self, fleet: Fleet) -> None:
        if self._named:  # the engine may be at work for other front ends too
            fleet = replace(fleet, vms={key: view for key, view in fleet.vms.items() if key in self._keys})
        before = self._fleet.vms
        changed = ((before.get(key), view) for key, view in fleet.vms.items() if before.get(key) is not view)
        if any(_file_of(was) != _file_of(view) for was, view in changed):
            self._shelf_asked.set()
        host = self._fleet.host
        if self._engine is not None and self._engine.trouble is not None:
            host = replace(host, trouble=str(self._engine.trouble))
        self._tell(replace(self._fleet, host=host, vms={**self._without_monitor, **fleet.vms}))

    def _tell(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._told.set()
        self._publish(fleet)

    def _take(self, request: Request) -> None:
        match request:
            case SurveyWish():
                self._asked.set()
            case ReadWish(path, stop=True):
                if path in self._reads:
                    self._reads[path].set = True
            case ReadWish(path):
                if path not in self._reads:
                    self._reads[path] = StopFlag()
                    self._begin(self._read(path, self._reads[path]))
            case DeleteWish(path):
                self._begin(self._delete(Path(path)))
            case _ if self._engine is not None:
                self._engine.request(request)

    def _begin(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # --- the host -------------------------------------------------------------------------------------------------

    async def _keep_surveying(self) -> None:
        while True:
            await self._survey()
            self._shelf_asked.set()
            self._asked.clear()
            try:
                async with asyncio.timeout(SURVEY_EVERY):
                    await self._asked.wait()
            except TimeoutError:
                pass

    async def _survey(self) -> None:
        if self._named:
            found, unreadable = self._named, 0
        else:
            survey = await asyncio.to_thread(discovery.survey)
            found, unreadable = survey.vms, survey.unreadable
        assert self._engine is not None
        known = dict(self._engine.views)
        seen = {self._watch(self._engine, vm) for vm in found if vm.address is not None}
        self._without_monitor = {view.state.vm.key: view for vm in found if vm.address is None for view in (_mute(vm),)}
        for key, view in known.items():
            if key not in seen and view.state.vm.link is not Link.UP:
                self._engine.forget(key)
                self._watched.discard(key)
        host = replace(self._fleet.host, surveyed=True, unreadable=unreadable)
        self._fleet = replace(self._fleet, host=host)
        self._vms_changed(Fleet(dict(self._engine.views)))

    def _watch(self, engine: Engine | Remote, vm: FoundVm) -> str:
        assert vm.address is not None
        if str(vm.address) in self._watched:
            return str(vm.address)
        self._watched.add(str(vm.address))
        process = discovery.process(vm.pid) if vm.pid else None
        return engine.watch(vm.address, process, Watching.GLANCE, vm.name)

    # --- the snapshots --------------------------------------------------------------------------------------------

    async def _keep_looking_at_shelf(self) -> None:
        """After each survey, and as soon as a save has made, finished or removed a file."""
        while True:
            await self._shelf_asked.wait()
            self._shelf_asked.clear()
            found = await asyncio.to_thread(shelf.look, self._directory)
            before = self._fleet.shelf
            self._note_shelf(replace(found, readings=_of_what_is_there(before.readings, found), said=before.said))

    async def _read(self, path: str, stop: StopFlag) -> None:
        loop = asyncio.get_running_loop()

        def progress(reading: Reading) -> None:
            loop.call_soon_threadsafe(self._note_reading, reading)

        try:
            self._note_reading(await asyncio.to_thread(shelf.read, Path(path), progress, stop))
        except StreamInterrupted:
            readings = {key: each for key, each in self._fleet.shelf.readings.items() if key != path}
            said = f"stopped reading {printable(path, 300)}"
            self._note_shelf(replace(self._fleet.shelf, readings=readings, said=said))
        finally:
            del self._reads[path]

    def _note_reading(self, reading: Reading) -> None:
        now = self._fleet.shelf
        said = f"{printable(Path(reading.path).name, 300)}: {reading.verdict}" if reading.over else now.said
        self._note_shelf(replace(now, readings={**now.readings, reading.path: reading}, said=said))

    async def _delete(self, path: Path) -> None:
        if (reading := self._reads.get(str(path))) is not None:
            reading.set = True
        try:
            await asyncio.to_thread(shelf.delete, path)
            said = f"deleted {printable(str(path), 300)}"
        except (StoreError, RefusedError) as error:
            said = str(error)
        self._note_shelf(replace(self._fleet.shelf, said=said))
        self._shelf_asked.set()

    def _note_shelf(self, now: Shelf) -> None:
        self._tell(replace(self._fleet, shelf=now))


def _file_of(view: VmView | None) -> tuple[float, bool, bool, bool] | None:
    """What a save has to do with the snapshot directory: when this changes, it is another."""
    work = view.state.work if view is not None else None
    if work is None or not work.reserved:
        return None
    return work.started, work.has_partial, work.published, work.outcome is None


def _of_what_is_there(readings: dict[str, Reading], found: Shelf) -> dict[str, Reading]:
    """A verdict is about the file that was read: it goes with it, and with any change of it."""
    changed = {each.path: each.changed for each in found.snapshots}
    return {path: each for path, each in readings.items() if not each.over or changed.get(path) == each.changed}


def _mute(vm: FoundVm) -> VmView:
    """A VM without a monitor that can be used: it is shown, with the reason."""
    key = f"pid:{vm.pid}"
    facts = Vm(key, name=vm.name, uuid=vm.uuid or "", machine=vm.machine or "", link=Link.LOST, memory=vm.memory or 0,
               why_lost=vm.why_not or "it has no monitor", pid=vm.pid or 0, argv=vm.argv)  # fmt: skip
    return VmView(State(facts), name=vm.name)
