"""The ledger of outcomes, in Redis: one hash per request.

    accepted ──claim──▶ claimed ──sent──▶ sent

The first outcome that is claimed wins; it is stored before it is sent, so whoever comes later sends *that* one
or nothing. Redis is the second guard, never the only one: the reply queue detects duplicates of
`{request}/reply` by itself. When Redis is away every question is answered with "I don't know".
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.cache.redis import QuickRedis
from shared.contracts.answer import AnswerReady
from shared.contracts.ids import digest
from shared.contracts.request import Request
from shared.telemetry import traces

# How long an outcome can be fetched with GET, and a repeated ask is recognised.
KEEP = timedelta(days=1)

# KEYS: the request   ARGV: answer, tenant, caller, seconds to keep
_CLAIM = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'sent')
if known[1] then return known end
redis.call('HSET', KEYS[1], 'answer', ARGV[1], 'tenant', ARGV[2], 'caller', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {ARGV[1], false}
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

    def asks_the_same(self, request: Request) -> bool:
        """Whether `request` repeats what was asked under its id before; an unknown question counts as the same."""
        return self.question is None or self.question == _digest_of(request)


class Ledger:
    """Every method raises `RedisAway` when Redis is away."""

    def __init__(self, redis: QuickRedis) -> None:
        self._redis = redis

    async def accept(self, request: Request) -> datetime:
        """Note that `request` was admitted, so that asking for it is answered with "not yet".

        Says when its answer is due: what the first admission said, when the same request comes again.
        """
        key, due = _key(key_of(request)), request.answer_by.isoformat()

        async def note(redis: Any) -> str:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.hset(key, mapping={"tenant": request.tenant, "caller": request.caller})
                pipe.hsetnx(key, "answer_by", due)
                pipe.hsetnx(key, "question", _digest_of(request))
                pipe.expire(key, KEEP)
                pipe.hget(key, "answer_by")
                return str((await pipe.execute())[-1])

        return datetime.fromisoformat(await self._redis.run(note))

    async def forget(self, request: Request) -> None:
        """Take an admission back: the caller was told that there is none."""
        await self._redis.script(_FORGET, [_key(key_of(request))], [])

    async def claim(self, request: Request, answer: AnswerReady) -> Entry:
        """Make `answer` the outcome of `request` if it has none; says which one it has."""
        if not answer.trace_id:
            answer = answer.model_copy(update={"trace_id": traces.trace_id()})
        args = [answer.encode(), request.tenant, request.caller, int(KEEP.total_seconds())]
        body, sent = await self._redis.script(_CLAIM, [_key(key_of(request))], args)
        return Entry(request.tenant, request.caller, AnswerReady.decode(body.encode()), bool(sent))

    async def file(self, answer: AnswerReady, tenant: str, caller: str) -> None:
        """Keep an outcome that arrived for an HTTP caller, if whoever sent it could not."""
        key = _key(f"{answer.request_id}/{answer.run}" if answer.run else answer.request_id)

        async def keep(redis: Any) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.hsetnx(key, "answer", answer.encode())
                pipe.hsetnx(key, "tenant", tenant)
                pipe.hsetnx(key, "caller", caller)
                pipe.hset(key, "sent", "1")
                pipe.expire(key, KEEP)
                await pipe.execute()

        await self._redis.run(keep)

    async def sent(self, request: Request) -> None:
        """Note that the outcome is on its way, so that nobody sends it again."""
        await self._redis.run(lambda redis: redis.hset(_key(key_of(request)), "sent", "1"))

    async def find(self, key: str) -> Entry | None:
        """What is known under a request id (or `{request}/p{n}` for a rerun)."""
        fields = ("tenant", "caller", "answer", "sent", "answer_by", "question")
        found: list[Any] = await self._redis.run(lambda redis: redis.hmget(_key(key), *fields))
        tenant, caller, body, sent, due, question = found
        if tenant is None:
            return None
        return Entry(
            tenant,
            caller,
            AnswerReady.decode(body.encode()) if body else None,
            bool(sent),
            datetime.fromisoformat(due) if due else None,
            question,
        )


def key_of(request: Request) -> str:
    """A rerun has an outcome of its own; every other replay shares the request's."""
    return f"{request.request_id}/{request.run}" if request.rerun else request.request_id


def _digest_of(request: Request) -> str:
    turns = (f"{turn.role}:{turn.text}" for turn in request.conversation)
    return digest(request.use_case, request.question, *turns)


def _key(key: str) -> str:
    return f"ragbus:request:{{{key}}}"
