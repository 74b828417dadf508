"""What was recorded from real QEMUs: transcripts and schemas, as data."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vmtui.backend.core.sim import CommandSchema
from vmtui.backend.schemas import command_schema

DATA = Path(__file__).parent.parent / "data"


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a transcript."""

    at: float
    """Seconds since the client connected."""
    direction: str
    """send, recv or closed."""
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transcript:
    profile: str
    name: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return f"{self.profile}/{self.name}"


def schema(profile: str) -> CommandSchema:
    """The recorded query-qmp-schema of a profile."""
    return command_schema(profile)


def transcripts() -> list[Transcript]:
    """Every recording there is."""
    return [_read(path) for path in sorted((DATA / "transcripts").glob("*/*.jsonl"))]


def _read(path: Path) -> Transcript:
    lines = (json.loads(line) for line in path.read_text().splitlines())
    read = tuple(Line(line["t"], line["dir"], line["msg"] or {}) for line in lines)
    return Transcript(path.parent.name, path.stem, read)


@cache
def registers() -> dict[str, list[tuple[float, str]]]:
    """`info registers -a` of guests, by what is the matter with them: seconds since the first, and the text."""
    told: dict[str, list[tuple[float, str]]] = json.loads(gzip.decompress((DATA / "hmp/registers.json.gz").read_bytes()))
    return told
