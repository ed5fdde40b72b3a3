"""Asks that wait for a ticket (`shared.flow`): held where they are, and refused as soon as they cannot end in time.

An ask from a queue is held as a locked delivery, so that it stays an active message of its caller's queue, which the
scaler counts. First come, first served within a tenant; one task per tenant asks Redis for all that wait here.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from shared.contracts.request import Request
from shared.flow.estimate import Estimate
from shared.flow.rules import needs
from shared.flow.tickets import Taken, Tickets
from shared.redis import RedisUnavailable
from shared.worker.slots import Leaving

# Seconds between two attempts to get tickets while asks wait.
POLL_INTERVAL = 0.05
# How many asks of a tenant share one request for tickets.
AT_ONCE = 64
# Seconds without an answer of Redis after which held asks are admitted without a ticket.
PATIENCE = 2.0


class Verdict(Enum):
    """The result of waiting for a ticket."""

    ADMITTED = "there is a ticket, or Redis is unavailable"
    OVERLOADED = "it cannot finish in time, or its caller no longer waits"


@dataclass(slots=True, eq=False)
class _Held:
    request: Request
    until: datetime | None
    """When its caller stops waiting; None: it waits as long as the ask can finish in time."""
    turn: "asyncio.Future[Verdict]"
    refused: bool = False
    """Whether there was no ticket for it yet."""


@dataclass(slots=True)
class _Line:
    """The asks of one tenant, the longest waiting first."""

    asks: list[_Held] = field(default_factory=list)
    serving: "asyncio.Task[None] | None" = None


class HeldAsks:
    """Gets tickets for asks."""

    def __init__(self, tickets: Tickets, clock: Callable[[], datetime]) -> None:
        self._tickets = tickets
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._usual: dict[tuple[str, str], Estimate] = {}
        self._ahead = 0.0
        """Seconds from the event loop's clock to Redis's, by which `_usual` is dated."""
        self._leaving = False

    async def ticket(self, request: Request, until: datetime | None = None) -> Verdict:
        """Wait for a ticket, at most `until`.

        Raises `Leaving` when there is none at once, this process stops, and the ask is on a queue.
        """
        line = self._lines.setdefault(request.tenant, _Line())
        held = _Held(request, until, asyncio.get_running_loop().create_future())
        line.asks.append(held)
        if line.serving is None or line.serving.done():
            line.serving = asyncio.create_task(self._serve(request.tenant, line), name=f"tickets:{request.tenant}")
        try:
            return await held.turn
        except asyncio.CancelledError:
            if held.turn.done() and not held.turn.cancelled():
                await self.release(request)
            raise
        finally:
            if held in line.asks:
                line.asks.remove(held)

    async def release(self, request: Request) -> None:
        """Give a ticket back that was not used."""
        await self._tickets.give_back(request)

    def let_go(self, request_id: str) -> None:
        """End the wait of a request that its caller cancelled; the ledger has its outcome."""
        for line in self._lines.values():
            _decide([held for held in line.asks if held.request.request_id == request_id], Verdict.ADMITTED)

    def usual(self, request: Request) -> float:
        """Seconds that a request of this tenant and use case usually takes, as last read from Redis; 0: unknown."""
        return self._usual.get((request.tenant, request.use_case), Estimate()).usual

    async def leave(self, stopping: asyncio.Event) -> None:
        """When `stopping` is set, let asks go back to their queues; asks over HTTP go on waiting."""
        await stopping.wait()
        self._leaving = True
        for line in self._lines.values():
            self._send_away(line.asks)

    def _send_away(self, asks: list[_Held]) -> None:
        """While this process stops: let those of `asks` go back that came from a queue and have no ticket yet."""
        for held in asks:
            if self._leaving and held.refused and held.until is None and not held.turn.done():
                held.turn.set_exception(Leaving())

    async def _serve(self, tenant: str, line: _Line) -> None:
        """Get tickets for all waiting asks; try again after a moment when there are none left."""
        loop = asyncio.get_running_loop()
        answered = loop.time()  # when Redis last did
        try:
            while line.asks:
                first, behind = line.asks[:AT_ONCE], line.asks[AT_ONCE:]
                try:
                    taken = await self._tickets.take(tenant, [held.request for held in first], self._clock())
                except RedisUnavailable:
                    # The requests in flight are unknown, so new asks are admitted; a generator still starts nothing
                    # that cannot finish in time. Held asks wait a little, so that a short failure does not let all of
                    # them in.
                    is_long = loop.time() - answered > PATIENCE
                    _decide([held for held in first if is_long or not held.refused], Verdict.ADMITTED)
                    self._refuse_late(first, behind)
                else:
                    answered = loop.time()
                    await self._use(taken, first, behind)
                line.asks[:] = [held for held in line.asks if not held.turn.done()]
                if any(held.refused for held in line.asks):
                    await asyncio.sleep(POLL_INTERVAL)
        finally:  # also after a bug: no ask may wait without end
            _decide(line.asks, Verdict.ADMITTED)

    async def _use(self, taken: Taken, first: list[_Held], behind: list[_Held]) -> None:
        """Admit as many of `first` as there are tickets; the others are refused, sent away or wait."""
        self._ahead = taken.now - asyncio.get_running_loop().time()
        for held, usual in zip(first, taken.usual, strict=True):
            self._usual[held.request.tenant, held.request.use_case] = usual
        admitted, others = first[: taken.granted], first[taken.granted :]
        _decide(admitted, Verdict.ADMITTED)
        self._refuse_late(first, behind)
        for held in others:
            held.refused = True
        self._send_away(others)
        # Last: while a ticket is returned, other callers may give up, and `ticket` returns those of decided asks.
        for held in admitted:
            if held.turn.cancelled():
                await self.release(held.request)

    def _refuse_late(self, first: list[_Held], behind: list[_Held]) -> None:
        """Refuse late ones among the waiting asks; asks behind `first` get tickets only after all of `first`."""
        if not all(held.turn.done() for held in first):
            _decide([held for held in (*first, *behind) if self._is_late(held)], Verdict.OVERLOADED)

    def _is_late(self, held: _Held) -> bool:
        """Whether it can no longer finish before its deadline, or its caller no longer waits."""
        usual = self._usual.get((held.request.tenant, held.request.use_case), Estimate())
        needed = timedelta(seconds=needs(usual, asyncio.get_running_loop().time() + self._ahead))
        now = self._clock()
        return now + needed > held.request.answer_by or (held.until is not None and now >= held.until)


def _decide(asks: list[_Held], verdict: Verdict) -> None:
    for held in asks:
        if not held.turn.done():
            held.turn.set_result(verdict)
