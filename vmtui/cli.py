"""The command line: which command, with which options, and the exit code. Each command imports what it needs itself."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmtui import __version__

if TYPE_CHECKING:
    from vmtui.backend.core.model import Options
    from vmtui.backend.discovery import FoundVm

EPILOG = """\
examples:
  vmtui                              the terminal UI, on the VMs of this host
  vmtui list                         the VMs of this host
  vmtui check web1                   may it be saved, and how?
  vmtui params web1 max-bandwidth=1G how fast may a migration be?
  vmtui save web1                    save it; the guest stands still only for the copy
  vmtui save unix:/run/web1.qmp --then quit --output /backup/web1.vmstate
  vmtui dump web1                    its memory as a core file, for crash or drgn
  vmtui snapshots                    the saved states, and which of them are whole
  vmtui verify /backup/web1.vmstate  what is in a saved state, and is it whole?
  vmtui restore /backup/web1.vmstate --cont
  vmtui demo                         try it all on simulated VMs
  vmtui lab up && vmtui save lab1    and on a tiny real guest

exit codes: 0 done; 1 failed, VM as before; 2 usage; 3 cannot reach the VM; 4 refused, nothing touched;
5 cancelled, VM as before; 6 the guest did not let go, VM as before; 7 file or store; 10 the VM needs attention
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A stdout that nobody reads, or that there is none, ends nothing."""
    _stand_in_for_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name still shows the verdict
    try:
        return _main(argv)
    except BrokenPipeError:
        return 0
    finally:
        _let_go_of_a_broken_pipe()


def _stand_in_for_closed_streams() -> None:
    """After `>&-` the next file that is opened would be stdout."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (last := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(last)
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _let_go_of_a_broken_pipe() -> None:
    """Python would try once more to write what is left when it ends, and complain."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"vmtui {__version__}")
        return 0
    parser = build_parser()
    given = parser.parse_args(_with_command(arguments, parser))
    return _guarded(given.run, given)


def _with_command(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """`vmtui` and `vmtui VM ...` mean `vmtui ui ...`: a first word that is no command is a VM."""
    if {"-h", "--help", "--version"} & set(arguments[:1]):
        return arguments
    if not arguments and not sys.stdout.isatty():
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    first = next((word for word in arguments if not word.startswith("-")), "")
    return arguments if first in _command_names(parser) else ["ui", *arguments]


def _command_names(parser: argparse.ArgumentParser) -> set[str]:
    actions = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return {name for each in actions for name in each.choices}


def _guarded(command: Callable[[Any], int], given: argparse.Namespace) -> int:
    """The outermost edge: an error that a user can cause is one line on stderr."""
    from vmtui.backend.core.errors import VmtuiError

    try:
        return command(given)
    except VmtuiError as error:
        lines = "\n".join(map(_printable, str(error).split("\n")))
        sys.stderr.write(f"vmtui: {lines}\n")
        if getattr(given, "json", False) and given.run in (_save, _resume, _dump, _attach, _wait, _cancel):
            _print_result_of_nothing(
                getattr(given, "job", None) or getattr(given, "vm", None) or "", int(error.code), str(error)
            )
        return int(error.code)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        sys.stderr.write("vmtui: interrupted; what was under way goes on (vmtui jobs)\n")
        return 5
    except Exception as error:
        if "VMTUI_DEBUG" in os.environ:
            raise
        sys.stderr.write(f"vmtui: a bug in vmtui: {_root_of(error)!r}. {WAY_OUT}\n")
        return 10


def _print_result_of_nothing(vm: str, code: int, error: str) -> None:
    """The last line of --json is a result, also where nothing could be begun."""
    import json

    result = {"outcome": "refused" if code == 4 else "failed", "exit_code": code, "vm": vm, "error": error}
    print(json.dumps({"t": 0.0, "kind": "result", **result}))


WAY_OUT = (
    "If a save was under way, look at the VM: vmtui check VM; vmtui resume VM makes it run with its card. "
    "VMTUI_DEBUG=1 shows where it happened"
)


def _root_of(error: BaseException) -> BaseException:
    """What is behind a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmtui",
        description="Save live QEMU VMs whose failover network card the guest must let go first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmtui {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        _add_ui,
        _add_save,
        _add_check,
        _add_resume,
        _add_heal,
        _add_dump,
        _add_attach,
        _add_jobs,
        _add_wait,
        _add_cancel,
        _add_recover,
        _add_release,
        _add_params,
        _add_list,
        _add_snapshots,
        _add_verify,
        _add_restore,
        _add_delete,
        _add_replay,
        _add_lab,
        _add_sim,
        _add_demo,
        _add_engine,
        _add_completion,
    ):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_vm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", help="a name, a uuid, a path to a QMP socket, unix:PATH or tcp:HOST:PORT")
    parser.add_argument("--json", action="store_true", help="NDJSON on stdout; the last line is the result")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: NAME-TIME.vmstate in --dir)")
    parser.add_argument("--dir", metavar="DIR", help="the snapshot directory (also VMTUI_SNAPSHOT_DIR)")
    strategies = ["auto", "pause-vm", "pause-after-unplug", "stop-first", "background"]
    parser.add_argument(
        "--strategy", choices=strategies, default="auto", help="how to save (default: auto, which says why)"
    )
    parser.add_argument(
        "--then",
        choices=["resume", "stay-paused", "quit"],
        default="resume",
        help="what becomes of the VM (default: resume)",
    )


# --- the screen ---------------------------------------------------------------------------------------------------


def _add_ui(commands: Any) -> None:
    parser = _command(commands, "ui", _ui, "the terminal UI; also what vmtui does without a command")
    parser.add_argument("vm", metavar="VM", nargs="*", help="show these and no others (default: the VMs of this host)")
    parser.add_argument("--read-only", action="store_true", help="look, and change nothing")
    parser.add_argument("--plain", action="store_true", help="lines instead of a screen: for screen readers and TERM=dumb")
    parser.add_argument("--dir", metavar="DIR", help="the snapshot directory (also VMTUI_SNAPSHOT_DIR)")


def _ui(given: argparse.Namespace) -> int:
    from vmtui.backend.core.errors import UsageError

    try:
        return _shown(given)
    except UsageError as error:
        raise UsageError(f"{error}{_meant_command(given.vm)}") from error


def _meant_command(words: list[str]) -> str:
    """For `vmtui savee web1`, which asks for a VM called savee."""
    import difflib

    near = difflib.get_close_matches(words[0], sorted(_command_names(build_parser())), 1, 0.75) if words else []
    return f"\nDid you mean the command {near[0]}: vmtui {_printable(' '.join([near[0], *words[1:]]))}" if near else ""


def _shown(given: argparse.Namespace) -> int:
    from vmtui.backend.core.errors import UsageError

    if given.plain or os.environ.get("TERM") == "dumb":
        from vmtui import plain

        return plain.show(given.vm, directory=given.dir, read_only=given.read_only)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the terminal UI needs a terminal; without one: vmtui list, vmtui save VM --json")
    from vmtui import ui

    return ui.show(given.vm, directory=given.dir, read_only=given.read_only)


# --- save, check, resume ------------------------------------------------------------------------------------------


def _add_save(commands: Any) -> None:
    parser = _command(commands, "save", _save, "save a live VM to a file")
    _add_vm(parser)
    _add_place(parser)
    parser.add_argument(
        "--unplug-timeout", type=_positive, default=30.0, metavar="SECONDS",
        help="how long the guest may take to let go of its card (default: 30)",
    )  # fmt: skip
    parser.add_argument(
        "--on-stuck",
        choices=["cancel", "wait", "dump"],
        default="cancel",
        help="what to do when that time is up (default: cancel); dump: cancel, then write a core dump beside it",
    )
    parser.add_argument(
        "--detach", action="store_true", help="return as soon as it is under way, with the id of the job: see vmtui wait"
    )
    parser.add_argument(
        "--release", action="store_true", help="give the monitor back afterwards, also where a screen of vmtui holds it"
    )
    parser.add_argument(
        "--no-panic-guard", action="store_false", dest="panic_guard",
        help="let a panic end QEMU, where it would (default: while it is saved, a panic only stops the guest)",
    )  # fmt: skip


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", _check, "say whether a VM can be saved, and how; changes nothing")
    _add_vm(parser)
    _add_place(parser)


def _add_resume(commands: Any) -> None:
    parser = _command(commands, "resume", _resume, "make a VM run that was left paused, and bring its failover card back")
    _add_vm(parser)


def _add_heal(commands: Any) -> None:
    parser = _command(
        commands,
        "heal",
        _resume,
        "bring a failover card back that another tool, or a crash, left out or lost, and prove it",
    )
    _add_vm(parser)


DUMP_FORMATS = ["auto", "elf", "kdump-zlib", "kdump-lzo", "kdump-snappy", "kdump-raw-zlib", "kdump-raw-lzo",
                "kdump-raw-snappy", "win-dmp"]  # fmt: skip
"""What QEMU may offer; what this one does is found out before anything is touched."""


def _add_dump(commands: Any) -> None:
    parser = _command(
        commands,
        "dump",
        _dump,
        "write a guest's memory to a core file (also of a crashed one), and leave the guest as it is",
    )
    _add_vm(parser)
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: NAME-TIME.vmcore in --dir)")
    parser.add_argument("--dir", metavar="DIR", help="the snapshot directory (also VMTUI_SNAPSHOT_DIR)")
    parser.add_argument(
        "--format", choices=DUMP_FORMATS, default="auto", help="how it is written (default: auto, which says why)"
    )


def _dump(given: argparse.Namespace) -> int:
    from vmtui import headless
    from vmtui.backend.core.model import Goal, Options

    vm = _find(given.vm)
    wanted = "" if given.format == "auto" else given.format
    options = Options(
        goal=Goal.DUMP,
        output=_output(given, vm.name, "vmcore"),
        dump_format=wanted,
        makes_directory=not _named_place(given),
    )
    return _finish(headless.run(vm, options, headless.printer_for(as_json=given.json)), given)


def _add_params(commands: Any) -> None:
    parser = _command(
        commands, "params", _params, "show a VM's migration parameters and capabilities, or set them with NAME=VALUE"
    )
    parser.add_argument("vm", metavar="VM", help="a name, a uuid, a path to a QMP socket, unix:PATH or tcp:HOST:PORT")
    parser.add_argument(
        "setting", metavar="NAME[=VALUE]", nargs="*",
        help="one to show, or to set: max-bandwidth=100M, downtime-limit=300ms, multifd=on (default: show all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object for each")


def _params(given: argparse.Namespace) -> int:
    from vmtui import params

    return params.show(_find(given.vm), given.setting, as_json=given.json)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _save(given: argparse.Namespace) -> int:
    from vmtui import headless

    vm, options = _target(given, "save")
    if given.detach:
        from vmtui import jobs

        return jobs.begin(vm, options, as_json=given.json)
    printer = headless.printer_for(as_json=given.json)
    return _finish(headless.run(vm, options, printer, give_back=given.release), given)


def _check(given: argparse.Namespace) -> int:
    from vmtui import headless
    from vmtui.backend.core.errors import Exit

    vm, options = _target(given, "check")
    printer = headless.CheckJsonPrinter() if given.json else headless.CheckPrinter()
    result = headless.run(vm, options, printer)
    return _finish(result, given) or (Exit.REFUSED if printer.blocked else Exit.OK)


def _resume(given: argparse.Namespace) -> int:
    from vmtui import headless
    from vmtui.backend.core.model import Goal, Options

    vm = _find(given.vm)
    options = Options(goal=Goal.RESUME)
    return _finish(headless.run(vm, options, headless.printer_for(as_json=given.json)), given)


def _finish(result: Any, given: argparse.Namespace) -> int:
    """The exit code; with --json a person who looks at stderr still learns what went wrong."""
    if result.exit_code and given.json:
        words = [result.error, *(result.notes if result.exit_code == 10 else ())]
        sys.stderr.write(f"vmtui: {_printable(result.vm)}: {_printable('; '.join(filter(None, words)))}\n")
    return int(result.exit_code)


def _target(given: argparse.Namespace, goal: str) -> "tuple[FoundVm, Options]":
    from vmtui.backend.core.model import Goal, OnStuck, Options, Strategy, Then

    vm = _find(given.vm)
    return vm, Options(
        goal=Goal(goal),
        output=_output(given, vm.name),
        strategy=Strategy(given.strategy),
        then=Then(given.then),
        unplug_timeout=getattr(given, "unplug_timeout", 30.0),
        on_stuck=OnStuck(getattr(given, "on_stuck", "cancel")),
        panic_guard=getattr(given, "panic_guard", True),
        makes_directory=not _named_place(given),
    )


def _named_place(given: argparse.Namespace) -> bool:
    return bool(given.output or given.dir)


def _output(given: argparse.Namespace, name: str, ending: str = "vmstate") -> str:
    """The file to write."""
    from vmtui.backend import config
    from vmtui.backend.core.errors import UsageError

    if given.output is not None:
        if not given.output or "\0" in given.output:
            raise UsageError("--output needs the name of a file")
        path = Path(given.output).absolute()
    else:
        path = config.default_output(config.snapshot_dir(given.dir), name, ending)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{_printable(str(path))} is not UTF-8: QEMU and JSON cannot name it") from error
    return str(path)


def _find(spec: str) -> "FoundVm":
    from vmtui.backend import discovery

    return discovery.resolve(spec, discovery.discover())


def _printable(text: str) -> str:
    from vmtui.backend.core.text import printable

    return printable(text)


# --- the engine, and what it does -----------------------------------------------------------------------------------


def _add_attach(commands: Any) -> None:
    parser = _command(
        commands,
        "attach",
        _attach,
        "show what is done to a VM already, from its beginning; every terminal may, at any time. Ctrl-C and SIGTERM end "
        "only the looking on: vmtui cancel VM cancels",
    )
    parser.add_argument("vm", metavar="VM", nargs="?", help="a VM or a job (default: the only one that is worked on)")
    parser.add_argument("--json", action="store_true", help="NDJSON on stdout; the last line is the result")


def _attach(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.attach(given.vm, as_json=given.json)


def _add_jobs(commands: Any) -> None:
    parser = _command(commands, "jobs", _jobs, "what was done to VMs, and what is under way, the latest last")
    parser.add_argument("--all", action="store_true", help="all that journals tell of (default: the last 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _jobs(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.show(as_json=given.json, everything=given.all)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="a job's id, as vmtui jobs shows it, or a VM")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")


def _add_wait(commands: Any) -> None:
    _add_job(_command(commands, "wait", _wait, "wait until a job is over; the exit code is the job's"))


def _wait(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.wait(given.job, as_json=given.json)


def _add_cancel(commands: Any) -> None:
    _add_job(_command(commands, "cancel", _cancel, "undo what is done to a VM, and wait until the VM is as before"))


def _cancel(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.cancel(given.job, as_json=given.json)


def _add_recover(commands: Any) -> None:
    parser = _command(commands, "recover", _recover, "finish or undo what was under way when vmtui, or the host, was ended")
    parser.add_argument("--dry-run", action="store_true", help="say what there is, and do nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object for each")


def _recover(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.recover(dry_run=given.dry_run, as_json=given.json)


def _add_release(commands: Any) -> None:
    parser = _command(commands, "release", _release, "give a VM's monitor back to others, until vmtui needs it again")
    parser.add_argument("vm", metavar="VM", help="a name, a uuid, a path to a QMP socket, unix:PATH or tcp:HOST:PORT")


def _release(given: argparse.Namespace) -> int:
    from vmtui import jobs

    return jobs.release(given.vm)


def _add_engine(commands: Any) -> None:
    parser = _command(
        commands,
        "engine",
        _engine("status"),
        "the process that works on the VMs: it is started by itself",
    )
    parser.set_defaults(json=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    status = _command(actions, "status", _engine("status"), "is it there, and what is it doing? (also without an action)")
    status.add_argument("--json", action="store_true", help="one JSON object")
    stop = _command(actions, "stop", _engine("stop"), "end it once nothing is under way; it begins nothing new")
    stop.add_argument("--cancel", action="store_true", help="undo what is under way, and end")
    _command(actions, "log", _engine("log"), "the last lines of what it said")
    run = _command(actions, "run", _engine("run"), "be it: what vmtui starts by itself")
    run.add_argument("--detach", action="store_true", help=argparse.SUPPRESS)


def _engine(action: str) -> Callable[[argparse.Namespace], int]:
    def run(given: argparse.Namespace) -> int:
        from vmtui import engine_command

        match action:
            case "status":
                return engine_command.status(as_json=given.json)
            case "stop":
                return engine_command.stop(cancel=given.cancel)
            case "run":
                return engine_command.run(detach=given.detach)
        return engine_command.log()

    return run


# --- list, verify, restore, replay --------------------------------------------------------------------------------


def _add_list(commands: Any) -> None:
    parser = _command(commands, "list", _list, "show the VMs of this host")
    parser.add_argument("vm", metavar="VM", nargs="*", help="monitors to show beside those that are found")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _list(given: argparse.Namespace) -> int:
    from vmtui import listing

    return listing.show(given.vm, as_json=given.json)


def _add_snapshots(commands: Any) -> None:
    parser = _command(commands, "snapshots", _snapshots, "show the saved states of a directory")
    parser.add_argument("--dir", metavar="DIR", help="the snapshot directory (also VMTUI_SNAPSHOT_DIR)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _snapshots(given: argparse.Namespace) -> int:
    from vmtui import snapshots

    return snapshots.show(given.dir, as_json=given.json)


def _add_delete(commands: Any) -> None:
    parser = _command(commands, "delete", _delete, "delete a saved state and its manifest; asks first")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _delete(given: argparse.Namespace) -> int:
    from vmtui import snapshots

    return snapshots.delete(given.file, yes=given.yes)


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", _verify, "read a saved state through and say what is in it")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _verify(given: argparse.Namespace) -> int:
    from vmtui import files

    return files.verify(given.file, as_json=given.json)


def _add_restore(commands: Any) -> None:
    parser = _command(commands, "restore", _restore, "start a QEMU from a saved state")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--print", action="store_true", dest="only_print", help="only print the command, for your shell")
    parser.add_argument("--cont", action="store_true", help="let the guest run once it is loaded")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _restore(given: argparse.Namespace) -> int:
    from vmtui import files

    return files.restore(given.file, only_print=given.only_print, cont=given.cont, as_json=given.json)


def _add_replay(commands: Any) -> None:
    parser = _command(commands, "replay", _replay, "show a journal again, as it happened")
    parser.add_argument("journal", metavar="JOURNAL", type=Path)
    parser.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="times as fast (default: 1)")
    parser.add_argument("--json", action="store_true", help="NDJSON, as save --json printed it")


def _replay(given: argparse.Namespace) -> int:
    from vmtui import replay

    return replay.show(given.journal, speed=given.speed, as_json=given.json)


# --- lab ----------------------------------------------------------------------------------------------------------


def _add_lab(commands: Any) -> None:
    parser = _command(commands, "lab", lambda _given: _usage(parser), "tiny real guests, to try and to test with")
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    up = _command(actions, "up", _lab("up"), "boot guests, and wait until they are ready")
    up.add_argument("--count", type=int, default=1, metavar="N", help="how many (default: 1)")
    up.add_argument("--name", action="append", metavar="NAME", help="what to call it (default: lab1, lab2, ...)")
    up.add_argument("--qemu", default="qemu-system-x86_64", metavar="PATH", help="the QEMU to run them in")
    up.add_argument("--memory", type=int, default=256, metavar="MIB", help="RAM of each (default: 256)")
    up.add_argument("--no-failover", action="store_true", help="one plain network card")
    up.add_argument("--no-pvpanic", action="store_true", help="no panic device: a crash is only silence")
    up.add_argument("--stubborn", action="store_true", help="a guest that never lets go of its card")
    up.add_argument("--json", action="store_true", help="one JSON object a line")
    listed = _command(actions, "list", _lab("list"), "the guests that are up")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    down = _command(actions, "down", _lab("down"), "end guests, and remove their files")
    down.add_argument("name", metavar="NAME", nargs="*", help="which (default: all)")
    crash = _command(actions, "crash", _lab("crash"), "make a guest's kernel panic")
    crash.add_argument("name", metavar="NAME")


def _lab(action: str) -> Callable[[argparse.Namespace], int]:
    def run(given: argparse.Namespace) -> int:
        from vmtui import lab

        result: int = getattr(lab, f"show_{action}")(given)
        return result

    return run


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return 2


# --- sim, demo ----------------------------------------------------------------------------------------------------


def _add_sim(commands: Any) -> None:
    parser = _command(
        commands, "sim", _sim, "serve simulated VMs that misbehave as asked: for tests of anything that speaks QMP"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, metavar="PATH", help="the socket of one VM")
    where.add_argument(
        "--dir", type=Path, metavar="DIR", help="serve DIR/NAME.qmp; VMTUI_DEMO_DIR=DIR vmtui list shows them"
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many, in --dir (default: 1)")
    parser.add_argument("--name", default="vm", metavar="NAME", help="what they are called (default: vm, or vm1, vm2, ...)")
    profiles = ["stock-7.2", "stock-10.0", "stock-11.1", "pause-vm-10.0"]
    parser.add_argument("--profile", choices=profiles, default="stock-10.0", help="which QEMU (default: stock-10.0)")
    parser.add_argument(
        "--scenario", action="extend", nargs="+", metavar="S", help="what happens to them; --list shows all, they combine"
    )
    parser.add_argument("--list", action="store_true", help="the scenarios, a line for each")
    parser.add_argument(
        "--second-monitor", action="store_true", help="each has another monitor, SOCKET.monitor, to look through"
    )
    parser.add_argument("--replay", type=Path, metavar="JOURNAL", help="play QEMU's part of a recorded journal")
    _add_pace(parser, "256M")
    parser.add_argument("--seed", type=int, metavar="N", help="let the guests differ, in the same way each time")
    parser.add_argument("--json", action="store_true", help="one JSON object for each VM that is served")


def _add_pace(parser: argparse.ArgumentParser, limit: str) -> None:
    parser.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="their clock runs X times as fast")
    parser.add_argument(
        "--file-limit", default=limit, metavar="SIZE", help=f"a saved file is no larger than about this (default: {limit})"
    )


def _sim(given: argparse.Namespace) -> int:
    from vmtui import simulate

    return simulate.show(given)


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", _demo, "try it all on simulated VMs, without QEMU or root; --tour tells the story")
    parser.add_argument("--scenario", action="extend", nargs="+", metavar="S", help="one more VM, in which this happens")
    profiles = ["stock-7.2", "stock-10.0", "stock-11.1", "pause-vm-10.0"]
    parser.add_argument("--profile", choices=profiles, default="stock-10.0", help="its QEMU (default: stock-10.0)")
    _add_pace(parser, "32M")
    parser.add_argument("--tour", action="store_true", help="three acts: the hang, the save, the crash; a key goes on")
    parser.add_argument("--auto", action="store_true", help="the tour goes on by itself")
    parser.add_argument("--shell", action="store_true", help="a shell among them, for the command line")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="run this among them, instead of the terminal UI")


def _demo(given: argparse.Namespace) -> int:
    from vmtui import demo

    return demo.show(given)


# --- completion ---------------------------------------------------------------------------------------------------


def _add_completion(commands: Any) -> None:
    parser = _command(commands, "completion", _completion, "print the completion script of a shell")
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def _completion(given: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(build_parser(), shell=given.shell))
    return 0
