"""Ask over Azure Service Bus, as any upstream app does. Copy this file: it needs `azure-servicebus` and nothing else.

    async with ServiceBusClient.from_connection_string(…, try_timeout=10) as bus, Upstream(bus) as app:
        answers = await asyncio.gather(*(app.ask(question) for question in questions))

One task reads the replies of a session and hands each to the `ask` that waits for it, by correlation id. One sender
stays open and sends one message at a time. A session has one reader: give each process a session of its own.
"""

import asyncio
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

Answer = dict[str, Any]
log = logging.getLogger(__name__)

LATE = 15  # seconds after the deadline: the service says `expired` by then
LOOK = 1  # seconds of silence after which the reader looks at its session's lock, and whether it is to end
RENEW = timedelta(seconds=30)  # a lock with less than this left is renewed
REOPEN = 0.5  # seconds before a lost session is opened again


class NoReply(Exception):
    """Nothing came back in time."""


def ask_message(
    question: str, *, message_id: str, reply_to: str, session: str, within: float, **more: Any
) -> ServiceBusMessage:
    """An `ask.v1`; `more` are further fields of its body, those that are None are left out."""
    body = {"question": question, **{name: value for name, value in more.items() if value is not None}}
    return ServiceBusMessage(
        json.dumps(body),
        subject="ask.v1",
        content_type="application/json",
        message_id=message_id,
        reply_to=reply_to,
        reply_to_session_id=session,
        time_to_live=timedelta(seconds=within),
    )


class Upstream:
    """An app with an ingress queue (`queue`), a reply queue (`replies`) and a session of its own in it."""

    def __init__(
        self,
        bus: ServiceBusClient,
        *,
        queue: str = "ask",
        replies: str = "answers",
        session: str | None = None,
        unexpected: Callable[[Answer], None] | None = None,
    ) -> None:
        """`unexpected` is given replies that no `ask` waits for; without it they are logged and dead-lettered."""
        self._bus = bus
        self._queue = queue
        self._replies = replies
        self._session = session or str(uuid.uuid4())
        self._unexpected = unexpected
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._answered: deque[str] = deque(maxlen=1000)
        self._sender: ServiceBusSender | None = None
        self._sending = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        opened = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(opened))
        try:
            await asyncio.gather(opened, self._open_sender())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        for asked, reply in self._waiting.items():
            if not reply.done():
                reply.set_exception(NoReply(f"the app was closed before the answer to {asked} came"))
        async with self._sending:
            await self._close_sender()

    async def ask(
        self,
        question: str,
        *,
        use_case: str | None = None,
        message_id: str | None = None,
        within: float = 60,
        **more: Any,
    ) -> Answer:
        """The outcome for `question`; raises `NoReply`. The same `message_id` again is the same request again."""
        asked = message_id or str(uuid.uuid4())
        if asked in self._waiting:
            raise ValueError(f"{asked} is being asked already")
        message = ask_message(
            question,
            message_id=asked,
            reply_to=self._replies,
            session=self._session,
            within=within,
            use_case=use_case,
            **more,
        )
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[asked] = reply
        try:
            # A caller that is cancelled leaves the sender whole: what has begun to be sent is sent.
            await asyncio.shield(asyncio.create_task(self._send(message)))
            async with asyncio.timeout(within + LATE):
                return await reply
        except TimeoutError as silence:
            raise NoReply(f"no answer to {asked} on {self._replies} within {within + LATE:.0f} s") from silence
        finally:
            del self._waiting[asked]

    async def _read(self, opened: "asyncio.Future[None]") -> None:
        """Hand over replies; a session that is lost (its lock, the connection) is opened again."""
        # Cancelling alone does not always end this: the SDK loses a cancellation that meets it while it reads.
        while not self._closing:
            try:
                async with self._bus.get_queue_receiver(self._replies, session_id=self._session) as receiver:
                    if not opened.done():
                        opened.set_result(None)
                    while not self._closing:
                        await self._hand_over(receiver)
            except Exception as lost:  # noqa: BLE001 - whatever it is, the asks that wait need a reader
                if not opened.done():
                    opened.set_exception(lost)
                    return
                log.warning("session %s of %s is lost and will be opened again: %r", self._session, self._replies, lost)
            await asyncio.sleep(0 if self._closing else REOPEN)

    async def _hand_over(self, receiver: ServiceBusReceiver) -> None:
        # One at a time: asked for more, the SDK waits 0.2 s for the next.
        for reply in await receiver.receive_messages(max_message_count=1, max_wait_time=LOOK):
            await self._take(receiver, reply)
        locked_until = receiver.session.locked_until_utc
        if locked_until is not None and locked_until - datetime.now(UTC) < RENEW:
            await receiver.session.renew_lock()

    async def _take(self, receiver: ServiceBusReceiver, reply: ServiceBusReceivedMessage) -> None:
        """Give `reply` to the ask that waits for it, then complete it: what was not handed over is never completed."""
        asked = str(reply.correlation_id)
        waiting = self._waiting.get(asked)
        try:
            answer: Answer = json.loads(str(reply))
        except ValueError:
            log.warning("the reply to %s is not JSON: dead-lettered in %s", asked, self._replies)
            await receiver.dead_letter_message(reply, reason="NotJson")
            return
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
            self._answered.append(asked)
        elif asked in self._answered:
            log.info("the reply to %s came again (%s)", asked, reply.message_id)
        elif self._unexpected is not None:
            self._unexpected(answer)
        else:
            log.warning("no ask waits for the reply to %s: dead-lettered in %s", asked, self._replies)
            await receiver.dead_letter_message(reply, reason="Unexpected", error_description="no ask waits for it")
            return
        await receiver.complete_message(reply)

    async def _send(self, message: ServiceBusMessage) -> None:
        async with self._sending:
            sender = await self._open_sender()
            try:
                await sender.send_messages(message)
            except Exception:
                await self._close_sender()
                raise

    async def _open_sender(self) -> ServiceBusSender:
        if self._sender is None:
            self._sender = await self._bus.get_queue_sender(self._queue).__aenter__()
        return self._sender

    async def _close_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with suppress(Exception):
                await sender.close()
