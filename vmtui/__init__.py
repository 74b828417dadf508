"""vmtui: save live QEMU VMs whose failover network card the guest must let go first."""

__version__ = "0.1.0"
