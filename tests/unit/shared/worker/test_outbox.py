"""What leaves: messages for envelopes, and copies of a delivery for later."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared.bus.port import (
    ADMISSION,
    ANSWER_BY,
    ASK,
    ATTEMPT,
    CALLER,
    ENQUEUED_AT,
    FIRST_NUMBER,
    ORIGIN,
    TENANT,
    Outgoing,
    Received,
)
from shared.contracts.envelope import at_deadline, to_caller, to_retriever
from shared.contracts.ids import MAX_ID
from shared.contracts.request import ReplyTo
from shared.worker.outbox import Identity, handed_back, internal_identity, life, outgoing, retry_copy, when
from tests.support.builders import NOW, a_request
from tests.support.worker import an_answer

AT = NOW + timedelta(seconds=5)
DUE = NOW + timedelta(seconds=30)
ASKED = Received(
    queue="ask",
    body=b"{}",
    subject="ask.v1",
    message_id="m1",
    correlation_id="c1",
    session_id="s1",
    reply_to="answers",
    reply_to_session_id="rs1",
    content_type="text/json",
    enqueued_at=NOW - timedelta(seconds=9),
    sequence_number=7,
    properties={"their-own": "kept"},
)


def copies(message: Received = ASKED, **identity: Any) -> tuple[Outgoing, Outgoing]:
    """A retry, and what is handed back."""
    known = Identity("r1/ask", **identity)
    return retry_copy(message, known, AT), handed_back(message, known, AT)


def test_a_copy_is_all_that_the_message_was() -> None:
    for copy in copies():
        assert (copy.queue, copy.body, copy.subject, copy.content_type) == ("ask", b"{}", "ask.v1", "text/json")
        assert (copy.correlation_id, copy.session_id) == ("c1", "s1")
        assert (copy.reply_to, copy.reply_to_session_id) == ("answers", "rs1")
        assert copy.properties["their-own"] == "kept"
        assert copy.enqueue_at == AT


def test_a_retry_counts_as_one_more_attempt_and_what_is_handed_back_does_not() -> None:
    retried, back = copies()
    assert (retried.message_id, retried.properties[ATTEMPT]) == ("r1/ask/r1", 2)
    assert (back.message_id, back.properties[ATTEMPT]) == ("r1/ask/r0.7", 1)
    third = replace(ASKED, properties={ATTEMPT: 3})
    retried, back = copies(third)
    assert (retried.message_id, retried.properties[ATTEMPT]) == ("r1/ask/r3", 4)
    assert (back.message_id, back.properties[ATTEMPT]) == ("r1/ask/r2.7", 3)


def test_a_copy_says_when_the_first_was_enqueued_where_it_was_and_when_its_answer_is_due() -> None:
    for copy in copies(origin="m1", deadline=DUE):
        marks = {name: copy.properties[name] for name in (ORIGIN, FIRST_NUMBER, ANSWER_BY, ENQUEUED_AT)}
        began = (NOW - timedelta(seconds=9)).isoformat()
        assert marks == {ORIGIN: "m1", FIRST_NUMBER: "7", ANSWER_BY: DUE.isoformat(), ENQUEUED_AT: began}
        assert copy.time_to_live == DUE - AT
        later = replace(ASKED, enqueued_at=NOW, sequence_number=8, properties=copy.properties)
        for copy_of_it in copies(later, origin="m1", deadline=DUE):
            assert {name: copy_of_it.properties[name] for name in marks} == marks


def test_a_copy_invents_nothing() -> None:
    for copy in copies(replace(ASKED, enqueued_at=None, subject=None)):
        assert copy.properties.keys() == {"their-own", ATTEMPT}
        assert (copy.time_to_live, copy.subject) == (None, "")


def test_an_outcome_for_http_says_whose_it_is() -> None:
    request = a_request(ask_digest="d", admission=2, reply_to=ReplyTo(queue="outcomes", session="s1"))
    sent = outgoing(to_caller(request, an_answer(request), NOW), NOW)
    whose = {TENANT: "tessolund", CALLER: "welcome-app", ASK: "d", ADMISSION: 2}
    assert {name: sent.properties.get(name) for name in whose} == whose
    assert ANSWER_BY not in sent.properties
    elsewhere = outgoing(to_caller(a_request(), an_answer(a_request()), NOW), NOW)
    assert elsewhere.properties.keys().isdisjoint(whose)


def test_work_lives_to_its_deadline_and_carries_it() -> None:
    request = a_request(answer_by=NOW + timedelta(seconds=59.5))
    sent = outgoing(to_retriever(request), NOW)
    assert sent.properties[ANSWER_BY] == request.answer_by.isoformat()
    assert (sent.time_to_live, sent.enqueue_at) == (timedelta(seconds=60), None)
    assert (sent.queue, sent.subject, sent.message_id) == ("retrieve", "retrieve.v1", "r1/retrieve")
    assert (sent.correlation_id, sent.session_id) == ("c1", None)
    assert sent.body == to_retriever(request).message.encode()


def test_a_time_to_live_counts_from_when_the_message_appears() -> None:
    held = replace(at_deadline(a_request()), expires_at=AT + timedelta(seconds=60), not_before=AT)
    assert (outgoing(held, NOW).enqueue_at, outgoing(held, NOW).time_to_live) == (AT, timedelta(seconds=60))
    # What appears at once, because its time is over already, has no more than what is left.
    assert outgoing(held, AT + timedelta(seconds=10)).time_to_live == timedelta(seconds=50)


def test_a_reply_keeps_its_session() -> None:
    assert outgoing(to_caller(a_request(), an_answer(a_request()), NOW), NOW).session_id == "s1"


@pytest.mark.parametrize(
    ("changes", "deadline"),
    [
        ({}, None),
        ({"time_to_live": timedelta(seconds=30)}, NOW + timedelta(seconds=30)),
        ({"time_to_live": timedelta(seconds=30), "enqueued_at": None}, None),
        ({"properties": {ANSWER_BY: DUE.isoformat()}, "time_to_live": timedelta(seconds=9)}, DUE),
        ({"properties": {ANSWER_BY: "tomorrow"}, "time_to_live": timedelta(seconds=9)}, NOW + timedelta(seconds=9)),
    ],
    ids=["none", "its life", "no enqueued time", "said", "said badly"],
)
def test_the_deadline_of_work_is_what_it_says_or_how_long_it_lives(changes: dict[str, Any], deadline: object) -> None:
    given: dict[str, Any] = {"queue": "retrieve", "body": b"", "message_id": "r1/retrieve", "enqueued_at": NOW}
    identity = internal_identity(Received(**{**given, **changes}))
    assert (identity.base_id, identity.deadline, identity.origin) == ("r1/retrieve", deadline, None)


def test_an_id_is_kept_as_long_as_a_retry_has_room_behind_it() -> None:
    longest = "x" * (MAX_ID - 32)
    assert internal_identity(Received("dead", b"", message_id=longest)).base_id == longest
    short = internal_identity(Received("dead", b"", message_id=longest + "x")).base_id
    assert len(short) == 26
    assert internal_identity(Received("other", b"", message_id=longest + "x")).base_id != short
    places = [("dead", 1), ("dead", 2), ("other", 1)]
    without = [internal_identity(Received(queue, b"", sequence_number=number)).base_id for queue, number in places]
    assert len({*without, short}) == 4


@pytest.mark.parametrize("said", [None, 7, "", "soon", "2026-03-02T09:00:00"])
def test_what_is_no_moment_with_a_zone_is_none(said: Any) -> None:
    assert when(said) is None
    assert when(NOW.isoformat()) == NOW


@pytest.mark.parametrize(
    ("left", "lives"),
    [(59.0, 59), (59.001, 60), (1.0, 1), (0.2, 1), (0, 1), (-5, 1), (14 * 86_400, 14 * 86_400), (9e9, 14 * 86_400)],
)
def test_a_life_is_in_whole_seconds_never_too_short_and_never_none(left: float, lives: int) -> None:
    assert life(NOW, NOW + timedelta(seconds=left)) == timedelta(seconds=lives)
    assert life(NOW, None) is None
