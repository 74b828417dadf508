"""What is known (facts) and what is wanted (intent), as immutable values.

Facts are what QEMU, the host or the store last said, in QEMU's words. Intent is what vmtui is doing about it. All values
are frozen `msgspec.Struct`s: compared and copied cheaply, and the journal can write and read each of them by its type.
Times are seconds of the engine's monotonic clock unless a field says otherwise; sizes are bytes.
"""

from enum import StrEnum
from typing import Any

import msgspec


class Link(StrEnum):
    """How the monitor's connection stands."""

    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"
    """The connection broke; the QEMU process is there, as far as is known."""
    GONE = "gone"
    """The QEMU process has ended."""


class Card(StrEnum):
    """Where a failover primary is, as the guest's own PCI config space proves it."""

    PLUGGED = "plugged"
    OUT = "out"
    DELETED = "deleted"
    """QEMU deleted the device: a late answer to an old unplug request (FACTS: DEVICE_DELETED)."""
    NOT_PROVED = "not-proved"
    """The machine has no PCI config window that could be read."""


class Fact(StrEnum):
    """One thing that can be asked of QEMU; each has one query (`core.commands.QUERIES`)."""

    NAME = "name"
    UUID = "uuid"
    MACHINE = "machine"
    FEATURES = "features"
    STATUS = "status"
    MIGRATION = "migration"
    PARAMETERS = "parameters"
    CAPABILITIES = "capabilities"
    MEMORY = "memory"
    DEVICES = "devices"
    CONFIG_WINDOW = "config-window"
    CARDS = "cards"
    YANK = "yank"
    """Whether QEMU still tidies up behind a migration (query-yank): a migration started now would kill a QEMU 7.2."""
    FDSETS = "fdsets"
    """The fd sets that a save of ours left: asked when it is over, for a lost reply leaves one that nobody noted."""
    DUMP = "dump"
    DUMP_FORMATS = "dump-formats"
    CPUS = "cpus"
    """A sample of the vCPUs of a guest that does not answer."""
    AGENT = "agent"
    """Whether its guest agent can be asked: the channel's state, not an answer."""


class Setting(msgspec.Struct, frozen=True):
    """One migration parameter or capability, as query-qmp-schema has it: it tells neither unit, range nor default."""

    name: str
    kind: str
    """`int`, `bool`, `str`, `enum`, or `other` for what cannot be typed on one line."""
    choices: tuple[str, ...] = ()
    """Of an enum."""
    marks: tuple[str, ...] = ()
    """`deprecated`, `unstable`."""


class Features(msgspec.Struct, frozen=True):
    """What this QEMU's schema offers (query-qmp-schema); versions say nothing, members do."""

    pause_vm: bool = False
    background_snapshot: bool = False
    channels: bool = False
    """`migrate` takes `channels`, and one of their transports is `file` (8.2+)."""
    set_action: bool = False
    """What a panic does can be changed (set-action, 6.0+)."""
    parameters: tuple[Setting, ...] = ()
    """What migrate-set-parameters takes, by name."""
    capabilities: tuple[Setting, ...] = ()
    """What migrate-set-capabilities takes, by name."""


class Migration(msgspec.Struct, frozen=True):
    """query-migrate, and the last numbers where it now gives none."""

    status: str = "none"
    error: str = ""
    """`error-desc`: why QEMU says that it failed."""
    transferred: int = 0
    total: int = 0
    """RAM that the guest has; not what the file will hold."""
    remaining: int = 0
    mbps: float = 0.0
    """Megabits a second, QEMU's own figure."""
    blocked: tuple[str, ...] = ()
    """`blocked-reasons` (6.0+)."""


class Dump(msgspec.Struct, frozen=True):
    """query-dump: the memory dump that runs, or the last one."""

    status: str = "none"
    """none, active, completed, failed."""
    completed: int = 0
    total: int = 0
    """RAM that goes through it; the file may be smaller."""
    error: str = ""
    """Why it failed: only the event tells."""


class Primary(msgspec.Struct, frozen=True):
    """One failover primary: the card that must leave before a migration and come back after it."""

    device_id: str
    standby_id: str
    driver: str
    bus: str
    slot: tuple[int, int, int] | None
    """PCI bus, device and function number, as the guest numbered them."""
    properties: tuple[tuple[str, str], ...] = ()
    """All its properties, as `info qtree` prints them."""
    card: Card = Card.NOT_PROVED
    driven: bool = False
    """Bus mastering is on: the guest's driver runs the card."""
    pci_id: str = ""
    """vendor:device, hexadecimal, as QEMU names the device: what the guest's config space must show to prove it."""
    proved_at: float = -1.0
    asked: bool = False
    """UNPLUG_PRIMARY was seen and the answer to it was not."""

    @property
    def has_option_rom(self) -> bool:
        """Its ROM is a RAM block, which a state that was saved without the card cannot find again when it is restored."""
        values = dict(self.properties)
        return not values.get("rombar", "1").startswith("0") and values.get("romfile", "") not in ("", '""', "<null>")


class Cpu(msgspec.Struct, frozen=True):
    """One vCPU in the moment of a sample, as `info registers` has it."""

    pc: int
    """Its program counter: a guest-virtual address."""
    halted: bool = False
    interrupts: bool = True
    """It takes them."""
    user: bool = False
    """It runs a program, not the kernel."""


class Sample(msgspec.Struct, frozen=True):
    at: float
    cpus: tuple[Cpu, ...]


class Agent(msgspec.Struct, frozen=True):
    """What is known of the guest agent of a guest that does not let go of its card."""

    path: str = ""
    """Its channel's socket on this host, where it can be asked: it has its port open, and nobody else is connected."""
    held: bool = False
    """Somebody else is connected to the channel, which serves one client."""
    why_not: str = ""
    """Why vmtui cannot use the socket: it is not tried again."""
    asked: float | None = None
    """When it was asked last."""
    answered: float | None = None
    """When it answered last."""
    silent: float | None = None
    """When it was asked first of the times that it did not answer since."""


class Vm(msgspec.Struct, frozen=True):
    """The facts of one VM, whoever caused them."""

    key: str
    """The monitor's address, as text: what the engine knows the VM by."""
    name: str = ""
    uuid: str = ""
    machine: str = ""
    version: tuple[int, int, int] = (0, 0, 0)
    package: str = ""
    link: Link = Link.CONNECTING
    why_lost: str = ""
    fd_passing: bool = False
    """The monitor is a unix socket: open files can be handed over."""
    pid: int = 0
    """QEMU's process (SO_PEERCRED), or 0 where that cannot be known."""
    start_time: int = 0
    """When that process began (`Connected.start_time`)."""
    argv: tuple[str, ...] = ()
    runstate: str = ""
    migration: Migration = Migration()
    dump: Dump = Dump()
    dump_formats: tuple[str, ...] = ()
    """What dump-guest-memory can write here."""
    parameters: dict[str, Any] = {}
    capabilities: dict[str, bool] = {}
    features: Features = Features()
    memory: int = 0
    primaries: tuple[Primary, ...] = ()
    standbys: tuple[str, ...] = ()
    config_window: int | None = None
    """Guest-physical base of the PCI Express config window (pcie-mmcfg), or None where there is none."""
    panicked: bool = False
    panic_action: str = ""
    """What QEMU does when the guest panics, and empty where nobody knows. It cannot be asked: its command line says how it
    began, and each answer to set-action how it went on."""
    fdsets: tuple[int, ...] = ()
    """Those that hold a file of ours."""
    tidying: bool = False
    """QEMU has not finished with its last migration, whatever status it tells."""
    fdsets_in_use: tuple[int, ...] = ()
    """Those whose files were taken back, and that QEMU has not closed yet."""
    samples: tuple[Sample, ...] = ()
    """The last few of the vCPUs, oldest first, all of the guest as it runs now."""
    agent_port: str = ""
    """The character device (chardev) behind the guest agent's port; empty = the VM has none."""
    agent: Agent = Agent()
    seen: dict[Fact, float] = {}
    """When each fact was last learned over THIS connection; absent = must be asked."""

    @property
    def qemu(self) -> str:
        """QEMU's version, as text."""
        return ".".join(map(str, self.version))

    @property
    def shown(self) -> str:
        """What to call it."""
        return self.name or self.key


ENDED_STATES = frozenset({"none", "completed", "failed", "cancelled"})
"""Every other migration status, known or not, counts as under way."""


class Strategy(StrEnum):
    AUTO = "auto"
    PAUSE_VM = "pause-vm"
    PAUSE_AFTER_UNPLUG = "pause-after-unplug"
    STOP_FIRST = "stop-first"
    BACKGROUND = "background"
    DUMP = "dump"
    """Of a core dump, which is no way to save."""


class Then(StrEnum):
    RESUME = "resume"
    STAY_PAUSED = "stay-paused"
    QUIT = "quit"


class OnStuck(StrEnum):
    CANCEL = "cancel"
    WAIT = "wait"
    DUMP = "dump"
    """Cancel, and dump the guest's memory as soon as QEMU lets go."""


class Goal(StrEnum):
    """What a workflow is for."""

    CHECK = "check"
    SAVE = "save"
    RESUME = "resume"
    """Make a stopped VM run again, and bring its card back."""
    DUMP = "dump"
    """Write the guest's memory to a core file, and leave the guest as it was found."""


class Options(msgspec.Struct, frozen=True):
    """What the user asked for."""

    goal: Goal = Goal.SAVE
    output: str = ""
    """Absolute path of the file that will hold the state."""
    strategy: Strategy = Strategy.AUTO
    then: Then = Then.RESUME
    unplug_timeout: float = 30.0
    on_stuck: OnStuck = OnStuck.CANCEL
    panic_guard: bool = True
    """While it is saved a panic stops the guest, where it would have ended QEMU."""
    dump_format: str = ""
    """As dump-guest-memory names it; empty = vmtui chooses."""
    makes_directory: bool = True
    """The output's directory is made where it is missing: not one that the user named."""


class Level(StrEnum):
    BLOCKING = "blocking"
    WARNING = "warning"
    NOTE = "note"


class Finding(msgspec.Struct, frozen=True):
    """One line of the pre-flight."""

    level: Level
    code: str
    """A stable name for programs, such as `card-out`."""
    text: str
    remedy: str = ""


class Place(msgspec.Struct, frozen=True):
    """What the host says about where the state is to go."""

    path: str
    problem: str = ""
    """Why no file can be made there, in words; empty when one can."""
    free: int = 0
    resident: int = 0
    """Memory that the QEMU process holds now: the most that its guest's state can be; 0 when unknown."""


class FileReport(msgspec.Struct, frozen=True):
    """What was found when the finished stream was read through."""

    size: int
    whole: bool
    trouble: str = ""
    machine: str = ""
    runstate: str = ""
    devices: int = 0
    ram_blocks: int = 0
    format: str = ""
    """Of a core dump: what the file itself says it is."""
    kernel: str = ""
    """Of a core dump: the release of the guest's kernel, where that has left a VMCOREINFO in it."""
    seconds: float = 0.0
    """How long reading and syncing it took."""


class Phase(StrEnum):
    PREFLIGHT = "preflight"
    PREPARE = "prepare"
    UNPLUG = "unplug"
    PAUSE = "pause"
    SAVE = "save"
    DUMP = "dump"
    CANCEL = "cancel"
    FINISH = "finish"
    RESUME = "resume"
    REPLUG = "replug"
    SETTLE = "settle"
    VERIFY = "verify"
    QUIT = "quit"
    PROVE = "prove"
    DONE = "done"


class Outcome(StrEnum):
    SAVED = "saved"
    RESUMED = "resumed"
    DUMPED = "dumped"
    CHECKED = "checked"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ATTENTION = "attention"


class Trouble(StrEnum):
    """Why a workflow gave up; each has its exit code in `core.errors`."""

    USER = "user"
    """Cancelled by the user."""
    STUCK = "stuck"
    """The guest did not let go of its card."""
    QEMU = "qemu"
    """QEMU refused a command or the migration failed."""
    STORE = "store"
    """The file: no space, no permission, not whole."""
    REFUSED = "refused"
    """Pre-flight."""
    UNREACHABLE = "unreachable"
    """QEMU does not answer its monitor."""


class Failure(msgspec.Struct, frozen=True):
    trouble: Trouble
    text: str


class Baseline(msgspec.Struct, frozen=True):
    """The VM as it was before anything was changed: what the end is measured against."""

    runstate: str
    parameters: dict[str, Any]
    capabilities: dict[str, bool]
    cards: dict[str, Card]
    """By device id."""
    panic_action: str = ""
    """What QEMU does on a panic, where that is changed for the time of the save; empty = it is left alone."""


class Marks(msgspec.Struct, frozen=True):
    """Moments that the result is computed from; None = did not happen."""

    asked: float | None = None
    """`migrate` was sent."""
    unplugged: float | None = None
    """wait-unplug ended: the guest had let go."""
    stopped: float | None = None
    resumed: float | None = None
    completed: float | None = None
    cancel_sent: float | None = None
    lost: float | None = None
    """The monitor's connection broke and is not back."""
    bytes_at_stop: int | None = None
    back: float | None = None
    """The cards were proved to be plugged again; what their driver needs is counted from there."""
    failed: float | None = None
    """The dump was seen to have failed."""


DUMP_STANDS = "save-vm"
"""The run state that QEMU stops a guest in to dump it."""


class Sent(StrEnum):
    """What is known of the one command that makes the file: `migrate`, or `dump-guest-memory`."""

    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"


class Workflow(msgspec.Struct, frozen=True):
    """What vmtui is doing to one VM."""

    options: Options
    started: float
    """When it began."""
    started_wall: float = 0.0
    """The same moment as seconds since 1970."""
    strategy: Strategy = Strategy.AUTO
    why: str = ""
    """Why this strategy, in words."""
    findings: tuple[Finding, ...] = ()
    place: Place | None = None
    phase: Phase = Phase.PREFLIGHT
    entered: float = 0.0
    timeline: tuple[tuple[Phase, float], ...] = ()
    baseline: Baseline | None = None
    failure: Failure | None = None
    """The first reason for giving up; what follows is putting things back."""
    alarms: tuple[str, ...] = ()
    """What happened on the way that somebody must look at, whatever the facts say at the end."""
    notes: tuple[str, ...] = ()
    """What a person should know at the end: each is a sentence."""
    marks: Marks = Marks()
    sent: Sent = Sent.NO
    dump_format: str = ""
    dump_before: str = ""
    """The status of the dump before ours, when ours was sent."""
    status: str = "none"
    """What QEMU said last of the migration that makes the file: what it says later is about bringing the card back."""
    fd_passed: bool = False
    fdset: int | None = None
    """The fd set that holds the file."""
    names: tuple[str, ...] = ()
    """Descriptors that were handed over by name (getfd), and that no `migrate` is known to have taken."""
    reserved: bool = False
    guarded: bool = False
    """QEMU took `pause` for its panic action."""
    replug_fd: bool = False
    """The broken pipe was handed over and is not used up yet."""
    replug_accepted: bool = False
    """QEMU took a migration that is to bring the card back."""
    tries: dict[str, int] = {}
    """How often each thing that may be tried again was tried."""
    tried_at: dict[str, float] = {}
    """When it was tried last."""
    untold: tuple[Fact, ...] = ()
    """Facts that QEMU refused to tell when they were needed: what rests on them is not proved."""
    file: FileReport | None = None
    published: bool = False
    discarded: bool = False
    bandwidth: int | None = None
    """Bytes a second that the user wants the copy to have; None = all there is."""
    let_run: bool = False
    """The user asked that a guest which somebody paused be resumed, so that it can answer."""
    dump_next: bool = False
    """Once all is put back, the guest is dumped: another workflow."""
    interrupt: bool = False
    """Reading the file through should stop: the user cancelled."""
    done_share: float = 0.0
    """The most that was ever saved, 0 to 1: what a bar that never runs backwards shows."""
    copied: tuple[tuple[float, float], ...] = ()
    """When QEMU told of the copy in the last seconds, and `done_share` then: from the first to the last is the rate."""
    restarts: int = 0
    """How often a new engine has taken this over from its journal."""
    outcome: Outcome | None = None

    @property
    def given_up(self) -> bool:
        return self.failure is not None

    @property
    def blocked(self) -> bool:
        """The pre-flight found something that keeps the VM from being saved."""
        return any(each.level is Level.BLOCKING for each in self.findings)

    @property
    def has_partial(self) -> bool:
        """A file is there that is not a snapshot (yet)."""
        return self.reserved and not self.published and not self.discarded
