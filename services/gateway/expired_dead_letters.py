"""Tells callers of what expired in `dead` itself, before the gateway had looked at it.

A dead letter that is forwarded begins its time to live anew. If that is short, or the gateway away for longer, it
expires a second time and lies in the archive, told to nobody. So the archive is looked through: what expired, and
has no outcome in the ledger, gets one, and a repeat the one there is. Peeking changes nothing there, an outcome that
was sent is not sent again, and the reply queue drops what the worker has told a repeat.
"""

import asyncio
from collections.abc import Callable
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

EVERY = 10.0
PAGE = 100
# The sequence number up to which the archive was looked through, for whichever gateway looks next.
CURSOR = "ragbus:dead:swept"
AWAY = (BusUnavailable, UnknownQueue, RedisUnavailable, TryLater)


class ExpiredDeadLetterScan:
    """Goes through the archive from where the last one ended."""

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
        """`send` posts an envelope and decides outcomes."""
        self._bus = bus
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._redis = redis
        self._send = send
        self._clock = clock

    async def run(self, stopping: asyncio.Event) -> None:
        """ExpiredDeadLetterScan until `stopping` is set; what fails is tried again."""
        while not stopping.is_set():
            try:
                await self.once()
            except AWAY as away:
                log.info("dead.not_swept", detail=str(away))
            try:
                async with asyncio.timeout(EVERY):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def once(self) -> int:
        """Look through what is new; returns how many callers were told. Raises as peek and send do."""
        told = 0
        while page := await self._bus.peek(DEAD, dead=True, after=await self._cursor(), limit=PAGE):
            for message in page:
                told += await self._look_at(message)
            await self._go_on_from(page[-1].sequence_number)
        return told

    async def _cursor(self) -> int:
        return int(await self._redis.run(lambda redis: redis.get(CURSOR)) or 0)

    async def _go_on_from(self, number: int) -> None:
        await self._redis.run(lambda redis: redis.set(CURSOR, number))

    async def _look_at(self, message: Received) -> bool:
        try:
            return await self._tell(message)
        except AWAY:
            raise
        except Exception as bug:  # noqa: BLE001 - one that cannot be told must not hide those after it
            log.error("dead.cannot_be_told", message_id=message.message_id, detail=repr(bug))
            return False

    async def _tell(self, message: Received) -> bool:
        if message.dead_letter_reason != Reason.TTL_EXPIRED or self._is_old(message):
            return False
        dead_message = self._dead_letters.decode(message)
        if dead_message.request is None:
            return False
        entry = await self._ledger.find(key_of(dead_message.request))
        if entry is not None and entry.answer is not None and not dead_message.is_ask:
            return False
        if entry is None and dead_message.request.recorded:
            # Redis lost it. Its sentinel has told its caller, and the queue that would drop a repeat has forgotten it.
            return False
        envelopes = await self._dead_letters.handle(dead_message)
        for envelope in envelopes:
            log.info("dead.swept", request_id=dead_message.request.request_id, tenant=dead_message.request.tenant)
            await self._send(envelope)
        return bool(envelopes)

    def _is_old(self, message: Received) -> bool:
        """Whether the ledger would not know its outcome any more."""
        return message.enqueued_at is not None and self._clock() - message.enqueued_at > KEEP
