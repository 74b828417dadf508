"""What has the user set: theme, the host's colour, keys? Read from a TOML file."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from vmtui.backend.core.errors import UsageError
from vmtui.backend.core.text import did_you_mean, printable

THEMES = ("dark", "light", "contrast", "mono")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`config.toml`, documented in docs/tui.md."""

    theme: str = ""
    """One of THEMES; empty: dark, or mono where NO_COLOR is set."""
    host_colour: str = "$primary"
    """The host's name at the top is drawn in it: a name or #rrggbb."""
    keys: dict[str, str] = {}
    """Name of an action, as the help shows it -> its keys, separated by commas."""


def path() -> Path:
    """`$XDG_CONFIG_HOME/vmtui/config.toml`."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "vmtui" / "config.toml"


def read(file: Path | None = None) -> Settings:
    """The user's settings, or the defaults where there is no file. Raises UsageError, which names the line or the word."""
    file = file or path()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {printable(str(file), 300)}: {error}") from error
    try:
        parsed = tomllib.loads(text)
        settings = msgspec.convert(parsed, Settings)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(file, printable(str(error), 300)) from error
    except msgspec.ValidationError as error:
        raise _wrong(file, _unknown(parsed) or printable(str(error), 300)) from error
    if settings.theme not in ("", *THEMES):
        raise _wrong(file, f"theme is one of {', '.join(THEMES)}{did_you_mean(settings.theme, THEMES)}")
    return settings


def _wrong(file: Path, why: str) -> UsageError:
    """With other keys than somebody set, a key could do what nobody wants."""
    shown = printable(str(file), 300)
    return UsageError(f"{shown}: {why}. The terminal UI is not started; correct that file, or use vmtui --plain")


def _unknown(parsed: dict[str, Any]) -> str:
    known = Settings.__struct_fields__
    told = (
        f"there is no setting {printable(each, 60)!r}{did_you_mean(each, known)}" for each in parsed if each not in known
    )
    return next(told, "")
