"""A TCP proxy between a client and what it depends on, which misbehaves when it is told to."""

from local.faults.fault import (
    BlackHole,
    Direction,
    Fault,
    FaultError,
    HalfOpen,
    Latency,
    Refuse,
    Reset,
    Truncate,
    read_faults,
)
from local.faults.proxy import Proxy

__all__ = [
    "BlackHole",
    "Direction",
    "Fault",
    "FaultError",
    "HalfOpen",
    "Latency",
    "Proxy",
    "Refuse",
    "Reset",
    "Truncate",
    "read_faults",
]
