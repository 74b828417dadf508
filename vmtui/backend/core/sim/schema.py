"""Would QEMU's front door let this command in, and if not, what would it say?"""

from collections.abc import Callable, Iterable
from typing import Any

Complaint = str | None
Check = Callable[[Any, str], Complaint]
"""Takes a value and its full name; says what is wrong with it, in QEMU's words."""

_Member = tuple[str, bool, Check]
"""Name, whether it must be there, and what its value must be."""
_OPEN = frozenset({"device_add", "object-add"})
"""Commands that take members the schema does not list."""

_JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string":  lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "int":     lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number":  lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null":    lambda value: value is None,
    "value":   lambda value: True,
}  # fmt: skip
_EXPECTED = {"int": "integer"}


class CommandSchema:
    """A query-qmp-schema reply, indexed once and shared by every VM that answers to it."""

    __slots__ = ("_by_name", "_checks", "_commands", "entries")

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        """`entries` is the reply's "return"."""
        self.entries = entries
        self._by_name = {entry["name"]: entry for entry in entries}
        self._commands = {entry["name"]: entry for entry in entries if entry["meta-type"] == "command"}
        self._checks: dict[str, Check] = {}

    def __contains__(self, command: object) -> bool:
        return command in self._commands

    def complaint(self, command: str, arguments: dict[str, Any]) -> Complaint:
        """What QEMU would say against the arguments of a command it knows; None when they will do."""
        check = self._checks.get(command)
        if check is None:
            check = self._checks[command] = self._command(command)
        return check(arguments, "")

    def _command(self, command: str) -> Check:
        arguments = self._by_name[self._commands[command]["arg-type"]]
        unsigned = command == "migrate-set-parameters"
        return self._object(arguments, is_open=command in _OPEN, unsigned=unsigned)

    def _check(self, type_name: str, unsigned: bool = False) -> Check:
        entry = self._by_name[type_name]
        match entry["meta-type"]:
            case "builtin":
                return _builtin(entry["json-type"], unsigned)
            case "enum":
                return _enum(entry)
            case "array":
                return self._array(entry)
            case "object":
                return self._object(entry)
            case "alternate":
                return self._alternate(entry)
        return _anything

    def _later(self, type_name: str, unsigned: bool = False) -> Check:
        """A check built when first needed: types may hold themselves."""
        built: list[Check] = []

        def check(value: Any, name: str) -> Complaint:
            if not built:
                built.append(self._check(type_name, unsigned))
            return built[0](value, name)

        return check

    def _array(self, entry: dict[str, Any]) -> Check:
        element = self._later(entry["element-type"])

        def check(value: Any, name: str) -> Complaint:
            if not isinstance(value, list):
                return _wrong_type(name, "array")
            return _first(element(item, f"{name}[{index}]") for index, item in enumerate(value))

        return check

    def _object(self, entry: dict[str, Any], *, is_open: bool = False, unsigned: bool = False) -> Check:
        own = self._members(entry, unsigned)
        tag, cases = entry.get("tag"), {each["case"]: each["type"] for each in entry.get("variants", ())}
        branches: dict[str, list[_Member]] = {}

        def members(value: dict[str, Any]) -> list[_Member]:
            """Its own, and those of the branch that it says it is."""
            case = value.get(tag) if tag else None
            if not isinstance(case, str) or case not in cases:
                return own
            if case not in branches:
                branches[case] = [*own, *self._members(self._by_name[cases[case]], unsigned)]
            return branches[case]

        def check(value: Any, name: str) -> Complaint:
            if not isinstance(value, dict):
                return _wrong_type(name, "object")
            prefix = f"{name}." if name else ""
            known = members(value)
            for member, required, inner in known:
                if member in value:
                    complaint = inner(value[member], prefix + member)
                    if complaint:
                        return complaint
                elif required:
                    return f"Parameter '{prefix}{member}' is missing"
            names = {member for member, _, _ in known}
            if is_open or value.keys() <= names:
                return None
            return f"Parameter '{prefix}{next(key for key in value if key not in names)}' is unexpected"

        return check

    def _members(self, entry: dict[str, Any], unsigned: bool) -> list["_Member"]:
        return [(each["name"], "default" not in each, self._later(each["type"], unsigned)) for each in entry["members"]]

    def _alternate(self, entry: dict[str, Any]) -> Check:
        choices = [self._later(member["type"]) for member in entry["members"]]

        def check(value: Any, name: str) -> Complaint:
            complaints = [choice(value, name) for choice in choices]
            return None if None in complaints else complaints[0]

        return check


def _anything(_value: Any, _name: str) -> Complaint:
    return None


def _builtin(json_type: str, unsigned: bool) -> Check:
    fits = _JSON_TYPES[json_type]
    expected = _EXPECTED.get(json_type, json_type)

    def check(value: Any, name: str) -> Complaint:
        if fits(value):
            return None
        if unsigned and json_type == "int":
            return f"Parameter '{name}' expects uint64"
        return _wrong_type(name, expected)

    return check


def _enum(entry: dict[str, Any]) -> Check:
    values = frozenset(entry["values"])

    def check(value: Any, name: str) -> Complaint:
        if not isinstance(value, str):
            return _wrong_type(name, "string")
        return None if value in values else f"Parameter '{name}' does not accept value '{value}'"

    return check


def _wrong_type(name: str, expected: str) -> str:
    return f"Invalid parameter type for '{name}', expected: {expected}"


def _first(complaints: Iterable[Complaint]) -> Complaint:
    return next((complaint for complaint in complaints if complaint), None)
