"""What is measured: each part boots what it needs, takes turns, and returns rows."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tools.measure import contenders
from tools.measure.contenders import Ran, remove, run, save, vmtui
from tools.measure.guests import Guest, Window, guests
from tools.measure.rows import Row, p95, seconds
from tools.measure.terminal import Terminal
from vmtui.backend.lab import LabSpec

MIB, GIB = 1 << 20, 1 << 30
DATA = 800
"""MiB of random bytes in a guest of 1 GiB."""
ZEROS = bytes(MIB)


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure."""

    qemu: str
    directory: Path
    """Where every contender writes its state."""
    rounds: int
    say: Callable[[str], None]

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The name of a state, which is gone afterwards."""
        path = self.directory / f"{time.monotonic_ns()}.vmstate"
        try:
            yield path
        finally:
            remove(path)
            remove(path.with_name(path.name + ".partial"))

    def level(self, mib: int) -> None:
        """Take as much memory as a state needs, and give it back: else the one after a pause pays for the host's pages."""
        path = self.directory / "level"
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(ZEROS)
        path.unlink()

    def big(self, *, failover: bool = True) -> LabSpec:
        return LabSpec(qemu=self.qemu, memory_mib=1024, fill_mib=DATA, failover=failover)


Contender = tuple[Guest, Callable[[Guest, Path], object]]


def turns(bench: Bench, rounds: int, **by_name: Contender) -> dict[str, list[Window]]:
    """Each in turn, there and back again: A B C B A. The first round warms up and does not count."""
    seen: dict[str, list[Window]] = {name: [] for name in by_name}
    for number in range(rounds + 1):
        for name in (*by_name, *list(reversed(by_name))[1:]):
            window = one(bench, *by_name[name])
            word = "warm-up" if number == 0 else f"round {number} of {rounds}"
            bench.say(f"{word}: {name}: stood still {window.stopped * 1e3:.1f} ms")
            if number:
                seen[name].append(window)
    return seen


def one(bench: Bench, guest: Guest, way: Callable[[Guest, Path], object]) -> Window:
    with bench.file() as file, guest.awake():
        bench.level(guest.vm.spec.memory_mib)
        return guest.watch(lambda: way(guest, file))


def _stopped(windows: list[Window]) -> list[float]:
    return [each.stopped for each in windows]


# --- how long the guest stands still


def stopped(bench: Bench) -> list[Row]:
    """vmtui, the same steps by hand, and the classic recipe on a guest without failover."""
    with guests(bench.big(), bench.big(failover=False), say=bench.say) as (pair, plain):
        seen = turns(
            bench, bench.rounds, by_hand=(pair, contenders.by_hand), vmtui=(pair, save), recipe=(plain, contenders.recipe)
        )
    ours, hand, recipe = (_stopped(seen[name]) for name in ("vmtui", "by_hand", "recipe"))
    lag, least = (_lags(seen[name]) for name in ("vmtui", "by_hand"))
    over, under = median(ours) / median(hand), median(recipe) / median(ours)
    samples = {"vmtui": ours, "by hand": hand, "recipe": recipe, "vmtui's lag": lag, "by hand's lag": least}
    return [
        Row("stopped", f"guest stopped, {DATA} MiB: vmtui", seconds(ours), samples=samples),
        Row("stopped", f"guest stopped, {DATA} MiB: by hand", seconds(hand)),
        Row("stopped", f"guest stopped, {DATA} MiB: classic recipe", seconds(recipe)),
        Row("stopped", "vmtui over by hand", f"{over:.3f} times", "at most 1.10 times", over <= 1.10),
        Row("stopped", "classic recipe over vmtui", f"{under:.1f} times", "at least 10 times", under >= 10),
        Row("stopped", "completed to running again: vmtui", seconds(lag)),
        Row("stopped", "completed to running again: by hand", seconds(least)),
    ]


def _lags(windows: list[Window]) -> list[float]:
    return [each.lag for each in windows if each.lag is not None]


def background(bench: Bench) -> list[Row]:
    """The guest runs on while it is saved. Its first save finds the memory in huge pages; it leaves small ones behind."""
    rows = []
    for memory, data, shown in ((256, 0, "256 MiB"), (2048, 1700, "2 GiB")):
        spec = LabSpec(qemu=bench.qemu, memory_mib=memory, fill_mib=data)
        first: list[float] = []
        again: list[float] = []
        for number in range(1, bench.rounds + 1):
            with guests(spec, say=bench.say) as (guest,):
                first.append(one(bench, guest, _save_in_background).stopped)
                again.append(one(bench, guest, _save_in_background).stopped)
            bench.say(
                f"round {number} of {bench.rounds}: {shown}: {first[-1] * 1e3:.1f} ms, again {again[-1] * 1e3:.1f} ms"
            )
        rows += [
            _background_row(f"guest stopped, background, {shown}", first),
            _background_row(f"guest stopped, background, {shown}, once more", again),
        ]
    return rows


def _background_row(what: str, values: list[float]) -> Row:
    return Row("background", what, seconds(values), "at most 10 ms", max(values) <= 0.010, {"stopped": values})


def _save_in_background(guest: Guest, file: Path) -> Ran:
    return save(guest, file, "--strategy", "background")


def pause(bench: Bench) -> list[Row]:
    """From the moment QEMU says that the card is out to the moment it says that the guest stands still."""
    with guests(LabSpec(qemu=bench.qemu), say=bench.say) as (guest,):
        rows = _pause_rows(bench, guest, "")
        with _screen_on(guest):
            return rows + _pause_rows(bench, guest, ", on a screen")


def _pause_rows(bench: Bench, guest: Guest, how: str) -> list[Row]:
    written: list[float] = []
    own: list[float] = []

    def and_note(guest: Guest, file: Path) -> None:
        result = contenders.result(save(guest, file))
        written.append(result["bytes_before_pause"])
        own.append(result["run_on_seconds"])

    seen = turns(bench, max(20, bench.rounds), vmtui=(guest, and_note))
    ran_on = [each.ran_on for each in seen["vmtui"] if each.ran_on is not None]
    last, most, count = p95(ran_on), max(written[1:]), len(ran_on)
    samples = {"QEMU's events": ran_on, "vmtui's own": own[1:], "bytes": written[1:]}
    text = f"{last * 1e3:.1f} ms (median {median(ran_on) * 1e3:.1f})"
    return [
        Row("pause", f"card out to guest stopped{how}, p95 of {count}", text, "at most 10 ms", last <= 0.010, samples),
        Row(
            "pause", f"written before the pause{how}, most of {count}", f"{most / 1024:.0f} KiB", "at most 256 KiB",
            most <= 256 << 10,
        ),
    ]  # fmt: skip


@contextmanager
def _screen_on(guest: Guest) -> Iterator[None]:
    """Somebody looks at this VM in the terminal UI, whoever saves it."""
    done = threading.Event()

    def look_on() -> None:
        while not done.is_set():
            terminal.during(0.1)

    with Terminal((*vmtui("ui"), f"unix:{guest.vm.qmp}"), 80, 24) as terminal:
        terminal.until(b"Quit")
        terminal.press("\r")
        terminal.until(b"Nothing is under way")
        eyes = threading.Thread(target=look_on)
        eyes.start()
        try:
            yield
        finally:
            done.set()
            eyes.join()


# --- what vmtui costs

SLOW = 40 * MIB
"""Bytes a second: a save of 800 MiB then takes 20 s, as on a slow disk."""
LOADED = "from vmtui import cli, headless; cli.build_parser()"
LOADED_TO_READ = "from vmtui import cli, files; cli.build_parser()"


def cost(bench: Bench) -> list[Row]:
    """The processor and the memory that the vmtui process takes for a save."""
    fast: list[Ran] = []
    slow: list[Ran] = []
    reading: list[Ran] = []
    with guests(bench.big(), say=bench.say) as (guest,):
        for number in range(bench.rounds + 1):
            with bench.file() as file, guest.awake():
                bench.level(1024)
                fast.append(save(guest, file))
                reading.append(run(*vmtui("verify", str(file))).good())
            bench.say(f"round {number} of {bench.rounds}: {fast[-1].cpu:.2f} s of one core in {fast[-1].seconds:.2f} s")
        for _ in range(2):
            with bench.file() as file, guest.awake():
                slow.append(_slowly(guest, file))
            bench.say(f"slow: {slow[-1].cpu:.2f} s of one core in {slow[-1].seconds:.2f} s")
    start = median(_cpu(LOADED) for _ in range(5))
    read = median(each.cpu for each in reading[1:]) - median(_cpu(LOADED_TO_READ) for _ in range(5))
    return _cost_rows(fast[1:], slow, start, read)


def _cost_rows(fast: list[Ran], slow: list[Ran], start: float, read: float) -> list[Row]:
    cpu = median(each.cpu for each in fast)
    wall = median(each.seconds for each in fast)
    engine = cpu - start - read
    long = max(each.cpu / each.seconds for each in slow)
    further = (median(each.cpu for each in slow) - cpu) / (median(each.seconds for each in slow) - wall)
    rss = max(each.rss for each in (*fast, *slow))
    samples = {
        "fast cpu": [each.cpu for each in fast], "fast seconds": [each.seconds for each in fast],
        "slow cpu": [each.cpu for each in slow], "slow seconds": [each.seconds for each in slow],
    }  # fmt: skip
    split = f"start {start:.2f} s, reading the file {read:.2f} s, the save itself {engine:.2f} s"
    return [
        Row(
            "cost", f"CPU of a save, {DATA} MiB at full speed",
            f"{cpu / wall:.0%} of one core ({cpu:.2f} s in {wall:.2f} s)", "at most 5 %", cpu / wall <= 0.05, samples,
        ),
        Row("cost", "  of it", split),
        Row(
            "cost", f"CPU of a save, {DATA} MiB in {slow[0].seconds:.0f} s",
            f"{long:.1%} of one core", "at most 5 %", long <= 0.05,
        ),
        Row("cost", "CPU for each further second of saving", f"{further:.1%} of one core", "at most 5 %", further <= 0.05),
        Row("cost", "peak memory of a save", f"{rss / MIB:.0f} MiB", "at most 60 MiB", rss <= 60 * MIB),
    ]  # fmt: skip


def _cpu(statements: str) -> float:
    return run(sys.executable, "-c", statements).good().cpu


def _slowly(guest: Guest, file: Path) -> Ran:
    """Once the guest stands still, its observer lowers the bandwidth."""
    since = guest.observer.catch_up()
    running = contenders.start(*contenders.save_command(guest, file))
    guest.observer.wait(lambda event: event.name == "STOP", since)
    while guest.observer.execute("query-migrate-parameters")["max-bandwidth"] < contenders.FULL:
        time.sleep(0.001)
    guest.observer.execute("migrate-set-parameters", {"max-bandwidth": SLOW})
    return running.end().good()


def verify(bench: Bench) -> list[Row]:
    """Reading a whole state through, from the page cache; Python's start counts."""
    walls: list[float] = []
    with guests(bench.big(), say=bench.say) as (guest,), bench.file() as file:
        with guest.awake():
            save(guest, file)
        size = file.stat().st_size
        walls.extend(run(*vmtui("verify", str(file))).good().seconds for _ in range(bench.rounds + 1))
    rates = [size / each / GIB for each in walls[1:]]
    rate = median(rates)
    text = f"{rate:.2f} GiB/s ({min(rates):.2f} to {max(rates):.2f})"
    what = f"vmtui verify, {size / MIB:.0f} MiB, start included"
    return [Row("verify", what, text, "at least 1 GiB/s", rate >= 1, {"GiB/s": rates})]


def startup(bench: Bench) -> list[Row]:
    """`vmtui --version` against a Python that does nothing."""
    ours: list[float] = []
    bare: list[float] = []
    for number in range(21):
        for which in (0, 1) if number % 2 else (1, 0):
            if which:
                ours.append(run(*vmtui("--version")).good().seconds)
            else:
                bare.append(run(sys.executable, "-c", "pass").good().seconds)
    over = median(ours[1:]) - median(bare[1:])
    text = f"{over * 1e3:.1f} ms over ({median(ours[1:]) * 1e3:.1f} and {median(bare[1:]) * 1e3:.1f})"
    samples = {"vmtui --version": ours[1:], "python -c pass": bare[1:]}
    bench.say(f"vmtui --version: {text}")
    return [Row("startup", "vmtui --version over a bare Python", text, "at most 60 ms over", over <= 0.060, samples)]
