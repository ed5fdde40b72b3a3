"""Sends events to the queue with the Azure SDK; retries without limit."""

import asyncio
import logging
import random

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from local.lake.events import Event

_log = logging.getLogger("local.lake")
_TRY = 5.0  # seconds; without it a silent peer hangs the SDK forever
_WHOLE_SEND = 15.0  # opening takes half a second of fixed sleeps, so this only ends what is stuck
_LONGEST_PAUSE = 5.0


class EventSender:
    """One SDK sender, kept open, for one task at a time; opened again after every error.

    `trouble`: the last error, while the queue does not take an event.
    """

    def __init__(self, connection_string: str, queue: str) -> None:
        """Raises `ValueError` for a wrong connection string; connects when the first event is sent."""
        self._connection_string, self._queue = connection_string, queue
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self.trouble: str | None = None
        self._new_client()

    async def send(self, event: Event) -> None:
        """Return when the queue has the event; never raises for an unavailable queue. A retry keeps the message id."""
        longest = 0.1
        while True:
            # A fresh message for every attempt: the SDK writes into what it sends.
            message = ServiceBusMessage(
                event.body,
                message_id=event.id,
                content_type=event.content_type,
                application_properties={name: value for name, value in event.properties.items()},  # noqa: C416 - the SDK's key type is wider
            )
            try:
                async with asyncio.timeout(_WHOLE_SEND):
                    if self._client is None:
                        self._client = self._new_client()
                    if self._sender is None:
                        self._sender = self._client.get_queue_sender(self._queue)
                    await self._sender.send_messages(message)
            except (AzureError, OSError, TimeoutError) as error:
                pause = longest * random.uniform(0.5, 1)  # noqa: S311 - spread, not secrecy
                longest = min(longest * 2, _LONGEST_PAUSE)
                self.trouble = f"{type(error).__name__}: {error}"
                _log.warning("cannot send to %s, trying again in %.1f s (%s)", self._queue, pause, self.trouble)
                await self.close()
                await asyncio.sleep(pause)
            else:
                self.trouble = None
                return

    async def close(self) -> None:
        """Disconnect; the next send connects again."""
        sender, client, self._sender, self._client = self._sender, self._client, None, None
        for one in (sender, client):
            if one is not None:
                try:
                    async with asyncio.timeout(_TRY):
                        await one.close()
                except (AzureError, OSError, TimeoutError) as error:
                    _log.debug("closing: %r", error)

    def _new_client(self) -> ServiceBusClient:
        return ServiceBusClient.from_connection_string(self._connection_string, retry_total=0, try_timeout=_TRY)
