"""What does the terminal UI cost, and how soon does it show what happens? In a terminal of 80x24, on simulated VMs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tools.measure.engines import end_engine, engine_pid
from tools.measure.parts import Bench
from tools.measure.qmp import BenchError, Qmp
from tools.measure.rows import Row, p95, seconds
from tools.measure.terminal import Terminal, cpu_seconds, resident_mib

UI = (sys.executable, "-m", "vmtui", "ui")
BARE = (sys.executable, "-m", "tools.measure.bare_app")
READY = b"Quit"
"""What both write last: the footer."""
SIZE = (80, 24)
SETTLE, WATCH = 15.0, 60.0
"""Seconds that an app gets to come to rest, and for which it is watched."""
FLOOD = 100_000
CTRL_S = "\x13"
OTHERS = {"htop": ("htop",), "posting": ("posting",), "virtui-manager": ("virtui-manager",)}
"""What else a terminal can show, where it is installed: for proportion."""


def screen(bench: Bench) -> list[Row]:
    """All rows about the screen."""
    rows = ready(bench)
    with _fleet(bench, 100) as fleet:
        rows += _idle(bench, fleet, 100, at_most=0.5)
        rows += questions(fleet)
        rows += latency(bench, fleet)
    with _fleet(bench, 1000) as fleet:
        rows += _idle(bench, fleet, 1000, at_most=3.0)
    rows += saving(bench)
    rows += flood(bench)
    return rows + proportion(bench)


# --- the worlds -------------------------------------------------------------------------------------------------------


@contextmanager
def _fleet(bench: Bench, count: int, *more: str) -> Iterator[Path]:
    """A directory of simulated VMs, each with a second monitor, and with states and journals of its own."""
    home = bench.directory / f"fleet-{time.monotonic_ns()}"
    (home / "vms").mkdir(parents=True)
    command = (sys.executable, "-m", "vmtui", "sim", "--dir", str(home / "vms"), "--count", str(count), "--second-monitor",
               "--json", *more)  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout is not None
            for _ in range(count):
                json.loads(served.stdout.readline())
            yield home
        finally:
            end_engine(home)
            served.terminate()
    shutil.rmtree(home)


def _environment(home: Path) -> dict[str, str]:
    return {
        "VMTUI_DEMO_DIR": str(home / "vms"),
        "VMTUI_SNAPSHOT_DIR": str(home / "snapshots"),
        "XDG_STATE_HOME": str(home / "state"),
        "VMTUI_RUNTIME_DIR": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
    }


@contextmanager
def _ui(home: Path, *more: str) -> Iterator[Terminal]:
    with Terminal((*UI, *more), *SIZE, _environment(home)) as terminal:
        terminal.until(READY)
        yield terminal


# --- what is measured -------------------------------------------------------------------------------------------------


def ready(bench: Bench) -> list[Row]:
    """From the start of the program to its footer, in turns with the plainest app there is."""
    ours: list[float] = []
    bare: list[float] = []
    with _fleet(bench, 8) as home:
        for _ in range(max(bench.rounds, 5)):
            for command, values in ((UI, ours), (BARE, bare), (BARE, bare), (UI, ours)):
                with Terminal(command, *SIZE, _environment(home)) as terminal:
                    values.append(terminal.until(READY) - terminal.began)
    ratio = median(ours) / median(bare)
    samples = {"vmtui": ours, "bare app": bare}
    return [
        Row("screen", "ready: vmtui, 8 VMs", seconds(ours), samples=samples),
        Row("screen", "ready: a bare Textual app", seconds(bare)),
        Row("screen", "vmtui over the bare app", f"{ratio:.2f} times", "at most 1.5 times", ratio <= 1.5),
    ]


def _idle(bench: Bench, home: Path, count: int, at_most: float) -> list[Row]:
    bench.say(f"screen: {count} VMs that do nothing")
    with _ui(home) as terminal:
        terminal.during(SETTLE if count <= 100 else SETTLE * 4)
        both = (terminal.pid, engine_pid(home))
        before = [cpu_seconds(pid) for pid in both]
        written = terminal.during(WATCH)
        shares = [(cpu_seconds(pid) - at_first) / WATCH * 100 for pid, at_first in zip(both, before, strict=True)]
        memory, engine = (resident_mib(pid) for pid in both)
    share, said = sum(shares), f"{shares[0]:.2f} % + {shares[1]:.2f} % (engine) of a core"
    rows = [Row("screen", f"CPU, {count} idle VMs", said, f"at most {at_most:g} %", share <= at_most)]
    if count == 100:
        rows.append(Row("screen", "written in a minute, 100 idle VMs", f"{written} bytes", "0 bytes", written == 0))
        said = f"{memory:.0f} MiB, engine {engine:.0f} MiB"
        rows.append(Row("screen", "memory, 100 VMs", said, "at most 80 MiB each", max(memory, engine) <= 80))
    return rows


def questions(home: Path) -> list[Row]:
    """QMP commands to VMs that do nothing, as the engine sends them."""
    script = (
        "import sys, time; from pathlib import Path; from vmtui.backend.service import Service\n"
        "service = Service(Path(sys.argv[1])); service.start(lambda fleet: None); time.sleep(15)\n"
        "def records(): return (each for view in service.fleet.vms.values() for each in view.log)\n"
        "def sent(): return sum(each.kind == 'qmp' and each.data['dir'] == 'send' for each in records())\n"
        "first = sent(); time.sleep(120); print((sent() - first) / 2 / len(service.fleet.vms)); service.stop()"
    )
    environment = {**os.environ, **_environment(home)}
    done = subprocess.run(
        (sys.executable, "-c", script, str(home)), env=environment, capture_output=True, text=True, check=True
    )
    rate = float(done.stdout)
    return [Row("screen", "QMP commands to an idle VM", f"{rate:.2f} a minute", "at most 2 a minute", rate <= 2)]


def latency(bench: Bench, home: Path) -> list[Row]:
    """From QEMU's event to the word on the screen, and from a key to all that it changes."""
    bench.say("screen: events and keys")
    events: list[float] = []
    keys: list[float] = []
    with _ui(home) as terminal:
        terminal.during(SETTLE)
        vm = Qmp(home / "vms" / "vm1.qmp.monitor")
        for _ in range(30):
            for command, word in (("stop", b"paused"), ("cont", b"running")):
                sent = time.monotonic()
                vm.execute(command)
                events.append(terminal.until(word) - sent)
                terminal.during(1.0)
        vm.close()
        others = [Qmp(home / "vms" / f"vm{number}.qmp.monitor") for number in range(20, 40)]
        for number in range(40):
            for each in others:
                each.execute("stop" if number % 2 == 0 else "cont")
            sent = time.monotonic()
            key, shown = ("j", b"vm10.qmp") if number % 2 == 0 else ("k", b"vm1.qmp")
            terminal.press(key)
            keys.append(terminal.until(shown) - sent)  # among the details of the VM under the cursor, and nowhere else
            terminal.during(0.3)
        for each in others:
            each.close()
    return [
        Row("screen", "event to screen, p95 of 60", f"{p95(events) * 1e3:.0f} ms (median {median(events) * 1e3:.0f})",
            "at most 60 ms", p95(events) <= 0.06, {"seconds": events}),
        Row("screen", "key to screen while VMs change, p95", f"{p95(keys) * 1e3:.0f} ms (median {median(keys) * 1e3:.0f})",
            "at most 60 ms", p95(keys) <= 0.06, {"seconds": keys}),
    ]  # fmt: skip


def saving(bench: Bench) -> list[Row]:
    """Bytes that the VM's own screen writes while its state is saved."""
    bench.say("screen: a save")
    with _fleet(bench, 1, "--scenario", "ram=64G", "slow-disk=100M") as home, _ui(home) as terminal:
        terminal.during(3)
        terminal.press("\r")
        terminal.during(2)
        terminal.press("s")
        terminal.until(b"it can be saved")
        terminal.during(1)
        terminal.press(CTRL_S)
        terminal.until(b"saving")
        terminal.during(5)
        written = terminal.during(WATCH) * 60 / WATCH
        terminal.press("c")
        terminal.during(3)
    return [Row("screen", "written in a minute of saving", f"{written / 1e3:.0f} kB", "at most 90 kB", written <= 90e3)]


def flood(bench: Bench) -> list[Row]:
    """Memory before and after 100,000 events."""
    bench.say("screen: a flood of events")
    with _fleet(bench, 1, "--scenario", "flood=10000") as home, _ui(home) as terminal:
        terminal.during(SETTLE)
        both = (terminal.pid, engine_pid(home))
        before = sum(map(resident_mib, both))
        terminal.during(FLOOD / 10_000)
        grown = sum(map(resident_mib, both)) - before
    return [Row("screen", "memory gained by 100,000 events", f"{grown:.1f} MiB", "none", grown < 1)]


def proportion(bench: Bench) -> list[Row]:
    """Others in the same terminal, where they are installed; nothing is promised."""
    rows = []
    for name, command in OTHERS.items():
        if shutil.which(command[0]) is None:
            rows.append(Row("screen", f"{name}: a minute at rest", "not installed"))
            continue
        bench.say(f"screen: {name}")
        try:
            with Terminal(command, *SIZE) as terminal:
                terminal.during(5)
                said = _written(terminal)
        except BenchError as error:
            said = f"not measured: {error}"
        rows.append(Row("screen", f"{name}: a minute at rest", said))
    return rows


def _written(terminal: Terminal) -> str:
    return f"{terminal.during(WATCH) * 60 / WATCH / 1e3:.1f} kB, {resident_mib(terminal.pid):.0f} MiB"
