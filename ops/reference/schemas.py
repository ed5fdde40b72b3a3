"""A JSON Schema per message. It says what a reader accepts; unknown fields are allowed, as readers ignore them."""

import json
from typing import Any

from ops.reference.text import NOTICE, Files
from shared.contracts.ask import Ask
from shared.contracts.base import Message
from shared.contracts.cancel import Cancel
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.expired import ExpiredRequest, ReplayRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import RequestOutcome
from shared.contracts.retrieve import RetrievePassages

MESSAGES: tuple[type[Message], ...] = (
    Ask,
    Cancel,
    RetrievePassages,
    GenerateAnswer,
    RequestOutcome,
    DeadlinePassed,
    ExpiredRequest,
    ReplayRequest,
)
FOLDER = "docs/reference/schemas"


def files() -> Files:
    """One file per kind."""
    return {f"{FOLDER}/{message.kind}.json": json.dumps(schema(message), indent=2) + "\n" for message in MESSAGES}


def schema(message: type[Message]) -> dict[str, Any]:
    """The schema of one message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:ragbus:{message.kind}",
        "$comment": NOTICE,
        **message.model_json_schema(),
    }
