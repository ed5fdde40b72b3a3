"""From the text of a rule to its tokens.

    'it''s'   12  1.5  2E3   @parameter   name   [any name, ]] too]   "any name"   <> != <= …

Raises `InvalidArgument`, as everything does that reads a rule, with a sentence that says
where: Azure names the line and the column too.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from servicebus_local.bus.errors import InvalidArgument

KEYWORDS: Final = frozenset(
    {"AND", "ESCAPE", "EXISTS", "FALSE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "REMOVE", "SET", "TRUE"}
)

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<name>[^\W\d_]\w*)
    | (?P<parameter>@\w+)
    | (?P<string>'(?:[^']|'')*')
    | (?P<bracketed>\[(?:[^\]]|\]\])+\])
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<symbol><>|!=|<=|>=|[=<>+\-*/%(),;.])
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word of a rule: what it is, what it says, where it starts and how it was written."""

    kind: str
    value: Any
    at: int
    written: str


class Source(NamedTuple):
    """The text of a rule and what it is: a filter or an action."""

    what: str
    text: str

    def wrong(self, at: int, found: str, expected: str) -> InvalidArgument:
        """Build the error for a place in the text."""
        line, column = self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)
        where = f"SQL {self.what}, line {line}, column {column}"
        return InvalidArgument(f"{where}: found {found} where {expected} was expected")


def tokens(source: Source) -> Iterator[Token]:
    """Split the text; the last token has the kind `end`; raises `InvalidArgument`."""
    at, text = 0, source.text
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise source.wrong(at, repr(text[at]), _MISSING.get(text[at], "a name, a value or an operator"))
        if match.lastgroup != "space":
            yield _token(source, match)
        at = match.end()
    yield Token("end", None, len(text), "the end")


_MISSING = {
    "'": "text that ends with a quotation mark",
    '"': "a name that ends with a quotation mark",
    "[": "a name that ends with a bracket",
}


def _token(source: Source, match: re.Match[str]) -> Token:
    kind, written, at = str(match.lastgroup), match[0], match.start()
    if kind == "number":
        return Token(kind, _number(source, match), at, written)
    if kind == "name":
        return _word(source, written, at)
    if kind in _DELIMITED:
        end = written[-1]
        return Token(_DELIMITED[kind], written[1:-1].replace(end * 2, end), at, written)
    return Token(kind, written[1:] if kind == "parameter" else written, at, written)


_DELIMITED = {"string": "string", "bracketed": "delimited", "quoted": "delimited"}


def _number(source: Source, match: re.Match[str]) -> int | float:
    """Read an Int64 or a Double."""
    written, following = match[0], source.text[match.end() : match.end() + 1]
    if following.isalnum() or following == "_":
        raise source.wrong(match.end(), repr(following), "the end of a number")
    if written.isdigit():
        value: int | float = int(written)
        fits = value < 1 << 63
    else:
        value = float(written)
        fits = math.isfinite(value)
    if not fits:
        raise source.wrong(match.start(), written, "a number of 64 bits")
    return value


def _word(source: Source, written: str, at: int) -> Token:
    """Tell a keyword from a name; names are letters, decimal digits and underscores."""
    for offset, character in enumerate(written):
        if not (character.isalpha() or character.isdecimal() or character == "_"):
            raise source.wrong(at + offset, repr(character), "a letter, a digit or an underscore")
    upper = written.upper()
    return Token("keyword", upper, at, written) if upper in KEYWORDS else Token("name", written, at, written)
