"""The upstream apps of a chaos run: they send with the plain SDK, and read replies while the broker comes and goes."""

import asyncio
import json
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from tests.chaos.history import Asked, Replied, Sent
from tests.chaos.world import Wish

# One attempt of an operation; a broker that was killed in the middle of it says nothing any more.
TRY_TIMEOUT = 5.0
_PAUSE = 0.5
# The apps have no more questions open at once: a slow machine must not turn into a backlog that outlives deadlines.
_AT_ONCE = 100
_LOOK = 0.05
# A duplicate is sent this long after the first at the most: while that is being worked on, or after it was answered.
_LATER = 20.0
_AWAY = (AzureError, OSError, TimeoutError, ValueError)


class Upstream:
    """Sends wishes and collects what comes back."""

    def __init__(self, connection_string: str, rng: random.Random) -> None:
        self.asked: dict[str, Asked] = {}
        self.replied: list[Replied] = []
        self.outstanding: dict[str, Asked] = {}
        """By request id: what has no outcome yet."""
        self.duplicates = 0
        self.resent = 0
        """Sends that were repeated because the broker went away before it answered."""
        self._address = connection_string
        self._rng = rng
        self._senders: dict[str, ServiceBusSender] = {}
        self._client: ServiceBusClient | None = None

    # -- sending

    async def post(self, wishes: Iterable[Wish], *, every: float = 0.0, duplicates: float = 0.0) -> None:
        """Send `wishes`, one each `every` seconds, and a share of them twice."""
        began = time.monotonic()
        async with self._connected() as self._client:
            for due, wish in self._schedule(wishes, every, duplicates):
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                while len(self.outstanding) >= _AT_ONCE:
                    await asyncio.sleep(_LOOK)
                await self._send(wish)
            await self._hang_up()

    def _schedule(self, wishes: Iterable[Wish], every: float, duplicates: float) -> list[tuple[float, Wish]]:
        first = [(number * every, wish) for number, wish in enumerate(wishes)]
        latest = min(_LATER, len(first) * every)
        again = [(due + self._rng.uniform(0, latest), wish) for due, wish in first if self._rng.random() < duplicates]
        self.duplicates += len(again)
        return sorted(first + again, key=lambda due: due[0])

    async def _send(self, wish: Wish) -> None:
        """Send until the broker says that it has it, as an app would that wants to know."""
        known = wish.asked(time.time())
        if known.request_id not in self.asked:
            self.asked[known.request_id] = self.outstanding[known.request_id] = replace(known, sent=Sent.UNKNOWN)
        while not await self._taken(wish):
            self.resent += 1
            await asyncio.sleep(_PAUSE)
        self.asked[known.request_id] = replace(self.asked[known.request_id], sent=Sent.OK)

    async def _taken(self, wish: Wish) -> bool:
        message = ServiceBusMessage(
            json.dumps({"question": wish.question}),
            message_id=wish.message_id,
            subject="ask.v1",
            content_type="application/json",
            reply_to_session_id=wish.session,
            time_to_live=timedelta(seconds=wish.patience),
        )
        try:
            await (await self._sender(wish.caller.queue)).send_messages(message, timeout=TRY_TIMEOUT)
        except _AWAY:
            await self._forget(wish.caller.queue)
            return False
        return True

    async def _sender(self, queue: str) -> ServiceBusSender:
        if queue not in self._senders:
            assert self._client is not None
            self._senders[queue] = self._client.get_queue_sender(queue)
        return self._senders[queue]

    async def _forget(self, queue: str) -> None:
        sender = self._senders.pop(queue, None)
        if sender is not None:
            with suppress(*_AWAY):
                await asyncio.wait_for(sender.close(), TRY_TIMEOUT)

    async def _hang_up(self) -> None:
        for queue in list(self._senders):
            await self._forget(queue)

    # -- collecting

    async def collect(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Read replies until cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue, session in sessions:
                group.create_task(self._listen(queue, session))

    async def _listen(self, queue: str, session: str) -> None:
        while True:
            try:
                async with (
                    self._connected() as client,
                    client.get_queue_receiver(queue, session_id=session, max_wait_time=1) as receiver,
                ):
                    await self._read(receiver, queue, session)
            except _AWAY:
                await asyncio.sleep(_PAUSE)

    async def _read(self, receiver: ServiceBusReceiver, queue: str, session: str) -> None:
        while True:
            for message in await receiver.receive_messages(max_message_count=50, max_wait_time=1):
                self._note(queue, session, message)
                await receiver.complete_message(message)

    def _note(self, queue: str, session: str, message: Any) -> None:
        reply = Replied.of(
            queue,
            json.loads(str(message)),
            session=message.session_id or session,
            sequence=message.sequence_number or 0,
            message_id=message.message_id or "",
            at=time.time(),
        )
        self.replied.append(reply)
        self.outstanding.pop(reply.request_id, None)

    def _connected(self) -> ServiceBusClient:
        # The app's own loops try again; what the SDK repeats by itself would only make them slower to notice.
        return ServiceBusClient.from_connection_string(self._address, retry_total=0)


def sessions(wishes: Iterable[Wish]) -> set[tuple[str, str]]:
    """The reply queues, and the sessions in them, that `wishes` are answered in."""
    return {(wish.caller.reply_queue, wish.session) for wish in wishes}
