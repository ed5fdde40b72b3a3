"""The indexer's settings."""

import math
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.indexer.chunk import MOST_TOKENS
from services.indexer.parsing.formats import Limits
from shared.settings.worker import WorkerSettings


class IndexerSettings(WorkerSettings):
    """The indexer's own settings. The lake is a folder or a storage account; the rest has defaults for a laptop."""

    qdrant_url: str = Field(default="http://127.0.0.1:6333", description="the address of Qdrant")
    qdrant_api_key: SecretStr | None = Field(default=None, description="only if Qdrant requires one")
    embedding_deployment: str = Field(
        default="embeddings", description="the embedding deployment in models.yaml; the same as the retriever's"
    )
    embedding_timeout: float = Field(default=60, gt=0, description="maximum seconds of one batch")
    lake_folder: Path | None = Field(default=None, description="a local folder that serves as the container")
    lake_container: str = Field(default="handbook", description="the container name of lake_folder")
    lake_connection_string: SecretStr | None = Field(
        default=None, description="connection string of a storage account (Azurite, or Azure with a key)"
    )
    lake_account_url: str | None = Field(
        default=None, description="https://name.blob.core.windows.net, reached with the workload's own identity"
    )
    passage_tokens: int = Field(default=MOST_TOKENS, ge=40, le=2_000, description="maximum tokens of a passage")
    parsers: int = Field(default=1, ge=1, le=16, description="number of parser processes")
    document_bytes: int = Field(default=Limits().most_bytes, gt=0, description="maximum bytes of a document")
    document_pages: int = Field(default=Limits().most_pages, gt=0, description="maximum pages of a PDF")
    parse_seconds: float = Field(
        default=Limits().wall_seconds,
        gt=0,
        le=86_400,
        description="maximum seconds to parse a document; two thirds of it as processor time",
    )
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
            cpu_seconds=math.ceil(self.parse_seconds * Limits().cpu_seconds / Limits().wall_seconds),
        )
