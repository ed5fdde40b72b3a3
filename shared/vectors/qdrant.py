"""Reaching Qdrant over REST: the client, its errors in our words, and collections made on demand."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus

import httpx
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from shared.errors import DependencyDown, SettingsError, TryLater

# Searches take milliseconds; a store that needs longer than this is overloaded, and the work is retried.
PATIENCE = timedelta(seconds=10)
# Read by one request; enough to page a large document, small enough to hold in memory.
PAGE = 256
# Left alone, the client opens a new connection per request to a Qdrant on this machine. Connections that were idle
# are dropped before a server drops them (uvicorn: after 5 s), or a request would now and then meet a closed one.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=3)
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}

Schema = models.PayloadSchemaType | models.KeywordIndexParams


class Missing(Exception):
    """The collection is not there (yet)."""


def connect(
    url: str,
    *,
    api_key: str | None = None,
    patience: timedelta = PATIENCE,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncQdrantClient:
    """A client for `url`, whose HTTP is carried by `transport` (None: its own).

    The compatibility check is off because it blocks and merely warns.
    """
    return AsyncQdrantClient(
        url=url,
        api_key=api_key,
        timeout=int(patience.total_seconds()),
        check_compatibility=False,
        prefer_grpc=False,
        limits=_LIMITS,
        transport=transport,
    )


@contextmanager
def translated() -> Iterator[None]:
    """Translate Qdrant's errors into `TryLater` or `Missing`; a bug of ours passes unchanged.

    `TryLater` when it is busy, `DependencyDown` when it cannot be reached or fails, `SettingsError` for vectors of
    another length than the collection's.
    """
    try:
        yield
    except ResourceExhaustedResponse as busy:
        raise TryLater("Qdrant is busy", after=timedelta(seconds=busy.retry_after_s)) from busy
    except ResponseHandlingException as unreachable:
        if isinstance(unreachable.source, ValidationError):
            raise
        raise DependencyDown(f"Qdrant cannot be reached: {unreachable.source!r}") from unreachable
    except UnexpectedResponse as answer:
        status = answer.status_code or 0
        if status == HTTPStatus.NOT_FOUND:
            raise Missing from answer
        if status == HTTPStatus.BAD_REQUEST and b"dimension" in answer.content:
            raise SettingsError(
                "the collection holds vectors of another length than the embedding deployment makes; choose the "
                "deployment it was made with, or another collection"
            ) from answer
        if status in _PASSING:
            raise TryLater(f"Qdrant answered {status}") from answer
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise DependencyDown(f"Qdrant answered {status}") from answer
        raise
    except ValueError as refused:
        # The client's in-process mode has no status codes.
        if "not found" in str(refused):
            raise Missing from refused
        raise


class Collections:
    """Creates collections when they are first needed, also when several processes need them at once."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client
        self._known: set[str] = set()
        self._lock = asyncio.Lock()

    async def ensure(self, name: str, create: Callable[[], Awaitable[object]], indexes: Mapping[str, Schema]) -> bool:
        """Create the collection and its payload indexes if they do not exist; False if this process knew that they do.

        `create` makes the collection; `indexes` are its payload fields. Raises `TryLater`, `DependencyDown`.
        """
        if name in self._known:
            return False
        async with self._lock:
            with translated():
                if not await self._client.collection_exists(name):
                    try:
                        await create()
                    except (UnexpectedResponse, ValueError):
                        # Another process may have created it; otherwise the refusal stands.
                        if not await self._client.collection_exists(name):
                            raise
            for field, schema in indexes.items():
                # An index that exists stays as it is, so this also completes what a creator that died left out.
                with translated():
                    await self._client.create_payload_index(name, field, field_schema=schema, wait=True)
            self._known.add(name)
        return True

    def forget(self, name: str) -> None:
        """Check again next time, because it was removed."""
        self._known.discard(name)


def equals(field: str, value: str | int) -> models.FieldCondition:
    """The condition that a payload field has this value (a list field: that one of its values is it)."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def any_of(field: str, values: list[str]) -> models.FieldCondition:
    """The condition that a payload field has one of these values."""
    return models.FieldCondition(key=field, match=models.MatchAny(any=values))
