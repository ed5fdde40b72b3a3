"""`Embedder` over the OpenAI protocol, for any provider that speaks it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.embeddings.port import Embedded
from shared.errors import DependencyDown, SettingsError
from shared.llm.deployments import Deployment
from shared.llm.dialect import Encoding, Learned, embedding_body
from shared.llm.errors import ModelMisconfigured
from shared.llm.faults import translate
from shared.telemetry import names, traces

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import CreateEmbeddingResponse

# The service takes up to 2,048 texts and 300,000 tokens in a request (OpenAI API reference, "Create embeddings"); 128
# passages of 220 tokens are 28,000.
BATCH = 128


class OpenAIEmbedder:
    """Asks one `deployment` through its `client`, in its dialect."""

    def __init__(self, client: "AsyncOpenAI", deployment: Deployment) -> None:
        self._client = client
        self._deployment = deployment
        self._learned = Learned()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder`; also raises `SettingsError` for vectors of another length than `dimensions`."""
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
        model = self._deployment.model
        attributes = {names.GEN_AI_OPERATION: names.EMBEDDINGS, names.GEN_AI_REQUEST_MODEL: model}
        with traces.calling(f"{names.EMBEDDINGS} {model}", attributes):
            answer = await self._ask(texts)
        vectors = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        if len(vectors) != len(texts):
            raise DependencyDown(f"the embedding model answered {len(vectors)} vectors for {len(texts)} texts")
        expected = self._deployment.dimensions
        wrong = next((len(vector) for vector in vectors if len(vector) != expected), None)
        if wrong is not None:
            raise SettingsError(f"{model} makes vectors of {wrong} dimensions; models.yaml says {expected}")
        # Compatible servers may leave the usage out, and then the SDK has no such field either.
        used = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        return Embedded(vectors, used if isinstance(used, int) and used > 0 else None)

    async def _ask(self, texts: list[str]) -> "CreateEmbeddingResponse":
        """One answered request. A parameter that the server refuses is learned, and the texts are sent again."""
        while True:
            arguments = embedding_body(self._deployment, texts, learned=self._learned)
            # The SDK asks for base64 and decodes it when the format is not given.
            given = {k: v for k, v in arguments.items() if (k, v) != ("encoding_format", Encoding.BASE64)}
            try:
                return await self._client.embeddings.create(**given)
            except ValueError as unreadable:
                # The SDK raises this when a reply is cut off or has no vectors.
                raise DependencyDown(f"the embedding model's reply cannot be read: {unreadable}") from unreadable
            except Exception as error:
                meant = translate(error, self._deployment)
                if not isinstance(meant, ModelMisconfigured) or not self._learned.lesson(
                    self._deployment, arguments, meant.sentence, meant.param
                ):
                    raise meant from error
