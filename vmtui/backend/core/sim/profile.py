"""In what does one QEMU differ from another, as far as a save with a failover card can tell?

Every value was seen in recorded traffic of the version named; the tests replay that traffic.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Values = MappingProxyType[str, Any]


@dataclass(frozen=True, slots=True)
class Profile:
    """One QEMU: who it says it is, and its habits. A habit not named is that of 10.0."""

    name: str
    version: tuple[int, int, int]
    """major, minor, micro, as in the greeting."""
    package: str
    parameters: Values = field(compare=False, repr=False)
    """What query-migrate-parameters answers before anybody changed anything, in its order."""
    capabilities: tuple[str, ...] = field(repr=False)
    """What query-migrate-capabilities lists, in its order."""
    dump_formats: tuple[str, ...] = ("elf", "kdump-zlib", "kdump-raw-zlib", "win-dmp")
    singlestep: bool = False
    """query-status still has the member `singlestep`."""
    first_pass: bool = True
    """MIGRATION_PASS 1 is sent."""
    last_pass: bool = True
    """One more MIGRATION_PASS comes while the rest is written with the VM stopped."""
    device_status: bool = True
    """`device` comes between `active` and `completed`."""
    failing: bool = False
    """`failing` comes before `failed`."""
    unconnected_replugs: bool = True
    """A migration that never reached its peer plugs the card back all the same."""
    file_uri: bool = True
    """`file:` is known."""
    fd_to_file: bool = True
    """`fd:` may name a regular file."""
    duplicate_id: bool = False
    """device_add refuses the id of a card from the command line that was deleted."""
    xp_digits: int = 16
    """Digits of the address that HMP `xp` prints; 0 means no leading zeros."""
    total_remaining: bool = False
    """query-migrate has a top-level `remaining` besides ram's."""
    ram_skipped: bool = False
    """ram still has the member `skipped`."""
    forgets_runstate: bool = False
    """A VM that stood before the last stage of a migration that then fails ends in `postmigrate`."""
    bios_resets: int = 1
    """RESET events the firmware itself sends after a system_reset, once the VM runs."""
    setup_error: str = "ram_save_setup failed: Input/output error"
    """error-desc when the very first write finds nobody reading; empty means the plain error."""

    @property
    def native_pause(self) -> bool:
        """Has it the never-merged parameter `pause-vm`?"""
        return "pause-vm" in self.parameters


_PARAMETERS_7_2: dict[str, Any] = {
    "cpu-throttle-tailslow": False,
    "xbzrle-cache-size": 67108864,
    "cpu-throttle-initial": 20,
    "announce-max": 550,
    "decompress-threads": 2,
    "compress-threads": 8,
    "compress-level": 1,
    "multifd-channels": 2,
    "multifd-zstd-level": 1,
    "announce-initial": 50,
    "block-incremental": False,
    "compress-wait-thread": True,
    "downtime-limit": 300,
    "tls-authz": "",
    "multifd-compression": "none",
    "announce-rounds": 5,
    "announce-step": 100,
    "tls-creds": "",
    "multifd-zlib-level": 1,
    "max-cpu-throttle": 99,
    "max-postcopy-bandwidth": 0,
    "tls-hostname": "",
    "throttle-trigger-threshold": 50,
    "max-bandwidth": 134217728,
    "x-checkpoint-delay": 20000,
    "cpu-throttle-increment": 10,
}

_PARAMETERS_10_0: dict[str, Any] = {
    "cpu-throttle-tailslow": False,
    "xbzrle-cache-size": 67108864,
    "cpu-throttle-initial": 20,
    "announce-max": 550,
    "direct-io": False,
    "avail-switchover-bandwidth": 0,
    "zero-page-detection": "multifd",
    "multifd-qatzip-level": 1,
    "multifd-channels": 2,
    "mode": "normal",
    "multifd-zstd-level": 1,
    "announce-initial": 50,
    "downtime-limit": 300,
    "tls-authz": "",
    "vcpu-dirty-limit": 1,
    "multifd-compression": "none",
    "announce-rounds": 5,
    "announce-step": 100,
    "tls-creds": "",
    "x-vcpu-dirty-limit-period": 1000,
    "multifd-zlib-level": 1,
    "max-cpu-throttle": 99,
    "max-postcopy-bandwidth": 0,
    "tls-hostname": "",
    "throttle-trigger-threshold": 50,
    "max-bandwidth": 134217728,
    "x-checkpoint-delay": 20000,
    "cpu-throttle-increment": 10,
}

_CAPABILITIES_11_1 = (
    "xbzrle rdma-pin-all auto-converge events postcopy-ram x-colo release-ram return-path pause-before-switchover "
    "multifd dirty-bitmaps postcopy-blocktime late-block-activate x-ignore-shared validate-uuid background-snapshot "
    "zero-copy-send postcopy-preempt switchover-ack dirty-limit mapped-ram"
)
_CAPABILITIES_10_0 = _CAPABILITIES_11_1.replace("auto-converge", "auto-converge zero-blocks")
_CAPABILITIES_7_2 = (
    "xbzrle rdma-pin-all auto-converge zero-blocks compress events postcopy-ram x-colo release-ram block return-path "
    "pause-before-switchover multifd dirty-bitmaps postcopy-blocktime late-block-activate x-ignore-shared "
    "validate-uuid background-snapshot zero-copy-send postcopy-preempt"
)


def _values(*parts: dict[str, Any]) -> Values:
    return MappingProxyType({name: value for part in parts for name, value in part.items()})


STOCK_7_2 = Profile(
    name="stock-7.2",
    version=(7, 2, 22),
    package="Debian 1:7.2+dfsg-7+deb12u18+b3",
    parameters=_values(_PARAMETERS_7_2),
    capabilities=tuple(_CAPABILITIES_7_2.split()),
    dump_formats=("elf", "kdump-zlib", "win-dmp"),
    singlestep=True,
    device_status=False,
    file_uri=False,
    duplicate_id=True,
    ram_skipped=True,
    forgets_runstate=True,
    bios_resets=2,
    setup_error="",
)
STOCK_10_0 = Profile(
    name="stock-10.0",
    version=(10, 0, 2),
    package="Debian 1:10.0.2+ds-2+deb13u1~bpo12+1",
    parameters=_values(_PARAMETERS_10_0),
    capabilities=tuple(_CAPABILITIES_10_0.split()),
)
STOCK_11_1 = Profile(
    name="stock-11.1",
    version=(11, 1, 3),
    package="Debian 1:11.1.3+ds-1",
    parameters=_values(_PARAMETERS_10_0, {"x-rdma-chunk-size": 1048576, "cpr-exec-command": []}),
    capabilities=tuple(_CAPABILITIES_11_1.split()),
    dump_formats=("elf", "kdump-zlib", "kdump-raw-zlib"),
    first_pass=False,
    last_pass=False,
    failing=True,
    unconnected_replugs=False,
    fd_to_file=False,
    xp_digits=0,
    total_remaining=True,
)
PAUSE_VM_10_0 = Profile(
    name="pause-vm-10.0",
    version=(10, 0, 2),
    package="",
    parameters=_values(_PARAMETERS_10_0, {"pause-vm": False}),
    capabilities=tuple(_CAPABILITIES_10_0.split()),
)

PROFILES = {profile.name: profile for profile in (STOCK_7_2, STOCK_10_0, STOCK_11_1, PAUSE_VM_10_0)}
