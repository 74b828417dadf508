"""Where does the twin still differ from a recording, and why is that left so? A line no longer true fails a test."""

_COMMAND_REGISTER = (
    "after a reboot the firmware has set more bits of the command register; bus master, the one that counts, is right"
)
_AFTER_REBOOT = {
    "human-monitor-command xp /2xw 0xb0200000: .return is '00000000b0200000: 0x10d38086 0x00100406\\r\\n' "
    "instead of '00000000b0200000: 0x10d38086 0x00100507\\r\\n'": _COMMAND_REGISTER,
}
_VIRTIO_PRIMARY = "the recorded primary was a virtio-net, deleted in two steps; the twin's is an e1000e"

DIFFERENCES: dict[str, dict[str, str]] = {
    "pause-vm-10.0/cancel-pre-switchover": {
        "query-migrate: .return.error-desc is missing": "a leftover of closing the channel, which says nothing",
    },
    "pause-vm-10.0/crashed-guest-no-panic-device": {
        "DEVICE_DELETED.device is too much": _VIRTIO_PRIMARY,
        "DEVICE_DELETED.path is '/machine/peripheral/primary0' instead of "
        "'/machine/peripheral/primary0/virtio-backend'": _VIRTIO_PRIMARY,
        "the twin does not send DEVICE_DELETED": _VIRTIO_PRIMARY,
    },
    "pause-vm-10.0/save-pause-vm": {
        "human-monitor-command info migrate_parameters: .return is another text": (
            "the units and the order of this text are for people; query-migrate-parameters is exact"
        ),
    },
    "stock-10.0/system-reset-during-cancelling": _AFTER_REBOOT,
    "stock-11.1/guest-reset-in-wait-unplug": {
        "MIGRATION active comes after RESET": (
            "a race in the recording: QEMU looked at the unplug just while it was resetting the machine"
        ),
    },
    "stock-7.2/system-reset-during-cancelling": _AFTER_REBOOT,
}
"""Transcript -> what differs -> why it may."""
