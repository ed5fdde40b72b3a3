"""The worker loop, and the steps of one delivery.

    receive ─▶ decode ─▶ recognise ─▶ handle ─▶ send ─▶ settle ─▶ emit
                  │           │          │         │
                  │           │          │         └─ the broker did not take it: leave it, the lock runs out
                  │           │          ├─ TryLater: send a scheduled copy, then complete (OverQuota: the same attempt)
                  │           │          └─ Unprocessable, a bug: dead-letter
                  │           └─ it has its outcome: make sure that was sent, then complete
                  └─ Unprocessable: dead-letter at the first delivery

Sending comes before settling: a crash in between repeats work, which the ledger absorbs; the other order loses it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic

import structlog

from shared.bus.port import (
    Bus,
    BusUnavailable,
    Delivery,
    Inbox,
    LockLost,
    MessageTooLarge,
    Received,
    UnknownQueue,
)
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.outcome import Code, Outcome, RequestOutcome
from shared.contracts.request import Request
from shared.errors import DeadlineMissed, DependencyDown, Reason, Unprocessable
from shared.ledger.ledger import Entry
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics, make
from shared.worker.consumer import ArchiveInPlace, Consumer, Task
from shared.worker.lease import Lease, holding
from shared.worker.outbox import handed_back, retry_copy
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.prefetch import Prefetch
from shared.worker.publisher import Publisher, send_in_order
from shared.worker.retry import DeadLetter, Reschedule, Retry, RetryPolicy, after_failure
from shared.worker.shared_breaker import LOOK_AGAIN, Breaker, Circuit
from shared.worker.slots import Leaving, Share, Slots

log = get_logger()
Clock = Callable[[], datetime]

# How long one receive waits; also the longest time until a worker notices that it should stop.
LOOK = timedelta(seconds=1)
# A message that was delivered this often without being settled may be what kills its workers. From then on it is
# processed alone, so that no other message loses delivery counts with it; the broker's limit is ten.
SUSPECT = 3
# Seconds with all slots taken before a worker receives more than it has slots: another replica may have free ones.
AHEAD_AFTER = 0.2
# Seconds with all slots taken before prefetched messages go back to the queue.
HOLD = 1.0


@dataclass(slots=True)
class Worker(Generic[Task]):
    """Receives, and works on up to `concurrency` deliveries at once; as many again may be on their way out.

    A delivery is in hand until it was handled; what it led to is then sent, and it is settled. On a queue that tenants
    share, some wait in hand for a slot (see `slots`).
    """

    consumer: Consumer[Task]
    bus: Bus
    outcomes: OutcomeGuard
    concurrency: int = 16
    breaker: Breaker | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    metrics: Metrics = field(default_factory=make)
    clock: Clock = lambda: datetime.now(UTC)
    chance: Callable[[], float] = random.random
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: str = "not yet"
    """Why it cannot receive, while it cannot."""
    publisher: Publisher = field(init=False)
    slots: Slots = field(init=False)
    _prefetch: Prefetch = field(init=False)
    _prefetched: int = 0
    """The maximum number of messages that the inbox prefetches now."""
    _running: set["asyncio.Task[None]"] = field(default_factory=set)
    _in_hand: dict[Delivery, float] = field(default_factory=dict)
    """Deliveries that are not handled yet, and when each arrived, by the event loop's clock."""
    _requests: dict[Delivery, Request] = field(default_factory=dict)
    """The request of each delivery, once it is decoded."""
    _takes_ahead: bool = False
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _suspect: "asyncio.Task[Any] | None" = None
    _probe: Delivery | None = None

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.bus, self.outcomes, self.metrics, self.clock)
        self.slots = Slots(Share.among_tenants(self.concurrency) if self.consumer.shared else Share(self.concurrency))
        self._prefetch = Prefetch(self.concurrency)

    async def run(self, stopping: asyncio.Event, grace: timedelta) -> None:
        """Work until `stopping` is set, then let what is in flight finish within `grace`."""
        inbox = self.bus.inbox(self.consumer.queue)
        self.metrics.queue_connected.set(0, {"queue": self.consumer.queue})
        try:
            await asyncio.gather(*(self.bus.prewarm(queue) for queue in self.consumer.prewarm))
            while await self._has_room(inbox, stopping):
                circuit = await self.breaker.ask() if self.breaker else Circuit.CLOSED
                if circuit is Circuit.OPEN:
                    # On an open link the broker may deliver a message that this worker would not read until its lock
                    # has ended.
                    await self._give_back_what_was_prefetched(inbox)
                    await inbox.close()
                    await _pause(stopping, LOOK_AGAIN)
                    continue
                if circuit is Circuit.HALF_OPEN:
                    # Nothing waits here, locked, behind the probe.
                    await self._give_back_what_was_prefetched(inbox)
                prefetch = self._prefetch.count if circuit is Circuit.CLOSED else 0
                delivery = await self._receive(inbox, stopping, prefetch)
                if delivery is None:
                    continue
                self._probe = delivery if circuit is Circuit.HALF_OPEN else None
                if _is_suspect(delivery):
                    await self._give_back_what_was_prefetched(inbox)
                task = self._start(delivery)
                if circuit is Circuit.HALF_OPEN or _is_suspect(delivery):
                    # Receive nothing else until this delivery has ended.
                    while not task.done() and not stopping.is_set():
                        await asyncio.wait({task}, timeout=LOOK_AGAIN)
                        if self.breaker is not None:
                            await self.breaker.keep()
            await self._give_back_what_was_prefetched(inbox)
            await self._drain(grace)
        finally:
            await inbox.close()

    @property
    def in_flight(self) -> int:
        """How many deliveries are being worked on."""
        return len(self._running)

    # -- the loop

    async def _has_room(self, inbox: Inbox, stopping: asyncio.Event) -> bool:
        """Wait until one more delivery may be taken in hand; False when the worker stops.

        Besides those in hand, twice as many deliveries as there are slots may be on their way out: sent or settled, not
        worked on (ADR 2 has the measurements).
        """
        share, loop = self.slots.share, asyncio.get_running_loop()
        full_since = loop.time()
        while not stopping.is_set():
            if len(self._in_hand) < share.slots:
                self._takes_ahead = False
            limit = share.in_hand if self._takes_ahead else share.slots
            if len(self._in_hand) < limit and len(self._running) < share.in_hand + 2 * share.slots:
                return True
            self._freed.clear()
            await _pause(self._freed, AHEAD_AFTER)
            full_for = loop.time() - full_since
            self._takes_ahead = self._takes_ahead or full_for >= AHEAD_AFTER
            if full_for >= HOLD:
                await self._give_back_what_was_prefetched(inbox)
        return False

    async def _give_back_what_was_prefetched(self, inbox: Inbox) -> None:
        self._prefetch.stop()
        if self._prefetched:
            self._prefetched = 0
            await inbox.close()

    async def _receive(self, inbox: Inbox, stopping: asyncio.Event, prefetch: int) -> Delivery | None:
        self._prefetched, loop = prefetch, asyncio.get_running_loop()
        asked = loop.time()
        try:
            delivery = await inbox.receive(LOOK, prefetch=prefetch)
        except Exception as unavailable:  # noqa: BLE001 - an unknown failure of the receiver must not end the process
            self.connected.clear()
            self.disconnected = str(unavailable) or repr(unavailable)
            self.metrics.queue_connected.set(0, {"queue": self.consumer.queue})
            log.warning("bus.unavailable", queue=self.consumer.queue, detail=self.disconnected)
            await _pause(stopping, 1 + 2 * self.chance())
            return None
        if not self.connected.is_set():
            self.connected.set()
            self.metrics.queue_connected.set(1, {"queue": self.consumer.queue})
        self._prefetch.waited(loop.time() - asked)
        return delivery

    def _start(self, delivery: Delivery) -> "asyncio.Task[None]":
        self._in_hand[delivery] = asyncio.get_running_loop().time()
        task = asyncio.create_task(self.process(delivery), name=f"{self.consumer.queue}:{delivery.message.message_id}")
        self._running.add(task)

        def ended(task: "asyncio.Task[None]") -> None:
            self._running.discard(task)
            self._handled(delivery)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("worker.bug", queue=self.consumer.queue, error=repr(error))

        task.add_done_callback(ended)
        return task

    def _handled(self, delivery: Delivery, *, succeeded: bool = False) -> None:
        """Let the next delivery begin: it need not wait until this one's result is sent and settled."""
        self.slots.leave(delivery)
        since = self._in_hand.pop(delivery, None)
        if since is not None and succeeded:  # a failure may be quick where the work is not
            self._prefetch.worked(asyncio.get_running_loop().time() - since)
        self._freed.set()

    async def _drain(self, grace: timedelta) -> None:
        self.slots.send_away()
        if not self._running:
            return
        log.info("worker.draining", queue=self.consumer.queue, in_flight=len(self._running))
        _, late = await asyncio.wait(self._running, timeout=grace.total_seconds())
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=10)

    # -- one delivery

    async def process(self, delivery: Delivery) -> None:
        """All steps of one delivery. Raises only cancellation, after handing the delivery back."""
        message = delivery.message
        if _is_suspect(delivery):
            self._suspect = asyncio.current_task()
        started = time.perf_counter()
        with (
            traces.consuming(f"{names.PROCESS} {message.queue}", message.properties, _attributes(message)) as span,
            structlog.contextvars.bound_contextvars(
                queue=message.queue, message_id=message.message_id, attempt=message.attempt, trace_id=traces.trace_id()
            ),
        ):
            try:
                done = await holding(delivery, lambda lease: self._steps(delivery, lease), self.clock)
            except LockLost as lost:
                log.warning("delivery.lock_lost", detail=str(lost))
                delivery.forget()
                done = "lock_lost"
            except (asyncio.CancelledError, Leaving) as leaving:
                await self._hand_back(delivery)
                if not isinstance(leaving, Leaving):
                    raise
                done = "handed_back"
            except Exception as unavailable:  # noqa: BLE001 - whatever it was, nothing was settled
                # Nothing is lost: the lock ends and the work is done again.
                log.warning("delivery.left", detail=repr(unavailable))
                delivery.forget()
                done = "left"
            finally:
                self._handled(delivery)
                request = self._requests.pop(delivery, None)
            seconds = time.perf_counter() - started
            span.set_attribute(names.DISPOSITION, done)
            self.metrics.consumed.add(1, {"queue": message.queue, "state": done})
            self.metrics.process_duration.record(seconds, {"queue": message.queue})
            if message.enqueued_at is not None:
                waited = (self.clock() - message.enqueued_at).total_seconds() - seconds
                self.metrics.queue_time.record(max(0.0, waited), {"queue": message.queue})
            whose = {} if request is None else {"request_id": request.request_id, "tenant": request.tenant}
            count = message.delivery_count
            log.info("delivery.done", state=done, seconds=round(seconds, 4), delivery_count=count, **whose)

    async def _steps(self, delivery: Delivery, lease: Lease) -> str:
        """Decode to settle; returns how the delivery ended, in a word."""
        if _is_suspect(delivery):
            # The loop receives nothing meanwhile.
            while others := {task for task in self._running if task is not self._suspect}:
                await asyncio.wait(others)
        try:
            task = self.consumer.decode(delivery.message)
            request = self.consumer.request(task)
            if request is not None:
                self._requests[delivery] = request
                await self.slots.enter(delivery, request.tenant)
                if self.breaker is not None and not self.breaker.is_closed and delivery is not self._probe:
                    # It has opened while this one waited: only a probe is begun then.
                    raise Leaving
                structlog.contextvars.bind_contextvars(request_id=request.request_id, tenant=request.tenant)
                traces.annotate(
                    {
                        names.REQUEST_ID: request.request_id,
                        names.TENANT: request.tenant,
                        names.USE_CASE: request.use_case,
                    }
                )
                known = await self._recognise(request)
                if known is not None:
                    await self.outcomes.ended(request, known)
                    return await self._finish(delivery, "known", task, known)
            lease.check()
            envelopes = await self._handle(task, request, delivery.message.attempt)
            self._handled(delivery, succeeded=True)
            if self.breaker is not None and not _was_given_up(envelopes):
                await self.breaker.succeeded()
            await send_in_order(envelopes, self.publisher.send, lease.check)
        except (LockLost, BusUnavailable, UnknownQueue, Leaving):
            # The bus is unavailable: not this message's fault, so it stays where it is.
            raise
        except Exception as failure:  # noqa: BLE001 - a bug in a handler is data here: it becomes a dead letter
            lease.check()
            return await self._after(failure, delivery)
        return await self._finish(delivery, "completed", task)

    async def _recognise(self, request: Request) -> Entry | None:
        """The ledger's entry when there is nothing left to do: its outcome, which is sent if it was not, or a later
        admission."""
        entry = await self.outcomes.known(request)
        if entry is None:
            return None
        if not entry.asks_the_same(request):
            await self.publisher.send(self.outcomes.reused(request))
            return entry
        if entry.is_past(request):
            return entry
        if entry.answer is None:
            return None
        if entry.delivered:
            self.publisher.is_over(request)
        else:
            await self.publisher.send(to_caller(request, entry.answer, self.clock()))
        return entry

    async def _handle(self, task: Task, request: Request | None, attempt: int) -> Sequence[Envelope]:
        if request is None or self.consumer.after_deadline:
            return await self.consumer.handle(task, attempt)
        left = (request.answer_by - self.clock()).total_seconds()
        if left <= 0:
            raise DeadlineMissed(f"the answer was due at {request.answer_by:%X} UTC")
        try:
            async with asyncio.timeout(left) as limit:
                return await self.consumer.handle(task, attempt)
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise DeadlineMissed("the deadline passed while the message was being worked on") from late

    async def _finish(self, delivery: Delivery, word: str, task: Task, known: Entry | None = None) -> str:
        """Archive the delivery, or complete it; returns `word`, or what else became of it."""
        kept = self.consumer.archive(task, known) if self.consumer.archive is not None else None
        if isinstance(kept, ArchiveInPlace):
            await delivery.dead_letter(kept.reason, kept.description)
            return "archived"
        if kept is not None:
            # A crash after this makes a second copy with the same id.
            await self.publisher.send(kept)
        await delivery.complete()
        return word

    async def _after(self, failure: Exception, delivery: Delivery) -> str:
        """Carry out what the policy decides."""
        message = delivery.message
        identity = self.consumer.identify(message)
        if self.breaker is not None and isinstance(failure, DependencyDown):
            await self.breaker.failed(str(failure))
        decision = after_failure(
            failure,
            attempt=message.attempt,
            now=self.clock(),
            deadline=identity.deadline,
            policy=self.policy,
            chance=self.chance(),
        )
        match decision:
            case Retry(at=at, why=why) | Reschedule(at=at, why=why):
                counts = isinstance(decision, Retry)
                try:
                    await self.bus.send((retry_copy if counts else handed_back)(message, identity, at))
                except MessageTooLarge as large:
                    # With an attempt's properties it is larger than the broker accepts, at every redelivery.
                    return await self._after(Unprocessable(Reason.PAYLOAD_TOO_LARGE, f"{large}: {why}"), delivery)
                (self.metrics.retries if counts else self.metrics.rescheduled).add(1, {"queue": message.queue})
                log.info("delivery.retried" if counts else "delivery.rescheduled", until=at.isoformat(), detail=why)
                await delivery.complete()
                return "retried" if counts else "rescheduled"
            case DeadLetter(reason=reason, detail=detail):
                self.metrics.dead_letters.add(1, {"queue": message.queue, "reason": reason})
                trace = failure if reason is Reason.CRASHED else None
                log.warning("delivery.dead_lettered", reason=reason, detail=detail, exc_info=trace)
                await delivery.dead_letter(reason, detail)
                return "dead_lettered"

    async def _hand_back(self, delivery: Delivery) -> None:
        """The grace period is over: leave the work to another worker, at the same attempt."""
        message = delivery.message
        if self.consumer.archive is not None:
            # A copy would not be a dead letter; its lock ends and another worker receives it.
            return delivery.forget()
        try:
            await self.bus.send(handed_back(message, self.consumer.identify(message), self.clock()))
            await delivery.complete()
            log.info("delivery.handed_back")
        except Exception as unavailable:  # noqa: BLE001 - we are leaving; the lock runs out
            log.warning("delivery.left", detail=repr(unavailable))
            delivery.forget()


def _was_given_up(envelopes: Sequence[Envelope]) -> bool:
    """Whether it was cancelled, not started, or fits no model, which says nothing about the dependencies."""
    answers = [envelope.message for envelope in envelopes if isinstance(envelope.message, RequestOutcome)]
    codes = (Code.OVERLOADED, Code.NO_MODEL_FITS)
    return any(answer.outcome is Outcome.CANCELLED or answer.code in codes for answer in answers)


def _is_suspect(delivery: Delivery) -> bool:
    return delivery.message.delivery_count >= SUSPECT


async def _pause(until: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return


def _attributes(message: Received) -> dict[str, str | int]:
    return {
        names.MESSAGING_SYSTEM: names.SERVICEBUS,
        names.OPERATION_NAME: names.PROCESS,
        names.OPERATION_TYPE: names.PROCESS,
        names.DESTINATION: message.queue,
        names.MESSAGE_ID: message.message_id or "",
        names.CONVERSATION_ID: message.correlation_id or "",
        names.DELIVERY_COUNT: message.delivery_count,
        names.ATTEMPT: message.attempt,
    }
