"""A TCP proxy between a client and what it depends on, with faults on request. Standard library only.

Its HTTP side (`control.py`) and its command need uvicorn and starlette.
"""

from local.proxy.faults import (
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
from local.proxy.proxy import Proxy

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
