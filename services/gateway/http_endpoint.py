"""The handlers of the gateway's routes: ask, get an outcome, cancel.

HTTP is just a caller whose replies go to `outcomes`.
"""

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType

from fastapi.responses import JSONResponse, Response

from services.gateway.admission import Arrival
from services.gateway.authentication import Authentication
from services.gateway.cancellation import Cancellation
from services.gateway.intake import Answered, Enqueued, Intake, Standing
from services.gateway.problems import Problem
from services.gateway.waiters import HttpOutcome, Waiters
from shared.access.callers import Caller, Callers
from shared.budget.rules import Quota
from shared.bus.port import BusUnavailable, UnknownQueue
from shared.contracts.ask import Ask
from shared.contracts.envelope import Envelope
from shared.contracts.fit import fitted
from shared.contracts.outcome import ID_REUSED, Code, Outcome, RequestOutcome, id_reused
from shared.contracts.queues import OUTCOMES
from shared.errors import TryLater, Unprocessable
from shared.ledger.ledger import Entry, Ledger
from shared.redis import RedisUnavailable
from shared.settings.budget import Unit, Window
from shared.telemetry.logs import get_logger
from shared.worker.publisher import Send, send_in_order

log = get_logger()

# Seconds that an HTTP caller is kept while the broker does not answer.
SEND_WITHIN = 5.0
SERVICE_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE
# Seconds after which a caller may try again when the broker or Redis is unavailable.
RETRY = {"Retry-After": "5"}
# Seconds that an ask may wait for admission if its `wait` is shorter.
SHORTEST_HOLD = 1.0
# Seconds between two polls of the ledger, which has outcomes that another replica received; the pause grows.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# Seconds of a limit's window; a month has at most so many.
_SECONDS = {Window.MINUTE: 60, Window.DAY: 86_400, Window.MONTH: 31 * 86_400}

# The refusals that are errors of the call.
_STATUS = {
    Code.UNKNOWN_USE_CASE: HTTPStatus.NOT_FOUND,
    Code.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Code.QUESTION_TOO_LONG: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.PAYLOAD_TOO_LARGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.ID_REUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.BUDGET_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
}


class HttpEndpoint:
    """The handlers of the routes."""

    def __init__(
        self,
        *,
        callers: Callers,
        intake: Intake,
        cancelling: Cancellation,
        ledger: Ledger,
        waiters: Waiters,
        send: Send,
        connected: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        """`send`: decides an envelope's outcome and sends it. `connected`: whether the broker answers at the moment."""
        self.authentication = Authentication(callers)
        self._intake = intake
        self._cancelling = cancelling
        self._ledger = ledger
        self._waiters = waiters
        self._send = send
        self._connected = connected
        self._clock = clock
        self._searches: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def ask(self, caller: Caller, ask: Ask, key: str | None, deadline: float | None, wait: float) -> Response:
        """Admit, enqueue, and wait up to `wait` seconds for the outcome; at least `SHORTEST_HOLD` for admission.

        `key`: the caller's Idempotency-Key. `deadline`: seconds from now. 200 with the outcome, or 202.
        Raises `Problem` for a refusal that is an error of the call, and 503 when the broker is unavailable.
        """
        now, until = self._clock(), asyncio.get_running_loop().time() + wait
        token = uuid.uuid4().hex
        arrival = Arrival(
            caller=caller,
            message_id=f"http/{key or token}",
            at=now,
            correlation_id=key,
            reply_queues=(OUTCOMES,),
            time_to_live=timedelta(seconds=deadline) if deadline else None,
            admitted_by=now + timedelta(seconds=max(wait, SHORTEST_HOLD)),
            token=token,
            over_http=True,
            repeatable=key is not None,
        )
        if not self._connected():
            raise unavailable()
        taken = await self._intake.take(ask, arrival)
        if isinstance(taken, Answered):
            answer = taken.answer
            # A refusal is an error of this call; without a key it cannot be asked for again.
            if taken.standing is Standing.FIRST and (arrival.repeatable or not is_error(answer)):
                with suppress(RedisUnavailable):  # it is in the response; the ledger keeps it for repeats
                    entry = await self._ledger.decide(taken.request, answer, delivered=True)
                    if not entry.asks_the_same(taken.request):
                        return reply(id_reused(taken.request, self._clock()))
                    if not entry.is_past(taken.request):
                        answer = entry.answer or answer
            return reply(answer, rate_limits(taken.quotas))
        if isinstance(taken, Enqueued):
            try:
                await self._enqueue([*taken.envelopes])
            except Problem:
                if not taken.resumed:  # another ask's request may be in progress
                    await self._intake.take_back(taken.request, token)
                raise
        left = until - asyncio.get_running_loop().time()
        request = taken.request
        found = await self._outcome(request.request_id, request.admission, left, request.ask_digest)
        headers = rate_limits(taken.quotas) if isinstance(taken, Enqueued) else {}
        return reply(found, headers) if found is not None else accepted(request.request_id, headers=headers)

    async def request(self, caller: Caller, request_id: str, wait: float, run: str = "") -> Response:
        """The outcome of a request of this caller, or of its rerun `run` (p{n}), if it comes within `wait` seconds.

        Raises `Problem` 404 for what does not exist, or is another caller's.
        """
        key = f"{request_id}/{run}" if run else request_id
        entry = await self._entry(caller, key)
        answer = entry.answer or entry.unread or await self._outcome(key, entry.admission, wait)
        return answered(answer) if answer is not None else accepted(request_id, run)

    async def cancel(self, caller: Caller, request_id: str) -> Response:
        """The outcome of a request of this caller: `cancelled` from now on, unless it had one.

        202 when the ask has not been admitted (it was cancelled before it arrived, by its message id).
        Raises `Problem` 404 like `request`, and 503 when Redis is unavailable.
        """
        entry = await self._entry(caller, request_id)
        if entry.answer is not None:
            return answered(entry.answer)
        try:
            outcome = await self._cancelling.cancel(request_id, caller)
        except RedisUnavailable as failure:
            raise Problem(SERVICE_UNAVAILABLE, "the request cannot be cancelled now", headers=RETRY) from failure
        if outcome is None:
            return accepted(request_id)
        with suppress(Problem):  # it is the outcome nevertheless; the next worker that has the request sends it
            await self._enqueue([outcome.envelope])
        return answered(outcome.answer)

    async def _enqueue(self, envelopes: list[Envelope]) -> None:
        """Send `envelopes` in their order; raises `Problem` 503 when the broker does not take them, or 422."""
        try:
            async with asyncio.timeout(SEND_WITHIN):
                await send_in_order(envelopes, self._send)
        except (BusUnavailable, UnknownQueue, TryLater, TimeoutError) as failure:
            log.warning("http.not_enqueued", detail=str(failure) or repr(failure))
            raise unavailable() from failure
        except Unprocessable as refused:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, refused.detail, refused.reason) from refused

    async def _outcome(self, request_id: str, admission: int, wait: float, ask: str = "") -> RequestOutcome | None:
        """The outcome if it arrives within `wait` seconds, in this process or in the ledger.

        Raises `Problem` 422 when it answers another ask than `ask` (a digest): while Redis was unavailable, that one
        took the id first.
        """
        key = (request_id, admission)
        future = self._waiters.join(*key)
        search = self._searches.get(key)
        if search is None or search.done():
            search = asyncio.create_task(self._search(*key), name=f"outcome:{request_id}")
            self._searches[key] = search
            search.add_done_callback(lambda task: self._searches.get(key) is task and self._searches.pop(key))
        try:
            done, _ = await asyncio.wait({future}, timeout=max(0.0, wait))
            if not done:
                return None
            found = future.result()
            if ask and found.ask and ask != found.ask:
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, ID_REUSED, Code.ID_REUSED)
            return found.answer
        finally:
            self._waiters.leave(request_id, future, admission)

    async def _search(self, request_id: str, admission: int) -> None:
        """Poll the ledger, once for all callers of this process that wait for the outcome, while there are any."""
        pause = FIRST_PAUSE
        while self._waiters.is_awaited(request_id, admission):
            await asyncio.sleep(pause)
            with suppress(RedisUnavailable):
                entry = await self._ledger.find(request_id)
                if entry is not None and entry.answer is not None and entry.admission >= admission:
                    outcome = HttpOutcome(entry.answer, entry.tenant, entry.caller, entry.ask or "", admission)
                    self._waiters.tell(outcome)
            pause = min(LONGEST_PAUSE, pause * 1.5)

    async def _entry(self, caller: Caller, request_id: str) -> Entry:
        """The entry of a request of `caller`; raises `Problem` 404, also for another caller's, and 503."""
        try:
            entry = await self._ledger.find(request_id)
        except RedisUnavailable as failure:
            raise Problem(SERVICE_UNAVAILABLE, "outcomes cannot be read now", headers=RETRY) from failure
        if entry is None or (entry.tenant, entry.caller) != (caller.tenant, caller.name):
            raise Problem(HTTPStatus.NOT_FOUND, "no such request; outcomes are kept for a day")
        return entry


def is_error(answer: RequestOutcome) -> bool:
    """Whether `answer` to an ask is an error of the call."""
    return answer.outcome is Outcome.REFUSED and answer.code in _STATUS


def reply(answer: RequestOutcome, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """The reply to an ask: its outcome. Raises `Problem` for a refusal that is an error of the call."""
    if not is_error(answer):
        return answered(answer, headers)
    wait = {"Retry-After": str(max(1, math.ceil(answer.retry_after)))} if answer.retry_after is not None else {}
    raise Problem(_STATUS[answer.code], answer.message, answer.code, {**wait, **headers})


def answered(answer: RequestOutcome, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """200 with the outcome, as a queue would carry it, so that all who ask get the same."""
    headers = {"Location": location(answer.request_id, answer.run), **headers}
    return Response(fitted(answer).encode(), media_type="application/json", headers=headers)


def accepted(request_id: str, run: str = "", headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """202: the outcome will come."""
    return JSONResponse(
        {"request_id": request_id, "status": "accepted"},
        status_code=HTTPStatus.ACCEPTED,
        headers={"Location": location(request_id, run), "Retry-After": "1", **headers},
    )


def rate_limits(quotas: Sequence[Quota]) -> dict[str, str]:
    """What the caller may still spend, as `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).

    A policy per limit, named `{scope}-{unit}-{window}`; its unit is a token or a millionth of a US dollar.
    """
    if not quotas:
        return {}
    policies, left = [], []
    for quota in quotas:
        limit = quota.limit
        name = f'"{limit.scope.partition(":")[0]}-{limit.unit}-{limit.window}"'
        unit = "tokens" if limit.unit is Unit.TOKENS else "micro-usd"
        policies.append(f'{name};q={limit.most};w={_SECONDS[limit.window]};qu="{unit}"')
        left.append(f"{name};r={quota.left};t={quota.resets_after}")
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}


def location(request_id: str, run: str) -> str:
    """The path of an outcome: of a request, or of its rerun `run`."""
    return f"/v1/requests/{request_id}?run={run}" if run else f"/v1/requests/{request_id}"


def unavailable() -> Problem:
    """503: the broker does not take messages."""
    detail = "the message broker is unavailable; repeat the request, with the same Idempotency-Key"
    return Problem(SERVICE_UNAVAILABLE, detail, headers=RETRY)
