"""Which documents are indexed, read over Qdrant's REST interface.

Without Qdrant's client, whose import takes two seconds: a command that only looks should not take that long.
"""

import asyncio
import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ops.errors import CommandError
from ops.target import Target
from shared.vectors.port import Document, State

# The name under which the indexer keeps it (shared/vectors/qdrant_registry.py).
COLLECTION = "documents"
_PAGE = 256
_PATIENCE = 5.0


async def documents(target: Target) -> list[Document]:
    """Every entry, by path, tombstones too; raises `CommandError`."""
    return await asyncio.to_thread(lambda: sorted(_entries(target), key=lambda document: document.path))


def _entries(target: Target) -> Iterator[Document]:
    offset: Any = None
    while True:
        page = _scroll(target, offset)
        yield from (to_document(point["payload"]) for point in page["points"])
        offset = page.get("next_page_offset")
        if offset is None:
            return


def to_document(payload: dict[str, Any]) -> Document:
    """An entry from what is stored of it."""
    known = {field.name: payload[field.name] for field in dataclasses.fields(Document) if field.name in payload}
    known |= {"state": State(payload["state"]), "groups": frozenset(payload["groups"])}
    return Document(**{**known, "updated_at": datetime.fromisoformat(payload["updated_at"])})


def _scroll(target: Target, offset: Any) -> dict[str, Any]:
    url = f"{target.qdrant_url}/collections/{COLLECTION}/points/scroll"
    headers = {"Content-Type": "application/json", "api-key": target.variables.get("RAGBUS_QDRANT_API_KEY", "")}
    body = json.dumps({"limit": _PAGE, "offset": offset, "with_payload": True}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=_PATIENCE) as answer:  # noqa: S310 - the operator's own Qdrant
            page: dict[str, Any] = json.load(answer)["result"]
            return page
    except urllib.error.HTTPError as refused:
        if refused.code == 404:
            return {"points": []}  # nothing was ever indexed
        raise CommandError(
            f"Qdrant at {target.qdrant_url} answered {refused.code}; look at RAGBUS_QDRANT_API_KEY"
        ) from refused
    except (OSError, ValueError, KeyError) as away:
        raise CommandError(
            f"Qdrant at {target.qdrant_url} does not answer ({away}); `ragbus doctor` says more"
        ) from away
