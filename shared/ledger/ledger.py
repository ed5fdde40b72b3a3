"""The ledger of outcomes, in Redis: one hash per request.

    accepted ──claim──▶ claimed ──sent──▶ sent
    cancelled ──accept, claim──▶ claimed            cancelled before its ask arrived: a tombstone

The first outcome that is claimed wins; it is stored before it is sent, so whoever comes later sends *that* one
or nothing. To cancel is to claim `cancelled`; where nothing was accepted yet, a tombstone makes whoever meets the
request later claim it. Redis is the second guard, never the only one: the reply queue detects duplicates of
`{request}/reply` by itself. When Redis is away every question is answered with "I don't know".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.cache.redis import QuickRedis
from shared.contracts.answer import AnswerReady
from shared.contracts.fit import fitted
from shared.contracts.ids import digest
from shared.contracts.request import Request
from shared.ledger.states import State
from shared.telemetry import traces

# How long an outcome can be fetched with GET, and a repeated ask is recognised.
KEEP = timedelta(days=1)
# Of an entry, in the order of `_entry`.
_FIELDS = ("tenant", "caller", "answer", "sent", "answer_by", "question", "request", "cancelled")

# KEYS: the request   ARGV: tenant, caller, when it is due, digest of the question, the request, seconds to keep, fields
_ACCEPT = """
redis.call('HSET', KEYS[1], 'tenant', ARGV[1], 'caller', ARGV[2])
redis.call('HSETNX', KEYS[1], 'answer_by', ARGV[3])
redis.call('HSETNX', KEYS[1], 'question', ARGV[4])
redis.call('HSETNX', KEYS[1], 'request', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return redis.call('HMGET', KEYS[1], unpack(ARGV, 7))
"""

# KEYS: the request   ARGV: seconds to keep, answer, tenant, caller
_FILE = """
redis.call('HSETNX', KEYS[1], 'answer', ARGV[2])
redis.call('HSETNX', KEYS[1], 'tenant', ARGV[3])
redis.call('HSETNX', KEYS[1], 'caller', ARGV[4])
redis.call('HSET', KEYS[1], 'sent', '1')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 0
"""

# KEYS: the request   ARGV: answer, tenant, caller, seconds to keep
_CLAIM = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'sent')
if known[1] then return known end
redis.call('HSET', KEYS[1], 'answer', ARGV[1], 'tenant', ARGV[2], 'caller', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {ARGV[1], false}
"""

# KEYS: the request   ARGV: tenant, caller, seconds to keep. What was accepted is claimed for by its canceller.
_CANCEL = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'request')
if not known[1] and not known[2] then
  redis.call('HSET', KEYS[1], 'cancelled', '1', 'tenant', ARGV[1], 'caller', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return 0
"""

# KEYS: the request. What a flush took away meanwhile does not come back as half an entry without an end.
_SENT = """
if redis.call('HEXISTS', KEYS[1], 'answer') == 1 then redis.call('HSET', KEYS[1], 'sent', '1') end
return 0
"""

# KEYS: the request   ARGV: the answer. What was sent stays what it was.
_REPLACE = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'sent')
if known[1] and not known[2] then redis.call('HSET', KEYS[1], 'answer', ARGV[1]) end
return 0
"""

# KEYS: the request. An outcome is never forgotten.
_FORGET = """
if redis.call('HEXISTS', KEYS[1], 'answer') == 0 then redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a request: whose it is, its outcome if it has one, and whether that was sent."""

    tenant: str
    caller: str
    answer: AnswerReady | None
    sent: bool
    answer_by: datetime | None = None
    """When the answer is due, as the first admission said."""
    question: str | None = None
    """A digest of what was asked."""
    request: Request | None = None
    """What was accepted, without the question: whom to answer, and where."""
    cancelled: bool = False
    """Whether it was cancelled before it was accepted, as far as this ledger knew."""

    @property
    def state(self) -> State:
        """Where the request stands."""
        if self.answer is not None:
            return State.TOLD if self.sent else State.CLAIMED
        return State.UNWANTED if self.cancelled else State.ACCEPTED

    @property
    def is_wanted(self) -> bool:
        """Whether work on the request still makes sense: it has no outcome and was not cancelled."""
        return self.answer is None and not self.cancelled

    def asks_the_same(self, request: Request) -> bool:
        """Whether `request` repeats what was asked under its id before; an unknown question counts as the same."""
        return self.question is None or self.question == _digest_of(request)


class Ledger:
    """Every method raises `RedisAway` when Redis is away."""

    def __init__(self, redis: QuickRedis) -> None:
        self._redis = redis

    async def accept(self, request: Request) -> Entry:
        """Note that `request` was admitted, so that asking for it is answered with "not yet".

        Says what is known of it then: what the first admission said when the same request comes again, and
        whether it is wanted at all.
        """
        due, body = request.answer_by.isoformat(), request.without_question().model_dump_json()
        args = [request.tenant, request.caller, due, _digest_of(request), body, int(KEEP.total_seconds()), *_FIELDS]
        return _entry(await self._redis.script(_ACCEPT, [_key(key_of(request))], args))

    async def forget(self, request: Request) -> None:
        """Take an admission back: the caller was told that there is none."""
        await self._redis.script(_FORGET, [_key(key_of(request))], [])

    async def cancel(self, request_id: str, tenant: str, caller: str) -> Entry:
        """Note that `request_id` is not wanted any more; says what is known of it.

        An entry without an answer but with its `request` waits for the outcome `cancelled` to be claimed; one
        without both is a tombstone for an ask that has yet to arrive.
        """
        await self._redis.script(_CANCEL, [_key(request_id)], [tenant, caller, int(KEEP.total_seconds())])
        return await self.find(request_id) or Entry(tenant, caller, None, sent=False, cancelled=True)

    async def is_wanted(self, request: Request) -> bool:
        """Whether `request` has no outcome yet and was not cancelled; one cheap look, for long work."""
        key = _key(key_of(request))
        found: list[Any] = await self._redis.run(lambda redis: redis.hmget(key, "answer", "cancelled"))
        return found == [None, None]

    async def claim(self, request: Request, answer: AnswerReady) -> Entry:
        """Make `answer` the outcome of `request` if it has none; says which one it has."""
        if not answer.trace_id:
            answer = answer.model_copy(update={"trace_id": traces.trace_id()})
        answer = fitted(answer)
        args = [answer.encode(), request.tenant, request.caller, int(KEEP.total_seconds())]
        body, sent = await self._redis.script(_CLAIM, [_key(key_of(request))], args)
        return Entry(request.tenant, request.caller, fitted(AnswerReady.decode(body.encode())), bool(sent))

    async def replace(self, request: Request, answer: AnswerReady) -> None:
        """Put `answer` in the place of an outcome that the broker refuses to carry."""
        await self._redis.script(_REPLACE, [_key(key_of(request))], [fitted(answer).encode()])

    async def file(self, answer: AnswerReady, tenant: str, caller: str) -> None:
        """Keep an outcome that arrived for an HTTP caller, if whoever sent it could not."""
        key = _key(f"{answer.request_id}/{answer.run}" if answer.run else answer.request_id)
        await self._redis.script(_FILE, [key], [int(KEEP.total_seconds()), fitted(answer).encode(), tenant, caller])

    async def sent(self, request: Request) -> None:
        """Note that the outcome is on its way, so that nobody sends it again."""
        await self._redis.script(_SENT, [_key(key_of(request))], [])

    async def find(self, key: str) -> Entry | None:
        """What is known under a request id (or `{request}/p{n}` for a rerun)."""
        found: list[Any] = await self._redis.run(lambda redis: redis.hmget(_key(key), *_FIELDS))
        return _entry(found) if found[0] is not None else None


def _entry(fields: Sequence[str | None]) -> Entry:
    """The entry in the values of `_FIELDS`, of which the first two are there."""
    tenant, caller, body, sent, due, question, request, cancelled = fields
    return Entry(
        tenant or "",
        caller or "",
        # Of a version that did not know how large an outcome may be, perhaps.
        fitted(AnswerReady.decode(body.encode())) if body else None,
        bool(sent),
        datetime.fromisoformat(due) if due else None,
        question,
        Request.model_validate_json(request) if request else None,
        bool(cancelled),
    )


def key_of(request: Request) -> str:
    """A rerun has an outcome of its own; every other replay shares the request's."""
    return f"{request.request_id}/{request.run}" if request.rerun else request.request_id


def _digest_of(request: Request) -> str:
    turns = (f"{turn.role}:{turn.text}" for turn in request.conversation)
    return digest(request.use_case, request.question, *turns)


def _key(key: str) -> str:
    return f"ragbus:request:{{{key}}}"
