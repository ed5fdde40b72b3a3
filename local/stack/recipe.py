"""What the stack is made of: the command, the environment and the readiness check of every part. Pure.

        redis  vectors  llm ──┐
broker ─┬─────────────────────┼─▶ (all start at once; the clients of the broker once it answers)
        ├─ gateway, retriever, generator, indexer
        └─ lake
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.stack.child import ProcessSpec
from local.stack.folder import Folder
from local.stack.ports import HOST
from local.stack.ready import http_ok, redis_pong
from local.stack.redis import command as redis_command

# The slowest to start first: where cores are few, they decide when everything is ready.
SERVICES = ("indexer", "retriever", "gateway", "generator")
CONTAINER = "handbook"
# Longer than the workers' own grace (RAGBUS_GRACE), so that they are never killed while they hand work back.
_WORKER_GRACE = 30.0
_GRACE = "25"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    broker: int
    admin: int
    redis_url: str
    qdrant_url: str
    llm_url: str
    own: Mapping[str, int] = field(default_factory=dict)
    """Ports of the redis, vectors and llm that we start ourselves."""
    http: Mapping[str, int] = field(default_factory=dict)
    """The gateways' public ports, by process name."""
    health: Mapping[str, int] = field(default_factory=dict)
    """Where the workers and the lake serve their probes, by process name."""

    @property
    def connection_string(self) -> str:
        """For any Azure SDK; the key is the emulator's kind of secret, that is, none."""
        return (
            f"Endpoint=sb://{HOST}:{self.broker};SharedAccessKeyName=RootManageSharedAccessKey;"
            "SharedAccessKey=local;UseDevelopmentEmulator=true"
        )

    @property
    def admin_url(self) -> str:
        """The broker's administration: ATOM, `/health`."""
        return f"http://{HOST}:{self.admin}"


def names(workers: Mapping[str, int]) -> dict[str, str]:
    """Service by process name (`generator`, `generator-2`, …); `workers`: processes by service."""
    return {
        service if number == 1 else f"{service}-{number}": service
        for service in SERVICES
        for number in range(1, workers.get(service, 0) + 1)
    }


def common(addresses: Addresses, config: Path, folder: Folder) -> dict[str, str]:
    """The settings that let a worker, or `ragbus`, find this stack."""
    return {
        "RAGBUS_SERVICEBUS_CONNECTION_STRING": addresses.connection_string,
        "RAGBUS_ADMIN_URL": addresses.admin_url,
        "RAGBUS_REDIS_URL": addresses.redis_url,
        # A laptop does other things as well, so a Redis that is late is not unavailable yet.
        "RAGBUS_REDIS_TIMEOUT": os.environ.get("RAGBUS_REDIS_TIMEOUT", "0.5"),
        "RAGBUS_QDRANT_URL": addresses.qdrant_url,
        "RAGBUS_MODEL_ENDPOINT": addresses.llm_url,
        "RAGBUS_MODEL_ENDPOINT_2": addresses.llm_url,
        "RAGBUS_MODEL_KEY": os.environ.get("RAGBUS_MODEL_KEY", "local"),
        "RAGBUS_CONFIG": str(config),
        "RAGBUS_CACHE_SECRET": os.environ.get("RAGBUS_CACHE_SECRET") or folder.cache_secret(),
        "RAGBUS_LAKE_FOLDER": str(folder.lake),
        "RAGBUS_LAKE_CONTAINER": CONTAINER,
    }


def broker(addresses: Addresses, folder: Folder) -> ProcessSpec:
    """Service Bus."""
    options = {
        "config": str(folder.broker_config),
        "data": str(folder.data / "broker"),
        "port": str(addresses.broker),
        "admin-port": str(addresses.admin),
    }
    command = _module("servicebus_local", *(word for name, value in options.items() for word in (f"--{name}", value)))
    return ProcessSpec("broker", command, http_ok(addresses.admin, "/health"), inherited())


def redis(port: int, folder: Folder) -> ProcessSpec:
    """Azure Cache for Redis: a real server."""
    return ProcessSpec("redis", redis_command(port, folder.data / "redis"), redis_pong(port), inherited())


def vectors(port: int, folder: Folder) -> ProcessSpec:
    """Qdrant."""
    options = ("--data", str(folder.data / "vectors"), "--port", str(port))
    # It flushes to disk before it ends.
    return ProcessSpec("vectors", _module("local.vectors", *options), http_ok(port, "/readyz"), inherited(), grace=10)


def llm(port: int) -> ProcessSpec:
    """The models."""
    return ProcessSpec("llm", _module("local.llm", "--port", str(port)), http_ok(port, "/health"), inherited())


def lake(addresses: Addresses, folder: Folder, settings: Mapping[str, str]) -> ProcessSpec:
    """Blob storage with Event Grid: a folder whose changes become events for the indexer."""
    health = addresses.health["lake"]
    options = {
        "root": str(folder.lake),
        "container": CONTAINER,
        "connection-string": addresses.connection_string,
        "queue": "blob-events",
        "checkpoint": str(folder.data / "lake.json"),
        "health-port": str(health),
    }
    command = _module("local.lake", *(word for name, value in options.items() for word in (f"--{name}", value)))
    return ProcessSpec("lake", command, http_ok(health, "/health"), inherited(settings))


def worker(name: str, service: str, addresses: Addresses, settings: Mapping[str, str]) -> ProcessSpec:
    """One of our four services."""
    own = {"RAGBUS_HEALTH_PORT": str(addresses.health[name]), "RAGBUS_GRACE": _GRACE}
    if name in addresses.http:
        own["RAGBUS_HTTP_PORT"] = str(addresses.http[name])
    ready = http_ok(addresses.health[name], "/connected")
    return ProcessSpec(name, _module(f"services.{service}"), ready, inherited({**own, **settings}), grace=_WORKER_GRACE)


def inherited(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment with `settings` on top, and without a namespace in Azure, which a worker would prefer."""
    ours = {name: value for name, value in os.environ.items() if name != "RAGBUS_SERVICEBUS_NAMESPACE"}
    # Unbuffered: the log of a process that was killed ends where the process did.
    return {**ours, "PYTHONUNBUFFERED": "1", **(settings or {})}


def _module(name: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *options)
