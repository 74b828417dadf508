"""What do the machine's parts look like from outside: PCI, QOM, HMP, block devices?

The shapes are those of a QEMU 7.2 q35 machine with root ports, each pair's standby on one and its primary on the next.
A primary looks the same in all of them whether it is plugged or out: only its PCI config space tells.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from vmtui.backend.core.sim.card import Card
from vmtui.backend.core.sim.machine import MIB, Machine, Refused
from vmtui.backend.core.sim.scenario import CardState

MMCFG = 0xB0000000
"""Where q35 maps the PCI config space."""
_E1000E = 0x10D38086
_STATUS = 0x0010
_BUS_MASTER = 0x0406
_UNDRIVEN = 0x0103
_NOBODY = "0xffffffff"


def devices(vm: Machine) -> dict[str, str]:
    """id -> type of every device that has an id, deleted primaries left out."""
    known = {f"root{index}": "pcie-root-port" for index in range(2 * vm.scenario.primaries)}
    for card in vm.cards:
        known[card.standby] = "virtio-net-pci"
        if card.state is not CardState.DELETED:
            known[card.id] = "e1000e"
    return {**known, "vd0": "virtio-blk-pci"}


def uuid(vm: Machine) -> str:
    """From the name: the same VM has the same one each time, and no two of a fleet share one."""
    digits = sha256(vm.name.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


# HMP


def human(vm: Machine, line: str) -> str:
    """The text an HMP command prints."""
    verb, _, rest = line.strip().partition(" ")
    if verb == "xp":
        return _xp(vm, rest)
    if verb == "migrate_set_parameter":
        return _hmp_set_parameter(vm, rest)
    if verb == "nmi":
        vm.nmi()
        return ""
    printer = _INFO.get(rest.strip()) if verb == "info" else None
    return printer(vm) if printer else f"unknown command: '{line}'\r\n"


_XP = re.compile(r"/2xw\s+(0x[0-9a-fA-F]+|\d+)$")


def _xp(vm: Machine, rest: str) -> str:
    match = _XP.match(rest)
    if match is None:
        return f"invalid char '{rest[-1:]}' in expression\r\nTry \"help xp\" for more information\r\n"
    address = int(match[1], 0)
    first, second = _config_space(vm, address)
    return f"{address:0{vm.profile.xp_digits}x}: {first} {second}\r\n"


def _config_space(vm: Machine, address: int) -> tuple[str, str]:
    if not vm.scenario.q35 or address < MMCFG:
        return "0x00000000", "0x00000000"
    for index, card in enumerate(vm.cards):
        if address == MMCFG + (_bus_number(index, primary=True) << 20) and card.state is CardState.PLUGGED:
            command = _BUS_MASTER if card.driven else _UNDRIVEN
            return f"0x{_E1000E:08x}", f"0x{_STATUS:04x}{command:04x}"
    return _NOBODY, _NOBODY


def _bus_number(index: int, *, primary: bool) -> int:
    return 2 * index + (2 if primary else 1)


def _hmp_set_parameter(vm: Machine, rest: str) -> str:
    name, _, value = rest.partition(" ")
    if name not in vm.parameters:
        return f"Error: invalid parameter value: {name}\r\n"
    unit = MIB if name.endswith("bandwidth") else 1
    vm.parameters[name] = _hmp_value(value, vm.parameters[name], unit)
    vm.parameters_changed()
    return ""


def _hmp_value(text: str, old: Any, unit: int) -> Any:
    """Of the type the value had."""
    if isinstance(old, bool):
        return text == "on"
    return int(text) * unit if isinstance(old, int) else text


def _mtree(vm: Machine) -> str:
    mmcfg = f"    {MMCFG:016x}-{MMCFG + 0xFFFFFFF:016x} (prio 0, i/o): pcie-mmcfg-mmio\r\n" if vm.scenario.q35 else ""
    return (
        "address-space: cpu-memory-0\r\n"
        "address-space: memory\r\n"
        "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\r\n"
        f"    0000000000000000-{vm.ram - 1:016x} (prio 0, ram): alias ram-below-4g @pc.ram "
        f"0000000000000000-{vm.ram - 1:016x}\r\n"
        "    0000000000000000-ffffffffffffffff (prio -1, i/o): pci\r\n"
        f"{mmcfg}"
        "    00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r\n"
        "    00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi\r\n"
        "\r\n"
    )


def _ramblock(vm: Machine) -> str:
    blocks = [("pc.ram", vm.ram), ("pc.bios", 0x40000), ("pc.rom", 0x20000), ("/rom@etc/acpi/tables", 0x200000)]
    if vm.scenario.option_rom:
        blocks += [(f"0000:00:02.{index}:00.0/e1000e.rom", 0x40000) for index, _ in enumerate(vm.cards)]
    lines = ["              Block Name    PSize              Offset               Used              Total"]
    offset = 0
    for name, size in blocks:
        lines.append(f"{name:>24}    4 KiB  0x{offset:016x} 0x{size:016x} 0x{size:016x}")
        offset += size
    return "".join(f"{line}\r\n" for line in lines)


def _migrate_parameters(vm: Machine) -> str:
    return "".join(f"{name}: {_hmp_word(value)}\r\n" for name, value in vm.parameters.items())


def _hmp_word(value: Any) -> Any:
    return ("off", "on")[value] if isinstance(value, bool) else value


_IDLE, _DELAY_LOOP = 0xFFFFFFFF81A4E8CB, 0xFFFFFFFF819EC723


def _registers(vm: Machine) -> str:
    """`info registers` of its one vCPU. A guest that is up idles, and does something now and then, all over its kernel; a
    dead one is in the kernel's delay loop for ever."""
    turn = int(vm.now * 10)
    awake = vm.guest != "dead" and turn % 7 == 0
    pc = _DELAY_LOOP if vm.guest == "dead" else 0xFFFFFFFF81000000 + turn * 0x1357 % 0xA00000 if awake else _IDLE
    flags, halted = ("00000206 [-----P-]", 0) if awake or vm.guest == "dead" else ("00000246 [---Z-P-]", 1)
    return (
        "\r\nCPU#0\r\n"
        "RAX=000000000001ad40 RBX=0000000000000000 RCX=0000000000000000 RDX=4000000000000000\r\n"
        f"RIP={pc:016x} RFL={flags} CPL=0 II=0 A20=1 SMM=0 HLT={halted}\r\n"
        "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n"
    )


def _qtree(vm: Machine) -> str:
    """`info qtree`: the root ports with the cards behind them, indented as QEMU does."""
    lines = ["bus: main-system-bus", "  type System", '  dev: q35-pcihost, id ""', "    bus: pcie.0", "      type PCIE"]
    for index, card in enumerate(vm.cards):
        lines += _qtree_port(_bus_number(index, primary=False), _qtree_standby(card))
        lines += _qtree_port(_bus_number(index, primary=True), _qtree_primary(vm, card))
    lines += _qtree_agent() if vm.scenario.agent else []
    return "".join(f"{line}\r\n" for line in lines)


def _qtree_agent() -> list[str]:
    port = [
        'dev: virtio-serial-pci, id ""',
        "  bus: virtio-bus",
        "    type virtio-pci-bus",
        '    dev: virtio-serial-device, id ""',
        "      bus: virtio-serial-bus.0",
        "        type virtio-serial-bus",
        '        dev: virtserialport, id ""',
        '          chardev = "agent0"',
        "          nr = 1 (0x1)",
        '          name = "org.qemu.guest_agent.0"',
        "          port 1, guest on, host off, throttle off",
    ]
    return [f"      {line}" for line in port]


def agent_chardev(vm: Machine) -> list[dict[str, Any]]:
    """The guest agent's channel in query-chardev."""
    if not vm.scenario.agent:
        return []
    prefix = "" if vm.agent_in_use else "disconnected:"
    filename = f"{prefix}unix:{vm.agent_path},server=on"
    return [{"frontend-open": vm.agent_listens, "filename": filename, "label": "agent0"}]


def _qtree_port(bus: int, behind: list[str]) -> list[str]:
    port = [
        f'dev: pcie-root-port, id "root{bus - 1}"',
        '  failover_pair_id = ""',
        f"  class PCI bridge, addr 00:{bus:02x}.0, pci id 1b36:000c (sub 0000:0000)",
        f"  bus: root{bus - 1}",
        "    type PCIE",
        *(f"    {line.replace('BUS', f'{bus:02x}')}" for line in behind),
    ]
    return [f"      {line}" for line in port]


def _qtree_standby(card: Card) -> list[str]:
    return [
        f'dev: virtio-net-pci, id "{card.standby}"',
        '  failover_pair_id = ""',
        "  class Ethernet controller, addr BUS:00.0, pci id 1af4:1041 (sub 1af4:1100)",
        "  bus: virtio-bus",
        "    type virtio-pci-bus",
        '    dev: virtio-net-device, id ""',
        f'      mac = "{card.mac}"',
        "      failover = true",
    ]


def _qtree_primary(vm: Machine, card: Card) -> list[str]:
    if card.state is CardState.DELETED:
        return []
    rom = ("efi-e1000e.rom", 1) if vm.scenario.option_rom else ("", 0)
    return [
        f'dev: e1000e, id "{card.id}"',
        f'  mac = "{card.mac}"',
        f'  netdev = "{card.netdev}"',
        f'  romfile = "{rom[0]}"',
        f"  rombar = {rom[1]} (0x{rom[1]:x})",
        f'  failover_pair_id = "{card.standby}"',
        "  class Ethernet controller, addr BUS:00.0, pci id 8086:10d3 (sub 8086:0000)",
    ]


_INFO: dict[str, Callable[[Machine], str]] = {
    "migrate_parameters": _migrate_parameters,
    "mtree": _mtree,
    "name": lambda vm: f"{vm.name}\r\n",
    "qtree": _qtree,
    "ramblock": _ramblock,
    "registers -a": _registers,
    "status": lambda vm: f"VM status: {vm.runstate if vm.running else f'paused ({vm.runstate})'}\r\n",
}


# PCI


def pci(vm: Machine) -> list[dict[str, Any]]:
    """query-pci: root ports on bus 0, a card behind each."""
    on_root = [_pci_device(0, 0, "", (1536, "Host bridge"), (10688, 32902))]
    for index, card in enumerate(vm.cards):
        on_root += [_bridge(vm, index, card, primary=False), _bridge(vm, index, card, primary=True)]
    on_root.append(_pci_device(0, len(on_root), "vd0", (256, "SCSI controller"), (4097, 6900)))
    on_root.append(_pci_device(0, 31, "", (1537, "ISA bridge"), (10520, 32902)))
    return [{"bus": 0, "devices": on_root}]


def _bridge(vm: Machine, index: int, card: Card, *, primary: bool) -> dict[str, Any]:
    bus = _bus_number(index, primary=primary)
    behind: list[dict[str, Any]] = []
    if not primary:
        behind = [_pci_device(bus, 0, card.standby, (512, "Ethernet controller"), (4161, 6900))]
    elif card.state is not CardState.DELETED:
        behind = [_pci_device(bus, 0, card.id, (512, "Ethernet controller"), (_E1000E >> 16, _E1000E & 0xFFFF))]
    bridge = _pci_device(0, bus, f"root{bus - 1}", (1540, "PCI bridge"), (12, 6966))
    window = 0xFE000000 + (bus << 20)
    bridge["pci_bridge"] = {
        "bus": {
            "prefetchable_range": {"limit": window + 0x1FFFFF, "base": window},
            "memory_range": {"limit": window + 0x1FFFFF, "base": window},
            "secondary": bus,
            "io_range": {"limit": 53247, "base": 49152},
            "number": 0,
            "subordinate": bus,
        },
        "devices": behind,
    }
    return bridge


def _pci_device(bus: int, slot: int, name: str, kind: tuple[int, str], ids: tuple[int, int]) -> dict[str, Any]:
    return {
        "irq_pin": 1,
        "bus": bus,
        "qdev_id": name,
        "irq": 10,
        "slot": slot,
        "class_info": {"class": kind[0], "desc": kind[1]},
        "id": {"device": ids[0], "subsystem-vendor": 6900, "vendor": ids[1], "subsystem": 4352},
        "function": 0,
        "regions": [],
    }


# QOM

_PERIPHERAL = "/machine/peripheral"

_TYPES = {
    "type": "string", "realized": "bool", "hotplugged": "bool", "hotpluggable": "bool", "parent_bus": "link<bus>",
    "failover_pair_id": "str", "romfile": "str", "addr": "int32", "romsize": "uint32", "rombar": "uint32",
    "acpi-index": "uint32", "multifunction": "bool", "netdev": "str", "mac": "str", "bootindex": "int32",
    "failover": "bool", "drive": "str",
}  # fmt: skip
_COMMON: dict[str, Any] = {"realized": True, "hotplugged": False, "hotpluggable": True, "addr": 0}
_ROM: dict[str, Any] = {"romsize": 4294967295, "acpi-index": 0, "multifunction": False, "bootindex": -1}


def _properties(vm: Machine, path: str) -> dict[str, Any] | None:
    """name -> value of the device at a QOM path."""
    if path == "/machine":
        major, minor, _ = vm.profile.version
        machine = "q35" if vm.scenario.q35 else "i440fx"
        return {"type": f"pc-{machine}-{major}.{minor}-machine"}
    name = path.removeprefix(f"{_PERIPHERAL}/")
    kind = devices(vm).get(name)
    if kind is None or name == path:
        return None
    return {"type": kind, **_COMMON, **_own_properties(vm, name)}


def _own_properties(vm: Machine, name: str) -> dict[str, Any]:
    for card in vm.cards:
        if name == card.id:
            has_rom = vm.scenario.option_rom
            rom = {"rombar": int(has_rom), "romfile": "efi-e1000e.rom" if has_rom else ""}
            link = {"failover_pair_id": card.standby, "netdev": card.netdev, "mac": card.mac}
            return {"parent_bus": f"{_PERIPHERAL}/{card.bus}/{card.bus}", **link, **rom, **_ROM}
        if name == card.standby:
            bus = f"root{int(card.bus.removeprefix('root')) - 1}"
            standby: dict[str, Any] = {"failover": True, "failover_pair_id": "", "netdev": f"hs{bus.removeprefix('root')}"}
            rom = {"rombar": 1, "romfile": "efi-virtio.rom"}
            return {"parent_bus": f"{_PERIPHERAL}/{bus}/{bus}", **standby, "mac": card.mac, **rom, **_ROM}
    return {}


def qom_list(vm: Machine, path: str) -> list[dict[str, str]]:
    if path == _PERIPHERAL:
        return [_entry("type", "string"), *(_entry(name, f"child<{kind}>") for name, kind in devices(vm).items())]
    if path == f"{_PERIPHERAL}-anon":
        return [_entry("type", "string"), _entry("device[0]", "child<pvpanic>")]
    properties = _properties(vm, path)
    if properties is None:
        raise Refused(f"Device '{path}' not found", "DeviceNotFound")
    children = [_entry("peripheral", "child<container>"), _entry("peripheral-anon", "child<container>")]
    return [_entry(name, _TYPES[name]) for name in properties] + (children if path == "/machine" else [])


def _entry(name: str, kind: str) -> dict[str, str]:
    return {"name": name, "type": kind}


def qom_get(vm: Machine, path: str, name: str) -> Any:
    properties = _properties(vm, path)
    if path == f"{_PERIPHERAL}-anon/device[0]":
        properties = {"type": "pvpanic"}
    if properties is None:
        raise Refused(f"Device '{path}' not found", "DeviceNotFound")
    if name not in properties:
        raise Refused(f"Property '{properties['type']}.{name}' not found")
    return properties[name]


_DEVICE_PROPERTIES: dict[str, tuple[str, ...]] = {
    "e1000e": ("failover_pair_id", "romfile", "addr", "romsize", "rombar", "acpi-index", "multifunction", "netdev",
               "mac", "bootindex"),
    "virtio-net-pci": ("failover_pair_id", "romfile", "addr", "romsize", "rombar", "acpi-index", "multifunction",
                       "netdev", "mac", "bootindex", "failover"),
}  # fmt: skip


def device_list_properties(kind: str) -> list[dict[str, str]]:
    if kind not in _DEVICE_PROPERTIES:
        raise Refused(f"Device '{kind}' not found", "DeviceNotFound")
    return [_entry(name, _TYPES[name]) for name in _DEVICE_PROPERTIES[kind]]


# Everything else

CPUS = [
    {
        "thread-id": 4242,
        "props": {"core-id": 0, "thread-id": 0, "socket-id": 0},
        "qom-path": "/machine/unattached/device[0]",
        "cpu-index": 0,
        "target": "x86_64",
    }
]


def machines(vm: Machine) -> list[dict[str, Any]]:
    major, minor, _ = vm.profile.version
    return [
        {
            "hotpluggable-cpus": True,
            "name": f"pc-q35-{major}.{minor}",
            "numa-mem-supported": True,
            "default-cpu-type": "qemu64-x86_64-cpu",
            "cpu-max": 288,
            "deprecated": False,
            "default-ram-id": "pc.ram",
            "alias": "q35",
        }
    ]


def block_nodes(vm: Machine) -> list[dict[str, Any]]:
    """query-named-block-nodes: one qcow2 disk, a node for each of its layers."""
    return [_node(name, path) for name, path in vm.disks]


def block(vm: Machine) -> list[dict[str, Any]]:
    """query-block"""
    return [
        {
            "io-status": "ok",
            "device": "",
            "locked": False,
            "removable": False,
            "inserted": _node(*vm.disks[0]),
            "qdev": "/machine/peripheral/vd0/virtio-backend",
            "type": "unknown",
        }
    ]


def _node(name: str, path: str) -> dict[str, Any]:
    return {
        "iops_rd": 0, "detect_zeroes": "off", "iops_wr": 0, "ro": False, "node-name": name,
        "backing_file_depth": 0, "drv": "qcow2", "iops": 0, "bps_wr": 0, "write_threshold": 0, "encrypted": False,
        "bps": 0, "bps_rd": 0, "cache": {"no-flush": False, "direct": False, "writeback": True}, "file": path,
        "image": {
            "virtual-size": 67108864, "filename": path, "cluster-size": 65536, "format": "qcow2",
            "actual-size": 200704, "dirty-flag": False,
        },
    }  # fmt: skip
