"""The one file that knows how to talk to a chat model."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from services.generator.completion import DONE, LENGTH, CompletionBuffer, Overlong, bounded, events
from services.generator.first_completed import first_completed
from services.generator.reply import CallTimeout, Cancelled, Reply
from shared.errors import DependencyDown
from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.llm.dialect import Learned, body
from shared.llm.errors import ModelRefused, Used
from shared.llm.faults import translate
from shared.llm.post import CHAT, posted
from shared.llm.tokens import PER_MESSAGE, count_tokens
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

log = get_logger()

# What is read of an answer of n tokens, by servers that do not stop at `max_tokens` too. Vocabularies average three to
# five bytes a token, and an event of one token is under 1 KiB with Azure's filter results, reasoning not counted.
TEXT_PER_TOKEN, LEAST_TEXT, LARGEST_TEXT = 64, 4 * 1024, 128 * 1024
WIRE_PER_TOKEN, LEAST_WIRE, LARGEST_WIRE = 4 * 1024, 1024 * 1024, 16 * 1024 * 1024
# The OpenAI API reports a filtered answer by this finish reason.
FILTERED = "content_filter"


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters of one call."""

    deployment: Deployment
    messages: tuple[dict[str, str], ...]
    answer_tokens: int
    within: timedelta

    def body(self, learned: Learned) -> dict[str, Any]:
        """The arguments for the SDK."""
        return body(self.deployment, self.messages, self.answer_tokens, stream=self.deployment.stream, learned=learned)

    @property
    def most_text(self) -> int:
        """The largest answer text that is kept, in bytes of UTF-8."""
        return min(LARGEST_TEXT, max(LEAST_TEXT, self.answer_tokens * TEXT_PER_TOKEN))

    @property
    def most_read(self) -> int:
        """The largest response body that is read, in bytes."""
        return min(LARGEST_WIRE, max(LEAST_WIRE, self.answer_tokens * WIRE_PER_TOKEN))

    @property
    def tokens(self) -> int:
        """The estimated tokens of the prompt."""
        return sum(count_tokens(message["content"]) + PER_MESSAGE for message in self.messages)


class Chat:
    """Chat completions on any deployment; one HTTP client per deployment, made on its first call."""

    def __init__(
        self, timeout: timedelta, metrics: Metrics, transport: "httpx2.AsyncBaseTransport | None" = None
    ) -> None:
        """`timeout`: of one call. `transport`: carries the HTTP of all clients; None: the SDK's own."""
        self._timeout = timeout
        self._transport = transport
        self._metrics = metrics
        self._learned = Learned()
        self._clients: dict[str, AsyncOpenAI] = {}

    async def complete(
        self,
        deployment: Deployment,
        messages: tuple[dict[str, str], ...],
        *,
        answer_tokens: int,
        within: timedelta,
        cancelled: Callable[[], Coroutine[Any, Any, None]],
    ) -> Reply:
        """One call, no retries, at most `within`; broken off when `cancelled` ends, so that the provider stops too.

        Raises `Cancelled`; `TryLater` (a throttle, with the provider's Retry-After), `DependencyDown` (5xx,
        `CallTimeout`, half an answer); `ContextTooLong`, `ModelRefused`, `Unprocessable`.
        """
        asked = _Asked(deployment, messages, answer_tokens, min(within, self._timeout))
        buffer = CompletionBuffer(asked.most_text)
        with self._measured(deployment):
            try:
                async with asyncio.timeout(asked.within.total_seconds()):
                    await first_completed(cancelled(), self._call(asked, buffer))
            except TimeoutError as slow:
                why = f"the model had not finished after {asked.within.total_seconds():.0f} s"
                raise CallTimeout(why, self._used(asked, buffer)) from slow
            except Cancelled as stopped:
                raise Cancelled(self._used(asked, buffer)) from stopped
            text = buffer.text
            prompt, completion = buffer.usage or (asked.tokens, count_tokens(text))
            reply = Reply(text, prompt, completion, cut_off=buffer.finish == LENGTH, estimated=buffer.usage is None)
            if reply.estimated:
                log.info("model.usage_estimated", deployment=deployment.name, tokens=reply.tokens)
            self._count(deployment, reply)
            if buffer.finish == FILTERED:
                raise ModelRefused("the provider's content filter stopped the answer", filtered=True, used=reply.used)
            return reply

    def prepare(self, deployments: Iterable[Deployment]) -> None:
        """Make the clients now rather than in the first call; raises `SettingsError` when a key is missing."""
        for deployment in deployments:
            self._client(deployment)

    async def close(self) -> None:
        """Close the HTTP clients."""
        for client in self._clients.values():
            await client.close()

    @contextmanager
    def _measured(self, deployment: Deployment) -> Iterator[None]:
        """A span and the duration of one call, with the name of its error if it fails."""
        attributes = {
            names.GEN_AI_OPERATION: names.CHAT,
            names.GEN_AI_PROVIDER: "azure.ai.openai" if deployment.provider == "azure" else "openai",
            names.GEN_AI_REQUEST_MODEL: deployment.model,
        }
        started, state = time.perf_counter(), "ok"
        with traces.calling(f"{names.CHAT} {deployment.model}", attributes):
            try:
                yield
            except Exception as error:
                state = type(error).__name__
                raise
            finally:
                labels = {"deployment": deployment.name, "state": state}
                self._metrics.model_duration.record(time.perf_counter() - started, labels)

    def _used(self, asked: _Asked, buffer: CompletionBuffer) -> Used:
        """The tokens of a call that was broken off, an estimate: the provider sends its count at the end."""
        reply = Reply(buffer.text, asked.tokens, count_tokens(buffer.text), estimated=True)
        self._count(asked.deployment, reply)
        return reply.used

    async def _call(self, asked: _Asked, buffer: CompletionBuffer) -> None:
        """Read the reply into `buffer`; raises what `complete` does, except for `Cancelled` and `CallTimeout`."""
        read = self._read_stream if asked.deployment.stream else self._read_whole
        try:
            await read(asked, buffer)
        except Overlong as more:
            # Leaving the response closed its connection, and the provider stops writing what would be paid for.
            log.warning("model.overlong", deployment=asked.deployment.name, detail=str(more))
            buffer.finish = buffer.finish or LENGTH
        except Exception as error:
            # A failure after the end does no harm: the answer is complete.
            if buffer.finish is None:
                raise translate(error, asked.deployment) from error
        if buffer.finish is None:
            raise DependencyDown("the model's reply ended in the middle of the answer")

    async def _read_stream(self, asked: _Asked, buffer: CompletionBuffer) -> None:
        async with (
            posted(self._client(asked.deployment), CHAT, asked.body(self._learned)) as response,
            aclosing(bounded(response.aiter_bytes(), asked.most_read)) as received,
            aclosing(events(received)) as found,
        ):
            # To the end, even after the last event: the connection can be used again then.
            async for data in found:
                # Without data it is a sign of life.
                if data and data != DONE:
                    buffer.take(data)

    async def _read_whole(self, asked: _Asked, buffer: CompletionBuffer) -> None:
        body = bytearray()
        try:
            async with (
                posted(self._client(asked.deployment), CHAT, asked.body(self._learned)) as response,
                aclosing(bounded(response.aiter_bytes(), asked.most_read)) as received,
            ):
                async for block in received:
                    body += block
        except Overlong:
            buffer.take_beginning(bytes(body))
            raise
        buffer.take_whole(bytes(body))

    def _count(self, deployment: Deployment, reply: Reply) -> None:
        self._metrics.tokens.add(reply.prompt_tokens, {"deployment": deployment.name, "kind": "input"})
        self._metrics.tokens.add(reply.completion_tokens, {"deployment": deployment.name, "kind": "output"})
        traces.annotate(
            {names.GEN_AI_INPUT_TOKENS: reply.prompt_tokens, names.GEN_AI_OUTPUT_TOKENS: reply.completion_tokens}
        )

    def _client(self, deployment: Deployment) -> "AsyncOpenAI":
        client = self._clients.get(deployment.name)
        if client is None:
            client = self._clients[deployment.name] = make_client(
                deployment, timeout=self._timeout, transport=self._transport
            )
        return client
