"""Which documents are indexed, read over Qdrant's REST interface.

Without Qdrant's client, because importing it takes two seconds.
"""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

from ops.connect import why
from ops.errors import CommandError
from ops.target import Target
from shared.vectors.port import Document

# The name under which the indexer keeps it (shared/vectors/qdrant_registry.py).
COLLECTION = "documents"
_PAGE = 256
_TIMEOUT = 5.0


async def documents(target: Target) -> list[Document]:
    """Every entry, tombstones too, by path; empty before anything is indexed. Raises `CommandError`."""
    return await asyncio.to_thread(_documents, target)


def _documents(target: Target) -> list[Document]:
    url = f"{target.qdrant_url}/collections/{COLLECTION}/points/scroll"
    headers = {"Content-Type": "application/json", "api-key": target.variables.get("RAGBUS_QDRANT_API_KEY", "")}
    found: list[Document] = []
    offset: Any = None
    while True:
        body = json.dumps({"limit": _PAGE, "offset": offset, "with_payload": True}).encode()
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - the operator's own Qdrant
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310 - as above
                page = json.load(response)["result"]
            found += (Document.from_payload(point["payload"]) for point in page["points"])
        except urllib.error.HTTPError as refused:
            if refused.code == 404:
                return []
            raise CommandError(
                f"Qdrant at {target.qdrant_url} answered {refused.code}; check RAGBUS_QDRANT_API_KEY"
            ) from refused
        except (OSError, ValueError, KeyError) as error:
            raise CommandError(
                f"Qdrant at {target.qdrant_url} does not answer ({why(error)}); run `ragbus doctor`"
            ) from error
        offset = page.get("next_page_offset")
        if offset is None:
            return sorted(found, key=lambda document: document.path)
