"""The HTTP side: OpenAI's and Azure's paths, and `/control` for tests.

A call passes these steps: authenticate, read, find the deployment, refuse what its server refuses, apply a fault, fit
the window, pay the rate limits, answer.
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

from local.llm import errors, faults, limits, reply, tokens, wire
from local.llm.calls import Call, Calls, digest
from local.llm.deployments import Deployment, Deployments
from local.llm.dialects import check_chat, check_embeddings
from local.llm.embed import DIMENSIONS, Embedder, as_base64, as_floats, matrix
from local.llm.errors import ApiError, Json
from local.llm.faults import Fault, Faults
from local.llm.misbehaviours import MISBEHAVIOURS
from local.llm.sending import Pieces
from local.llm.wire import Chat, Completion

_CODES = {400: "invalid_request", 401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}


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
        body, deployment = await self._enter(request)
        call = self.calls.open("chat", deployment.name)
        call.parameters = {name: value for name, value in body.items() if name != "messages"}
        with _noted(call):
            check_chat(body, deployment.dialect, _api_version(request))
            chat = wire.read_chat(body, deployment.name, deployment.dialect)
            call.stream, call.prompt_tokens = chat.stream, chat.prompt_tokens
            call.prompt_sha256, call.question = digest(chat.transcript), reply.question(chat.users)
            fault = self.faults.next(deployment.name, "chat", call.question)
            if instead := await _met(fault, call):
                return instead
            completion = await self._complete(call, chat, deployment, fault)
            headers = self._pay(
                request, deployment, chat.prompt_tokens + (chat.max_tokens or completion.completion_tokens)
            )
            call.completion_tokens = completion.completion_tokens
            if not chat.stream:
                return _sent(wire.completion_body(completion), fault, call, headers)
            azure = "deployment" in request.path_params
            return _sent(wire.chunks(completion, include_usage=chat.include_usage, azure=azure), fault, call, headers)

    async def embeddings(self, request: Request) -> Response:
        """`POST …/embeddings`."""
        body, deployment = await self._enter(request)
        call = self.calls.open("embeddings", deployment.name)
        call.parameters = {name: value for name, value in body.items() if name != "input"}
        with _noted(call):
            check_embeddings(body, deployment.dialect, shortens=deployment.shortens)
            texts, dimensions = wire.read_inputs(body), wire.read_dimensions(body, DIMENSIONS)
            call.prompt_tokens = sum(tokens.count(text) for text in texts)
            call.prompt_sha256 = digest("\n".join(texts))
            fault = self.faults.next(deployment.name, "embeddings")
            if instead := await _met(fault, call):
                return instead
            longest = max(tokens.count(text) for text in texts)
            if longest > deployment.context_window and deployment.dialect != "ollama":
                raise errors.too_long(deployment.dialect, deployment.context_window, longest, 0)
            headers = self._pay(request, deployment, call.prompt_tokens)
            self._check_embedder()
            vectors = await self.embedder.embed(texts, dimensions)
            if change := fault.misbehaviour.vectors:
                vectors = matrix(change(vectors.tolist()))
            encode = as_base64 if body.get("encoding_format") == "base64" else as_floats
            answer = wire.embeddings_body(call.deployment, [encode(row) for row in vectors], call.prompt_tokens)
            return _sent(answer, fault, call, headers)

    async def models(self, request: Request) -> Response:
        """`GET …/models`."""
        self._authenticate(request)
        return JSONResponse(wire.models_body(self.deployments.names()))

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 once the embedding model is loaded, else 503; a call waits for it."""
        state = self.embedder.state
        return JSONResponse({"status": state, "service": "local.llm"}, 200 if state == "ready" else 503)

    async def control_faults(self, request: Request) -> Response:
        """`/control/faults`: `POST` replaces the rules, `DELETE` clears them, `GET` shows those in force."""
        try:
            if request.method != "GET":
                self.faults.set(faults.parse(await request.json()) if request.method == "POST" else [])
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_fault") from error
        return JSONResponse(self.faults.left())

    async def control_names(self, request: Request) -> Response:
        """`GET /control/faults/names`: the misbehaviours."""
        return JSONResponse(list(MISBEHAVIOURS))

    async def control_calls(self, request: Request) -> Response:
        """`/control/calls`: `GET` lists the calls, `DELETE` forgets them."""
        if request.method == "DELETE":
            self.calls.clear()
        return JSONResponse(self.calls.as_json())

    def _authenticate(self, request: Request) -> None:
        request.state.dialect = self.deployments.dialect  # until the deployment is known
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not bearer and not request.headers.get("api-key"):
            raise errors.no_key(self.deployments.dialect, azure=_is_azure(request))

    async def _enter(self, request: Request) -> tuple[dict[str, Any], Deployment]:
        """The body of a call, and the deployment that it is for."""
        self._authenticate(request)
        if "deployment" in request.path_params and not request.query_params.get("api-version"):
            raise ApiError(404, "Resource not found", code="404", gateway=True)
        try:
            body = json.loads(await request.body())
        except ValueError as error:
            said = f"We could not parse the JSON body of your request: {error}"
            raise ApiError(400, said, code="invalid_json") from error
        if not isinstance(body, dict):
            raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
        name = request.path_params.get("deployment") or wire.model_of(body)
        found = self.deployments.find(name)
        if found is None:
            raise errors.unknown_deployment(name, self.deployments.dialect, azure=_is_azure(request))
        request.state.dialect = found.dialect
        return body, found

    async def _complete(self, call: Call, chat: Chat, deployment: Deployment, fault: Fault) -> Completion:
        """The model's reply, or the fault's; raises `ApiError` when the prompt does not fit the window."""
        window, users, prompt_tokens = deployment.context_window, chat.users, chat.prompt_tokens
        if deployment.dialect == "ollama" and prompt_tokens > window:  # without a word
            users, prompt_tokens = (*users[:-1], tokens.end(users[-1], window // 2)), window
        # These two stop in mid-answer when the window is full; the others want room for the whole answer.
        needs = 1 if deployment.dialect in ("llamacpp", "reasoning") else (chat.max_tokens or 1)
        room = max(window - prompt_tokens, 1) if deployment.dialect == "ollama" else window - prompt_tokens
        if room < needs and deployment.dialect != "ollama":
            raise errors.too_long(deployment.dialect, window, prompt_tokens, chat.max_tokens or 0)
        self._check_embedder()
        said = reply.reply(chat.system, users, await self.embedder.similarities())
        text, finish_reason = reply.shortened(said, min(chat.max_tokens or room, room))
        if fault.says is not None or fault.repeat is not None:
            text = " ".join([text if fault.says is None else fault.says] * (fault.repeat or 1))
            finish_reason = "stop"
        completion = Completion(
            f"chatcmpl-{call.id}", chat.model, int(time.time()), text, finish_reason, prompt_tokens, tokens.count(text)
        )
        if change := fault.misbehaviour.completion:
            completion = change(completion)
        return completion

    def _check_embedder(self) -> None:
        if self.embedder.state.startswith("failed"):
            raise ApiError(503, f"Embeddings {self.embedder.state}", code="model_unavailable", type_="server_error")

    def _pay(self, request: Request, deployment: Deployment, amount: int) -> dict[str, str]:
        now = time.monotonic()
        before = self.left.get(deployment.name) or limits.Limits.of(deployment.rpm, deployment.tpm, now)
        after, refused = limits.admit(before, amount, now, count_refused=deployment.count_refused)
        self.left[deployment.name] = after
        if refused:
            raise errors.too_fast(deployment.name, refused, after, azure=_is_azure(request))
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
            Route("/control/faults/names", model.control_names, methods=["GET"]),
            Route("/control/calls", model.control_calls, methods=["GET", "DELETE"]),
        ],
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error},
        lifespan=lifespan,
    )


@contextmanager
def _noted(call: Call) -> Iterator[None]:
    """Note the status of a call that fails."""
    try:
        yield
    except ApiError as error:
        call.status = error.status
        error.headers["x-request-id"] = call.id
        raise


async def _met(fault: Fault, call: Call) -> Response | None:
    """What a fault answers before there is anything to be paid, if it does; raises `ApiError` for its status."""
    call.fault = fault.name
    if (instead := fault.misbehaviour.instead) is not None:
        text = instead.body if isinstance(instead.body, str) else json.dumps(instead.body)
        headers = {name: value() if callable(value) else value for name, value in instead.headers.items()}
        kind = instead.content_type or "application/json"
        return Pieces(
            [text.encode()], call, status=instead.status, headers=headers, media_type=kind, delay=fault.latency
        )
    stop = fault.misbehaviour.stop
    if stop is not None and stop.share == 0:
        return Pieces([b""], call, headers={}, media_type="application/json", stop=stop)
    if fault.status is None or fault.status == 200:
        return None
    await asyncio.sleep(fault.latency)
    headers = {} if fault.retry_after is None else errors.retry_headers(fault.retry_after)
    code = fault.code or _CODES.get(fault.status, "server_error")
    type_ = "server_error" if fault.status >= 500 else "requests" if fault.status == 429 else "invalid_request_error"
    raise ApiError(fault.status, fault.message or f"{fault.status} on request", code=code, type_=type_, headers=headers)


def _sent(body: Json | list[Json], fault: Fault, call: Call, headers: dict[str, str]) -> Response:
    """One JSON body, or the chunks of a stream, as the fault leaves them."""
    how = fault.misbehaviour
    stream = isinstance(body, list)
    bodies = how.bodies(body if isinstance(body, list) else [body]) if how.bodies else body
    if isinstance(bodies, list):
        frames = wire.events(bodies) if stream else [json.dumps(bodies[-1], ensure_ascii=False).encode()]
    else:
        frames = [json.dumps(bodies, ensure_ascii=False).encode()]
    return Pieces(
        how.frames(frames) if how.frames else frames,
        call,
        headers=headers,
        media_type=how.content_type or ("text/event-stream" if stream else "application/json"),
        delay=fault.latency,
        pause=how.pause or (fault.chunk_latency if stream else 0.0),
        stop=how.stop,
        cut_after=fault.cut_stream_after if stream else None,
        encoding=how.encoding,
    )


def _is_azure(request: Request) -> bool:
    return request.url.path.startswith("/openai/")


def _api_version(request: Request) -> str | None:
    return request.query_params["api-version"] if "deployment" in request.path_params else None


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    body = error.body(getattr(request.state, "dialect", "chat"), azure=_is_azure(request))
    return JSONResponse(body, error.status, headers=error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message, code="not_found").body(), error.status_code)
