"""The one file that knows how to talk to a chat model."""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from services.generator.reply import Reply
from shared.llm.client import make_client, translate
from shared.llm.deployments import Deployment
from shared.llm.errors import ModelRefused
from shared.telemetry import names, traces
from shared.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The OpenAI API reports a filtered answer by this finish reason.
FILTERED = "content_filter"


class Chat:
    """Chat completions on any deployment; one HTTP client per deployment, made on its first call."""

    def __init__(self, timeout: timedelta, metrics: Metrics) -> None:
        self._timeout = timeout
        self._metrics = metrics
        self._clients: dict[str, AsyncOpenAI] = {}

    async def complete(
        self, deployment: Deployment, messages: tuple[dict[str, str], ...], *, answer_tokens: int, within: timedelta
    ) -> Reply:
        """One call, no retries, at most `within`.

        Raises `TryLater` (429, 5xx, timeout; with the provider's Retry-After), `ContextTooLong`,
        `ModelRefused`, `Unprocessable`.
        """
        started = time.perf_counter()
        result = "ok"
        with traces.calling(f"{names.CHAT} {deployment.model}", _attributes(deployment)):
            try:
                return await self._call(deployment, messages, answer_tokens, min(within, self._timeout))
            except Exception as error:
                result = type(error).__name__
                raise
            finally:
                labels = {"deployment": deployment.name, "state": result}
                self._metrics.model_duration.record(time.perf_counter() - started, labels)

    def prepare(self, deployments: Iterable[Deployment]) -> None:
        """Make the clients now rather than in the first call; raises `SettingsError` when a key is missing."""
        for deployment in deployments:
            self._client(deployment)

    async def close(self) -> None:
        """Close the HTTP clients."""
        for client in self._clients.values():
            await client.close()

    async def _call(
        self, deployment: Deployment, messages: tuple[dict[str, str], ...], answer_tokens: int, within: timedelta
    ) -> Reply:
        given: Any = messages
        try:
            completion = await self._client(deployment).chat.completions.create(
                model=deployment.model,
                messages=given,
                max_tokens=answer_tokens,
                temperature=0,
                timeout=within.total_seconds(),
            )
        except Exception as error:
            raise translate(error) from error
        return self._read(deployment, completion)

    def _read(self, deployment: Deployment, completion: Any) -> Reply:
        choice = completion.choices[0]
        if choice.finish_reason == FILTERED:
            raise ModelRefused("the provider's content filter stopped the answer")
        usage = completion.usage
        reply = Reply(
            text=choice.message.content or "",
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            cut_off=choice.finish_reason == "length",
        )
        self._count(deployment, reply)
        return reply

    def _count(self, deployment: Deployment, reply: Reply) -> None:
        self._metrics.tokens.add(reply.prompt_tokens, {"deployment": deployment.name, "kind": "input"})
        self._metrics.tokens.add(reply.completion_tokens, {"deployment": deployment.name, "kind": "output"})
        traces.annotate(
            {names.GEN_AI_INPUT_TOKENS: reply.prompt_tokens, names.GEN_AI_OUTPUT_TOKENS: reply.completion_tokens}
        )

    def _client(self, deployment: Deployment) -> "AsyncOpenAI":
        client = self._clients.get(deployment.name)
        if client is None:
            client = self._clients[deployment.name] = make_client(deployment, timeout=self._timeout)
        return client


def _attributes(deployment: Deployment) -> dict[str, str]:
    return {
        names.GEN_AI_OPERATION: names.CHAT,
        names.GEN_AI_PROVIDER: "azure.ai.openai" if deployment.provider == "azure" else "openai",
        names.GEN_AI_REQUEST_MODEL: deployment.model,
    }
