"""Builds the indexer and the reconciler from settings. Heavy modules are imported where they are used."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from services.indexer import chunk
from services.indexer.handler import Indexer
from services.indexer.index_writer import Evictor, IndexWriter
from services.indexer.lakes.port import Lake
from services.indexer.parsing import formats
from services.indexer.parsing.sandbox import SandboxedParser
from services.indexer.reconcile import Reconciler
from services.indexer.settings import IndexerSettings
from services.indexer.sources import Sources
from services.indexer.version import VersionFactory
from shared.errors import SettingsError
from shared.llm.client import make_client
from shared.llm.deployments import Deployment, Deployments, ModelKind
from shared.pacing.embedder import PacedEmbedder
from shared.pacing.pacing import Pacing
from shared.settings.base import existing
from shared.telemetry.metrics import Metrics
from shared.worker.ports import utc_now

if TYPE_CHECKING:
    import httpx
    import httpx2


@asynccontextmanager
async def build(
    settings: IndexerSettings,
    *,
    lake: Lake,
    evictor: Evictor,
    metrics: Metrics,
    pacing: Pacing,
    models: "httpx2.AsyncBaseTransport | None" = None,
    vectors: "httpx.AsyncBaseTransport | None" = None,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Indexer]:
    """An indexer ready to handle, whose connections and processes end with the context; raises `SettingsError`.

    `models` and `vectors` carry the HTTP to the embedding model and to Qdrant; None: the clients' own transports.
    """
    sources = Sources.read(settings.config / "sources.yaml")
    deployment = Deployments.read(settings.config / "models.yaml").get(
        settings.embedding_deployment, ModelKind.EMBEDDING
    )
    if settings.passage_tokens > deployment.context_window:
        raise SettingsError(
            f"RAGBUS_PASSAGE_TOKENS: {settings.passage_tokens} is more than {deployment.name} accepts "
            f"({deployment.context_window}, context_window in models.yaml)"
        )

    from shared.embeddings.openai import OpenAIEmbedder
    from shared.vectors.qdrant import connect
    from shared.vectors.qdrant_passages import QdrantPassages
    from shared.vectors.qdrant_registry import QdrantRegistry

    async with AsyncExitStack() as closing:
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        store = connect(settings.qdrant_url, api_key=key, transport=vectors)
        closing.push_async_callback(store.close)
        timeout = timedelta(seconds=settings.embedding_timeout)
        model = make_client(deployment, timeout=timeout, transport=models)
        closing.push_async_callback(model.close)
        parser = SandboxedParser(settings.limits(), settings.parsers)
        closing.push_async_callback(parser.close)
        embedder = OpenAIEmbedder(model, deployment, metrics, timeout=timeout)
        registry = QdrantRegistry(store)
        writer = IndexWriter(
            passages=QdrantPassages(store, deployment.dimensions),
            registry=registry,
            embedder=PacedEmbedder(embedder, pacing, deployment, clock),
            evictor=evictor,
            metrics=metrics,
        )
        yield Indexer(
            sources=sources,
            lake=lake,
            parser=parser,
            registry=registry,
            writer=writer,
            versions=version_factory(settings, deployment, clock),
            metrics=metrics,
            clock=clock,
            most_bytes=settings.document_bytes,
            passage_tokens=settings.passage_tokens,
        )


@asynccontextmanager
async def build_reconciler(
    settings: IndexerSettings, *, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[Reconciler]:
    """A reconciler whose connections end with the context; raises `SettingsError`."""
    sources = Sources.read(settings.config / "sources.yaml")
    deployment = Deployments.read(settings.config / "models.yaml").get(
        settings.embedding_deployment, ModelKind.EMBEDDING
    )

    from shared.vectors.qdrant import connect
    from shared.vectors.qdrant_registry import QdrantRegistry

    async with AsyncExitStack() as closing:
        lake = open_lake(settings, sources)
        closing.push_async_callback(lake.close)
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        store = connect(settings.qdrant_url, api_key=key)
        closing.push_async_callback(store.close)
        versions = version_factory(settings, deployment, clock)
        yield Reconciler(lake=lake, registry=QdrantRegistry(store), sources=sources, versions=versions)


def version_factory(settings: IndexerSettings, deployment: Deployment, clock: Callable[[], datetime]) -> VersionFactory:
    """The factory for these settings; the reconciler finds documents that other settings indexed (`RULES`)."""
    space = deployment.vector_space()
    pipeline = f"parse{formats.VERSION}-chunk{chunk.VERSION}-{settings.passage_tokens}-{space}"
    return VersionFactory(pipeline, space, clock, lambda: uuid4().hex)


def open_lake(settings: IndexerSettings, sources: Sources) -> Lake:
    """The lake of the settings; close it when done. Raises `SettingsError`."""
    secret = settings.lake_connection_string
    if not secret and not settings.lake_account_url:
        from services.indexer.lakes.folder import FolderLake

        return FolderLake({settings.lake_container: existing(settings.folder(), "lake folder", "RAGBUS_LAKE_FOLDER")})

    from services.indexer.lakes.azure_blob import AzureLake, connect

    service = connect(secret.get_secret_value() if secret else None, settings.lake_account_url)
    return AzureLake(service, {source.container for source in sources.sources})
