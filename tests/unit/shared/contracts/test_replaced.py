"""Copies of messages with other values in some fields."""

import json
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from shared.contracts.expired import ExpiredRequest
from shared.contracts.request import ReplyTo, Request, Turn
from shared.errors import Unprocessable

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REQUEST = Request(
    request_id="r1",
    tenant="larkfield",
    caller="app",
    groups=("employees",),
    use_case="onboarding",
    question="?",
    conversation=(Turn(role="user", text="before"),),
    accepted_at=NOON,
    answer_by=NOON + timedelta(seconds=60),
    correlation_id="c1",
    reply_to=ReplyTo(queue="answers", session="s1"),
)


def test_a_copy_differs_in_the_replaced_fields_alone() -> None:
    later = REQUEST.due(NOON)
    assert later.answer_by == NOON
    assert later.due(REQUEST.answer_by) == REQUEST
    assert REQUEST.watched_by(7).sentinel == 7
    assert REQUEST.without_question().conversation == ()


def test_a_field_that_does_not_exist_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match="Request has no field sentinal"):
        REQUEST.replaced(sentinal=7)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="sentinel"):
        REQUEST.replaced(sentinel="soon")


def test_a_traceback_quotes_nothing_of_a_message() -> None:
    said = "what does " + "ann".title() + " earn?"  # not literally: a traceback quotes this file
    with pytest.raises(Unprocessable) as unreadable:
        ExpiredRequest.decode(json.dumps({"request": {"question": said}}).encode())
    with pytest.raises(ValidationError) as unfit:
        REQUEST.replaced(question=[said])
    for error in (unreadable.value, unfit.value):
        assert "Ann" not in "".join(traceback.format_exception(error))
