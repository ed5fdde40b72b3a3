"""`Lake` over Azure Blob Storage: one account, and only the containers that are named in the settings."""

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from services.indexer.lakes.port import Blob, Changed, Vanished, is_noise
from shared.errors import TryLater

# A hierarchical namespace shows directories as blobs with this in their metadata.
_DIRECTORY = "hdi_isfolder"
_NO_CONTAINER = "ContainerNotFound"


class AzureLake:
    """Adapter for `azure-storage-blob`. The addresses it calls are made here, never taken from an event."""

    def __init__(self, service: BlobServiceClient, containers: Collection[str]) -> None:
        self._service = service
        self._containers = frozenset(containers)

    async def head(self, container: str, path: str) -> Blob | None:
        """See `Lake`."""
        client = self._container(container)
        if client is None or is_noise(path):
            return None
        try:
            with _translated():
                found = await client.get_blob_client(path).get_blob_properties()
        except Vanished:
            return None
        return None if (found.metadata or {}).get(_DIRECTORY) == "true" else _blob(path, found)

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        """See `Lake`."""
        client = self._container(container)
        if client is None:
            raise Vanished(path)
        with _translated():
            # The condition holds for every part of a large blob: the SDK pins the etag of the first.
            stream = await client.get_blob_client(path).download_blob(
                etag=if_match, match_condition=MatchConditions.IfNotModified
            )
            data: bytes = await stream.readall()
        return data

    async def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        """See `Lake`."""
        client = self._container(container)
        if client is None:
            return
        with _translated():
            async for found in client.list_blobs(name_starts_with=prefix or None, include=["metadata"]):
                if not is_noise(found.name) and (found.metadata or {}).get(_DIRECTORY) != "true":
                    yield _blob(found.name, found)

    async def close(self) -> None:
        """Close the connections."""
        await self._service.close()

    def _container(self, container: str) -> ContainerClient | None:
        return self._service.get_container_client(container) if container in self._containers else None


def connect(connection_string: str | None, account_url: str | None) -> BlobServiceClient:
    """A client by connection string, or by account address and the workload's own identity."""
    if connection_string:
        return BlobServiceClient.from_connection_string(connection_string)
    from azure.identity.aio import DefaultAzureCredential

    return BlobServiceClient(account_url or "", credential=DefaultAzureCredential())


def _blob(path: str, found: Any) -> Blob:
    # Listings give the etag without its quotation marks, properties with them.
    return Blob(path, f'"{found.etag.strip(chr(34))}"', found.size, found.content_settings.content_type or "")


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the SDK's errors into `TryLater`, `Vanished` and `Changed`."""
    try:
        yield
    except ResourceNotFoundError as gone:
        if getattr(gone, "error_code", None) == _NO_CONTAINER:
            # A missing container must not look like one whose documents were all deleted.
            raise TryLater("the container does not exist") from gone
        raise Vanished from gone
    except ResourceModifiedError as changed:
        raise Changed from changed
    except HttpResponseError as refused:
        # Also 403: people correct the rights, and meanwhile no event should be lost.
        raise TryLater(f"the storage account answered {refused.status_code}") from refused
    except AzureError as unreachable:
        raise TryLater(f"the storage account is unreachable: {type(unreachable).__name__}") from unreachable
