"""The indexer's settings."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.indexer.chunk import MOST_TOKENS
from services.indexer.parsing.formats import Limits
from shared.settings.worker import WorkerSettings


class IndexerSettings(WorkerSettings):
    """What the indexer is told beyond what every worker is. The lake is a folder or a storage account."""

    qdrant_url: str = Field(default="http://127.0.0.1:6333", description="where the passages are kept")
    qdrant_api_key: SecretStr | None = Field(default=None, description="only if that Qdrant asks for one")
    embedding_deployment: str = Field(
        default="embeddings", description="the deployment in models.yaml that embeds; the same as the retriever's"
    )
    embedding_timeout: float = Field(default=60, gt=0, description="seconds that one batch may take")
    lake_folder: Path | None = Field(default=None, description="a folder of this machine that is the container")
    lake_container: str = Field(default="handbook", description="the container that lake_folder is")
    lake_connection_string: SecretStr | None = Field(default=None, description="of a storage account (Azurite, keys)")
    lake_account_url: str | None = Field(
        default=None, description="https://name.blob.core.windows.net, reached with the workload's own identity"
    )
    passage_tokens: int = Field(default=MOST_TOKENS, ge=40, le=2_000, description="tokens that a passage may have")
    parsers: int = Field(default=1, ge=1, le=16, description="processes that parse documents")
    document_bytes: int = Field(default=Limits().most_bytes, gt=0, description="of the largest document that is read")
    document_pages: int = Field(default=Limits().most_pages, gt=0, description="of the longest PDF that is read")
    parse_seconds: float = Field(default=Limits().wall_seconds, gt=0, description="that parsing a document may take")
    parse_memory: int = Field(
        default=Limits().memory_bytes, ge=512 * 1024 * 1024, description="bytes of address space of a parser process"
    )

    @model_validator(mode="after")
    def _one_lake(self) -> Self:
        if sum(map(bool, (self.lake_folder, self.lake_connection_string, self.lake_account_url))) > 1:
            raise ValueError(
                "set only one of RAGBUS_LAKE_FOLDER, RAGBUS_LAKE_CONNECTION_STRING and RAGBUS_LAKE_ACCOUNT_URL"
            )
        return self

    def folder(self) -> Path:
        """The folder that is the container, where no storage account is named."""
        return self.lake_folder or self.config / "handbook"

    def limits(self) -> Limits:
        """What parsing one document may use."""
        return Limits(
            most_bytes=self.document_bytes,
            most_pages=self.document_pages,
            memory_bytes=self.parse_memory,
            wall_seconds=self.parse_seconds,
        )
