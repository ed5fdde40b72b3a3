"""Tells callers about messages that expired in `dead` before the gateway read them.

A forwarded dead letter starts a new time to live. If that is short, or no gateway runs for longer, it expires again and
its caller is not told. So the gateway scans the archive: an expired message without an outcome in the ledger gets one,
and a repeat gets the existing one. Peeking changes nothing there, a sent outcome is not sent again, and the reply queue
drops what a repeat already got.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from services.gateway.dead_letter_consumer import DeadLetterConsumer
from shared.bus.port import Browser, BusUnavailable, Received, UnknownQueue
from shared.contracts.queues import DEAD
from shared.errors import Reason, TryLater
from shared.ledger.ledger import KEEP, Ledger, key_of
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.worker.publisher import Send

log = get_logger()

# Seconds between two scans, and messages per request to the broker.
EVERY = 10.0
PAGE = 100
# The key of the sequence number up to which the archive was scanned, shared by all gateways.
CURSOR = "ragbus:dead:scanned"
UNAVAILABLE = (BusUnavailable, UnknownQueue, RedisUnavailable, TryLater)


class ExpiredDeadLetterScan:
    """Scans the archive from where the last scan of any gateway ended."""

    def __init__(
        self,
        *,
        bus: Browser,
        dead_letters: DeadLetterConsumer,
        ledger: Ledger,
        redis: FailFastRedis,
        send: Send,
        clock: Callable[[], datetime],
    ) -> None:
        """`send`: decides an envelope's outcome and sends it."""
        self._bus = bus
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._redis = redis
        self._send = send
        self._clock = clock

    async def run(self, stopping: asyncio.Event) -> None:
        """Scan every `EVERY` seconds until `stopping` is set; a scan that fails is tried again."""
        while not stopping.is_set():
            try:
                await self.once()
            except UNAVAILABLE as failure:
                log.info("dead.scan_failed", detail=str(failure))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await stopping.wait()

    async def once(self) -> int:
        """Scan new dead letters; returns how many callers were told.

        Raises `BusUnavailable`, `UnknownQueue`, `RedisUnavailable` and `TryLater`; the next scan goes on there.
        """
        told = 0
        after = int(await self._redis.run(lambda redis: redis.get(CURSOR)) or 0)
        while page := await self._bus.peek(DEAD, dead=True, after=after, limit=PAGE):
            for message in page:
                try:
                    told += await self._tell(message)
                except UNAVAILABLE:
                    raise
                except Exception as bug:  # one failure must not stop the scan
                    log.error("dead.outcome_not_sent", message_id=message.message_id, detail=repr(bug), exc_info=True)
            after = page[-1].sequence_number
            await self._redis.run(lambda redis: redis.set(CURSOR, after))  # noqa: B023 - it runs at once
        return told

    async def _tell(self, message: Received) -> bool:
        """Tell the caller of an expired message, unless it was told before; returns whether it was told now."""
        is_old = message.enqueued_at is not None and self._clock() - message.enqueued_at > KEEP
        if message.dead_letter_reason != Reason.TTL_EXPIRED or is_old:  # the ledger has forgotten old requests
            return False
        dead = self._dead_letters.decode(message)
        if dead.request is None:
            return False
        entry = await self._ledger.find(key_of(dead.request))
        if entry is not None and entry.answer is not None and not dead.is_ask:
            return False
        if entry is None and dead.request.recorded:
            # Redis lost it. Its sentinel has told the caller, and the reply queue's duplicate window has passed.
            return False
        envelopes = await self._dead_letters.handle(dead)
        for envelope in envelopes:
            log.info("dead.expired", request_id=dead.request.request_id, tenant=dead.request.tenant)
            await self._send(envelope)
        return bool(envelopes)
