"""Asks that wait for a ticket, with scripted tickets; on a real Redis they are in `conformance/test_tickets`."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from services.gateway.held_asks import HeldAsks
from shared.contracts.outcome import RequestOutcome
from shared.contracts.request import Request
from shared.flow.estimate import Estimate
from shared.flow.tickets import Taken, Tickets
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request


class ScriptedTickets(Tickets):
    """Grants a ticket to every ask once `granted` is set; the first one given back makes `next_caller` give up, too."""

    def __init__(self) -> None:
        super().__init__(FailFastRedis("redis://127.0.0.1:1/0"))
        self.asked, self.granted = asyncio.Event(), asyncio.Event()
        self.given_back: list[str] = []
        self.next_caller: asyncio.Task[object] | None = None

    async def take(self, tenant: str, requests: Sequence[Request], now: datetime) -> Taken:
        self.asked.set()
        await self.granted.wait()
        return Taken(granted=len(requests), now=0.0, usual=[Estimate() for _ in requests])

    async def give_back(self, request: Request, answer: RequestOutcome | None = None) -> None:
        self.given_back.append(request.request_id)
        caller, self.next_caller = self.next_caller, None
        if caller is not None:
            caller.cancel()
        await asyncio.sleep(0.01)  # the round trip


async def test_the_tickets_of_callers_that_give_up_one_after_the_other_are_all_given_back() -> None:
    tickets = ScriptedTickets()
    held = HeldAsks(tickets, lambda: NOW)
    second, first = (
        asyncio.create_task(held.ticket(a_request(request_id=request_id))) for request_id in ("second", "first")
    )
    tickets.next_caller = second
    await tickets.asked.wait()
    first.cancel()
    tickets.granted.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(tickets.given_back) == ["first", "second"]
