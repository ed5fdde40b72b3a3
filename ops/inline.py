"""One message through its worker's own handler, in this process: a breakpoint in the handler works.

What leaves is printed instead of sent. Redis is kept out of it, so nothing is charged, cached or claimed; the model
and Qdrant are called for real. A storage event is really indexed, which changes nothing that the lake does not say.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from ops import console
from ops.connect import callers
from ops.errors import CommandError
from ops.target import Target
from shared.bus.port import Outgoing, Received
from shared.contracts.envelope import Envelope
from shared.contracts.queues import BLOB_EVENTS, topology
from shared.errors import SettingsError, TryLater, Unprocessable
from shared.telemetry import logs, metrics
from shared.worker.consumer import Consumer
from shared.worker.ports import Ports
from shared.worker.runtime import Service

# Nobody listens on the discard port; the connection is refused at once.
_NO_REDIS = "redis://127.0.0.1:9/0"
# So nothing is cached either; the gateway wants a secret all the same.
_UNUSED = "nothing is cached here"


async def run(target: Target, message: Outgoing) -> None:
    """Decode and handle `message`, and print what the worker would send; raises `CommandError`."""
    os.environ.update(_variables(target, message.queue))
    service = consuming_service(target, message.queue)
    logs.configure(service, "pretty", "warning")
    try:
        ports, composed = await _compose(service)
    except SettingsError as wrong:
        raise CommandError(f"{service}: {wrong}") from wrong
    try:
        consumers = [worker.consumer for worker in composed.workers]
        _print(await _handled(next(each for each in consumers if each.queue == message.queue), received(message)))
    finally:
        for close in (*composed.closing, ports.redis.close, ports.bus.close):
            await close()


def consuming_service(target: Target, queue: str) -> str:
    """The service that receives from `queue`; raises `CommandError`."""
    known = callers(target)
    for each in topology(known.ingresses(), known.reply_queues()):
        if each.name == queue and each.consumer != "caller":
            return each.consumer
    raise CommandError(f"no service of ours receives from {queue}")


def received(message: Outgoing) -> Received:
    """`message` as its receiver would see it."""
    names = {field.name for field in fields(Received)} & {field.name for field in fields(Outgoing)}
    same: dict[str, Any] = {name: getattr(message, name) for name in names}
    return Received(**same, enqueued_at=datetime.now(UTC))


async def _compose(service: str) -> tuple[Ports, Service]:
    module = importlib.import_module(f"services.{service}.settings")
    settings = getattr(module, f"{service.title()}Settings").load()
    main = importlib.import_module(f"services.{service}.main")
    ports = main.open_ports(settings, metrics.make())
    return ports, await main.compose(settings, ports)


async def _handled(consumer: Consumer[Any], message: Received) -> Sequence[Envelope]:
    try:
        return await consumer.handle(consumer.decode(message), message.attempt)
    except Unprocessable as hopeless:
        raise CommandError(f"the worker would dead-letter it: {hopeless.reason}: {hopeless.detail}") from hopeless
    except TryLater as later:
        raise CommandError(f"the worker would try it later: {later}") from later


def _print(envelopes: Sequence[Envelope]) -> None:
    if not envelopes:
        console.err("handled; nothing would be sent")
    for envelope in envelopes:
        console.err(f"would send {envelope.message.kind} to {envelope.queue} as {envelope.message_id}:")
        console.print_json(envelope.message.model_dump(mode="json", exclude_none=True))


def _variables(target: Target, queue: str) -> Mapping[str, str]:
    dry = {} if queue == BLOB_EVENTS else {"RAGBUS_REDIS_URL": _NO_REDIS, "RAGBUS_CACHE_SECRET": _UNUSED}
    return {**target.variables, **dry}
