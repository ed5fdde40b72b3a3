"""`ragbus cancel`: cancels a request, by queue or over HTTP."""

import asyncio
import json
import urllib.parse
import urllib.request
import uuid
from typing import Any

from ops.connect import LAPTOP_KEY, caller_named, fetch_json
from ops.errors import CommandError
from ops.target import Target

Answer = dict[str, Any]


def by_queue(target: Target, message_id: str, caller: str | None = None) -> None:
    """Send a `cancel.v1` for the ask that `caller` sent under `message_id`; raises `CommandError`."""
    asyncio.run(_by_queue(target, message_id, caller_named(target, caller)))


def by_http(target: Target, request_id: str) -> Answer:
    """Cancel over HTTP; returns the request's outcome. Raises `CommandError`."""
    key = target.variables.get("RAGBUS_API_KEY", LAPTOP_KEY)
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{target.gateway}/v1/requests/{urllib.parse.quote(request_id, safe='')}"
    return fetch_json(urllib.request.Request(url, headers=headers, method="DELETE"), 20)  # noqa: S310 - our own gateway


async def _by_queue(target: Target, message_id: str, caller: Any) -> None:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.exceptions import ServiceBusError

    from ops.connect import service_bus

    if caller.queue is None:
        raise CommandError(f"{caller.name} has no queue of its own; cancel with --http")
    said = ServiceBusMessage(
        json.dumps({"message_id": message_id}),
        subject="cancel.v1",
        content_type="application/json",
        message_id=uuid.uuid4().hex,
    )
    try:
        async with service_bus(target) as bus, bus.get_queue_sender(caller.queue) as sender:
            await sender.send_messages(said)
    except ServiceBusError as unavailable:
        raise CommandError(f"{target.host} does not answer: {unavailable}; run `ragbus doctor`") from unavailable
