"""`Embedder` over the OpenAI protocol, for any provider that speaks it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from shared.embeddings.port import Embedded
from shared.embeddings.reply import most_bytes, vectors_of
from shared.llm.deployments import Deployment
from shared.llm.dialect import Learned, embedding_body
from shared.llm.errors import Fault, InvalidReply, ModelDown, ModelError, ModelMisconfigured, Used
from shared.llm.faults import translate
from shared.llm.post import EMBEDDINGS, posted
from shared.llm.tokens import count_tokens
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics, make

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = get_logger()

# The service takes up to 2,048 texts and 300,000 tokens in a request (OpenAI API reference, "Create embeddings"); 128
# passages of 220 tokens are 28,000.
BATCH = 128


class OpenAIEmbedder:
    """Asks one `deployment` through its `client`, in its dialect."""

    def __init__(
        self,
        client: "AsyncOpenAI",
        deployment: Deployment,
        metrics: Metrics | None = None,
        *,
        timeout: timedelta | None = None,
    ) -> None:
        """`timeout`: of one request, to the end of its reply; None: only the client's own limits apply."""
        self._client = client
        self._timeout = timeout.total_seconds() if timeout else None
        self._metrics = metrics or make()
        self._deployment = deployment
        self._learned = Learned()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder`; raises a `ModelError`, `ModelMisconfigured` for vectors of another length, too.

        Its `used` has the tokens of the texts when the model answered, or was too slow, as that is paid for.
        """
        if not all(text.strip() for text in texts):
            raise ValueError("an empty text cannot be embedded")
        vectors: list[list[float]] = []
        tokens: int | None = 0
        for start in range(0, len(texts), BATCH):
            batch = await self._embed_batch(list(texts[start : start + BATCH]))
            vectors += batch.vectors
            tokens = None if tokens is None or batch.tokens is None else tokens + batch.tokens
        return Embedded(vectors, tokens)

    async def _embed_batch(self, texts: list[str]) -> Embedded:
        deployment = self._deployment
        attributes = {names.GEN_AI_OPERATION: names.EMBEDDINGS, names.GEN_AI_REQUEST_MODEL: deployment.model}
        with traces.calling(f"{names.EMBEDDINGS} {deployment.model}", attributes):
            try:
                return await self._ask(texts)
            except ModelError as failure:
                fault = str(failure.fault)
                self._metrics.model_faults.add(1, {"deployment": deployment.name, "fault": fault})
                traces.annotate({names.FAULT: fault})
                report = log.warning if failure.fault is Fault.CONFIGURATION else log.info
                report("model.failed", deployment=deployment.name, fault=fault, detail=str(failure))
                raise

    async def _ask(self, texts: list[str]) -> Embedded:
        """One answered request. A parameter that the server refuses is learned, and the texts are sent again."""
        while True:
            arguments, body = embedding_body(self._deployment, texts, learned=self._learned), bytearray()
            try:
                async with asyncio.timeout(self._timeout), posted(self._client, EMBEDDINGS, arguments) as response:
                    most = most_bytes(texts, self._deployment)
                    async for block in response.aiter_bytes():
                        body += block
                        if len(body) > most:
                            raise InvalidReply(f"{self._deployment.name}: the reply has more than {most} bytes")
                return vectors_of(bytes(body), texts, self._deployment)
            except Exception as error:
                meant = translate(error, self._deployment)
                if isinstance(meant, TimeoutError):
                    why = f"no complete reply within {self._timeout:g} s"
                    meant = ModelDown(f"{self._deployment.name}: {why}", sentence=why)
                if not isinstance(meant, ModelMisconfigured) or not self._learned.lesson(
                    self._deployment, arguments, meant.sentence, meant.param
                ):
                    if isinstance(meant, ModelError) and (b'"data"' in body or _is_slow(error)):
                        # It answered, or was still at it: that is paid for, whatever came of it.
                        meant.used = Used(sum(map(count_tokens, texts)), estimated=True)
                    raise meant from error


def _is_slow(error: Exception) -> bool:
    """Whether the request was sent, and its answer did not come in time."""
    import httpx2

    return isinstance(error.__cause__ or error, httpx2.ReadTimeout) or isinstance(error, TimeoutError)
