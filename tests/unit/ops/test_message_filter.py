import json

import pytest

from ops import message_filter
from ops.errors import CommandError
from shared.bus.port import Received


def message(**more: object) -> Received:
    request = {"request_id": "r1", "tenant": "tessolund", "use_case": "onboarding"}
    given: dict[str, object] = {
        "queue": "dead",
        "body": json.dumps({"request": request}).encode(),
        "subject": "generate.v1",
        "message_id": "r1/generate",
        "dead_letter_reason": "Crashed",
        "dead_letter_description": "KeyError: 'Title'",
        "dead_letter_source": "generate",
        "properties": {"ragbus-attempt": 3, "colour": "blue and green"},
    }
    return Received(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (None, True),
        ("  ", True),
        ("reason==Crashed", True),
        ("reason == 'Crashed'", True),
        ("reason==crashed", False),
        ("reason!=Crashed", False),
        ("description~=keyerror", True),
        ("reason==Crashed and tenant==tessolund", True),
        ("reason==Crashed and tenant==acme", False),
        ("attempt==3", True),
        ("colour~=blue", True),
        ("use_case==onboarding and source==generate and kind==generate.v1", True),
        ("session_id==", True),
        ("description~='=='", False),
        ("nonsense==x", False),
    ],
)
def test_a_filter_passes_what_fits(text: str | None, passes: bool) -> None:
    assert message_filter.parse(text)(message()) is passes


@pytest.mark.parametrize("text", ["reason", "reason=Crashed", "==x", "reason==a and tenant", "reason==a or tenant==b"])
def test_a_malformed_filter_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is not FIELD==VALUE"):
        message_filter.parse(text)


@pytest.mark.parametrize(
    ("more", "belongs"),
    [
        ({}, True),
        ({"message_id": "x"}, True),
        ({"message_id": "r1/generate/p2", "body": b"?"}, True),
        ({"message_id": "r10/generate", "body": b"?"}, False),
        ({"message_id": None, "body": b"[]", "correlation_id": "r1"}, True),
        ({"message_id": None, "body": b'{"request_id": "r1"}'}, True),
        ({"message_id": None, "body": b'{"request": 5}'}, False),
    ],
)
def test_a_message_belongs_to_its_request(more: dict[str, object], belongs: bool) -> None:
    assert message_filter.belongs_to(message(**more), "r1") is belongs


def test_a_body_is_shown_readable_whatever_it_is() -> None:
    assert message_filter.pretty(message(body=b'{"a":1}')) == '{\n  "a": 1\n}'
    assert message_filter.pretty(message(body=b"ok \xff")) == "ok \\xff"
