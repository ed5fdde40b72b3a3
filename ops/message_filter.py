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
# The fields of a filter; any other name is an application property.
_FIELDS: dict[str, Callable[[Received], Any]] = {
    "reason": lambda message: message.dead_letter_reason,
    "description": lambda message: message.dead_letter_description,
    "source": lambda message: message.dead_letter_source or _expired_on(message) or message.queue,
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
    """The filter that `text` describes; without one everything passes. Raises `CommandError`."""
    clauses: list[tuple[str, Callable[[str, str], bool], str]] = []
    for part in re.split(r"\s+and\s+", text) if text and text.strip() else []:
        found = _CLAUSE.fullmatch(part)
        if found is None or _OPERATOR.search(_QUOTED.sub("", found["value"])):
            raise CommandError(
                f"--where: {part!r} is not FIELD==VALUE, FIELD!=VALUE or FIELD~=PART (fields: {', '.join(_FIELDS)})"
            )
        clauses.append((found["field"], _OPERATORS[found["op"]], found["value"].strip("'\"")))
    return lambda message: all(holds(value(message, field), wanted) for field, holds, wanted in clauses)


def value(message: Received, field: str) -> str:
    """A field of `message` as text; empty if it is missing. Unknown names are application properties."""
    known = _FIELDS.get(field)
    found = known(message) if known else message.properties.get(field)
    return "" if found is None else str(found)


def body(message: Received) -> Any:
    """The body as JSON; None if it is not JSON."""
    try:
        return read_json(message.body)
    except Unprocessable:
        return None


def request_of(message: Received) -> dict[str, Any]:
    """The request in an internal message; of an outcome, the outcome itself, which names its request."""
    parsed = body(message)
    if not isinstance(parsed, dict):
        return {}
    inner = parsed.get("request")
    return inner if isinstance(inner, dict) else parsed


def _expired_on(message: Received) -> str:
    """The queue on which an archived request expired."""
    parsed = body(message) if message.subject == ExpiredRequest.kind else None
    return str(parsed.get("died_on", "")) if isinstance(parsed, dict) else ""


def belongs_to(message: Received, request: str) -> bool:
    """Whether `message` is about `request`: by its own id, its correlation, or the request in its body."""
    ids = (message.message_id or "", message.correlation_id or "", str(request_of(message).get("request_id", "")))
    return any(found == request or found.startswith(f"{request}/") for found in ids)


def pretty(message: Received) -> str:
    """The body for people: indented JSON, else text with other bytes escaped."""
    parsed = body(message)
    if parsed is not None:
        return json.dumps(parsed, indent=2, ensure_ascii=False)
    return message.body.decode("utf-8", "backslashreplace")
