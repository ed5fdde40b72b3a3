"""Connections to a target: the plain SDK, our own bus, Redis, the callers file."""

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from ops.errors import CommandError
from ops.target import Target

if TYPE_CHECKING:
    from azure.servicebus.aio import ServiceBusClient

    from shared.access.callers import Callers
    from shared.bus.servicebus import ServiceBus
    from shared.redis import FailFastRedis

# Of the example's first caller; good on this machine only.
LAPTOP_KEY = "laptop-key-welcome-app"
# Without it a silent peer hangs an operation for ever.
TRY_TIMEOUT = 5.0


@asynccontextmanager
async def service_bus(target: Target) -> "AsyncIterator[ServiceBusClient]":
    """The SDK's own client."""
    from azure.servicebus.aio import ServiceBusClient

    if target.connection_string:
        async with _from(target.connection_string, ServiceBusClient) as client:
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
    """Our own adapter, as the workers use it; its errors are raised as `CommandError`."""
    from shared.bus.port import BusUnavailable, UnknownQueue
    from shared.bus.servicebus import ServiceBus, ServiceBusAddress

    try:
        ours = ServiceBus(
            ServiceBusAddress(target.connection_string, target.variables.get("RAGBUS_SERVICEBUS_NAMESPACE")),
            connections=target.connections,
        )
    except ValueError as wrong:
        raise CommandError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong
    try:
        yield ours
    except UnknownQueue as unknown:
        # The SDK may have had nothing to say, which leaves an empty bracket.
        raise CommandError(f"{str(unknown).removesuffix(' ()')}; `ragbus queues` lists them") from unknown
    except BusUnavailable as away:
        if "requires sessions" in str(away):
            raise CommandError("that queue has sessions, so only its dead letters can be looked at") from away
        raise CommandError(f"{target.host} does not answer: {away}; `ragbus doctor` says more") from away
    finally:
        await ours.close()


@asynccontextmanager
async def redis(target: Target) -> "AsyncIterator[FailFastRedis]":
    """Redis, in no time or not at all."""
    from shared.redis import FailFastRedis
    from shared.telemetry import logs

    # A worker logs that Redis is away; a command says itself what that means for it.
    logs.configure("ragbus", "pretty", "error")
    ours = FailFastRedis(target.redis_url)
    try:
        yield ours
    finally:
        await ours.close()


def callers(target: Target) -> "Callers":
    """Who may ask; raises `CommandError`."""
    from shared.access.callers import Callers
    from shared.errors import SettingsError

    try:
        return Callers.read(target.config / "callers.yaml")
    except SettingsError as wrong:
        raise CommandError(str(wrong)) from wrong


def _from(connection_string: str, client: "type[ServiceBusClient]") -> "AbstractAsyncContextManager[ServiceBusClient]":
    try:
        return client.from_connection_string(connection_string, retry_total=1, try_timeout=TRY_TIMEOUT)
    except ValueError as wrong:
        raise CommandError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong


def caller_named(target: Target, name: str | None) -> Any:
    """The caller `name` of `callers.yaml`, the first for none; raises `CommandError`."""
    known = callers(target).callers
    if not known:
        raise CommandError(f"{target.config}/callers.yaml has no caller")
    found = next((caller for caller in known if name in (None, caller.name)), None)
    if found is None:
        raise CommandError(f"no caller is called {name!r}; there are: {', '.join(caller.name for caller in known)}")
    return found


def fetch_json(request: urllib.request.Request, timeout: float) -> dict[str, Any]:
    """The JSON answer of the gateway; raises `CommandError` with its problem detail."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - our own gateway
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as refused:
        raise CommandError(f"{request.full_url} answered {refused.code}: {_detail(refused)}") from refused
    except (OSError, ValueError) as away:
        raise CommandError(f"{request.full_url} does not answer ({away}); is the gateway running?") from away


def _detail(refused: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(refused)["detail"])
    except (ValueError, KeyError, TypeError):
        return refused.reason
