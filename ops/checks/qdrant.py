"""Whether Qdrant answers and accepts our key."""

import json
from collections.abc import Iterator

from ops import console
from ops.checks.http import get
from ops.connect import why
from ops.findings import Finding, Level
from ops.target import Target


def qdrant(at: Target) -> Iterator[Finding]:
    """Whether Qdrant answers and accepts our key."""
    key = at.variables.get("RAGBUS_QDRANT_API_KEY", "")
    try:
        page = get(f"{at.qdrant_url}/collections", {"api-key": key})
    except OSError as unavailable:
        fix = "start it, or correct RAGBUS_QDRANT_URL"
        yield Finding(Level.FAIL, "qdrant", f"{at.qdrant_url} does not answer ({why(unavailable)})", fix)
        return
    if page.status in (401, 403):
        yield Finding(Level.FAIL, "qdrant", "refuses our key", "set RAGBUS_QDRANT_API_KEY")
    elif page.status != 200:
        yield Finding(
            Level.FAIL, "qdrant", f"answers {page.status} to /collections", "check that RAGBUS_QDRANT_URL is Qdrant's"
        )
    else:
        yield Finding(
            Level.OK,
            "qdrant",
            f"{at.qdrant_url}, {console.count(len(json.loads(page.body)['result']['collections']), 'collection')}",
        )
