"""Where a worker touches the world: one object per peer, made here from the settings and handed to `compose`.

Whatever a service does to Redis, the broker, a model or Qdrant goes through these. So what may go wrong between a
worker and a peer is tried by handing in others (`tests/crash_points`), and the product needs no hook for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.bus.port import Bus
from shared.errors import SettingsError
from shared.redis import FailFastRedis
from shared.settings.worker import WorkerSettings
from shared.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import httpx
    import httpx2


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What every service is composed from. A service that reaches more than this adds a field in its `main.py`."""

    bus: Bus
    redis: FailFastRedis
    metrics: Metrics
    models: "httpx2.AsyncBaseTransport | None" = None
    """Carries HTTP to chat and embedding models; None: `AiohttpTransport`."""
    vectors: "httpx.AsyncBaseTransport | None" = None
    """Carries HTTP to Qdrant; None: the client's own transport."""
    clock: Callable[[], datetime] = utc_now


def open_ports(settings: WorkerSettings, metrics: Metrics) -> Ports:
    """The real ones, which connect when they are used first. Raises `SettingsError`."""
    metrics.redis_up.set(0)
    redis = FailFastRedis(
        settings.redis_url.get_secret_value(),
        timeout=settings.redis_timeout,
        changed=lambda up: metrics.redis_up.set(int(up)),
    )
    return Ports(bus=connect(settings), redis=redis, metrics=metrics)


def connect(settings: WorkerSettings) -> Bus:
    """The bus that `settings` name. Raises `SettingsError`."""
    from shared.bus.servicebus import ServiceBus, ServiceBusAddress

    secret = settings.servicebus_connection_string
    address = ServiceBusAddress(secret.get_secret_value() if secret else None, settings.servicebus_namespace)
    try:
        return ServiceBus(address)
    except ValueError as wrong:
        raise SettingsError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong
