"""`Embedder` over the OpenAI protocol, for any provider that speaks it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shared.embeddings.port import Embedded
from shared.errors import DependencyDown, SettingsError
from shared.telemetry import names, traces

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The service takes up to 2,048 texts and 300,000 tokens in a request (OpenAI API reference, "Create embeddings"); 128
# passages of 220 tokens are 28,000.
BATCH = 128


class OpenAIEmbedder:
    """Asks one deployment through `client`; `translate` turns the SDK's errors into ours.

    `ask_for_dimensions`: the model can shorten its vectors (text-embedding-3 can, many compatible servers refuse).
    """

    def __init__(
        self,
        client: "AsyncOpenAI",
        *,
        model: str,
        dimensions: int,
        translate: Callable[[Exception], Exception],
        ask_for_dimensions: bool = True,
    ) -> None:
        self._client = client
        self._asked: dict[str, Any] = {"dimensions": dimensions} if ask_for_dimensions else {}
        self._name = model
        self._dimensions = dimensions
        self._translate = translate

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
        attributes = {names.GEN_AI_OPERATION: names.EMBEDDINGS, names.GEN_AI_REQUEST_MODEL: self._name}
        with traces.calling(f"{names.EMBEDDINGS} {self._name}", attributes):
            try:
                # No encoding_format: the SDK's default, base64, costs a tenth of decoding floats from JSON.
                answer = await self._client.embeddings.create(model=self._name, input=texts, **self._asked)
            except ValueError as unreadable:
                # The SDK raises this when a reply is cut off or has no vectors.
                raise DependencyDown(f"the embedding model's reply cannot be read: {unreadable}") from unreadable
            except Exception as error:
                raise self._translate(error) from error
        vectors = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        if len(vectors) != len(texts):
            raise DependencyDown(f"the embedding model answered {len(vectors)} vectors for {len(texts)} texts")
        wrong = next((len(vector) for vector in vectors if len(vector) != self._dimensions), None)
        if wrong is not None:
            raise SettingsError(
                f"{self._name} makes vectors of {wrong} dimensions; models.yaml says {self._dimensions}"
            )
        # Compatible servers may leave the usage out, and then the SDK has no such field either.
        used = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        return Embedded(vectors, used if isinstance(used, int) and used > 0 else None)
