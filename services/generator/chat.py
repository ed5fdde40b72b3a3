"""The one file that knows how to talk to a chat model."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from services.generator.completion import Completion, Overlong, bounded, reply_of
from services.generator.first_completed import first_completed
from services.generator.reply import CallTimeout, Cancelled, Reply, usable_usage
from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.llm.dialect import Learned, body
from shared.llm.errors import NOTHING, InvalidReply, ModelError, ModelMisconfigured, Used
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
# Seconds to wait for the end of the connection: after `[DONE]`, and after a finish reason, which usage may follow. Some
# servers and proxies keep it open for ever (agentscope-ai/agentscope-java#2073, cohere-ai/cohere-python#756).
AFTER_DONE, AFTER_FINISH = 1.0, 2.0
# The parts of a call's time that a stream may spend before its first token, and between two, where models.yaml does not
# say: a stream that has stopped is given up while another deployment still has time to answer.
FIRST_TOKEN, BETWEEN_TOKENS = 1 / 2, 1 / 4


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters of one call."""

    deployment: Deployment
    messages: tuple[dict[str, str], ...]
    answer_tokens: int
    within: timedelta
    schema: Mapping[str, Any] | None

    def body(self, learned: Learned) -> dict[str, Any]:
        """The arguments for the SDK."""
        return body(
            self.deployment,
            self.messages,
            self.answer_tokens,
            stream=self.deployment.stream,
            learned=learned,
            schema=self.schema,
        )

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
        """`timeout`: of one call. `transport`: carries the HTTP of all clients; None: `AiohttpTransport`."""
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
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One call, no retries, at most `within`; broken off when `cancelled` ends, so that the provider stops too.

        `schema`: the JSON Schema that the reply should fit, for servers that can enforce one.
        Raises `Cancelled`, a `ModelError` (`CallTimeout` and `InvalidReply` are among them), and `NoAnswer`.
        """
        total = deployment.timeouts.total
        most = timedelta(seconds=total) if total else self._timeout
        asked = _Asked(deployment, messages, answer_tokens, min(within, most), schema)
        completion = Completion(asked.most_text, deployment.name)
        with self._measured(deployment):
            try:
                async with asyncio.timeout(asked.within.total_seconds()):
                    await first_completed(cancelled(), self._call(asked, completion))
            except TimeoutError as slow:
                if not completion.is_complete:
                    why = f"{deployment.name}: the model had not finished after {asked.within.total_seconds():.0f} s"
                    raise CallTimeout(why, self._used(asked, completion)) from slow
            except Cancelled as stopped:
                raise Cancelled(self._used(asked, completion)) from stopped
            return reply_of(completion, self._used(asked, completion), deployment.name)

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
                if fault := getattr(error, "fault", None):
                    self._metrics.model_faults.add(1, {"deployment": deployment.name, "fault": str(fault)})
                    traces.annotate({names.FAULT: str(fault)})
                raise
            finally:
                labels = {"deployment": deployment.name, "state": state}
                self._metrics.model_duration.record(time.perf_counter() - started, labels)

    async def _call(self, asked: _Asked, completion: Completion) -> None:
        """Read the reply into `completion`; raises what `complete` does, except for `Cancelled`.

        A parameter that the server refuses is learned, and the call is sent again without it.
        """
        deployment = asked.deployment
        while True:
            arguments = asked.body(self._learned)
            try:
                await self._read(asked, arguments, completion)
            except Overlong as more:
                # Leaving the response closed its connection, and the provider stops writing what would be paid for.
                log.warning("model.overlong", deployment=deployment.name, detail=str(more))
                if not completion.written:
                    why = f"{deployment.name}: the reply has {more}, and no answer in it"
                    raise InvalidReply(why, used=self._used(asked, completion)) from more
                completion.finish = completion.finish or "length"
            except TimeoutError as slow:
                if not completion.is_complete:
                    stage = "stopped in the middle of its answer" if completion.started else "did not begin to answer"
                    why = f"{deployment.name}: the model {stage}, and its time-out is over (timeouts in models.yaml)"
                    raise CallTimeout(why, self._used(asked, completion)) from slow
            except Exception as error:
                if completion.is_complete:
                    # A failure after the end does no harm.
                    log.info("model.failed_after_its_answer", deployment=deployment.name, detail=str(error))
                    return
                meant = translate(error, deployment)
                if isinstance(meant, ModelMisconfigured) and self._learned.lesson(
                    deployment, arguments, meant.sentence, meant.param
                ):
                    continue
                if isinstance(meant, ModelError) and (completion.written or completion.usage or completion.reached):
                    meant.used = self._used(asked, completion)
                raise meant from error
            break
        if not completion.is_complete:
            why = f"{deployment.name}: the reply ended without a finish reason, perhaps in the middle of the answer"
            raise InvalidReply(
                why, used=self._used(asked, completion) if completion.started or completion.usage else NOTHING
            )

    async def _read(self, asked: _Asked, arguments: dict[str, Any], completion: Completion) -> None:
        """One request, and its response read into `completion`; raises `TimeoutError` when the server stops sending."""
        now, limits, streams = asyncio.get_running_loop().time, asked.deployment.timeouts, asked.deployment.stream
        share = limits.total or self._timeout.total_seconds()
        # Of a reply that is not streamed, the first thing to come are the headers of the response.
        first = limits.first_token or (share * FIRST_TOKEN if streams else None)
        between = (limits.between_tokens or share * BETWEEN_TOKENS) if streams else None
        ends_at: float | None = None
        async with (
            asyncio.timeout(first) as patience,
            posted(self._client(asked.deployment), CHAT, arguments) as response,
            aclosing(bounded(response.aiter_bytes(), asked.most_read)) as received,
            aclosing(completion.read(received)) as steps,
        ):
            if not streams:
                patience.reschedule(None)
            # To the end, even after the last event: the connection can be used again then.
            async for _ in steps:
                if completion.is_complete:
                    # Once for each: what is sent after the end does not prolong it.
                    wait = AFTER_DONE if completion.done else AFTER_FINISH
                    ends_at = min(ends_at or now() + wait, now() + wait)
                    patience.reschedule(ends_at)
                elif streams and completion.started and between:
                    patience.reschedule(now() + between)

    def _used(self, asked: _Asked, completion: Completion) -> Used:
        """The tokens of a call: the provider's count if it is possible, else an estimate; counted in the metrics."""
        used, clamped = usable_usage(
            completion.usage,
            estimate=lambda: completion.estimated(asked.tokens),
            most_prompt=asked.deployment.context_window,
            # A token is at least one byte; servers that ignore the limit are billed for what they write.
            most_output=max(asked.answer_tokens, completion.received),
        )
        if clamped:
            reported = str(completion.usage)[:100]
            log.warning("model.usage_clamped", deployment=completion.name, reported=reported, tokens=used.tokens)
        elif used.estimated:
            log.info("model.usage_estimated", deployment=completion.name, tokens=used.tokens)
        self._metrics.tokens.add(used.prompt_tokens, {"deployment": completion.name, "kind": "input"})
        self._metrics.tokens.add(used.completion_tokens, {"deployment": completion.name, "kind": "output"})
        traces.annotate(
            {names.GEN_AI_INPUT_TOKENS: used.prompt_tokens, names.GEN_AI_OUTPUT_TOKENS: used.completion_tokens}
        )
        return used

    def _client(self, deployment: Deployment) -> "AsyncOpenAI":
        client = self._clients.get(deployment.name)
        if client is None:
            client = self._clients[deployment.name] = make_client(
                deployment,
                timeout=max(self._timeout, timedelta(seconds=deployment.timeouts.total or 0)),
                transport=self._transport,
            )
        return client
