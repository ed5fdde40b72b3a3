"""`asyncapi.yaml`: the queues as AsyncAPI 3.1 channels, the messages with the goldens as examples.

There is no binding for Service Bus, so what a broker needs to know of a queue is under `x-azure-servicebus`, and
native message properties (`message_id`, `reply_to` …) are described as headers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from local.stack.broker_config import iso
from ops.reference.schemas import MESSAGES
from ops.reference.text import Files, as_yaml
from shared.contracts.ask import Ask
from shared.contracts.base import Message
from shared.contracts.ids import MAX_ID
from shared.contracts.queues import Queue

DOCUMENT = "docs/reference/asyncapi.yaml"
STORAGE_EVENT = "storage event"
_PUBLIC = ("ask.v1", "cancel.v1", "answer.v1")


def files(queues: Sequence[Queue], replies: Mapping[str, str], examples: Mapping[str, Any], version: str) -> Files:
    """The document. `replies`: the first reply queue of each ingress queue; `examples`: a message body by kind."""
    return {DOCUMENT: as_yaml(document(queues, replies, examples, version))}


def document(
    queues: Sequence[Queue], replies: Mapping[str, str], examples: Mapping[str, Any], version: str
) -> dict[str, Any]:
    """The document as data."""
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "ragbus",
            "version": version,
            "description": "Retrieval-augmented answers over Azure Service Bus: a question in, one outcome back.",
            "license": {"name": "MIT"},
            "tags": [
                {"name": "public", "description": "what upstream apps send and receive"},
                {"name": "internal", "description": "between the workers; no promise to anyone else"},
            ],
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {queue.name: _channel(queue) for queue in queues},
        "operations": dict(_operation(queue, replies) for queue in queues),
        "components": {
            "messages": {_key(kind): _message(kind, examples) for kind in (*_kinds(), STORAGE_EVENT)},
            "schemas": _schemas(),
            "securitySchemes": {
                "entra": {
                    "type": "oauth2",
                    "description": "Entra ID over CBS; rights per queue",
                    "flows": {},
                },
                "sas": {"type": "userPassword", "description": "a SAS policy over CBS; Listen or Send on one queue"},
            },
        },
    }


def _servers() -> dict[str, Any]:
    return {
        "azure": {
            "host": "{namespace}.servicebus.windows.net",
            "protocol": "amqps",
            "protocolVersion": "1.0",
            "variables": {"namespace": {"description": "the Service Bus namespace"}},
            "security": [{"$ref": "#/components/securitySchemes/entra"}, {"$ref": "#/components/securitySchemes/sas"}],
        },
        "laptop": {
            "host": "127.0.0.1:5672",
            "protocol": "amqp",
            "protocolVersion": "1.0",
            "description": "servicebus-local, or Microsoft's emulator: UseDevelopmentEmulator=true",
        },
    }


def _channel(queue: Queue) -> dict[str, Any]:
    return {
        "address": queue.name,
        "description": f"read by the {queue.consumer}{' it belongs to' if queue.consumer == 'caller' else ''}",
        "messages": {_key(kind): {"$ref": f"#/components/messages/{_key(kind)}"} for kind in queue.carries},
        "tags": [{"name": _audience(queue)}],
        "x-azure-servicebus": {
            "lockDuration": iso(queue.lock),
            "defaultMessageTimeToLive": iso(queue.time_to_live),
            "maxDeliveryCount": queue.max_delivery_count,
            "requiresSession": queue.sessions,
            "requiresDuplicateDetection": queue.duplicate_window is not None,
            "duplicateDetectionHistoryTimeWindow": iso(queue.duplicate_window) if queue.duplicate_window else None,
            "deadLetteringOnMessageExpiration": queue.dead_letter_on_expiry,
            "forwardDeadLetteredMessagesTo": queue.forward_dead_letters_to,
            "enablePartitioning": False,
        },
    }


def _operation(queue: Queue, replies: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """What ragbus, seen as one application, does with `queue`."""
    action = "send" if queue.consumer == "caller" else "receive"
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{queue.name}"},
        "tags": [{"name": _audience(queue)}],
    }
    if queue.name in replies:
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{replies[queue.name]}"},
            "messages": [{"$ref": f"#/channels/{replies[queue.name]}/messages/answer.v1"}],
        }
    return f"{action}.{queue.name}", operation


def _audience(queue: Queue) -> str:
    return "public" if set(queue.carries) <= set(_PUBLIC) and queue.consumer in ("gateway", "caller") else "internal"


def _kinds() -> dict[str, type[Message]]:
    return {message.kind: message for message in MESSAGES}


def _key(kind: str) -> str:
    return kind.replace(" ", "-")


def _message(kind: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    contract = _kinds().get(kind)
    schema = contract.__name__ if contract else "StorageEvent"
    return {
        "name": kind,
        "summary": (contract.__doc__ or "").split("\n")[0] if contract else "Azure Blob Storage says: look here.",
        "contentType": "application/json",
        **({"headers": _headers(contract)} if contract else {}),
        **({"correlationId": {"location": "$message.header#/correlation_id"}} if contract else {}),
        "payload": {"$ref": f"#/components/schemas/{schema}"},
        # An example is named `ask.v1` or `storage event: …`.
        "examples": [
            {"name": _key(name), "payload": body} for name, body in examples.items() if name.split(":")[0] == kind
        ],
    }


def _headers(contract: type[Message]) -> dict[str, Any]:
    short = {"type": "string", "maxLength": MAX_ID}
    properties: dict[str, Any] = {
        "subject": {"const": contract.kind},
        "content_type": {"const": "application/json"},
        "message_id": {**short, "description": "one per request: the same again is the same request"},
        "correlation_id": {**short, "description": "comes back with the outcome; else the message_id does"},
        "traceparent": {"type": "string", "description": "W3C trace context; Diagnostic-Id beside it says the same"},
    }
    required = ["message_id", "subject"]
    if contract is Ask:
        # Without a subject it is read as an `ask.v1`; without a message_id each sending is another request.
        required = []
        properties |= {
            "reply_to": {"type": "string", "description": "one of the caller's reply queues; else its first"},
            "reply_to_session_id": {**short, "description": "the session of the outcome; else the request's id"},
            "time_to_live": {"type": "string", "format": "duration", "description": "how long the caller will wait"},
        }
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _schemas() -> dict[str, Any]:
    _, found = models_json_schema(
        [(message, "validation") for message in MESSAGES], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = dict(sorted(found["$defs"].items()))
    text = {"type": "string"}
    event_grid = ("id", "subject", "eventType", "eventTime", "data")
    cloud_event = ("specversion", "id", "source", "type", "time", "subject", "data")
    schemas["StorageEvent"] = {
        "description": "one storage event, in Event Grid's schema or as a CloudEvent; specversion tells them apart",
        "oneOf": [
            {
                "type": "object",
                "properties": {name: text for name in names if name != "data"} | {"data": {"type": "object"}},
                "required": list(names),
            }
            for names in (event_grid, cloud_event)
        ],
    }
    return schemas
