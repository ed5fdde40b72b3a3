"""Runs a worker's handler on one message in this process, so that a breakpoint in the handler works.

Prints what the worker would send. Redis is left out, so nothing is charged, cached or decided; the model and Qdrant are
called. A storage event is really indexed, which only makes the index match the lake.
"""

import importlib
import os
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from ops import console
from ops.connect import callers
from ops.errors import CommandError
from ops.target import Target
from shared.bus.port import Outgoing, Received
from shared.contracts.queues import BLOB_EVENTS, topology
from shared.errors import SettingsError, TryLater, Unprocessable
from shared.telemetry import logs, metrics

# The discard port, on which nothing listens: a connection is refused at once. The gateway needs a secret, but without
# Redis nothing is cached.
_WITHOUT_REDIS = {"RAGBUS_REDIS_URL": "redis://127.0.0.1:9/0", "RAGBUS_CACHE_SECRET": "nothing is cached here"}


async def run(target: Target, message: Outgoing) -> None:
    """Decode and handle `message`, and print what the worker would send; raises `CommandError`."""
    service = consuming_service(target, message.queue)
    os.environ.update({**target.variables, **({} if message.queue == BLOB_EVENTS else _WITHOUT_REDIS)})
    logs.configure(service, "pretty", "warning")
    try:
        module = importlib.import_module(f"services.{service}.settings")
        settings = getattr(module, f"{service.title()}Settings").load()
        main = importlib.import_module(f"services.{service}.main")
        ports = main.open_ports(settings, metrics.make())
        composed = await main.compose(settings, ports)
    except SettingsError as wrong:
        raise CommandError(f"{service}: {wrong}") from wrong
    try:
        consumer = next(each.consumer for each in composed.workers if each.consumer.queue == message.queue)
        arrived = received(message)
        envelopes = await consumer.handle(consumer.decode(arrived), arrived.attempt)
    except Unprocessable as hopeless:
        raise CommandError(f"the worker would dead-letter it: {hopeless.reason}: {hopeless.detail}") from hopeless
    except TryLater as later:
        raise CommandError(f"the worker would retry it: {later}") from later
    finally:
        for close in (*composed.closing, ports.redis.close, ports.bus.close):
            await close()
    if not envelopes:
        console.err("handled; the worker would send nothing")
    for envelope in envelopes:
        console.err(f"would send {envelope.message.kind} to {envelope.queue} as {envelope.message_id}:")
        console.print_json(envelope.message.model_dump(mode="json", exclude_none=True))


def consuming_service(target: Target, queue: str) -> str:
    """The service that receives from `queue`; raises `CommandError`."""
    known = callers(target)
    for each in topology(known.ingresses(), known.reply_queues()):
        if each.name == queue and each.consumer != "caller":
            return each.consumer
    raise CommandError(f"no service receives from {queue}")


def received(message: Outgoing) -> Received:
    """`message` as its receiver sees it."""
    names = {field.name for field in fields(Received)} & {field.name for field in fields(Outgoing)}
    same: dict[str, Any] = {name: getattr(message, name) for name in names}
    return Received(**same, enqueued_at=datetime.now(UTC))
