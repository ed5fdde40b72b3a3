"""Ask over Azure Service Bus, as any upstream app does. Copy this file: it needs `azure-servicebus` and nothing else.

    async with ServiceBusClient.from_connection_string(...) as bus, Upstream(bus) as app:
        answer = await app.ask("How many days of leave do I have?")

One sender and one session of the reply queue stay open, because opening either takes half a second.
"""

import asyncio
import json
import uuid
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Any

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import SessionLockLostError

Answer = dict[str, Any]


class NoReply(Exception):
    """Nothing came back in time."""


class Upstream:
    """An app with a door of its own (`queue`) and a reply queue of its own (`replies`)."""

    def __init__(
        self,
        bus: ServiceBusClient,
        *,
        queue: str = "ask",
        replies: str = "answers",
        session: str | None = None,
        one_connection: bool = False,
    ) -> None:
        """`one_connection`: close the sender before answers are received, where connections are scarce."""
        self._bus = bus
        self._queue = queue
        self._replies = replies
        self._session = session or str(uuid.uuid4())
        self._thrifty = one_connection
        self._sender: ServiceBusSender | None = None
        self._receiver: ServiceBusReceiver | None = None

    async def __aenter__(self) -> "Upstream":
        if not self._thrifty:
            await asyncio.gather(self._open_sender(), self._open_receiver())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(self._close_sender(), self._close_receiver())

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
        message = ServiceBusMessage(
            json.dumps({"question": question, **({"use_case": use_case} if use_case else {}), **more}),
            message_id=message_id or str(uuid.uuid4()),
            subject="ask.v1",
            content_type="application/json",
            reply_to=self._replies,
            reply_to_session_id=self._session,
            time_to_live=timedelta(seconds=within),
        )
        await self._send(message)
        # The service itself says when the deadline has passed, at most 15 s after it.
        return await self._receive(str(message.message_id), within + 15)

    async def _send(self, message: ServiceBusMessage) -> None:
        if self._thrifty:
            await self._close_receiver()
        sender = await self._open_sender()
        await sender.send_messages(message)
        if self._thrifty:
            await self._close_sender()

    async def _receive(self, asked: str, within: float) -> Answer:
        until = monotonic() + within
        while (left := until - monotonic()) > 0:
            try:
                receiver = await self._open_receiver()
                for reply in await receiver.receive_messages(max_message_count=1, max_wait_time=left):
                    answer: Answer = json.loads(str(reply))
                    await receiver.complete_message(reply)
                    # Replies are answered by correlation: an earlier question's may come late.
                    if reply.correlation_id == asked:
                        return answer
            except SessionLockLostError:
                # We were silent for longer than the session's lock; it is still ours to open again.
                await self._close_receiver()
        raise NoReply(f"no answer on {self._replies} within {within:.0f} s")

    async def _open_sender(self) -> ServiceBusSender:
        if self._sender is None:
            self._sender = await self._bus.get_queue_sender(self._queue).__aenter__()
        return self._sender

    async def _open_receiver(self) -> ServiceBusReceiver:
        if self._receiver is None:
            receiver = self._bus.get_queue_receiver(self._replies, session_id=self._session)
            self._receiver = await receiver.__aenter__()
        return self._receiver

    async def _close_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with suppress(Exception):
                await sender.close()

    async def _close_receiver(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            with suppress(Exception):
                await receiver.close()
