"""What did each recorded QEMU answer to query-qmp-schema?

Here and not with the twin, because the twin is pure: it is handed a schema, and reads no file.
"""

import gzip
import json
from functools import cache
from importlib import resources

from vmtui.backend.core.sim import CommandSchema


@cache
def raw_schema(profile: str) -> bytes:
    """The reply's "return" to the byte, by the name of a profile (`core.sim.PROFILES`)."""
    return gzip.decompress((resources.files(__name__) / f"{profile}.json.gz").read_bytes()).strip()


@cache
def command_schema(profile: str) -> CommandSchema:
    """The same, for checking commands: indexed once, shared by every VM of that profile."""
    return CommandSchema(json.loads(raw_schema(profile)))
