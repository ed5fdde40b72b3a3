"""The guard before an outcome leaves: at most one per request, and always the same one.

The ledger keeps the first outcome that is claimed; the reply queue drops a second message with the same id.
When Redis is away the queue guards alone.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from shared.cache.redis import RedisAway
from shared.contracts.answer import AnswerReady
from shared.contracts.envelope import Envelope
from shared.contracts.request import Request
from shared.ledger.ledger import Entry, Ledger, key_of

Send = Callable[[Envelope], Awaitable[None]]


class Outcomes:
    """Looks up, claims and sends outcomes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def known(self, request: Request) -> Entry | None:
        """What the ledger has on `request`; None also when Redis is away."""
        try:
            return await self._ledger.find(key_of(request))
        except RedisAway:
            return None

    async def send(self, envelope: Envelope, send: Send) -> AnswerReady | None:
        """Send the request's outcome, which is `envelope`'s unless there was one before; None: was sent already."""
        request = envelope.request
        answer = envelope.message
        if request is None or not isinstance(answer, AnswerReady):
            raise TypeError("an outcome needs its request to be claimed for")
        entry = await self._claim(request, answer)
        if entry is not None and entry.sent:
            return None
        winner = entry.answer if entry is not None and entry.answer is not None else answer
        await send(replace(envelope, message=winner))
        await self._note_sent(request)
        return winner

    async def _claim(self, request: Request, answer: AnswerReady) -> Entry | None:
        try:
            return await self._ledger.claim(request, answer)
        except RedisAway:
            return None

    async def _note_sent(self, request: Request) -> None:
        try:
            await self._ledger.sent(request)
        except RedisAway:
            return
