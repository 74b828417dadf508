"""`virsh save` and `virsh restore` of a guest without failover."""

import shutil

from tools.measure.parts import Bench
from tools.measure.rows import Row


def virsh(bench: Bench) -> list[Row]:
    """Skipped aloud where libvirt is not installed."""
    if not (shutil.which("virsh") and shutil.which("libvirtd")):
        return [Row("virsh", "virsh save and restore", "libvirt is not installed", "to be compared")]
    return []
