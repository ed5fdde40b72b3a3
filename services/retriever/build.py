"""Plugs the retriever together. What is heavy to import is imported here, when it is needed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from services.retriever.handler import Charge, Epochs, Retriever
from services.retriever.knowledge import Knowledge
from services.retriever.settings import RetrieverSettings
from shared.access.use_cases import read_use_cases
from shared.llm.client import make_client, translate
from shared.llm.deployments import Deployments, ModelKind, Provider
from shared.worker.ports import utc_now

if TYPE_CHECKING:
    import httpx
    import httpx2


@asynccontextmanager
async def build(
    settings: RetrieverSettings,
    *,
    epochs: Epochs,
    charge: Charge,
    models: "httpx2.AsyncBaseTransport | None" = None,
    vectors: "httpx.AsyncBaseTransport | None" = None,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Retriever]:
    """A retriever ready to handle, whose connections close with the context; raises `SettingsError`.

    `models` and `vectors` carry the HTTP to the embedding model and to Qdrant; None: the clients' own transports.
    """
    use_cases = read_use_cases(settings.config / "use_cases")
    deployment = Deployments.read(settings.config / "models.yaml").get(
        settings.embedding_deployment, ModelKind.EMBEDDING
    )

    from shared.embeddings.openai import OpenAIEmbedder
    from shared.vectors.qdrant import connect
    from shared.vectors.qdrant_passages import QdrantPassages
    from shared.vectors.qdrant_registry import QdrantRegistry

    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    store = connect(settings.qdrant_url, api_key=key, transport=vectors)
    model = make_client(deployment, timeout=timedelta(seconds=settings.embedding_timeout), transport=models)
    embedder = OpenAIEmbedder(
        model,
        model=deployment.model,
        dimensions=deployment.dimensions,
        translate=translate,
        ask_for_dimensions=deployment.provider is not Provider.COMPATIBLE,
    )
    try:
        yield Retriever(
            knowledge=Knowledge(QdrantPassages(store, deployment.dimensions), QdrantRegistry(store)),
            embedder=embedder,
            epochs=epochs,
            use_cases=use_cases,
            charge=charge,
            clock=clock,
        )
    finally:
        await model.close()
        await store.close()
