"""The pattern language of LIKE: `%` for any text, `_` for one character, an escape if one is named."""

import re
from typing import Any

from servicebus_local.bus.errors import FilterError


def matcher(pattern: str, escape: str | None) -> re.Pattern[str]:
    """Translate a pattern into a regular expression for `fullmatch`; case counts.

    Each `%` but the last takes the nearest continuation for good (an atomic group), which never
    loses a match here and keeps a pattern full of `%` from trying every combination.
    Raises `FilterError` when the escape is not one character, or has nothing to escape.
    """
    first, *others = _segments(pattern, escape)
    if not others:
        return re.compile(first, re.DOTALL)
    between = "".join(f"(?>.*?{segment})" for segment in others[:-1])
    return re.compile(f"{first}{between}.*{others[-1]}", re.DOTALL)


def _segments(pattern: str, escape: str | None) -> list[str]:
    """Split a pattern at its `%` into regular expressions."""
    if escape is not None and len(escape) != 1:
        raise FilterError(f"the escape of LIKE must be one character, not '{escape}'")
    segments, characters = [""], iter(pattern)
    for character in characters:
        if character == escape:
            segments[-1] += re.escape(_escaped(characters, pattern))
        elif character == "%":
            segments.append("")
        else:
            segments[-1] += "." if character == "_" else re.escape(character)
    return segments


def _escaped(characters: Any, pattern: str) -> str:
    for character in characters:
        return str(character)
    raise FilterError(f"the pattern '{pattern}' of LIKE ends with its escape")
