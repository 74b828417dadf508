"""What goes wrong in the lab is a LabError, and its text helps."""

from vmtui.backend.core.errors import VmtuiError


class LabError(VmtuiError):
    """A guest could not be started, found, or brought to do something; the text says what to do."""
