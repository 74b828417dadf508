"""How is one QMP message said elsewhere: as JSON, in qmp-shell, in the human monitor (HMP), through virsh?

Each function returns lines that can be pasted, or raises `NoWords` with the reason. Nothing in them is a control character,
whatever was in the message: what is pasted into a shell or a monitor must not press Enter by itself.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from vmtui.backend.core.text import printable

Message = Mapping[str, Any]


class NoWords(ValueError):
    """That way of speaking has no words for it; the text says why."""


class Tongue(StrEnum):
    JSON = "JSON"
    QMP_SHELL = "qmp-shell"
    HMP = "HMP"
    VIRSH = "virsh"


class Saying(msgspec.Struct, frozen=True):
    """One message in one tongue."""

    tongue: Tongue
    text: str = ""
    why_not: str = ""
    """Why it cannot be said, where it cannot."""


def sayings(message: Message, domain: str) -> tuple[Saying, ...]:
    """A message in every tongue; `domain` is the VM's name, for virsh."""
    ways: tuple[tuple[Tongue, Callable[[], str]], ...] = (
        (Tongue.JSON, lambda: as_json(message)),
        (Tongue.QMP_SHELL, lambda: qmp_shell(message)),
        (Tongue.HMP, lambda: hmp(message)),
        (Tongue.VIRSH, lambda: virsh(message, domain)),
    )
    return tuple(_saying(tongue, say) for tongue, say in ways)


def _saying(tongue: Tongue, say: Callable[[], str]) -> Saying:
    try:
        return Saying(tongue, say())
    except NoWords as error:
        return Saying(tongue, why_not=str(error))


def as_json(message: Message, *, pretty: bool = False) -> str:
    """As it was on the wire; ASCII, so that a control character is an escape."""
    return json.dumps(message, indent=2 if pretty else None)


def title(message: Message) -> str:
    """What kind of message it is, in one safe word or two."""
    for kind in ("execute", "exec-oob", "event"):
        if kind in message:
            return printable(str(message[kind]), 60)
    if "error" in message:
        return "error"
    return "return" if "return" in message else "greeting" if "QMP" in message else "message"


def summary(message: Message, answers: str = "") -> str:
    """The message in one safe line; `answers` is the command that a reply is to."""
    body = next((message[key] for key in ("arguments", "data", "return", "error", "QMP") if key in message), None)
    name = title(message)
    if name in ("return", "error") and answers:
        name = f"{name} to {printable(answers, 60)}"
    return f"{name} {printable(_compact(body), 300)}" if body not in (None, {}, []) else name


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_inner(each)}" for key, each in value.items())
    return _inner(value)


def _inner(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def readable(message: Message, *, pretty: bool) -> str:
    """Its JSON for a screen: letters of every script as they are, and what is no letter visible."""
    text = json.dumps(message, ensure_ascii=False, indent=2 if pretty else None)
    return "\n".join(printable(line) for line in text.split("\n"))


def _command(message: Message) -> tuple[str, dict[str, Any]]:
    arguments = message.get("arguments", {})
    if "execute" not in message or not isinstance(arguments, dict):
        raise NoWords("only a command can be sent again")
    return str(message["execute"]), arguments


# --- qmp-shell ----------------------------------------------------------------------------------------------------


def qmp_shell(message: Message) -> str:
    """One line of qmp-shell: `NAME KEY=VALUE ...`. A text with a space in it can stand only within JSON."""
    name, arguments = _command(message)
    return " ".join(
        [_shell_key(name), *(f"{_shell_key(key)}={_shell_value(key, value)}" for key, value in arguments.items())]
    )


def _shell_key(key: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", key, re.ASCII) is None:
        raise NoWords(f"qmp-shell cannot name {printable(key, 60)}")
    return key


def _shell_value(key: str, value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list() | dict():
            return json.dumps(value, separators=(",", ":"))
        case str() if _shell_takes(value):
            return value
    raise NoWords(f"qmp-shell cannot write {printable(key, 60)}={printable(json.dumps(value), 60)}")


def _shell_takes(text: str) -> bool:
    """It would read it as this very text: not as a number, a truth, JSON, or two words."""
    if not text.isascii() or not text.isprintable() or re.search(r"[\s\"']", text) or text.startswith(("{", "[")):
        return False
    try:
        int(text)
    except ValueError:
        return text.lower() not in ("true", "false")
    return False


# --- the human monitor --------------------------------------------------------------------------------------------


def hmp(message: Message) -> str:
    """The same in the human monitor: one line for each setting, where QMP takes several at once."""
    name, arguments = _command(message)
    if name in _SAME_WORD and not arguments:
        return _SAME_WORD[name]
    if name in _HMP:
        try:
            return _HMP[name](arguments)
        except (KeyError, TypeError, AttributeError) as error:
            raise NoWords("HMP has no words for these arguments") from error
    raise NoWords(f"HMP has no {printable(name, 60)}")


_SAME_WORD = {each: each for each in ("stop", "cont", "quit", "migrate_cancel", "system_reset", "system_powerdown",
                                      "system_wakeup")} | {
    "migrate-pause":             "migrate_pause",
    "migrate-start-postcopy":    "migrate_start_postcopy",
    "inject-nmi":                "nmi",
    "query-status":              "info status",
    "query-migrate":             "info migrate",
    "query-migrate-parameters":  "info migrate_parameters",
    "query-migrate-capabilities": "info migrate_capabilities",
    "query-name":                "info name",
    "query-uuid":                "info uuid",
    "query-version":             "info version",
    "query-kvm":                 "info kvm",
    "query-pci":                 "info pci",
    "query-block":               "info block",
    "query-cpus-fast":           "info cpus",
    "query-chardev":             "info chardev",
    "query-mice":                "info mice",
    "query-balloon":             "info balloon",
    "query-memory-devices":      "info memory-devices",
    "query-memory-size-summary": "info memory_size_summary",
    "query-hotpluggable-cpus":   "info hotpluggable-cpus",
    "query-iothreads":           "info iothreads",
    "query-rx-filter":           "info rx-filter",
}  # fmt: skip

_IN_MEBIBYTES = frozenset({"max-bandwidth", "avail-switchover-bandwidth"})
"""A number without a suffix counts mebibytes there, and bytes everywhere else (migration-hmp-cmds.c)."""
_NOT_IN_HMP = frozenset({"block-bitmap-mapping", "cpr-exec-command"})


def _word(value: Any) -> str:
    """One argument; in quotes where the monitor would take it for two."""
    if not isinstance(value, str):
        raise TypeError
    if not value.isprintable():
        raise NoWords("HMP cannot write its control characters")
    if value and re.search(r"[\s\"'\\]", value) is None and not value.startswith("-"):
        return value
    return '"' + re.sub(r"([\"\\])", r"\\\1", value) + '"'


def _line(value: Any) -> str:
    """A line of the human monitor, that QMP carried."""
    if not isinstance(value, str):
        raise TypeError
    if not value.isprintable():
        raise NoWords("the line has control characters in it")
    return value


def _set_parameters(arguments: dict[str, Any]) -> str:
    if not arguments:
        raise NoWords("nothing is set")
    return "\n".join(f"migrate_set_parameter {_word(name)} {_parameter(name, value)}" for name, value in arguments.items())


def _parameter(name: str, value: Any) -> str:
    if name in _NOT_IN_HMP:
        raise NoWords(f"HMP cannot set {name}")
    match value:
        case bool():
            return "on" if value else "off"
        case int() if name in _IN_MEBIBYTES:
            return f"{value}B" if value % (1 << 20) else str(value >> 20)
        case int():
            return str(value)
        case None:
            return '""'
    return _word(value)


def _set_capabilities(arguments: dict[str, Any]) -> str:
    wanted = [(_word(each["capability"]), each["state"]) for each in arguments["capabilities"]]
    if not wanted:
        raise NoWords("nothing is set")
    return "\n".join(f"migrate_set_capability {name} {'on' if state else 'off'}" for name, state in wanted)


def _migrate(arguments: dict[str, Any]) -> str:
    """QMP does not wait for the end, so HMP must not either (-d)."""
    if set(arguments) - {"uri", "channels", "resume", "detach"}:
        raise KeyError
    flags = " -r" if arguments.get("resume") else ""
    uri = arguments["uri"] if arguments.get("uri") is not None else _channel(arguments["channels"])
    return f"migrate -d{flags} {_word(uri)}"


def _channel(channels: Any) -> str:
    """The URI of the one channel to a file."""
    (channel,) = channels
    address = channel["addr"]
    if address["transport"] != "file":
        raise KeyError
    offset = address.get("offset", 0)
    return f"file:{address['filename']}" + (f",offset={offset}" if offset else "")


def _device_add(arguments: dict[str, Any]) -> str:
    rest = {key: value for key, value in arguments.items() if key != "driver"}
    options = [_option_text(arguments["driver"]), *(f"{key}={_option_text(value)}" for key, value in rest.items())]
    return f"device_add {_word(','.join(options))}"


def _option_text(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case str():
            return value.replace(",", ",,")
    raise TypeError


def _words(command: str, *names: str) -> Callable[[dict[str, Any]], str]:
    """A command whose arguments stand in that order, and are texts."""

    def say(arguments: dict[str, Any]) -> str:
        if set(arguments) != set(names):
            raise KeyError
        return " ".join([command, *(_word(arguments[name]) for name in names)])

    return say


_HMP: dict[str, Callable[[dict[str, Any]], str]] = {
    "migrate-set-parameters":   _set_parameters,
    "migrate-set-capabilities": _set_capabilities,
    "migrate":                  _migrate,
    "migrate-incoming":         _words("migrate_incoming", "uri"),
    "migrate-recover":          _words("migrate_recover", "uri"),
    "migrate-continue":         _words("migrate_continue", "state"),
    "getfd":                    _words("getfd", "fdname"),
    "closefd":                  _words("closefd", "fdname"),
    "device_add":               _device_add,
    "device_del":               _words("device_del", "id"),
    "netdev_del":               _words("netdev_del", "id"),
    "object-del":               _words("object_del", "id"),
    "chardev-remove":           _words("chardev-remove", "id"),
    "set_link":                 lambda given: f"set_link {_word(given['name'])} {'on' if given['up'] else 'off'}",
    "qom-list":                 _words("qom-list", "path"),
    "qom-get":                  _words("qom-get", "path", "property"),
    "human-monitor-command":    lambda given: _line(given["command-line"]),
}  # fmt: skip


# --- virsh --------------------------------------------------------------------------------------------------------


def virsh(message: Message, domain: str) -> str:
    """A shell's command line. libvirt numbers its commands itself, so the id is left out."""
    _command(message)
    if not domain or not domain.isprintable():
        raise NoWords("virsh needs a name of the VM that can be typed")
    body = json.dumps({key: value for key, value in message.items() if key != "id"})
    name = shlex.quote(domain)
    return f"virsh qemu-monitor-command {'--domain ' if domain.startswith('-') else ''}{name} --pretty {shlex.quote(body)}"
