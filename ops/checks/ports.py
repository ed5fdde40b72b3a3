"""Whether the ports of `ragbus up` are free."""

from collections.abc import Iterator

from ops.findings import Finding, Level


def ports() -> Iterator[Finding]:
    """Whether the ports of `ragbus up` are free."""
    from local.stack.errors import CannotStart
    from local.stack.ports import USUAL, usual

    for name in USUAL:
        try:
            usual([name])
        except CannotStart as taken:
            said, _, fix = str(taken).partition(": ")
            yield Finding(Level.WARN, "ports", said, fix)
