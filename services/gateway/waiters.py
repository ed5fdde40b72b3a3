"""HTTP callers of this process that wait for the outcome of their request."""

import asyncio
from dataclasses import dataclass
from typing import Self

from shared.bus.port import ADMISSION, ASK, CALLER, TENANT, Received
from shared.contracts.outcome import RequestOutcome


@dataclass(frozen=True, slots=True)
class HttpOutcome:
    """The outcome of an HTTP caller's request, and whose it is."""

    answer: RequestOutcome
    tenant: str
    caller: str
    ask: str = ""
    """The digest of the ask that it answers."""
    admission: int = 0

    @classmethod
    def of(cls, message: Received) -> Self:
        """Read it from `outcomes`; raises `Unprocessable`."""
        tenant, caller, ask = (str(message.properties.get(name, "")) for name in (TENANT, CALLER, ASK))
        admission = message.properties.get(ADMISSION, 0)
        known = admission if isinstance(admission, int) else 0
        return cls(RequestOutcome.decode(message.body), tenant, caller, ask, known)


class Waiters:
    """HTTP callers of this process that wait for an outcome."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[asyncio.Future[HttpOutcome]]] = {}

    def join(self, request_id: str, admission: int = 0) -> "asyncio.Future[HttpOutcome]":
        """A future for the outcome of an admission; call `leave` when it is no longer needed."""
        future: asyncio.Future[HttpOutcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((request_id, admission), []).append(future)
        return future

    def leave(self, request_id: str, future: "asyncio.Future[HttpOutcome]", admission: int = 0) -> None:
        """Stop waiting; does nothing for a future that has its outcome."""
        waiting = self._waiting.get((request_id, admission), [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop((request_id, admission), None)

    def is_awaited(self, request_id: str, admission: int) -> bool:
        """Whether a caller of this process waits for the outcome of an admission."""
        return (request_id, admission) in self._waiting

    def tell(self, outcome: HttpOutcome) -> None:
        """Hand `outcome` to all who wait for it; that of a rerun is not that of its request."""
        answer = outcome.answer
        key = f"{answer.request_id}/{answer.run}" if answer.run else answer.request_id
        for future in self._waiting.pop((key, outcome.admission), []):
            if not future.done():
                future.set_result(outcome)
