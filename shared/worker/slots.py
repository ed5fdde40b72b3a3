"""Which waiting delivery gets the next free slot of a worker: the one of the tenant that uses the fewest.

    in hand  = slots + reserve + ahead
    slots      any tenant may use all of them, as long as it is alone
    reserve    only for tenants that use less than their share of the slots, while others use them all
    ahead      received deliveries that wait, so that a quiet tenant's is seen behind those of a busy one

The reserve exists because a slot becomes free only when a call ends: one tenant's calls of 15 s would make every other
tenant wait that long.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

FEW = 10


class Leaving(Exception):
    """There will be no slot: the worker stops, or the breaker has opened."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many slots a worker has."""

    slots: int
    reserve: int = 0
    ahead: int = 0

    @classmethod
    def among_tenants(cls, slots: int) -> Self:
        """For a queue that tenants share: a quarter more slots as a reserve, and everything that may be in flight is
        received.

        That is up to twice `shared.flow.rules.limit`. A message that is not received waits on the queue, where its
        tenant is unknown, so that a quiet tenant's would wait behind those of a busy one.
        """
        return cls(slots, reserve=max(1, slots // 4), ahead=slots + slots // 4 + FEW)

    @property
    def in_hand(self) -> int:
        """The maximum number of deliveries that are received and not handled."""
        return self.slots + self.reserve + self.ahead

    def next(self, waiting: Sequence[str], using: Mapping[str, int]) -> int | None:
        """Which of the `waiting` (tenants, the longest waiting first) gets a slot now; None: none of them."""
        if not waiting:
            return None
        first = min(range(len(waiting)), key=lambda position: (using.get(waiting[position], 0), position))
        used = sum(using.values())
        if used < self.slots:
            return first
        tenants = len({*waiting, *(tenant for tenant, slots in using.items() if slots)})
        below_share = using.get(waiting[first], 0) < self.slots / tenants
        return first if used < self.slots + self.reserve and tenants > 1 and below_share else None


class Slots:
    """The slots of one worker; each holder has a key."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self._using: Counter[str] = Counter()
        self._holders: dict[object, str] = {}
        self._waiting: dict[object, tuple[str, asyncio.Future[None]]] = {}

    async def enter(self, key: object, tenant: str) -> None:
        """Wait for a slot and hold it; raises `Leaving` after `send_away`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (tenant, turn)
        self._serve()
        try:
            await turn
        finally:
            self._waiting.pop(key, None)

    def leave(self, key: object) -> None:
        """Give the slot back, if one is held."""
        tenant = self._holders.pop(key, None)
        if tenant is not None:
            self._using[tenant] -= 1
            self._using += Counter()  # without tenants that use none
            self._serve()

    def send_away(self) -> None:
        """Make every waiting `enter` raise `Leaving`."""
        for _, turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(Leaving())

    def _serve(self) -> None:
        while True:
            waiting = [(key, *place) for key, place in self._waiting.items() if not place[1].done()]
            chosen = self.share.next([tenant for _, tenant, _ in waiting], self._using)
            if chosen is None:
                return
            key, tenant, turn = waiting[chosen]
            self._holders[key] = tenant
            self._using[tenant] += 1
            turn.set_result(None)
