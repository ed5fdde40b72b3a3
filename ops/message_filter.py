"""A small filter for messages: `reason==Crashed and tenant!=acme and description~=timeout`. Pure."""

import json
import re
from collections.abc import Callable
from typing import Any

from ops.errors import CommandError
from shared.bus.port import Received
from shared.contracts.base import read_json
from shared.contracts.expired import ExpiredRequest
from shared.errors import Unprocessable

Filter = Callable[[Received], bool]

_CLAUSE = re.compile(r"\s*(?P<field>[\w.-]+)\s*(?P<op>==|!=|~=)\s*(?P<value>.*?)\s*", re.DOTALL)
_OPERATOR = re.compile(r"[=!~]=")
_QUOTED = re.compile(r"^(['\"]).*\1$", re.DOTALL)
_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "==": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    "~=": lambda found, wanted: wanted.casefold() in found.casefold(),
}
# Names of ours for what the port calls otherwise; the rest are the port's own, then application properties.
_FIELDS: dict[str, Callable[[Received], Any]] = {
    "reason": lambda message: message.dead_letter_reason,
    "description": lambda message: message.dead_letter_description,
    "source": lambda message: message.dead_letter_source or _died_on(message) or message.queue,
    "kind": lambda message: message.subject,
    "message_id": lambda message: message.message_id,
    "correlation_id": lambda message: message.correlation_id,
    "session_id": lambda message: message.session_id,
    "sequence": lambda message: message.sequence_number,
    "attempt": lambda message: message.attempt,
    "delivery_count": lambda message: message.delivery_count,
    "request": lambda message: request_of(message).get("request_id"),
    "tenant": lambda message: request_of(message).get("tenant"),
    "caller": lambda message: request_of(message).get("caller"),
    "use_case": lambda message: request_of(message).get("use_case"),
}


def parse(text: str | None) -> Filter:
    """The filter that `text` describes; none: everything passes. Raises `CommandError`."""
    clauses = [_clause(part) for part in re.split(r"\s+and\s+", text)] if text and text.strip() else []
    return lambda message: all(clause(message) for clause in clauses)


def value(message: Received, field: str) -> str:
    """A field of `message` as text; empty when it has none. Unknown names are application properties."""
    known = _FIELDS.get(field)
    found = known(message) if known else message.properties.get(field)
    return "" if found is None else str(found)


def body(message: Received) -> Any:
    """The body as JSON; None when it is none."""
    try:
        return read_json(message.body)
    except Unprocessable:
        return None


def request_of(message: Received) -> dict[str, Any]:
    """The request that an internal message carries, or what an outcome says of its own."""
    parsed = body(message)
    if not isinstance(parsed, dict):
        return {}
    inner = parsed.get("request")
    return inner if isinstance(inner, dict) else parsed


def _died_on(message: Received) -> str:
    """Where an expired request was, of which only its ask is kept."""
    parsed = body(message) if message.subject == ExpiredRequest.kind else None
    return str(parsed.get("died_on", "")) if isinstance(parsed, dict) else ""


def belongs_to(message: Received, request: str) -> bool:
    """Whether `message` is about `request`: by its own id, its correlation, or the request in its body."""
    ids = (message.message_id or "", message.correlation_id or "", str(request_of(message).get("request_id", "")))
    return any(found == request or found.startswith(f"{request}/") for found in ids)


def pretty(message: Received) -> str:
    """The body for reading: indented JSON, else text with what is not text made visible."""
    parsed = body(message)
    if parsed is not None:
        return json.dumps(parsed, indent=2, ensure_ascii=False)
    return message.body.decode("utf-8", "backslashreplace")


def _clause(text: str) -> Filter:
    found = _CLAUSE.fullmatch(text)
    if found is None or _OPERATOR.search(_QUOTED.sub("", found["value"])):
        raise CommandError(
            f"--where: {text!r} is not FIELD==VALUE, FIELD!=VALUE or FIELD~=PART (fields: {', '.join(_FIELDS)})"
        )
    field, holds, wanted = found["field"], _OPERATORS[found["op"]], found["value"].strip("'\"")
    return lambda message: holds(value(message, field), wanted)
