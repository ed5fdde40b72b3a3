"""Printing: results on stdout, everything about them on stderr, control characters never."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_NEVER_WRAPPED = 1_000
_KEEP = "\n\t"
_console: "Console | None" = None


def console() -> "Console":
    """Where results go; without colours when nobody looks."""
    global _console
    if _console is None:
        from rich.console import Console

        # Into a pipe or a log a line is as long as it is.
        seen = sys.stdout.isatty()
        _console = Console(width=None if seen else _NEVER_WRAPPED, soft_wrap=not seen, highlight=False)
    return _console


def aside(line: str) -> None:
    """Say something that is not the result."""
    sys.stderr.write(f"{harmless(line)}\n")
    sys.stderr.flush()


def as_json(value: Any) -> None:
    """Print a result for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def count(number: int, thing: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def harmless(text: str) -> str:
    """`text` with its control characters made visible: a message may hold sequences that move a terminal's cursor."""
    return "".join(char if char in _KEEP or not _controls(char) else f"\\x{ord(char):02x}" for char in text)


def _controls(char: str) -> bool:
    # C0, DEL and C1; and the marks that turn the direction of writing (Unicode TR 36, bidirectional spoofing).
    code = ord(char)
    return code < 0x20 or 0x7F <= code <= 0x9F or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
