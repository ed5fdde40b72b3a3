"""Messages that no worker of ours sends, on the queues between them: what a mistake or a former release may leave."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contracts.base import Message
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.queues import BLOB_EVENTS, DEAD, GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason
from tests.poison.corpus import SESSION, Typed
from tests.support.builders import a_candidate, a_request

INVALID, UNSUPPORTED, POISON = Reason.SCHEMA_INVALID, Reason.SCHEMA_UNSUPPORTED, Reason.POISON_CONTENT
CRASHED = Reason.CRASHED
# A message that was sent straight to `dead` died of nothing that anybody said.
UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Stray:
    """One message for one of our own queues."""

    queue: str
    name: str
    body: bytes
    subject: str | None
    reason: str | None
    """Why it is dead-lettered; None: it is not."""
    told: Code | None = None
    """What the caller in it is told; None: nothing, because the caller is unknown."""
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message_id(self) -> str:
        """The id it is sent under."""
        return f"{self.queue}: {self.name}"

    @property
    def request(self) -> str:
        """The id of the request in it, if there is one."""
        return request_of(self.queue, self.name)


def request_of(queue: str, name: str) -> str:
    """A request of its own for every stray message."""
    return request_id("tessolund", "welcome-app", f"{queue}: {name}")


def task(queue: str, name: str, **changes: Any) -> dict[str, Any]:
    """What the worker of `queue` reads, as JSON; `changes` are of the request in it."""
    now = datetime.now(UTC)
    request = a_request(
        request_id=request_of(queue, name),
        accepted_at=now,
        answer_by=now + timedelta(days=1),
        reply_to={"queue": "answers", "session": SESSION},
    )
    message: Message
    match queue:
        case "retrieve":
            message = RetrievePassages(request=request)
        case "generate":
            message = GenerateAnswer(request=request, candidates=(a_candidate(),))
        case _:
            message = DeadlinePassed(request=request)
    made: dict[str, Any] = json.loads(message.encode())
    made["request"] |= changes
    return made


def with_request(
    queue: str, name: str, reason: str | None, told: Code | None = None, subject: str = "", **changes: Any
) -> Stray:
    """A message whose request has these fields, valid or not."""
    body = json.dumps(task(queue, name, **changes)).encode()
    return Stray(queue, name, body, subject or KINDS[queue], reason, told)


def with_candidate(name: str, reason: str | None, told: Code | None = None, **changes: Any) -> Stray:
    """A `generate.v1` whose candidate has these fields, valid or not."""
    made = task(GENERATE, name)
    made["candidates"][0] |= changes
    return Stray(GENERATE, name, json.dumps(made).encode(), "generate.v1", reason, told)


KINDS = {RETRIEVE: "retrieve.v1", GENERATE: "generate.v1", OUTCOMES: "deadline.v1"}

# On each queue the same garbage, under the subject that its worker reads.
GARBAGE = [
    Stray(queue, name, body, subject, reason)
    for queue, kind in KINDS.items()
    for name, body, subject, reason in (
        ("truncated", b'{"request": {', kind, INVALID),
        ("empty", b"", kind, INVALID),
        ("binary", bytes(range(256)), kind, POISON),
        ("too deep", b"[" * 50_000, kind, POISON),
        ("half a surrogate pair", b'{"request": "\\ud83d"}', kind, POISON),
        ("NaN", b'{"request": NaN}', kind, INVALID),
        ("an array", b"[]", kind, INVALID),
        ("no request", b"{}", kind, INVALID),
        ("request is null", b'{"request": null}', kind, INVALID),
        ("another kind", b"{}", "ask.v1", UNSUPPORTED),
        ("a later version", b"{}", kind.replace("v1", "v2"), UNSUPPORTED),
    )
]
REQUESTS = [
    stray
    for queue in (RETRIEVE, GENERATE)
    for stray in (
        with_request(queue, "no such use case", Reason.MISCONFIGURED, Code.MISCONFIGURED, use_case="payroll"),
        with_request(queue, "late since the year 1", Reason.DEADLINE_EXCEEDED, answer_by="0001-01-01T00:00:00Z"),
        with_request(queue, "a deadline without a zone", INVALID, answer_by="2026-03-02T09:00:00"),
        with_request(queue, "a deadline that is a word", INVALID, answer_by="soon"),
        with_request(queue, "groups are a text", INVALID, groups="managers"),
        with_request(queue, "nowhere to reply to", INVALID, reply_to=None),
        with_request(queue, "a question that is a number", INVALID, question=42),
        with_request(queue, "minus one token", INVALID, reserved_tokens=-1),
    )
]
CANDIDATES = [
    with_candidate("version 0", INVALID, version=0),
    with_candidate("a score in words", INVALID, score="high"),
    with_candidate("a text that is none", INVALID, text=None),
    with_candidate("minus one token in a passage", INVALID, tokens=-1),
    Stray(
        GENERATE,
        "candidates are an object",
        json.dumps(task(GENERATE, "candidates are an object") | {"candidates": {}}).encode(),
        "generate.v1",
        INVALID,
    ),
]
NO_TEXT = Typed("BINARY", b"\xff")
_SPOKEN: RequestOutcome = ending(
    a_request(request_id=request_of(OUTCOMES, "outcome of an unknown request")), Outcome.FAILED, Code.CRASHED
)
OUTCOME_STRAYS = [
    Stray(OUTCOMES, "no subject", b"{}", None, UNSUPPORTED),
    Stray(OUTCOMES, "an outcome that is none", b'{"outcome": "perhaps"}', "answer.v1", INVALID),
    Stray(OUTCOMES, "a code that is no word", _SPOKEN.encode().replace(b"Crashed", b"per haps"), "answer.v1", INVALID),
    Stray(OUTCOMES, "outcome of an unknown request", _SPOKEN.encode(), "answer.v1", None),
    Stray(OUTCOMES, "an outcome whose owner is a number", _SPOKEN.encode(), "answer.v1", None,
          properties={"ragbus-tenant": 7, "ragbus-caller": NO_TEXT}),
]  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    """An Event Grid event about a document, with these fields, valid or not."""
    given: dict[str, Any] = {
        "id": "1",
        "topic": "/subscriptions/x",
        "subject": "/blobServices/default/containers/handbook/blobs/faq.md",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2026-03-02T09:00:00Z",
        "dataVersion": "1",
        "data": {"api": "PutBlob"},
    }
    return given | changes


def about(path: str, container: str = "handbook", **changes: Any) -> dict[str, Any]:
    """An event about a path."""
    return event(subject=f"/blobServices/default/containers/{container}/blobs/{path}", **changes)


def renamed(source: Any) -> dict[str, Any]:
    """A rename from an address."""
    return event(eventType="Microsoft.Storage.BlobRenamed", data={"api": "RenameFile", "sourceUrl": source})


def _events(reason: str | None, **bodies: Any) -> list[Stray]:
    return [
        Stray(BLOB_EVENTS, name.replace("_", " "), body if isinstance(body, bytes) else json.dumps(body).encode(),
              None, reason)
        for name, body in bodies.items()
    ]  # fmt: skip


EVENTS = [
    *_events(
        POISON, binary=bytes(range(256)), too_deep=b"[" * 50_000, half_a_surrogate_pair=b'{"subject": "\\ud83d"}'
    ),
    *_events(
        INVALID,
        truncated=b'{"id": "1"',
        empty=b"",
        NaN=b'{"id": NaN}',
        a_text="BlobCreated",
        a_number=7,
        null=None,
        a_list_of_texts=["BlobCreated"],
        a_list_in_a_list=[[event()]],
        no_fields={},
        a_cloud_event_without_fields={"specversion": "1.0"},
        a_cloud_event_with_two_bodies={
            "specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {}, "data_base64": "e30=",
        },
        a_time_that_is_none=about("faq.md", eventTime="once"),
        a_time_before_all_others=about("faq.md", eventTime="0001-01-01T00:00:00+14:00"),
        no_type=event(eventType=None),
        no_subject=event(subject=None),
        a_subject_that_names_no_blob=event(subject="/"),
        a_way_up=about("../../etc/passwd"),
        a_path_to_itself=about("./faq.md"),
        a_path_with_NUL=about("faq\0.md"),
        an_empty_path=about("///"),
        a_path_too_long=about("x" * 1_025),
        a_container_that_is_none=about("faq.md", container="..%2f"),
        a_rename_from_nowhere=renamed(None),
        a_rename_from_no_address=renamed("https://[half/handbook/faq.md"),
        a_rename_from_above=renamed("https://x/handbook/%2e%2e/faq.md"),
    ),
    *_events(
        None,
        an_empty_list=[],
        a_cloud_event_with_a_bad_body={
            "specversion": "1.0",
            "id": "1",
            "source": "s",
            "type": "t",
            "data_base64": "?",
        },
        an_unknown_type=event(eventType="Microsoft.Storage.BlobTierChanged"),
        another_service=event(eventType="Contoso.Order.Placed"),
        another_container=about("faq.md", container="elsewhere"),
        a_name_longer_than_disks_take=about("x" * 1_000),
        a_name_in_emoji=about("\U0001f600" * 1_000),
        the_same_document_50_times=[about("gone-long-ago.md")] * 50,
        data_that_is_a_text=about("gone-long-ago.md", data="PutBlob"),
    ),
]  # fmt: skip
DEAD_STRAYS = [
    Stray(DEAD, "truncated", b'{"request": {', "ask.v1", UNKNOWN),
    Stray(DEAD, "empty", b"", None, UNKNOWN),
    Stray(DEAD, "binary", bytes(range(256)), "retrieve.v1", UNKNOWN),
    Stray(DEAD, "too deep", b"[" * 50_000, "generate.v1", UNKNOWN),
    Stray(DEAD, "a reason of its own", b"{}", "ask.v1", "Because", properties={"DeadLetterReason": "Because"}),
    Stray(DEAD, "a reason that is no text", b"{}", "ask.v1", UNKNOWN, properties={"DeadLetterReason": NO_TEXT}),
    Stray(DEAD, "a reason that is a number", b"{}", "ask.v1", UNKNOWN, properties={"DeadLetterReason": 7}),
    Stray(DEAD, "a long description", b"{}", "ask.v1", UNKNOWN, properties={"DeadLetterErrorDescription": "ä" * 6_000}),
    Stray(DEAD, "a trace that is no text", b"{}", "ask.v1", UNKNOWN, properties={"traceparent": "größe"}),
    with_request(DEAD, "another's request", UNKNOWN, subject="retrieve.v1"),
]  # fmt: skip

STRAYS: list[Stray] = [*GARBAGE, *REQUESTS, *CANDIDATES, *OUTCOME_STRAYS, *EVENTS, *DEAD_STRAYS]
