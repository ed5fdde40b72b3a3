"""Whether the interpreter is new enough."""

import sys
from collections.abc import Iterator

from ops.findings import Finding, Level

OLDEST_PYTHON = (3, 11)


def python() -> Iterator[Finding]:
    """Whether the interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        yield Finding(Level.OK, "python", version)
    else:
        yield Finding(
            Level.FAIL,
            "python",
            f"{version} is too old",
            "run `make clean`, then `make demo PYTHON=python3.11` (or newer)",
        )
