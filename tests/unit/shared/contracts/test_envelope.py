"""Where each message goes, under which id, and when it ends."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from shared.contracts.envelope import (
    KEEP_REPLY,
    SENTINEL_DELAY,
    Envelope,
    at_deadline,
    to_archive,
    to_caller,
    to_generator,
    to_one_ask,
    to_retriever,
)
from shared.contracts.expired import ExpiredRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import Code, Outcome, ending
from shared.contracts.request import ReplyTo, Request
from shared.contracts.retrieve import RetrievePassages
from tests.support.builders import NOW, a_candidate, a_request

ANEW = {"admission": 2, "token": "t2"}
REPLAY = {"run": "p1", "rerun": True}
DUE = int((NOW + timedelta(seconds=60)).timestamp())


def a_reply(request: Request) -> Envelope:
    return to_caller(request, ending(request, Outcome.ANSWERED, Code.OK), NOW)


def told_alone(request: Request) -> Envelope:
    return to_one_ask(request, ending(request, Outcome.ANSWERED, Code.OK), "t9", NOW)


def work(request: Request) -> Envelope:
    return to_generator(GenerateAnswer(request=request, candidates=(a_candidate(),)))


def archived(request: Request) -> Envelope:
    return to_archive(ExpiredRequest(request=request, died_on="generate", reason="TTLExpiredException"))


@pytest.mark.parametrize(
    ("make", "queue", "first", "anew", "replayed"),
    [
        (to_retriever, "retrieve", "r1/retrieve", "r1/retrieve/a2", "r1/retrieve/p1"),
        (work, "generate", "r1/generate", "r1/generate/a2", "r1/generate/p1"),
        (at_deadline, "outcomes", f"r1/deadline.{DUE}", f"r1/deadline.{DUE}/a2", f"r1/deadline.{DUE}/p1"),
        (archived, "dead", "r1/expired", "r1/expired/a2", "r1/expired/p1"),
        (a_reply, "answers", "r1/reply", "r1/reply/t2", "r1/reply/p1"),
        (told_alone, "answers", "r1/reply/t9", "r1/reply/t9", "r1/reply/t9"),
    ],
)
def test_each_message_has_its_queue_and_an_id_that_says_what_it_is(
    make: Callable[[Request], Envelope], queue: str, first: str, anew: str, replayed: str
) -> None:
    made = [make(a_request(**changes)) for changes in ({}, ANEW, REPLAY)]
    assert [each.message_id for each in made] == [first, anew, replayed]
    assert {(each.queue, each.correlation_id) for each in made} == {(queue, "c1")}


def test_a_replay_that_is_no_rerun_shares_the_outcome() -> None:
    assert a_reply(a_request(run="p1", token="t1")).message_id == "r1/reply"


def test_each_envelope_holds_its_message() -> None:
    request = a_request()
    answer, task = ending(request, Outcome.ANSWERED, Code.OK), GenerateAnswer(request=request, candidates=())
    expired = ExpiredRequest(request=request, died_on="generate", reason="TTLExpiredException")
    envelopes = (
        to_retriever(request),
        to_generator(task),
        to_caller(request, answer, NOW),
        to_one_ask(request, answer, "t9", NOW),
        to_archive(expired),
    )
    assert [each.message for each in envelopes] == [RetrievePassages(request=request), task, answer, answer, expired]


@pytest.mark.parametrize("make", [to_retriever, work])
def test_work_ends_at_the_deadline_of_its_request(make: Callable[[Request], Envelope]) -> None:
    request = a_request()
    sent = make(request)
    assert (sent.expires_at, sent.not_before, sent.request) == (request.answer_by, None, request)


def test_a_reply_is_kept_on_its_session_for_a_while() -> None:
    request = a_request()
    for reply in (a_reply(request), told_alone(request)):
        assert (reply.session_id, reply.expires_at, reply.request) == ("s1", NOW + KEEP_REPLY, request)
    assert a_reply(a_request(reply_to=ReplyTo(queue="outcomes", session="s1"))).session_id is None


def test_what_one_ask_is_told_is_not_decided() -> None:
    request = a_request()
    assert (a_reply(request).decide, a_reply(request).again) == (True, False)
    assert (told_alone(request).decide, told_alone(request).again) == (False, False)
    again = to_one_ask(request, ending(request, Outcome.ANSWERED, Code.OK), "t9", NOW, again=True)
    assert (again.decide, again.again) == (False, True)


def test_a_sentinel_comes_after_the_deadline_without_the_question() -> None:
    request = a_request()
    sentinel = at_deadline(request)
    assert sentinel.not_before == request.answer_by + SENTINEL_DELAY
    assert (sentinel.expires_at, sentinel.request) == (None, request)
    assert sentinel.message.request.question == ""  # type: ignore[attr-defined]  # it is DeadlinePassed


def test_work_for_the_retriever_carries_the_number_of_its_sentinel_and_nothing_else_does() -> None:
    request = a_request()
    guarded = to_retriever(request).guarded_by(7)
    assert isinstance(guarded.message, RetrievePassages)
    assert guarded.request is not None
    assert (guarded.message.request.sentinel, guarded.request.sentinel) == (7, 7)
    assert guarded.message.request.question == request.question
    for other in (work(request), a_reply(request), at_deadline(request)):
        assert other.guarded_by(7) == other
