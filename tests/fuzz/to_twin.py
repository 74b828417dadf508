"""What a client says to the simulated monitor: recorded commands, made wrong as bytes, as JSON and as arguments."""

import asyncio
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.core.recorded import schema, transcripts
from tests.fuzz import mutate
from vmtui.backend.core.sim import PROFILES, STOCK_10_0, FdKind, Profile, Scenario, SimulatedVm
from vmtui.backend.core.sim.commands import COMMANDS
from vmtui.backend.core.sim.qjson import Bad, JsonReader
from vmtui.backend.core.sim.scenarios import World
from vmtui.backend.sim_server import Qemu, Settings, Spec

READER_LIMIT = 1 << 20
"""Bytes that the reader may hold of the few thousand that it was given."""
RESYNC = b"\xff\n\xff\n"
"""Whatever the reader is in the middle of, this ends it."""
STOP = b'{"execute": "stop"}\n'
DONORS = (*mutate.HOSTILE, "fd:vmtui-state", "fd:", "file:/dev/fdset/0", "file:/dev/fdset/x", "file:/dev/fdset/-1",
          "exec:", "tcp:",
          "file:vm.state", "unix:x", "file:", "info qtree", "xp /2xw 0xb0200000", "xp /", "xp /x 0x", "/machine", "type",
          "/machine/peripheral/primary0", "realized", "pause", "blockdev-snapshot-sync",
          "e1000e", "elf", "kdump-zlib")  # fmt: skip
"""Strings that mean something to some command."""


@cache
def commands() -> tuple[dict[str, Any], ...]:
    """Every command that was recorded, each with every set of arguments."""
    sent = (line.message for each in transcripts() for line in each.lines if line.direction == "send")
    return tuple({json.dumps(message, sort_keys=True): message for message in sent}.values())


@cache
def _made_up(profile: str) -> tuple[dict[str, Any], ...]:
    """Every command that the twin knows, with arguments of the kinds that this QEMU's schema asks for."""
    types = {entry["name"]: entry for entry in schema(profile).entries}
    return tuple(
        {"execute": name, "arguments": _example(types, types[types[name]["arg-type"]], 0)}
        for name in (*COMMANDS, "query-qmp-schema")
        if name in types
    )


_EXAMPLES = {"string": "fd:x", "int": 1, "number": 0.5, "boolean": True, "null": None, "value": {}}


def _example(types: dict[str, Any], entry: dict[str, Any], depth: int) -> Any:
    match entry["meta-type"]:
        case "builtin":
            return _EXAMPLES[entry["json-type"]]
        case "enum":
            return entry["values"][0]
        case "array":
            return [_example(types, types[entry["element-type"]], depth + 1)] if depth < 8 else []
        case "object":
            members = entry["members"] if depth < 8 else ()
            return {each["name"]: _example(types, types[each["type"]], depth + 1) for each in members}
        case "alternate":
            return _example(types, types[entry["members"][0]["type"]], depth + 1)
    return {}


def _message(random: Random, profile: str) -> dict[str, Any]:
    """A command that is likely to reach the place where its arguments are used."""
    made: Any = random.choice(commands() if random.random() < 0.5 else _made_up(profile))
    if random.random() < 0.3:
        made = {**made, "id": random.choice(mutate.HOSTILE)}
    if random.random() < 0.8 and made.get("arguments"):
        made = {**made, "arguments": mutate.value(random, made["arguments"], DONORS)}
    else:
        made = mutate.value(random, made)
    return made if isinstance(made, dict) else {}


# --- batches --------------------------------------------------------------------------------------------------------


def bytes_batch(random: Random, size: int) -> int:
    """Bytes as they come: read the same however they are cut; and the reader finds its feet again, holding nothing."""
    known = tuple(json.dumps(message).encode() for message in commands())
    reader = JsonReader()
    for _ in range(size):
        raw = mutate.data(random, random.choice(known), known)
        whole = list(JsonReader().feed(raw + RESYNC + STOP))
        values = [value for piece in mutate.cut(random, raw + RESYNC + STOP) for value in reader.feed(piece)]
        assert repr(values) == repr(whole)
        assert values[-1] == {"execute": "stop"}
        assert len(reader._buffer) < READER_LIMIT
        for value in values:
            json.dumps(value if not isinstance(value, Bad) else value.desc)
    return size


def message_batch(random: Random, size: int) -> int:
    """Commands in every phase: each is answered once, in JSON, and nothing of the twin grows with their number."""
    profile = random.choice(list(PROFILES.values()))
    vm, now = _connected(random, profile), 0.0
    for number in range(size):
        now += random.choice((0.0, 0.01, 0.5, 3.0))
        message = _message(random, profile.name)
        fd, kind = random.choice(((None, FdKind.PIPE), (number, FdKind.BROKEN), (number, FdKind.FILE)))
        vm.receive(message, now, fd, kind)
        answers = [each for each in vm.output() if "event" not in each]
        json.dumps(answers)
        assert len(answers) <= size
        vm.writes()
        assert len(repr(vm.key())) < 200_000
        if not vm.alive or random.random() < 0.02:
            vm = _connected(random, profile, now)
    return size


def _connected(random: Random, profile: Profile, now: float = 0.0) -> SimulatedVm:
    scenario = random.choice((Scenario(), Scenario(unplug_delay=None), Scenario(primaries=2), Scenario(primaries=0)))
    vm = SimulatedVm(profile, scenario=scenario, ram=16 << 20, schema=schema(profile.name), now=now)
    vm.connect(now)
    vm.receive({"execute": "qmp_capabilities"}, now)
    vm.output()
    return vm


def socket_batch(random: Random, size: int) -> int:
    """Bytes through the socket of `vmtui sim`: it hangs up, complains or answers, and the next client is served."""
    return asyncio.run(_through_the_socket(random, size))


async def _through_the_socket(random: Random, size: int) -> int:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    known = tuple(json.dumps(message).encode() for message in commands())
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        here, lifeline = Path.cwd(), os.pipe()
        while count < size:
            spec = Spec("vm", STOCK_10_0, World(), Path(folder) / "vm.qmp")
            qemu = Qemu(spec, Settings(speed=50.0, file_limit=1 << 16))
            qemu.start(lifeline[0])
            os.chdir(folder)  # a mutated command may have a file written
            try:
                while not qemu.ended and count < size:
                    count += await _one_client(random, qemu, known, min(100, size - count))
            except TimeoutError:
                assert not failures, failures
                raise
            finally:
                os.chdir(here)
                await qemu.close()
        for end in lifeline:
            os.close(end)
    assert not failures, failures
    return count


async def _one_client(random: Random, qemu: Qemu, known: tuple[bytes, ...], most: int) -> int:
    reader, writer = await asyncio.open_unix_connection(str(qemu.spec.path), limit=64 << 20)
    try:
        assert await reader.readline()
        writer.write(b'{"execute": "qmp_capabilities"}')
        for number in range(most):
            message = json.dumps(_message(random, "stock-10.0")).encode()
            writer.write(message if random.random() < 0.5 else mutate.data(random, random.choice((message, *known)), known))
            if b"quit" in message:
                return number + 1
        writer.write(RESYNC + b'{"execute": "query-name", "id": "last"}')
        async with asyncio.timeout(20):
            while (line := await reader.readline()) and not _is_last(line):
                pass
        return most
    except (ConnectionError, BrokenPipeError):
        return most
    finally:
        writer.close()


def _is_last(line: bytes) -> bool:
    told = json.loads(line)
    return isinstance(told, dict) and told.get("id") == "last"
