"""What does each QMP command do, and what does it answer?

One function a command, one line in the table below. A function gets the machine and the arguments, which the schema
has already accepted, and returns what goes into "return" or raises `Refused`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vmtui.backend.core.sim import shapes
from vmtui.backend.core.sim.machine import LATER, ROMS, Machine, Refused
from vmtui.backend.core.sim.migration import Migration
from vmtui.backend.core.sim.scenario import CardState
from vmtui.backend.core.sim.target import Fd, FdKind, Target, exec_target, fd_target

Arguments = dict[str, Any]
Command = Callable[[Machine, Arguments], Any]

_PAGE = 4096
_WITH_NUMBERS = frozenset({"active", "cancelling", "device", "pre-switchover"})
_FDSET = "/dev/fdset/"


# Run state


def _query_status(vm: Machine, _: Arguments) -> Any:
    singlestep = {"singlestep": False} if vm.profile.singlestep else {}
    return {"status": vm.runstate, **singlestep, "running": vm.running}


def _stop(vm: Machine, _: Arguments) -> Any:
    _not_while_dumping(vm)
    vm.stop_vm("paused")
    return {}


def _cont(vm: Machine, _: Arguments) -> Any:
    _not_while_dumping(vm)
    vm.cont()
    return {}


def _not_while_dumping(vm: Machine) -> None:
    if vm.dumping:
        raise Refused("There is a dump in process, please wait.")


def _system_reset(vm: Machine, _: Arguments) -> Any:
    vm.reset(by_guest=False)
    return {}


def _quit(vm: Machine, _: Arguments) -> Any:
    vm.shut_down("host-qmp-quit", guest=False)
    return {}


def _inject_nmi(vm: Machine, _: Arguments) -> Any:
    vm.nmi()
    return {}


def _set_action(vm: Machine, arguments: Arguments) -> Any:
    vm.panic_action = arguments.get("panic", vm.panic_action)
    return {}


# Migration


def _migrate(vm: Machine, arguments: Arguments) -> Any:
    uri = arguments.get("uri", "")
    scheme, _, rest = uri.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None or (scheme == "file" and not vm.profile.file_uri):
        opener = _unknown_protocol
    vm.migrate(lambda machine: opener(machine, rest))
    return {}


def _open_fd(vm: Machine, name: str) -> Target:
    fd = vm.fds.pop(name, None)
    if fd is None:
        raise Refused(f"File descriptor named '{name}' has not been found")
    if fd.kind in (FdKind.FILE, FdKind.FILE_RDWR) and not vm.profile.fd_to_file:
        raise Refused("fd: migration to a file is not supported. Use file: instead.")
    return fd_target(fd)


def _open_file(vm: Machine, path: str) -> Target:
    if not path.startswith(_FDSET):
        return Target("file", path)
    number = path.removeprefix(_FDSET)
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise Refused(f"Could not parse fdset {path}")
    entries = vm.fdsets.get(int(number), ())
    writable = [fd for fd, _, _ in entries if fd.kind is not FdKind.FILE_RDWR]
    if not writable:
        raise Refused("Failed to find file descriptor with matching flags=0x41")
    return fd_target(writable[0])


def _open_exec(_: Machine, command: str) -> Target:
    return exec_target(command)


def _open_socket(scheme: str) -> Callable[[Machine, str], Target]:
    return lambda _, address: Target(scheme, address)


def _unknown_protocol(vm: Machine, _: str) -> Target:
    if vm.profile.file_uri:
        raise Refused("unknown migration protocol: ")
    raise Refused("Parameter 'uri' expects a valid migration protocol")


_OPENERS: dict[str, Callable[[Machine, str], Target]] = {
    "exec": _open_exec,
    "fd": _open_fd,
    "file": _open_file,
    "tcp": _open_socket("tcp"),
    "unix": _open_socket("unix"),
}


def _migrate_cancel(vm: Machine, _: Arguments) -> Any:
    vm.cancel()
    return {}


def _migrate_start_postcopy(vm: Machine, _: Arguments) -> Any:
    if vm.parameters.get("pause-vm"):
        raise Refused("Migration parameter 'pause-vm' is not compatible with postcopy")
    raise Refused("Enable postcopy with migrate_set_capability before the start of migration")


def _migrate_incoming(vm: Machine, _: Arguments) -> Any:
    vm.load()
    return {}


def _migrate_continue(vm: Machine, _: Arguments) -> Any:
    status = vm.migration.status if vm.migration is not None else "none"
    if status != "pre-switchover":
        raise Refused(f"Migration not in expected state: {status}")
    vm.continue_migration()
    return {}


def _query_migrate(vm: Machine, _: Arguments) -> Any:
    migration = vm.migration
    reply = {} if migration is None else _migration_info(vm, migration)
    blocked = list(vm.scenario.blocked_reasons)
    if vm.dumping:
        blocked.append("Live migration disabled: dump-guest-memory in progress")
    return {**reply, "blocked-reasons": blocked} if blocked else reply


def _migration_info(vm: Machine, migration: Migration) -> dict[str, Any]:
    status = migration.status
    if migration.incoming:
        return {"status": status}
    if status in _WITH_NUMBERS:
        return _numbers(vm, migration)
    if status == "completed":
        return _final_numbers(vm, migration)
    error = {"error-desc": migration.error} if migration.error else {}
    return {"status": status, **error}


def _numbers(vm: Machine, migration: Migration) -> dict[str, Any]:
    ram = _ram(vm, migration)
    remaining = {"remaining": ram["remaining"]} if vm.profile.total_remaining else {}
    return {
        "expected-downtime": vm.parameters["downtime-limit"],
        **remaining,
        "status": migration.status,
        "setup-time": _setup_time(migration),
        "total-time": _milliseconds(vm.now - migration.started),
        "ram": ram,
    }


def _final_numbers(vm: Machine, migration: Migration) -> dict[str, Any]:
    ended = migration.ended_at or vm.now
    switched = migration.switched_at or ended
    return {
        "status": migration.status,
        "setup-time": _setup_time(migration),
        "downtime": _milliseconds(ended - switched),
        "total-time": _milliseconds(ended - migration.started),
        "ram": _ram(vm, migration),
    }


def _setup_time(migration: Migration) -> int:
    return 0 if migration.active_at is None else _milliseconds(migration.active_at - migration.started)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _ram(vm: Machine, migration: Migration) -> dict[str, Any]:
    stream = migration.stream.settled(vm.now)
    total = vm.ram + ROMS
    share = (stream.left + stream.dirty) / stream.size if stream.size and migration.runs else 0.0
    remaining = int(total * min(1.0, share)) // _PAGE * _PAGE
    normal = int(stream.sent) // _PAGE
    skipped = {"skipped": 0} if vm.profile.ram_skipped else {}
    moving = stream.rate if migration.status == "active" else 0.0
    return {
        "total": total,
        "postcopy-requests": 0,
        "dirty-sync-count": migration.passes,
        "multifd-bytes": 0,
        "pages-per-second": int(moving / _PAGE),
        "downtime-bytes": 0,
        "page-size": _PAGE,
        "remaining": remaining,
        "postcopy-bytes": 0,
        "mbps": moving * 8 / 1e6,
        "transferred": int(stream.sent),
        "dirty-sync-missed-zero-copy": 0,
        "precopy-bytes": int(stream.sent),
        "duplicate": max(0, (total - remaining) // _PAGE - normal),
        "dirty-pages-rate": 0,
        **skipped,
        "normal-bytes": normal * _PAGE,
        "normal": normal,
    }


def _query_migrate_parameters(vm: Machine, _: Arguments) -> Any:
    return dict(vm.parameters)


def _migrate_set_parameters(vm: Machine, arguments: Arguments) -> Any:
    for name, value in arguments.items():
        _check_parameter(vm, name, value)
    vm.parameters.update(arguments)
    vm.parameters_changed()
    return {}


_RANGES: dict[str, tuple[int, int, str]] = {
    "multifd-channels":           (1, 255,       "a value between 1 and 255"),
    "downtime-limit":             (0, 2_000_000, "an integer in the range of 0 to (2000 * 1000) ms"),
    "cpu-throttle-initial":       (1, 99,        "an integer in the range of 1 to 99"),
    "cpu-throttle-increment":     (1, 99,        "an integer in the range of 1 to 99"),
    "max-cpu-throttle":           (1, 99,        "an integer in the range of cpu_throttle_initial to 99"),
    "throttle-trigger-threshold": (1, 100,       "an integer in the range of 1 to 100"),
    "announce-initial":           (0, 100_000,   "a value between 0 and 100000"),
    "announce-max":               (0, 100_000,   "a value between 0 and 100000"),
    "announce-rounds":            (0, 1000,      "a value between 0 and 1000"),
    "announce-step":              (1, 10_000,    "a value between 0 and 10000"),
}  # fmt: skip


def _check_parameter(vm: Machine, name: str, value: Any) -> None:
    if name not in vm.parameters:
        raise Refused(f"Parameter '{name}' is unexpected")
    low, high, expected = _RANGES.get(name, (0, 1, ""))
    if expected and not low <= value <= high:
        raise Refused(f"Parameter '{name.replace('-', '_')}' expects {expected}")


def _query_migrate_capabilities(vm: Machine, _: Arguments) -> Any:
    return [{"state": name in vm.capabilities, "capability": name} for name in vm.profile.capabilities]


def _migrate_set_capabilities(vm: Machine, arguments: Arguments) -> Any:
    if vm.migrating:
        raise Refused("There's a migration process in progress")
    wanted = {item["capability"]: item["state"] for item in arguments["capabilities"]}
    for name in wanted:
        if name not in vm.profile.capabilities:
            raise Refused(f"Parameter 'capability' does not accept value '{name}'")
    kept = (name for name in vm.capabilities if wanted.get(name, True))
    vm.capabilities = frozenset((*kept, *(name for name, state in wanted.items() if state)))
    return {}


def _query_yank(vm: Machine, _: Arguments) -> Any:
    migration = [{"type": "migration"}] if vm.migrating else []
    return [{"type": "chardev", "id": "compat_monitor0"}, *migration]


def _query_chardev(vm: Machine, _: Arguments) -> Any:
    monitor = {"frontend-open": True, "filename": "unix:/run/qmp.sock,server=on", "label": "compat_monitor0"}
    return [monitor, *shapes.agent_chardev(vm)]


# File descriptors


def _getfd(vm: Machine, arguments: Arguments) -> Any:
    name = arguments["fdname"]
    passed = _passed(vm)
    if name[:1].isdigit():
        raise Refused("Parameter 'fdname' expects a name not starting with a digit")
    vm.fds[name] = passed
    return {}


def _passed(vm: Machine) -> Fd:
    if vm.passed is None:
        raise Refused("No file descriptor supplied via SCM_RIGHTS")
    return vm.passed


def _closefd(vm: Machine, arguments: Arguments) -> Any:
    if vm.fds.pop(arguments["fdname"], None) is None:
        raise Refused(f"File descriptor named '{arguments['fdname']}' not found")
    return {}


def _add_fd(vm: Machine, arguments: Arguments) -> Any:
    passed = _passed(vm)
    number = arguments.get("fdset-id")
    if number is None:
        number = next(free for free in range(len(vm.fdsets) + 1) if free not in vm.fdsets)
    if number < 0:
        raise Refused("Parameter 'fdset-id' expects a non-negative value")
    own = 17 + sum(len(entries) for entries in vm.fdsets.values())
    vm.fdsets[number] = (*vm.fdsets.get(number, ()), (passed, own, arguments.get("opaque")))
    return {"fd": own, "fdset-id": number}


def _remove_fd(vm: Machine, arguments: Arguments) -> Any:
    number, own = arguments["fdset-id"], arguments.get("fd")
    entries = vm.fdsets.get(number, ())
    kept = tuple(entry for entry in entries if own is not None and entry[1] != own)
    if len(kept) == len(entries):
        fd = "" if own is None else f", fd:{own}"
        raise Refused(f"File descriptor named 'fdset-id:{number}{fd}' not found")
    vm.fdsets[number] = kept
    if not kept:
        del vm.fdsets[number]
    return {}


def _query_fdsets(vm: Machine, _: Arguments) -> Any:
    return [
        {
            "fds": [{"fd": own, **({} if opaque is None else {"opaque": opaque})} for _, own, opaque in entries],
            "fdset-id": number,
        }
        for number, entries in reversed(vm.fdsets.items())
    ]


# Dumps


def _dump_guest_memory(vm: Machine, arguments: Arguments) -> Any:
    _not_while_dumping(vm)
    dump_format = arguments.get("format", "elf")
    if dump_format not in vm.profile.dump_formats:
        raise Refused(f"{dump_format} is not available now")
    vm.start_dump(_dump_target(vm, arguments["protocol"]), dump_format)
    return {} if arguments.get("detach") else LATER


def _dump_target(vm: Machine, protocol: str) -> Target:
    scheme, _, rest = protocol.partition(":")
    if scheme == "fd":
        fd = vm.fds.pop(rest, None)
        if fd is None:
            raise Refused(f"File descriptor named '{rest}' has not been found")
        return fd_target(fd)
    if scheme == "file":
        return Target("file", rest)
    raise Refused("Invalid parameter 'protocol'")


def _query_dump(vm: Machine, _: Arguments) -> Any:
    return vm.dump_result()


def _query_dump_capability(vm: Machine, _: Arguments) -> Any:
    return {"formats": list(vm.profile.dump_formats)}


# Devices


def _device_add(vm: Machine, arguments: Arguments) -> Any:
    if vm.migrating:
        raise Refused("device_add not allowed while migrating")
    wanted = arguments.get("id")
    known = shapes.devices(vm)
    if wanted in known:
        raise Refused(f"Duplicate device ID '{wanted}'")
    deleted = next((card for card in vm.cards if card.id == wanted and card.state is CardState.DELETED), None)
    if deleted is None or not vm.scenario.addable:
        raise Refused(f"Bus '{arguments.get('bus', '')}' not found")
    if vm.profile.duplicate_id:
        raise Refused(f"Duplicate ID '{wanted}' for device")
    if arguments.get("failover_pair_id") != deleted.standby:
        raise Refused(f"the simulated VM takes '{wanted}' back only with failover_pair_id={deleted.standby}")
    vm.add_card(deleted)
    return {}


def _device_del(vm: Machine, arguments: Arguments) -> Any:
    wanted = arguments["id"]
    if vm.migrating:
        raise Refused("device_del not allowed while migrating")
    if wanted not in shapes.devices(vm):
        raise Refused(f"Device '{wanted}' not found", "DeviceNotFound")
    vm.cards = tuple(
        replace(card, pending=True) if card.id == wanted and card.state is CardState.PLUGGED else card for card in vm.cards
    )
    vm.guest_looks()
    return {}


# Disks


def _transaction(vm: Machine, arguments: Arguments) -> Any:
    for action in arguments["actions"]:
        if action["type"] != "blockdev-snapshot-sync":
            raise Refused(f"the simulated VM does not know how to {action['type']}")
        _blockdev_snapshot_sync(vm, action["data"])
    return {}


def _blockdev_snapshot_sync(vm: Machine, arguments: Arguments) -> Any:
    device, node = arguments.get("device", ""), arguments.get("node-name", "")
    if node != vm.disks[0][0]:
        raise Refused(f"Cannot find device='{device}' nor node-name='{node}'")
    vm.disks = ((arguments.get("snapshot-node-name", "#block100"), arguments["snapshot-file"]), *vm.disks)
    return {}


def _system_powerdown(vm: Machine, _: Arguments) -> Any:
    vm.emit("POWERDOWN")
    return {}


# Questions about the machine


def _query_version(vm: Machine, _: Arguments) -> Any:
    major, minor, micro = vm.profile.version
    return {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": vm.profile.package}


def _memory_size(vm: Machine, _: Arguments) -> Any:
    return {"base-memory": vm.ram, "plugged-memory": 0}


def _human_monitor_command(vm: Machine, arguments: Arguments) -> Any:
    return shapes.human(vm, arguments["command-line"])


def _qom_list(vm: Machine, arguments: Arguments) -> Any:
    return shapes.qom_list(vm, arguments["path"])


def _qom_get(vm: Machine, arguments: Arguments) -> Any:
    return shapes.qom_get(vm, arguments["path"], arguments["property"])


def _device_list_properties(_: Machine, arguments: Arguments) -> Any:
    return shapes.device_list_properties(arguments["typename"])


def _always(answer: Any) -> Command:
    return lambda _vm, _arguments: answer


COMMANDS: dict[str, Command] = {
    "add-fd":                             _add_fd,
    "blockdev-snapshot-sync":             _blockdev_snapshot_sync,
    "closefd":                            _closefd,
    "cont":                               _cont,
    "device-list-properties":             _device_list_properties,
    "device_add":                         _device_add,
    "device_del":                         _device_del,
    "dump-guest-memory":                  _dump_guest_memory,
    "getfd":                              _getfd,
    "human-monitor-command":              _human_monitor_command,
    "inject-nmi":                         _inject_nmi,
    "migrate":                            _migrate,
    "migrate-continue":                   _migrate_continue,
    "migrate-incoming":                   _migrate_incoming,
    "migrate-set-capabilities":           _migrate_set_capabilities,
    "migrate-set-parameters":             _migrate_set_parameters,
    "migrate-start-postcopy":             _migrate_start_postcopy,
    "migrate_cancel":                     _migrate_cancel,
    "qom-get":                            _qom_get,
    "qom-list":                           _qom_list,
    "query-block":                        lambda vm, _: shapes.block(vm),
    "query-chardev":                      _query_chardev,
    "query-cpus-fast":                    _always(shapes.CPUS),
    "query-current-machine":              _always({"wakeup-suspend-support": True}),
    "query-dump":                         _query_dump,
    "query-dump-guest-memory-capability": _query_dump_capability,
    "query-fdsets":                       _query_fdsets,
    "query-jobs":                         _always([]),
    "query-kvm":                          _always({"enabled": False, "present": True}),
    "query-machines":                     lambda vm, _: shapes.machines(vm),
    "query-memory-size-summary":          _memory_size,
    "query-migrate":                      _query_migrate,
    "query-migrate-capabilities":         _query_migrate_capabilities,
    "query-migrate-parameters":           _query_migrate_parameters,
    "query-name":                         lambda vm, _: {"name": vm.name},
    "query-named-block-nodes":            lambda vm, _: shapes.block_nodes(vm),
    "query-pci":                          lambda vm, _: shapes.pci(vm),
    "query-status":                       _query_status,
    "query-target":                       _always({"arch": "x86_64"}),
    "query-uuid":                         lambda vm, _: {"UUID": shapes.uuid(vm)},
    "query-version":                      _query_version,
    "query-yank":                         _query_yank,
    "quit":                               _quit,
    "remove-fd":                          _remove_fd,
    "set-action":                         _set_action,
    "stop":                               _stop,
    "system_powerdown":                   _system_powerdown,
    "system_reset":                       _system_reset,
    "transaction":                        _transaction,
}  # fmt: skip
