"""The SDK's administration clients over plain HTTP, and one way to call both."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from azure.core.async_paging import AsyncItemPaged
from azure.core.paging import ItemPaged
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.management import ServiceBusAdministrationClient as SyncAdministrationClient

Client = ServiceBusAdministrationClient | SyncAdministrationClient


class PlainHttp(AioHttpTransport):  # type: ignore[misc]  # azure-core loads its transports lazily, untyped
    """The administration client insists on https; the local broker has no certificate."""

    async def send(self, request: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **options)


class SyncPlainHttp(RequestsTransport):  # type: ignore[misc]  # the same
    """The same for the synchronous client."""

    def send(self, request: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **options)


def client_at(connection_string: str, **options: Any) -> ServiceBusAdministrationClient:
    """Make the asynchronous client."""
    return ServiceBusAdministrationClient.from_connection_string(
        connection_string, transport=PlainHttp(), retry_total=0, **options
    )


def sync_client_at(connection_string: str, **options: Any) -> SyncAdministrationClient:
    """Make the synchronous client."""
    return SyncAdministrationClient.from_connection_string(
        connection_string, transport=SyncPlainHttp(), retry_total=0, **options
    )


class Admin:
    """Either client; lists are read to their end, and what the synchronous one does is done in a thread."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.called: set[str] = set()

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client; return, or raise, what comes of it."""
        self.called.add(method)
        call: Callable[..., Any] = getattr(self.client, method)
        if isinstance(self.client, SyncAdministrationClient):
            return await asyncio.to_thread(_complete, call, arguments, options)
        found = call(*arguments, **options)
        if isinstance(found, AsyncItemPaged):
            return [item async for item in found]
        return await found if isawaitable(found) else found


def _complete(call: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    found = call(*arguments, **options)
    return list(found) if isinstance(found, ItemPaged) else found
