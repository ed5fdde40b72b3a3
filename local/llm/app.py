"""The HTTP side: OpenAI's and Azure's paths, and `/control` for tests.

A call passes these steps: authenticate, read, find the deployment, apply a fault, fit the window, pay the rate limits,
answer.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local.llm import faults, limits, reply, tokens, wire
from local.llm.calls import Call, Calls, digest
from local.llm.deployments import Deployment, Deployments
from local.llm.embed import DIMENSIONS, Embedder, as_base64, as_floats
from local.llm.faults import Fault, Faults
from local.llm.wire import ApiError, Chat, Completion

_CODES = {400: "invalid_request", 401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
_HANG_POLL = 0.05  # seconds


@dataclass
class Model:
    """What outlives a call, and the endpoints; `left`: what remains of each deployment's quota."""

    deployments: Deployments = field(default_factory=Deployments)
    embedder: Embedder = field(default_factory=Embedder)
    faults: Faults = field(default_factory=Faults)
    calls: Calls = field(default_factory=Calls)
    left: dict[str, limits.Limits] = field(default_factory=dict)

    async def chat(self, request: Request) -> Response:
        """`POST …/chat/completions`."""
        body = await _enter(request)
        chat = wire.read_chat(body, request.path_params.get("deployment"))
        call = self.calls.open("chat", chat.model)
        call.stream, call.prompt_tokens = chat.stream, chat.prompt_tokens
        call.prompt_sha256, call.question = digest(chat.transcript), reply.question(chat.users)
        with _noted(call):
            deployment = self._deployment(chat.model, request)
            fault = await self._meet_fault(request, call)
            completion = _complete(call, chat, deployment, fault)
            headers = self._pay(deployment, chat.prompt_tokens + (chat.max_tokens or completion.completion_tokens))
            await asyncio.sleep(fault.latency)
            call.status, call.completion_tokens = 200, completion.completion_tokens
            headers["x-request-id"] = call.id
            if not chat.stream:
                return _json_response(wire.completion_body(completion), fault, headers)
            azure = "deployment" in request.path_params
            events = wire.chunks(completion, include_usage=chat.include_usage, azure=azure)
            if fault.malformed:
                events = iter(['data: {"id": "chatcmpl-\n\n', wire.CHUNK_DONE])
            return EventStream(events, headers, fault, call)

    async def embeddings(self, request: Request) -> Response:
        """`POST …/embeddings`."""
        body = await _enter(request)
        texts, dimensions = wire.read_inputs(body), wire.read_dimensions(body, DIMENSIONS)
        call = self.calls.open("embeddings", request.path_params.get("deployment") or wire.model_of(body))
        call.prompt_tokens = sum(tokens.count(text) for text in texts)
        call.prompt_sha256 = digest("\n".join(texts))
        with _noted(call):
            deployment = self._deployment(call.deployment, request)
            fault = await self._meet_fault(request, call)
            longest = max(tokens.count(text) for text in texts)
            if longest > deployment.context_window:
                raise wire.too_long(deployment.context_window, longest, 0)
            headers = self._pay(deployment, call.prompt_tokens)
            await asyncio.sleep(fault.latency)
            if self.embedder.state.startswith("failed"):
                raise ApiError(503, "model_unavailable", f"Embeddings {self.embedder.state}", type_="server_error")
            encode = as_base64 if body.get("encoding_format") == "base64" else as_floats
            rows = [encode(row) for row in await self.embedder.embed(texts, dimensions)]
            call.status = 200
            answer = wire.embeddings_body(call.deployment, rows, call.prompt_tokens)
            return _json_response(answer, fault, headers | {"x-request-id": call.id})

    async def models(self, request: Request) -> Response:
        """`GET …/models`."""
        _authenticate(request)
        return JSONResponse(wire.models_body(self.deployments.names()))

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 once the embedding model is loaded, else 503; chat works earlier."""
        state = self.embedder.state
        return JSONResponse({"status": state, "service": "local.llm"}, 200 if state == "ready" else 503)

    async def control_faults(self, request: Request) -> Response:
        """`/control/faults`: `POST` replaces the rules, `DELETE` clears them, `GET` shows those in force."""
        try:
            if request.method != "GET":
                self.faults.set(faults.parse(await request.json()) if request.method == "POST" else [])
        except ValueError as error:
            raise ApiError(400, "invalid_fault", str(error)) from error
        return JSONResponse(self.faults.left())

    async def control_calls(self, request: Request) -> Response:
        """`/control/calls`: `GET` lists the calls, `DELETE` forgets them."""
        if request.method == "DELETE":
            self.calls.clear()
        return JSONResponse(self.calls.as_json())

    def _deployment(self, name: str, request: Request) -> Deployment:
        found = self.deployments.find(name)
        if found is None:
            raise wire.unknown_deployment(name, azure=request.url.path.startswith("/openai/"))
        return found

    async def _meet_fault(self, request: Request, call: Call) -> Fault:
        """The fault for this call; raises `ApiError` for one that fails it, and never returns from one that hangs."""
        fault = self.faults.next(call.deployment, call.kind)
        call.fault = fault.name
        if fault.hang:
            while not await request.is_disconnected():  # noqa: ASYNC110 - ASGI has no event for it after the body
                await asyncio.sleep(_HANG_POLL)
            raise ApiError(499, "client_closed_request", "The client went away.")
        status = fault.status
        if status is None or status == 200:
            return fault
        await asyncio.sleep(fault.latency)
        headers = {} if fault.retry_after is None else wire.retry_headers(fault.retry_after)
        code = fault.code or _CODES.get(status, "server_error")
        type_ = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
        raise ApiError(status, code, fault.message or f"{status} on request", type_=type_, headers=headers)

    def _pay(self, deployment: Deployment, amount: int) -> dict[str, str]:
        now = time.monotonic()
        before = self.left.get(deployment.name) or limits.Limits.of(deployment.rpm, deployment.tpm, now)
        after, refused = limits.admit(before, amount, now)
        self.left[deployment.name] = after
        if refused:
            raise wire.too_fast(deployment.name, refused, after)
        return limits.headers(after)


def create_app(model: Model) -> Starlette:
    """All routes of one server."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        model.embedder.start()
        yield
        model.embedder.stop()

    both = ("/v1", "/openai/v1", "/openai/deployments/{deployment}")
    return Starlette(
        routes=[
            *(Route(f"{base}/chat/completions", model.chat, methods=["POST"]) for base in both),
            *(Route(f"{base}/embeddings", model.embeddings, methods=["POST"]) for base in both),
            *(Route(f"{base}/models", model.models, methods=["GET"]) for base in both[:2]),
            Route("/health", model.health, methods=["GET"]),
            Route("/control/faults", model.control_faults, methods=["GET", "POST", "DELETE"]),
            Route("/control/calls", model.control_calls, methods=["GET", "DELETE"]),
        ],
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error},
        lifespan=lifespan,
    )


class EventStream(Response):
    """Server-sent events, which may come slowly or break off without an end; stops when the caller hangs up."""

    media_type = "text/event-stream"

    def __init__(self, events: Iterator[str], headers: dict[str, str], fault: Fault, call: Call) -> None:
        super().__init__(headers=headers)
        self._events, self._fault, self._call = events, fault, call
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, until the caller hangs up."""

        async def hung_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue

        sending = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(hung_up())
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        self._call.stopped = not sending.done()
        for task in (sending, gone):
            task.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        """Returning without the last empty body makes the server drop the connection."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for event in self._events:
            if self._call.chunks == self._fault.cut_stream_after:
                return
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            self._call.chunks += 1
            await asyncio.sleep(self._fault.chunk_latency)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _enter(request: Request) -> dict[str, Any]:
    _authenticate(request)
    if "deployment" in request.path_params and not request.query_params.get("api-version"):
        raise ApiError(404, "404", "Resource not found (Azure wants ?api-version=…)")
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The body must be a JSON object.")
    return body


def _authenticate(request: Request) -> None:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not bearer and not request.headers.get("api-key"):
        raise ApiError(401, "invalid_api_key", "You didn't provide an API key; any will do here.")


@contextmanager
def _noted(call: Call) -> Iterator[None]:
    """Note the status of a call that fails."""
    try:
        yield
    except ApiError as error:
        call.status = error.status
        error.headers["x-request-id"] = call.id
        raise


def _complete(call: Call, chat: Chat, deployment: Deployment, fault: Fault) -> Completion:
    """The model's reply, or the fault's; raises `ApiError` when the prompt does not fit the window."""
    room = deployment.context_window - chat.prompt_tokens
    if room < (chat.max_tokens or 1):
        raise wire.too_long(deployment.context_window, chat.prompt_tokens, chat.max_tokens or 0)
    text, finish_reason = reply.shortened(reply.reply(chat.system, chat.users), chat.max_tokens or room)
    if fault.says is not None or fault.repeat is not None:
        text = " ".join([text if fault.says is None else fault.says] * (fault.repeat or 1))
        finish_reason = "stop"
    used = tokens.count(text)
    return Completion(
        f"chatcmpl-{call.id}", chat.model, int(time.time()), text, finish_reason, chat.prompt_tokens, used
    )


def _json_response(body: wire.Json, fault: Fault, headers: dict[str, str]) -> Response:
    if fault.malformed:
        return Response('{"id": "chatcmpl-', media_type="application/json", headers=headers)
    return JSONResponse(body, headers=headers)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, "not_found", message).body(), error.status_code)
