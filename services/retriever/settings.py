"""The retriever's settings. The defaults run on a laptop."""

from pydantic import Field, SecretStr

from shared.settings.worker import WorkerSettings


class RetrieverSettings(WorkerSettings):
    """The retriever's own settings."""

    qdrant_url: str = Field(default="http://127.0.0.1:6333", description="the address of Qdrant")
    qdrant_api_key: SecretStr | None = Field(default=None, description="only if Qdrant requires one")
    embedding_deployment: str = Field(
        default="embeddings", description="the embedding deployment in models.yaml; the same as the indexer's"
    )
    embedding_timeout: float = Field(default=10, gt=0, description="maximum seconds of one call")
