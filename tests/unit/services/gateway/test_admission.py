"""Admission: what the door knows wins over anything a message says."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.admission import Admitted, Arrival, Refused, admit
from shared.access.callers import Caller
from shared.contracts.ask import Ask
from shared.contracts.outcome import Code, Outcome
from tests.support.builders import NOW, a_use_case

CALLER = Caller(
    name="welcome-app",
    tenant="tessolund",
    groups=("employees",),
    use_cases=("onboarding",),
    queue="ask",
    reply_queues=("answers", "answers-2"),
)
USE_CASES = {"onboarding": a_use_case(), "payroll": a_use_case(name="payroll")}


def arrive(**changes: Any) -> Arrival:
    return Arrival(**{"caller": CALLER, "message_id": "m1", "at": NOW, **changes})


def verdict(ask: dict[str, Any] | None = None, **changes: Any) -> Admitted | Refused:
    return admit(Ask.model_validate({"question": "How?", **(ask or {})}), arrive(**changes), USE_CASES, NOW)


def test_a_caller_of_one_use_case_need_not_name_it() -> None:
    taken = verdict()
    assert isinstance(taken, Admitted)
    assert taken.request.use_case == "onboarding"


FORGED = {
    "tenant": "other-company",
    "groups": ["managers", "board"],
    "caller": "hr-portal",
    "reply_to": "answers-hr",
    "request_id": "r-of-another-caller",
    "correlation_id": "x",
    "use_case": "onboarding",
    "answer_by": "2099-01-01T00:00:00Z",
    "reserved_tokens": 0,
    "cache_key": "k",
    "rerun": True,
    "request": {"tenant": "other-company", "groups": ["board"]},
}


@given(claims=st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in FORGED.items()}))
def test_nothing_that_a_body_claims_is_honoured(claims: dict[str, Any]) -> None:
    taken = admit(Ask.decode(json.dumps({"question": "How?", **claims}).encode()), arrive(), USE_CASES, NOW)
    assert isinstance(taken, Admitted)
    request = taken.request
    assert (request.tenant, request.groups, request.caller) == ("tessolund", ("employees",), "welcome-app")
    assert request.reply_to.queue == "answers"
    assert request.answer_by == NOW + timedelta(seconds=60)
    assert (request.rerun, request.cache_key, request.correlation_id) == (False, None, "m1")
    assert request.request_id not in FORGED.values()


@given(queue=st.text(max_size=40) | st.sampled_from(["outcomes", "retrieve", "answers-hr", "dead", "ANSWERS-HR/"]))
def test_a_reply_never_goes_to_a_queue_that_is_not_the_callers(queue: str) -> None:
    taken = verdict(reply_to=queue)
    assert taken.request.reply_to.queue in CALLER.reply_queues
    allowed = not queue or queue.rstrip("/").rsplit("/", 1)[-1].lower() in CALLER.reply_queues
    if not allowed:
        assert isinstance(taken, Refused)
        assert taken.answer.code is Code.REPLY_TO_NOT_ALLOWED


def test_the_caller_chooses_among_its_own_reply_queues() -> None:
    taken = verdict(reply_to="sb://somewhere.servicebus.windows.net/Answers-2", reply_session="s9")
    assert isinstance(taken, Admitted)
    assert (taken.request.reply_to.queue, taken.request.reply_to.session) == ("answers-2", "s9")


def test_without_a_session_the_request_id_is_one() -> None:
    request = verdict().request
    assert request.reply_to.session == request.request_id


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"use_case": "nowhere"}, Code.UNKNOWN_USE_CASE),
        ({"use_case": "payroll"}, Code.NOT_ALLOWED),
        ({"question": "word " * 700}, Code.QUESTION_TOO_LONG),
    ],
)
def test_what_is_not_allowed_is_refused_with_a_code_and_a_sentence(ask: dict[str, Any], code: Code) -> None:
    taken = verdict(ask)
    assert isinstance(taken, Refused)
    assert (taken.answer.outcome, taken.answer.code) == (Outcome.REFUSED, code)
    assert taken.answer.message


@pytest.mark.parametrize(
    ("life", "seconds"),
    [(None, 60), (timedelta(seconds=10), 10), (timedelta(seconds=1000), 300), (timedelta(days=14), 60)],
)
def test_the_time_to_live_is_the_deadline_inside_what_the_use_case_allows(life: timedelta | None, seconds: int) -> None:
    assert verdict(time_to_live=life).request.answer_by == NOW + timedelta(seconds=seconds)


def test_a_question_that_comes_too_late_has_expired() -> None:
    taken = verdict(at=NOW - timedelta(seconds=61))
    assert isinstance(taken, Refused)
    assert taken.answer.outcome is Outcome.EXPIRED


def test_a_forged_deadline_cannot_be_longer_than_the_use_case_allows() -> None:
    assert verdict(answer_by=NOW + timedelta(days=9)).request.answer_by == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("at", [NOW + timedelta(days=9), NOW])
def test_a_forged_beginning_cannot_move_the_deadline_beyond_the_longest(at: datetime) -> None:
    request = verdict(at=at, time_to_live=timedelta(seconds=290)).request
    assert request.answer_by <= NOW + timedelta(seconds=300)


def test_two_callers_with_the_same_message_id_have_two_requests() -> None:
    other = CALLER.model_copy(update={"name": "hr-portal"})
    assert verdict().request.request_id != verdict(caller=other).request.request_id


def test_one_message_id_is_another_request_of_each_tenant_and_over_http() -> None:
    elsewhere = CALLER.model_copy(update={"tenant": "other-company"})
    found = [verdict(), verdict(caller=elsewhere), verdict(over_http=True)]
    assert len({each.request.request_id for each in found}) == 3


def test_an_earlier_attempts_deadline_holds_and_so_does_what_identifies_its_run() -> None:
    due = NOW + timedelta(seconds=7)
    taken = verdict(answer_by=due, run="p1", rerun=True, token="t1", identity="r1", correlation_id="c1")
    assert isinstance(taken, Admitted)
    request = taken.request
    assert (request.answer_by, request.run, request.rerun, request.token) == (due, "p1", True, "t1")
    assert (request.request_id, request.correlation_id) == ("r1", "c1")


def test_a_refusal_is_final_and_an_expired_ask_may_be_sent_again() -> None:
    refused, expired = verdict({"use_case": "unheard-of"}), verdict(at=NOW - timedelta(minutes=10))
    assert isinstance(refused, Refused)
    assert isinstance(expired, Refused)
    assert (refused.answer.retryable, refused.answer.finished_at) == (False, NOW)
    assert (expired.answer.retryable, expired.answer.finished_at) == (True, NOW)
    assert "deadline had passed" in expired.answer.message
    assert expired.request.request_id == expired.answer.request_id


def test_a_caller_of_several_use_cases_is_told_their_names() -> None:
    several = CALLER.model_copy(update={"use_cases": ("onboarding", "payroll")})
    refused = verdict(caller=several)
    assert isinstance(refused, Refused)
    assert refused.answer.message == "name a use_case: one of onboarding, payroll"
    assert refused.request.use_case == ""


@pytest.mark.parametrize(
    "written", ["answers-2", "ANSWERS-2", "sb://ns.servicebus.windows.net/answers-2/", "/answers-2"]
)
def test_a_reply_queue_may_be_written_as_an_address(written: str) -> None:
    taken = verdict(reply_to=written)
    assert isinstance(taken, Admitted)
    assert taken.request.reply_to.queue == "answers-2"
