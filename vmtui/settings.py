"""What has the user set: theme, the host's colour, keys? Read from a TOML file."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from vmtui.backend.core.errors import UsageError
from vmtui.backend.core.text import printable

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
        settings = msgspec.convert(_parsed(text), Settings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{printable(str(file), 300)}: {printable(str(error), 300)}") from error
    if settings.theme not in ("", *THEMES):
        raise UsageError(f"{printable(str(file), 300)}: theme is one of {', '.join(THEMES)}")
    return settings


def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)
