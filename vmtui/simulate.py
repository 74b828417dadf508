"""`vmtui sim`: simulated VMs for anybody who wants to test against a QEMU that misbehaves on command."""

import argparse
import asyncio
import json
import random
import re
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from vmtui.backend.config import private_directory
from vmtui.backend.core.commands import Command
from vmtui.backend.core.errors import Exit, UsageError
from vmtui.backend.core.events import AnyEvent
from vmtui.backend.core.sim import PROFILES, STOCK_10_0, Profile
from vmtui.backend.core.sim.played import Story, story
from vmtui.backend.core.sim.scenarios import UnknownScenario, World, listed, size, world
from vmtui.backend.core.text import printable
from vmtui.backend.journal import ActionLine, EventLine, read_journal
from vmtui.backend.sim_server import Settings, Spec, serve
from vmtui.backend.simulated import Record

MOST = 4096


def show(given: argparse.Namespace) -> int:
    """Serve until a signal comes or every simulated QEMU has ended; `--list` only lists."""
    if given.list:
        print("\n".join(["scenario, exit code of `vmtui save`, what happens", *listed()]))
        return Exit.OK
    specs = tuple(_specs(given))
    settings = settings_of(given)
    _allow_many_files()
    asyncio.run(run(specs, settings, as_json=given.json))
    return Exit.OK


def settings_of(given: argparse.Namespace) -> Settings:
    """Raises UsageError."""
    try:
        return Settings(given.speed, size(given.file_limit))
    except ValueError as error:
        raise UsageError(f"--file-limit: {error}") from error


def profile_of(name: str) -> Profile:
    return PROFILES.get(name, STOCK_10_0)


def world_of(names: list[str]) -> World:
    """Raises UsageError."""
    try:
        return world(names)
    except UnknownScenario as error:
        raise UsageError(printable(str(error), 2000)) from error


def _specs(given: argparse.Namespace) -> Iterator[Spec]:
    made = world_of(given.scenario or [])
    told = read_story(given.replay) if given.replay else None
    profile = told.profile if told else profile_of(given.profile)
    if (given.socket is None) == (given.dir is None):
        raise UsageError("name a socket (--socket PATH), or a directory for several (--count N --dir DIR)")
    if not 1 <= given.count <= MOST:
        raise UsageError(f"--count takes 1 to {MOST}")
    if told and (given.count != 1 or not told.calls):
        raise UsageError("--replay plays one VM" if told.calls else "this journal holds nothing that QEMU was asked")
    if given.socket is not None and given.count != 1:
        raise UsageError("--socket is for one; several need --dir")
    for number in range(1, given.count + 1):
        name = told.name if told else given.name if given.count == 1 else f"{given.name}{number}"
        path = given.socket or private_directory(given.dir.absolute()) / f"{re.sub('[^A-Za-z0-9._-]', '_', name)[:60]}.qmp"
        path = Path(path).absolute()
        monitor = path.with_name(f"{path.name}.monitor") if given.second_monitor else None
        yield Spec(name, profile, varied(made, given.seed, name), path, told, monitor)


def read_story(journal: Path) -> Story:
    """QEMU's part of a journal. Raises UsageError for what is none."""
    return story(_story_lines(journal))


def _story_lines(journal: Path) -> Iterator[tuple[float, Command | AnyEvent]]:
    for line in read_journal(journal):
        match line:
            case ActionLine(t=at, action=Command() as command):
                yield at, command
            case EventLine(t=at, event=event):
                yield at, event


def varied(made: World, seed: int | None, name: str) -> World:
    """Guests of one seed differ from each other, always in the same way; without a seed all are alike."""
    if seed is None:
        return made
    dice = random.Random(f"{seed}-{name}")
    before = made.scenario
    delay = None if before.unplug_delay is None else before.unplug_delay * dice.uniform(0.5, 2.0)
    scenario = replace(
        before,
        unplug_delay=delay,
        drive_delay=before.drive_delay * dice.uniform(0.5, 4.0),
        touched=min(before.touched * dice.uniform(0.3, 2.0), 1.0),
        dirty_rate=before.dirty_rate * dice.uniform(0.1, 3.0),
        disk_speed=before.disk_speed * dice.uniform(0.5, 1.0),
    )
    return replace(made, scenario=scenario)


def _allow_many_files() -> None:
    """Each VM has some descriptors of its own."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(specs: tuple[Spec, ...], settings: Settings, *, as_json: bool) -> None:
    """Serve; a line on stdout for each VM that can be connected to."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def ready(record: Record) -> None:
        line = json.dumps(msgspec.to_builtins(record)) if as_json else f"{record.name}  unix:{record.path}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    await serve(specs, settings, ready, stop)
