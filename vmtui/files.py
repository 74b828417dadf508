"""`vmtui verify` and `vmtui restore`: what is in a saved state, and how does it run again?"""

import asyncio
import json
import os
import shlex
import sys
from pathlib import Path

import msgspec

from vmtui.backend import restore as restoring
from vmtui.backend.core.cmdline import shell_line
from vmtui.backend.core.errors import Exit, StoreError
from vmtui.backend.core.model import FileReport
from vmtui.backend.core.text import printable
from vmtui.backend.core.words import size
from vmtui.backend.corefile import is_dump, read_dump
from vmtui.backend.stream import StreamReport, read_stream


def verify(path: Path, *, as_json: bool) -> int:
    """Read a stream, or a core dump, through. Exit code 0 when it is whole, 7 when it is not or cannot be read."""
    try:
        report = read_dump(path) if is_dump(path) else read_stream(path)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise StoreError(f"cannot read {printable(str(path), 300)}: {reason}") from error
    if as_json:
        print(json.dumps({"file": str(path), **msgspec.to_builtins(report)}))
    else:
        print(_described_dump(path, report) if isinstance(report, FileReport) else _described(path, report))
    return Exit.OK if report.whole else Exit.STORE


def _described_dump(path: Path, report: FileReport) -> str:
    name = printable(str(path), 300)
    if not report.whole:
        return f"{name}: not whole: {report.trouble}"
    kernel = f"\n  kernel     {report.kernel}" if report.kernel else ""
    return f"{name}: whole, {size(report.size)}\n  core dump  {report.format}, memory in {report.ram_blocks} pieces{kernel}"


def _described(path: Path, report: StreamReport) -> str:
    name = printable(str(path), 300)
    if not report.whole:
        return f"{name}: not whole: {report.trouble}"
    ram = sum(block.size for block in report.ram_blocks)
    lines = [
        f"{name}: whole, {size(report.size)}",
        f"  machine    {printable(report.machine or 'not said')}",
        f"  run state  {printable(report.runstate or 'not said')}",
        f"  RAM        {size(ram)} in {len(report.ram_blocks)} blocks, {report.ram_pages} pages with content",
        *(f"    {printable(block.name, 80):40} {size(block.size)}" for block in report.ram_blocks),
        f"  devices    {len(report.devices)}",
        *(f"    {printable(each.name, 80):40} version {each.version}, {size(each.size)}" for each in report.devices),
    ]
    return "\n".join(lines)


def restore(path: Path, *, only_print: bool, cont: bool, as_json: bool) -> int:
    """Start a QEMU from a snapshot. Refuses, with the reason, what cannot be started or must not be."""
    plan = restoring.plan(path)
    if only_print:
        for note in plan.command.notes:
            sys.stderr.write(f"note: {printable(note)}\n")
        restoring.not_started(plan)
        line = shell_line((*plan.manifest.host.launcher, *plan.command.argv), plan.manifest.host.cwd)
        print(f"mkdir -p -m 700 {printable(shlex.quote(str(plan.directory)), 300)} && {line}")
        sys.stderr.write(_by_hand(plan))
        return Exit.OK
    restored = asyncio.run(restoring.restore(plan, cont=cont))
    if as_json:
        print(json.dumps(msgspec.to_builtins(restored)))
    else:
        print(
            f"{printable(restored.name)}: loaded {printable(str(path), 300)}; run state {restored.runstate}, "
            f"pid {restored.pid}, monitor unix:{restored.monitor}"
        )
        if plan.command.notes:
            print(f"  its own sockets and logs are in {printable(str(plan.directory), 300)}")
        if restored.runstate != "running":
            print("  it waits for cont: use --cont next time, or now: vmtui resume " + f"unix:{restored.monitor}")
    return Exit.OK


def _by_hand(plan: "restoring.Plan") -> str:
    """What is to be typed at the monitor of a QEMU that was started by hand."""
    return (
        "then, on its monitor (HMP), as migrate-incoming takes it:\n"
        f'  migrate_incoming "exec:cat {printable(shlex.quote(str(plan.path)), 300)}"\n'
        "and once info migrate says completed: cont\n"
    )
