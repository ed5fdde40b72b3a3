"""The routes of the gateway.

    POST   /v1/{use_case}/ask      202 + Location, or 200 with the outcome (`?wait=` seconds)
    GET    /v1/requests/{id}       200 with the outcome, 202 while it is being worked on, 404
    DELETE /v1/requests/{id}       200 with the outcome: `cancelled`, or the one it had; 404

Errors are problem details (RFC 9457).
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import Field, ValidationError

from services.gateway.authentication import RequireKey
from services.gateway.connections import Limits
from services.gateway.http_endpoint import HttpEndpoint
from services.gateway.problems import Problem, answer_with_problems
from shared.access.callers import Caller
from shared.contracts.ask import Ask
from shared.contracts.base import MessagePart, explain, read_json
from shared.contracts.ids import MAX_ID
from shared.contracts.outcome import Code
from shared.errors import Unprocessable
from shared.telemetry import names, traces

LONGEST_WAIT = 120.0


class AskBody(MessagePart):
    """The body of a POST: an `ask.v1` without its use case, which is in the path."""

    question: str = Field(max_length=8_000)
    conversation: tuple[Any, ...] = ()
    cache: str = "use"


class _JsonRequest(Request):
    """Reads a body as the queue does, strictly (`read_json`), so that both take the same questions."""

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


def make_app(endpoint: HttpEndpoint, at_once: int = Limits.per_caller) -> FastAPI:
    """The routes; a caller may have `at_once` requests in progress."""
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
    answer_with_problems(app)

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
        deadline: Annotated[
            float | None, Query(gt=0, lt=86_400, description="the deadline, in seconds from now")
        ] = None,
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
        return await endpoint.request(known, request_id, wait, run)

    @app.delete("/v1/requests/{request_id}", response_model=None)
    async def cancel(request_id: Annotated[str, Path(max_length=MAX_ID)], known: known_caller) -> Response:
        return await endpoint.cancel(known, request_id)

    return app


def _json_only(content_type: Annotated[str | None, Header()] = None) -> None:
    """Raise `Problem` 415 for another type than JSON; without a Content-Type the body is read as JSON."""
    essence = ("application/json" if content_type is None else content_type).partition(";")[0].strip().lower()
    if essence != "application/json" and not (essence.startswith("application/") and essence.endswith("+json")):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the question as Content-Type: application/json")


def _as_ask(body: AskBody, use_case: str) -> Ask:
    """The ask in `body`, with the limits of `ask.v1`; raises `Problem` 422."""
    try:
        return Ask.model_validate({**body.model_dump(), "use_case": use_case})
    except ValidationError as invalid:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, explain(invalid, Ask.kind), Code.SCHEMA_INVALID) from invalid
