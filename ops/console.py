"""Printing: results on stdout, everything about them on stderr, control characters never."""

import json
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared.text import escaped

if TYPE_CHECKING:
    from rich.console import Console

_NEVER_WRAPPED = 10_000
_console: "Console | None" = None


def out() -> "Console":
    """The console for results on stdout; without colours in a pipe."""
    global _console
    if _console is None:
        from rich.console import Console

        # In a pipe or a log, lines are not wrapped.
        seen = sys.stdout.isatty()
        _console = Console(width=None if seen else _NEVER_WRAPPED, soft_wrap=not seen, highlight=False)
    return _console


def err(line: str) -> None:
    """Print something that is not a result."""
    sys.stderr.write(f"{harmless(line)}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """Print a result for programs: moments in ISO 8601, durations in seconds."""
    # JSON's own escapes, so it stays JSON.
    sys.stdout.write(escaped(json.dumps(value, indent=2, ensure_ascii=False, default=_for_programs)) + "\n")


def _for_programs(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            return str(value)


def count(number: int, thing: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def harmless(text: str) -> str:
    """`text` with invisible characters written out: a message may contain sequences that move a terminal's cursor."""
    return escaped(text)
