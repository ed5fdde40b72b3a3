"""Whether the lake's folder exists."""

from collections.abc import Iterator
from pathlib import Path

from ops.findings import Finding, Level
from ops.target import Target


def lake(at: Target) -> Iterator[Finding]:
    """Whether the lake's folder exists."""
    folder = at.variables.get("RAGBUS_LAKE_FOLDER")
    if folder is None:
        account = at.variables.get("RAGBUS_LAKE_ACCOUNT_URL")
        yield Finding(Level.OK, "lake", account or "set in the indexer's environment")
    elif Path(folder).is_dir():
        yield Finding(Level.OK, "lake", folder)
    else:
        yield Finding(Level.FAIL, "lake", f"{folder} is not a folder", "create it, or correct RAGBUS_LAKE_FOLDER")
