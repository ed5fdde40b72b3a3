"""A message in a file: readable, complete, and restored without a difference. Pure.

    {
      "format": 1,
      "captured_at": "2026-11-22T11:05:00+00:00",
      "from": {"namespace": "127.0.0.1:5672", "queue": "dead", "dead_letters": true},
      "message": {"message_id": …, "correlation_id": …, …},       native properties
      "properties": {"ragbus-attempt": {"type": "int", "value": 2}},
      "body": {…},                                                 when it is JSON
      "body_base64": "…"                                           when the JSON would not give the same bytes
    }

The file may be edited: an edited `body` replaces the original bytes.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from ops.errors import CommandError
from shared.bus.port import Property, Received
from shared.contracts.base import read_json
from shared.errors import Unprocessable

FORMAT = 1
# The fields of a message that have no place of their own in the file.
_NATIVE = tuple(field.name for field in fields(Received) if field.name not in ("queue", "body", "properties"))
_MOMENTS = ("enqueued_at", "scheduled_for")
_TYPES: Mapping[str, Callable[[Any], Property]] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True, slots=True)
class CapturedMessage:
    """A captured message and where it was."""

    message: Received
    namespace: str
    captured_at: datetime
    dead_letters: bool = False

    @property
    def place(self) -> str:
        """Queue and sequence number."""
        dead = "/$DeadLetterQueue" if self.dead_letters else ""
        return f"{self.message.queue}{dead}#{self.message.sequence_number}"


def write(captured: CapturedMessage) -> str:
    """The file's text."""
    message = captured.message
    content = {
        "format": FORMAT,
        "captured_at": captured.captured_at.isoformat(),
        "from": {"namespace": captured.namespace, "queue": message.queue, "dead_letters": captured.dead_letters},
        "message": {name: getattr(message, name) for name in _NATIVE},
        "properties": {name: _typed(value) for name, value in message.properties.items()},
        **body_fields(message.body),
    }

    def plain(value: datetime | timedelta) -> str | float:
        return value.isoformat() if isinstance(value, datetime) else value.total_seconds()

    return json.dumps(content, indent=2, ensure_ascii=False, default=plain) + "\n"


def read(text: str) -> CapturedMessage:
    """The message in a file's text; raises `CommandError` that names the fault."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise CommandError(
                f"format {content['format']} is not supported, only {FORMAT}: capture it again with this version"
            )
        came_from, native = content["from"], dict(content["message"])
        for name in _MOMENTS:
            native[name] = datetime.fromisoformat(native[name]) if native.get(name) else None
        life = native.get("time_to_live")
        native["time_to_live"] = None if life is None else timedelta(seconds=life)
        message = Received(
            queue=came_from["queue"],
            body=body_of(content),
            properties={name: _TYPES[typed["type"]](typed["value"]) for name, typed in content["properties"].items()},
            **{name: native[name] for name in _NATIVE if name in native},
        )
        at = datetime.fromisoformat(content["captured_at"])
        return CapturedMessage(message, came_from["namespace"], at, bool(came_from["dead_letters"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Unprocessable) as broken:
        raise CommandError(f"not a captured message: {type(broken).__name__}: {broken}") from broken


def file_name(message: Received) -> str:
    """A name with queue, sequence number and message id, which sorts by queue and order."""
    id_ = re.sub(r"[^A-Za-z0-9]+", "-", message.message_id or "no-id").strip("-")[:60]
    queue = re.sub(r"[^A-Za-z0-9-]+", "-", message.queue)
    return f"{queue}-{message.sequence_number:06d}-{id_}.json"


def body_fields(body: bytes) -> dict[str, Any]:
    """The body: readable if it is JSON, and always exact."""
    exact = {"body_base64": base64.b64encode(body).decode()}
    try:
        parsed = read_json(body)
        again = _compact(parsed)
    except (Unprocessable, ValueError):
        return exact
    return {"body": parsed} if again == body else {"body": parsed, **exact}


def body_of(content: Mapping[str, Any]) -> bytes:
    """The bytes of the body: the original's, unless the readable body was edited. Raises `KeyError`, `ValueError`."""
    original = base64.b64decode(content["body_base64"], validate=True) if "body_base64" in content else None
    if "body" not in content:
        if original is None:
            raise KeyError("body")
        return original
    if original is not None and _compact(read_json(original)) == _compact(content["body"]):
        return original
    return _compact(content["body"])


def _compact(value: Any) -> bytes:
    """JSON as our own workers write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _typed(value: Property) -> dict[str, Any]:
    # JSON has no NaN and no infinities, so their names are written.
    odd = isinstance(value, float) and not math.isfinite(value)
    return {"type": type(value).__name__, "value": str(value) if odd else value}
