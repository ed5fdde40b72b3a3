"""What goes wrong on purpose: `Faults` in a process, `read_fault` for what comes over HTTP."""

from servicebus_local.faults.fault import Fault, FaultError, read_fault
from servicebus_local.faults.faults import Faults
from servicebus_local.faults.sockets import Sockets
from servicebus_local.nodes.fault_injection import Peer

__all__ = ["Fault", "FaultError", "Faults", "Peer", "Sockets", "read_fault"]
