"""What goes wrong on purpose: `Faults` in a process, `read_fault` for what comes over HTTP."""

from local.broker.faults.fault import Fault, FaultError, read_fault
from local.broker.faults.faults import Faults
from local.broker.faults.port import Peer, Sockets

__all__ = ["Fault", "FaultError", "Faults", "Peer", "Sockets", "read_fault"]
