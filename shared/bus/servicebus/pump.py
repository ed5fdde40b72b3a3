"""The only file that knows private members of the SDK: a pump for receivers, and batches that are encoded once.

Through the public API whoever waits for something reads the socket himself, one frame at a time, and holds a lock
meanwhile that writing needs as well. So each settlement waits its turn behind every other, a message is asked for only
when the one before it is here, and a process does some twenty requests a second where the round trip takes 20 ms.
With a pump, which reads all that arrives on a receiver's connection,

    reading       is one task's job; those who wait for the outcome of a settlement are told
    writing       does not wait for reading
    link credit   is the number of slots that are free, so messages are under way while others are worked on

Everything else remains the SDK's: encoding, settling and its outcomes, errors, retries, opening links anew, renewing
locks, giving back at the end what has arrived unasked. Where the SDK is not one that this was tested with
(tests/conformance/test_service_bus_pump.py), or does not look like it, there is no pump, and the adapter is as slow as
the public API.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import azure.servicebus
from azure.servicebus import ServiceBusMessageBatch, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import MessageSizeExceededError

from shared.telemetry.logs import get_logger

log = get_logger()
Add = Callable[[ServiceBusMessageBatch, AmqpAnnotatedMessage], None]

TESTED = frozenset({"7.15.0"})
# Messages that have arrived and that nobody asks for within so many seconds are given back: their locks are running.
HOLD = 0.25
# Frames that are read before the SDK looks at its heartbeat again.
FRAMES = 64
# Credit is topped up when a quarter of it is used up, or a small frame would go out for every message.
PART = 4
# What a message costs in a batch beside its own bytes: a section's header, short below 256 bytes (AMQP 1.0, 1.6.19).
SHORT, LONG = 5, 8


def adder(version: str = azure.servicebus.__version__) -> Add:
    """What adds a message to a batch, and raises `MessageSizeExceededError`; where it can be, cheaper than the SDK's.

    The SDK encodes each message twice, once to measure it, which is half of what sending costs.
    """
    return _add_once if version in TESTED else ServiceBusMessageBatch.add_message


def _add_once(batch: ServiceBusMessageBatch, message: AmqpAnnotatedMessage) -> None:
    from azure.servicebus._pyamqp._encode import encode_payload

    private: Any = batch
    encoded = bytearray()
    encode_payload(encoded, private._amqp_transport.to_outgoing_amqp_message(message))
    size = batch.size_in_bytes + len(encoded) + (SHORT if len(encoded) < 256 else LONG)
    if size > batch.max_size_in_bytes:
        raise MessageSizeExceededError(message=f"a batch holds {batch.max_size_in_bytes} bytes")
    if not private._count and (said := message.properties):
        private._amqp_transport.set_batch_envelope_properties(private._message, said.message_id, said.group_id, None)
    # The sixth field of an AMQP message holds its data sections.
    private._message[5].append(encoded)
    private._size = size
    private._count += 1


class Pump:
    """Reads for one open receiver, until its link or its connection ends."""

    def __init__(self, receiver: ServiceBusReceiver, room: Callable[[], int], slots: int) -> None:
        """`room`: how many more messages could be worked on now, of at most `slots`."""
        private: Any = receiver
        self._handler, self._build = private._handler, private._build_received_message
        self._link, self._connection = self._handler._link, self._handler._connection
        self._transport = self._connection._transport
        self._arrived = self._handler._received_messages
        self._room = room
        self._step = max(1, slots // PART)
        self._waiting = False
        self._changed = asyncio.Event()
        self._outgoing = bytearray()
        self._settling: dict[int, asyncio.Future[None]] = {}
        self._holding: asyncio.TimerHandle | None = None
        self._giving_back: asyncio.Task[None] | None = None
        self._install()
        self._reader = asyncio.create_task(self._read(), name="pump")

    @classmethod
    def on(
        cls,
        receiver: ServiceBusReceiver,
        room: Callable[[], int],
        slots: int,
        version: str = azure.servicebus.__version__,
    ) -> "Pump | None":
        """A pump for `receiver`, which is open; None where the SDK is another one than this was written for."""
        return cls(receiver, room, slots) if version in TESTED and _as_tested(receiver) else None

    @property
    def runs(self) -> bool:
        """Whether it reads; once its link is gone the SDK opens a new one, which needs a pump of its own."""
        return not self._reader.done()

    def changed(self) -> None:
        """Look again: a slot has become free."""
        self._changed.set()

    def take(self) -> list[ServiceBusReceivedMessage]:
        """The message that has arrived first, if there is one."""
        return [] if self._arrived.empty() else [self._build(self._arrived.get_nowait())]

    async def wait(self, seconds: float) -> bool:
        """Whether a message has arrived, or the pump has ended, before the time was over."""
        self._waiting = True
        try:
            async with asyncio.timeout(seconds):
                return await self._message()
        except TimeoutError:
            return False
        finally:
            self._waiting = False
            self._hold()

    async def stop(self) -> None:
        """Leave the rest to the SDK: it gives back what has arrived when it closes the receiver."""
        if self._holding is not None:
            self._holding.cancel()
        for task in (self._giving_back, self._reader):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._uninstall()

    # -- waiting for messages

    async def _message(self) -> bool:
        while True:
            self._changed.clear()
            if not self._arrived.empty() or not self.runs:
                return True
            await self._top_up()
            await self._changed.wait()

    async def _top_up(self) -> None:
        wanted = max(1, self._room())
        current = self._link.current_link_credit
        if current <= 0 or wanted - current >= self._step:
            await self._credit(wanted)

    async def _credit(self, messages: int) -> None:
        # A link that is gone says so here first; the reader is about to notice as well.
        with suppress(Exception):
            await self._link.flow(link_credit=messages)

    def _hold(self) -> None:
        if self._holding is None and self.runs:
            self._holding = asyncio.get_running_loop().call_later(HOLD, self._held)

    def _held(self) -> None:
        self._holding = None
        unasked = not self._arrived.empty() or self._link.current_link_credit > 0
        if not self._waiting and unasked and self.runs:
            self._giving_back = asyncio.create_task(self._give_back())

    async def _give_back(self) -> None:
        """Ask for nothing more, and release what is here; the delivery count of what is released stays as it was."""
        await self._credit(0)
        while not self._arrived.empty():
            frame, _ = self._arrived.get_nowait()
            with suppress(Exception):  # of a link that is gone; the locks on its messages run out
                await self._handler.settle_messages_async(frame[1], frame[2], "released")

    # -- what is done in the SDK's place

    async def _read(self) -> None:
        try:
            while self._attached():
                await self._connection.listen(wait=True, batch=FRAMES)
        except Exception as ended:  # noqa: BLE001 - whoever uses the receiver next meets it again, and knows what to do
            log.debug("pump.ended", detail=repr(ended))
            self._hang_up()
        finally:
            # Nobody reads any more: whoever waits has to find out by himself what has become of the link.
            for settled in self._settling.values():
                _tell(settled)
            self._changed.set()

    def _hang_up(self) -> None:
        """Close the socket of a connection that broke: the SDK forgets it, open."""
        if self._connection._error is not None and self._transport.writer is not None:
            self._transport.writer.close()

    def _attached(self) -> bool:
        """Raises the link's error when there is one."""
        return bool(self._link.get_state().name == "ATTACHED")

    async def _write(self, data: bytes) -> None:
        """Write what one turn of the event loop has to say in one piece. That nobody listens the reader hears."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += data

    def _flush(self) -> None:
        writer, data = self._transport.writer, bytes(self._outgoing)
        self._outgoing.clear()
        if writer is not None and data:
            writer.write(data)

    async def _arrive(self, frame: Any, message: Any) -> None:
        self._arrived.put((frame, message))
        self._changed.set()
        if not self._waiting:
            self._hold()

    async def _outcome(self, delivery_ids: list[int], *how: Any) -> None:
        """Wait until the reader has seen the outcomes; what they mean the SDK says."""
        pending = self._link._pending_dispositions
        try:
            for number in delivery_ids:
                if self.runs and not pending[number]["settled"]:
                    self._settling[number] = asyncio.get_running_loop().create_future()
                    await self._settling[number]
        except asyncio.CancelledError:
            for number in delivery_ids:
                pending.pop(number, None)
            raise
        finally:
            for number in delivery_ids:
                self._settling.pop(number, None)
        await type(self._link)._wait_for_disposition_outcome(self._link, delivery_ids, *how)

    async def _disposition(self, frame: Any) -> None:
        await type(self._link)._incoming_disposition(self._link, frame)
        first, last = frame[1], frame[1] if frame[2] is None else frame[2]
        # A broker may answer for a range, and its other links have numbers of their own.
        for number in (first,) if first == last else [number for number in self._settling if first <= number <= last]:
            if number in self._settling and self._link._pending_dispositions[number]["settled"]:
                _tell(self._settling[number])

    def _install(self) -> None:
        self._on_transfer = self._link._on_transfer
        self._link._on_transfer = self._arrive
        self._link._incoming_disposition = self._disposition
        self._link._wait_for_disposition_outcome = self._outcome
        self._transport.write = self._write

    def _uninstall(self) -> None:
        self._flush()
        self._link._on_transfer = self._on_transfer
        del self._link._incoming_disposition, self._link._wait_for_disposition_outcome, self._transport.write


def _tell(settled: "asyncio.Future[None]") -> None:
    if not settled.done():
        settled.set_result(None)


def _as_tested(receiver: Any) -> bool:
    """Whether everything is where it was in the versions that were tested."""
    try:
        handler = receiver._handler
        link, transport = handler._link, handler._connection._transport
        functions = (
            link.flow,
            link._on_transfer,
            link._incoming_disposition,
            link._wait_for_disposition_outcome,
            handler.settle_messages_async,
            handler._connection.listen,
            transport.write,
            transport._write,
        )
        things = (
            receiver._build_received_message,
            handler._received_messages.put,
            link._pending_dispositions,
            link.current_link_credit,
            link.get_state,
            transport.writer,
        )
    except AttributeError:
        return False
    return all(map(inspect.iscoroutinefunction, functions)) and None not in things
