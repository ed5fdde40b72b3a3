"""The HTTP endpoint.

    POST   /v1/{use_case}/ask      202 + Location, or 200 with the outcome (`?wait=` seconds)
    GET    /v1/requests/{id}       200 with the outcome, 202 while it is being worked on, 404
    DELETE /v1/requests/{id}       200 with the outcome: `cancelled`, or the one it had; 404

HTTP is just a caller whose replies go to `outcomes`. Errors are problem details (RFC 9457).
"""

import asyncio
import math
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from services.gateway.admission import Arrival
from services.gateway.authentication import Authentication, RequireKey
from services.gateway.cancellation import Cancellation
from services.gateway.connections import Limits
from services.gateway.intake import Answered, Enqueued, Intake, Standing
from services.gateway.problems import Problem
from services.gateway.waiters import HttpOutcome, Waiters
from shared.access.callers import Caller, Callers
from shared.bus.port import BusUnavailable, UnknownQueue
from shared.contracts.ask import Ask
from shared.contracts.base import MessagePart, explain, read_json
from shared.contracts.envelope import Envelope
from shared.contracts.fit import fitted
from shared.contracts.ids import MAX_ID
from shared.contracts.outcome import ID_REUSED, Code, Outcome, RequestOutcome, id_reused
from shared.contracts.queues import OUTCOMES
from shared.errors import TryLater, Unprocessable
from shared.failpoints import reach
from shared.ledger.ledger import Entry, Ledger
from shared.redis import RedisUnavailable
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.worker.publisher import Send as SendEnvelope
from shared.worker.publisher import send_in_order

log = get_logger()

LONGEST_WAIT = 120.0
# How long an HTTP caller is kept while the broker does not answer.
SEND_WITHIN = 5.0
RETRY_AFTER = 5
# An ask may wait so long for being admitted, whatever its caller says of waiting for the outcome.
SHORTEST_HOLD = 1.0
# Another replica may have got the outcome; the ledger is asked in growing intervals.
FIRST_LOOK, LONGEST_LOOK = 0.05, 0.5

_STATUS = {
    Code.UNKNOWN_USE_CASE: HTTPStatus.NOT_FOUND,
    Code.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Code.QUESTION_TOO_LONG: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.PAYLOAD_TOO_LARGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.ID_REUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.BUDGET_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
}


class AskBody(MessagePart):
    """What an HTTP caller posts: an `ask.v1` without its use case, which is in the path."""

    question: str = Field(max_length=8_000)
    conversation: tuple[Any, ...] = ()
    cache: str = "use"


class _JsonRequest(Request):
    """Reads a body as the queue does, strictly (`read_json`), so that both doors take the same questions."""

    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except Unprocessable as broken:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, broken.detail, Code.SCHEMA_INVALID) from broken


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class HttpEndpoint:
    """What the routes do."""

    def __init__(
        self,
        *,
        callers: Callers,
        intake: Intake,
        cancelling: Cancellation,
        ledger: Ledger,
        waiters: Waiters,
        send: SendEnvelope,
        connected: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        """`send` posts an envelope and decides outcomes; `connected` says whether the broker answers at the moment."""
        self.authentication = Authentication(callers)
        self._intake = intake
        self._cancelling = cancelling
        self._ledger = ledger
        self._waiters = waiters
        self._send = send
        self._connected = connected
        self._clock = clock
        self._looking: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def ask(self, caller: Caller, ask: Ask, key: str | None, deadline: float | None, wait: float) -> Response:
        """Admit, enqueue, and wait for up to `wait` seconds; for being admitted alone a little at the least."""
        now, until = self._clock(), asyncio.get_running_loop().time() + wait
        token = uuid.uuid4().hex
        arrival = Arrival(
            # The reply queue of HTTP is ours, whatever reply queues the caller has for its messages.
            caller=caller.model_copy(update={"reply_queues": (OUTCOMES,)}),
            message_id=f"http/{key or token}",
            at=now,
            correlation_id=key,
            time_to_live=timedelta(seconds=deadline) if deadline else None,
            admitted_by=now + timedelta(seconds=max(wait, SHORTEST_HOLD)),
            token=token,
            over_http=True,
            repeatable=key is not None,
        )
        if not self._connected():
            raise _unavailable()
        taken = await self._intake.take(ask, arrival)
        if isinstance(taken, Answered):
            return await self._at_once(taken, repeatable=arrival.repeatable)
        if isinstance(taken, Enqueued):
            reach("http.taken")
            try:
                await self._enqueue([*taken.envelopes])
            except Problem:
                if not taken.resumed:  # what another ask admitted may be under way
                    await self._intake.take_back(taken.request, token)
                raise
            reach("http.enqueued")
        left = until - asyncio.get_running_loop().time()
        answer = await self._outcome(taken.request.request_id, taken.request.admission, left, taken.request.ask_digest)
        return _reply(answer) if answer is not None else _accepted(taken.request.request_id)

    async def request(self, caller: Caller, request_id: str, wait: float) -> Response:
        """The outcome of a request of this caller; another's does not exist for it."""
        entry = await self._entry(caller, request_id)
        answer = entry.answer or entry.unread or await self._outcome(request_id, entry.admission, wait)
        return _answered(answer) if answer is not None else _accepted(request_id)

    async def cancel(self, caller: Caller, request_id: str) -> Response:
        """The outcome of a request of this caller: `cancelled` from now on, unless it had one.

        202 when that is known to the work on it alone (it was cancelled before, by its message id).
        """
        entry = await self._entry(caller, request_id)
        if entry.answer is not None:
            return _answered(entry.answer)
        try:
            outcome = await self._cancelling.cancel(request_id, caller)
        except RedisUnavailable as away:
            raise _no_ledger("it cannot be cancelled at the moment") from away
        if outcome is None:
            return _accepted(request_id)
        with suppress(Problem):  # it is the outcome all the same, and told by whoever meets the request next
            await self._enqueue([outcome.envelope])
        return _answered(outcome.answer)

    async def _at_once(self, taken: Answered, *, repeatable: bool) -> Response:
        request, answer = taken.request, taken.answer
        # A refusal is an error of this call; without a key nobody can ask for it again.
        if taken.standing is Standing.FIRST and (repeatable or not _is_error(answer)):
            with suppress(RedisUnavailable):  # it is in the response; the ledger has it for those who ask again
                entry = await self._ledger.decide(request, answer, delivered=True)
                if not entry.asks_the_same(request):
                    return _reply(id_reused(request, self._clock()))
                if not entry.is_past(request):
                    answer = entry.answer or answer
        return _reply(answer)

    async def _enqueue(self, envelopes: list[Envelope]) -> None:
        try:
            async with asyncio.timeout(SEND_WITHIN):
                await send_in_order(envelopes, self._send)
        except (BusUnavailable, UnknownQueue, TryLater, TimeoutError) as away:
            log.warning("http.not_enqueued", detail=str(away) or repr(away))
            raise _unavailable() from away
        except Unprocessable as refused:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, refused.detail, refused.reason) from refused

    async def _outcome(self, request_id: str, admission: int, wait: float, ask: str = "") -> RequestOutcome | None:
        """The outcome, if it comes within `wait` seconds: handed over here, or found in the ledger.

        Raises 422 when it answers another ask than `ask` (a digest), which had the id first while Redis was away.
        """
        key = (request_id, admission)
        future = self._waiters.join(*key)
        looking = self._looking.get(key)
        if looking is None or looking.done():
            looking = asyncio.create_task(self._look_for(*key), name=f"outcome:{request_id}")
            self._looking[key] = looking
            looking.add_done_callback(lambda task: self._looking.get(key) is task and self._looking.pop(key))
        try:
            done, _ = await asyncio.wait({future}, timeout=max(0.0, wait))
            return _answer_to(ask, future.result().ask, future.result().answer) if done else None
        finally:
            self._waiters.leave(request_id, future, admission)

    async def _look_for(self, request_id: str, admission: int) -> None:
        """Ask the ledger as long as any caller waits for the outcome: once for all of them."""
        look = FIRST_LOOK
        while self._waiters.is_awaited(request_id, admission):
            await asyncio.sleep(look)
            entry = await self._stored(request_id, admission)
            if entry is not None and entry.answer is not None:
                self._waiters.tell(HttpOutcome(entry.answer, entry.tenant, entry.caller, entry.ask or "", admission))
            look = min(LONGEST_LOOK, look * 1.5)

    async def _stored(self, request_id: str, admission: int) -> Entry | None:
        try:
            entry = await self._ledger.find(request_id)
        except RedisUnavailable:
            return None
        return entry if entry and entry.admission >= admission else None

    async def _entry(self, caller: Caller, request_id: str) -> Entry:
        """What is known of a request of `caller`; raises 404, also for another's, and 503."""
        try:
            entry = await self._ledger.find(request_id)
        except RedisUnavailable as away:
            raise _no_ledger("outcomes cannot be read at the moment") from away
        if entry is None or (entry.tenant, entry.caller) != (caller.tenant, caller.name):
            raise Problem(HTTPStatus.NOT_FOUND, "no such request; outcomes are kept for a day")
        return entry


def make_app(endpoint: HttpEndpoint, at_once: int = Limits.per_caller) -> FastAPI:
    """The routes; `at_once` requests of a caller are at work at the same time."""
    app = FastAPI(
        title="ragbus",
        version="1",
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the Host header, which the peer chooses.
        redirect_slashes=False,
        # A body without a Content-Type is read as JSON; see `_json_only`.
        strict_content_type=False,
    )
    app.router.route_class = _JsonRoute
    app.add_middleware(RequireKey, authentication=endpoint.authentication, at_once=at_once)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)

    def caller(request: Request) -> Caller:
        return cast("Caller", request.state.caller)

    known_caller = Annotated[Caller, Depends(caller)]
    seconds = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="seconds to wait for the outcome")]

    @app.post("/v1/{use_case}/ask", status_code=202, response_model=None, dependencies=[Depends(_json_only)])
    async def ask(
        request: Request,
        use_case: Annotated[str, Path(max_length=64)],
        body: AskBody,
        known: known_caller,
        wait: seconds = 0,
        deadline: Annotated[float | None, Query(gt=0, lt=86_400, description="seconds until it is too late")] = None,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=MAX_ID - 8)] = None,
    ) -> Response:
        parent = TraceContextTextMapPropagator().extract(dict(request.headers))
        token = context.attach(parent)
        try:
            with traces.calling(f"POST /v1/{use_case}/ask", {names.USE_CASE: use_case, names.TENANT: known.tenant}):
                return await endpoint.ask(known, _as_ask(body, use_case), idempotency_key, deadline, wait)
        finally:
            context.detach(token)

    @app.get("/v1/requests/{request_id}", response_model=None)
    async def request(
        request_id: Annotated[str, Path(max_length=MAX_ID)],
        known: known_caller,
        wait: seconds = 0,
        run: Annotated[str, Query(pattern=r"^(p[0-9]{1,16})?$", description="of a rerun: p1, p2, …")] = "",
    ) -> Response:
        return await endpoint.request(known, f"{request_id}/{run}" if run else request_id, wait)

    @app.delete("/v1/requests/{request_id}", response_model=None)
    async def cancel(request_id: Annotated[str, Path(max_length=MAX_ID)], known: known_caller) -> Response:
        return await endpoint.cancel(known, request_id)

    return app


def _json_only(content_type: Annotated[str | None, Header()] = None) -> None:
    essence = ("application/json" if content_type is None else content_type).partition(";")[0].strip().lower()
    if essence != "application/json" and not (essence.startswith("application/") and essence.endswith("+json")):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the question as Content-Type: application/json")


def _as_ask(body: AskBody, use_case: str) -> Ask:
    try:
        return Ask.model_validate({**body.model_dump(), "use_case": use_case})
    except ValidationError as invalid:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, explain(invalid, Ask.kind), Code.SCHEMA_INVALID) from invalid


def _answer_to(ask: str, answered: str | None, answer: RequestOutcome) -> RequestOutcome:
    """`answer`, if the ask that it answers is the one that was made; raises 422."""
    if ask and answered and ask != answered:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, ID_REUSED, Code.ID_REUSED)
    return answer


def _is_error(answer: RequestOutcome) -> bool:
    return answer.outcome is Outcome.REFUSED and answer.code in _STATUS


def _reply(answer: RequestOutcome) -> Response:
    """The reply to an ask: its outcome; a refusal is an error of the call. Raises `Problem`."""
    if not _is_error(answer):
        return _answered(answer)
    wait = {"Retry-After": str(max(1, math.ceil(answer.retry_after)))} if answer.retry_after is not None else {}
    raise Problem(_STATUS[answer.code], answer.message, answer.code, wait)


def _answered(answer: RequestOutcome) -> Response:
    # What a queue can carry, so that all who ask hear the same.
    return Response(
        fitted(answer).encode(), media_type="application/json", headers={"Location": _location(answer.request_id)}
    )


def _accepted(request_id: str) -> Response:
    return JSONResponse(
        {"request_id": request_id, "status": "accepted"},
        status_code=HTTPStatus.ACCEPTED,
        headers={"Location": _location(request_id), "Retry-After": "1"},
    )


def _location(request_id: str) -> str:
    return f"/v1/requests/{request_id}"


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)}


def _unavailable() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the message broker is away; repeat the request, with the same Idempotency-Key",
        headers=_retry(),
    )


def _no_ledger(detail: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=_retry())


def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _details(error.status, error.detail, error.code, dict(error.headers or {}))


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = [f"{'.'.join(str(step) for step in each['loc'])}: {each['msg']}" for each in error.errors()]
    return _details(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(wrong[:3]), Code.SCHEMA_INVALID, {})


def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return _details(status, str(error.detail), status.phrase.title().replace(" ", ""), dict(error.headers or {}))


def _bug(_request: Request, error: Exception) -> Response:
    log.error("http.bug", error=repr(error))
    return _details(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong on our side", Code.CRASHED, {})


def _details(status: HTTPStatus, detail: str, code: str, headers: dict[str, str]) -> Response:
    body = Problem(status, detail, code, headers).body()
    return Response(body, status.value, headers, media_type="application/problem+json")
