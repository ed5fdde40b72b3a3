"""The checks of `ragbus doctor`, one file each; a check yields findings with their fixes."""

from collections.abc import Callable, Iterable, Mapping

from ops.checks.broker import broker
from ops.checks.clock import clock
from ops.checks.configuration import configuration
from ops.checks.lake import lake
from ops.checks.models import models
from ops.checks.ports import ports
from ops.checks.python import python
from ops.checks.qdrant import qdrant
from ops.checks.queues import queues
from ops.checks.redis import redis
from ops.checks.settings import settings
from ops.findings import Finding
from ops.target import Target

__all__ = ["OF_A_TARGET", "ports", "python"]

# In the order in which one thing needs another.
OF_A_TARGET: Mapping[str, Callable[[Target], Iterable[Finding]]] = {
    "settings": settings,
    "configuration": configuration,
    "broker": broker,
    "queues": queues,
    "redis": redis,
    "qdrant": qdrant,
    "models": models,
    "clock": clock,
    "lake": lake,
}
