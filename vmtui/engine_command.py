"""`vmtui engine`: is it there, what is it doing, what did it say; and the process itself."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress

from vmtui.backend import server
from vmtui.backend.core.errors import Exit, StoreError, VmtuiError
from vmtui.backend.core.fleet import VmView
from vmtui.backend.core.text import printable
from vmtui.backend.remote import Remote, is_inside, is_running
from vmtui.backend.unfinished import unfinished_journals
from vmtui.backend.wire import Welcome

LOG_LINES = 50
POLL = 0.05


def run(*, detach: bool) -> int:
    return server.main(detach=detach)


def status(*, as_json: bool) -> int:
    """0 while it runs, 1 when it does not."""
    pid = server.pid_of_engine()
    if pid is None or not is_running():
        left = unfinished_journals() if pid is None else ()
        if as_json:
            known = {"running": False, "ending": pid is not None, "inside": is_inside()}
            print(json.dumps({**known, "unfinished": [each.path.stem for each in left]}))
        else:
            print("it is just ending" if pid else "not running; it is started when it is needed")
            for each in left:
                print(each.told)
        return Exit.FAILED
    asyncio.run(_status(as_json=as_json))
    return Exit.OK


async def _status(*, as_json: bool) -> None:
    welcome, views = await _greeted()
    busy = [view.state.vm.shown for view in views.values() if view.state.busy]
    others = welcome.front_ends - 1
    if as_json:
        places = {"socket": str(server.socket_path()), "log": str(server.log_path())}
        known = {
            "pid": welcome.pid,
            "ending": welcome.ending,
            "since": welcome.since,
            "front_ends": others,
            "vms": len(views),
            "busy": busy,
        }
        print(json.dumps({"running": True, **known, **places}))
        return
    print(f"running, pid {welcome.pid}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(welcome.since))}")
    if welcome.ending:
        print(f"told to stop, and begins nothing new. {server.waits_for(views.values())}".rstrip())
    print(f"front ends  {others}")
    print(f"VMs         {len(views)}" + (f", at work on {printable(', '.join(busy), 500)}" if busy else ", none worked on"))
    print(f"socket      {printable(str(server.socket_path()))}")


async def _greeted() -> tuple[Welcome, dict[str, VmView]]:
    async with Remote(lambda _fleet: None) as engine:
        assert engine.welcome is not None
        return engine.welcome, dict(engine.views)


def stop(*, cancel: bool) -> int:
    """Ask it to end once nothing is under way, and wait until it has; `cancel` undoes what is under way first."""
    pid = server.pid_of_engine()
    if pid is None:
        print("vmtui's engine does not run")
        return Exit.OK
    others, waits_for = _before_it_ends()
    os.kill(pid, signal.SIGINT if cancel else signal.SIGTERM)
    told = False
    try:
        while server.pid_of_engine() == pid:
            if not told:
                told = True
                print(waits_for or "It ends once nothing is under way", file=sys.stderr)
            time.sleep(POLL)
    except KeyboardInterrupt:
        print("it ends by itself, and begins nothing new; vmtui jobs tells how its work ended", file=sys.stderr)
        return Exit.CANCELLED
    print("vmtui's engine has ended" + ("; a front end that is still open starts another one" if others else ""))
    return Exit.OK


def _before_it_ends() -> tuple[int, str]:
    """How many others look on, and what it does."""
    with suppress(VmtuiError):  # it may be ending just now
        if is_running():
            welcome, views = asyncio.run(_greeted())
            return welcome.front_ends - 1, server.waits_for(views.values())
    return 0, ""


def log() -> int:
    """The last lines of what it said."""
    try:
        lines = server.log_path().read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise StoreError(
            f"cannot read {printable(str(server.log_path()), 300)}: {os.strerror(error.errno or 0)}"
        ) from error
    for line in lines[-LOG_LINES:]:
        print(printable(line, 1000))
    return Exit.OK
