"""The guard before an outcome is sent: one per request, always the same one.

The ledger keeps the first outcome that is decided; the reply queue drops a second message with the same id.
When Redis is unavailable, or has lost the request's entry, the queue guards alone. What is told to one ask alone is
not decided (`Envelope.decide`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from shared.contracts.envelope import Envelope, to_caller, to_one_ask
from shared.contracts.fit import fitted, too_large
from shared.contracts.outcome import RequestOutcome, cancelled, id_reused
from shared.contracts.queues import OUTCOMES
from shared.contracts.request import Request
from shared.errors import Reason, Unprocessable
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Entry, Ledger, key_of
from shared.redis import RedisUnavailable

Send = Callable[[Envelope], Awaitable[None]]

NOTE_AGAIN = 1.0
# The maximum number of outcomes that are recorded after an outage of Redis; other requests look unfinished for a day.
MOST_UNNOTED = 1_000


@dataclass(frozen=True, slots=True)
class Sent:
    """An outcome that the broker has taken."""

    answer: RequestOutcome
    guarded: bool = True
    """Whether the ledger confirmed that it is the outcome. Otherwise there may have been one before, and the broker has
    dropped this one as a duplicate."""


class OutcomeGuard:
    """Looks up, decides and sends outcomes."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        tickets: Tickets | None = None,
        again: float = NOTE_AGAIN,
    ) -> None:
        """`tickets`: returns a request's ticket when its outcome was sent.

        `again`: seconds between two attempts to reach Redis.
        """
        self._ledger = ledger
        self._clock = clock
        self._tickets = tickets
        self._again = again
        self._unnoted: deque[tuple[Request, RequestOutcome]] = deque(maxlen=MOST_UNNOTED)
        self._noting: asyncio.Task[None] | None = None

    async def known(self, request: Request) -> Entry | None:
        """The ledger's entry for `request`; None also while Redis is unavailable.

        A request that was cancelled before it arrived gets the outcome `cancelled` here.
        """
        try:
            entry = await self._ledger.find(key_of(request))
            if entry is not None and entry.admission < request.admission:
                return None  # Redis lost this admission
            if entry is None or entry.is_open or entry.answer is not None:
                return entry
            return await self._ledger.decide(request, cancelled(request, self._clock()))
        except RedisUnavailable:
            return None

    async def send(self, envelope: Envelope, send: Send) -> Sent | None:
        """Send the request's outcome, which is `envelope`'s unless there was one before.

        None: nothing was sent, because it was sent before, or the same ask was admitted again since.
        """
        request = envelope.request
        if request is None or not isinstance(envelope.message, RequestOutcome):
            raise TypeError("an outcome needs its request to be decided for")
        answer, entry = envelope.message, envelope.decision
        if not isinstance(entry, Entry):
            answer = fitted(answer)
            if not envelope.decide:
                await send(replace(envelope, message=answer))
                return Sent(answer)
            entry = await self._decided(request, answer)
        if entry is not None and not entry.asks_the_same(request):
            # Redis was unavailable at its admission, and its id belongs to another question.
            await self.ended(request, entry)
            return await self.send(self.reused(request), send)
        if entry is not None and entry.is_past(request):
            await self.ended(request, entry)
            return None
        holder = request
        if entry is not None and entry.belongs_to(request):
            # Under the ids of the admission before, the broker would drop it.
            request = request.replaced(admission=entry.admission)
            envelope = to_caller(request, answer, self._clock())
        if entry is not None and entry.delivered:
            await self.ended(holder, entry)
            return None
        guarded = entry is not None and not entry.is_lost(request)
        winner = entry.answer if guarded and entry is not None and entry.answer is not None else fitted(answer)
        winner = await self._sent(request, replace(envelope, message=winner), winner, send)
        if guarded:
            with suppress(RedisUnavailable):
                await self._ledger.mark_delivered(request)
        elif entry is None and request.reply_to.queue != OUTCOMES:  # the gateway stores what arrives there
            self._note_later(request, winner)
        if self._tickets is not None and holder.reserved_tokens:  # a request refused at admission had no ticket
            await self._tickets.give_back(holder, winner)
        return Sent(winner, guarded)

    async def _decided(self, request: Request, answer: RequestOutcome) -> Entry | None:
        """The ledger's entry; None without Redis, when the reply queue alone guards against a second outcome."""
        try:
            return await self._ledger.decide(request, answer)
        except RedisUnavailable:
            return None

    async def _sent(self, request: Request, envelope: Envelope, winner: RequestOutcome, send: Send) -> RequestOutcome:
        """Send `winner` in `envelope`; returns it, or `too_large(winner)` in its place where the broker refuses it."""
        try:
            await send(envelope)
        except Unprocessable as refused:
            if refused.reason is not Reason.PAYLOAD_TOO_LARGE:
                raise
            # This namespace takes smaller messages than Service Bus does elsewhere. The caller still gets an outcome.
            winner = too_large(winner)
            with suppress(RedisUnavailable):
                await self._ledger.replace(request, winner)
            await send(replace(envelope, message=winner))
        return winner

    async def ended(self, request: Request, entry: Entry) -> None:
        """Return the ticket of a request that ends without an outcome of its own because there is `entry`."""
        # When the id belongs to another question in progress, the ticket is that one's.
        is_its_own = entry.asks_the_same(request) or not entry.is_open
        if self._tickets is not None and request.reserved_tokens and is_its_own:
            await self._tickets.give_back(request)

    def reused(self, request: Request) -> Envelope:
        """Tell the sender of `request` that its id belongs to another question."""
        now = self._clock()
        return to_one_ask(request, id_reused(request, now), request.token, now)

    def _note_later(self, request: Request, answer: RequestOutcome) -> None:
        """Record it when Redis is back, because the ledger would otherwise wait for an outcome."""
        self._unnoted.append((request, answer))
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note(), name="outcomes: not noted yet")

    async def _note(self) -> None:
        while self._unnoted:
            request, answer = self._unnoted.popleft()
            try:
                await self._ledger.decide(request, answer, delivered=True)
            except RedisUnavailable:
                self._unnoted.appendleft((request, answer))
                await asyncio.sleep(self._again)
