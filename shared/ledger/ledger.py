"""The ledger of outcomes, in Redis: one hash per request.

    bound ──accept──▶ accepted ──decide──▶ decided ──deliver──▶ delivered
      │                                                             │  the same ask again, after a retryable outcome:
      └────────◀────────────────── bind ───────────────────◀────────┘  the next admission, numbered from 1
    cancelled ──accept, decide──▶ decided          cancelled before its ask arrived: a tombstone

An id belongs to the question that binds it first, and to the message (token) that asked it. The first outcome decides
the request; it is stored before it is sent, so every later sender sends *that* one or nothing. To cancel is to decide
`cancelled`; where nothing was accepted yet, a tombstone makes the worker that receives the request later decide it.
Messages of an earlier admission decide nothing. Redis is the second guard, never the only one: the reply queue detects
duplicates of `{request}/reply` by itself.

Every step is one script on one key, so it is atomic, on a cluster too.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.contracts.fit import fitted, fitted_body
from shared.contracts.outcome import RequestOutcome, again_at
from shared.contracts.request import Request
from shared.ledger.states import LedgerState
from shared.redis import FailFastRedis
from shared.telemetry import traces

# How long an outcome can be fetched with GET, and a repeated ask is recognised.
KEEP = timedelta(days=1)
_SECONDS = int(KEEP.total_seconds())
# The fields of an entry's hash, in the order of `_entry`:
#   tenant, caller   whose request it is
#   answer           the outcome, as JSON         delivered   '1' once it was sent
#   answer_by        the deadline, ISO 8601       request     what was accepted, as JSON
#   ask              digest of the ask            token       of the ask that the current admission belongs to
#   admission        number of later admissions   past        tokens of earlier ones, the last first
#   cancelled        '1' for a tombstone          unread      the outcome of an ask that could not be read
# and `again_at`, which only scripts read: seconds since the epoch from which the same ask is admitted again.
_FIELDS = (
    *("tenant", "caller", "answer", "delivered", "answer_by", "ask", "token", "admission", "request", "cancelled"),
    *("unread", "past"),
)
_KNOWN = "redis.call('HMGET', KEYS[1], " + ", ".join(f"'{name}'" for name in _FIELDS) + ")"
# Fields that a new admission of the same ask clears.
_ANEW = "redis.call('HDEL', KEYS[1], 'answer', 'delivered', 'again_at', 'answer_by', 'request', 'cancelled')"
# Characters of `past`: sixteen tokens of 26, each with a blank. The asks of earlier admissions may be delivered again.
_PAST = 16 * 27

# The key that `find` last found without an outcome in this task, and when by the event loop's clock.
_found_open: ContextVar[tuple[str, float]] = ContextVar("found_open", default=("", 0.0))

# Every script: KEYS: the request's hash. All but `_UNREAD`, `_DELIVERED`, `_REPLACE` and `_FORGET`, which return 0,
# return the entry after the step: the values of `_FIELDS`.

# ARGV: digest of the ask, token, now in seconds since the epoch, seconds to keep, '0' for a replay else '1'
# Binds the id to the question; begins the next admission for the same question in another message after a retryable
# outcome. A replay neither takes the id from an ask that could not be read, nor begins a new admission.
_BIND = f"""
local k = redis.call('HMGET', KEYS[1], 'ask', 'token', 'answer', 'delivered', 'again_at', 'unread', 'past', 'cancelled')
local ask, token, past = k[1], k[2], k[7] or ''
local replay = ARGV[5] == '0'
if not ask and not (replay and k[6]) then
  if k[6] then redis.call('DEL', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'ask', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'token', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
elseif ask == ARGV[1] and not token then
  redis.call('HSET', KEYS[1], 'token', ARGV[2])
elseif ask == ARGV[1] and token ~= ARGV[2] and not replay and k[3] and k[4] and k[5]
  and tonumber(k[5]) <= tonumber(ARGV[3]) and not string.find(past, ARGV[2], 1, true) then
  {_ANEW}
  redis.call('HINCRBY', KEYS[1], 'admission', 1)
  redis.call('HSET', KEYS[1], 'token', ARGV[2], 'past', string.sub(token .. ' ' .. past, 1, {_PAST}))
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return {_KNOWN}
"""

# The beginning of every step that belongs to an admission. A step of an earlier one or of another question returns the
# entry as it is; a later admission than the known one (Redis lost it) clears the entry.
# ARGV: 1 seconds to keep, 2 admission, 3 digest of the ask or '', 4 token or '', 5 tenant, 6 caller
_ADMISSION = f"""
local known = tonumber(redis.call('HGET', KEYS[1], 'admission') or 0)
local ask = redis.call('HGET', KEYS[1], 'ask')
if known > tonumber(ARGV[2]) or (ask and ARGV[3] ~= '' and ask ~= ARGV[3]) then return {_KNOWN} end
if known < tonumber(ARGV[2]) then
  {_ANEW}
  redis.call('HSET', KEYS[1], 'admission', ARGV[2])
end
redis.call('HDEL', KEYS[1], 'unread')
redis.call('HSETNX', KEYS[1], 'tenant', ARGV[5])
redis.call('HSETNX', KEYS[1], 'caller', ARGV[6])
if ARGV[3] ~= '' then redis.call('HSETNX', KEYS[1], 'ask', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSETNX', KEYS[1], 'token', ARGV[4]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

# ARGV: 1–6 as in `_ADMISSION`, 7 deadline (ISO 8601), 8 the request without its question (JSON)
_ACCEPT = f"""{_ADMISSION}
redis.call('HSETNX', KEYS[1], 'answer_by', ARGV[7])
redis.call('HSETNX', KEYS[1], 'request', ARGV[8])
return {_KNOWN}
"""

# An admission that was recorded and is not known was lost, perhaps with its outcome: nothing is decided for it.
# ARGV: 1–6 as in `_ADMISSION`, 7 outcome (JSON), 8 `again_at` or '', 9 '1' if its caller has it by this step,
#       10 '1' if the admission was recorded
_DECIDE = f"""
local there = redis.call('HMGET', KEYS[1], 'admission', 'answer', 'request', 'token')
local remembered = there[2] or there[3] or (there[4] and there[4] == ARGV[4])
if ARGV[10] == '1' and (not remembered or tonumber(there[1] or 0) < tonumber(ARGV[2])) then return {_KNOWN} end
-- The gateway did not hear in time that its ask was bound anew.
if there[4] == ARGV[4] and tonumber(there[1] or 0) > tonumber(ARGV[2]) then ARGV[2] = there[1] end
{_ADMISSION}
if redis.call('HSETNX', KEYS[1], 'answer', ARGV[7]) == 1 and ARGV[8] ~= '' then
  redis.call('HSET', KEYS[1], 'again_at', ARGV[8])
end
if ARGV[9] == '1' then redis.call('HSET', KEYS[1], 'delivered', '1') end
return {_KNOWN}
"""

# ARGV: tenant, caller, seconds to keep. Of an accepted request the entry stays; the canceller then decides `cancelled`.
_CANCEL = f"""
local known = redis.call('HMGET', KEYS[1], 'answer', 'request')
if not known[1] and not known[2] then
  redis.call('HDEL', KEYS[1], 'unread')
  redis.call('HSET', KEYS[1], 'cancelled', '1', 'tenant', ARGV[1], 'caller', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return {_KNOWN}
"""

# ARGV: outcome (JSON), tenant, caller, seconds to keep. Changes nothing if there is an entry.
_UNREAD = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'unread', ARGV[1], 'tenant', ARGV[2], 'caller', ARGV[3])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 0
"""

# ARGV: admission. Changes nothing without an outcome: after a flush there would be half an entry that never expires.
_DELIVERED = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'admission')
if known[1] and (known[2] or '0') == ARGV[1] then redis.call('HSET', KEYS[1], 'delivered', '1') end
return 0
"""

# ARGV: admission, outcome (JSON), `again_at` or ''. Changes nothing if the outcome was sent.
_REPLACE = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'delivered', 'admission')
if known[1] and not known[2] and (known[3] or '0') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'again_at')
  redis.call('HSET', KEYS[1], 'answer', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'again_at', ARGV[3]) end
end
return 0
"""

# ARGV: token. Outcome and question stay, because the broker may have accepted the work nevertheless; the next ask with
# the same question continues the admission.
_FORGET = """
local known = redis.call('HMGET', KEYS[1], 'answer', 'cancelled', 'token')
if not known[1] and not known[2] and (known[3] or '') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'request', 'answer_by', 'tenant', 'caller', 'token')
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger knows about a request: its caller, its outcome if it has one, and whether that was sent."""

    tenant: str
    caller: str
    answer: RequestOutcome | None
    delivered: bool
    answer_by: datetime | None = None
    """The deadline of the first admission."""
    ask: str | None = None
    """The digest of the ask that the id belongs to."""
    token: str | None = None
    """The token of the message that the current admission belongs to."""
    admission: int = 0
    """How often the same ask was admitted again."""
    accepted: str | None = None
    """What was accepted, as JSON; see `request`."""
    cancelled: bool = False
    """Whether it was cancelled before it was accepted."""
    unread: RequestOutcome | None = None
    """The outcome of an ask with this id that could not be read; it binds nothing."""
    past: Sequence[str] = ()
    """Tokens of earlier admissions."""

    @property
    def request(self) -> Request | None:
        """What was accepted, without the question: enough to answer the caller. Most workers need not read it."""
        return Request.model_validate_json(self.accepted) if self.accepted else None

    @property
    def state(self) -> LedgerState:
        """The state of the request."""
        if self.answer is not None:
            return LedgerState.DELIVERED if self.delivered else LedgerState.DECIDED
        if self.cancelled:
            return LedgerState.CANCELLED
        if self.accepted:
            return LedgerState.ACCEPTED
        return LedgerState.UNREAD if self.unread is not None else LedgerState.BOUND

    @property
    def is_open(self) -> bool:
        """Whether work on the request still makes sense: it has no outcome and was not cancelled."""
        return self.answer is None and not self.cancelled

    def asks_the_same(self, request: Request) -> bool:
        """Whether the id belongs to the question of `request`; also True when either digest is unknown."""
        return not self.ask or not request.ask_digest or self.ask == request.ask_digest

    def is_lost(self, request: Request) -> bool:
        """Whether nothing could be decided for `request`: it was recorded, but Redis has lost the entry."""
        return self.answer is None or self.admission < request.admission

    def is_past(self, request: Request) -> bool:
        """Whether another message has started a later admission of the same ask, so that this one is obsolete."""
        return self.admission > request.admission and self.token != request.token

    def belongs_to(self, request: Request) -> bool:
        """Whether `request` belongs to this admission, because Redis bound it but answered too late."""
        return self.admission > request.admission and self.token == request.token


class Ledger:
    """The ledger of all requests. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: FailFastRedis) -> None:
        self._redis = redis

    async def bind(self, request: Request, token: str, now: datetime) -> Entry:
        """Bind the id to `request`'s question and this message, unless it is bound; returns the entry.

        The same question in another message begins a new admission when the outcome is retryable, was sent, and its
        `retry_after` has passed at `now`; a replay never does.
        """
        mine = int(request.rerun or not request.run)
        args = [request.ask_digest, token, now.timestamp(), _SECONDS, mine]
        return _entry(await self._redis.script(_BIND, [_key(key_of(request))], args))

    async def accept(self, request: Request) -> Entry:
        """Record that `request` was admitted, so that `GET` finds it before it has an outcome.

        Returns the entry: that of the first admission when the same request comes again; it also shows a cancellation.
        """
        noted = [request.answer_by.isoformat(), request.without_question().model_dump_json()]
        args = [*_of_admission(request), *noted]
        return _entry(await self._redis.script(_ACCEPT, [_key(key_of(request))], args))

    async def forget(self, request: Request, token: str) -> None:
        """Undo the admission of the ask with `token`, whose caller was told that it failed."""
        await self._redis.script(_FORGET, [_key(key_of(request))], [token])

    async def cancel(self, request_id: str, tenant: str, caller: str) -> Entry:
        """Record that `request_id` is cancelled; returns the entry.

        An entry without an answer but with its `request` waits for the outcome `cancelled` to be decided; one
        without both is a tombstone for an ask that has yet to arrive.
        """
        return _entry(await self._redis.script(_CANCEL, [_key(request_id)], [tenant, caller, _SECONDS]))

    async def is_open(self, request: Request, *, lately: float = 0.0) -> bool:
        """Whether `request` has no outcome yet and was not cancelled. One HMGET, so that long work can ask often.

        `lately`: what `find` found in this task counts once if it is no older than these seconds, and Redis is not
        asked again.
        """
        (found, at), key = _found_open.get(), key_of(request)
        if lately and found == key and asyncio.get_running_loop().time() - at <= lately:
            _found_open.set(("", 0.0))
            return True
        key = _key(key)
        names = ("answer", "cancelled", "admission", "token")
        answer, gone, admission, token = await self._redis.run(lambda redis: redis.hmget(key, *names))
        known = int(admission or 0)
        current = known == request.admission or token == request.token
        return known < request.admission or (current and answer is None and gone is None)

    async def decide(self, request: Request, answer: RequestOutcome, *, delivered: bool = False) -> Entry:
        """Make `answer` the outcome of `request` if it has none; returns the entry with its outcome.

        An entry that `is_past`, `is_lost`, or does not ask the same, was left as it is. `delivered`: the caller has the
        outcome by this call. An answer that is too large for a message is cut (`fitted`).
        """
        if not answer.trace_id:
            answer = answer.replaced(trace_id=traces.trace_id())
        answer, encoded = fitted_body(answer)
        body = encoded.decode()
        args = [*_of_admission(request), body, _again(answer), int(delivered), int(request.recorded)]
        return _entry(await self._redis.script(_DECIDE, [_key(key_of(request))], args), {body: answer})

    async def replace(self, request: Request, answer: RequestOutcome) -> None:
        """Replace an outcome that the broker refuses with `answer`."""
        answer, body = fitted_body(answer)
        args = [request.admission, body, _again(answer)]
        await self._redis.script(_REPLACE, [_key(key_of(request))], args)

    async def store(
        self, answer: RequestOutcome, tenant: str, caller: str, *, ask: str = "", admission: int = 0
    ) -> None:
        """Store an outcome that arrived on `outcomes` for an HTTP caller, in case its sender could not reach Redis.

        `ask`: the digest of the ask, if known.
        """
        key = _key(f"{answer.request_id}/{answer.run}" if answer.run else answer.request_id)
        answer, body = fitted_body(answer)
        args = [_SECONDS, admission, ask, "", tenant, caller, body, _again(answer), 1, 0]
        await self._redis.script(_DECIDE, [key], args)

    async def unread(self, request: Request, answer: RequestOutcome) -> None:
        """Store the outcome of an ask that could not be read, if nothing else is known under its id."""
        args = [fitted(answer).encode(), request.tenant, request.caller, _SECONDS]
        await self._redis.script(_UNREAD, [_key(key_of(request))], args)

    async def mark_delivered(self, request: Request) -> None:
        """Record that the outcome was sent, so that no worker sends it again."""
        await self._redis.script(_DELIVERED, [_key(key_of(request))], [request.admission])

    async def find(self, key: str) -> Entry | None:
        """The entry of a request id (or `{request}/p{n}` for a rerun); None if there is none."""
        found: list[Any] = await self._redis.run(lambda redis: redis.hmget(_key(key), *_FIELDS))
        entry = _entry(found) if any(value is not None for value in found) else None
        if entry is None or entry.is_open:
            _found_open.set((key, asyncio.get_running_loop().time()))
        return entry


def _entry(fields: Sequence[str | None], known: Mapping[str, RequestOutcome] | None = None) -> Entry:
    """The entry in the values of `_FIELDS`; `known`: outcomes that need not be read again, by their JSON."""
    tenant, caller, body, delivered, due, ask, token, admission, request, cancelled, unread, past = fields
    return Entry(
        tenant or "",
        caller or "",
        (known or {}).get(body or "") or _outcome(body),
        bool(delivered),
        datetime.fromisoformat(due) if due else None,
        ask,
        token,
        int(admission or 0),
        request,
        bool(cancelled),
        _outcome(unread),
        tuple((past or "").split()),
    )


def _outcome(body: str | None) -> RequestOutcome | None:
    # An earlier version may have stored one that is too large for a message.
    return fitted(RequestOutcome.decode(body.encode())) if body else None


def key_of(request: Request) -> str:
    """The ledger's key of `request`: a rerun has an outcome of its own; every other replay shares the request's."""
    return f"{request.request_id}/{request.run}" if request.rerun else request.request_id


def _of_admission(request: Request) -> list[Any]:
    """ARGV 1 to 6 of `_ADMISSION`."""
    return [_SECONDS, request.admission, request.ask_digest, request.token, request.tenant, request.caller]


def _again(answer: RequestOutcome) -> float | str:
    """`again_at` as an argument of a script."""
    again = again_at(answer)
    return "" if again is None else again


def _key(key: str) -> str:
    return f"ragbus:request:{{{key}}}"
