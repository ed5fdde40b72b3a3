"""What the retriever can be told. The defaults run on a laptop."""

from pydantic import Field, SecretStr

from shared.settings.worker import WorkerSettings


class RetrieverSettings(WorkerSettings):
    """What the retriever is told beyond what every worker is."""

    qdrant_url: str = Field(default="http://127.0.0.1:6333", description="where the passages are")
    qdrant_api_key: SecretStr | None = Field(default=None, description="only if that Qdrant asks for one")
    embedding_deployment: str = Field(
        default="embeddings", description="the deployment in models.yaml that embeds; the same as the indexer's"
    )
    embedding_timeout: float = Field(default=10, gt=0, description="seconds that one call may take")
