"""Connections to a target: the plain SDK, our own bus, Redis, the callers file."""

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ops.errors import CommandError
from ops.target import Target

if TYPE_CHECKING:
    from azure.servicebus.aio import ServiceBusClient

    from shared.access.callers import Callers
    from shared.bus.servicebus import ServiceBus
    from shared.redis import FailFastRedis

# The key of the example's first caller; valid on this machine only.
LAPTOP_KEY = "laptop-key-welcome-app"
# Seconds; without it an operation on a silent peer never returns.
TRY_TIMEOUT = 5.0


@asynccontextmanager
async def service_bus(target: Target) -> "AsyncIterator[ServiceBusClient]":
    """The SDK's own client; raises `CommandError` for a connection string that it cannot read."""
    from azure.servicebus.aio import ServiceBusClient

    if target.connection_string:
        try:
            by_key = ServiceBusClient.from_connection_string(
                target.connection_string, retry_total=1, try_timeout=TRY_TIMEOUT
            )
        except ValueError as wrong:
            raise CommandError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong
        async with by_key as client:
            yield client
        return
    from azure.identity.aio import DefaultAzureCredential

    async with (
        DefaultAzureCredential() as credential,
        ServiceBusClient(target.host, credential, retry_total=1, try_timeout=TRY_TIMEOUT) as client,
    ):
        yield client


@asynccontextmanager
async def bus(target: Target) -> "AsyncIterator[ServiceBus]":
    """Our own adapter, as in the workers; its errors are raised as `CommandError`."""
    from shared.bus.port import BusUnavailable, UnknownQueue
    from shared.bus.servicebus import ServiceBus, ServiceBusAddress

    try:
        ours = ServiceBus(
            ServiceBusAddress(target.connection_string, target.variables.get("RAGBUS_SERVICEBUS_NAMESPACE"))
        )
    except ValueError as wrong:
        raise CommandError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong
    try:
        yield ours
    except UnknownQueue as unknown:
        # Without a text from the SDK the brackets are empty.
        raise CommandError(f"{str(unknown).removesuffix(' ()')}; list the queues with `ragbus queues`") from unknown
    except BusUnavailable as unavailable:
        if "requires sessions" in str(unavailable):
            raise CommandError("that queue has sessions, so only its dead letters can be read") from unavailable
        raise CommandError(f"{target.host} does not answer: {unavailable}; run `ragbus doctor`") from unavailable
    finally:
        await ours.close()


@asynccontextmanager
async def redis(target: Target) -> "AsyncIterator[FailFastRedis]":
    """Redis through the workers' client, which fails fast."""
    from shared.redis import FailFastRedis
    from shared.telemetry import logs

    # A worker logs that Redis is unavailable; a command prints what that means for it.
    logs.configure("ragbus", "pretty", "error")
    ours = FailFastRedis(target.redis_url)
    try:
        yield ours
    finally:
        await ours.close()


def callers(target: Target) -> "Callers":
    """callers.yaml; raises `CommandError`."""
    from shared.access.callers import Callers
    from shared.errors import SettingsError

    try:
        return Callers.read(target.config / "callers.yaml")
    except SettingsError as wrong:
        raise CommandError(str(wrong)) from wrong


def caller_named(target: Target, name: str | None) -> Any:
    """The caller `name` of callers.yaml, or the first; raises `CommandError`."""
    known = callers(target).callers
    if not known:
        raise CommandError(f"{target.config}/callers.yaml has no caller")
    found = next((caller for caller in known if name in (None, caller.name)), None)
    if found is None:
        raise CommandError(f"callers.yaml has no caller {name!r}; it has: {', '.join(caller.name for caller in known)}")
    return found


def fetch_json(request: urllib.request.Request, timeout: float) -> dict[str, Any]:
    """The gateway's JSON response; raises `CommandError` with the detail of its problem document."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - our own gateway
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as refused:
        try:
            detail = str(json.load(refused)["detail"])
        except (ValueError, KeyError, TypeError):
            detail = refused.reason
        raise CommandError(f"{request.full_url} answered {refused.code}: {detail}") from refused
    except (OSError, ValueError) as unavailable:
        raise CommandError(
            f"{request.full_url} does not answer ({why(unavailable)}); is the gateway running?"
        ) from unavailable


def why(error: Exception) -> str:
    """The cause in an error of urllib, which wraps it."""
    return str(getattr(error, "reason", error))
